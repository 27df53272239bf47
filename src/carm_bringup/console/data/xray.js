// SPDX-License-Identifier: Apache-2.0
// The X-ray: newest image or one of the session, window and level, zoom, sides of the patient.

import { Overlays } from "/page/overlays.js";

const LIVE_S = 1.0;
const CLICK_PX = 5;
const KEPT = 24;
const grayOf = (value) => (765 / 65535) * value - 255; // 16 bits stand for grays from -255 to 510
const at = (id) => document.getElementById(id);

export class Xray {
  /** @param {{point: Function, landmark: Function, painted: Function}} on what to do on a click, and after drawing */
  constructor(on) {
    this.on = on;
    this.canvas = at("image");
    this.source = document.createElement("canvas");
    this.newest = null; // {about, blob}
    this.shown = null; // about of what is shown
    this.old = ""; // id of the exposure that is shown instead of the newest
    this.before = 0; // when the image before the newest came, s
    this.series = null; // whether fluoroscopy runs; null: the X-ray system does not say
    this.decoding = false;
    this.deep = null; // {id, values}: 16 bits of what is shown, once its window is changed
    this.inverted = false;
    this.overlays = new Overlays(this);
    this.reset();
    this.listen();
    new ResizeObserver(() => this.place()).observe(at("stage"));
    setInterval(() => this.caption(), 250);
  }

  // Images

  async show(about, blob) {
    this.before = this.newest?.about.time ?? 0;
    this.newest = { about, blob };
    if (!this.old) await this.decode();
  }

  /** Decodes the newest image only: while one is decoded, others may come and go. */
  async decode() {
    if (this.decoding) return;
    this.decoding = true;
    try {
      let last = null;
      while (!this.old && this.newest !== last) {
        last = this.newest;
        await this.draw(last.about, last.blob);
      }
    } finally {
      this.decoding = false;
    }
  }

