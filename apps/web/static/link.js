// The connection to the server. Messages arrive as events named by their type; binary ones as
// "frame". A connection that ends is made again.

const HEADER = 8;
export const PICTURE = 1, SOUND = 2, POINTS = 3, PIXELS = 4;

export class Link extends EventTarget {
  #socket = null;
  #wait = 500;

  constructor() {
    super();
    this.#connect();
  }

  get open() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  // What has been given to the browser and is not sent yet, in bytes.
  get unsent() {
    return this.#socket.bufferedAmount;
  }

  say(message) {
    if (this.open) this.#socket.send(JSON.stringify(message));
  }

  // content: a typed array or an ArrayBuffer.
  send(kind, number, content, skipped = 0) {
    if (!this.open) return;
    const bytes = ArrayBuffer.isView(content)
      ? new Uint8Array(content.buffer, content.byteOffset, content.byteLength)
      : new Uint8Array(content);
    const message = new Uint8Array(HEADER + bytes.length);
    const header = new DataView(message.buffer);
    header.setUint8(0, kind);
    header.setUint16(2, Math.min(skipped, 65535), true);
    header.setUint32(4, number, true);
    message.set(bytes, HEADER);
    this.#socket.send(message);
  }

  on(type, take) {
    this.addEventListener(type, (event) => take(event.detail));
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  #connect() {
    const address = new URL("live", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.#wait = 500;
      this.#emit("open");
    };
    socket.onmessage = ({ data }) => {
      if (typeof data === "string") {
        const message = JSON.parse(data);
        this.#emit(message.type, message);
      } else {
        const header = new DataView(data);
        const frame = { kind: header.getUint8(0), number: header.getUint32(4, true) };
        this.#emit("frame", { ...frame, content: data.slice(HEADER) });
      }
    };
    socket.onclose = ({ code, reason }) => {
      this.#emit("close", { code, reason });
      setTimeout(() => this.#connect(), this.#wait);
      this.#wait = Math.min(this.#wait * 2, 8000);
    };
  }
}
