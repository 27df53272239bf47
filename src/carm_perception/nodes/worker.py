# SPDX-License-Identifier: Apache-2.0
"""Localization on a thread of its own: the newest frame wins, the newest question wins. Knows nothing of ROS.

The worker thread makes the localizer and is the only one that ever calls it, but for `cancel`. Commands need no frame;
they come before everything else and take no question's place. Questions that name one and the same frame take no place
of each other either: they wait together and are answered as a batch.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Protocol, Query

logger = logging.getLogger(__name__)

STAMP_TOLERANCE_S = 1e-6
_LONGEST_MESSAGE = 400

LARGEST_BATCH = 16
"""Most questions about one frame that wait together."""

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
        on_end: Called once when it has ended, on any thread, with the service's lock held: it must return at once.
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
    on_end: Callable[[], None] | None = None


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
        """Prepare; ``start`` begins.

        Args:
            make: Makes the localizer, on the worker thread.
            publish: Told every answer to a frame's own question, and every answer to a question asked, on the worker.
            frame_query: What to ask about each new frame; None: nothing.
            kept_frames: Frames kept for questions with a stamp.
            frame_timeout_s: How long a question waits for its frame, s.
        """
        self._make, self._told, self._frame_query = make, publish, frame_query
        self._kept, self._timeout_s = kept_frames, frame_timeout_s
        self._changed = threading.Condition()
        self._frames: OrderedDict[float, XrayFrame] = OrderedDict()
        self._fresh: XrayFrame | None = None
        self._waiting: list[Ticket] = []
        self._command: Ticket | None = None
        self._running: list[Ticket] = []
        self._localizer: Localizer | None = None
        self._last: tuple[float, dict[Query, Localization]] = (math.nan, {})
        self._closing = False
        self._counts = {"frames": 0, "answered": 0, "skipped": 0}
        self._latency_s, self._problem = math.nan, ""
        self.ready = threading.Event()
        self.failure: Exception | None = None
        self.name, self.loaded = "", ""
        self._thread = threading.Thread(target=self._run, name="localizer", daemon=True)

    def start(self) -> None:
        """Load the localizer and begin to work."""
        self._thread.start()

    def close(self, timeout_s: float = 0.7) -> None:
        """Stop; refuse waiting questions. Do not wait for a question that is being answered."""
        with self._changed:
            self._closing = True
            self._end_all(Outcome.CANCELED, "the localizer is shutting down")
            if self._localizer is not None:
                self._localizer.cancel()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def adjust(self, change: Callable[[Localizer], None]) -> None:
        """Change the localizer between two answers; forget the results for the last frame.

        Args:
            change: Called with the localizer; quick. What it raises comes through.

        Raises:
            LocalizerError: There is no localizer yet.
        """
        with self._changed:
            if self._localizer is None:
                raise LocalizerError("the localizer is still being loaded: ask again")
            change(self._localizer)
            self._last = (math.nan, {})

    @property
    def statistics(self) -> Statistics:
        """What has been done so far."""
        with self._changed:
            return Statistics(**self._counts, latency_s=self._latency_s, problem=self._problem)

    def submit(self, frame: XrayFrame) -> None:
        """Submit a new frame; it replaces one that still waits."""
        with self._changed:
            self._counts["frames"] += 1
            self._counts["skipped"] += self._fresh is not None
            self._fresh = frame
            self._frames[frame.stamp_s] = frame
            while len(self._frames) > self._kept:
                self._frames.popitem(last=False)
            self._changed.notify_all()

    def ask(self, query: Query, stamp_s: float | None = None, on_end: Callable[[], None] | None = None) -> Ticket:
        """Ask a question; those that still wait are superseded, unless they name the same frame.

        A command supersedes a command, and nothing else.

        Args:
            query: The question.
            stamp_s: Stamp of the frame to use, s; None: the newest.
            on_end: As in ``Ticket``.
        """
        ticket = Ticket(query, stamp_s, on_end=on_end)
        with self._changed:
            if query.protocol is Protocol.COMMAND:
                earlier, self._command = [self._command] if self._command else [], ticket
            else:
                together = [other for other in self._waiting if stamp_s is not None and other.stamp_s == stamp_s]
                together = together[-(LARGEST_BATCH - 1) :]
                earlier = [other for other in self._waiting if other not in together]
                self._waiting = [*together, ticket]
            for other in earlier:
                self._end(other, Outcome.SUPERSEDED, "replaced by a newer request")
            if self._closing:
                self._end_all(Outcome.CANCELED, "the localizer is shutting down")
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket, message: str = "canceled") -> None:
        """Cancel a question; a later answer is dropped, or aborted if the localizer can do so."""
        with self._changed:
            self._waiting = [other for other in self._waiting if other is not ticket]
            if self._command is ticket:
                self._command = None
            self._end(ticket, Outcome.CANCELED, message)
            given_up = bool(self._running) and all(other.outcome is not None for other in self._running)
            if ticket in self._running and given_up and self._localizer is not None:
                self._localizer.cancel()

    def _end_all(self, outcome: Outcome, message: str) -> None:
        for ticket in (*self._waiting, self._command):
            self._end(ticket, outcome, message)
        self._waiting, self._command = [], None

    @staticmethod
    def _end(ticket: Ticket | None, outcome: Outcome, message: str = "") -> None:
        if ticket is not None and ticket.outcome is None:
            ticket.outcome, ticket.message = outcome, message
            ticket.done.set()
            if ticket.on_end is not None:
                ticket.on_end()

    def _run(self) -> None:
        localizer: Localizer | None = None
        try:
            localizer = self._make()
            localizer.warm_up()
            self.name, self.loaded, self._localizer = localizer.name, localizer.loaded, localizer
            self.ready.set()
            while self._work(localizer):
                pass
        except Exception as error:  # whatever ends the worker is told to the owner
            self.failure = error
        finally:
            with self._changed:
                self._end_all(Outcome.INTERNAL, str(self.failure or "the localizer is shutting down"))
                self._localizer = None
            if localizer is not None:
                localizer.close()

    def _work(self, localizer: Localizer) -> bool:
        """Wait for something to do and do it; False at the end."""
        with self._changed:
            tickets: list[Ticket] = []
            frame = None
            while not self._closing:
                tickets, frame = self._next()
                if frame is not None:
                    break
                self._changed.wait(0.05 if self._waiting else None)
            if self._closing or frame is None:
                return False
            for ticket in tickets:
                ticket.running, ticket.frame = True, frame
            self._running = tickets
        if tickets:
            self._answer(localizer, tickets, frame)
        else:
            query = self._frame_query()
            if query is not None:
                self._publish(frame, self._localize(localizer, frame, [query])[0])
        return True

    def _next(self) -> tuple[list[Ticket], XrayFrame | None]:
        """Take the questions that can be answered now, else the newest frame."""
        if self._command is not None:
            command, self._command = self._command, None
            return [command], NO_FRAME
        if self._waiting:
            first = self._waiting[0]
            frame = self._find(first.stamp_s)
            if frame is not None:
                tickets, self._waiting = self._waiting, []
                if frame is self._fresh:
                    self._fresh = None
                return tickets, frame
            self._expire()
        fresh, self._fresh = self._fresh, None
        return [], fresh

    def _expire(self) -> None:
        """End the questions whose frame has not arrived in time."""
        now = time.monotonic()
        late = [ticket for ticket in self._waiting if now - ticket.asked_s > self._timeout_s]
        self._waiting = [ticket for ticket in self._waiting if ticket not in late]
        for ticket in late:
            which = "no image received yet" if ticket.stamp_s is None else "the requested image is not available"
            self._end(ticket, Outcome.NO_FRAME, which)

    def _find(self, stamp_s: float | None) -> XrayFrame | None:
        if not self._frames:
            return None
        if stamp_s is None:
            return next(reversed(self._frames.values()))
        return next((f for s, f in self._frames.items() if abs(s - stamp_s) < STAMP_TOLERANCE_S), None)

    def _localize(self, localizer: Localizer, frame: XrayFrame, queries: list[Query]) -> list[Localization]:
        """Return the replies to questions; one that was just answered about this frame is not asked again."""
        known = dict(self._last[1]) if self._last[0] == frame.stamp_s else {}
        asked = [query for query in dict.fromkeys(queries) if query not in known]
        if not asked:
            return [known[query] for query in queries]
        try:
            fresh = dict(zip(asked, localizer.localize_batch(frame, asked), strict=True))
        except Exception as error:  # what one image or one answer of a model leads to does not end the worker
            logger.error("localizer %s failed: %s: %s", localizer.name, type(error).__name__, error)
            fresh = {query: _failed(localizer, query, error) for query in asked}
        known |= fresh
        if frame is not NO_FRAME:
            self._last = (frame.stamp_s, {query: known[query] for query in queries if known[query].error != "internal"})
        with self._changed:
            self._counts["answered"] += len(fresh)
            if frame is not NO_FRAME:
                failed = next((reply for reply in fresh.values() if reply.error is not None), None)
                self._latency_s = max(reply.latency_s for reply in fresh.values())
                self._problem = "" if failed is None else failed.message
        return [known[query] for query in queries]

    def _publish(self, frame: XrayFrame, reply: Localization) -> None:
        try:
            self._told(frame, reply)
        except Exception as error:  # an answer that fits no message does not end the worker
            logger.error("an answer was not published: %s: %s", type(error).__name__, error)

    def _answer(self, localizer: Localizer, tickets: list[Ticket], frame: XrayFrame) -> None:
        replies = self._localize(localizer, frame, [ticket.query for ticket in tickets])
        with self._changed:
            self._running = []
        for ticket, reply in zip(tickets, replies, strict=True):
            if ticket.outcome is None and frame is not NO_FRAME:
                self._publish(frame, reply)
            with self._changed:
                ticket.reply = reply
                self._end(ticket, _outcome(reply), reply.message)


def _failed(localizer: Localizer, query: Query, error: Exception) -> Localization:
    message = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_LONGEST_MESSAGE]
    return Localization(localizer.name, "", query, "", (), math.nan, error="internal", message=message)


def _outcome(reply: Localization) -> Outcome:
    if reply.error is not None:
        return Outcome.MALFORMED if reply.error == "malformed" else Outcome.INTERNAL
    return Outcome.ABSTAINED if reply.abstained else Outcome.ANSWERED
