import { Link } from "./link.js";
import { Panel, at, bar } from "./panel.js";
import { Stage } from "./stage.js";

const link = new Link();
const panel = new Panel(link, "edgekit classify");

function labels(context, { top }) {
  at("labels").replaceChildren(
    ...top.map(({ label, score }) => bar(label, score)),
  );
}

new Stage(link, panel, labels);
