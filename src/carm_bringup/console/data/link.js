// SPDX-License-Identifier: Apache-2.0
// The two sockets: one for state, messages and commands, one for images, so that images delay nothing.

const AGAIN_MS = 700;
const SCHEME = location.protocol === "https:" ? "wss" : "ws";
const STOP = JSON.stringify({ type: "stop" });

export class Link {
  /** @param {Record<string, (message: object) => void>} on what to do with each type of message, and with "lost" */
  constructor(on) {
    this.on = on;
    this.open();
  }

  open() {
    this.socket = new WebSocket(`${SCHEME}://${location.host}/control`);
    this.socket.onmessage = (event) => {
      const message = JSON.parse(event.data);
      this.on[message.type]?.(message);
      if (message.type === "state") this.send({ type: "ack" }); // not by a timer: those of hidden pages are slow
    };
    this.socket.onclose = () => {
      this.on.lost();
      setTimeout(() => this.open(), AGAIN_MS);
    };
  }

  get ready() {
    return this.socket.readyState === WebSocket.OPEN;
  }

  send(message) {
    if (this.ready) this.socket.send(JSON.stringify(message));
    return this.ready;
  }

  stop() {
    if (this.ready) this.socket.send(STOP);
    return this.ready;
  }
}

export function watchImages(show) {
  const socket = new WebSocket(`${SCHEME}://${location.host}/images`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = (event) => {
    const length = new DataView(event.data).getUint32(0);
    const about = JSON.parse(new TextDecoder().decode(new Uint8Array(event.data, 4, length)));
    show(about, new Blob([new Uint8Array(event.data, 4 + length)], { type: about.kind }));
  };
  socket.onclose = () => setTimeout(() => watchImages(show), AGAIN_MS);
}
