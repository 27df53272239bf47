// SPDX-License-Identifier: Apache-2.0
// Rows of buttons are one stop of the Tab key each; arrows go from button to button (ARIA pattern "toolbar").

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

/** @param {HTMLElement} row its buttons may come and go */
export function toolbar(row) {
  const usable = () => [...row.querySelectorAll("button")].filter((button) => !button.hidden && !button.disabled);
  const keepOne = () => {
    const buttons = usable();
    const kept = buttons.find((button) => button.tabIndex === 0) ?? buttons[0];
    for (const button of row.querySelectorAll("button")) {
      const index = button === kept ? 0 : -1;
      if (button.tabIndex !== index) button.tabIndex = index;
    }
  };
  row.addEventListener("focusin", ({ target }) => {
    for (const button of row.querySelectorAll("button")) button.tabIndex = button === target ? 0 : -1;
  });
  row.addEventListener("keydown", (event) => {
    const step = STEPS[event.key] ?? 0;
    if (!step) return;
    const buttons = usable();
    event.preventDefault();
    event.stopPropagation();
    buttons[(buttons.indexOf(document.activeElement) + step + buttons.length) % buttons.length]?.focus();
  });
  new MutationObserver(keepOne).observe(row, { subtree: true, childList: true, attributeFilter: ["hidden", "disabled"] });
  keepOne();
}
