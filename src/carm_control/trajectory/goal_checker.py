# SPDX-License-Identifier: Apache-2.0
"""Checks of a goal that need no knowledge of where the arm is, with the settings of a controller."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carm_control.trajectory.blending import EntryRules
from carm_control.trajectory.goal import TrajectoryGoal
from carm_control.trajectory.goal_validation import CheckedGoal, check_goal
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.tolerances import Tolerances
from carm_core.transforms import Array


@dataclass(frozen=True, eq=False)
class ControllerSettings:
    """Settings of the controller, J joints.

    Attributes:
        tolerances: Defaults for goals that say nothing.
        start_tolerance: How far a trajectory may start from the present command (J,), m or rad.
        allow_partial_joints_goal: Goals may leave out joints; those decelerate to rest, or stay.
        limit_tolerance: Fraction by which velocity, acceleration and jerk may exceed their limits.
        blend_s: Time in which a difference at the start is taken up, s.
        max_step_s: Longest step; when the clock runs on further the motion waits, s.
        longest_gap_s: A later step in a motion is a fault, s.
        rest_timeout_s: How long after its command a joint may take to come to rest, s.
        permit_timeout_s: Nothing moves without a permit that is not older than this, s; 0: none is needed.
    """

    tolerances: Tolerances
    start_tolerance: Array
    allow_partial_joints_goal: bool = True
    limit_tolerance: float = 0.05
    blend_s: float = 0.5
    max_step_s: float = 0.1
    longest_gap_s: float = 0.1
    rest_timeout_s: float = 1.0
    permit_timeout_s: float = 0.0


@dataclass(frozen=True, eq=False)
class CheckedTrajectory:
    """A goal that is sound in itself, and how it is to be followed.

    Attributes:
        goal: Its points.
        tolerances: In force for this goal.
        rules: How it may be entered.
        checked_s: Monotonic time of the check, s; the goal's start counts from then.
    """

    goal: CheckedGoal
    tolerances: Tolerances
    rules: EntryRules
    checked_s: float

    def at(self, now_s: float) -> CheckedGoal:
        """Return the goal with its start counted from a monotonic time, s; one without a start time begins then."""
        if not self.goal.begin_s:
            return self.goal
        return replace(self.goal, begin_s=self.goal.begin_s - (now_s - self.checked_s))


class GoalChecker:
    """Checks goals without knowing where the arm is; for long trajectories this takes time, and can run elsewhere."""

    def __init__(self, limits: JointLimits, settings: ControllerSettings) -> None:
        """Store the rules.

        Args:
            limits: All joints of the controller.
            settings: Tolerances and rules.
        """
        self.limits, self._settings = limits, settings

    def check(self, goal: TrajectoryGoal, now_s: float, clock_s: float | None = None) -> CheckedTrajectory:
        """Check a goal.

        Args:
            goal: As it came in.
            now_s: Present monotonic time, s.
            clock_s: Present time on the clock of the goal's start time, s; None: the same.

        Raises:
            GoalRefusedError: With the code that the client is told.
        """
        settings = self._settings
        checked = check_goal(
            goal,
            self.limits,
            allow_partial=settings.allow_partial_joints_goal,
            limit_tolerance=settings.limit_tolerance,
            now_s=now_s if clock_s is None else clock_s,
        )
        tolerances = settings.tolerances.for_goal(goal, self.limits)
        indices = list(checked.indices)
        deviation = np.where(tolerances.path_position > 0, tolerances.path_position, settings.start_tolerance)
        rules = EntryRules(
            settings.start_tolerance[indices],
            deviation[indices],
            tolerances.goal_time_s,
            settings.blend_s,
            settings.limit_tolerance,
        )
        return CheckedTrajectory(checked, tolerances, rules, now_s)
