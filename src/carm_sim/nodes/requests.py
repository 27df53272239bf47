# SPDX-License-Identifier: Apache-2.0
"""Requests for exposures that wait for their turn. None waits longer than its age limit, and each is answered."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from carm_core.plausibility import at_most
from carm_sim.xray import Request

MOST_WAITING = 64
"""Requests that wait; more are refused at once."""
REFUSED_AT_ONCE = 8
"""A client keeps 10 answers that it has not taken yet."""


@dataclass(frozen=True, eq=False)
class WaitingRequest:
    """A requested exposure.

    Attributes:
        request: What was asked for.
        asked_s: When, monotonic, s.
        answer: Where the answer goes.
    """

    request: Request
    asked_s: float
    answer: Any = None


class RequestQueue:
    """Queue of requests; safe to use from several threads."""

    def __init__(self, limit_s: float, answer: Callable[[WaitingRequest, Exception], None]) -> None:
        """Start empty.

        Args:
            limit_s: Longest wait, s.
            answer: Told a request that is refused, and why.
        """
        self._limit_s, self._answer = limit_s, answer
        self._waiting: deque[WaitingRequest] = deque()
        self._refused: deque[tuple[WaitingRequest, Exception]] = deque()
        self._changed = threading.Condition()

    def __len__(self) -> int:
        """Return how many wait."""
        return len(self._waiting)

    def add(self, request: WaitingRequest) -> None:
        """Add a request and wake ``take``.

        Raises:
            ImplausibleError: Too many wait.
        """
        with self._changed:
            at_most("the queue of requests", self._waiting, MOST_WAITING - 1)
            self._waiting.append(request)
            self._changed.notify_all()

    def wake(self) -> None:
        """Have ``take`` return."""
        with self._changed:
            self._changed.notify_all()

    def take(self, timeout_s: float, allowed: Callable[[], bool]) -> WaitingRequest | None:
        """Return the request that has waited longest; waits until there is one, or until it is woken.

        Args:
            timeout_s: Longest wait, s.
            allowed: Whether requests may be served now.
        """
        with self._changed:
            if not (self._waiting and allowed()):
                self._changed.wait(timeout_s)
            return self._waiting.popleft() if self._waiting and allowed() else None

    def refuse(self, reason: Exception) -> None:
        """Refuse all that wait."""
        with self._changed:
            self._refused.extend((request, reason) for request in self._waiting)
            self._waiting.clear()
        self._tell()

    def refuse_overdue(self, why: Callable[[float], Exception]) -> None:
        """Refuse those that have waited too long; to be called some times a second.

        Args:
            why: Returns the reason for a request that was made at a monotonic time, s.
        """
        with self._changed:
            limit_s = time.monotonic() - self._limit_s
            self._refused.extend((each, why(each.asked_s)) for each in self._waiting if each.asked_s < limit_s)
            self._waiting = deque(each for each in self._waiting if each.asked_s >= limit_s)
        self._tell()

    def _tell(self) -> None:
        """Answer some of the refused requests; the others follow, so that one client can take all its answers."""
        with self._changed:
            some = [self._refused.popleft() for _ in range(min(REFUSED_AT_ONCE, len(self._refused)))]
        for request, reason in some:
            self._answer(request, reason)
