// The page that a session drives: one model in onnxruntime-web, asked through window.edgekd.
import {adapter} from "./adapter.js";

// A WebAssembly heap only grows, so its size is its peak. The runtime keeps its memory to itself.
const memories = [];
WebAssembly.Memory = class extends WebAssembly.Memory {
  constructor(limits) {
    super(limits);
    memories.push(this);
  }
};

const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int8: Int8Array,
  uint8: Uint8Array, bool: Uint8Array, int16: Int16Array, uint16: Uint16Array,
  int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array, uint64: BigUint64Array,
};
// y = Identity(x): loading it loads the engine, so that the model's own creation is timed alone.
const IDENTITY = "CAg6OQoQCgF4EgF5IghJZGVudGl0eRIBZ1oQCgF4EgsKCQgBEgUKAxIBbmIQCgF5EgsKCQgBEgUKAxIBbkIECgAQDQ==";

let ort, session;

async function open({runtime, script, model, threads, spinning, device, software}) {
  const clock = {};
  let start = performance.now();
  const lap = (name) => {
    const now = performance.now();
    clock[name] = now - start;
    start = now;
  };
  if (device === "webgpu") await adapter(software);
  ort = await import(runtime + script);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL(runtime, location.href).href;
  ort.env.wasm.numThreads = threads;
  const options = {
    executionProviders: [device],
    graphOptimizationLevel: "all",
    executionMode: "sequential",
    extra: {session: {intra_op: {allow_spinning: spinning ? "1" : "0"}}},
  };
  await (await ort.InferenceSession.create(bytes(IDENTITY), options)).release();
  lap("engine_ms");
  const graph = await download(model);
  lap("download_ms");
  session = await ort.InferenceSession.create(graph, options);
  lap("create_ms");
  return {clock, isolated: crossOriginIsolated, agent: navigator.userAgent};
}

async function download(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(`${path}: HTTP ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

// Each batch is {name: {type, dims, data}}, data in base64; so is each answer.
async function run(batches) {
  const answers = [];
  for (const batch of batches) {
    const feeds = {};
    for (const [name, {type, dims, data}] of Object.entries(batch)) {
      feeds[name] = new ort.Tensor(type, new ARRAYS[type](bytes(data).buffer), dims);
    }
    const start = performance.now();
    const results = await session.run(feeds);
    const ms = performance.now() - start;
    const outputs = {};
    for (const [name, {type, dims, data}] of Object.entries(results)) {
      outputs[name] = {type, dims: [...dims], data: text(data)};
    }
    answers.push({ms, outputs});
  }
  return answers;
}

function heap() {
  return memories.reduce((sum, one) => sum + one.buffer.byteLength, 0);
}

function bytes(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

function text(array) {
  const view = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
  if (view.toBase64) return view.toBase64();
  let binary = "";
  for (const byte of view) binary += String.fromCharCode(byte);
  return btoa(binary);
}

window.edgekd = {open, run, heap};
