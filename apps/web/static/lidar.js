import { keyboard } from "./gestures3d.js";
import { Link, POINTS } from "./link.js";
import { Panel, at, bar, make, percent } from "./panel.js";
import { View, unpack } from "./view3d.js";

const CLOCK = 2000; // ms between two looks at the server's clock

const link = new Link();
const panel = new Panel(link, "edgekit lidar");
let least = null; // the score from which on boxes are shown
let announced = null; // the result whose points are to come
let shown = null; // the result that is on the page
let paused = false;
let many = 1; // sweeps that there are
let ahead = null; // ms that the server's clock is ahead of the page's
let narrowest = Infinity; // ms of the quickest look at it

// The same colour for a class in every frame: hues a golden ratio apart.
const hue = (index) => (index * 222.5 + 200) % 360;
const faint = (index) => `hsl(${hue(index)} 85% 62% / 45%)`;

// hsl(hue 85% 62%) as parts from 0 to 1, for WebGL.
function parts(index) {
  const reach = 0.85 * Math.min(0.62, 1 - 0.62);
  return [0, 8, 4].map((part) => {
    const k = (part + hue(index) / 30) % 12;
    return 0.62 - reach * Math.max(-1, Math.min(k - 3, 9 - k, 1));
  });
}

const view = open();

function open() {
  try {
    return new View(at("view"), at("names"), (lost) =>
      blind(lost && "The browser took the 3D view away and may give it back."),
    );
  } catch (error) {
    blind(`This browser cannot draw the 3D view: ${error.message}.`);
    for (const id of ["home", "above", "turn", "colours"]) at(id).disabled = true;
    return null;
  }
}

function blind(why) {
  at("blind").textContent = `${why} What is found, and how fast, is shown all the same.`;
  at("blind").hidden = !why;
}

// The boxes of a sweep come first, and its points right after them.
function take({ kind, number, content }) {
  if (kind !== POINTS || announced?.number !== number) return;
  const message = announced;
  const sweep = unpack(content);
  shown = message;
  at("waiting").hidden = true;
  const place = many > 1 ? ` (${message.index + 1} of ${many})` : "";
  at("which").textContent = message.name + place;
  at("held").textContent = `${count(sweep.total)} points, ${count(message.voxels)} voxels in range`;
  view?.setSweep(sweep);
  boxes();
  at("view").dataset.points = sweep.shades.length;
  at("view").dataset.number = message.number;
  requestAnimationFrame(() => {
    if (ahead !== null) panel.end.take(performance.now() + ahead - message.due);
  });
}

function boxes() {
  if (!shown) return;
  const found = shown.detections.filter(({ score }) => score >= least);
  view?.setBoxes(
    found.map(({ box, velocity, label, index, score }) => ({
      box,
      velocity,
      colour: parts(index),
      words: `${label} ${Math.round(100 * score)} %`,
    })),
  );
  at("view").dataset.boxes = found.length;
  at("count").textContent = found.length;
  at("moving").hidden = !found.some(({ velocity }) => velocity);
  at("found").replaceChildren(...byClass(found));
}

function byClass(found) {
  const classes = new Map();
  for (const { label, index } of found) {
    const many = classes.get(label)?.many ?? 0;
    classes.set(label, { label, index, many: many + 1 });
  }
  return [...classes.values()]
    .sort((a, b) => b.many - a.many)
    .map(({ label, index, many }) => bar(label, many / found.length, String(many), faint(index)));
}

// What is wrong with a file begins with its name; what is wrong with a sweep does not.
const fault = ({ name, words }) => {
  const rest = words.startsWith(`${name} `) ? words.slice(name.length) : `: ${words}`;
  return make("li", {}, make("b", {}, name), rest);
};
const count = (number) => number.toLocaleString("en");

function show(threshold) {
  least = threshold;
  at("threshold").value = threshold;
  at("least").textContent = percent(threshold);
  boxes();
}

function turn() {
  view.turning = !view.turning;
  at("turn").setAttribute("aria-pressed", view.turning);
  view.ask();
}

link.on("state", (state) => {
  at("from").textContent = state.source;
  many = state.sweeps;
  paused = state.paused;
  at("pause").textContent = paused ? "Play" : "Pause";
  view?.setReach(state.reach);
  if (least === null) {
    at("threshold").min = state.lowest; // what scores less is not sent
    show(state.threshold);
  }
  at("passed").hidden = !state.faults.length;
  at("faults").replaceChildren(...state.faults.map(fault));
});
link.on("frame", take);
link.on("result", (message) => (announced = message));

// The server's clock, by the quickest of all looks at it, so that the time from when a sweep
// was due until it is drawn can be told.
link.on("clock", ({ asked, now }) => {
  const taken = performance.now() - asked;
  if (taken > narrowest) return;
  narrowest = taken;
  ahead = now - (asked + taken / 2);
});
const look = () => link.say({ type: "clock", asked: performance.now() });
setInterval(look, CLOCK);
link.on("open", () => {
  [ahead, narrowest] = [null, Infinity]; // perhaps it was started anew
  look();
});

const pause = () => link.say({ type: "pause", paused: !paused });
const step = () => link.say({ type: "step" });
at("threshold").oninput = ({ target }) => show(Number(target.value));
at("pause").onclick = pause;
at("step").onclick = step;
at("home").onclick = () => view.home();
at("above").onclick = () => view.home(true);
at("turn").onclick = turn;
at("colours").onchange = ({ target }) => {
  view.shaded = target.value === "intensity";
  view.ask();
};
keyboard(view?.camera, () => view?.ask(), {
  0: () => view?.home(),
  a: () => view?.home(true),
  r: () => view && turn(),
  " ": pause,
  n: step,
});
