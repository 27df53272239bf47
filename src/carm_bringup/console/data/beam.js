// SPDX-License-Identifier: Apache-2.0
// Fluoroscopy while a button or key is held. The server ends it too, when this page no longer says that it is held.

import { Held } from "/page/held.js";

const GRACE_MS = 500; // from the press until the state has to say that the beam is on
const at = (id) => document.getElementById(id);

export class Beam {
  /** @param {(message: object) => boolean} send returns whether there is a connection */
  constructor(send) {
    this.owner = 0;
    const keys = [[at("beam"), "Enter"], [at("stage"), "KeyF"]];
    this.button = new Held(at("beam"), keys, {
      begin: () => !at("beam").disabled && send({ type: "beam" }),
      renew: () => send({ type: "hold" }),
      end: () => send({ type: "release" }),
      show: () => this.show(),
    });
  }

  get held() {
    return this.button.down;
  }

  /** @param {number} owner number of the page that holds the switch; 0: none
   *  @param {number} number of this page */
  state(owner, number) {
    this.owner = owner;
    if (this.held && owner !== number && this.button.heldMs > GRACE_MS) this.button.drop();
    this.show();
  }

  control(controls) {
    at("beam").disabled = !controls;
    if (!controls && this.held) this.button.drop();
  }

  show() {
    const text = this.held ? "● X-RAY ON" : this.owner ? "● X-ray on" : "Fluoroscopy: hold";
    if (at("beam").textContent !== text) at("beam").textContent = text;
    at("beam").dataset.on = String(this.held || Boolean(this.owner));
  }
}
