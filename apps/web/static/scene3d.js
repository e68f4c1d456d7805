// Points and lines in WebGL 2. Lines are quads of a width in pixels, since most browsers draw
// WebGL's own no wider than one.

const POINTS = `#version 300 es
layout(location = 0) in vec3 place;  // in units of the sweep
layout(location = 1) in float intensity;
uniform mat4 matrix;
uniform float unit, size;
uniform vec2 heights;
uniform bool shaded;
out vec3 tint;

vec3 ramp(float share) {
  vec3 colours[5] = vec3[](vec3(.24, .32, .50), vec3(.16, .58, .82), vec3(.24, .80, .62),
                           vec3(.93, .85, .36), vec3(1., .52, .30));
  float at = clamp(share, 0., 1.) * 4.;
  int below = min(int(at), 3);
  return mix(colours[below], colours[below + 1], at - float(below));
}

void main() {
  vec3 metres = place * unit;
  gl_Position = matrix * vec4(metres, 1.);
  gl_PointSize = clamp(size / gl_Position.w, 1.4, 6.);
  tint = ramp(shaded ? intensity : (metres.z - heights.x) / (heights.y - heights.x));
}`;

const POINT = `#version 300 es
precision mediump float;
in vec3 tint;
out vec4 colour;
void main() { colour = vec4(tint, 1.); }`;

const LINES = `#version 300 es
layout(location = 0) in vec3 from;
layout(location = 1) in vec3 to;
layout(location = 2) in vec4 paint;
uniform mat4 matrix;
uniform vec2 screen;  // pixels
uniform float width;
out vec4 tint;

void main() {
  const float near = 1e-3;
  vec4 p = matrix * vec4(from, 1.), q = matrix * vec4(to, 1.);
  tint = paint;
  if (p.w < near && q.w < near) { gl_Position = vec4(2., 2., 2., 1.); return; }
  if (p.w < near) p = mix(q, p, (q.w - near) / (q.w - p.w));
  if (q.w < near) q = mix(p, q, (p.w - near) / (p.w - q.w));
  vec2 along = (q.xy / q.w - p.xy / p.w) * screen;
  vec2 across = length(along) > 0. ? normalize(vec2(-along.y, along.x)) : vec2(0.);
  vec4 end = (gl_VertexID & 1) == 0 ? p : q;
  float side = gl_VertexID < 2 ? -1. : 1.;
  gl_Position = end + vec4(across * side * width / screen * end.w, 0., 0.);
}`;

const LINE = `#version 300 es
precision mediump float;
in vec4 tint;
out vec4 colour;
void main() { colour = tint; }`;

const LINE_BYTES = 40; // from, to, paint: ten float32

export class Scene {
  #gl;
  #count = 0;

  // Throws where there is no WebGL 2.
  constructor(canvas) {
    this.#gl = canvas.getContext("webgl2", { antialias: true, powerPreference: "low-power" });
    if (!this.#gl) throw new Error("no WebGL 2");
    this.restore();
  }

  // Make everything anew, after the browser took it away too.
  restore() {
    const gl = this.#gl;
    gl.enable(gl.DEPTH_TEST);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0.043, 0.059, 0.078, 1);
    this.#count = 0;
    this.points = program(gl, POINTS, POINT, ["matrix", "unit", "size", "heights", "shaded"]);
    this.lines = program(gl, LINES, LINE, ["matrix", "screen", "width"]);
    this.places = gl.createBuffer();
    this.shades = gl.createBuffer();
    this.cloud = gl.createVertexArray();
    gl.bindVertexArray(this.cloud);
    attribute(gl, this.places, 0, 3, gl.SHORT, false, 6);
    attribute(gl, this.shades, 1, 1, gl.UNSIGNED_BYTE, true, 1);
    this.grid = lineBuffer(gl);
    this.boxes = lineBuffer(gl);
  }

  // places: Int16Array of x, y, z; shades: Uint8Array.
  setPoints(places, shades) {
    const gl = this.#gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.places);
    gl.bufferData(gl.ARRAY_BUFFER, places, gl.DYNAMIC_DRAW);
    gl.bindBuffer(gl.ARRAY_BUFFER, this.shades);
    gl.bufferData(gl.ARRAY_BUFFER, shades, gl.DYNAMIC_DRAW);
    this.#count = shades.length;
  }

  // which: "grid" or "boxes"; numbers: ten a line, see LINES.
  setLines(which, numbers) {
    const gl = this.#gl;
    gl.bindBuffer(gl.ARRAY_BUFFER, this[which].buffer);
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array(numbers), gl.DYNAMIC_DRAW);
    this[which].count = numbers.length / 10;
  }

  // looks: unit (metres), size (pixels of a point at 1 m), heights (metres, from the first to
  // the last colour), shaded (by intensity). ratio: pixels of the screen to one of the page.
  draw(matrix, looks, ratio) {
    const gl = this.#gl;
    const { width, height } = gl.canvas;
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.points.program);
    gl.uniformMatrix4fv(this.points.matrix, false, matrix);
    gl.uniform1f(this.points.unit, looks.unit);
    gl.uniform1f(this.points.size, looks.size * ratio);
    gl.uniform2fv(this.points.heights, looks.heights);
    gl.uniform1i(this.points.shaded, looks.shaded);
    gl.bindVertexArray(this.cloud);
    gl.drawArrays(gl.POINTS, 0, this.#count);
    gl.useProgram(this.lines.program);
    gl.uniformMatrix4fv(this.lines.matrix, false, matrix);
    gl.uniform2f(this.lines.screen, width, height);
    this.#lines(this.grid, ratio);
    this.#lines(this.boxes, 2.2 * ratio);
  }

  #lines({ array, count }, width) {
    const gl = this.#gl;
    gl.uniform1f(this.lines.width, width);
    gl.bindVertexArray(array);
    gl.drawArraysInstanced(gl.TRIANGLE_STRIP, 0, 4, count);
  }
}

function program(gl, vertex, fragment, uniforms) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, vertex], [gl.FRAGMENT_SHADER, fragment]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  // A context that was lost meanwhile links nothing; it comes back and all is made anew.
  if (!gl.getProgramParameter(made, gl.LINK_STATUS) && !gl.isContextLost()) {
    const logs = gl.getAttachedShaders(made).map((shader) => gl.getShaderInfoLog(shader));
    throw new Error(`a shader is wrong: ${logs.join(" ")}`);
  }
  const places = uniforms.map((name) => [name, gl.getUniformLocation(made, name)]);
  return { program: made, ...Object.fromEntries(places) };
}

function attribute(gl, buffer, index, size, type, normalised, stride, offset = 0) {
  gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
  gl.enableVertexAttribArray(index);
  gl.vertexAttribPointer(index, size, type, normalised, stride, offset);
}

function lineBuffer(gl) {
  const [buffer, array] = [gl.createBuffer(), gl.createVertexArray()];
  gl.bindVertexArray(array);
  for (const [index, size, offset] of [[0, 3, 0], [1, 3, 12], [2, 4, 24]]) {
    attribute(gl, buffer, index, size, gl.FLOAT, false, LINE_BYTES, offset);
    gl.vertexAttribDivisor(index, 1);
  }
  return { buffer, array, count: 0 };
}
