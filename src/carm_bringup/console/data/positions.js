// SPDX-License-Identifier: Apache-2.0
// Saved positions: the agent keeps them under names, and plans to go there as to any other view.

const at = (id) => document.getElementById(id);

export class Positions {
  /** @param {(message: object) => void} send
   *  @param {Function} confirm asks before something is done */
  constructor(send, confirm) {
    this.controls = false;
    at("save-form").onsubmit = (event) => {
      event.preventDefault();
      const text = at("save-name").value.trim();
      if (text) send({ type: "save", text });
      at("save-name").value = "";
    };
    at("saved-plan").onclick = () => send({ type: "view", text: at("saved").value });
    at("saved-forget").onclick = () => {
      const name = at("saved").value;
      confirm(`Delete “${name}”`, "The saved position is deleted; the arm does not move.", "", () => send({ type: "forget", text: name }), "Delete");
    };
    this.show([]);
  }

  show(names) {
    const chosen = at("saved").value;
    const options = names.map((name) => Object.assign(document.createElement("option"), { value: name, textContent: name }));
    at("saved").replaceChildren(...options);
    if (names.includes(chosen)) at("saved").value = chosen;
    at("saved-count").textContent = names.length ? `(${names.length})` : "(none yet)";
    this.control(this.controls);
  }

  control(controls) {
    this.controls = controls;
    for (const id of ["save", "save-name"]) at(id).disabled = !controls;
    for (const id of ["saved-plan", "saved-forget"]) at(id).disabled = !controls || !at("saved").options.length;
  }
}
