// SPDX-License-Identifier: Apache-2.0
// Push to talk: 16 kHz, 16 bits, one channel, to a socket of its own; the server recognizes.

const LONGEST_MS = 10000;
const SCHEME = location.protocol === "https:" ? "wss" : "ws";

export class Speech {
  /**
   * @param {HTMLButtonElement} button
   * @param {{ heard: (text: string) => void, stop: () => void, notice: (text: string) => void }} on
   */
  constructor(button, on) {
    this.button = button;
    this.on = on;
    this.missing = "";
    this.talking = false;
    button.addEventListener("pointerdown", (event) => {
      button.setPointerCapture(event.pointerId);
      this.begin();
    });
    for (const kind of ["pointerup", "pointercancel", "blur"]) button.addEventListener(kind, () => this.end());
    window.addEventListener("keydown", (event) => this.key(event, () => this.begin()));
    window.addEventListener("keyup", (event) => this.key(event, () => this.end()));
  }

  key(event, action) {
    if (event.code !== "KeyT" || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!event.target.matches?.("input, select")) action();
  }

  async begin() {
    if (this.missing) this.on.notice(this.missing);
    if (this.missing || this.talking) return;
    this.talking = true;
    this.show("Listening …");
    try {
      await this.open();
      this.port.onmessage = ({ data }) => this.talking && this.socket.readyState === WebSocket.OPEN && this.socket.send(data);
      this.limit = setTimeout(() => this.end(), LONGEST_MS);
      if (!this.talking) this.send();
    } catch (error) {
      this.talking = false;
      this.show("Talk");
      this.on.notice(`No speech: ${error.message || "the microphone cannot be used"}`);
    }
  }

  end() {
    if (!this.talking) return;
    this.talking = false;
    this.send();
  }

  send() {
    clearTimeout(this.limit);
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.socket.send("end");
    this.show("Recognizing …");
  }

  async open() {
    if (!this.port) {
      const audio = { channelCount: 1, echoCancellation: true, noiseSuppression: true, autoGainControl: true };
      const stream = await navigator.mediaDevices.getUserMedia({ audio });
      const context = new AudioContext({ sampleRate: 16000 });
      await context.audioWorklet.addModule("/page/microphone.js");
      const node = new AudioWorkletNode(context, "microphone");
      context.createMediaStreamSource(stream).connect(node);
      this.port = node.port;
    }
    await this.connect();
  }

  /** Also before anybody speaks: the server starts its recognizer then. */
  async connect() {
    if (this.socket?.readyState === WebSocket.OPEN) return;
    this.socket = new WebSocket(`${SCHEME}://${location.host}/speech`);
    this.socket.onmessage = ({ data }) => this.answered(JSON.parse(data));
    this.socket.onclose = () => this.show("Talk");
    await new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onerror = () => reject(new Error("no connection"));
    });
  }

  answered({ text, guess, stop, error }) {
    this.show("Talk");
    if (error) this.on.notice(`No speech: ${error}`);
    else if (stop) this.on.stop();
    else if (text) this.on.heard(text);
    else this.on.notice(guess ? `Not understood (perhaps “${guess}”): say it again or type it.` : "Nothing was heard.");
  }

  show(text) {
    this.button.textContent = text;
    this.button.setAttribute("aria-pressed", String(this.talking));
  }
}
