// Mouse, touch and keyboard that move the camera of a 3D view.

const TURN = 0.008; // radians a pixel
const STEP = 0.12; // radians, and shares of the view, of an arrow key
const CLOSER = 0.85;
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

// moved: called after each change.
export function pointers(canvas, camera, moved) {
  const held = new Map(); // pointers that are down: where each was last

  function drag(event) {
    const before = held.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const [right, down] = [now[0] - before[0], now[1] - before[1]];
    if (held.size === 2) pinch(event.pointerId, before, now);
    else if (event.buttons & 6 || event.shiftKey || event.ctrlKey) shift(right, down);
    else camera.turn(right * TURN, down * TURN);
    held.set(event.pointerId, now);
    moved();
  }

  // What was gripped stays under the pointer.
  function shift(right, down) {
    const high = canvas.clientHeight;
    const flat = Math.max(Math.sin(camera.elevation), 0.25);
    camera.pan(-right / high, down / high / flat);
  }

  // Two fingers: apart is closer, together along is along.
  function pinch(id, before, now) {
    const other = [...held].find(([key]) => key !== id)[1];
    const apart = ([x, y]) => Math.hypot(x - other[0], y - other[1]) || 1;
    camera.zoom(apart(before) / apart(now));
    shift((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
  }

  canvas.onpointerdown = (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, [event.clientX, event.clientY]);
  };
  canvas.onpointermove = drag;
  canvas.onpointerup = canvas.onpointercancel = ({ pointerId }) => held.delete(pointerId);
  canvas.oncontextmenu = (event) => event.preventDefault(); // the right button moves
  canvas.onwheel = (event) => {
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    camera.zoom(Math.exp(event.deltaY * lines * 0.0012));
    moved();
  };
}

// Keys of the whole page but for its fields. acts: what further keys do, by name; moves of the
// camera need one.
export function keyboard(camera, moved, acts) {
  document.addEventListener("keydown", (event) => {
    const { key, target } = event;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (target.closest("input, select, textarea") || (key === " " && target.closest("button"))) return;
    const moves = camera && moveOf(camera, event);
    const act = moves || acts[key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
    if (moves) moved();
  });
}

function moveOf(camera, { key, shiftKey }) {
  if (key === "+" || key === "=") return () => camera.zoom(CLOSER);
  if (key === "-") return () => camera.zoom(1 / CLOSER);
  const [right, up] = ARROWS[key] ?? [];
  if (right === undefined) return null;
  return shiftKey
    ? () => camera.pan(STEP * right, STEP * up)
    : () => camera.turn(STEP * right, STEP * up);
}
