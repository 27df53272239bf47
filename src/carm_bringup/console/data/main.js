// SPDX-License-Identifier: Apache-2.0
// Joins the page's parts to the sockets.

import { Asking } from "/page/asking.js";
import { Beam } from "/page/beam.js";
import { Collimation } from "/page/collimate.js";
import { exportOn } from "/page/export.js";
import { Link, watchImages } from "/page/link.js";
import { addLine, angle, clearLines, showMode, showState } from "/page/panel.js";
import { Positions } from "/page/positions.js";
import { Previous } from "/page/previous.js";
import { Room } from "/page/room.js";
import { Speech } from "/page/speech.js";
import { Stop } from "/page/stop.js";
import { toolbar } from "/page/toolbar.js";
import { leaveIfLoggedOut, showUser } from "/page/user.js";
import { Xray } from "/page/xray.js";

const STALE_MS = 500;
const NOTICE_MS = 8000;
const BUTTONS = ["AP", "lateral", "LAO 30", "RAO 30", "AP cranial", "AP caudal", "spider", "home", "before"];
const CONSENT = "May I move now"; // how the agent begins to ask for a yes to one motion
const NOBODY = { you: false, holder: "", asker: "", asking: false, count: 0 };
const at = (id) => document.getElementById(id);

let controls = false;
let number = 0; // of this page
let heard = 0;
let noticed = 0;
let next = null; // the motion that the agent has announced
let moved = false; // it has begun

function notice(text) {
  at("notice").textContent = text;
  at("notice").hidden = !text;
  noticed = performance.now();
}

function send(message) {
  notice("");
  if (!link.send(message)) notice("Not connected to the console node.");
}

/** Shows what is about to be done; nothing is done before the button is pressed. */
function confirm(title, text, picture, action, label = "Run", moves = false, refused = () => {}) {
  room.plan(null);
  asking.ask(title, text, picture, action, label, moves, refused);
}

function navigateTo(name) {
  if (!controls) return;
  const text = "The arm moves in steps; after each, an X-ray exposure shows where the target is. Press STOP at any time.";
  confirm(`Center ${name}?`, text, "", () => send({ type: "navigate", text: name }), "Go", true);
}

function controlled(message) {
  controls = message.you;
  const others = message.count > 1 ? `, ${message.count} pages open` : "";
  if (!message.count) at("holder").textContent = "Not connected";
  else at("holder").textContent = (controls ? "You control" : `You watch; ${message.holder || "nobody"} controls`) + others;
  at("take").hidden = controls || !message.count;
  at("take").disabled = Boolean(message.asker);
  at("take").textContent = message.asking ? "Asked …" : message.holder ? "Ask for control" : "Take control";
  at("asked").hidden = !(controls && message.asker);
  at("asker").textContent = message.asker;
  for (const id of ["expose", "navigate", "plan", "cancel", "sentence"]) at(id).disabled = !controls;
  for (const button of document.querySelectorAll("#views button, #say button:not(#talk)")) button.disabled = !controls;
  for (const part of [asking, beam, collimation, positions]) part.control(controls);
}

const figures = ({ duration_s: duration, clearance_mm: clearance, warning }) =>
  `${duration?.toFixed(1) ?? "?"} s, ${clearance === null ? "clearance not checked" : `smallest clearance ${clearance.toFixed(0)} mm`}` +
  (warning ? `. Warning: ${warning}` : "");

/** The agent is about to move, in a step of a task or along a plan. */
function announced(plan) {
  [next, moved] = [plan, false];
  addLine("plan", `Plan: ${figures(plan)}`);
  if (!asking.open || asking.dismissing === "consent") room.plan(plan.ghost); // it may come after the question
}

/** The agent waits for a yes to one motion. Where motions are held, holding is the yes to all of them. */
function consent(question) {
  if (!controls || asking.mustHold) return;
  const yes = () => {
    send({ type: "say", text: "yes" });
    room.plan(next?.ghost);
  };
  confirm("The agent asks", question, "", yes, "Move", false, () => send({ type: "say", text: "no" }));
  asking.dismissing = "consent";
  room.plan(next?.ghost);
}

function ended() {
  next = null;
  if (asking.open && asking.dismissing === "consent") asking.dismiss();
  if (!asking.open) room.plan(null);
}

function planned(plan) {
  const angles = `to ${angle(plan.primary_deg, "LAO", "RAO")}, ${angle(plan.secondary_deg, "CRAN", "CAUD")}: `;
  const text = angles + figures(plan);
  const picture = plan.picture ? `/previews/${encodeURIComponent(plan.id)}` : "";
  confirm(`Plan: ${plan.text}`, text, picture, () => send({ type: "run", text: plan.id }), "Run", true);
  room.plan(plan.ghost);
}