  async draw(about, blob) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(blob);
    } catch {
      return; // a damaged image; the next one comes
    }
    const { width, height } = bitmap;
    if (this.source.width !== width || this.source.height !== height || !this.pixels) {
      for (const canvas of [this.source, this.canvas]) [canvas.width, canvas.height] = [width, height];
      at("overlay").setAttribute("viewBox", `-0.5 -0.5 ${width} ${height}`);
      this.place();
    }
    const context = this.source.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    this.pixels = context.getImageData(0, 0, width, height).data;
    if (this.deep?.id !== about.id) this.deep = null;
    this.shown = about;
    this.paint();
    this.overlays.draw();
    this.caption();
    document.body.dataset.image = about.id;
  }

  /** Adds an exposure to the strip. */
  add(about) {
    const strip = at("strip");
    if (strip.querySelector(`[data-id="${CSS.escape(about.id)}"]`)) return;
    const item = document.createElement("li");
    const button = document.createElement("button");
    const picture = document.createElement("img");
    const label = document.createElement("span");
    label.textContent = new Date(1000 * about.time).toLocaleTimeString([], { hour12: false });
    picture.src = `/exposures/${encodeURIComponent(about.id)}`;
    picture.alt = `Exposure of ${label.textContent}`;
    button.dataset.id = about.id;
    button.onclick = () => this.back(about);
    [button.dataset.left, button.dataset.right] = [about.sides?.left ?? "", about.sides?.right ?? ""];
    button.append(picture, label);
    item.append(button);
    strip.append(item);
    while (strip.children.length > KEPT) strip.firstChild.remove();
    strip.scrollLeft = strip.scrollWidth;
  }

  async back(about) {
    const answer = await fetch(`/exposures/${encodeURIComponent(about.id)}`);
    if (!answer.ok) return;
    this.old = about.id;
    this.current();
    await this.draw(about, await answer.blob());
  }

  async live() {
    this.old = "";
    this.current();
    if (this.newest) await this.draw(this.newest.about, this.newest.blob);
  }

  current() {
    at("live").hidden = !this.old;
    for (const button of at("strip").querySelectorAll("button"))
      button.setAttribute("aria-current", String(button.dataset.id === this.old));
  }

  caption() {
    const about = this.shown;
    const hold = at("hold");
    if (!about) return;
    const age = Date.now() / 1000 - about.time;
    const live = age < LIVE_S && (this.series ?? about.time - this.before < LIVE_S);
    const when = new Date(1000 * about.time).toLocaleTimeString([], { hour12: false });
    hold.textContent = this.old ? `EARLIER EXPOSURE ${when}` : live ? "● LIVE" : `LAST IMAGE HOLD ${when}`;
    for (const side of ["left", "right", "top", "bottom"])
      at(`side-${side}`).textContent = about.sides?.[side] ?? "";
    at("window").textContent = `window ${Math.round(this.width)} level ${Math.round(this.level)} zoom ${this.zoom.toFixed(1)}`;
  }

  // Window and level: gray values from level - width / 2 to level + width / 2 become black to white

  paint() {
    if (!this.pixels) return;
    const { width, height } = this.canvas;
    const image = this.deep ? this.windowedDeep(this.deep, width, height) : this.windowed(this.pixels, width, height);
    this.canvas.getContext("2d").putImageData(image, 0, 0);
    document.body.dataset.deep = this.deep?.id ?? "";
    this.on.painted();
  }

  /** Gets 16 bits of an image whose window is changed: finer than 8, and beyond their black and white. */
  async deepen() {
    const { id } = this.shown;
    if (this.asked === id) return;
    this.asked = id;
    const answer = await fetch(`/signal/${encodeURIComponent(id)}`).catch(() => null);
    if (!answer?.ok) return; // of fluoroscopy, or no longer kept: 8 bits have to do
    const values = new Uint16Array(await answer.arrayBuffer());
    const fits = Number(answer.headers.get("X-Columns")) === this.canvas.width && Number(answer.headers.get("X-Rows")) === this.canvas.height;
    if (this.shown.id !== id || !fits) return;
    this.deep = { id, values, ...this.matched(values) };
    this.paint();
  }

  /** How the grays of 16 bits become those of the display image, which the X-ray system may have processed: a line. */
  matched(values) {
    let [count, sumX, sumY, sumXX, sumXY] = [0, 0, 0, 0, 0];
    for (let index = 0; index < values.length; index += 7) {
      const [x, y] = [grayOf(values[index]), this.pixels[4 * index]];
      if (y < 5 || y > 250) continue; // cut off
      [count, sumX, sumY, sumXX, sumXY] = [count + 1, sumX + x, sumY + y, sumXX + x * x, sumXY + x * y];
    }
    const spread = count * sumXX - sumX * sumX;
    const slope = spread > 0 ? (count * sumXY - sumX * sumY) / spread : 1;
    return slope > 0.2 && slope < 5 ? { slope, offset: (sumY - slope * sumX) / count } : { slope: 1, offset: 0 };
  }

  windowedDeep({ values, slope, offset }, width, height) {
    const table = new Uint8ClampedArray(65536);
    for (let value = 0; value < 65536; value++) table[value] = this.toned(slope * grayOf(value) + offset);
    return this.colored(values, 1, table, width, height);
  }

  /** @param {number} stride values for one pixel, of which the first is its gray */
  colored(values, stride, table, width, height) {
    const painted = new ImageData(width, height);
    const words = new Uint32Array(painted.data.buffer);
    for (let index = 0; index < words.length; index++)
      words[index] = 0xff000000 | (table[values[stride * index]] * 0x010101);
    return painted;
  }

  toned(value) {
    const gray = Math.min(255, Math.max(0, 255 * ((value - this.level) / this.width + 0.5)));
    return this.inverted ? 255 - gray : gray;
  }

  windowed(pixels, width, height) {
    const table = new Uint8ClampedArray(256);
    for (let value = 0; value < 256; value++) table[value] = this.toned(value);
    return this.colored(pixels, 4, table, width, height);
  }

  tune(width, level) {
    if (this.shown) this.deepen();
    this.width = Math.min(512, Math.max(4, this.width + width));
    this.level = Math.min(300, Math.max(-44, this.level + level));
    this.paint();
    this.caption();
  }

  // Zoom

  reset() {
    [this.width, this.level, this.zoom, this.pan] = [255, 127.5, 1, [0, 0]];
    this.paint();
    this.place();
    this.caption();
  }

  magnify(factor, x = at("stage").clientWidth / 2, y = at("stage").clientHeight / 2) {
    const zoom = Math.min(8, Math.max(1, this.zoom * factor));
    const share = zoom / this.zoom;
    const [left, top] = this.corner();
    const [x0, y0] = [x - (x - left) * share, y - (y - top) * share];
    this.zoom = zoom;
    const [homeX, homeY] = this.home();
    this.pan = zoom === 1 ? [0, 0] : [x0 - homeX, y0 - homeY];
    this.place();
    this.caption();
  }

  fitted() {
    const { clientWidth, clientHeight } = at("stage");
    return Math.min(clientWidth / this.canvas.width, clientHeight / this.canvas.height);
  }

  /** Pixels of the screen for one of the image. */
  get scale() {
    return this.fitted() * this.zoom;
  }

  home() {
    const { clientWidth, clientHeight } = at("stage");
    const scale = this.scale;
    return [(clientWidth - this.canvas.width * scale) / 2, (clientHeight - this.canvas.height * scale) / 2];
  }

  corner() {
    const [x, y] = this.home();
    return [x + this.pan[0], y + this.pan[1]];
  }

  place() {
    const layers = at("layers");
    const scale = this.scale;
    const [x, y] = this.corner();
    layers.style.width = `${this.canvas.width * scale}px`;
    layers.style.height = `${this.canvas.height * scale}px`;
    layers.style.transform = `translate(${x}px, ${y}px)`;
    this.overlays.draw();
  }

  pixelAt(x, y) {
    const box = at("layers").getBoundingClientRect();
    const scale = box.width / this.canvas.width;
    return [(x - box.left) / scale - 0.5, (y - box.top) / scale - 0.5];
  }

  // Mouse, touch and keys

  listen() {
    const stage = at("stage");
    const fingers = new Map();
    let [moved, pinch] = [0, 0];
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    stage.addEventListener("pointerdown", (event) => {
      stage.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 1) moved = 0;
      pinch = 0;
    });
    stage.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      const [dx, dy] = [event.clientX - last[0], event.clientY - last[1]];
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      moved += Math.abs(dx) + Math.abs(dy);
      if (fingers.size === 2) {
        const [[x1, y1], [x2, y2]] = [...fingers.values()];
        const apart = Math.hypot(x1 - x2, y1 - y2);
        const box = stage.getBoundingClientRect();
        if (pinch) this.magnify(apart / pinch, (x1 + x2) / 2 - box.left, (y1 + y2) / 2 - box.top);
        pinch = apart;
      } else if (event.buttons & 2 || event.shiftKey) {
        this.pan = [this.pan[0] + dx, this.pan[1] + dy];
        this.place();
      } else if (moved > CLICK_PX) this.tune(dx, -dy / 2);
    });
    stage.addEventListener("pointerup", (event) => {
      const single = fingers.size === 1;
      fingers.delete(event.pointerId);
      if (single && moved <= CLICK_PX && event.button === 0) this.click(event.clientX, event.clientY);
    });
    stage.addEventListener("pointercancel", (event) => fingers.delete(event.pointerId));
    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = stage.getBoundingClientRect();
      this.magnify(event.deltaY < 0 ? 1.2 : 1 / 1.2, event.clientX - box.left, event.clientY - box.top);
    }, { passive: false });
    const keys = {
      ArrowLeft: () => this.tune(-8, 0), ArrowRight: () => this.tune(8, 0),
      ArrowUp: () => this.tune(0, 4), ArrowDown: () => this.tune(0, -4),
      "+": () => this.magnify(1.25), "=": () => this.magnify(1.25), "-": () => this.magnify(0.8),
      0: () => this.reset(), i: () => this.invert(),
    };
    stage.addEventListener("keydown", (event) => {
      const act = !event.ctrlKey && !event.metaKey && keys[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    at("zoom-in").onclick = keys["+"];
    at("zoom-out").onclick = keys["-"];
    at("fit").onclick = keys[0];
    at("invert").onclick = keys.i;
    at("live").onclick = () => this.live();
  }

  invert() {
    this.inverted = !this.inverted;
    at("invert").setAttribute("aria-pressed", String(this.inverted));
    this.paint();
  }

  click(x, y) {
    if (!this.shown) return;
    const [column, row] = this.pixelAt(x, y);
    const { width, height } = this.canvas;
    if (column < 0 || row < 0 || column > width - 1 || row > height - 1) return;
    const near = 14 / this.scale;
    const hits = this.overlays.visible.map((mark) => [Math.hypot(mark.pixel[0] - column, mark.pixel[1] - row), mark.name]);
    const [distance, name] = hits.sort((a, b) => a[0] - b[0])[0] ?? [Infinity, ""];
    if (distance < near) this.on.landmark(name);
    else this.on.point(this.shown.id, [column, row]);
  }
}
