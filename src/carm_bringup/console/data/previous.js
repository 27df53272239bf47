// SPDX-License-Identifier: Apache-2.0
// The exposure before the one that is shown, beside it, in the same window and level.

const at = (id) => document.getElementById(id);

export class Previous {
  /** @param {Xray} xray that shows the newer image */
  constructor(xray) {
    this.xray = xray;
    this.on = false;
    this.id = ""; // of the exposure that is shown here
    this.pixels = null;
    at("compare").onclick = () => this.toggle();
    at("stage").addEventListener("keydown", (event) => {
      if (event.key.toLowerCase() !== "p" || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      this.toggle();
    });
  }

  toggle() {
    this.on = !this.on;
    at("compare").setAttribute("aria-pressed", String(this.on));
    at("previous").hidden = !this.on;
    this.update();
  }

  /** The exposure before the one that is shown; before an image of a series, the newest exposure. */
  before() {
    const items = [...at("strip").querySelectorAll("button")];
    const place = items.findIndex((item) => item.dataset.id === this.xray.shown?.id);
    return items.at(place < 0 ? -1 : place === 0 ? items.length : place - 1);
  }

  async update() {
    if (!this.on) return;
    const item = this.before();
    const id = item?.dataset.id ?? "";
    if (id !== this.id) {
      this.id = id;
      this.pixels = null;
      if (id) await this.load(id);
    }
    this.paint();
    for (const side of ["left", "right"]) at(`previous-${side}`).textContent = (this.pixels && item?.dataset[side]) || "";
    at("previous-text").textContent = this.pixels ? `BEFORE ${item?.textContent ?? ""}` : "no exposure before this one";
  }

  async load(id) {
    const answer = await fetch(`/exposures/${encodeURIComponent(id)}`);
    if (!answer.ok) return;
    const bitmap = await createImageBitmap(await answer.blob());
    if (id !== this.id) return; // another one is wanted by now
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0);
    this.pixels = context.getImageData(0, 0, bitmap.width, bitmap.height);
    bitmap.close();
  }

  paint() {
    const canvas = at("previous-image");
    canvas.hidden = !this.pixels;
    if (!this.pixels) return;
    [canvas.width, canvas.height] = [this.pixels.width, this.pixels.height];
    canvas.getContext("2d").putImageData(this.xray.windowed(this.pixels.data, canvas.width, canvas.height), 0, 0);
  }
}
