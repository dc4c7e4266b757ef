// A fallback adapter computes on the CPU: its numbers are WebGPU's, its times are nobody's.
export async function adapter(software) {
  const found = navigator.gpu && await navigator.gpu.requestAdapter();
  if (!found || (found.info.isFallbackAdapter && !software)) throw new Error("no WebGPU adapter");
}
