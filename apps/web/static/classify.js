import { Link } from "./link.js";
import { Panel, at, make, percent } from "./panel.js";
import { Stage } from "./stage.js";

const link = new Link();
const panel = new Panel(link, "edgekit classify");

function labels(context, { top }) {
  at("labels").replaceChildren(
    ...top.map(({ label, score }) => {
      const filled = make("i");
      filled.style.width = percent(score);
      const words = make("span", {}, make("b", {}, label), percent(score));
      return make("div", { class: "bar" }, filled, words);
    }),
  );
}

new Stage(link, panel, labels);
