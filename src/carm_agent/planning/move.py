# SPDX-License-Identifier: Apache-2.0
"""Motions to joint positions, a view, a name, or along a previewed plan: plan, check, time, execute."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from carm_agent.errors import (
    CanceledError,
    LostPartError,
    MotionError,
    NoJointStatesError,
    RejectedTrajectoryError,
    StoppedError,
)
from carm_agent.planning.anatomical_views import ANATOMICAL_VIEWS, find_anatomical_view
from carm_agent.planning.bone_view import ViewRefusedError, plan_bone_view
from carm_agent.planning.planner import Plan, Planner
from carm_agent.planning.preview import Preview, preview
from carm_agent.planning.saved_positions import PositionMemory
from carm_agent.planning.standard_views import STANDARD_VIEWS, find_view
from carm_agent.ports import Arm
from carm_core.anatomy.axes import BoneAxes, named
from carm_core.collision.clearance import CollisionError
from carm_core.errors import CarmError, GoalError, JointLimitError, UnknownNameError, UnreachableError
from carm_core.localization import NEEDS_CT

_MOVED = (0.002, 0.005)
"""An arm that stands further than this from a plan's start, m or rad, is not where the plan begins."""
_KEPT_PLANS = 16


class MoveCode(IntEnum):
    """How a move ended; values as in ``MoveCArm.action``."""

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
    STALE_PLAN = 12
    NOT_READY = 13


class StalePlanError(GoalError):
    """A previewed plan cannot be run: it is unknown, or something has changed since."""


_CODES: tuple[tuple[type[CarmError], MoveCode], ...] = (
    (CanceledError, MoveCode.CANCELED),
    (StoppedError, MoveCode.STOPPED),
    (NoJointStatesError, MoveCode.NO_JOINT_STATES),
    (RejectedTrajectoryError, MoveCode.CONTROLLER_REJECTED),
    (MotionError, MoveCode.CONTROLLER_ABORTED),
    (StalePlanError, MoveCode.STALE_PLAN),
    (CollisionError, MoveCode.COLLISION),
    (UnknownNameError, MoveCode.INVALID_GOAL),
    (JointLimitError, MoveCode.JOINT_LIMIT),
    (UnreachableError, MoveCode.UNREACHABLE),
    (ViewRefusedError, MoveCode.UNREACHABLE),
    (GoalError, MoveCode.INVALID_GOAL),
)


@dataclass(frozen=True)
class MoveGoal:
    """Where to move: named joint positions, a view, a name, or by a plan that was previewed.

    Attributes:
        joint_names: Joints to move, the others stay; empty for a view goal.
        positions: One per name, m or rad.
        isocenter_m: Of a view goal, frame ``table``, m; None keeps the present one.
        angles_rad: Of a view goal: primary, secondary; None keeps the present ones.
        velocity_scaling: 0 < scaling <= 1; None for the planner's default.
        plan_only: Plan and check, do not move; the result holds a preview.
        name: A standard view, which keeps the isocenter, a view of a bone, which centers it, a saved position, or
            ``before``; empty for other goals.
        plan_id: Of a plan that was previewed; empty for other goals.
    """

    joint_names: Sequence[str] = ()
    positions: Sequence[float] = ()
    isocenter_m: tuple[float, float, float] | None = None
    angles_rad: tuple[float, float] | None = None
    velocity_scaling: float | None = None
    plan_only: bool = False
    is_view: bool = field(default=False, kw_only=True)
    name: str = field(default="", kw_only=True)
    plan_id: str = field(default="", kw_only=True)


@dataclass(frozen=True)
class MoveResult:
    """How a move ended; the arm is at rest.

    Attributes:
        error_code: why.
        error_msg: One line; empty on success.
        plan: As far as one was made.
        plan_id: Under which the plan can be run; empty when there is none.
        preview: Of the plan; None unless it was asked for.
    """

    error_code: MoveCode
    error_msg: str = ""
    plan: Plan | None = None
    plan_id: str = ""
    preview: Preview | None = None


class PlanStore:
    """Plans that were previewed, the newest few, with what they depend on."""

    def __init__(self) -> None:
        """Start empty."""
        self._plans: OrderedDict[str, tuple[Plan, str]] = OrderedDict()

    def keep(self, plan: Plan, version: str) -> str:
        """Keep a plan.

        Args:
            plan: To be kept.
            version: Of what it depends on (``Planner.version``).

        Returns:
            Its id.
        """
        name = secrets.token_hex(6)
        self._plans[name] = plan, version
        while len(self._plans) > _KEPT_PLANS:
            self._plans.popitem(last=False)
        return name

    def take(self, plan_id: str, version: str, positions: NDArray[np.float64]) -> Plan:
        """Return a plan, if nothing that it depends on has changed.

        Args:
            plan_id: From ``keep``.
            version: Of what plans depend on now.
            positions: Where the arm is now (6,), m and rad.

        Raises:
            StalePlanError: The plan is unknown, or something has changed.
        """
        if plan_id not in self._plans:
            raise StalePlanError(f"there is no plan {plan_id!r} (any more); preview again")
        plan, planned_version = self._plans[plan_id]
        if version != planned_version:
            raise StalePlanError(f"obstacles or parameters have changed since plan {plan_id} was made; preview again")
        moved = np.abs(positions - plan.start)
        limits = np.array([_MOVED[0]] * 3 + [_MOVED[1]] * 3)
        if (moved > limits).any():
            raise StalePlanError(f"the arm has moved since plan {plan_id} was made; preview again")
        return plan


