import { Link } from "./link.js";
import { Panel, at, bars } from "./panel.js";
import { Stage } from "./stage.js";

const link = new Link();
const panel = new Panel(link, "edgekit classify");

function labels(context, { top }) {
  bars(at("labels"), top.map(({ label, score }) => [label, score]));
}

new Stage(link, panel, labels);
