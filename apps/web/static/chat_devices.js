// Each device of the cluster: its share, its memory, and where its time goes.

import { at, bar, make } from "./panel.js";

const STATES = {
  hub: "hub",
  ready: "ready",
  waiting: "there, not used",
  lost: "lost",
  unknown: "not heard of",
};
const SPENT = [
  ["compute", "computing"],
  ["link", "all-reduce"],
  ["stall", "disk"],
];

const mib = (bytes) => (bytes / (1 << 20)).toFixed(0);

function share({ rank, heads, of_heads, layers, feed_forward, of_feed_forward }) {
  if (heads == null) return "";
  const part = (100 * feed_forward) / of_feed_forward;
  return `rank ${rank} · ${heads} of ${of_heads} heads and ${part.toFixed(0)} % of the feed-forward, in ${layers} layers`;
}

// Memory now, filled; its peak, a line; the whole bar is what the process may take.
function memory({ now, peak, budget, planned, streamed }) {
  const whole = budget ?? Math.max(planned, peak);
  const bound = budget == null ? `${mib(planned)} MiB planned, no budget` : `budget ${mib(budget)} MiB`;
  const made = bar("memory", now / whole, `${mib(now)} MiB, peak ${mib(peak)}, ${bound}`);
  const line = make("u");
  line.style.left = `calc(${(100 * Math.min(peak / whole, 1)).toFixed(2)}% - 2px)`;
  made.append(line);
  made.classList.add("memory");
  made.title = streamed ? `${mib(streamed)} MiB of weights are read anew for each token` : "all weights stay in memory";
  return made;
}

function times(ms, slowest) {
  return SPENT.filter(([name]) => ms[name] != null).map(([name, words]) => {
    const made = bar(words, ms[name] / slowest, `${ms[name].toFixed(2)} ms a token`);
    made.firstChild.classList.add(name);
    made.classList.add(`spent-${name}`);
    return made;
  });
}

function card(device, slowest) {
  const title = make("header", {}, make("b", {}, device.name), make("span", { class: "soft" }, device.host));
  title.append(make("span", { class: "state" }, STATES[device.state]));
  const made = make("div", { class: "device", "data-name": device.name, "data-state": device.state }, title);
  const words = share(device);
  if (words) made.append(make("p", { class: "soft" }, words));
  if (device.now != null) made.append(memory(device));
  made.append(...times(device.ms, slowest));
  made.dataset.told = JSON.stringify(device);
  return made;
}

export function showCluster({ devices, complete, precision, words, silent }) {
  const spent = ({ ms }) => Object.values(ms).reduce((sum, one) => sum + one, 0);
  const slowest = Math.max(...devices.map(spent), 1e-6);
  if (devices.length) at("devices").replaceChildren(...devices.map((one) => card(one, slowest)));
  const about = complete ? "complete" : silent ? "no hub" : "not complete";
  at("summary").textContent = precision ? `${about}, ${precision}` : about;
  at("trouble").hidden = !words;
  at("trouble").classList.toggle("over", complete);
  if (at("trouble").textContent !== words) at("trouble").textContent = words;
}
