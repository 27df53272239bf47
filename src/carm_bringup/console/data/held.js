// SPDX-License-Identifier: Apache-2.0
// A button or key that has to be held. Whatever takes it away lets it go: release, loss of focus, a hidden page.

const RENEW_MS = 150;

export class Held {
  /** @param {Element} button pressed by mouse or finger
   *  @param {[Element, string][]} keys elements, and the code of the key that presses while they have the focus
   *  @param {{begin: () => boolean, renew: () => boolean, end: () => void, show: () => void}} on what to do at the
   *    press (returns whether it counts), every 150 ms (returns whether there is a connection), when it is let go, and
   *    when it has changed */
  constructor(button, keys, on) {
    this.on = on;
    this.down = false;
    this.by = null;
    this.since = 0;
    this.timer = 0;
    button.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      button.setPointerCapture(event.pointerId);
      this.press(button);
    });
    for (const kind of ["pointerup", "pointercancel", "lostpointercapture"])
      button.addEventListener(kind, () => this.release());
    button.addEventListener("contextmenu", (event) => event.preventDefault()); // of a long touch
    for (const [element, code] of keys) {
      element.addEventListener("keydown", (event) => {
        if (event.code !== code || event.ctrlKey || event.metaKey) return;
        const pressed = event.repeat ? this.down : this.press(element);
        if (pressed) event.preventDefault();
      });
      element.addEventListener("keyup", (event) => event.code === code && this.release());
      element.addEventListener("blur", () => element === this.by && this.release()); // a press of the button takes the focus
    }
    for (const kind of ["blur", "pagehide"]) window.addEventListener(kind, () => this.release());
    document.addEventListener("visibilitychange", () => document.hidden && this.release());
  }

  /** @param {Element} by which element is pressed, or has the focus while a key is */
  press(by) {
    if (this.down || !this.on.begin()) return false;
    this.down = true;
    this.by = by;
    this.since = performance.now();
    this.timer = setInterval(() => this.on.renew() || this.drop(), RENEW_MS);
    this.on.show();
    return true;
  }

  release() {
    if (!this.down) return;
    this.on.end();
    this.drop();
  }

  /** It has ended elsewhere, or there is no connection: to go on, press anew. */
  drop() {
    this.down = false;
    clearInterval(this.timer);
    this.on.show();
  }

  get heldMs() {
    return performance.now() - this.since;
  }
}
