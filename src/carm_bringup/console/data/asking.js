// SPDX-License-Identifier: Apache-2.0
// What is about to be done is shown first. It is done when it is confirmed or, where the server wants it so and it
// moves the arm, while the button or Enter is held.

import { Held } from "/page/held.js";

const REPLACED_MS = 500; // a press that was meant for what has just been replaced is none
const GRACE_MS = 1000; // from the press until the state has to say that the motion runs
const at = (id) => document.getElementById(id);

export class Asking {
  /** @param {(message: object) => boolean} send returns whether there is a connection
   *  @param {(shown: boolean) => void} changed told when something is asked, and when no more */
  constructor(send, changed) {
    this.changed = changed;
    this.mustHold = false; // motions
    this.holds = false; // what is asked now
    this.action = this.refused = () => {};
    this.readable = 0; // what replaced something else is heeded from then on
    this.dismissing = ""; // kind of question that others may settle
    const run = at("confirm-yes");
    this.button = new Held(run, [[run, "Enter"]], {
      begin: () => this.holds && !run.disabled && (this.action(), true),
      renew: () => send({ type: "moving" }),
      end: () => send({ type: "let_go" }),
      show: () => this.show(),
    });
    run.onclick = () => !this.holds && !this.fresh && this.settle(this.action);
    at("confirm-no").onclick = () => !this.fresh && this.settle(this.refused);
  }

  get held() {
    return this.button.down;
  }

  get open() {
    return !at("confirm").hidden;
  }

  get fresh() {
    return performance.now() < this.readable;
  }

  /** @param {string} label of the button
   *  @param {boolean} moves whether it moves the arm
   *  @param {() => void} refused told when it is discarded */
  ask(title, text, picture, action, label, moves, refused) {
    this.holds = moves && this.mustHold;
    this.readable = this.open && !this.holds ? performance.now() + REPLACED_MS : 0;
    [this.action, this.refused, this.dismissing] = [action, refused, ""];
    this.label = this.holds ? `Hold to ${label.toLowerCase()}` : label;
    at("confirm-title").textContent = title;
    at("confirm-text").textContent = text;
    at("confirm-picture").hidden = !picture;
    if (picture) at("confirm-picture").src = picture;
    at("confirm").hidden = false;
    if (this.holds) at("confirm-yes").focus();
    else at("confirm").focus();
    this.show();
    this.changed(true);
  }

  dismiss() {
    if (this.button.down || at("confirm").hidden) return;
    at("confirm").hidden = at("confirm-picture").hidden = true;
    this.changed(false);
  }

  /** The motion has come to its end. */
  done() {
    if (this.button.down) this.button.drop();
    if (this.holds) this.dismiss();
  }

  settle(action) {
    this.button.release();
    this.dismiss();
    at("stage").focus();
    action();
  }

  /** @param {object | null} task that runs
   *  @param {number} number of this page */
  state(task, number) {
    if (!this.button.down || this.button.heldMs < GRACE_MS || task?.owner === number) return;
    this.button.drop(); // it is done, or has been refused
    this.dismiss();
  }

  control(controls) {
    at("confirm-yes").disabled = !controls;
    if (!controls && this.button.down) this.button.drop();
  }

  show() {
    const text = this.button.down ? "▶ HELD: let go to stop" : this.label;
    if (at("confirm-yes").textContent !== text) at("confirm-yes").textContent = text;
    at("confirm-yes").dataset.on = String(this.button.down);
    at("confirm-picture").hidden ||= this.button.down; // the image is what counts now
  }
}
