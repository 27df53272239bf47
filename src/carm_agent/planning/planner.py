# SPDX-License-Identifier: Apache-2.0
"""Converts joint or view goals into timed, collision-free joint trajectories.

The inverse kinematics gives all joint positions of a view in closed form; the quickest one that is reached clear of
everything is chosen, by a straight line in joint space if there is one, else by a way around what stands there
(`carm_agent.planning.detours`). Near people the motion is slower (`carm_core.collision.clearance.Margins`). A plan is
run from rest to
rest as fast as the joints' velocity, acceleration and jerk limits allow (``carm_agent.planning.timed_path``).
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_agent.planning.detours import certified, detour, straight
from carm_agent.planning.timed_path import JointPath
from carm_core.collision.clearance import CollisionError, Verdict
from carm_core.collision.continuous_check import PathCheck
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles
from carm_core.errors import GoalError
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory

DETOUR_S = 0.8
"""Time that the search for a way around obstacles may take, s."""
_OTHER_WIGWAGS_RAD = tuple(np.radians([0.0, 5.0, -5.0, 10.0, -10.0]).tolist())
_ESCAPE_M = 0.002
"""What a start is already too close to may be approached this much more on the way out, m."""
_ROUNDING_M = 1e-6
_NEAR_LIMIT = 0.02
_LIMIT_PENALTY = 1.2
_WARNING_PENALTY = 1.5


@dataclass(frozen=True)
class Plan:
    """A trajectory and what it does.

    Attributes:
        trajectory: From the start to the goal, at rest at both.
        start: Joint positions, shape (J,), m or rad.
        goal: Joint positions, shape (J,), m or rad.
        isocenter_path_m: Length of the isocenter's path, m.
        check: What the path comes close to; None without a collision model.
        verdict: Clear or warning.
        velocity_scaling: Share of the velocity limits that is used, after slowing down near people.
        corners: Intermediate positions, 0 for a straight line.
        note: What else is to be known of the goal, in one line; empty when nothing is.
    """

    trajectory: Trajectory
    start: NDArray[np.float64]
    goal: NDArray[np.float64]
    isocenter_path_m: float
    check: PathCheck | None = None
    verdict: Verdict = Verdict.CLEAR
    velocity_scaling: float = 1.0
    corners: int = 0
    note: str = ""

    @property
    def duration_s(self) -> float:
        """Time from start to goal, s."""
        return float(self.trajectory.duration_s)

    @property
    def warning(self) -> str:
        """The parts that come close on the path, and the note, in one line; empty if there is nothing to say."""
        if self.check is None or self.verdict is Verdict.CLEAR:
            return self.note
        closest = self.check.closest
        near = f"{closest.part} comes within {1000 * closest.distance_m:z.0f} mm of {closest.obstacle}"
        return f"{near}; {self.note}" if self.note else near


class Planner:
    """Plans time-optimal, jerk-limited joint-space motions that are checked all along. Not thread-safe."""

    def __init__(
        self,
        carm: CArm,
        velocity_scaling: float = 1.0,
        collision: CollisionModel | None = None,
        detour_s: float = DETOUR_S,
    ) -> None:
        """Plan for one arm.

        Args:
            carm: The arm, with its limits.
            velocity_scaling: Default share of the velocity limits that plans use, 0 < scaling <= 1.
            collision: The machine among obstacles; None: nothing is checked.
            detour_s: Time that the search for a way around obstacles may take, s.

        Raises:
            GoalError: The scaling is out of range.
        """
        self._carm = carm
        self.set_velocity_scaling(velocity_scaling)
        self._collision = collision
        self._detour_s = detour_s

    def set_velocity_scaling(self, scaling: float) -> None:
        """Set the default fraction of the velocity limits that plans use, 0 < scaling <= 1.

        Raises:
            GoalError: The scaling is out of range.
        """
        self._velocity_scaling = _checked_scaling(scaling)

    @property
    def carm(self) -> CArm:
        """The arm that is planned for."""
        return self._carm

    @property
    def collision(self) -> CollisionModel | None:
        """The collision model of the machine and the present obstacles."""
        return self._collision

    @property
    def version(self) -> str:
        """Changes with everything that a plan depends on, but the start."""
        model = self._collision
        seen = (self._velocity_scaling, None if model is None else (model.obstacles.version, model.margins))
        return hashlib.sha256(repr(seen).encode()).hexdigest()[:16]

    def set_obstacles(self, obstacles: Obstacles) -> None:
        """Check against other obstacles from the next plan on; may be called from another thread."""
        if self._collision is not None:
            model = self._collision
            self._collision = CollisionModel(model.carm, obstacles, model.margins, model.geometry)

    def to_joints(
        self,
        start: ArrayLike,
        goal: ArrayLike | Mapping[str, float],
        velocity_scaling: float | None = None,
        *,
        detours: bool = True,
    ) -> Plan:
        """Plan to joint positions.

        Args:
            start: Present joint positions at rest, shape (J,), m or rad.
            goal: Shape (J,), or the positions by name of the joints that are to move; m or rad.
            velocity_scaling: 0 < scaling <= 1; the default of the planner if None.
            detours: Search for a way around what stands on the straight line.

        Raises:
            GoalError: Unknown joint, wrong length, NaN, or a scaling out of range.
            JointLimitError: The goal is outside a joint's limits. (A start outside them is moved to them.)
            CollisionError: The goal is too close to something, or no way leads there.
        """
        start_q = self._start_vector(start)
        goal_q = self._joint_vector(self._merged(start_q, goal) if isinstance(goal, Mapping) else goal)
        scaling = self._velocity_scaling if velocity_scaling is None else _checked_scaling(velocity_scaling)
        self._carm.check(goal_q)
        return self._reached(start_q, [[goal_q]], scaling, detours)

    def to_view(
        self,
        start: ArrayLike,
        isocenter_m: ArrayLike | None = None,
        angles_rad: tuple[float, float] | None = None,
        velocity_scaling: float | None = None,
        *,
        detours: bool = True,
    ) -> Plan:
        """Plan to a view; of the joint positions that give it, take the fastest collision-free one.

        The present wigwag angle is kept if the view can be reached with it, else another is taken.

        Args:
            start: Present joint positions at rest, shape (J,), m or rad.
            isocenter_m: Isocenter in frame ``table``, shape (3,), m; None keeps the present one, on the way as well.
            angles_rad: Primary (LAO positive) and secondary (cranial positive) angle; None keeps the present ones.
            velocity_scaling: 0 < scaling <= 1; the default of the planner if None.
            detours: Search for a way around what stands on the straight line.

        Raises:
            GoalError: NaN, wrong length, or a scaling out of range.
            JointLimitError: The view needs a joint beyond its limits.
            UnreachableError: No joint position gives the view.
            CollisionError: The view is too close to something, or no way leads there.
        """
        start_q = self._start_vector(start)
        isocenter = np.asarray(self._carm.isocenter(start_q) if isocenter_m is None else isocenter_m, dtype=float)
        primary, secondary = self._carm.angles(start_q) if angles_rad is None else angles_rad
        if isocenter.shape != (3,) or not np.isfinite([*isocenter, primary, secondary]).all():
            raise GoalError(
                f"a view goal needs 3 isocenter coordinates and 2 angles, all finite;"
                f" got {(np.round(isocenter, 4) + 0.0).tolist()} m, {primary}, {secondary} rad"
            )
        scaling = self._velocity_scaling if velocity_scaling is None else _checked_scaling(velocity_scaling)
        solutions = self._solutions(start_q, isocenter, float(primary), float(secondary))
        return self._reached(start_q, solutions, scaling, detours and isocenter_m is not None)

    def _solutions(
        self, start: NDArray[np.float64], isocenter_m: NDArray[np.float64], primary: float, secondary: float
    ) -> list[list[NDArray[np.float64]]]:
        """Return the joint positions that give a view, by wigwag, the present one first; at least one."""
        wigwag = float(start[self._carm.joint_names.index("wigwag")])
        refusal: GoalError | None = None
        found = []
        for candidate in dict.fromkeys((wigwag, *_OTHER_WIGWAGS_RAD)):
            try:
                found.append(self._carm.inverse(isocenter_m, primary, secondary, wigwag_rad=candidate, seed=start))
            except GoalError as error:
                refusal = refusal or error
            if found and self._collision is None:
                break
        if not found:
            assert refusal is not None
            raise refusal
        return found

    def _reached(
        self, start: NDArray[np.float64], groups: list[list[NDArray[np.float64]]], scaling: float, detours: bool
    ) -> Plan:
        """Return the plan to the best goal of the first group that holds one with a direct way, else by a detour.

        Raises:
            CollisionError: There is no clear way to any of the goals.
        """
        refusal: CollisionError | None = None
        clear_goals: list[NDArray[np.float64]] = []
        model = goals = self._collision
        if model is not None:
            goals = model.leaving(start, 0.0)
            model = model.leaving(start, _ESCAPE_M)
        for group in groups:
            plans = []
            for goal in group:
                try:
                    if goals is not None:
                        _check_goal(goals, goal)
                        clear_goals.append(goal)
                    plans.append(self._direct(model, start, goal, scaling))
                except CollisionError as error:
                    refusal = refusal or error
            if plans:
                return min(plans, key=self._cost)
        assert model is not None
        assert refusal is not None
        deadline_s = time.monotonic() + self._detour_s
        for goal in clear_goals if detours else ():
            way = detour(model, start, goal, deadline_s)
            if way is not None:
                return self._plan(model, *way, scaling)
        raise refusal

    def _direct(
        self,
        model: CollisionModel | None,
        start: NDArray[np.float64],
        goal: NDArray[np.float64],
        scaling: float,
    ) -> Plan:
        waypoints = straight(self._carm, start, goal)
        if model is None:
            return self._plan(None, JointPath(self._carm, waypoints), None, scaling)
        return self._plan(model, *certified(model, waypoints), scaling)

    def _plan(self, model: CollisionModel | None, path: JointPath, check: PathCheck | None, scaling: float) -> Plan:
        verdict = Verdict.CLEAR
        if model is not None and check is not None:
            verdict = model.margins.verdict(check.closest.distance_m)
            scaling *= model.margins.velocity_share(check.people_m)
        trajectory = path.timed(scaling)
        ends = path.waypoints[0], path.waypoints[-1]
        moved = self._isocenter_path_m(path)
        return Plan(trajectory, *ends, moved, check, verdict, scaling, len(path.waypoints) - 2)

    def _cost(self, plan: Plan) -> float:
        """Return the duration, s, longer for goals close to something or to a joint's limit."""
        joints = self._carm.joints
        spans = np.array([joint.upper - joint.lower for joint in joints])
        room = np.minimum(plan.goal - [joint.lower for joint in joints], [joint.upper for joint in joints] - plan.goal)
        cost = plan.duration_s
        cost *= _LIMIT_PENALTY if (room / spans).min() < _NEAR_LIMIT else 1.0
        return cost * (_WARNING_PENALTY if plan.verdict is Verdict.WARNING else 1.0)

    def _merged(self, start: NDArray[np.float64], goal: Mapping[str, float]) -> NDArray[np.float64]:
        names = self._carm.joint_names
        unknown = [name for name in goal if name not in names]
        if unknown:
            raise GoalError(f"unknown joint '{unknown[0]}'; the joints are {', '.join(names)}")
        return np.array([goal.get(name, position) for name, position in zip(names, start, strict=True)])

    def _start_vector(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return a start within the limits: encoders read a joint at its limit a little beyond it."""
        lower, upper = np.array([(joint.lower, joint.upper) for joint in self._carm.joints]).T
        return np.clip(self._joint_vector(values), lower, upper)

    def _joint_vector(self, values: ArrayLike) -> NDArray[np.float64]:
        vector = np.array(values, dtype=float)
        count = len(self._carm.joint_names)
        if vector.shape != (count,):
            raise GoalError(f"{count} joint positions are needed, got an array of shape {vector.shape}")
        for name, value in zip(self._carm.joint_names, vector, strict=True):
            if not np.isfinite(value):
                raise GoalError(f"position of joint '{name}' is {value}; it must be finite")
        return vector

    def _isocenter_path_m(self, path: JointPath, samples: int = 33) -> float:
        points = np.array([self._carm.isocenter(path.position(share)) for share in np.linspace(0.0, 1.0, samples)])
        return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _check_goal(model: CollisionModel, goal: NDArray[np.float64]) -> None:
    """Check that a goal is clear, or at least no closer to anything than a start that already is too close.

    Raises:
        CollisionError: It is not.
    """
    clearance, needed = model.clearance(goal), model.margins.collision_m
    if clearance.distance_m < needed - _ROUNDING_M:
        raise CollisionError(clearance, needed, "at the goal")


_SLOWEST = 0.01
"""Least share of the velocity limits: slower motions would take hours, and hold the arm so long."""


def _checked_scaling(scaling: float) -> float:
    if not _SLOWEST <= scaling <= 1.0:
        raise GoalError(f"velocity scaling is {scaling}; it must be at least {_SLOWEST} and at most 1")
    return float(scaling)
