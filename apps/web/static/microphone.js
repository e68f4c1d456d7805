// The microphone in blocks of float32 samples, one channel.

export class Microphone {
  // take(block): called with each block. rate: samples a second that are wanted; a browser that
  // does not convert gives its own, see `rate`. seconds: of a block. processing: whether the
  // browser may cancel echo, filter noise and change the level.
  static async open(take, { rate, seconds, processing = false }) {
    if (!navigator.mediaDevices) {
      throw new Error("browsers give a microphone to https and to localhost alone");
    }
    const audio = {
      channelCount: 1,
      echoCancellation: processing,
      noiseSuppression: processing,
      autoGainControl: processing,
    };
    const stream = await navigator.mediaDevices.getUserMedia({ audio });
    try {
      const { context, source } = connected(stream, rate);
      return await new Microphone(stream, context).#record(source, take, seconds);
    } catch (error) {
      for (const track of stream.getTracks()) track.stop();
      throw error;
    }
  }

  constructor(stream, context) {
    this.stream = stream;
    this.context = context;
  }

  get rate() {
    return this.context.sampleRate;
  }

  async #record(source, take, seconds) {
    await this.context.audioWorklet.addModule(new URL("recorder.js", import.meta.url));
    const recorder = new AudioWorkletNode(this.context, "recorder", {
      processorOptions: { size: Math.round(seconds * this.rate) },
    });
    recorder.port.onmessage = ({ data }) => take(data);
    // Silence goes on to the loudspeaker: what is connected to nothing is not run everywhere.
    source.connect(recorder).connect(this.context.destination);
    await this.context.resume();
    return this;
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    return this.context.close();
  }
}

function connected(stream, rate) {
  const wanted = new AudioContext({ sampleRate: rate });
  try {
    return { context: wanted, source: wanted.createMediaStreamSource(stream) };
  } catch {
    wanted.close();
    const own = new AudioContext();
    return { context: own, source: own.createMediaStreamSource(stream) };
  }
}

export const loudness = (rms) => 20 * Math.log10(Math.max(rms, 1e-5)); // dB of full scale

export function rms(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / Math.max(samples.length, 1));
}
