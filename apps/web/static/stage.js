// A camera's picture on its way to the model and back. One frame is under way at a time, the
// newest there is; what the camera gives meanwhile is left out and counted.

import { PICTURE, PIXELS } from "./link.js";
import { at, median } from "./panel.js";

const SIDE = 640; // pixels of the longer side of a JPEG
const PATIENCE = 5000; // ms without an answer, after which the frame counts as lost
const LAYOUTS = ["NV12", "I420", "RGBA", "BGRA"];
const LARGEST = 3 << 20; // bytes of a frame without compression
const TRIALS = 12; // frames that go each way before one is chosen
const WARM = 4; // of these, the first tell how the browser warms up

// How frames go to the server: as the camera gives them, or as JPEGs. Which takes less depends on
// the network and on how the browser draws (a JPEG takes it 5 ms or 90), so both are tried.
class Ways {
  #costs = new Map();
  #chosen = null;

  constructor(names) {
    for (const name of names) this.#costs.set(name, []);
  }

  get next() {
    if (this.#chosen) return this.#chosen;
    return [...this.#costs].reduce((one, other) => (other[1].length < one[1].length ? other : one))[0];
  }

  // ms that a frame took beside the model; true when this decided which way to go.
  took(name, cost) {
    if (this.#chosen) return false;
    this.#costs.get(name).push(cost);
    if ([...this.#costs.values()].some(({ length }) => length < TRIALS)) return false;
    const middle = (costs) => median(costs.slice(WARM));
    this.#chosen = [...this.#costs].reduce((one, other) =>
      middle(other[1]) < middle(one[1]) ? other : one,
    )[0];
    return true;
  }
}

export class Stage {
  #video = null;
  #sent = null; // { number, captured, picture } of the frame under way
  #number = 0;
  #skipped = 0;
  #ways = new Ways("VideoFrame" in window ? ["pixels", "jpeg"] : ["jpeg"]);
  #watched = new Map(); // pictures of somebody else's camera, by number

  // draw(context, result): over the picture, which is on the canvas already.
  constructor(link, panel, draw) {
    this.link = link;
    this.panel = panel;
    this.draw = draw;
    this.shown = at("picture");
    link.on("state", (state) => this.#state(state));
    link.on("stage", ({ yours }) => this.#stage(yours));
    link.on("frame", (frame) => this.#watch(frame));
    link.on("result", (result) => this.#result(result));
    link.on("error", ({ number }) => number === this.#sent?.number && this.#forget());
    link.on("close", () => this.#end());
    at("show").onclick = () => this.#present();
    at("larger").onclick = ({ target }) =>
      target.setAttribute("aria-pressed", this.shown.classList.toggle("larger"));
  }

  #state({ source, taken }) {
    at("show").hidden = Boolean(source) || taken;
    const theirs = taken ? "another viewer's camera" : "no camera yet";
    at("from").textContent = source ?? (this.presenting ? "this camera" : theirs);
    // Who comes first shows their camera; whoever looked on before is not filmed unasked.
    const first = !this.asked;
    this.asked = true;
    if (first && !source && !taken) this.#present();
  }

  async #present() {
    try {
      this.#video ??= await openCamera();
    } catch (error) {
      const insecure = "browsers give a camera to https and to localhost alone";
      this.panel.fault(navigator.mediaDevices ? `no camera: ${error.message}` : insecure);
      at("show").hidden = false;
      return;
    }
    this.link.say({ type: "present" });
  }

  #stage(yours) {
    const began = yours && !this.presenting;
    this.presenting = yours;
    if (yours) at("from").textContent = "this camera";
    if (began) this.#next();
  }

  // The connection is gone, and the place with it; a camera that was shown asks for it again.
  #end() {
    this.#forget();
    if (this.presenting) this.asked = false;
    this.presenting = false;
  }

  #forget() {
    this.#sent?.picture?.close?.();
    this.#sent = null;
  }

  #next() {
    if (this.presenting) this.#video.requestVideoFrameCallback(() => this.#take());
  }

  async #take() {
    if (!this.presenting) return; // the connection went while the camera was waited for
    this.#next();
    const now = performance.now();
    if (this.#sent && now - this.#sent.captured < PATIENCE) {
      this.#skipped += 1;
      return;
    }
    this.#forget();
    const sent = (this.#sent = { number: ++this.#number, captured: now, picture: null });
    sent.way = this.#ways.next;
    try {
      const [kind, content] = await this.#grab(sent);
      this.link.send(kind, sent.number, content, this.#skipped);
      this.#skipped = 0;
    } catch (error) {
      this.panel.fault(`a frame of the camera cannot be read: ${error.message}`);
      this.#forget();
    }
  }

  async #grab(sent) {
    if (sent.way === "pixels") {
      const frame = (sent.picture = new VideoFrame(this.#video));
      const content = await pixels(frame);
      if (content) return [PIXELS, content];
      frame.close();
    }
    // What is drawn to be sent is drawn again to be seen: it stays until the answer is there.
    sent.picture = canvas;
    return [PICTURE, jpeg(this.#video)];
  }

  #watch({ kind, number, content }) {
    if (kind !== PICTURE) return;
    const picture = createImageBitmap(new Blob([content], { type: "image/jpeg" }));
    picture.catch(() => {}); // told when it is to be drawn
    this.#watched.set(number, picture);
    // A picture whose result was left out would stay for ever.
    for (const old of this.#watched.keys()) if (this.#watched.size > 4) this.#watched.delete(old);
  }

  async #result(result) {
    const mine = this.presenting && result.number === this.#sent?.number;
    const watched = this.#watched.get(result.number);
    this.#watched.delete(result.number);
    const picture = mine ? this.#sent.picture : await watched;
    if (!picture) return;
    const width = picture.displayWidth ?? picture.width;
    const height = picture.displayHeight ?? picture.height;
    if (this.shown.width !== width) this.shown.width = width;
    if (this.shown.height !== height) this.shown.height = height;
    const context = this.shown.getContext("2d");
    context.drawImage(picture, 0, 0, width, height);
    this.draw(context, result);
    this.shown.dataset.number = result.number;
    if (!mine) return picture.close();
    const took = performance.now() - this.#sent.captured;
    const { wait, model } = result.ms;
    if (this.#ways.took(this.#sent.way, took - wait - model)) this.panel.end.clear();
    this.panel.end.take(took);
    this.shown.dataset.way = this.#ways.next;
    this.#forget();
  }
}

async function openCamera() {
  const wanted = { width: { ideal: 640 }, height: { ideal: 480 }, facingMode: "environment" };
  const stream = await navigator.mediaDevices.getUserMedia({ video: wanted });
  const video = document.createElement("video");
  video.muted = true;
  video.srcObject = stream;
  await video.play();
  return video;
}

// A frame's planes behind a header of six bytes, or null if they are of another layout than the
// server knows, or too large.
async function pixels(frame) {
  const layout = LAYOUTS.indexOf(frame.format?.replace("X", "A"));
  const { width, height } = frame.visibleRect;
  if (layout < 0 || frame.allocationSize() > LARGEST || width % 2 || height % 2) return null;
  const message = new Uint8Array(6 + frame.allocationSize());
  const header = new DataView(message.buffer);
  const { fullRange, matrix } = frame.colorSpace;
  header.setUint8(0, layout);
  header.setUint8(1, (fullRange ? 1 : 0) + (matrix === "bt709" ? 2 : 0));
  header.setUint16(2, width, true);
  header.setUint16(4, height, true);
  await frame.copyTo(message.subarray(6));
  return message;
}

const canvas = document.createElement("canvas");

// Makes a JPEG of what a video shows, and leaves it on the canvas. At once, and not as a blob: that
// would go to another thread and through another process, which takes a millisecond or two more.
function jpeg(video) {
  const scale = Math.min(1, SIDE / Math.max(video.videoWidth, video.videoHeight));
  const width = Math.round(video.videoWidth * scale);
  const height = Math.round(video.videoHeight * scale);
  if (canvas.width !== width) canvas.width = width;
  if (canvas.height !== height) canvas.height = height;
  canvas.getContext("2d", { alpha: false }).drawImage(video, 0, 0, width, height);
  const [, text] = canvas.toDataURL("image/jpeg", 0.75).split(",");
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}
