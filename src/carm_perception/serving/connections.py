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
_LINGER_S = 5.0


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 of ``uvicorn``, which itself waits without end for a header, and for a body that nobody reads."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first header is due. Beyond ``MOST_CONNECTIONS`` the one goes whose header is due for longest."""
        super().connection_made(transport)
        self._expect_header()
        if len(self.connections) > MOST_CONNECTIONS:
            waiting = [one for one in self.connections if isinstance(one, BoundedProtocol) and one.due_s is not None]
            longest = min(waiting, key=lambda one: one.due_s or 0.0)
            self.connections.discard(longest)
            longest.transport.abort()

    @property
    def due_s(self) -> float | None:
        """When a header is due at the latest, time of the loop, s; None while a request is answered."""
        return None if self._timer is None else self._timer.when()

    def data_received(self, data: bytes) -> None:
        """Note whether a header is complete."""
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._expect_header()
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

    def _expect_header(self) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(HEADER_S, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


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
