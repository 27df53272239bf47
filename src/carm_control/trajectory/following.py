# SPDX-License-Identifier: Apache-2.0
"""A goal's trajectory in execution, at a pace that speed scaling sets.

Time along the trajectory runs at a rate of 0 (pause) to 1. The rate changes as fast as the joints' limits of
acceleration allow on top of the trajectory's own accelerations, so that a new factor never steps the velocity.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import Spline, State
from carm_core.transforms import Array

_AT_REST = 1e-9  # m/s or rad/s
_FASTEST = 4.0
"""Largest change of the rate, 1/s, where slow joints would allow more."""
_RESERVE = 1.2
"""From a motion that no trajectory leads, the rate leaves this much room below the limits of velocity."""


class Following:
    """Joints of a goal on its spline, at a rate; the others on their way to rest, in real time.

    Attributes:
        indices: Columns of the controller that the spline moves.
        duration_s: Of the trajectory at rate 1, until the others rest too, s.
        elapsed_s: Real time since the start, s.
        trajectory_s: Time along the trajectory, s.
        rate: How fast the latter runs, 0 to 1.
    """

    def __init__(
        self,
        spline: Spline,
        indices: Sequence[int],
        others: Sequence[int],
        stop: StopProfile,
        limits: JointLimits,
        rate: float,
    ) -> None:
        """Start now.

        Args:
            spline: Of the joints of the goal, in trajectory time.
            indices: Their columns.
            others: Columns of the joints that the goal leaves out.
            stop: Of those joints, in real time.
            limits: Of the joints of the goal.
            rate: Rate at the start.
        """
        self._spline, self._others, self._stop = spline, list(others), stop
        self.indices = list(indices)
        self._acceleration, self._velocity = limits.acceleration, limits.velocity
        self.duration_s = max(spline.duration_s, stop.duration_s)
        self.elapsed_s = self.trajectory_s = 0.0
        self.rate, self._slope = rate, 0.0

    @property
    def late_s(self) -> float:
        """Time since the end, s: along the trajectory, or in real time where the others come to rest later."""
        return min(self.trajectory_s - self._spline.duration_s, self.elapsed_s - self._stop.duration_s)

    def advance(self, dt_s: float, factor: float) -> None:
        """Advance the time.

        Args:
            dt_s: Real time, s.
            factor: Rate to attain, 0 to 1.
        """
        if dt_s <= 0:
            return
        self._slope = self._allowed((factor - self.rate) / dt_s)
        rate = self.rate + self._slope * dt_s
        self.trajectory_s += (self.rate + rate) / 2 * dt_s
        self.elapsed_s += dt_s
        self.rate = rate

    def rate_at_speed(self, share: float) -> float:
        """Return the largest rate, 0 to 1, at which the present velocities stay below a share of their limits.

        Args:
            share: Of the joints' velocity limits, 0 to 1.
        """
        if share >= 1.0:
            return 1.0
        velocity = self._spline.sample(self.trajectory_s).velocity
        fastest = float(np.max(np.abs(velocity) / self._velocity))
        return 1.0 if fastest <= share else share / fastest

    def _allowed(self, slope: float) -> float:
        """Return the change of the rate, 1/s, nearest to a wanted one that the limits of acceleration allow."""
        if not slope:
            return slope
        _, velocity, acceleration = self._spline.sample(self.trajectory_s)
        moving = np.abs(velocity) > _AT_REST
        if not moving.any():
            return slope
        slope = min(max(slope, -_FASTEST), _FASTEST)
        v, own, most = velocity[moving], acceleration[moving] * self.rate**2, self._acceleration[moving]
        ends = np.stack([(-most - own) / v, (most - own) / v])
        lowest, highest = float(ends.min(axis=0).max()), float(ends.max(axis=0).min())
        return min(max(slope, min(lowest, 0.0)), max(highest, 0.0))

    def sample(self) -> State:
        """Return the state of all joints now, in real time."""
        return self._at(self.trajectory_s, self.elapsed_s, self._slope)

    def at(self, ahead_s: float) -> tuple[State, float]:
        """Return the state of all joints at a time from now, s, at the present rate, and the time on the trajectory."""
        time_s = self.trajectory_s + ahead_s * self.rate
        return self._at(time_s, self.elapsed_s + ahead_s, 0.0), time_s

    def _at(self, trajectory_s: float, elapsed_s: float, slope: float) -> State:
        position, velocity, acceleration = self._spline.sample(trajectory_s)
        moving = State(position, velocity * self.rate, acceleration * self.rate**2 + velocity * slope)
        out = np.empty((3, len(self.indices) + len(self._others)))
        out[:, self.indices] = moving
        out[:, self._others] = self._stop.sample(elapsed_s)
        return State(*out)


def starting_rate(state: State, limits: JointLimits, present: float | None, factor: float) -> float:
    """Return the rate at which a trajectory begins.

    Args:
        state: How all joints move now, each (J,).
        limits: Of all joints.
        present: Rate of the trajectory in execution; None: there is none.
        factor: Speed scaling.

    Returns:
        The factor from rest; in a motion a rate at which that motion is one within the limits of velocity.
    """
    speed = float(np.max(np.abs(state.velocity) / limits.velocity))
    if speed <= _AT_REST:
        return factor
    return min(1.0, max(present, speed) if present else max(factor, _RESERVE * speed))


def in_trajectory_time(state: State, acceleration: Array, rate: float) -> State:
    """Express a state in the time of a trajectory that runs at a rate.

    Args:
        state: In real time, each (J,).
        acceleration: Limits (J,), m/s² or rad/s²; the result keeps them.
        rate: Of trajectory time; 0: at rest.
    """
    if rate == 0.0:
        return State.at_rest(state.position)
    return State(
        state.position, state.velocity / rate, np.clip(state.acceleration / rate**2, -acceleration, acceleration)
    )
