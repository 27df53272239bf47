# SPDX-License-Identifier: Apache-2.0
"""How fast the arm may move: speed and separation monitoring in the spirit of ISO/TS 15066.

- Nearer to people than the slow distance the arm is slower than its limits, nearer than the warning distance slow
  (``Margins.velocity_share``). The permitted speed is a share of what was planned: a plan that is slow already is not
  slowed down again.
- A motion is slowed down early enough that it need not be stopped before an obstacle, and stopped in time if it is
  not: when on its way to rest it would come nearer than the collision distance.
- An arm that is too near already may move away, slowly.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np

from carm_control.supervision.joint_states import Motion
from carm_control.supervision.prediction import closest, longest_reach_m, stop_path
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import State
from carm_core.collision.clearance import Clearance
from carm_core.collision.model import CollisionModel

_REST_M_S, _REST_RAD_S = 0.001, 0.0025
"""Joints below these velocities count as resting, m/s and rad/s: noise of the encoders."""
_NEARER_M = 1e-4
_ESCAPE_M = 0.003
"""What an arm that is too near may lose of its distance on its way out, m: 2 mm of the planner, the rest is noise."""
_LOST_M = 0.001
_EARLY_S = 0.3
"""A motion is slowed down this much earlier than it would have to be stopped, s."""
_SLOWER = (0.7, 0.5, 0.35, 0.25, 0.15, 0.1)
_SLOWEST = 0.05
_SPEED_SLACK = 1.1
_RISE_HZ = 2.0
_MEMORY_S = 0.4
"""The arm may follow a permitted speed so much later, s."""


@dataclass(frozen=True)
class Permit:
    """What the arm may do now.

    Attributes:
        speed: Share of the planned speed, 0 (decelerate and hold) to 1.
        reason: Why less than 1, in one line; empty at 1.
        clearance: At the present position; None: unknown.
        share: Of the joints' velocity limits that the arm may use, 0 to 1.
        lost: The arm has come too near although it may not: it has to be stopped by all means.
    """

    speed: float
    reason: str = ""
    clearance: Clearance | None = None
    share: float = 0.0
    lost: bool = False


class PermitJudge:
    """Judges the arm's motion among obstacles. Not thread-safe."""

    def __init__(self, limits: JointLimits, model: CollisionModel, reaction_s: float) -> None:
        """Begin with a model.

        Args:
            limits: Of the joints, J of them.
            model: The machine among obstacles, and how near is too near.
            reaction_s: From a joint state to the first deceleration, at most, s.
        """
        self._limits = limits
        self._rest = limits.by_unit(_REST_M_S, _REST_RAD_S)
        self.reaction_s = reaction_s
        self._given: deque[tuple[float, float]] = deque()
        self._speed, self._judged_s = 1.0, -math.inf
        self.resting = True
        """Whether the arm rested when it was judged last."""
        self.use(model)

    def use(self, model: CollisionModel) -> None:
        """Judge among other obstacles from now on; an arm that is too near to them may move away."""
        self._model = model
        self._held_m: float | None = None
        self._outside = False

    def deny(self, reason: str, now_s: float) -> Permit:
        """Return no permit, because too little is known.

        Args:
            reason: One line.
            now_s: Monotonic time, s.
        """
        return self._give(Permit(0.0, reason), now_s)

    def judge(self, motion: Motion, now_s: float) -> Permit:
        """Return what the arm may do.

        Args:
            motion: Of the joints.
            now_s: Monotonic time, s.
        """
        moving = np.abs(motion.velocity) > self._rest
        self.resting = not moving.any()
        state = State(
            motion.position,
            np.where(moving, motion.velocity, 0.0),
            np.where(moving, motion.acceleration, 0.0),
        )
        here = self._model.clearance(motion.position, deepest=True)
        limit_m, lost = self._limit(here.distance_m)
        age_s = max(0.0, now_s - motion.arrival_s)
        margins = self._model.margins
        reach_m = longest_reach_m(self._model, self._limits, state, self.reaction_s + age_s + _EARLY_S)
        if reach_m < min(here.distance_m - limit_m, here.people_m - margins.slow_m):
            return self._give(Permit(self._approached(math.inf, now_s), "", here, 1.0), now_s)
        path = stop_path(self._model, self._limits, state, self.reaction_s + age_s)
        ahead = closest(self._model, path, limit_m, margins.slow_m, here)
        share = margins.velocity_share(ahead.people_m)
        if here.distance_m < margins.collision_m:
            share = min(share, margins.slowest)
        if lost or (ahead.distance_m < limit_m and ahead.distance_m < here.distance_m - _NEARER_M):
            there = self._model.clearance(ahead.position)
            return self._give(Permit(0.0, _stopped(there, ahead.distance_m, lost), here, share, lost), now_s)
        if self.resting:
            return self._give(Permit(share, _slowed(here, share), here, share), now_s)
        factor = _SPEED_SLACK * share / float((np.abs(state.velocity) / self._limits.velocity).max())
        if here.distance_m > limit_m:
            factor = min(factor, self._early_enough(state, age_s, limit_m, here))
        speed = self._approached(factor, now_s)
        return self._give(Permit(speed, _slowed(here, speed), here, share), now_s)

    def _limit(self, distance_m: float) -> tuple[float, bool]:
        """Return the smallest distance that a motion may lead to, m, and whether the arm has lost too much already.

        An arm that was clear may come as near as the collision distance. One that is nearer, because of an obstacle
        that has come or at the start, may not come nearer than it has been farthest since.
        """
        nearest_m = self._model.margins.collision_m
        if distance_m >= nearest_m:
            self._held_m, self._outside = None, True
            return nearest_m, False
        before_m = (nearest_m if self._outside else distance_m) if self._held_m is None else self._held_m
        self._held_m = max(before_m, distance_m)
        limit_m = min(nearest_m, self._held_m - _ESCAPE_M)
        lost = distance_m < limit_m - _LOST_M
        if lost:
            self._held_m = distance_m
        return limit_m, lost

    def _early_enough(self, state: State, age_s: float, limit_m: float, here: Clearance) -> float:
        """Return the largest share of the present velocity from which the arm comes to rest in time if told later."""
        for factor in (1.0, *_SLOWER):
            slower = State(state.position, factor * state.velocity, factor * state.acceleration)
            path = stop_path(self._model, self._limits, slower, self.reaction_s + age_s + _EARLY_S)
            if path.reach_m < here.distance_m - limit_m:
                return factor if factor < 1.0 else math.inf
            ahead = closest(self._model, path, limit_m, -math.inf, here)
            if ahead.distance_m >= min(limit_m, here.distance_m - _NEARER_M):
                return factor if factor < 1.0 else math.inf
        return _SLOWER[-1]

    def _approached(self, factor: float, now_s: float) -> float:
        """Return the speed to permit: lowered at once, raised slowly.

        Args:
            factor: Share of the present velocity that is permitted; above 1: more than that.
            now_s: Monotonic time, s.
        """
        while self._given and now_s - self._given[0][0] > _MEMORY_S:
            self._given.popleft()
        followed = max((speed for _, speed in self._given), default=self._speed)
        raised = self._speed + _RISE_HZ * min(now_s - self._judged_s, _MEMORY_S)
        return max(_SLOWEST, min(1.0, factor * followed, raised))

    def _give(self, permit: Permit, now_s: float) -> Permit:
        self._speed, self._judged_s = permit.speed, now_s
        self._given.append((now_s, permit.speed))
        return permit


def _stopped(there: Clearance, distance_m: float, lost: bool) -> str:
    near = f"{1000 * distance_m:z.0f} mm"
    if lost:
        return f"{there.part} has come within {near} of {there.obstacle} against its permit"
    return f"{there.part} would come within {near} of {there.obstacle}"


def _slowed(here: Clearance, speed: float) -> str:
    if speed >= 1.0:
        return ""
    return f"slow: {here.part} is {1000 * here.distance_m:z.0f} mm from {here.obstacle}"
