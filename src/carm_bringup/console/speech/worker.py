# SPDX-License-Identifier: Apache-2.0
"""The recognizer as a process of its own: ``python -m carm_bringup.console.speech.worker``.

Reads frames: length (4 bytes, big-endian) and samples; a frame of length 0 ends a recording. Answers with JSON lines:
``{"stop": true}`` as soon as a stop is heard, and at the end ``{"text": ..., "guess": ..., "stop": ...}``.
"""

from __future__ import annotations

import json
import struct
import sys
from typing import IO, Any

from carm_bringup.console.speech.decoder import RATE_HZ, SpeechDecoder

LONGEST_S = 10.0
MOST_BYTES = int(2 * RATE_HZ * LONGEST_S)
"""Of a recording."""
_FIRST_BYTES, _LOOK_BYTES, _LAST_BYTES = int(1.2 * RATE_HZ), int(0.8 * RATE_HZ), 4 * RATE_HZ
"""A recording is searched for a stop while it is made: from 0.6 s on, each 0.4 s, up to 2 s."""


def serve(frames: IO[bytes], answers: IO[str], decoder: Any) -> None:
    """Answer until there are no more frames.

    Args:
        frames: What is said.
        answers: What was heard.
        decoder: Recognizes.
    """
    said, next_look, stopped = b"", _FIRST_BYTES, False
    while len(head := frames.read(4)) == 4:
        (length,) = struct.unpack(">I", head)
        part = frames.read(length) if length else b""
        said = (said + part)[:MOST_BYTES]
        if length:
            if not stopped and next_look <= len(said) <= _LAST_BYTES:
                next_look = len(said) + _LOOK_BYTES
                stopped = decoder.hear(said).is_stop
                if stopped:
                    _answer(answers, {"stop": True})
            continue
        heard = decoder.hear(said)
        _answer(answers, {"text": heard.text, "guess": heard.guess, "stop": heard.is_stop})
        said, next_look, stopped = b"", _FIRST_BYTES, False


def _answer(answers: IO[str], content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.stdin.buffer, sys.stdout, SpeechDecoder())
