import { Link } from "./link.js";
import { Microphone, loudness, rms } from "./microphone.js";
import { FRAME, OpusReceiver, OpusSender, requireOpus } from "./opus.js";
import { CLOCK } from "./ogg.js";
import { Panel, at, make } from "./panel.js";
import { AxisStrip, LevelStrip } from "./strips.js";

// The protocol of Moshi's server: a byte that says what, then content.
const HANDSHAKE = 0, AUDIO = 1, TEXT = 2, CONTROL = 3, ERROR = 5;
const RESTART = 3;
const BUSY = 1013; // the code with which a server that is busy closes
const RATE = 24000; // of the sound that is sent
const PAUSE = 2500; // ms without text, after which a new paragraph begins
const MOST = 200; // paragraphs that are kept
const MOST_UNSENT = 16384; // bytes, some seconds of Opus: what is said then is too late

const link = new Link();
const panel = new Panel(link, "edgekit talk", {
  p50: "step p50",
  p99: "step p99",
  end: "waits to be played",
  fps: "steps/s",
  dropped: "frames dropped",
});
const mine = new LevelStrip(at("mine"));
const its = new LevelStrip(at("its"));
const axis = new AxisStrip(at("axis"));
let talk = null; // the conversation that goes on here
let state = {};

class Talk {
  #parts = []; // what is to be closed
  #spoke = 0; // when the last text came
  #taken = 0; // seconds of blocks that wait to be a level
  #loudest = 0;
  #until = new Map(); // up to when each strip has been told of

  async begin() {
    // Echo is cancelled: what it says is not to come back to it.
    const wanted = { rate: RATE, seconds: FRAME, processing: true };
    const microphone = await Microphone.open((block) => this.#hear(block), wanted).catch((error) => {
      throw new Error(`no microphone: ${error.message}`);
    });
    this.#parts.push(microphone);
    await requireOpus(microphone.rate);
    this.player = await this.#play();
    this.sender = new OpusSender(microphone.rate, (bytes) => this.#say(AUDIO, bytes), (error) => this.fail(error.message));
    this.receiver = new OpusReceiver((samples) => this.player.port.postMessage(samples), (error) => this.fail(error.message));
    this.#parts.push(this.sender, this.receiver);
    this.#connect();
  }

  async #play() {
    const context = new AudioContext({ sampleRate: CLOCK });
    this.#parts.push(context);
    await context.audioWorklet.addModule(new URL("player.js", import.meta.url));
    const player = new AudioWorkletNode(context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    player.port.onmessage = ({ data }) => this.#played(data);
    player.connect(context.destination);
    await context.resume();
    return player;
  }

  #connect() {
    const address = new URL(`api/chat${location.search}`, document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.socket = new WebSocket(address));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.#take(new Uint8Array(data));
    socket.onclose = ({ code, reason }) => {
      if (code === BUSY) this.fail(reason || "the server is busy");
      else this.fail(this.begun ? reason || "the connection ended" : reason || "the server refused the connection");
    };
  }

  #say(kind, bytes) {
    if (!this.begun || this.socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(1 + bytes.length);
    message[0] = kind;
    message.set(bytes, 1);
    this.socket.send(message);
  }

  restart() {
    this.#say(CONTROL, [RESTART]);
    this.player.port.postMessage(null);
    at("transcript").replaceChildren();
  }

  #take(message) {
    const [kind] = message, content = message.subarray(1);
    if (kind === HANDSHAKE) this.#greeted();
    else if (kind === AUDIO) this.#answer(content);
    else if (kind === TEXT) this.#write(new TextDecoder().decode(content));
    else if (kind === ERROR) panel.fault(new TextDecoder().decode(content));
  }

  #answer(content) {
    try {
      this.receiver.add(content);
    } catch (error) {
      this.fail(`what the server says cannot be played: ${error.message}`);
    }
  }

  #greeted() {
    this.begun = performance.now();
    for (const strip of [mine, its]) strip.clear();
    at("transcript").replaceChildren();
    show();
  }

  get now() {
    return this.begun ? (performance.now() - this.begun) / 1000 : 0;
  }

  #hear(block) {
    // The stream has to begin with its first page: nothing is encoded before it can be sent.
    if (!this.begun || this.closed) return;
    this.#loudest = Math.max(this.#loudest, rms(block));
    this.#taken += FRAME;
    if (this.#taken >= 0.06) {
      this.#level(mine, this.#taken, this.#loudest);
      this.#taken = this.#loudest = 0;
    }
    if (this.socket.bufferedAmount <= MOST_UNSENT) this.sender.add(block);
  }

  #played({ rms: level, waiting, dropped, gaps }) {
    if (!this.begun || this.closed) return;
    this.#level(its, 0.05, level);
    panel.end.take(1000 * waiting);
    at("gaps").textContent = gaps;
    at("spilt").textContent = `${dropped.toFixed(2)} s`;
    this.drawing ??= requestAnimationFrame(() => this.#draw());
  }

  // Reports that come late, several at once, are beside each other all the same.
  #level(strip, since, value) {
    const due = (this.#until.get(strip) ?? this.now) + since;
    const time = Math.abs(this.now - due) > 0.5 ? this.now : due;
    this.#until.set(strip, time);
    strip.take({ time, since, rms: loudness(value), peak: loudness(value) });
  }

  #draw() {
    this.drawing = null;
    for (const strip of [mine, its, axis]) strip.draw(this.now);
  }

  #write(text) {
    const log = at("transcript"), now = performance.now();
    const follows = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    if (!log.lastElementChild || now - this.#spoke > PAUSE) {
      log.append(make("p", {}, make("time", {}, `${this.now.toFixed(1)} s`)));
      if (log.children.length > MOST) log.firstElementChild.remove();
    }
    this.#spoke = now;
    log.lastElementChild.append(text);
    if (follows) log.scrollTop = log.scrollHeight;
  }

  fail(words) {
    if (!this.closed) complain(words);
    this.close();
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    if (this.socket) this.socket.onclose = null;
    this.socket?.close();
    for (const part of this.#parts) part.close();
    if (talk === this) talk = null;
    show();
  }
}

function complain(words) {
  at("why").textContent = words;
  at("why").hidden = !words;
}

function show() {
  const on = Boolean(talk?.begun);
  at("status").className = on ? "on" : "";
  at("status").textContent = on
    ? "You are talking"
    : talk ? "Connecting" : state.busy ? "Somebody else is talking" : "Free: nobody is talking";
  at("start").disabled = Boolean(talk);
  at("stop").disabled = at("restart").disabled = !on;
  panel.runtime.disabled = Boolean(state.busy);
  panel.runtime.title = state.busy ? "between conversations alone" : "";
}

function progress({ factor, heard, sent, dropped_in, dropped_out }) {
  at("factor").textContent = factor === null ? "–" : factor.toFixed(3);
  at("factor").style.color = factor > 1 ? "var(--bad)" : "";
  const told = { heard, sent, dropped_in, dropped_out };
  for (const [id, count] of Object.entries(told)) at(id).textContent = count;
  at("pace").textContent =
    factor === null ? "" : factor > 1 ? "Too slow for live speech here: what is late is dropped." : "It keeps up with speech.";
}

link.on("state", (told) => {
  state = told;
  progress(told);
  show();
});
link.on("progress", progress);

at("start").onclick = async () => {
  if (talk) return;
  complain("");
  const begun = (talk = new Talk());
  show();
  try {
    await begun.begin();
  } catch (error) {
    begun.fail(error.message);
  }
};
at("stop").onclick = () => talk?.close();
at("restart").onclick = () => talk?.restart();
