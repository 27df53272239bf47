// SPDX-License-Identifier: Apache-2.0
// The collimated field: dragged on the image, symmetric about its center as the blades of a C-arm are.

const LEAST_MM = 20;
const STEP_MM = 10;
const WHOLE = 0.99; // more of both sides is the whole detector
const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);

export class Collimation {
  /** @param {Xray} xray whose image is dragged on
   *  @param {(message: object) => void} send */
  constructor(xray, send) {
    this.xray = xray;
    this.send = send;
    this.field = [0, 0]; // mm, as the server says
    this.dragged = null; // mm, while a pointer is down
    this.pointer = null;
    this.on = false;
    const stage = at("stage");
    const own = (kind, act) => stage.addEventListener(kind, act, true); // ahead of window, level and zoom
    own("pointerdown", (event) => this.down(event));
    own("pointermove", (event) => this.move(event));
    own("pointerup", (event) => this.up(event, true));
    own("pointercancel", (event) => this.up(event, false));
    own("keydown", (event) => this.key(event));
    at("collimate").onclick = () => this.toggle();
    at("whole").onclick = () => this.send({ type: "field", size: [0, 0] });
    new ResizeObserver(() => this.draw()).observe(at("layers"));
  }

  get scale() {
    return this.xray.shown?.mm_per_px;
  }

  get largest() {
    return [this.xray.canvas.width * this.scale, this.xray.canvas.height * this.scale];
  }

  toggle() {
    if (at("collimate").disabled) return;
    this.on = !this.on;
    at("collimate").setAttribute("aria-pressed", String(this.on));
    at("stage").dataset.collimating = String(this.on);
    this.draw();
  }

  control(controls) {
    at("collimate").disabled = at("whole").disabled = !controls;
    if (!controls && this.on) {
      this.on = false;
      at("collimate").setAttribute("aria-pressed", "false");
      at("stage").dataset.collimating = "false";
    }
    if (!controls) this.pointer = this.dragged = null;
    this.draw();
  }

  state(field) {
    if (String(field) === String(this.field)) return;
    this.field = field;
    this.draw();
  }

  bounded(size) {
    const largest = this.largest;
    if (size.every((side, axis) => side >= WHOLE * largest[axis])) return [0, 0];
    return size.map((side, axis) => Math.floor(10 * Math.min(largest[axis], Math.max(LEAST_MM, side))) / 10);
  }

  down(event) {
    const wanted = this.on || (event.ctrlKey && !at("collimate").disabled);
    if (!wanted || event.button !== 0 || !this.scale || this.pointer !== null) return;
    event.stopImmediatePropagation();
    event.preventDefault();
    at("stage").focus();
    at("stage").setPointerCapture(event.pointerId);
    this.pointer = event.pointerId;
  }

  move(event) {
    if (event.pointerId !== this.pointer) return;
    event.stopImmediatePropagation();
    const [column, row] = this.xray.pixelAt(event.clientX, event.clientY);
    const { width, height } = this.xray.canvas;
    const size = [Math.abs(2 * column - width + 1), Math.abs(2 * row - height + 1)].map((side) => side * this.scale);
    this.dragged = this.bounded(size);
    this.draw();
  }

  up(event, done) {
    if (event.pointerId !== this.pointer) return;
    event.stopImmediatePropagation();
    if (done && this.dragged) this.send({ type: "field", size: this.dragged });
    this.pointer = this.dragged = null;
    this.draw();
  }

  key(event) {
    if (event.ctrlKey || event.metaKey) return;
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const step = this.on && this.scale && steps[event.key];
    if (event.key.toLowerCase() === "c") this.toggle();
    else if (step) {
      const present = this.field[0] ? this.field : this.largest;
      this.send({ type: "field", size: this.bounded(present.map((side, axis) => side + STEP_MM * step[axis])) });
    } else return;
    event.preventDefault();
    event.stopImmediatePropagation();
  }

  draw() {
    const [width, height] = this.dragged ?? this.field;
    at("whole").hidden = !this.field[0];
    const layer = at("field");
    const columns = this.xray.canvas.width;
    const rows = this.xray.canvas.height;
    const wanted = this.on || this.dragged || this.xray.overlays.on.edges;
    if (!width || !this.scale || !wanted) {
      layer.replaceChildren();
      return;
    }
    layer.setAttribute("viewBox", `-0.5 -0.5 ${columns} ${rows}`);
    const unit = columns / (at("layers").clientWidth || columns); // a pixel of the screen, in those of the image
    const [w, h] = [width / this.scale, height / this.scale];
    const [x, y] = [(columns - 1 - w) / 2, (rows - 1 - h) / 2];
    const edges = `M${x} ${y}h${w}v${h}h${-w}z`;
    const parts = [["path", { d: edges, class: "edges" }]];
    if (this.dragged) parts.unshift(["path", { d: `M-1 -1h${columns + 2}v${rows + 2}h${-columns - 2}z${edges}`, class: "outside" }]);
    const elements = parts.map(([kind, attributes]) => {
      const element = document.createElementNS(SVG, kind);
      for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
      return element;
    });
    const label = document.createElementNS(SVG, "text");
    for (const [name, value] of Object.entries({ x: x + 6 * unit, y: y + h - 8 * unit, "font-size": 14 * unit })) label.setAttribute(name, value);
    label.style.strokeWidth = `${3 * unit}px`;
    label.textContent = `field ${Math.round(width)} × ${Math.round(height)} mm`;
    layer.replaceChildren(...elements, label);
  }
}
