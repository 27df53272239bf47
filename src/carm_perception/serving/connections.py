# SPDX-License-Identifier: Apache-2.0
"""Bounds on what clients of ``carm serve`` hold: connections, headers that never end, memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from carm_perception.serving.chat import ApiError

MOST_CONNECTIONS = 256
HEADER_S = 10.0
"""Longest time until the header of a request has arrived, s."""
BODY_S = 60.0
"""Longest time from then until its body has arrived, s."""
_LINGER_S = 5.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 of ``uvicorn``, which itself waits without end for a header, and for a body.

    Attributes:
        owing_s: Since when the client has owed a header, or the rest of a body, time of the loop, s; None while it owes
            nothing and waits for an answer.
    """

    owing_s: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _owes = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first header is due. Beyond ``MOST_CONNECTIONS`` the one goes whose client has owed for longest."""
        super().connection_made(transport)
        self._expect("header", HEADER_S)
        if len(self.connections) > MOST_CONNECTIONS:
            owing = [one for one in self.connections if isinstance(one, BoundedProtocol) and one.owing_s is not None]
            longest = min(owing, key=lambda one: one.owing_s or 0.0)
            self.connections.discard(longest)
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Note what is due next."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect("header", HEADER_S)
        elif self.conn.their_state is h11.SEND_BODY:
            self._expect("body", BODY_S)
        else:
            self._stop_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timer."""
        self._stop_timer()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Do not wait for the rest of a body after its answer."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(_LINGER_S, self.transport.close)
        elif self.conn.their_state is h11.IDLE:
            self._stop_timer()  # uvicorn's own, for the next request, runs
            self.owing_s = self.loop.time()

    def _expect(self, what: str, longest_s: float) -> None:
        """Give the client so long from now; what it has owed before is not put off by a part of it."""
        if self._owes != what:
            self._stop_timer()
            self._owes, self.owing_s = what, self.loop.time()
            self._timer = self.loop.call_later(longest_s, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._owes, self.owing_s = None, "", None


class Share:
    """An amount that requests take from and give back, from any thread."""

    def __init__(self, most: int, patience_s: float) -> None:
        """All of it is free.

        Args:
            most: The whole amount.
            patience_s: Longest wait for a part of it, s.
        """
        self._most, self._patience_s = most, patience_s
        self._taken, self._changed = 0, threading.Condition()

    @contextlib.contextmanager
    def part(self) -> Iterator[Part]:
        """A part, which grows as it is told to, and is given back at the end."""
        part = Part(self)
        try:
            yield part
        finally:
            self._give(part.amount)

    def take(self, amount: int) -> None:
        """Take more, when others have given back.

        Raises:
            ApiError: Too much is taken for too long.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._taken + amount <= self._most, self._patience_s):
                raise ApiError(503, "too many large requests at once", code="overloaded", kind="server_error")
            self._taken += amount

    def _give(self, amount: int) -> None:
        with self._changed:
            self._taken -= amount
            self._changed.notify_all()


class Part:
    """What one request has taken of a share.

    Attributes:
        amount: How much.
    """

    def __init__(self, share: Share) -> None:
        """Nothing is taken yet."""
        self._share, self.amount = share, 0

    def grow(self, amount: int) -> None:
        """Take more.

        Raises:
            ApiError: There is too little left.
        """
        self._share.take(amount)
        self.amount += amount
