// Lines of the things in a 3D view of a sweep, ten numbers each: from, to, and a colour with
// its opacity.

const EDGES = [
  [0, 1], [1, 2], [2, 3], [3, 0],
  [4, 5], [5, 6], [6, 7], [7, 4],
  [0, 4], [1, 5], [2, 6], [3, 7],
];
const MOVING = 0.5; // m/s; slower things get no line of where they go

// box: x, y, z of the centre, length, width, height, heading (radians, counter-clockwise from x).
// Corners counter-clockwise from the front left, below, then above.
export function corners([x, y, z, length, width, height, heading]) {
  const [cosine, sine] = [Math.cos(heading), Math.sin(heading)];
  const outline = [[1, 1], [-1, 1], [-1, -1], [1, -1]];
  return [-1, 1].flatMap((up) =>
    outline.map(([ahead, left]) => {
      const [l, w] = [(ahead * length) / 2, (left * width) / 2];
      return [x + l * cosine - w * sine, y + l * sine + w * cosine, z + (up * height) / 2];
    }),
  );
}

// The edges, an arrow on the ground ahead of the front, and a line as long as a second's way.
export function boxLines({ box, velocity }, colour) {
  const places = corners(box);
  const lines = EDGES.flatMap(([from, to]) => [...places[from], ...places[to], ...colour, 1]);
  const [x, y, z, length, , height, heading] = box;
  const ground = z - height / 2;
  const [cosine, sine] = [Math.cos(heading), Math.sin(heading)];
  const reach = length / 2 + Math.max(0.3 * length, 0.3);
  const tip = [x + reach * cosine, y + reach * sine, ground];
  const front = [x + (length / 2) * cosine, y + (length / 2) * sine, ground];
  for (const from of [front, places[0], places[3]]) lines.push(...from, ...tip, ...colour, 0.9);
  const [right, up] = velocity ?? [0, 0];
  if (Math.hypot(right, up) > MOVING) {
    const top = z + height / 2;
    lines.push(x, y, top, x + right, y + up, top, 1, 1, 1, 0.9);
  }
  return lines;
}

// Metres between two lines of a grid: 1, 2 or 5 times a power of ten, some 15 over the range.
export function gridStep([x0, y0, , x1, y1]) {
  const wanted = Math.max(x1 - x0, y1 - y0) / 15;
  const power = 10 ** Math.floor(Math.log10(wanted));
  return power * ([1, 2, 5].find((factor) => factor * power >= wanted * 0.999) ?? 10);
}

// The range on the ground, with a cross of x (red) and y (green) where the sensor is.
export function groundLines(reach, ground) {
  const [x0, y0, , x1, y1] = reach;
  const step = gridStep(reach);
  const lines = [];
  const line = (fromX, fromY, toX, toY, colour) =>
    lines.push(fromX, fromY, ground, toX, toY, ground, ...colour);
  const faint = [0.35, 0.45, 0.55, 0.35];
  for (let x = Math.ceil(x0 / step) * step; x <= x1; x += step) line(x, y0, x, y1, faint);
  for (let y = Math.ceil(y0 / step) * step; y <= y1; y += step) line(x0, y, x1, y, faint);
  const border = [0.5, 0.62, 0.75, 0.8];
  for (const [a, b, c, d] of [[x0, y0, x1, y0], [x1, y0, x1, y1], [x1, y1, x0, y1], [x0, y1, x0, y0]])
    line(a, b, c, d, border);
  line(0, 0, step / 4, 0, [1, 0.35, 0.35, 1]);
  line(0, 0, 0, step / 4, [0.4, 0.95, 0.5, 1]);
  return lines;
}
