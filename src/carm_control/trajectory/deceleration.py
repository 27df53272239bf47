# SPDX-License-Identifier: Apache-2.0
"""Decelerated stops within the joints' acceleration and jerk limits (stop category 1 of IEC 60204-1)."""

from __future__ import annotations

import numpy as np
import ruckig

from carm_control.trajectory.bounds import POSITION_SLACK
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import COEFFICIENTS, Spline, State
from carm_core.transforms import Array

_HARDER = (1.0, 1.02, 1.05, *(2.0**k for k in range(1, 21)))


class StopProfile:
    """The fastest way to rest of each joint by itself, within its limits of acceleration and jerk.

    A stop that would run past a position limit brakes harder, up to 5 % at first (trajectories may exceed their
    limits by as much), then by the smallest power of two of acceleration and jerk that keeps the joint inside: the
    end of the travel counts more than comfort. More than 5 % cannot happen from a motion that itself keeps the limits.

    Attributes:
        duration_s: Time until every joint rests, s.
    """

    def __init__(self, limits: JointLimits, start: State) -> None:
        """Plan the stop.

        Args:
            limits: Limits of the joints, J of them.
            start: Where the joints are and how they move, each (J,).
        """
        self._end = State.at_rest(start.position)
        self._spline = self._plan(limits, start)
        self.duration_s = self._spline.duration_s if self._spline is not None else 0.0

    def sample(self, time_s: float) -> State:
        """Return the state at a time since the start of the stop, s; at rest after its end."""
        return self._end if self._spline is None else self._spline.sample(time_s)

    def positions(self, times_s: Array) -> Array:
        """Return the positions (N, J) at times (N,) since the start of the stop, s."""
        if self._spline is None:
            return np.repeat(self._end.position[None, :], len(times_s), axis=0)
        return self._spline.positions(times_s)

    @staticmethod
    def _plan(limits: JointLimits, start: State) -> Spline | None:
        if not np.any([start.velocity, start.acceleration]):
            return None
        level = np.zeros(len(limits.names), dtype=int)
        low = np.minimum(limits.lower, start.position) - POSITION_SLACK
        high = np.maximum(limits.upper, start.position) + POSITION_SLACK
        while True:
            factor = np.array(_HARDER)[level]
            spline = _brake(limits.acceleration * factor, limits.jerk * factor, start)
            if not len(spline.coefficients):
                return None  # it rests within the last digits of a float
            crossing = spline.hull_outside(low, high)
            if not crossing.any() or level[crossing].max() >= len(_HARDER) - 1:
                return spline
            level[crossing] += 1


def _brake(acceleration: Array, jerk: Array, start: State) -> Spline:
    """Return the time-optimal jerk-limited stop of each joint, as one spline of piecewise constant jerk."""
    joints = len(acceleration)
    request = ruckig.InputParameter(joints)
    request.control_interface = ruckig.ControlInterface.Velocity
    request.synchronization = ruckig.Synchronization.No
    request.current_position = start.position.tolist()
    request.current_velocity = start.velocity.tolist()
    request.current_acceleration = start.acceleration.tolist()
    request.target_velocity = [0.0] * joints
    request.target_acceleration = [0.0] * joints
    request.max_acceleration = acceleration.tolist()
    request.max_jerk = jerk.tolist()
    trajectory = ruckig.Trajectory(joints)
    result = ruckig.Ruckig(joints).calculate(request, trajectory)
    if result not in (ruckig.Result.Working, ruckig.Result.Finished):
        raise AssertionError(f"no stop found from {start}: {result}")
    phases = [[*profile.brake.t, *profile.t] for profile in trajectory.profiles[0]]
    knots = np.unique(np.concatenate([[0.0], *(np.cumsum(times) for times in phases)]))
    knots = knots[np.concatenate([[True], np.diff(knots) > 1e-12])]
    position, velocity, acceleration_at = (
        np.array(values) for values in zip(*(trajectory.at_time(t)[:3] for t in knots), strict=True)
    )
    coefficients = np.zeros((len(knots) - 1, COEFFICIENTS, joints))
    coefficients[:, 0] = position[:-1]
    coefficients[:, 1] = velocity[:-1]
    coefficients[:, 2] = acceleration_at[:-1] / 2
    coefficients[:, 3] = np.diff(acceleration_at, axis=0) / np.diff(knots)[:, None] / 6
    return Spline(knots, coefficients)
