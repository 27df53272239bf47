// SPDX-License-Identifier: Apache-2.0
// STOP: pressed, it asks again and again until the motion node itself says that the arm has stopped.

const AGAIN_MS = 300;
const PATIENCE_MS = 1500;
const at = (id) => document.getElementById(id);

export class Stop {
  constructor(link) {
    this.link = link;
    this.mode = "unknown";
    this.pressedAt = 0;
    this.pressed = false;
    this.refused = "";
    at("stop").addEventListener("pointerdown", () => this.press());
    at("stop").addEventListener("click", () => this.press()); // Enter, and assistive technology
    for (const kind of ["keydown", "keyup"]) window.addEventListener(kind, (event) => this.key(event), true);
    setInterval(() => this.again(), AGAIN_MS);
    at("reset").onclick = () => this.ask(true);
    at("reset-no").onclick = () => this.ask(false);
    at("reset-yes").onclick = () => {
      this.ask(false);
      this.link.send({ type: "reset" });
    };
    this.show();
  }

  key(event) {
    const types = event.target.matches?.("input") && event.code === "Space";
    if (types || (event.code !== "Escape" && event.code !== "Space")) return;
    event.preventDefault();
    event.stopPropagation();
    if (event.type === "keydown" && !event.repeat) this.press();
  }

  press() {
    if (!this.pressed) this.pressedAt = performance.now();
    this.pressed = true;
    this.refused = "";
    this.link.stop();
    this.show();
  }

  again() {
    if (this.pressed) {
      this.link.stop();
      this.show();
    }
  }

  answered({ ok, text }) {
    this.refused = ok ? "" : text;
    this.show();
  }

  /** What the motion node says; "unknown" without a fresh state. */
  set(mode, controls) {
    this.mode = mode;
    this.controls = controls;
    if (mode === "stopped" || mode === "fault") this.pressed = false;
    this.show();
  }

  ask(sure) {
    at("reset-sure").hidden = !sure;
    at("reset").hidden = sure;
    if (sure) at("reset-no").focus();
  }

  show() {
    const late = this.pressed && performance.now() - this.pressedAt > PATIENCE_MS;
    const held = this.mode === "stopped" || this.mode === "fault";
    let [state, text, note] = ["ready", "STOP", "Escape or Space"];
    if (held) [state, text, note] = ["stopped", this.mode.toUpperCase(), "stays until reset"];
    else if (this.pressed) [state, text, note] = ["pressed", "STOPPING …", "until the arm says so"];
    if (this.pressed && (late || this.refused) && !held) {
      [state, text] = ["lost", "NOT CONFIRMED"];
      note = this.refused || "use the emergency stop";
    }
    if (!this.link.ready) [state, text, note] = ["lost", "NO CONNECTION", "use the emergency stop"];
    at("stop").dataset.state = state;
    at("stop-text").textContent = text;
    at("stop-note").textContent = note;
    const may = held && this.controls;
    if (!may) at("reset-sure").hidden = true;
    at("reset").hidden = !may || !at("reset-sure").hidden;
  }
}