function fill(greeting) {
  clearLines();
  showUser(greeting.user);
  speech.missing = greeting.no_speech;
  if (!speech.missing) speech.connect().catch(() => {}); // told when somebody speaks
  number = greeting.number;
  asking.mustHold = greeting.held;
  if (greeting.held) at("sentence").placeholder = "Here only: stop (motions are held)";
  positions.show(greeting.positions ?? []);
  room.describe(greeting.room);
  const option = (name, about = "") => Object.assign(document.createElement("option"), { value: name, textContent: about ? `${name} – ${about}` : name });
  at("landmark").replaceChildren(...greeting.landmarks.map((name) => option(name)));
  at("view").replaceChildren(...greeting.views.map(({ name, about }) => option(name, about)));
  at("views").replaceChildren(...BUTTONS.map((name) => {
    const button = document.createElement("button");
    button.textContent = { before: "Back", home: "Home" }[name] ?? name;
    button.onclick = () => send({ type: "view", text: name });
    return button;
  }));
  for (const about of greeting.exposures) xray.add(about);
}

const asking = new Asking((message) => link.send(message), (shown) => {
  if (shown) return;
  room.plan(null);
  xray.overlays.aim(null);
});
const xray = new Xray({
  landmark: navigateTo,
  point: (image, pixel) => {
    if (!controls) return;
    send({ type: "point", image, pixel });
    xray.overlays.aim({ image, pixel });
  },
  painted: () => {
    previous?.update();
    collimation?.draw();
  },
});
const previous = new Previous(xray);
const room = new Room();
const positions = new Positions(send, confirm);
const collimation = new Collimation(xray, send);
const beam = new Beam((message) => link.send(message));
const link = new Link({
  hello: fill,
  control: controlled,
  state: (state) => {
    heard = performance.now();
    showState(state);
    if (next && state.mode === "moving") moved = true;
    else if (next && moved) ended();
    xray.series = state.dose?.fluoroscopy ?? null;
    stop.set(state.mode, controls);
    beam.state(state.beam, number);
    collimation.state(state.field_mm);
    room.state(state, beam.held || asking.held);
    asking.state(state.task, number);
    xray.overlays.setTarget(state.target);
  },
  positions: ({ names }) => positions.show(names),
  said: ({ kind, text, reason, reply_to: reply }) => {
    addLine(kind, text, [reason, reply && `to “${reply}”`].filter(Boolean).join(" · "));
    if (kind === "result") ended();
    else if (kind === "question" && text.startsWith(CONSENT)) consent(text);
  },
  asked: ({ who, text }) => {
    addLine("asked", `${who}: ${text}`);
    if (text.startsWith("run ")) asking.dismiss(); // on the pages that watch too
  },
  result: ({ ok, text }) => {
    addLine(ok ? "done" : "failed", text);
    if (!ok) xray.overlays.aim(null);
    else if (text.startsWith("run the plan")) asking.done();
  },
  notice: ({ text }) => notice(text),
  landmarks: ({ image, marks }) => xray.overlays.setMarks(image, marks),
  contours: ({ image, lines }) => xray.overlays.setContours(image, lines),
  exposure: (about) => xray.add(about),
  plan: planned,
  announced,
  stop: (answer) => stop.answered(answer),
  lost: () => {
    controlled(NOBODY);
    showMode("unknown");
    stop.set("unknown", false);
    leaveIfLoggedOut();
    beam.state(0, number);
  },
});
const stop = new Stop(link);
const speech = new Speech(at("talk"), {
  heard: (text) => {
    at("sentence").value = text; // shown until the next one
    send({ type: "say", text });
  },
  stop: () => ["stopped", "fault"].includes(stop.mode) || stop.press(), // the server has stopped the arm already
  notice,
});
controlled(NOBODY);

watchImages((about, blob) => xray.show(about, blob));
setInterval(() => {
  if (performance.now() - heard > STALE_MS) {
    showMode("unknown");
    stop.set("unknown", controls);
  }
  if (performance.now() - noticed > NOTICE_MS) at("notice").hidden = true;
}, 250);

exportOn(at("export"), notice);
for (const id of ["tools", "strip", "room-views", "views"]) toolbar(at(id));
at("logout").onclick = () => fetch("/logout", { method: "POST" }).finally(leaveIfLoggedOut);
at("expose").onclick = () => send({ type: "expose" });
at("navigate").onclick = () => navigateTo(at("landmark").value);
at("plan").onclick = () => send({ type: "view", text: at("view").value });
at("cancel").onclick = () => send({ type: "cancel" });
at("take").onclick = () => send({ type: "take" });
at("give").onclick = () => send({ type: "give" });
at("keep").onclick = () => send({ type: "keep" });
at("say").onsubmit = (event) => {
  event.preventDefault();
  const text = at("sentence").value.trim();
  if (text) send({ type: "say", text });
  at("sentence").value = "";
};
