# SPDX-License-Identifier: Apache-2.0
"""Fluoroscopy while somebody holds a switch: it lasts as long as it is renewed, and ends by itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from carm_sim.xray import Request


class HeldSeries:
    """A series that its requester renews; safe to use from several threads."""

    def __init__(self, hold_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is asked for.

        Args:
            hold_s: The series ends when it was not renewed for so long, s.
            clock: Returns the time, s.
        """
        self._hold_s, self._clock = hold_s, clock
        self._request: Request | None = None
        self._renewed_s = 0.0
        self._lock = threading.Lock()

    @property
    def request(self) -> Request | None:
        """Technique and field of the next frame; None when there is to be none."""
        with self._lock:
            if self._request is not None and self._clock() - self._renewed_s > self._hold_s:
                self._request = None
            return self._request

    def renew(self, request: Request, asked_s: float) -> bool:
        """Begin the series, or go on with it.

        Args:
            request: Technique and field of the next frames.
            asked_s: When it was asked for, s; what is older than the hold begins nothing.

        Returns:
            Whether it began with this.
        """
        began = self.request is None
        with self._lock:
            if self._clock() - asked_s > self._hold_s:
                return False
            self._request, self._renewed_s = request, asked_s
        return began

    def end(self) -> bool:
        """End the series; return whether there was one."""
        ran = self.request is not None
        with self._lock:
            self._request = None
        return ran
