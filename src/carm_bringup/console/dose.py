# SPDX-License-Identifier: Apache-2.0
"""Dose of the session: its rate, and the levels at which the console says so."""

from __future__ import annotations

import math
from collections import deque

RATE_S = 10.0
"""The rate is the mean over so long, s."""
NEXT = 1 / 3
"""After the first level, each further one comes after this share of it: 3 Gy, then every 1 Gy (NCRP Report 168)."""
_MOST = 2048


class DoseWatch:
    """Follows the cumulative air kerma at the reference point. Not thread-safe."""

    def __init__(self, first_mgy: float) -> None:
        """Begin at zero.

        Args:
            first_mgy: First level, mGy; 0: none.
        """
        self._first_mgy = first_mgy
        self._past: deque[tuple[float, float]] = deque(maxlen=_MOST)
        self._level = 0.0

    def level_mgy(self, kerma_mgy: float) -> float:
        """Return the highest level that a dose has reached, mGy; 0: none."""
        beyond = kerma_mgy - self._first_mgy
        if not self._first_mgy or not 0.0 <= beyond < math.inf:
            return 0.0
        step = NEXT * self._first_mgy
        return self._first_mgy + step * math.floor(beyond / step + 1e-9)

    def heard(self, kerma_mgy: float, now_s: float) -> str:
        """Take the cumulative dose after an exposure.

        Args:
            kerma_mgy: Cumulative air kerma, mGy; less than before after a restart of the X-ray system.
            now_s: Monotonic time, s.

        Returns:
            What everybody is told because a level was reached; empty: nothing.
        """
        if not math.isfinite(kerma_mgy):
            return ""
        if self._past and kerma_mgy < self._past[-1][1]:
            self._past.clear()
            self._level = 0.0
        self._past.append((now_s, kerma_mgy))
        level = self.level_mgy(kerma_mgy)
        reached, self._level = level > self._level, max(level, self._level)
        return f"air kerma has reached {level:.0f} mGy" if reached else ""

    def rate_mgy_min(self, now_s: float) -> float:
        """Return the mean dose rate of the last 10 s, mGy/min."""
        past = self._past
        while len(past) > 1 and past[1][0] <= now_s - RATE_S:
            past.popleft()
        return (past[-1][1] - past[0][1]) * 60.0 / RATE_S if past else 0.0
