# SPDX-License-Identifier: Apache-2.0
"""From joint or view goals to timed joint trajectories.

A plan is a straight line in joint space, run from rest to rest as fast as the joints' velocity, acceleration and
jerk limits allow. A straight path has one degree of freedom, the progress s along it, and each joint's limits are
limits of s divided by the joint's travel; the time-optimal jerk-limited s(t) comes from ruckig (Berscheid and
Kroeger, "Jerk-limited Real-time Trajectory Generation with Arbitrary Target States", RSS 2021).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import ruckig
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import GoalError
from carm_core.kinematics import CArm
from carm_core.trajectory import Trajectory

_LONGEST_INTERVAL_S = 0.1
_SHORTEST_INTERVAL_S = 1e-4
_NO_TRAVEL_S = 1e-6


@dataclass(frozen=True)
class Plan:
    """A trajectory and what it does.

    Attributes:
        trajectory: from the start to the goal, at rest at both.
        start: joint positions, shape (J,), m or rad.
        goal: joint positions, shape (J,), m or rad.
        isocenter_path_m: length of the isocenter's path, m.
    """

    trajectory: Trajectory
    start: NDArray[np.float64]
    goal: NDArray[np.float64]
    isocenter_path_m: float

    @property
    def duration_s(self) -> float:
        """Time from start to goal, s."""
        return float(self.trajectory.duration_s)


class Planner:
    """Plans straight, time-optimal, jerk-limited joint-space motions."""

    def __init__(self, carm: CArm, velocity_scaling: float = 1.0) -> None:
        """Plan for one arm.

        Args:
            carm: the arm, with its limits.
            velocity_scaling: default share of the velocity limits that plans use, 0 < scaling <= 1.

        Raises:
            GoalError: the scaling is out of range.
        """
        self._carm = carm
        self._velocity_scaling = _checked_scaling(velocity_scaling)

    @property
    def carm(self) -> CArm:
        """The arm that is planned for."""
        return self._carm

    def to_joints(
        self, start: ArrayLike, goal: ArrayLike | Mapping[str, float], velocity_scaling: float | None = None
    ) -> Plan:
        """Plan to joint positions.

        Args:
            start: present joint positions at rest, shape (J,), m or rad.
            goal: shape (J,), or the positions by name of the joints that are to move; m or rad.
            velocity_scaling: 0 < scaling <= 1; the default of the planner if None.

        Raises:
            GoalError: unknown joint, wrong length, NaN, or a scaling out of range.
            JointLimitError: the goal is outside a joint's limits. (A start outside them, by noise, may come back.)
        """
        start_q = self._joint_vector(start)
        goal_q = self._joint_vector(self._merged(start_q, goal) if isinstance(goal, Mapping) else goal)
        scaling = self._velocity_scaling if velocity_scaling is None else _checked_scaling(velocity_scaling)
        self._carm.check(goal_q)
        trajectory = self._timed(start_q, goal_q, scaling)
        return Plan(trajectory, start_q, goal_q, self._isocenter_path_m(start_q, goal_q))

    def to_view(
        self,
        start: ArrayLike,
        isocenter_m: ArrayLike | None = None,
        angles_rad: tuple[float, float] | None = None,
        velocity_scaling: float | None = None,
    ) -> Plan:
        """Plan to a view; of the joint positions that give it, the one reached soonest is chosen.

        The present wigwag angle is kept if the view can be reached with it, else it returns to zero.

        Args:
            start: present joint positions at rest, shape (J,), m or rad.
            isocenter_m: isocenter in frame `table`, shape (3,), m; None keeps the present one.
            angles_rad: primary (LAO positive) and secondary (cranial positive) angle; None keeps the present ones.
            velocity_scaling: 0 < scaling <= 1; the default of the planner if None.

        Raises:
            GoalError: NaN, wrong length, or a scaling out of range.
            JointLimitError: the view needs a joint beyond its limits.
            UnreachableError: no joint position gives the view.
        """
        start_q = self._joint_vector(start)
        isocenter = np.asarray(self._carm.isocenter(start_q) if isocenter_m is None else isocenter_m, dtype=float)
        primary, secondary = self._carm.angles(start_q) if angles_rad is None else angles_rad
        if isocenter.shape != (3,) or not np.isfinite([*isocenter, primary, secondary]).all():
            raise GoalError(
                f"a view goal needs 3 isocenter coordinates and 2 angles, all finite;"
                f" got {np.round(isocenter, 4).tolist()} m, {primary}, {secondary} rad"
            )
        solutions = self._solutions(start_q, isocenter, float(primary), float(secondary))
        plans = [self.to_joints(start_q, solution, velocity_scaling) for solution in solutions]
        return min(plans, key=lambda plan: plan.duration_s)

    def _solutions(
        self, start: NDArray[np.float64], isocenter_m: NDArray[np.float64], primary: float, secondary: float
    ) -> list[NDArray[np.float64]]:
        wigwag = float(start[self._carm.joint_names.index("wigwag")])
        refusal: GoalError | None = None
        for candidate in dict.fromkeys((wigwag, 0.0)):
            try:
                return self._carm.inverse(isocenter_m, primary, secondary, wigwag_rad=candidate, seed=start)
            except GoalError as error:
                refusal = error
        assert refusal is not None
        raise refusal

    def _merged(self, start: NDArray[np.float64], goal: Mapping[str, float]) -> NDArray[np.float64]:
        names = self._carm.joint_names
        unknown = [name for name in goal if name not in names]
        if unknown:
            raise GoalError(f"unknown joint '{unknown[0]}'; the joints are {', '.join(names)}")
        return np.array([goal.get(name, position) for name, position in zip(names, start, strict=True)])

    def _joint_vector(self, values: ArrayLike) -> NDArray[np.float64]:
        vector = np.array(values, dtype=float)
        count = len(self._carm.joint_names)
        if vector.shape != (count,):
            raise GoalError(f"{count} joint positions are needed, got an array of shape {vector.shape}")
        for name, value in zip(self._carm.joint_names, vector, strict=True):
            if not np.isfinite(value):
                raise GoalError(f"position of joint '{name}' is {value}; it must be finite")
        return vector

    def _timed(self, start: NDArray[np.float64], goal: NDArray[np.float64], scaling: float) -> Trajectory:
        travel = goal - start
        joints = self._carm.joints
        velocity = scaling * np.array([joint.velocity for joint in joints])
        fastest_s = np.abs(travel) / velocity
        length = float(fastest_s.max())
        if length < _NO_TRAVEL_S:
            rest = np.zeros((2, len(joints)))
            times = np.array([0.0, _LONGEST_INTERVAL_S])
            return Trajectory(tuple(self._carm.joint_names), times, np.vstack([start, goal]), rest, rest)
        direction = travel / length
        moving = np.abs(direction) > 0.0
        acceleration = _tightest([joint.acceleration for joint in joints], direction, moving)
        jerk = _tightest([joint.jerk for joint in joints], direction, moving)
        times, progress, speed, slope = _rest_to_rest(length, 1.0, acceleration, jerk)
        positions = start + np.outer(progress, direction)
        positions[0], positions[-1] = start, goal
        return Trajectory(
            tuple(self._carm.joint_names),
            times,
            positions,
            np.outer(speed, direction),
            np.outer(slope, direction),
        )

    def _isocenter_path_m(self, start: NDArray[np.float64], goal: NDArray[np.float64], samples: int = 33) -> float:
        shares = np.linspace(0.0, 1.0, samples)[:, None]
        points = np.array([self._carm.isocenter(q) for q in start + shares * (goal - start)])
        return float(np.linalg.norm(np.diff(points, axis=0), axis=1).sum())


def _checked_scaling(scaling: float) -> float:
    if not 0.0 < scaling <= 1.0:
        raise GoalError(f"velocity scaling is {scaling}; it must be above 0 and at most 1")
    return float(scaling)


def _tightest(limits: Sequence[float], direction: NDArray[np.float64], moving: NDArray[np.bool_]) -> float:
    return float((np.asarray(limits)[moving] / np.abs(direction[moving])).min())


def _rest_to_rest(
    length: float, velocity: float, acceleration: float, jerk: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return times, positions, velocities and accelerations of the time-optimal motion from 0 to `length`.

    The samples contain every instant at which the jerk changes: between two of them the motion is a cubic in time,
    which the quintic Hermite spline of a trajectory controller reproduces exactly, so that no limit is overshot.
    """
    problem = ruckig.InputParameter(1)
    problem.target_position = [length]
    problem.max_velocity, problem.max_acceleration, problem.max_jerk = [velocity], [acceleration], [jerk]
    solution = ruckig.Trajectory(1)
    outcome = ruckig.Ruckig(1).calculate(problem, solution)
    if outcome not in (ruckig.Result.Working, ruckig.Result.Finished):
        raise GoalError(
            f"no time parametrization ({outcome}) for travel {length}, limits {velocity}, {acceleration}, {jerk}"
        )
    switches = np.concatenate([[0.0], np.cumsum(solution.profiles[0][0].t), [solution.duration]])
    times = _subdivided(_separated(np.clip(switches, 0.0, solution.duration)))
    states = np.array([np.ravel(solution.at_time(time)) for time in times])
    return times, states[:, 0], states[:, 1], states[:, 2]


def _separated(times: NDArray[np.float64]) -> NDArray[np.float64]:
    """Drop instants that coincide with their predecessor; the first and the last stay."""
    end = times[-1]
    kept = [times[0]]
    for time in times[1:]:
        if time - kept[-1] > _SHORTEST_INTERVAL_S and end - time > _SHORTEST_INTERVAL_S:
            kept.append(time)
    return np.array([*kept, end])


def _subdivided(times: NDArray[np.float64]) -> NDArray[np.float64]:
    pieces = [
        np.linspace(begin, end, max(1, int(np.ceil((end - begin) / _LONGEST_INTERVAL_S))), endpoint=False)
        for begin, end in pairwise(times)
    ]
    return np.concatenate([*pieces, times[-1:]])
