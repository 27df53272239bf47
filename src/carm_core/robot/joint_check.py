# SPDX-License-Identifier: Apache-2.0
"""Plausible joint states: finite, near the joints' range, and no faster from one to the next than the joints are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from carm_core.plausibility import ImplausibleError, named_once, number
from carm_core.robot.kinematics import Joint

Array = NDArray[np.float64]

_OUTSIDE = {"m": 0.2, "rad": 0.5}
"""A joint may read so far outside its limits (before a reference run), m or rad."""
_TOO_FAST = 5.0
"""Velocities above this multiple of a joint's limit are no measurement."""
_JUMP = 2.0
"""A change above this multiple of what the velocity limit allows is no motion."""
_SLACK_S = 0.1
"""Added to the time between two joint states, for how late they may come, s."""
_ANEW_S = 1.0
"""After a pause of this length nothing is known about where the arm may be by now, s."""
DOUBT_S = 0.5
"""After a contradiction, joint states are not trusted for this long, s."""


class JointStateCheck:
    """Reads joint states, and notices when two of them cannot both be true.

    The first state after a jump is refused, whichever is the true one; those that follow it are read, and are in doubt
    until none has contradicted another for ``DOUBT_S``.
    """

    def __init__(self, joints: Sequence[Joint]) -> None:
        """Expect the joints of one arm.

        Args:
            joints: In the order of the results.
        """
        self._joints = tuple(joints)
        self._velocity = np.array([joint.velocity for joint in joints])
        self._last: tuple[float, float, Array] | None = None
        self._contradicted_s = -math.inf

    def read(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        stamp_s: float,
        now_s: float,
    ) -> tuple[Array, Array] | None:
        """Return positions and velocities (J,), m or rad and per s; None when a joint is missing.

        Args:
            names: Of the joints, in any order; others are passed over.
            positions: One for each name, m or rad.
            velocities: One for each name, or none: then they are 0, m/s or rad/s.
            stamp_s: When they were measured, s.
            now_s: When they came, monotonic, s.

        Raises:
            ImplausibleError: They cannot be true.
        """
        places = named_once("name", names)
        if any(places.get(joint.name, len(positions)) >= len(positions) for joint in self._joints):
            return None
        order = [places[joint.name] for joint in self._joints]
        if len(velocities) and max(order) >= len(velocities):
            return None
        position = np.array([positions[place] for place in order], dtype=np.float64)
        speed = (
            np.array([velocities[place] for place in order], dtype=np.float64)
            if len(velocities)
            else np.zeros(len(order))
        )
        for joint, value, rate in zip(self._joints, position, speed, strict=True):
            slack, most = _OUTSIDE[joint.unit], _TOO_FAST * joint.velocity
            number(f"position of {joint.name}", value, joint.lower - slack, joint.upper + slack, joint.unit)
            number(f"velocity of {joint.name}", rate, -most, most, f"{joint.unit}/s")
        self._compare(position, stamp_s, now_s)
        return position, speed

    def _compare(self, position: Array, stamp_s: float, now_s: float) -> None:
        last, self._last = self._last, (stamp_s, now_s, position)
        if last is None or now_s - last[1] > _ANEW_S:
            return
        between_s = min(max(now_s - last[1], stamp_s - last[0], 0.0), _ANEW_S) + _SLACK_S
        jump = np.abs(position - last[2]) - _JUMP * self._velocity * between_s
        if (jump > 0).any():
            joint = self._joints[int(np.argmax(jump / self._velocity))]
            place = self._joints.index(joint)
            self._contradicted_s = now_s
            raise ImplausibleError(
                f"{joint.name} jumped from {last[2][place]:.4f} to {position[place]:.4f} {joint.unit}"
                f" within {max(0.0, now_s - last[1]):.3f} s"
            )

    def in_doubt(self, now_s: float) -> bool:
        """Return whether joint states have contradicted each other a moment ago.

        Args:
            now_s: Monotonic, s.
        """
        return now_s - self._contradicted_s < DOUBT_S
