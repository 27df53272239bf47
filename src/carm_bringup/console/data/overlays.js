// SPDX-License-Identifier: Apache-2.0
// What is drawn over the X-ray, each of it switched by a button and a key: landmarks, target, field, bones of the CT.

const KEPT = 64; // images whose landmarks and bones are known
const SVG = "http://www.w3.org/2000/svg";
const KEYS = { l: "marks", g: "target", b: "bones", e: "edges" };
const at = (id) => document.getElementById(id);

export class Overlays {
  /** @param {Xray} xray whose image is drawn on */
  constructor(xray) {
    this.xray = xray;
    this.marks = new Map();
    this.contours = new Map();
    this.target = ""; // name of the landmark that is brought to the center
    this.aimed = null; // {image, pixel} of a point that was clicked
    this.on = { marks: true, target: true, bones: true, edges: true };
    for (const name of Object.keys(this.on)) at(name).onclick = () => this.toggle(name);
    at("stage").addEventListener("keydown", (event) => {
      const name = !event.ctrlKey && !event.metaKey && KEYS[event.key.toLowerCase()];
      if (!name) return;
      event.preventDefault();
      this.toggle(name);
    });
  }

  toggle(name) {
    this.on[name] = !this.on[name];
    at(name).setAttribute("aria-pressed", String(this.on[name]));
    this.draw();
    if (name === "edges") this.xray.on.painted();
  }

  setMarks(image, marks) {
    this.keep(this.marks, image, marks);
  }

  /** @param {number[][]} lines column, row, column, row ... of each */
  setContours(image, lines) {
    at("bones").hidden = false;
    this.keep(this.contours, image, lines.map((line) => `M${line.join(" ")}`).join(""));
  }

  keep(map, image, value) {
    map.set(image, value);
    if (map.size > KEPT) map.delete(map.keys().next().value);
    if (this.xray.shown?.id === image) this.draw();
  }

  /** @param {string} name of the landmark that is brought to the center; "": none */
  setTarget(name) {
    if (name === this.target) return;
    this.target = name;
    this.draw();
  }

  /** @param {{image: string, pixel: number[]} | null} point that was clicked, to be brought to the center */
  aim(point) {
    this.aimed = point;
    this.draw();
  }

  get inView() {
    const marks = (this.xray.shown && this.marks.get(this.xray.shown.id)) || [];
    return marks.filter((mark) => mark.in_view && mark.pixel[0] !== null && mark.pixel[1] !== null);
  }

  /** Landmarks that can be clicked. */
  get visible() {
    return this.on.marks ? this.inView : [];
  }

  draw() {
    const scale = this.xray.scale || 1; // pixels of the screen for one of the image
    const shown = this.xray.shown;
    const elements = [];
    const bones = this.on.bones && shown && this.contours.get(shown.id);
    if (bones) elements.push(drawn("path", { d: bones, class: "bones back" }), drawn("path", { d: bones, class: "bones" }));
    for (const { name, pixel, radius_mm: radius } of this.visible) {
      const [x, y] = pixel;
      if (radius !== null && shown.mm_per_px) elements.push(drawn("circle", { cx: x, cy: y, r: radius / shown.mm_per_px }));
      const arm = 6 / scale;
      elements.push(drawn("path", { d: `M${x - arm} ${y}h${2 * arm}M${x} ${y - arm}v${2 * arm}` }));
      const aside = this.on.target && name === this.target ? 3.2 : 1.4; // beside the target's frame
      elements.push(label(name, x + aside * arm, y - arm, 14 / scale, scale));
    }
    if (this.on.target) elements.push(...this.drawTarget(shown, scale));
    at("overlay").replaceChildren(...elements);
  }

  /** A frame around the target, and how far it is from the center. */
  drawTarget(shown, scale) {
    const mark = this.inView.find(({ name }) => name === this.target);
    const aimed = this.aimed && this.aimed.image === shown?.id ? this.aimed.pixel : null;
    if (!aimed && !mark) return [];
    const [x, y] = aimed ?? mark.pixel;
    const [cx, cy] = [(this.xray.canvas.width - 1) / 2, (this.xray.canvas.height - 1) / 2];
    const off = Math.hypot(x - cx, y - cy);
    const half = 16 / scale;
    const far = shown.mm_per_px ? ` ${Math.round(off * shown.mm_per_px)} mm to the center` : "";
    const elements = [drawn("path", { d: `M${x - half} ${y - half}h${2 * half}v${2 * half}h${-2 * half}z`, class: "target" })];
    if (off > 2 * half) elements.push(drawn("path", { d: `M${x} ${y}L${cx} ${cy}`, class: "target way" }));
    const text = label(`TARGET:${far}`, x, y + 2.1 * half, 15 / scale, scale);
    text.setAttribute("text-anchor", x > 1.4 * cx ? "end" : x < 0.6 * cx ? "start" : "middle");
    text.setAttribute("class", "target");
    return [...elements, text];
  }
}

function label(words, x, y, size, scale) {
  const text = drawn("text", { x, y, "font-size": size });
  text.style.strokeWidth = `${3 / scale}px`;
  text.textContent = words;
  return text;
}

function drawn(kind, attributes) {
  const element = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}
