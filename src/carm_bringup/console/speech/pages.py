# SPDX-License-Identifier: Apache-2.0
"""The socket for speech: parts of a recording, then ``end``; back comes what was said. A stop is heard at once."""

from __future__ import annotations

import json
from functools import partial

from starlette.websockets import WebSocket, WebSocketDisconnect

from carm_bringup.console.gate import Rate
from carm_bringup.console.hub import Hub
from carm_bringup.console.speech.recognizer import Recognizer, SpeechError
from carm_bringup.console.speech.worker import MOST_BYTES

_PARTS_A_SECOND = 50
_END = "end"


async def listen(socket: WebSocket, hub: Hub, recognizer: Recognizer, who: str) -> None:
    """Serve an accepted socket until it is closed.

    Args:
        socket: Of the page.
        hub: Told stops, ahead of everything else.
        recognizer: Recognizes.
        who: The speaker, for people.

    Raises:
        WebSocketDisconnect: The page is gone.
    """
    await recognizer.warm()
    rate = Rate(_PARTS_A_SECOND, 1.0)
    while True:
        part = await _part(socket)
        try:
            async with recognizer.recording(partial(hub.spoken_stop, who)) as recording:
                left = MOST_BYTES
                while part is not None and rate.admits():
                    await recording.add(part[:left])  # what is beyond the longest recording is left out
                    left -= len(part[:left])
                    part = await _part(socket)
                answer = await recording.end()
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
