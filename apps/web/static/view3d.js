// A 3D view of sweeps: points, boxes with their names, the ground. It is drawn when something
// has changed, and not in between.

import { Camera, project } from "./camera3d.js";
import { pointers } from "./gestures3d.js";
import { Scene } from "./scene3d.js";
import { boxLines, groundLines } from "./shapes3d.js";

const HEADER = 8; // bytes before the points of a sweep: metres of a unit, how many there were
const MOST_NAMES = 80; // of the boxes that score most
const ROUND = 60; // seconds that a slow turn all around takes
const SAMPLED = 4000; // points that stand for the rest of a sweep
const FEW = 20; // of them say little
const LEAST = 0.3; // of the range that the view begins with, however little of it holds points
const EASE = 0.15; // how fast colours follow the heights of a new sweep

// What apps/sweeps.py packs.
export function unpack(content) {
  const header = new DataView(content);
  const count = (content.byteLength - HEADER) / 7;
  return {
    unit: header.getFloat32(0, true),
    total: header.getUint32(4, true),
    places: new Int16Array(content, HEADER, 3 * count),
    shades: new Uint8Array(content, HEADER + 6 * count, count),
  };
}

export class View {
  camera = new Camera();
  turning = false;
  shaded = false;
  #reach = null;
  #ground = null; // metres; null until a sweep has been seen
  #sweep = null;
  #boxes = [];
  #looks = { unit: 0.01, size: 0, heights: [-2, 3], shaded: false };
  #asked = false;
  #last = 0;

  // overlay: a canvas above, for names. lost: told whether the browser took the view away, which
  // it does when a graphics driver fails. Throws where there is no WebGL 2.
  constructor(canvas, overlay, lost) {
    this.canvas = canvas;
    this.overlay = overlay;
    this.scene = new Scene(canvas);
    pointers(canvas, this.camera, () => this.ask());
    new ResizeObserver(() => this.ask()).observe(canvas);
    canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault(); // or it is not given back
      lost(true);
    });
    canvas.addEventListener("webglcontextrestored", () => {
      this.#restore();
      lost(false);
    });
  }

  // The range of the task: least x, y, z, then greatest.
  setReach(reach) {
    if (String(reach) === String(this.#reach)) return;
    this.#reach = reach;
    this.#ground = null;
    this.#sweep = null;
    this.camera.target[2] = reach[2];
    this.home();
  }

  // All that is there and in range; some sweeps look ahead alone.
  home(above = false) {
    this.camera.reset(extentOf(this.#sweep, this.#reach), above);
    this.ask();
  }

  setSweep(sweep) {
    const first = this.#sweep === null;
    this.#sweep = sweep;
    if (first) this.home();
    this.scene.setPoints(sweep.places, sweep.shades);
    this.#looks.unit = sweep.unit;
    this.#follow(heightsOf(sweep));
    this.ask();
  }

  // boxes: { box, velocity, colour: [red, green, blue], words }, best first.
  setBoxes(boxes) {
    this.#boxes = boxes;
    this.scene.setLines("boxes", boxes.flatMap((one) => boxLines(one, one.colour)));
    this.ask();
  }

  ask() {
    if (this.#asked) return;
    this.#asked = true;
    requestAnimationFrame((now) => this.#draw(now));
  }

  // Colours and ground go with the sweeps, slowly: a bus that passes does not tint the street.
  #follow(heights) {
    if (!heights) return;
    const first = this.#ground === null;
    const share = first ? 1 : EASE;
    this.#looks.heights = this.#looks.heights.map((old, i) => old + share * (heights[i] - old));
    const ground = this.#looks.heights[0];
    if (!first && Math.abs(ground - this.#ground) < 0.05) return;
    this.#ground = ground;
    this.camera.target[2] = ground;
    this.scene.setLines("grid", groundLines(this.#reach, ground));
  }

  #restore() {
    this.scene.restore();
    this.#ground = null;
    if (this.#sweep) this.setSweep(this.#sweep);
    this.setBoxes(this.#boxes);
  }

  #draw(now) {
    this.#asked = false;
    const elapsed = Math.min((now - this.#last) / 1000, 0.1);
    this.#last = now;
    if (this.turning) this.camera.turn((-2 * Math.PI * elapsed) / ROUND, 0);
    const ratio = Math.min(devicePixelRatio, 2);
    const [width, height] = [this.canvas.clientWidth, this.canvas.clientHeight];
    for (const canvas of [this.canvas, this.overlay]) {
      const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
      if (canvas.width !== wide) canvas.width = wide;
      if (canvas.height !== high) canvas.height = high;
    }
    if (width && height) {
      const matrix = this.camera.matrix(width / height);
      // A point is as large as a 25th of a metre is where the range is a street's.
      const size = 0.0006 * Math.max(...(this.#reach ?? [70])) * height;
      this.scene.draw(matrix, { ...this.#looks, size, shaded: this.shaded }, ratio);
      this.#names(matrix, width, height, ratio);
    }
    if (this.turning) this.ask();
  }

  #names(matrix, width, height, ratio) {
    const pen = this.overlay.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.font = "12px system-ui, sans-serif";
    pen.textBaseline = "middle";
    const taken = [];
    for (const { box, words, colour } of this.#boxes.slice(0, MOST_NAMES)) {
      const [x, y, z, , , tall] = box;
      const at = project(matrix, [x, y, z + tall / 2]);
      if (!at) continue;
      const wide = pen.measureText(words).width + 8;
      const left = ((at[0] + 1) / 2) * width - wide / 2;
      const top = ((1 - at[1]) / 2) * height - 24;
      // A name that would cover a better box's stays away.
      if (taken.some(([l, t, w]) => left < l + w && l < left + wide && Math.abs(top - t) < 17)) continue;
      taken.push([left, top, wide]);
      pen.fillStyle = "rgb(11 15 20 / 75%)";
      pen.fillRect(left, top, wide, 16);
      pen.fillStyle = `rgb(${colour.map((part) => Math.round(255 * part)).join(" ")})`;
      pen.fillText(words, left + 4, top + 8.5);
    }
  }
}

// Where most points of a sweep lie that are in range: least x and y, then greatest, in metres.
function extentOf(sweep, reach) {
  const [x0, y0, , x1, y1] = reach;
  const seen = sweep ? sampled(sweep).filter(([x, y]) => x > x0 && x < x1 && y > y0 && y < y1) : [];
  if (seen.length < FEW) return [x0, y0, x1, y1];
  const sides = [x1 - x0, y1 - y0];
  const [xs, ys] = sides.map((side, axis) => {
    const [low, high] = between(seen.map((place) => place[axis]), 0.02, 0.98);
    const wider = Math.max(LEAST * side - (high - low), 0) / 2;
    return [low - wider, high + wider];
  });
  return [xs[0], ys[0], xs[1], ys[1]];
}

// Heights between which most points lie, in metres: the ground's, and of what stands on it.
function heightsOf(sweep) {
  const heights = sampled(sweep).map((place) => place[2]);
  if (!heights.length) return null;
  const [low, high] = between(heights, 0.05, 0.97);
  return [low, Math.max(high, low + 0.5)];
}

// Some of the points, evenly, in metres.
function sampled({ unit, places, shades }) {
  const found = [];
  const step = Math.max(1, Math.floor(shades.length / SAMPLED));
  for (let i = 0; i < shades.length; i += step)
    found.push([0, 1, 2].map((axis) => places[3 * i + axis] * unit));
  return found;
}

function between(values, low, high) {
  const sorted = [...values].sort((a, b) => a - b);
  return [low, high].map((share) => sorted[Math.round(share * (sorted.length - 1))]);
}