class Mover:
    """Plans and executes single moves."""

    def __init__(
        self,
        planner: Planner,
        arm: Arm,
        plans: PlanStore | None = None,
        memory: PositionMemory | None = None,
        axes_of: Callable[[str], BoneAxes] | None = None,
        *,
        notes_before: bool = True,
    ) -> None:
        """Move one arm.

        Args:
            planner: plans.
            arm: moves.
            plans: Previewed plans; None: none are kept.
            memory: Saved positions; None: there are none.
            axes_of: Returns the axes of a bone, frame ``table``, mm, or raises ``GoalError``; None: views of bones are
                refused.
            notes_before: Note in the memory where each motion begins; otherwise somebody else does.
        """
        self._planner = planner
        self._arm = arm
        self._plans = plans or PlanStore()
        self._memory = memory
        self._axes_of = axes_of
        self._notes_before = notes_before

    def run(self, goal: MoveGoal, report: Callable[[str], None] = lambda stage: None) -> MoveResult:
        """Run one move to its end.

        Args:
            goal: Where to.
            report: Told each stage: planning, checking, moving.

        Returns:
            How the move ended. Expected failures are results, not exceptions.
        """
        plan: Plan | None = None
        try:
            if goal.plan_id:
                report("checking")
                plan = self._plans.take(goal.plan_id, self._planner.version, self._arm.joint_positions())
                return self._execute(plan, goal.plan_id, report)
            report("planning")
            version = self._planner.version
            plan = self._plan(goal)
            if goal.plan_only:
                return self._previewed(plan, version)
            if version != self._planner.version:
                plan = self._plan(goal)
            return self._execute(plan, "", report)
        except CarmError as error:
            cause = error.cause if isinstance(error, LostPartError) else error
            code = next((code for kind, code in _CODES if isinstance(cause, kind)), MoveCode.INTERNAL)
            return MoveResult(code, str(error), plan)

    def _execute(self, plan: Plan, plan_id: str, report: Callable[[str], None]) -> MoveResult:
        report("moving")
        if self._memory is not None and self._notes_before:
            self._memory.note_before(plan.start)
        self._arm.announce(plan)
        self._arm.execute(plan.trajectory)
        return MoveResult(MoveCode.NONE, "", plan, plan_id)

    def _previewed(self, plan: Plan, version: str) -> MoveResult:
        model = self._planner.collision
        shown = None if model is None else preview(model, plan)
        return MoveResult(MoveCode.NONE, "", plan, self._plans.keep(plan, version), shown)

    def _plan(self, goal: MoveGoal) -> Plan:
        if goal.name:
            return self._to_name(goal)
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

    def _to_name(self, goal: MoveGoal) -> Plan:
        start = self._arm.joint_positions()
        if self._memory is not None:
            try:
                return self._planner.to_joints(start, self._memory.recall(goal.name), goal.velocity_scaling)
            except UnknownNameError:
                pass
        try:
            angles = find_view(goal.name).angles_rad
        except UnknownNameError:
            return self._to_bone(start, goal)
        return self._planner.to_view(start, None, angles, goal.velocity_scaling)

    def _to_bone(self, start: NDArray[np.float64], goal: MoveGoal) -> Plan:
        """Plan to a view that is defined in a bone's axes."""
        try:
            wanted = find_anatomical_view(goal.name)
        except UnknownNameError:
            saved = [] if self._memory is None else self._memory.names
            views = (*STANDARD_VIEWS, *ANATOMICAL_VIEWS)
            known = {view.name: view.synonyms for view in views} | dict.fromkeys(saved, ())
            raise UnknownNameError.among("view", goal.name.strip(), known, 0.6) from None
        if self._axes_of is None:
            raise GoalError(f"{wanted.name}: {NEEDS_CT}")
        axes = self._axes_of(wanted.bone)
        plan = plan_bone_view(self._planner, start, wanted, axes).plan
        if goal.velocity_scaling is not None:
            there = dict(zip(self._planner.carm.joint_names, plan.goal, strict=True))
            plan = self._planner.to_joints(start, there, goal.velocity_scaling)
        return replace(plan, note=_estimated(axes)) if axes.std_deg else plan


def _estimated(axes: BoneAxes) -> str:
    return (
        f"how {named(axes.name)} lies is an estimate ({axes.method}), about {axes.std_deg:.0f}° off; "
        "to refine it, take an image there and ask for the view again"
    )
