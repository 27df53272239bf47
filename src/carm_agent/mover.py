# SPDX-License-Identifier: Apache-2.0
"""Moves to joint positions or to a view: plan, time, execute."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from carm_agent.errors import (
    CanceledError,
    MotionError,
    NoJointStatesError,
    RejectedTrajectoryError,
    StoppedError,
)
from carm_agent.planner import Plan, Planner
from carm_agent.ports import Arm
from carm_core.errors import CarmError, GoalError, JointLimitError, UnreachableError


class MoveCode(IntEnum):
    """How a move ended; values as in `MoveCArm.action`."""

    NONE = 0
    INVALID_GOAL = 1
    JOINT_LIMIT = 2
    UNREACHABLE = 3
    COLLISION = 4
    NO_JOINT_STATES = 5
    CONTROLLER_REJECTED = 6
    CONTROLLER_ABORTED = 7
    CANCELED = 8
    STOPPED = 9
    BUSY = 10
    INTERNAL = 11


_CODES: tuple[tuple[type[CarmError], MoveCode], ...] = (
    (CanceledError, MoveCode.CANCELED),
    (StoppedError, MoveCode.STOPPED),
    (NoJointStatesError, MoveCode.NO_JOINT_STATES),
    (RejectedTrajectoryError, MoveCode.CONTROLLER_REJECTED),
    (MotionError, MoveCode.CONTROLLER_ABORTED),
    (JointLimitError, MoveCode.JOINT_LIMIT),
    (UnreachableError, MoveCode.UNREACHABLE),
    (GoalError, MoveCode.INVALID_GOAL),
)


@dataclass(frozen=True)
class MoveGoal:
    """Where to move: named joint positions, or a view.

    Attributes:
        joint_names: joints to move, the others stay; empty for a view goal.
        positions: one per name, m or rad.
        isocenter_m: of a view goal, frame `table`, m; None keeps the present one.
        angles_rad: of a view goal: primary, secondary; None keeps the present ones.
        velocity_scaling: 0 < scaling <= 1; None for the planner's default.
        plan_only: plan and check, do not move.
    """

    joint_names: Sequence[str] = ()
    positions: Sequence[float] = ()
    isocenter_m: tuple[float, float, float] | None = None
    angles_rad: tuple[float, float] | None = None
    velocity_scaling: float | None = None
    plan_only: bool = False
    is_view: bool = field(default=False, kw_only=True)


@dataclass(frozen=True)
class MoveResult:
    """How a move ended; the arm is at rest.

    Attributes:
        error_code: why.
        error_msg: one line; empty on success.
        plan: as far as one was made.
    """

    error_code: MoveCode
    error_msg: str = ""
    plan: Plan | None = None


class Mover:
    """Plans and executes single moves."""

    def __init__(self, planner: Planner, arm: Arm) -> None:
        """Move one arm.

        Args:
            planner: plans.
            arm: moves.
        """
        self._planner = planner
        self._arm = arm

    def run(self, goal: MoveGoal, report: Callable[[str], None] = lambda stage: None) -> MoveResult:
        """Run one move to its end.

        Args:
            goal: where to.
            report: told each stage: planning, moving.

        Returns:
            How the move ended. Expected failures are results, not exceptions.
        """
        plan: Plan | None = None
        try:
            report("planning")
            plan = self._plan(goal)
            if not goal.plan_only:
                report("moving")
                self._arm.execute(plan.trajectory)
        except CarmError as error:
            code = next((code for kind, code in _CODES if isinstance(error, kind)), MoveCode.INTERNAL)
            return MoveResult(code, str(error), plan)
        return MoveResult(MoveCode.NONE, "", plan)

    def _plan(self, goal: MoveGoal) -> Plan:
        if goal.is_view:
            start = self._arm.joint_positions()
            return self._planner.to_view(start, goal.isocenter_m, goal.angles_rad, goal.velocity_scaling)
        names, positions = list(goal.joint_names), list(goal.positions)
        if not names:
            raise GoalError("a joint goal names at least one joint")
        if len(names) != len(positions):
            raise GoalError(f"{len(names)} joint names but {len(positions)} positions")
        if len(set(names)) != len(names):
            raise GoalError(f"a joint is named twice: {', '.join(names)}")
        start = self._arm.joint_positions()
        return self._planner.to_joints(start, dict(zip(names, positions, strict=True)), goal.velocity_scaling)
