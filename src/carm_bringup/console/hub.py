# SPDX-License-Identifier: Apache-2.0
"""Who is connected, who controls, and what each page still has to be sent.

All of it runs on the event loop of the server; the ROS node calls in by ``Server``.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from carm_bringup.console.commands import HELD, MOST_BYTES, OPEN, STOP, SWITCH, Command, MessageError, read_command
from carm_bringup.console.gate import ANYBODY, Rate
from carm_core.errors import CarmError

MOST_CLIENTS = 8
"""Open pages."""
SILENT_S = 1.0
"""The page that controls acknowledges each state, 10 times a second; after such a silence its motion ends, s."""
HAND_OVER_S = 10.0
"""Who controls and does not answer a request for control for so long hands over, s."""
_MESSAGES_A_SECOND = 60
_STOP_AGAIN_S = 1.0
_MOST_UNSENT = 512
_KEPT_LINES = 100
_KEPT_OVERLAYS = 48
_DIALOGUE = ("said", "asked", "result")
_OVERLAYS = ("landmarks", "contours")
_STOP_TEXT = json.dumps({"type": STOP}, separators=(",", ":"))


class Desk(Protocol):
    """Carries out what pages ask for; none of it blocks."""

    def stop(self, who: str) -> None:
        """Stop the arm now, ahead of everything else."""

    def command(self, command: Command, number: int, who: str) -> None:
        """Carry out a command of the page that controls.

        Args:
            command: What.
            number: Number of the page.
            who: The page, for people.
        """

    def left(self, number: int, why: str) -> None:
        """End what a page has started: it is gone, silent or has handed over.

        Args:
            number: Number of the page.
            why: One line.
        """


class Outbox:
    """What a page still has to be sent: messages in order, and of the state and of images the newest only."""

    def __init__(self) -> None:
        """Nothing is to be sent."""
        self._events: deque[str] = deque()
        self._newest: str | bytes | None = None
        self._wake = asyncio.Event()
        self.overflown = False

    def put(self, event: str) -> None:
        """Add a message; a page that does not take its messages is given up."""
        if len(self._events) >= _MOST_UNSENT:
            self.overflown = True
        else:
            self._events.append(event)
        self._wake.set()

    def replace(self, newest: str | bytes) -> None:
        """Put what takes the place of the one before, if that has not been sent yet."""
        self._newest = newest
        self._wake.set()

    async def next(self) -> str | bytes | None:
        """Return what is to be sent next; None when the page is given up."""
        while not self._events and self._newest is None and not self.overflown:
            self._wake.clear()
            await self._wake.wait()
        if self.overflown:
            return None
        if self._events:
            return self._events.popleft()
        newest, self._newest = self._newest, None
        return newest


class Client:
    """An open page.

    Attributes:
        number: Its number.
        who: For people, such as ``operator 2 (127.0.0.1)``, or with the user's name.
        outbox: What it still has to be sent.
        heard_s: When it acknowledged last, s.
        silent: Whether that is too long ago.
        stopped_s: When it asked for a stop last, s.
    """

    def __init__(self, number: int, address: str, now_s: float, user: str = ANYBODY) -> None:
        """It has just been opened."""
        self.number, self.who = number, f"{user} {number} ({address})"
        self.outbox = Outbox()
        self.rate = Rate(_MESSAGES_A_SECOND, 1.0)
        self.heard_s, self.silent = now_s, False
        self.stopped_s = -math.inf


class Hub:
    """Connects pages and desk.

    Attributes:
        images: Outboxes of those who watch the images.
    """

    def __init__(
        self,
        desk: Desk,
        greet: Callable[[], dict[str, Any]],
        clock: Callable[[], float] = time.monotonic,
        note: Callable[[dict[str, Any]], None] = lambda message: None,
    ) -> None:
        """Nobody is connected.

        Args:
            desk: Carries out commands.
            greet: Returns what each page is told first.
            clock: Returns the time, s.
            note: Told each line of the dialogue, each command and each result.
        """
        self._desk, self._greet, self._clock, self._note = desk, greet, clock, note
        self._clients: dict[int, Client] = {}
        self._numbers = itertools.count(1)
        self._controller: Client | None = None
        self._asker: Client | None = None
        self._asked_s = 0.0
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self._overlays: deque[str] = deque(maxlen=_KEPT_OVERLAYS)
        self._image: bytes | None = None
        self.images: set[Outbox] = set()

    # Pages come, send and go

    def join(self, address: str, user: str = ANYBODY) -> Client | None:
        """Let a page in; None when there are too many. The first one controls."""
        if len(self._clients) >= MOST_CLIENTS:
            return None
        client = Client(next(self._numbers), address, self._clock(), user)
        self._clients[client.number] = client
        name = "" if user == ANYBODY else user
        client.outbox.put(_json({"type": "hello", "number": client.number, "user": name, **self._greet()}))
        for line in (*self._lines, *self._overlays):
            client.outbox.put(line)
        if self._controller is None:
            self._controller = client
        self._tell_control()
        return client

    def leave(self, client: Client) -> None:
        """A page is gone: what it has started ends, and who asked for control, or else nobody, controls."""
        self._clients.pop(client.number, None)
        if self._asker is client:
            self._asker = None
        if self._controller is client:
            self._desk.left(client.number, f"the connection of {client.who} is lost")
            self._controller, self._asker = self._asker, None
        self._tell_control()

    def receive(self, client: Client, message: str, admitted: Callable[[], object] = lambda: True) -> bool:
        """Carry out a message of a page; a stop before anything else, whoever sends it.

        Args:
            client: The page.
            message: As it came.
            admitted: Whether the page may still be here; asked after a stop.

        Returns:
            False when the page is to be disconnected: it sends too much, or may not be here any more.
        """
        if message == _STOP_TEXT:
            self._desk.stop(client.who)
        if not client.rate.admits() or len(message) > MOST_BYTES or not admitted():
            return False
        if message == _STOP_TEXT:
            self._log_stop(client)
            return True
        try:
            self._obey(client, read_command(message))
        except CarmError as error:
            self._notice(client, str(error))
        return True

    def _obey(self, client: Client, command: Command) -> None:
        if command.kind == "ack":
            client.heard_s, client.silent = self._clock(), False
            return
        if command.kind == STOP:  # written in another way than our page does
            self._desk.stop(client.who)
            self._log_stop(client)
            return
        if command.kind == "take":
            self._take(client)
        elif command.kind not in OPEN and client is not self._controller:
            raise MessageError("you are watching: ask for control first")
        elif command.kind == "give":
            self._hand_over()
        elif command.kind == "keep":
            self._asker = None
            self._tell_control()
        else:
            if client.silent:  # what it begins now ends like everything else when it stays silent
                client.heard_s, client.silent = self._clock(), False
            self._desk.command(command, client.number, client.who)
            if command.kind in (*SWITCH, *HELD):  # who renews five times a second is logged by the desk, once
                return
        self.log(client.who, command.line)

    def spoken_stop(self, who: str) -> None:
        """Stop, for somebody whose spoken words ask for it."""
        self._desk.stop(who)
        self.log(who, "stop (spoken)")

    def _log_stop(self, client: Client) -> None:
        """A page repeats its stop until the arm stands: that is logged once."""
        if self._clock() - client.stopped_s > _STOP_AGAIN_S:
            self.log(client.who, STOP)
        client.stopped_s = self._clock()

    def _take(self, client: Client) -> None:
        if client is self._controller:
            raise MessageError("you control already")
        if self._controller is None:
            self._controller = client
        elif self._asker is None:
            self._asker, self._asked_s = client, self._clock()
        elif self._asker is not client:
            raise MessageError(f"{self._asker.who} has asked already")
        self._tell_control()

    def _hand_over(self) -> None:
        if self._controller is None or self._asker is None:
            raise MessageError("nobody has asked for control")
        self._desk.left(self._controller.number, f"{self._controller.who} has handed over")
        self._controller, self._asker = self._asker, None
        self._controller.heard_s, self._controller.silent = self._clock(), False
        self._tell_control()

    def _tell_control(self) -> None:
        holder, asker = self._controller, self._asker
        for client in self._clients.values():
            known = {
                "type": "control",
                "you": client is holder,
                "holder": holder.who if holder else "",
                "asker": asker.who if asker else "",
                "asking": client is asker,
                "count": len(self._clients),
            }
            client.outbox.put(_json(known))

    def _notice(self, client: Client, text: str) -> None:
        client.outbox.put(_json({"type": "notice", "text": text[:400]}))

    # What the graph says

    def log(self, who: str, what: str) -> None:
        """Show every page who has asked for what."""
        self.tell({"type": "asked", "who": who, "text": what})

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all pages; the dialogue and the newest overlays are told pages that come later too."""
        text = _json(message)
        if message["type"] in _DIALOGUE:
            self._lines.append(text)
            self._note(message)
        elif message["type"] in _OVERLAYS:
            self._overlays.append(text)
        for client in self._clients.values():
            client.outbox.put(text)

    def tell_one(self, number: int, message: dict[str, Any]) -> None:
        """Send a message to one page, if it is still there."""
        client = self._clients.get(number)
        if client is not None:
            client.outbox.put(_json(message))

    def set_state(self, state: dict[str, Any]) -> None:
        """Show the newest state to all pages, and look whether who controls still answers."""
        text = _json({"type": "state", **state})
        for client in self._clients.values():
            client.outbox.replace(text)
        now_s = self._clock()
        if self._asker is not None and now_s - self._asked_s > HAND_OVER_S:
            self._hand_over()
        holder = self._controller
        if holder is not None and not holder.silent and now_s - holder.heard_s > SILENT_S:
            holder.silent = True
            self._desk.left(holder.number, f"{holder.who} has been silent for {SILENT_S:g} s")

    def show_image(self, frame: bytes) -> None:
        """Show the newest image to all who watch."""
        self._image = frame
        for outbox in self.images:
            outbox.replace(frame)

    def watch_images(self) -> Outbox | None:
        """Return the outbox of one more who watches; None when there are too many."""
        if len(self.images) >= MOST_CLIENTS:
            return None
        outbox = Outbox()
        self.images.add(outbox)
        if self._image is not None:
            outbox.replace(self._image)
        return outbox


def _json(message: dict[str, Any]) -> str:
    return json.dumps(message, allow_nan=False, separators=(",", ":"))
