# SPDX-License-Identifier: Apache-2.0
"""Recent joint states, to know where the C-arm was at the middle of an exposure."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import CarmError

_KEPT = 200
_PATIENCE_S = 0.1  # for the joint state that follows the exposure
_LAST_PATIENCE_S = 0.9  # for one that says anything at all, where none does yet: a busy machine delivers late


class JointStatesMissingError(CarmError):
    """Nothing recent is known about where the C-arm is."""


class JointHistory:
    """The last few seconds of joint states; safe to use from several threads."""

    def __init__(self, joint_names: Sequence[str], timeout_s: float) -> None:
        """Start empty.

        Args:
            joint_names: Joints in the order of the result.
            timeout_s: Age at which a joint state says nothing about the present any more, s.
        """
        self._names = tuple(joint_names)
        self._timeout_s = timeout_s
        self._stamps: list[float] = []
        self._positions: list[NDArray[np.float64]] = []
        self._arrived = threading.Condition()

    def add(self, stamp_s: float, positions: Mapping[str, float]) -> bool:
        """Keep a joint state.

        Args:
            stamp_s: Its time, s. A time before the newest one (a clock set back) starts the history anew.
            positions: Joint name to position, m or rad; other joints are ignored.

        Returns:
            False when a joint is missing or not finite; such a state is not kept.
        """
        values = np.array([positions.get(name, float("nan")) for name in self._names])
        if not np.isfinite(values).all():
            return False
        with self._arrived:
            if self._stamps and stamp_s < self._stamps[-1]:
                self._stamps.clear()
                self._positions.clear()
            elif self._stamps and stamp_s == self._stamps[-1]:  # simulated time stands still between two ticks
                del self._stamps[-1], self._positions[-1]
            self._stamps.append(stamp_s)
            self._positions.append(values)
            del self._stamps[:-_KEPT], self._positions[:-_KEPT]
            self._arrived.notify_all()
        return True

    def at(self, stamp_s: float) -> NDArray[np.float64]:
        """Return the joint positions at a time, linear between the states around it.

        Waits a moment for the state after it; when none comes the last one counts, unless it is too old.

        Args:
            stamp_s: Time, s.

        Returns:
            Positions (joints,), m and rad.

        Raises:
            JointStatesMissingError: There is no state, or the nearest is too old.
        """
        with self._arrived:
            if self._stamps:
                self._arrived.wait_for(lambda: bool(self._stamps) and self._stamps[-1] >= stamp_s, _PATIENCE_S)
                recent_s = stamp_s - self._timeout_s
                self._arrived.wait_for(lambda: bool(self._stamps) and self._stamps[-1] >= recent_s, _LAST_PATIENCE_S)
            if not self._stamps:
                raise JointStatesMissingError("no joint states received yet: is the motion node running?")
            after = bisect.bisect_left(self._stamps, stamp_s)
            if after == 0 or after == len(self._stamps):
                nearest = min(after, len(self._stamps) - 1)
                age_s = abs(stamp_s - self._stamps[nearest])
                if age_s > self._timeout_s:
                    raise JointStatesMissingError(
                        f"the nearest joint state is {age_s:.2f} s away from the exposure, more than"
                        f" {self._timeout_s:.2f} s: is the motion node running?"
                    )
                return self._positions[nearest].copy()
            before = after - 1
            share = (stamp_s - self._stamps[before]) / (self._stamps[after] - self._stamps[before])
            return (1 - share) * self._positions[before] + share * self._positions[after]
