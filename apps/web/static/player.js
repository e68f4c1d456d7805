// In the audio thread: plays what comes, out of a queue that evens out when it comes. The queue is
// bounded: what does not fit pushes the oldest out. One that runs dry fills again before it plays;
// one that has not run low for a while holds more than it needs, and lets the oldest go.

const LONGEST = 0.48, FIRST = 0.12, STEP = 0.04; // seconds: the queue's bound, what it fills to
const WATCHED = 2, SPARE = 0.04, MUCH = 0.12; // seconds: how long, and what may be left at least
const TOLD = 0.05; // seconds between two reports

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.queue = new Float32Array(Math.round(LONGEST * sampleRate));
    this.forget();
    this.port.onmessage = ({ data }) => (data === null ? this.forget() : this.take(data));
  }

  forget() {
    this.start = this.held = 0;
    this.dropped = this.gaps = 0;
    this.filling = true;
    this.target = FIRST;
    this.sum = this.count = 0;
    this.watch();
  }

  watch() {
    this.lowest = Infinity;
    this.watched = 0;
  }

  drop(count) {
    this.start = (this.start + count) % this.queue.length;
    this.held -= count;
    this.dropped += count;
  }

  take(samples) {
    const size = this.queue.length;
    for (const sample of samples) {
      if (this.held === size) this.drop(1);
      this.queue[(this.start + this.held) % size] = sample;
      this.held += 1;
    }
    if (this.held >= this.target * sampleRate) this.filling = false;
  }

  process(_, [[out]]) {
    if (!this.filling && this.held < out.length) {
      this.filling = true;
      this.gaps += 1;
      this.watch();
      this.target = Math.min(this.target + STEP, LONGEST / 2); // it comes less evenly than that
    }
    if (!this.filling) {
      for (let index = 0; index < out.length; index += 1) {
        out[index] = this.queue[(this.start + index) % this.queue.length];
        this.sum += out[index] * out[index];
      }
      this.start = (this.start + out.length) % this.queue.length;
      this.held -= out.length;
      this.trim(out.length);
    }
    this.count += out.length;
    if (this.count >= TOLD * sampleRate) this.tell();
    return true;
  }

  trim(played) {
    this.lowest = Math.min(this.lowest, this.held);
    this.watched += played;
    if (this.watched < WATCHED * sampleRate) return;
    if (this.lowest > MUCH * sampleRate) this.drop(this.lowest - Math.round(SPARE * sampleRate));
    this.watch();
  }

  tell() {
    this.port.postMessage({
      rms: Math.sqrt(this.sum / this.count),
      waiting: this.held / sampleRate,
      dropped: this.dropped / sampleRate,
      gaps: this.gaps,
    });
    this.sum = this.count = 0;
  }
}

registerProcessor("player", Player);
