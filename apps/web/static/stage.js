// A camera's picture on its way to the model and back. One frame is under way at a time, the
// newest there is; what the camera gives meanwhile is left out and counted.

import { PICTURE } from "./link.js";
import { at } from "./panel.js";

const SIDE = 640; // pixels of the longer side that is sent
const PATIENCE = 5000; // ms without an answer, after which the frame counts as lost

export class Stage {
  #canvas = new OffscreenCanvas(1, 1);
  #video = null;
  #sent = null; // { number, captured } of the frame under way
  #number = 0;
  #skipped = 0;
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
    link.on("error", ({ number }) => number === this.#sent?.number && (this.#sent = null));
    link.on("close", () => (this.#sent = null));
    at("show").onclick = () => this.#present();
  }

  #state({ source, taken }) {
    this.presenting &&= taken;
    at("show").hidden = Boolean(source) || taken;
    at("from").textContent = source ?? (this.presenting ? "this camera" : taken ? "another viewer's camera" : "no camera yet");
    // The first who comes shows their camera; later it takes a click.
    if (!source && !taken && !this.asked) this.#present();
  }

  async #present() {
    this.asked = true;
    try {
      this.#video ??= await openCamera();
    } catch (error) {
      this.panel.fault(
        navigator.mediaDevices
          ? `no camera: ${error.message}`
          : "browsers give a camera to https and to localhost alone",
      );
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

  #next() {
    if (!this.presenting) return;
    this.#video.requestVideoFrameCallback(() => this.#take());
  }

  async #take() {
    this.#next();
    const now = performance.now();
    if (this.#sent && now - this.#sent.captured < PATIENCE) {
      this.#skipped += 1;
      return;
    }
    const sent = (this.#sent = { number: ++this.#number, captured: now });
    const scale = Math.min(1, SIDE / Math.max(this.#video.videoWidth, this.#video.videoHeight));
    const width = Math.round(this.#video.videoWidth * scale);
    const height = Math.round(this.#video.videoHeight * scale);
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      this.#canvas = new OffscreenCanvas(width, height);
    }
    this.#canvas.getContext("2d").drawImage(this.#video, 0, 0, width, height);
    const blob = await this.#canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
    this.link.send(PICTURE, sent.number, await blob.arrayBuffer(), this.#skipped);
    this.#skipped = 0;
  }

  async #watch({ kind, number, content }) {
    if (kind !== PICTURE) return;
    const picture = createImageBitmap(new Blob([content], { type: "image/jpeg" }));
    this.#watched.set(number, picture);
    // Of a result that was left out, the picture is not needed either.
    for (const old of this.#watched.keys()) if (this.#watched.size > 4) this.#watched.delete(old);
  }

  async #result(result) {
    const mine = this.presenting && result.number === this.#sent?.number;
    const watched = this.#watched.get(result.number);
    this.#watched.delete(result.number);
    const picture = mine ? this.#canvas : await watched;
    if (!picture) return;
    if (this.shown.width !== picture.width) this.shown.width = picture.width;
    if (this.shown.height !== picture.height) this.shown.height = picture.height;
    const context = this.shown.getContext("2d");
    context.drawImage(picture, 0, 0);
    this.draw(context, result);
    this.shown.dataset.number = result.number;
    if (!mine) return picture.close();
    this.panel.end.take(performance.now() - this.#sent.captured);
    this.#sent = null;
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
