import { Link } from "./link.js";
import { Panel, at, bars, percent } from "./panel.js";
import { Stage } from "./stage.js";

const link = new Link();
const panel = new Panel(link, "edgekit detect");
let least = null; // the score from which on boxes are shown

// The same colour for a class in every frame: hues a golden ratio apart.
const colour = (index) => `hsl(${(index * 222.5 + 200) % 360} 85% 62%)`;
const faint = (index) => colour(index).replace(")", " / 45%)");

function boxes(context, { detections }) {
  const shown = detections.filter(({ score }) => score >= least);
  context.lineWidth = Math.max(2, context.canvas.width / 320);
  context.font = `${Math.max(12, context.canvas.width / 45)}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const upwards = [...shown].reverse(); // the best on top, and every name above every box
  for (const one of upwards) outline(context, one);
  for (const one of upwards) name(context, one);
  at("count").textContent = shown.length;
  const rows = shown
    .slice(0, 12)
    .map(({ label, index, score }) => [label, score, percent(score), faint(index)]);
  bars(at("found"), rows);
}

function outline(context, { index, box: [left, top, right, bottom] }) {
  context.strokeStyle = colour(index);
  context.strokeRect(left, top, right - left, bottom - top);
}

function name(context, { label, index, score, box: [left, top] }) {
  const words = `${label} ${Math.round(100 * score)} %`;
  const high = Number.parseFloat(context.font) * 1.35;
  const above = Math.max(top - high, 0);
  context.fillStyle = colour(index);
  context.fillRect(left, above, context.measureText(words).width + high * 0.5, high);
  context.fillStyle = "#000";
  context.fillText(words, left + high * 0.25, above + high * 0.15);
}

function show(threshold) {
  least = threshold;
  at("threshold").value = threshold;
  at("least").textContent = percent(threshold);
}

link.on("state", ({ classes, threshold }) => {
  at("asking").hidden = !classes;
  if (least === null) {
    at("threshold").min = threshold; // what scores less does not count
    show(threshold);
  }
  if (classes && document.activeElement !== at("classes")) at("classes").value = classes.join(", ");
});
at("threshold").oninput = ({ target }) => show(Number(target.value));
at("ask").onsubmit = (event) => {
  event.preventDefault();
  const names = at("classes").value.split(",").map((name) => name.trim()).filter(Boolean);
  at("classes").blur();
  link.say({ type: "classes", names });
};

new Stage(link, panel, boxes);
