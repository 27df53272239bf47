# SPDX-License-Identifier: Apache-2.0
"""The socket for speech: parts of a recording, then ``end``; back comes what was said. A stop is heard at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial

from starlette.websockets import WebSocket, WebSocketDisconnect

from carm_bringup.console.gate import Rate
from carm_bringup.console.hub import Hub
from carm_bringup.console.speech.recognizer import Recognizer, SpeechError
from carm_bringup.console.speech.worker import LONGEST_S, MOST_BYTES

_PARTS_A_SECOND = 50
_END = "end"
_LONGEST_S = 1.5 * LONGEST_S
"""From the first part of a sentence to its end, s: the page itself ends it after ``LONGEST_S``."""


async def listen(socket: WebSocket, hub: Hub, recognizer: Recognizer, who: str, admitted: Callable[[], object]) -> None:
    """Serve an accepted socket until it is closed.

    Args:
        socket: Of the page.
        hub: Told stops, ahead of everything else.
        recognizer: Recognizes.
        who: The speaker, for people.
        admitted: Whether the page may still be here.

    Raises:
        WebSocketDisconnect: The page is gone.
    """
    await recognizer.warm()
    rate = Rate(_PARTS_A_SECOND, 1.0)
    while True:
        part = await _part(socket)
        if not admitted():
            return
        try:
            async with recognizer.recording(partial(hub.spoken_stop, who)) as recording:
                left = MOST_BYTES
                async with asyncio.timeout(_LONGEST_S):  # meanwhile nobody else can speak
                    while part is not None and rate.admits():
                        await recording.add(part[:left])  # what is beyond the longest recording is left out
                        left -= len(part[:left])
                        part = await _part(socket)
                answer = await recording.end()
        except TimeoutError:
            await socket.send_text(json.dumps({"error": f"a sentence may take {LONGEST_S:g} s"}))
            return
        except SpeechError as error:
            await socket.send_text(json.dumps({"error": str(error)}))
            return
        await socket.send_text(json.dumps(answer))


async def _part(socket: WebSocket) -> bytes | None:
    """Return the next part of a recording; None at its end."""
    message = await socket.receive()
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1000))
    if message.get("text") == _END:
        return None
    return bytes(message.get("bytes") or b"")
