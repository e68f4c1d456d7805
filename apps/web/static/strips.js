// Charts that move from right to left, all to the same scale of time.

export const SPAN = 12; // seconds that are seen

const COLD = [76, 194, 255], GROUND = [17, 21, 26], WARM = [255, 180, 84];
const style = getComputedStyle(document.documentElement);
const INK = { line: style.getPropertyValue("--line"), soft: style.getPropertyValue("--soft") };

// A colour for each byte: 128 is a component's mean.
const PALETTE = Array.from({ length: 256 }, (_, byte) => {
  const share = Math.min(Math.max((byte - 128) / 127, -1), 1);
  const end = share < 0 ? COLD : WARM;
  return GROUND.map((from, index) => Math.round(from + Math.abs(share) * (end[index] - from)));
});

// One strip: what was told of `[time - since, time]`, for as long as it is seen.
class Strip {
  #canvas;
  told = [];

  constructor(canvas) {
    this.#canvas = canvas;
  }

  take(one) {
    this.told.push(one);
    while (this.told[0].time < one.time - SPAN - 1) this.told.shift();
  }

  clear() {
    this.told = [];
  }

  // Where a time is drawn, if `now` is at the right edge.
  x(time, now) {
    return Math.round((1 - (now - time) / SPAN) * this.#canvas.width);
  }

  // The canvas, empty, with as many pixels as it takes on the screen.
  blank() {
    const canvas = this.#canvas, density = window.devicePixelRatio;
    const width = Math.round(canvas.clientWidth * density);
    const height = Math.round(canvas.clientHeight * density);
    if (canvas.width !== width) canvas.width = width;
    if (canvas.height !== height) canvas.height = height;
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    return { context, width, height };
  }
}

const QUIETEST = -60; // dB

export class LevelStrip extends Strip {
  draw(now) {
    const { context, height } = this.blank();
    const high = (decibels) => height * Math.min(Math.max(1 - decibels / QUIETEST, 0), 1);
    context.fillStyle = INK.line;
    for (const mark of [-20, -40]) context.fillRect(0, height - high(mark), this.x(now, now), 1);
    for (const { time, since, rms, peak } of this.told) {
      const left = this.x(time - since, now);
      const width = this.x(time, now) - left;
      context.fillStyle = "#2c6f94";
      context.fillRect(left, height - high(peak), width, high(peak));
      context.fillStyle = "#4cc2ff";
      context.fillRect(left, height - high(rms), width, high(rms));
    }
  }
}

export class MapStrip extends Strip {
  draw(now) {
    const { context, height } = this.blank();
    context.imageSmoothingEnabled = false;
    for (const { time, since, picture } of this.told) {
      const left = this.x(time - since, now);
      context.drawImage(picture, left, 0, this.x(time, now) - left, height);
    }
  }
}

export class ChanceStrip extends Strip {
  // colours: one for each emotion.
  draw(now, colours) {
    const { context, height } = this.blank();
    for (const { time, since, chances } of this.told) {
      const left = this.x(time - since, now), width = this.x(time, now) - left;
      let below = 0;
      chances.forEach((chance, index) => {
        const bottom = Math.round(below * height);
        below += chance;
        context.fillStyle = colours[index];
        context.fillRect(left, height - Math.round(below * height), width, Math.round(below * height) - bottom);
      });
    }
  }
}

export class AxisStrip extends Strip {
  draw(now) {
    const { context, height } = this.blank();
    context.fillStyle = INK.soft;
    context.font = `${Math.round(height * 0.7)}px system-ui, sans-serif`;
    context.textBaseline = "bottom";
    for (let second = Math.max(Math.ceil((now - SPAN) / 2) * 2, 0); second <= now; second += 2) {
      const left = this.x(second, now);
      context.fillRect(left, 0, 1, height * 0.3);
      context.fillText(`${second} s`, left + 3, height);
    }
  }
}

// Of (components, bands, columns) bytes in base64 a picture for each component.
export function pictures(quartet, bands, columns) {
  const bytes = Uint8Array.from(atob(quartet), (character) => character.charCodeAt(0));
  const size = bands * columns;
  return Array.from({ length: bytes.length / size }, (_, part) => {
    const picture = new OffscreenCanvas(columns, bands);
    const pixels = new ImageData(columns, bands);
    for (let row = 0; row < bands; row += 1) {
      for (let column = 0; column < columns; column += 1) {
        const shade = PALETTE[bytes[part * size + row * columns + column]];
        const place = 4 * ((bands - 1 - row) * columns + column); // low bands at the bottom
        pixels.data.set([...shade, 255], place);
      }
    }
    picture.getContext("2d").putImageData(pixels, 0, 0);
    return picture;
  });
}
