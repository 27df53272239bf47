# SPDX-License-Identifier: Apache-2.0
"""What the judges read off a history: velocities, motion and rest, and how long braking takes."""

from __future__ import annotations

import numpy as np

from carm_bringup.benchmarks.faults.history import History
from carm_control.trajectory.limits import JointLimits
from carm_core.transforms import Array

REST_M_S, REST_RAD_S = 0.002, 0.005
"""Joints below these velocities rest, m/s and rad/s."""
_MADE_UP_S = 0.015
"""A control loop makes up for so much of the time in which it was held up, s."""
_ORDERLY_S = 0.03
"""Two steps of a control loop that is not held up take less, s."""


class Record:
    """The samples of a history as arrays, J joints."""

    def __init__(self, history: History, limits: JointLimits) -> None:
        """Compute velocities.

        Args:
            history: Of an episode.
            limits: Of the joints.
        """
        self.history, self.limits = history, limits
        self.times_s = np.array(history.times_s)
        self.true = np.array(history.true).reshape(len(history.times_s), len(limits.names))
        self.velocity = np.zeros_like(self.true)
        if len(self.times_s) > 1:
            steps = np.diff(self.times_s)[:, None]
            self.velocity[1:] = np.diff(self.true, axis=0) / steps
        rest = limits.by_unit(REST_M_S, REST_RAD_S)
        self.moving = np.asarray((np.abs(self.velocity) > rest).any(axis=1))
        self._freezes = [(event.time_s, event.value) for event in history.of("frozen") if event.name == "core"]
        self._stalls = [
            (time_s - passed_s + _MADE_UP_S, time_s)
            for time_s, passed_s, _, _ in history.cycles
            if passed_s > _MADE_UP_S and not any(a < time_s and time_s - passed_s < b for a, b in self._freezes)
        ]

    def rates(self, time_s: float) -> tuple[Array, Array]:
        """Return velocity and acceleration (J,) at a time, s; those from before a freeze or a held-up control loop.

        A control loop does not make up for all the time in which it was held up: the mean velocity then is too small.
        """
        for begin_s, end_s in self._freezes:
            if begin_s < time_s <= end_s + 1e-6:
                time_s = begin_s
        last = int(np.searchsorted(self.times_s, time_s + 1e-9)) - 1
        while (
            last > 2 and self.times_s[last] - self.times_s[last - 2] > _ORDERLY_S and time_s < self.times_s[last] + 1.0
        ):
            last -= 1
        if last < 2:
            zero = np.zeros(len(self.limits.names))
            return zero, zero
        step_s = self.times_s[last] - self.times_s[last - 1]
        return self.velocity[last], (self.velocity[last] - self.velocity[last - 1]) / max(step_s, 1e-3)

    def frozen_s(self, begin_s: float, end_s: float) -> float:
        """Return how long the control loop was frozen or held up between two times, s."""
        halts = (*self._freezes, *self._stalls)
        return sum(max(0.0, min(end_s, end) - max(begin_s, begin)) for begin, end in halts)

    def moves(self, begin_s: float, end_s: float) -> float | None:
        """Return the first time of a motion between two times, s; None without."""
        inside = (self.times_s > begin_s) & (self.times_s < end_s) & self.moving
        return float(self.times_s[inside.argmax()]) if inside.any() else None


def ramp(limits: JointLimits, velocity: Array, acceleration: Array) -> tuple[float, Array]:
    """Return how long braking takes until all joints rest, s, and how far each goes (J,), m or rad, at most.

    Args:
        limits: Of acceleration and jerk.
        velocity: (J,), m/s or rad/s.
        acceleration: (J,), m/s² or rad/s².
    """
    speed = np.abs(velocity)
    rising = np.clip(acceleration * np.sign(velocity), 0.0, limits.acceleration)
    before_s = rising / limits.jerk
    top = speed + rising**2 / (2 * limits.jerk)
    trapezoid = top >= limits.acceleration**2 / limits.jerk
    with np.errstate(invalid="ignore"):
        brake_s = np.where(
            trapezoid,
            top / limits.acceleration + limits.acceleration / limits.jerk,
            2 * np.sqrt(top / limits.jerk),
        )
    return float((before_s + brake_s).max()), top * before_s + top * brake_s / 2
