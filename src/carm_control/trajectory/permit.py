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


FRESH_S, PAUSED_S = 0.08, 0.16
"""A permit that is older, s, permits less and less, from three of the supervisor's that have not come; and hardly any
motion from the second age on. The goal goes on when the next permit comes."""
_CRAWL = 0.01
"""Share of the permitted speed that is left while the next permit may still come."""


class PermitWatch:
    """Holds the last permit; one that is not renewed in time is void. May be called from any thread.

    The supervisor foresees that a moving arm learns 0.4 s late that it has to slow down. It does not foresee how far
    an arm that begins to move gets while nothing comes: the arm waits for the next permit before it is void.
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

    def judge(self, now_s: float, *, waiting: bool = False) -> Permit:
        """Return the permit in force.

        Args:
            now_s: Monotonic time, s.
            waiting: A permit that grows old permits less and less: for a controller that can go on afterwards.
        """
        with self._lock:
            permit, age_s = self._permit, now_s - self._since_s
        if age_s <= self.timeout_s:
            left = min(1.0, max(_CRAWL, (PAUSED_S - age_s) / (PAUSED_S - FRESH_S))) if waiting else 1.0
            reason = permit.reason or ("" if left == 1.0 else f"the permit is {age_s:.1f} s old")
            return Permit(left * permit.speed, reason)
        silence = "" if math.isinf(age_s) else f" for {age_s:.1f} s"
        return Permit(0.0, f"{MISSING}{silence}")
