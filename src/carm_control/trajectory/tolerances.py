# SPDX-License-Identifier: Apache-2.0
"""Tolerances on the way and at the goal, with the rules of ros2_controllers' joint_trajectory_controller."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_control.trajectory.goal import ErrorCode, GoalRefusedError, JointTolerance, TrajectoryGoal
from carm_control.trajectory.limits import JointLimits
from carm_core.transforms import Array

Mask = NDArray[np.bool_]

_ERASED_WITHIN = float(np.finfo(np.float32).eps)
ERASED = -1.0
"""Special value of a tolerance: there is none (``control_msgs/JointTolerance``)."""


@dataclass(frozen=True, eq=False)
class Tolerances:
    """Tolerances in force, J joints; 0 means that nothing is checked.

    Attributes:
        path_position: (J,), m or rad.
        path_velocity: (J,), m/s or rad/s.
        goal_position: (J,), m or rad.
        goal_velocity: (J,), m/s or rad/s.
        goal_time_s: Time after the last point in which the goal must be reached, s; 0: no end.
    """

    path_position: Array
    path_velocity: Array
    goal_position: Array
    goal_velocity: Array
    goal_time_s: float

    def for_goal(self, goal: TrajectoryGoal, limits: JointLimits) -> Tolerances:
        """Apply the tolerances of a goal to these defaults.

        Args:
            goal: The goal.
            limits: The joints of the controller.

        Raises:
            GoalRefusedError: A tolerance names an unknown joint, is not a number, or is negative and not -1.
        """
        path = [self.path_position.copy(), self.path_velocity.copy()]
        end = [self.goal_position.copy(), self.goal_velocity.copy()]
        for entries, arrays, which in (
            (goal.path_tolerance, path, "path"),
            (goal.goal_tolerance, end, "goal"),
        ):
            for entry in entries:
                joint = _index(entry, limits, which)
                for array, name in zip(arrays, ("position", "velocity"), strict=True):
                    label = f"{which} tolerance of {entry.name} ({name})"
                    array[joint] = _resolve(float(array[joint]), getattr(entry, name), label)
                _resolve(0.0, entry.acceleration, f"{which} tolerance of {entry.name} (acceleration)")
        goal_time_s = _resolve(self.goal_time_s, goal.goal_time_tolerance_s, "goal time tolerance")
        return replace(
            self,
            path_position=path[0],
            path_velocity=path[1],
            goal_position=end[0],
            goal_velocity=end[1],
            goal_time_s=goal_time_s,
        )


def _index(entry: JointTolerance, limits: JointLimits, which: str) -> int:
    if entry.name not in limits.names:
        raise GoalRefusedError(
            ErrorCode.INVALID_JOINTS,
            f"{which} tolerance names unknown joint {entry.name!r}; joints are {', '.join(limits.names)}",
        )
    return limits.names.index(entry.name)


def _resolve(default: float, value: float, label: str) -> float:
    erased = abs(value - ERASED) < _ERASED_WITHIN
    if math.isnan(value) or (value < 0 and not erased):
        raise GoalRefusedError(
            ErrorCode.INVALID_GOAL,
            f"{label} is {value}; allowed are positive numbers, 0 (default) and -1 (none)",
        )
    if erased:
        return 0.0
    return value if value > 0 else default


def violated(error: Array, tolerance: Array) -> Mask:
    """Return which joints (J,) exceed a tolerance (J,) that is set."""
    return np.asarray((tolerance > 0) & (np.abs(error) > tolerance))


@dataclass(frozen=True, eq=False)
class Violation:
    """Joints that exceed a tolerance.

    Attributes:
        joints: Mask (J,).
        worst: The joint that exceeds its tolerance by the largest factor.
        of_velocity: It is that joint's velocity that does.
        error: Distance from the setpoint, m or rad, or from its velocity, m/s or rad/s.
        tolerance: The tolerance, in the same unit.
    """

    joints: Mask
    worst: int
    of_velocity: bool
    error: float
    tolerance: float

    @classmethod
    def of(
        cls, position_error: Array, velocity_error: Array, position_tolerance: Array, velocity_tolerance: Array
    ) -> Violation | None:
        """Compare errors (J,) with tolerances (J,); None: all are kept."""
        errors = np.abs([position_error, velocity_error])
        tolerances = np.array([position_tolerance, velocity_tolerance])
        bad = violated(errors, tolerances)
        if not bad.any():
            return None
        excess = np.divide(errors, tolerances, out=np.zeros_like(errors), where=bad)
        derivative, joint = (int(i) for i in np.unravel_index(np.argmax(excess), excess.shape))
        error, tolerance = float(errors[derivative, joint]), float(tolerances[derivative, joint])
        return cls(np.asarray(bad.any(axis=0)), joint, derivative == 1, error, tolerance)

    def text(self, limits: JointLimits) -> str:
        """Name the joint, its error and the allowed error."""
        name, unit = limits.names[self.worst], limits.units[self.worst]
        away, allowed = amount(self.error), amount(self.tolerance)
        if self.of_velocity:
            return f"velocity of {name} is {away} {unit}/s away from that of its setpoint (at most {allowed} {unit}/s)"
        return f"{name} is {away} {unit} away from its setpoint (at most {allowed} {unit})"


def amount(value: float) -> str:
    """Format an amount with 4 decimals, or with 2 digits where that would leave none; never as minus zero."""
    return f"{value:z.4f}" if value == 0 or abs(value) >= 1e-3 else f"{value:.2g}"
