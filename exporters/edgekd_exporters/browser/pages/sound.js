// How a page reads a sound for transformers.js, so that the model gets what it was trained on.
const FRAME = 400, HOP = 160;  // samples, as transformers.js counts them

// Decode a file to mono at the model's rate, and cut it to what the model reads.
export async function read(address, {features, sampling_rate, samples}) {
  const bytes = await (await fetch(address)).arrayBuffer();
  const decoded = await new OfflineAudioContext(1, 1, sampling_rate).decodeAudioData(bytes);
  const shortest = features === "fbank" ? FRAME : samples;  // waveform models have one length
  const mono = new Float32Array(Math.max(Math.min(decoded.length, samples), shortest));
  const used = Math.min(decoded.length, mono.length);
  for (let c = 0; c < decoded.numberOfChannels; c += 1) {
    const channel = decoded.getChannelData(c);
    for (let i = 0; i < used; i += 1) mono[i] += channel[i] / decoded.numberOfChannels;
  }
  return mono;
}

// transformers fills up the frames behind a sound with 0 before normalisation; transformers.js
// fills up the spectrum, whose logarithm is far from 0. This makes it do the former.
export function pad(pipe, {features, padding}) {
  if (features !== "fbank") return;
  const extractor = pipe.processor.feature_extractor;
  const own = extractor._call.bind(extractor);
  extractor._call = async (sound) => {
    const made = await own(sound);
    const mels = made.input_values.dims.at(-1);
    const frames = 1 + Math.floor((sound.length - FRAME) / HOP);
    made.input_values.data.fill(padding, frames * mels);
    return made;
  };
}
