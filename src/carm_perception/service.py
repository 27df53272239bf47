# SPDX-License-Identifier: Apache-2.0
"""Localization on a thread of its own: the newest frame wins, the newest question wins. Knows nothing of ROS.

The worker thread makes the localizer and is the only one that ever calls it. Commands need no frame; they come before
everything else and take no question's place.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from carm_core.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Protocol, Query

STAMP_TOLERANCE_S = 1e-6

NO_FRAME = XrayFrame(np.zeros((2, 2), np.uint8), math.nan, math.nan)
"""Stands in for the frame of a question that is about none."""


class Outcome(Enum):
    """How a question ended."""

    ANSWERED = auto()
    NO_FRAME = auto()
    MALFORMED = auto()
    ABSTAINED = auto()
    CANCELED = auto()
    SUPERSEDED = auto()
    INTERNAL = auto()


@dataclass(eq=False)
class Ticket:
    """A question on its way.

    Attributes:
        query: The question.
        stamp_s: Stamp of the frame to use, s; None: the newest.
        asked_s: When it was asked, monotonic, s.
        running: The localizer works on it.
        outcome: How it ended; None while it has not.
        frame: The frame that was used.
        reply: The localizer's reply.
        message: Why there is no answer; empty when there is one.
        done: Set when it has ended.
    """

    query: Query
    stamp_s: float | None
    asked_s: float = field(default_factory=time.monotonic)
    running: bool = False
    outcome: Outcome | None = None
    frame: XrayFrame | None = None
    reply: Localization | None = None
    message: str = ""
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Statistics:
    """What the service has done.

    Attributes:
        frames: Frames that came in.
        answered: Questions answered.
        skipped: Frames passed over because a newer one came.
        latency_s: Latency of the last answer, s.
        problem: Last failure; empty when the last answer was fine.
    """

    frames: int
    answered: int
    skipped: int
    latency_s: float
    problem: str


class LocalizationService:
    """Owns a localizer and the thread on which it works."""

    def __init__(
        self,
        make: Callable[[], Localizer],
        publish: Callable[[XrayFrame, Localization], None],
        frame_query: Callable[[], Query | None] = lambda: Query(Protocol.LOCALIZATION),
        kept_frames: int = 8,
        frame_timeout_s: float = 2.0,
    ) -> None:
        """Prepare; :meth:`start` begins.

        Args:
            make: Makes the localizer, on the worker thread.
            publish: Told every answer to a frame's own question, and every answer to a question asked, on the worker.
            frame_query: What to ask about each new frame; None: nothing.
            kept_frames: Frames kept for questions with a stamp.
            frame_timeout_s: How long a question waits for its frame, s.
        """
        self._make, self._publish, self._frame_query = make, publish, frame_query
        self._kept, self._timeout_s = kept_frames, frame_timeout_s
        self._changed = threading.Condition()
        self._frames: OrderedDict[float, XrayFrame] = OrderedDict()
        self._fresh: XrayFrame | None = None
        self._waiting: Ticket | None = None
        self._command: Ticket | None = None
        self._last: tuple[float, Query, Localization] | None = None
        self._closing = False
        self._counts = {"frames": 0, "answered": 0, "skipped": 0}
        self._latency_s, self._problem = math.nan, ""
        self.ready = threading.Event()
        self.failure: Exception | None = None
        self.name = ""
        self._thread = threading.Thread(target=self._run, name="localizer", daemon=True)

    def start(self) -> None:
        """Load the localizer and begin to work."""
        self._thread.start()

    def close(self, timeout_s: float = 0.7) -> None:
        """End; questions that wait are refused. A question that is being answered is not waited for longer."""
        with self._changed:
            self._closing = True
            self._end_all(Outcome.CANCELED, "the localizer is ending")
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    @property
    def statistics(self) -> Statistics:
        """What has been done so far."""
        with self._changed:
            return Statistics(**self._counts, latency_s=self._latency_s, problem=self._problem)

    def submit(self, frame: XrayFrame) -> None:
        """Hand a new frame over; one that still waits is passed over."""
        with self._changed:
            self._counts["frames"] += 1
            self._counts["skipped"] += self._fresh is not None
            self._fresh = frame
            self._frames[frame.stamp_s] = frame
            while len(self._frames) > self._kept:
                self._frames.popitem(last=False)
            self._changed.notify_all()

    def ask(self, query: Query, stamp_s: float | None = None) -> Ticket:
        """Ask a question; one of its kind (about a frame, or a command) that still waits is superseded.

        Args:
            query: The question.
            stamp_s: Stamp of the frame to use, s; None: the newest.
        """
        ticket = Ticket(query, stamp_s)
        with self._changed:
            if query.protocol is Protocol.COMMAND:
                earlier, self._command = self._command, ticket
            else:
                earlier, self._waiting = self._waiting, ticket
            self._end(earlier, Outcome.SUPERSEDED, "a newer request took its place")
            if self._closing:
                self._end_all(Outcome.CANCELED, "the localizer is ending")
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Give a question up; an answer that comes later is dropped."""
        with self._changed:
            if self._waiting is ticket:
                self._waiting = None
            if self._command is ticket:
                self._command = None
            self._end(ticket, Outcome.CANCELED, "canceled")

    def _end_all(self, outcome: Outcome, message: str) -> None:
        for ticket in (self._waiting, self._command):
            self._end(ticket, outcome, message)
        self._waiting = self._command = None

    @staticmethod
    def _end(ticket: Ticket | None, outcome: Outcome, message: str = "") -> None:
        if ticket is not None and ticket.outcome is None:
            ticket.outcome, ticket.message = outcome, message
            ticket.done.set()

    def _run(self) -> None:
        localizer: Localizer | None = None
        try:
            localizer = self._make()
            localizer.warm_up()
            self.name = localizer.name
            self.ready.set()
            while self._work(localizer):
                pass
        except Exception as error:  # whatever ends the worker is told to the owner
            self.failure = error
        finally:
            with self._changed:
                self._end_all(Outcome.INTERNAL, str(self.failure or "the localizer is ending"))
            if localizer is not None:
                localizer.close()

    def _work(self, localizer: Localizer) -> bool:
        """Wait for something to do and do it; False at the end."""
        with self._changed:
            ticket, frame = None, None
            while not self._closing:
                ticket, frame = self._next()
                if ticket is not None or frame is not None:
                    break
                self._changed.wait(0.05 if self._waiting is not None else None)
            if self._closing:
                return False
            if ticket is not None:
                ticket.running, ticket.frame = True, frame
        if ticket is not None and frame is not None:
            self._answer(localizer, ticket, frame)
        elif frame is not None:
            query = self._frame_query()
            if query is not None:
                self._publish(frame, self._localize(localizer, frame, query))
        return True

    def _next(self) -> tuple[Ticket | None, XrayFrame | None]:
        """Take the question that can be answered now, else the newest frame."""
        if self._command is not None:
            command, self._command = self._command, None
            return command, NO_FRAME
        ticket = self._waiting
        if ticket is not None:
            frame = self._find(ticket.stamp_s)
            if frame is not None:
                self._waiting = None
                if frame is self._fresh:
                    self._fresh = None
                return ticket, frame
            if time.monotonic() - ticket.asked_s > self._timeout_s:
                self._waiting = None
                which = "no image has come yet" if ticket.stamp_s is None else "the image asked for is not there"
                self._end(ticket, Outcome.NO_FRAME, which)
        fresh, self._fresh = self._fresh, None
        return None, fresh

    def _find(self, stamp_s: float | None) -> XrayFrame | None:
        if not self._frames:
            return None
        if stamp_s is None:
            return next(reversed(self._frames.values()))
        return next((f for s, f in self._frames.items() if abs(s - stamp_s) < STAMP_TOLERANCE_S), None)

    def _localize(self, localizer: Localizer, frame: XrayFrame, query: Query) -> Localization:
        if frame is not NO_FRAME and self._last is not None and self._last[:2] == (frame.stamp_s, query):
            return self._last[2]
        reply = localizer.localize(frame, query)
        if frame is not NO_FRAME:
            self._last = (frame.stamp_s, query, reply)
        with self._changed:
            self._counts["answered"] += 1
            if frame is not NO_FRAME:
                self._latency_s = reply.latency_s
                self._problem = "" if reply.error is None else reply.message
        return reply

    def _answer(self, localizer: Localizer, ticket: Ticket, frame: XrayFrame) -> None:
        reply = self._localize(localizer, frame, ticket.query)
        if reply.error is not None:
            outcome = Outcome.MALFORMED if reply.error == "malformed" else Outcome.INTERNAL
        else:
            outcome = Outcome.ABSTAINED if reply.abstained else Outcome.ANSWERED
        if ticket.outcome is None and frame is not NO_FRAME:
            self._publish(frame, reply)
        with self._changed:
            ticket.reply = reply
            self._end(ticket, outcome, reply.message)
