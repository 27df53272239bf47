// SPDX-License-Identifier: Apache-2.0
// Audio worklet: parts of 0.1 s as signed 16 bits.

const SAMPLES = 1600;

class Microphone extends AudioWorkletProcessor {
  constructor() {
    super();
    this.part = new Int16Array(SAMPLES);
    this.filled = 0;
  }

  process([[channel]]) {
    for (const value of channel ?? []) {
      this.part[this.filled++] = Math.max(-1, Math.min(1, value)) * 32767;
      if (this.filled === SAMPLES) {
        this.port.postMessage(this.part.slice().buffer);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("microphone", Microphone);
