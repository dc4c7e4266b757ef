// The page of the second check: the bundle's folder in transformers.js, as a web team loads it.
import {env, pipeline, RawImage} from "@huggingface/transformers";
import {adapter} from "./adapter.js";
import * as sound from "./sound.js";

let pipe, listening;

async function open({task, dtype, device, software, threads, engine, ...about}) {
  if (device === "webgpu") await adapter(software);
  env.allowRemoteModels = false;
  env.allowLocalModels = true;
  env.localModelPath = "/";
  env.useBrowserCache = env.useWasmCache = false;
  env.backends.onnx.wasm.wasmPaths = new URL(engine, location.href).href;
  env.backends.onnx.wasm.numThreads = threads;
  pipe = await pipeline(task, "bundle", {dtype, device});
  listening = task === "audio-classification" && about;
  if (listening) sound.pad(pipe, about);
}

// One by one, as a page asks; each answer is {label: score} over every class.
async function classify(inputs, grey) {
  const answers = [];
  for (const input of inputs) {
    const asked = listening ? await sound.read(input, listening)
      : grey ? (await RawImage.read(input)).grayscale() : input;
    const found = await pipe(asked, {top_k: null});
    const flat = Array.isArray(found[0]) ? found[0] : found;
    answers.push(Object.fromEntries(flat.map(({label, score}) => [label, score])));
  }
  return answers;
}

window.edgekd = {open, classify};
