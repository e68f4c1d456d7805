// A conversation, which this page keeps: what is sent is always all of it.

import { showCluster } from "./chat_devices.js";
import { Link } from "./link.js";
import { Panel, at, make } from "./panel.js";

const KEPT = "edgekit chat"; // the name under which the browser keeps it while the tab is open
const ENDS = { stop: "", length: "the most tokens were reached" };

const link = new Link();
const panel = new Panel(link, "edgekit chat", {
  p50: "token p50",
  p99: "token p99",
  end: "first token p50",
  fps: "tokens/s",
  dropped: "refused",
});

const turns = []; // { role, content, state, note }, and node while it is shown
let coming = null; // the answer under way, the last of the turns
let number = 0;
let asked = 0;
let limits = { text: 20000, turns: 200, tokens: 8192 };
let waiting = 0; // requests at the hub, ours among them

// ---- what is seen --------------------------------------------------------------------------

function show(turn) {
  turn.text = document.createTextNode(turn.content);
  turn.about = make("div", { class: "about" });
  const text = make("div", { class: "text" }, turn.text);
  turn.node = make("div", { class: `turn ${turn.role}` }, text, turn.about);
  at("turns").append(turn.node);
  at("empty").hidden = true;
  note(turn);
}

function note(turn) {
  turn.node.dataset.state = turn.state;
  const again = make("button", { type: "button", class: "again" }, "Ask again");
  again.onclick = () => askAgain();
  const retry = turn === turns.at(-1) && ["failed", "stopped"].includes(turn.state);
  turn.about.replaceChildren(...(turn.note ? [turn.note] : []), ...(retry && !coming ? [again] : []));
  turn.about.hidden = !turn.note && !retry;
}

function words({ state, why, tokens, first, rate }) {
  const told = [];
  if (state === "waiting") {
    told.push(waiting > 1 ? `waiting in turn: ${waiting} requests at the hub` : "the text is taken in …");
  }
  if (tokens) told.push(tokens === 1 ? "1 token" : `${tokens} tokens`);
  if (first != null) told.push(`first after ${(first / 1000).toFixed(2)} s`);
  if (rate != null) told.push(`${rate.toFixed(1)} tokens/s`);
  if (state === "stopped") told.push("stopped");
  if (state === "failed") told.push(why);
  if (state === "done" && (ENDS[why] ?? why)) told.push(ENDS[why] ?? why);
  return told.join(" · ");
}

// Goes along with the text, unless somebody reads further up.
function following(change) {
  const box = at("turns");
  const low = box.scrollHeight - box.scrollTop - box.clientHeight < 40;
  change();
  if (low) box.scrollTop = box.scrollHeight;
}

function buttons() {
  at("send").hidden = Boolean(coming);
  at("stop").hidden = !coming;
  at("send").disabled = !link.open || !at("question").value.trim();
  at("anew").disabled = !turns.length;
}

// ---- what is kept --------------------------------------------------------------------------

function keep() {
  const plain = turns.map(({ role, content, state, note }) => ({ role, content, state, note }));
  try {
    sessionStorage.setItem(KEPT, JSON.stringify({ turns: plain, system: at("system").value }));
  } catch {
    // A browser that keeps nothing: the conversation lasts as long as the page.
  }
}

function recall() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEPT)) ?? { turns: [], system: "" };
    at("system").value = kept.system;
    for (const turn of kept.turns) {
      const broken = turn.role === "assistant" && !["done", "stopped", "failed"].includes(turn.state);
      turns.push(broken ? { ...turn, state: "stopped", note: "broken off" } : turn);
    }
  } catch {
    turns.length = 0;
  }
  turns.forEach(show);
  at("turns").scrollTop = at("turns").scrollHeight;
}

// ---- asking --------------------------------------------------------------------------------

function ask() {
  const question = at("question").value.trim();
  if (!question || coming || !link.open) return;
  if (question.length > limits.text) {
    return panel.fault(`The message has ${question.length} characters; ${limits.text} are the most.`);
  }
  at("question").value = "";
  turns.push({ role: "user", content: question, state: "done", note: "" });
  show(turns.at(-1));
  send();
}

function askAgain() {
  if (coming || !link.open || turns.at(-1)?.role !== "assistant") return;
  turns.pop().node.remove();
  send();
}

// What was said, in turns: an answer without a word was none, and what was asked before it is
// part of the next question, since many models take no two questions in a row.
function spoken() {
  const said = [];
  for (const { role, content } of turns.filter((turn) => turn.content)) {
    if (said.at(-1)?.role === role) said.at(-1).content += `\n\n${content}`;
    else said.push({ role, content });
  }
  return said;
}

function send() {
  const said = spoken();
  coming = { role: "assistant", content: "", state: "waiting", note: "", id: ++number };
  turns.push(coming);
  asked = performance.now();
  following(() => show(coming));
  at("turns").scrollTop = at("turns").scrollHeight;
  link.say({
    type: "ask",
    id: number,
    turns: said.slice(1 - limits.turns), // an odd number, so that it begins with a question
    system: at("system").value,
    temperature: Number(at("temperature").value),
    most: Math.min(Math.max(Math.round(Number(at("most").value)) || 512, 1), limits.tokens),
  });
  buttons();
  keep();
}

function take(answer) {
  if (answer.id !== coming?.id) return;
  const turn = coming;
  if (answer.text && !turn.content) panel.end.take(performance.now() - asked);
  turn.state = answer.state;
  turn.last = answer;
  if (["done", "stopped", "failed"].includes(answer.state)) coming = null;
  following(() => {
    turn.content += answer.text;
    turn.text.appendData(answer.text);
    turn.note = words(answer);
    note(turn);
  });
  if (!coming) {
    buttons();
    keep();
    at("question").focus();
  }
}

function anew() {
  if (coming) link.say({ type: "stop" });
  coming = null;
  for (const { node } of turns.splice(0)) node.remove();
  at("empty").hidden = false;
  buttons();
  keep();
  at("question").focus();
}

// ---- events --------------------------------------------------------------------------------

link.on("answer", take);
link.on("state", (state) => {
  limits = state.limits;
  at("question").maxLength = at("system").maxLength = limits.text;
  at("most").max = limits.tokens;
});
link.on("cluster", (cluster) => {
  waiting = cluster.waiting;
  showCluster(cluster);
  if (coming?.state === "waiting") {
    coming.note = words({ state: "waiting" });
    note(coming);
  }
});
link.on("open", buttons);
link.on("close", () => {
  if (coming) take({ id: coming.id, text: "", state: "failed", why: "the connection to the demo broke off", tokens: 0 });
  buttons();
});
at("ask").onsubmit = (event) => {
  event.preventDefault();
  ask();
};
at("question").oninput = buttons;
at("question").onkeydown = (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  ask();
};
at("stop").onclick = () => link.say({ type: "stop" });
document.onkeydown = ({ key }) => {
  if (key === "Escape" && coming) link.say({ type: "stop" });
};
at("anew").onclick = anew;
at("telling").onclick = () => {
  at("system").hidden = !at("system").hidden;
  at("telling").setAttribute("aria-expanded", !at("system").hidden);
  if (!at("system").hidden) at("system").focus();
};
at("system").onchange = keep;
at("temperature").oninput = () => (at("warmth").textContent = at("temperature").value);
at("warmth").textContent = at("temperature").value;
recall();
buttons();
