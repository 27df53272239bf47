// SPDX-License-Identifier: Apache-2.0
// The room in 3D by three.js, which is loaded when the room is shown first. Drawn only when something has changed.

import { Parts } from "/page/parts.js";

const LIBRARY = "/room/three.module.js";
const WIDE_PX = 1200;
const VIEWS = { Oblique: [-2.2, 0.42], Feet: [Math.PI, 0.12], Left: [-Math.PI / 2, 0.12], Above: [Math.PI, 1.5] }; // azimuth, elevation
const NEAREST_M = 1;
const FARTHEST_M = 8;
const PAUSES = 3; // a drawing is followed by three times as long without
const FRAME_MS = 16;
const SLOWEST_MS = 1000;
const at = (id) => document.getElementById(id);

export class Room {
  constructor() {
    this.about = null; // what does not change, from the server
    this.parts = null; // the scene, once it is made
    this.last = {};
    this.patient = 0;
    this.waiting = null; // ghost of the plan that waits
    this.camera = { azimuth: VIEWS.Oblique[0], elevation: VIEWS.Oblique[1], distance: 3.0 };
    this.pending = false;
    this.held = false;
    this.pause = 0; // before the next drawing, ms
    at("show-room").onclick = () => this.open(at("room").hidden);
    at("room-views").replaceChildren(...Object.keys(VIEWS).map((name) => {
      const button = document.createElement("button");
      button.textContent = name;
      button.onclick = () => this.look(name);
      return button;
    }));
    this.listen();
    new ResizeObserver(() => this.dirty()).observe(at("room"));
    matchMedia("(prefers-color-scheme: light)").addEventListener("change", () => this.dirty());
  }

  async describe(about) {
    this.about = about;
    this.patient = 0;
    if (this.parts || !at("room").hidden) return;
    this.open(localStorage.getItem("room") ? localStorage.getItem("room") === "shown" : innerWidth >= WIDE_PX, false);
  }

  async open(shown, remember = true) {
    if (remember) localStorage.setItem("room", shown ? "shown" : "hidden");
    at("room").hidden = !shown;
    at("show-room").setAttribute("aria-pressed", String(shown));
    if (!shown || this.parts || this.making) return this.dirty();
    this.making = true;
    try {
      if (!this.about?.library) throw new Error("The 3D view is not installed: python scripts/web_packages.py, then start again.");
      at("room-text").textContent = "loading …";
      const three = await import(LIBRARY);
      this.parts = await new Parts(three, this.about).load();
      this.last = {};
      this.show(this.newest);
      this.plan(this.waiting);
      at("room-text").textContent = "";
    } catch (error) {
      at("room-text").textContent = /webgl/i.test(error.message) ? "This browser draws no 3D (WebGL is off)." : error.message;
    }
    this.making = false;
    at("room").dataset.ready = String(Boolean(this.parts));
    return this.dirty();
  }

  look(name) {
    [this.camera.azimuth, this.camera.elevation] = VIEWS[name];
    this.dirty();
  }

  turn(azimuth, elevation) {
    this.camera.azimuth += azimuth;
    this.camera.elevation = Math.min(1.5, Math.max(-0.5, this.camera.elevation + elevation));
    this.dirty();
  }

  approach(factor) {
    this.camera.distance = Math.min(FARTHEST_M, Math.max(NEAREST_M, this.camera.distance * factor));
    this.dirty();
  }

  listen() {
    const canvas = at("room-canvas");
    const fingers = new Map();
    let apart = 0;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      apart = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const last = fingers.get(event.pointerId);
      if (!last) return;
      fingers.set(event.pointerId, [event.clientX, event.clientY]);
      if (fingers.size === 1) this.turn((last[0] - event.clientX) / 150, (event.clientY - last[1]) / 150);
      if (fingers.size !== 2) return;
      const [[x1, y1], [x2, y2]] = [...fingers.values()];
      const now = Math.hypot(x1 - x2, y1 - y2);
      if (apart) this.approach(apart / now);
      apart = now;
    });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => fingers.delete(event.pointerId));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.approach(event.deltaY < 0 ? 1 / 1.15 : 1.15);
    }, { passive: false });
    const names = Object.keys(VIEWS);
    const keys = {
      ArrowLeft: () => this.turn(-0.15, 0), ArrowRight: () => this.turn(0.15, 0),
      ArrowUp: () => this.turn(0, 0.1), ArrowDown: () => this.turn(0, -0.1),
      "+": () => this.approach(1 / 1.15), "=": () => this.approach(1 / 1.15), "-": () => this.approach(1.15),
      ...Object.fromEntries(names.map((name, index) => [index + 1, () => this.look(name)])),
    };
    canvas.addEventListener("keydown", (event) => {
      const act = !event.ctrlKey && !event.metaKey && keys[event.key];
      if (!act) return;
      event.preventDefault();
      act();
    });
    canvas.addEventListener("webglcontextlost", () => (at("room-text").textContent = "3D drawing was lost; reload the page."));
  }

  /** @param {object} state newest
   *  @param {boolean} held whether a button is held, of fluoroscopy or a motion: without a graphics card, drawing waits */
  state(state, held) {
    this.newest = state;
    if (this.held && !held) setTimeout(() => this.dirty());
    this.held = held;
    const clearance = state.arm?.clearance_mm;
    const text = clearance === null || clearance === undefined ? "Clearance –" : `Smallest clearance ${clearance.toFixed(0)} mm`;
    if (at("room-clearance").textContent !== text) at("room-clearance").textContent = text;
    if (this.parts) this.show(state);
  }

  /** Takes over what has changed. */
  show(state) {
    if (!state) return;
    const { links, zones, patient, clearance } = state.room;
    const label = clearance && `${clearance.near ? "! " : ""}${Math.round(state.arm?.clearance_mm ?? clearance.mm)} mm`;
    const changes = {
      links: [String(links), () => links && this.parts.move(links)],
      zones: [String(zones), () => this.parts.zones(zones)],
      clearance: [`${clearance?.line} ${label}`, () => this.parts.clearance(clearance, label)],
      beam: [`${state.field_mm} ${state.beam}`, () => this.parts.beam(state.field_mm, Boolean(state.beam))],
    };
    for (const [name, [now, act]] of Object.entries(changes)) {
      if (this.last[name] === now) continue;
      this.last[name] = now;
      act();
      this.dirty();
    }
    if (patient !== this.patient) {
      this.patient = patient;
      this.parts.patient(patient).then(() => this.dirty());
    }
  }

  /** Shows the plan that waits for "Run"; null: there is none. */
  plan(ghost) {
    this.waiting = ghost ?? null;
    this.parts?.ghost(this.waiting);
    at("room").dataset.ghost = String(Boolean(this.waiting));
    this.dirty();
  }

  /** Has the room drawn soon; where drawing is slow, not so often that it holds up the rest of the page. */
  dirty() {
    if (this.pending || !this.parts || at("room").hidden || (this.held && this.parts.slow)) return;
    this.pending = true;
    at("room").dataset.wanted = String(1 + Number(at("room").dataset.drawn ?? 0));
    setTimeout(() => requestAnimationFrame((now) => this.draw(now)), this.pause);
  }

  draw(now) {
    this.pending = false;
    const { clientWidth: width, clientHeight: height } = at("room");
    if (!width || !height || at("room").hidden) return;
    this.parts.draw(this.camera, width, height);
    this.pause = Math.min(SLOWEST_MS, Math.max(0, PAUSES * (performance.now() - now) - FRAME_MS));
    at("room").dataset.drawn = String(1 + Number(at("room").dataset.drawn ?? 0));
  }
}
