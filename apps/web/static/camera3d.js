// Where a 3D view is seen from: an eye that turns around a target. z points up, as in sweeps.
// Matrices are 16 numbers, column after column, as WebGL takes them.

const FIELD = (50 * Math.PI) / 180; // the angle that the view's height spans
const STEEPEST = 1.55; // radians; at a right angle the sides of the picture would be undefined

export class Camera {
  azimuth = 0; // of the eye, seen from the target; radians, counter-clockwise from x
  elevation = 0;
  distance = 1;
  target = [0, 0, 0];
  #size = 1; // of what there is to see

  // extent: least x and y of what there is to see, then greatest. From behind, a little to the
  // right, as who drives along x would see it; or from above, x pointing up.
  reset([x0, y0, x1, y1], above = false) {
    this.#size = Math.max(x1 - x0, y1 - y0);
    this.target = [(x0 + x1) / 2, (y0 + y1) / 2, this.target[2]];
    this.azimuth = above ? Math.PI : Math.PI + 0.35;
    this.elevation = above ? STEEPEST : 0.62;
    this.distance = this.#size * (above ? 1.35 : 0.8);
  }

  turn(right, up) {
    this.azimuth -= right;
    this.elevation = Math.min(Math.max(this.elevation + up, -0.2), STEEPEST);
  }

  zoom(factor) {
    const distance = this.distance * factor;
    this.distance = Math.min(Math.max(distance, this.#size / 500), this.#size * 4);
  }

  // Along the ground; in shares of the view's height.
  pan(right, ahead) {
    const metres = 2 * this.distance * Math.tan(FIELD / 2);
    const [cosine, sine] = [Math.cos(this.azimuth), Math.sin(this.azimuth)];
    this.target[0] += metres * (-sine * right - cosine * ahead);
    this.target[1] += metres * (cosine * right - sine * ahead);
  }

  get eye() {
    const level = this.distance * Math.cos(this.elevation);
    const [x, y, z] = this.target;
    return [
      x + level * Math.cos(this.azimuth),
      y + level * Math.sin(this.azimuth),
      z + this.distance * Math.sin(this.elevation),
    ];
  }

  // From places in metres to clip space; aspect: width by height.
  matrix(aspect) {
    const near = this.distance / 100;
    return product(perspective(aspect, near, this.distance + 8 * this.#size), this.#view());
  }

  #view() {
    const [ca, sa] = [Math.cos(this.azimuth), Math.sin(this.azimuth)];
    const [ce, se] = [Math.cos(this.elevation), Math.sin(this.elevation)];
    const axes = [
      [-sa, ca, 0], // right
      [-ca * se, -sa * se, ce], // up
      [ca * ce, sa * ce, se], // back, towards the eye
    ];
    const eye = this.eye;
    const moved = axes.map((axis) => -axis.reduce((sum, one, i) => sum + one * eye[i], 0));
    const columns = [0, 1, 2].map((i) => [...axes.map((axis) => axis[i]), 0]);
    return [...columns.flat(), ...moved, 1];
  }
}

function perspective(aspect, near, far) {
  const high = 1 / Math.tan(FIELD / 2);
  const depth = near - far;
  return [
    high / aspect, 0, 0, 0,
    0, high, 0, 0,
    0, 0, (far + near) / depth, -1,
    0, 0, (2 * far * near) / depth, 0,
  ];
}

function product(a, b) {
  const out = new Float32Array(16);
  for (let column = 0; column < 4; column++)
    for (let row = 0; row < 4; row++)
      for (let k = 0; k < 4; k++) out[4 * column + row] += a[4 * k + row] * b[4 * column + k];
  return out;
}

// Where a place is in the picture: x, y from -1 to 1 (up), and its depth; null behind the eye.
export function project(matrix, [x, y, z]) {
  const [px, py, , w] = [0, 1, 2, 3].map(
    (row) => matrix[row] * x + matrix[4 + row] * y + matrix[8 + row] * z + matrix[12 + row],
  );
  return w > 0 ? [px / w, py / w, w] : null;
}
