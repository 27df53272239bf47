# SPDX-License-Identifier: Apache-2.0
"""Tolerances on the way and at the goal, with the rules of ros2_controllers' joint_trajectory_controller."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_sim.motion.goal import ErrorCode, GoalRefusedError, JointTolerance, TrajectoryGoal
from carm_sim.motion.limits import JointLimits
from carm_sim.motion.spline import Array

Mask = NDArray[np.bool_]

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
        """Apply what a goal says to these defaults.

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
    if not math.isfinite(value) or (value < 0 and value != ERASED):
        raise GoalRefusedError(
            ErrorCode.INVALID_GOAL,
            f"{label} is {value}; allowed are positive numbers, 0 (default) and -1 (none)",
        )
    if value == ERASED:
        return 0.0
    return value if value > 0 else default


def violated(error: Array, tolerance: Array) -> Mask:
    """Return which joints (J,) exceed a tolerance (J,) that is set."""
    return np.asarray((tolerance > 0) & (np.abs(error) > tolerance))
