# SPDX-License-Identifier: Apache-2.0
"""Permission to move: how fast the supervisor lets the joints move, and what becomes of it when it falls silent."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

MISSING = "the supervisor gives no permission to move"


@dataclass(frozen=True)
class Permit:
    """A permission to move.

    Attributes:
        speed: Share of the joints' velocity limits, 0 (decelerate and hold) to 1.
        reason: Why less than 1, in one line.
    """

    speed: float
    reason: str = ""


FRESH_S = 0.12
"""A permit that is older, s, permits less and less: three of the supervisor's have not come by then."""


class PermitWatch:
    """Holds the last permit; one that is not renewed in time is void. May be called from any thread.

    The supervisor foresees that the arm learns 0.4 s late that it has to slow down, not that it hears nothing for as
    long as a permit counts: the speed falls from ``FRESH_S`` on, to nothing when the permit is void.
    """

    def __init__(self, timeout_s: float) -> None:
        """Start without a permit.

        Args:
            timeout_s: A permit is void this long after it came, s.
        """
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._permit, self._since_s = Permit(0.0, MISSING), -math.inf

    def renew(self, permit: Permit, now_s: float) -> bool:
        """Take a permit.

        Args:
            permit: As it came in.
            now_s: Monotonic time, s.

        Returns:
            False, and nothing changes, when its speed is not a number from 0 to 1.
        """
        if not 0.0 <= permit.speed <= 1.0:
            return False
        with self._lock:
            self._permit, self._since_s = permit, now_s
        return True

    def judge(self, now_s: float) -> Permit:
        """Return the permit in force.

        Args:
            now_s: Monotonic time, s.
        """
        with self._lock:
            permit, age_s = self._permit, now_s - self._since_s
        if age_s <= FRESH_S:
            return permit
        if age_s <= self.timeout_s:
            left = (self.timeout_s - age_s) / (self.timeout_s - FRESH_S)
            return Permit(left * permit.speed, permit.reason or f"the permit is {age_s:.1f} s old")
        silence = "" if math.isinf(age_s) else f" for {age_s:.1f} s"
        return Permit(0.0, f"{MISSING}{silence}")
