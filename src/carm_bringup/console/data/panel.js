// SPDX-License-Identifier: Apache-2.0
// State and dialogue as text. Signs stand beside colors.

const SIGNS = { starting: "…", idle: "●", moving: "▶", stopping: "▼", stopped: "■", fault: "✖", unknown: "?" };
const KINDS = { info: "i", reason: "→", question: "?", warning: "!", result: "■", answer: "“", asked: "·", plan: "▷", done: "✓", failed: "✗" };
const KEPT = 200;
const at = (id) => document.getElementById(id);

let following = true; // until somebody scrolls up
const toEnd = () => following && at("lines").scrollTo(0, at("lines").scrollHeight);
at("lines").addEventListener("scroll", ({ target }) => {
  following = target.scrollHeight - target.scrollTop - target.clientHeight < 40;
});
new ResizeObserver(toEnd).observe(at("lines"));

function put(id, text) {
  const element = at(id);
  if (element.textContent !== text) element.textContent = text;
}

export function angle(degrees, positive, negative) {
  if (degrees === null || degrees === undefined) return "–";
  const rounded = Math.round(10 * degrees) / 10;
  return rounded === 0 ? "0.0°" : `${rounded > 0 ? positive : negative} ${Math.abs(rounded).toFixed(1)}°`;
}

const number = (value, digits, unit) => (value === null || value === undefined ? "–" : `${value.toFixed(digits)} ${unit}`);

export function showMode(mode) {
  at("mode").dataset.mode = mode;
  put("mode-sign", SIGNS[mode]);
  put("mode-text", mode === "unknown" ? "no state" : mode);
}

export function showState(state) {
  const { arm, permit, parts, dose, localizer } = state;
  showMode(state.mode);
  at("mode").title = arm?.message ?? "";
  put("primary", angle(arm?.primary_deg, "LAO", "RAO"));
  put("secondary", angle(arm?.secondary_deg, "CRAN", "CAUD"));
  put("clearance", number(arm?.clearance_mm, 0, "mm"));
  put("isocenter", arm ? arm.isocenter_mm.map((v) => (v === null ? "–" : String(Math.round(v) || 0))).join(", ") + " mm" : "–");
  put("permit", permit ? `${Math.round(100 * permit.speed)} %${permit.reason ? `: ${permit.reason}` : ""}` : "none");
  put("kerma", number(dose?.air_kerma_mgy, 3, "mGy") + (dose?.level_mgy ? ` ▲ over ${dose.level_mgy.toFixed(0)} mGy` : ""));
  at("kerma").classList.toggle("high", Boolean(dose?.level_mgy));
  put("rate", number(dose?.rate_mgy_min, 2, "mGy/min"));
  put("product", number(dose?.area_product_ugym2, 2, "µGy·m²"));
  put("count", dose ? `${dose.exposures}${dose.tube_kv ? `, ${dose.tube_kv.toFixed(0)} kV` : ""}` : "–");
  put("localizer", localizer ? `${localizer.name}, ${number(localizer.latency_ms, 0, "ms")}${localizer.message ? `: ${localizer.message}` : ""}` : "–");
  const list = at("part-list");
  parts.forEach(({ name, ok, note }, index) => {
    const item = list.children[index] ?? list.appendChild(document.createElement("li"));
    item.dataset.ok = String(ok);
    const text = `${ok ? "✓" : "✗"} ${name}${note ? `: ${note}` : ""}`;
    if (item.textContent !== text) item.textContent = text;
  });
  at("task").hidden = !state.task;
  if (state.task) {
    put("task-text", state.task.text);
    put("task-stage", state.task.stage);
  }
}

export function addLine(kind, text, small = "") {
  const lines = at("lines");
  const item = document.createElement("li");
  item.dataset.kind = kind;
  item.dataset.sign = KINDS[kind] ?? "·";
  item.append(text);
  if (small) {
    const reason = document.createElement("small");
    reason.textContent = small;
    item.append(reason);
  }
  lines.append(item);
  while (lines.children.length > KEPT) lines.firstChild.remove();
  toEnd();
}

export function clearLines() {
  at("lines").replaceChildren();
}
