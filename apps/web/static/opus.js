// Sound to Ogg/Opus and back, by the browser's own codec (WebCodecs).

import { CLOCK, OggReader, OggWriter } from "./ogg.js";

export const FRAME = 0.02; // seconds in a packet
const RATES = [8000, 12000, 16000, 24000, 48000]; // that Opus has

// Throws where the browser cannot, in words for people.
export async function requireOpus(rate) {
  if (!("AudioEncoder" in globalThis)) {
    throw new Error("this browser has no WebCodecs: a current Chrome, Edge or Firefox has");
  }
  if (!RATES.includes(rate)) throw new Error(`Opus has no sound of ${rate} samples a second`);
  const { supported } = await AudioEncoder.isConfigSupported(settings(rate));
  const heard = await AudioDecoder.isConfigSupported({ codec: "opus", sampleRate: CLOCK, numberOfChannels: 1 });
  if (!supported || !heard.supported) throw new Error("this browser's WebCodecs have no Opus");
}

const settings = (rate) => ({
  codec: "opus",
  sampleRate: rate,
  numberOfChannels: 1,
  bitrate: 32000,
  opus: { frameDuration: 1e6 * FRAME },
});

export class OpusSender {
  #writer = new OggWriter();
  #begun = false;
  #time = 0;

  // send(bytes): called with pieces of the stream.
  constructor(rate, send, fail) {
    this.rate = rate;
    this.encoder = new AudioEncoder({
      output: (chunk, told) => {
        if (!this.#begun) send(this.#writer.begin(rate, told?.decoderConfig?.description));
        this.#begun = true;
        const packet = new Uint8Array(chunk.byteLength);
        chunk.copyTo(packet);
        send(this.#writer.add(packet, chunk.duration ?? 1e6 * FRAME));
      },
      error: fail,
    });
    this.encoder.configure(settings(rate));
  }

  // samples: float32, a packet's worth.
  add(samples) {
    const sound = new AudioData({
      format: "f32-planar",
      sampleRate: this.rate,
      numberOfFrames: samples.length,
      numberOfChannels: 1,
      timestamp: this.#time,
      data: samples,
    });
    this.#time += Math.round((1e6 * samples.length) / this.rate);
    this.encoder.encode(sound);
    sound.close();
  }

  close() {
    if (this.encoder.state !== "closed") this.encoder.close();
  }
}

export class OpusReceiver {
  #reader = new OggReader();
  #time = 0;

  // take(samples): called with float32 at 48 kHz.
  constructor(take, fail) {
    this.decoder = new AudioDecoder({
      output: (sound) => {
        const samples = new Float32Array(sound.numberOfFrames);
        sound.copyTo(samples, { planeIndex: 0, format: "f32-planar" });
        take(at48(samples, sound.sampleRate));
        sound.close();
      },
      error: fail,
    });
    this.decoder.configure({ codec: "opus", sampleRate: CLOCK, numberOfChannels: 1 });
  }

  add(bytes) {
    for (const data of this.#reader.feed(bytes)) {
      this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: this.#time, data }));
      this.#time += 1e6 * FRAME;
    }
  }

  close() {
    if (this.decoder.state !== "closed") this.decoder.close();
  }
}

// Decoders give 48 kHz; of one that does not, samples in between are guessed along a line.
function at48(samples, rate) {
  if (rate === CLOCK) return samples;
  return Float32Array.from({ length: Math.round((samples.length * CLOCK) / rate) }, (_, index) => {
    const place = Math.min((index * rate) / CLOCK, samples.length - 1);
    const before = samples[Math.floor(place)], after = samples[Math.ceil(place)];
    return before + (place % 1) * (after - before);
  });
}
