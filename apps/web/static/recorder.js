// In the audio thread: sound of one channel in blocks of `size` samples.

class Recorder extends AudioWorkletProcessor {
  constructor({ processorOptions: { size } }) {
    super();
    this.block = new Float32Array(size);
    this.filled = 0;
  }

  process([channels]) {
    const length = channels[0]?.length ?? 0; // none while the microphone is not ready
    for (let index = 0; index < length; index += 1) {
      let sum = 0;
      for (const channel of channels) sum += channel[index];
      this.block[this.filled] = sum / channels.length;
      this.filled += 1;
      if (this.filled === this.block.length) this.#post();
    }
    return true;
  }

  #post() {
    this.port.postMessage(this.block.slice());
    this.filled = 0;
  }
}

registerProcessor("recorder", Recorder);
