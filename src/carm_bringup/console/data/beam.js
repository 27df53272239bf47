// SPDX-License-Identifier: Apache-2.0
// Fluoroscopy while a button or key is held. The server ends it too, when this page no longer says that it is held.

const RENEW_MS = 150;
const GRACE_MS = 500; // from the press until the state has to say that the beam is on
const at = (id) => document.getElementById(id);

export class Beam {
  /** @param {(message: object) => boolean} send returns whether there is a connection */
  constructor(send) {
    this.send = send;
    this.held = false;
    this.by = null;
    this.pressedAt = 0;
    this.timer = 0;
    this.owner = 0;
    const button = at("beam");
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      this.press(button);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"])
      button.addEventListener(kind, () => this.release());
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // of a long touch
    for (const [element, code] of [[button, "Enter"], [at("stage"), "KeyF"]]) {
      element.addEventListener("keydown", (event) => {
        if (event.code !== code || event.ctrlKey || event.metaKey) return;
        event.preventDefault();
        if (!event.repeat) this.press(element);
      });
      element.addEventListener("keyup", (event) => event.code === code && this.release());
      element.addEventListener("blur", () => element === this.by && this.release()); // a press of the button takes the focus
    }
    for (const kind of ["blur", "pagehide"]) window.addEventListener(kind, () => this.release());
    document.addEventListener("visibilitychange", () => document.hidden && this.release());
  }

  /** @param {Element} by which element is pressed, or has the focus while a key is */
  press(by) {
    if (this.held || at("beam").disabled || !this.send({ type: "beam" })) return;
    this.held = true;
    this.by = by;
    this.pressedAt = performance.now();
    this.timer = setInterval(() => this.send({ type: "hold" }) || this.drop(), RENEW_MS);
    this.show();
  }

  release() {
    if (!this.held) return;
    this.send({ type: "release" });
    this.drop();
  }

  /** It has ended elsewhere, or there is no connection: to go on, press anew. */
  drop() {
    this.held = false;
    clearInterval(this.timer);
    this.show();
  }

  /** @param {number} owner number of the page that holds the switch; 0: none
   *  @param {number} number of this page */
  state(owner, number) {
    this.owner = owner;
    if (this.held && owner !== number && performance.now() - this.pressedAt > GRACE_MS) this.drop();
    this.show();
  }

  control(controls) {
    at("beam").disabled = !controls;
    if (!controls && this.held) this.drop();
  }

  show() {
    const text = this.held ? "● X-RAY ON" : this.owner ? "● X-ray on" : "Fluoroscopy: hold";
    if (at("beam").textContent !== text) at("beam").textContent = text;
    at("beam").dataset.on = String(this.held || Boolean(this.owner));
  }
}
