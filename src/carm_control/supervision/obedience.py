# SPDX-License-Identifier: Apache-2.0
"""Whether a controller does as the permit says, and follows its own reference."""

from __future__ import annotations

import math

import numpy as np

from carm_control.supervision.joint_states import Motion
from carm_control.supervision.permit_judge import Judgment
from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import State
from carm_core.transforms import Array

_SLACK_M_S, _SLACK_RAD_S = 0.005, 0.012
_FASTER = 1.25


class Obedience:
    """Watches what follows from the permits. Times are monotonic, s."""

    def __init__(self, limits: JointLimits, timeout_s: float, deviation: Array) -> None:
        """Begin.

        Args:
            limits: Of the joints, J of them.
            timeout_s: A controller may take so much longer than the arm needs, s.
            deviation: (J,) how far the joints may be from the controller's reference, m or rad.
        """
        self._limits = limits
        self._slack = limits.by_unit(_SLACK_M_S, _SLACK_RAD_S)
        self.timeout_s, self.deviation = timeout_s, deviation
        self._denied: tuple[float, StopProfile] | None = None
        self._fast_s: float | None = None
        self._fast_end_s = math.inf
        self._off_s: float | None = None

    def judge(self, motion: Motion, permit: Judgment, now_s: float) -> str:
        """Return how the controller disobeys, in one line; empty when it does not.

        Args:
            motion: Of the joints.
            permit: The one that is given now.
            now_s: Monotonic time, s.
        """
        speed = np.abs(motion.velocity)
        if permit.speed == 0.0:
            self._fast_s = None
            if self._denied is None:
                profile = StopProfile(self._limits, State(motion.position, motion.velocity, motion.acceleration))
                self._denied = now_s, profile
            since_s, profile = self._denied
            expected = np.abs(profile.sample(max(0.0, now_s - since_s - self.timeout_s)).velocity)
            excess = speed - _FASTER * expected - self._slack
            if now_s - since_s > self.timeout_s and (excess > 0.0).any():
                joint = self._limits.names[int(excess.argmax())]
                return f"{joint} still moves {now_s - since_s:.1f} s after the permit was withdrawn"
            return ""
        self._denied = None
        if not (speed > _FASTER * permit.share * self._limits.velocity + self._slack).any():
            self._fast_s = None
            return ""
        if self._fast_s is None:
            profile = StopProfile(self._limits, State(motion.position, motion.velocity, motion.acceleration))
            self._fast_s, self._fast_end_s = now_s, now_s + self.timeout_s + profile.duration_s
        if now_s > self._fast_end_s:
            joint = self._limits.names[int((speed / self._limits.velocity).argmax())]
            return f"{joint} is faster than permitted for {now_s - self._fast_s:.1f} s"
        return ""

    def compare(self, reference: Array, position: Array, now_s: float) -> str:
        """Return how the joints deviate from the controller's reference for too long; empty when they do not.

        Args:
            reference: (J,) where the controller wants them, m or rad.
            position: (J,) where they are, m or rad.
            now_s: Monotonic time, s.
        """
        off = np.abs(reference - position) / self.deviation
        if not (np.isfinite(off).all() and (off > 1.0).any()):
            self._off_s = None
            return ""
        self._off_s = now_s if self._off_s is None else self._off_s
        if now_s - self._off_s <= self.timeout_s:
            return ""
        joint = int(off.argmax())
        return (
            f"{self._limits.names[joint]} is {abs(reference[joint] - position[joint]):.3g}"
            f" {self._limits.units[joint]} from where its controller wants it"
        )
