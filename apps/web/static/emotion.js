import { Link, SOUND } from "./link.js";
import { Microphone, loudness } from "./microphone.js";
import { Panel, at, bar, make, ms, percent } from "./panel.js";
import { AxisStrip, ChanceStrip, LevelStrip, MapStrip, pictures } from "./strips.js";

const BLOCK = 0.05; // seconds of sound in a message
const LEGEND = at("parts").textContent;
const PARTS = ["M", "rho", "f_inst", "tau_g"];

const link = new Link();
const panel = new Panel(link, "edgekit emotion", { fps: "answers/s", dropped: "blocks dropped" });
const level = new LevelStrip(at("level"));
const maps = PARTS.map((part) => new MapStrip(at(part)));
const odds = new ChanceStrip(at("chances"));
const axis = new AxisStrip(at("axis"));
let microphone = null;
let presenting = false;
let opening = false; // from the press of the button until the server has answered
let stream = null; // number of the stream that is shown
let now = 0; // seconds of sound in it
let colours = [];
let drawing = null;
let state = {};
const captured = new Map(); // when this page's blocks were, by number
let sent = 0;
let skipped = 0;

for (const [id, words] of [["factor", "real-time factor"], ["lost", "sound lost"], ["explaining", "explaining"]]) {
  at("figures").append(make("div", {}, make("dt", {}, words), make("dd", { id }, "–")));
}

link.on("state", (told) => {
  state = told;
  presenting &&= state.taken;
  if (!presenting) hush();
  const { source, taken } = state;
  at("from").textContent = source ?? (presenting ? "this microphone" : taken ? "another viewer's microphone" : "no microphone yet");
  at("listen").hidden = Boolean(source) || taken;
  at("stop").hidden = !presenting;
  if (stream === null) waiting();
});
link.on("close", () => {
  opening = presenting = false;
  hush();
});
link.on("error", () => {
  opening = false;
  if (!presenting) hush();
});
link.on("stage", ({ yours }) => {
  opening = false;
  presenting = yours;
  if (!yours) hush();
  at("stop").hidden = !yours;
  if (yours) at("from").textContent = "this microphone";
});
link.on("sound", (sound) => {
  if (sound.stream !== stream) begin(sound.stream);
  const since = Math.min(Math.max(sound.time - now, BLOCK / 2), 0.25);
  now = sound.time;
  level.take({ time: now, since, rms: loudness(sound.rms), peak: loudness(sound.peak) });
  if (!at("emotion").dataset.time) waiting();
  // Several that came at once are drawn at once; nothing is while the page is not seen.
  drawing ??= requestAnimationFrame(draw);
});
link.on("result", (result) => {
  if (result.stream !== stream) begin(result.stream);
  answer(result);
  explain(result);
  figures(result);
});

function draw() {
  drawing = null;
  for (const strip of [level, ...maps, axis]) strip.draw(now);
  odds.draw(now, colours);
  document.body.dataset.time = now;
}

// A new stream: another speaker, or another runtime.
function begin(number) {
  stream = number;
  now = 0;
  for (const strip of [level, ...maps, odds]) strip.clear();
  at("emotion").removeAttribute("data-time");
  at("because").textContent = "";
  at("bars").replaceChildren();
  panel.end.clear();
}

function waiting() {
  at("emotion").className = "waiting";
  const told = Math.min(now, state.window).toFixed(1);
  at("emotion").textContent = stream !== null && (state.taken || state.source)
    ? `listening: ${told} of ${state.window} s`
    : state.source || state.taken ? "listening" : "Press the button and speak.";
}

function answer({ time, since, emotion, chances, quiet }) {
  const names = Object.keys(chances), likely = Object.values(chances);
  // Half a circle away from the mark's blue, evenly spaced: no two alike.
  colours = names.map((_, index) => `hsl(${(20 + (360 * index) / names.length) % 360} 58% 55%)`);
  odds.take({ time, since, chances: likely });
  at("emotion").className = quiet ? "waiting" : "";
  at("emotion").textContent = quiet ? "nothing to hear" : emotion;
  at("emotion").style.color = quiet ? "" : colours[names.indexOf(emotion)];
  at("emotion").dataset.time = time;
  at("bars").replaceChildren(
    ...names.map((name, index) => {
      const shade = `color-mix(in srgb, ${colours[index]} 60%, transparent)`;
      return bar(name, likely[index], percent(likely[index]), shade);
    }),
  );
}

function explain({ time, since, quartet, bands, columns, contributions, driver, explains, quiet }) {
  for (const part of document.querySelectorAll(".part")) part.hidden = !explains;
  at("parts").textContent = explains ? LEGEND : "This bundle does not explain its answers here.";
  if (!quartet) return;
  pictures(quartet, bands, columns).forEach((picture, index) => maps[index].take({ time, since, picture }));
  const driven = contributions[driver] >= 0.005;
  at("because").textContent = quiet ? "" : driven ? `${driver} speaks most for it` : "no component by itself";
  for (const [part, share] of Object.entries(contributions)) {
    const told = document.querySelector(`div[data-part="${part}"]`);
    told.querySelector("i").style.width = `${Math.min(Math.abs(share), 1) * 100}%`;
    told.querySelector("i").style.background = share < 0 ? "var(--mark)" : "var(--warm)";
    told.querySelector("output").textContent = `${share < 0 ? "−" : "+"}${Math.abs(100 * share).toFixed(0)} points`;
  }
}

function figures(result) {
  const begun = presenting ? captured.get(result.number) : undefined;
  if (begun !== undefined) panel.end.take(performance.now() - begun);
  at("factor").textContent = result.factor === null ? "–" : result.factor.toFixed(3);
  at("lost").textContent = `${result.lost.toFixed(2)} s`;
  at("explaining").textContent = ms(result.ms.explaining);
}

function send(block) {
  if (!presenting) return;
  const number = (sent += 1);
  // What the connection does not take within a second is too late.
  if (link.unsent > 4 * microphone.rate) {
    skipped += 1;
    return;
  }
  captured.set(number, performance.now());
  captured.delete(number - 100);
  link.send(SOUND, number, block, skipped);
  skipped = 0;
}

function hush() {
  const open = microphone;
  if (opening || open === null) return;
  microphone = null;
  open.close();
}

at("listen").onclick = async () => {
  if (opening) return;
  opening = true;
  try {
    microphone ??= await Microphone.open(send, { rate: state.rate, seconds: BLOCK });
    link.say({ type: "present", rate: microphone.rate });
  } catch (error) {
    opening = false;
    panel.fault(`no microphone: ${error.message}`);
  }
};
at("stop").onclick = () => {
  link.say({ type: "leave" });
  presenting = false;
  hush();
};
