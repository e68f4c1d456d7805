// What every demo shows: which model runs on what, how fast, and how much it leaves out.

export const at = (id) => document.getElementById(id);

export function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export const ms = (value) => (value == null ? "–" : `${value.toFixed(1)} ms`);
export const percent = (share) => `${(100 * share).toFixed(1)} %`;

// A bar that is filled up to a share, with words on it.
export function bar(name, share, value = percent(share), colour = "") {
  const filled = make("i");
  filled.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
  if (colour) filled.style.background = colour;
  return make("div", { class: "bar" }, filled, make("span", {}, make("b", {}, name), value));
}

// Bars in place of those that were there, [name, share, value, colour] each; what is there already
// is changed, since making elements anew costs a millisecond a frame.
export function bars(holder, rows) {
  while (holder.children.length > rows.length) holder.lastChild.remove();
  rows.forEach(([name, share, value = percent(share), colour = ""], index) => {
    const there = holder.children[index];
    if (!there) return holder.append(bar(name, share, value, colour));
    const [filled, words] = there.children;
    filled.style.width = `${100 * Math.min(Math.max(share, 0), 1)}%`;
    filled.style.background = colour;
    words.firstChild.textContent = name;
    words.lastChild.textContent = value;
  });
}

const FIGURES = [
  ["p50", "model p50"],
  ["p99", "model p99"],
  ["end", "end to end p50"],
  ["fps", "frames/s"],
  ["dropped", "dropped"],
];

// Of no values it is null.
export function median(values) {
  if (!values.length) return null;
  const sorted = [...values].sort((one, other) => one - other);
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

// Latencies that the page itself sees, of the last `size` frames.
export class Window {
  #values = [];

  constructor(size = 120) {
    this.size = size;
  }

  take(value) {
    this.#values.push(value);
    if (this.#values.length > this.size) this.#values.shift();
  }

  clear() {
    this.#values = [];
  }

  get median() {
    return median(this.#values);
  }
}

export class Panel {
  // Time from a frame's capture until its answer is drawn; fed by the demo.
  end = new Window();

  // words: other names of figures, by their id.
  constructor(link, title, words = {}) {
    this.link = link;
    this.#draw(title, words);
    link.on("state", (state) => this.#state(state));
    link.on("figures", (figures) => this.#figures(figures));
    link.on("error", ({ words }) => this.fault(words));
    link.on("open", () => this.#connection(true));
    link.on("close", ({ reason }) => this.#connection(false, reason));
    this.runtime.onchange = () => {
      this.end.clear();
      link.say({ type: "choose", choice: Number(this.runtime.value) });
    };
  }

  fault(words) {
    at("fault").textContent = words;
    at("fault").hidden = false;
    clearTimeout(this.faulty);
    this.faulty = setTimeout(() => (at("fault").hidden = true), 8000);
  }

  #draw(title, words) {
    this.runtime = make("select", { id: "runtime", "aria-label": "runtime and precision" });
    const figures = FIGURES.map(([id, name]) =>
      make("div", {}, make("dt", {}, words[id] ?? name), make("dd", { id }, "–")),
    );
    document.body.prepend(
      make(
        "header",
        {},
        make("h1", {}, title),
        make("span", { id: "model", class: "soft" }),
        make("span", { class: "grow" }),
        this.runtime,
        make("span", { id: "viewers", class: "soft" }),
        make("span", { id: "connection", class: "soft" }, "connecting"),
      ),
      make("div", { id: "note", class: "note", hidden: "" }),
      make("div", { id: "fault", class: "fault", role: "alert", hidden: "" }),
    );
    const shown = make("dl", { id: "figures", class: "figures" }, ...figures);
    document.body.append(make("footer", {}, shown));
  }

  #state(state) {
    at("model").textContent = state.model ?? "";
    at("viewers").textContent = state.viewers === 1 ? "1 viewer" : `${state.viewers} viewers`;
    at("note").hidden = !state.random;
    at("note").textContent = "This model has random weights: its answers mean nothing.";
    this.runtime.hidden = !state.choices;
    const labels = (state.choices ?? []).map((label, value) => new Option(label, value));
    this.runtime.replaceChildren(...labels);
    if (state.choices) this.runtime.selectedIndex = state.chosen;
    document.body.dataset.chosen = state.chosen ?? "";
  }

  #figures(figures) {
    at("p50").textContent = ms(figures.p50);
    at("p99").textContent = ms(figures.p99);
    at("end").textContent = ms(this.end.median);
    at("fps").textContent = figures.fps.toFixed(1);
    at("dropped").textContent = figures.dropped;
    at("figures").dataset.reading = JSON.stringify(figures);
  }

  #connection(open, reason) {
    at("connection").textContent = open ? "connected" : reason || "no connection; trying again";
    document.body.dataset.connected = open;
  }
}
