// SPDX-License-Identifier: Apache-2.0
// The session as a file: made by the server, which takes seconds.

const FORGET_MS = 60000;

/** @param {HTMLButtonElement} button @param {(text: string) => void} notice */
export function exportOn(button, notice) {
  const label = button.textContent;
  button.onclick = async () => {
    button.disabled = true;
    button.textContent = "Preparing …";
    try {
      const answer = await fetch("/session.zip");
      if (!answer.ok) throw new Error((await answer.text()).trim());
      const name = /filename="([^"]+)"/.exec(answer.headers.get("content-disposition"))[1];
      const address = URL.createObjectURL(await answer.blob());
      Object.assign(document.createElement("a"), { href: address, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(address), FORGET_MS);
    } catch (error) {
      notice(`The session was not exported: ${error.message}`);
    }
    button.textContent = label;
    button.disabled = false;
  };
}
