# SPDX-License-Identifier: Apache-2.0
"""How fast the arm may move: speed and separation monitoring in the spirit of ISO/TS 15066.

- Nearer to people than the slow distance the arm is slower than its limits, nearer than the warning distance slow
  (``Margins.velocity_share``, by which the planner plans too).
- A motion is slowed down early enough that it need not be stopped before an obstacle, and stopped in time if it is
  not: when on its way to rest it would come nearer than the collision distance.
- An arm that is too near already may move away, slowly.
"""

from __future__ import annotations

import math
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
_EARLY_S = 0.25
"""A motion is slowed down this much earlier than it would have to be stopped, s."""
_SPEEDS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)
_RISE_HZ = 2.0
_LONGEST_PERIOD_S = 0.2


@dataclass(frozen=True)
class Judgment:
    """What the arm may do now.

    Attributes:
        speed: Share of the joints' velocity limits, 0 (decelerate and hold) to 1.
        reason: Why less than 1, in one line; empty at 1.
        clearance: At the present position; None: unknown.
        share: The same from the distance to people alone: what any controller can keep to.
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
        self._speed, self._judged_s = 1.0, -math.inf
        self.resting = True
        """Whether the arm rested when it was judged last."""
        self.use(model)

    def use(self, model: CollisionModel) -> None:
        """Judge among other obstacles from now on; an arm that is too near to them may move away."""
        self._model = model
        self._held_m: float | None = None
        self._outside = False

    def deny(self, reason: str, now_s: float) -> Judgment:
        """Return no permit, because too little is known.

        Args:
            reason: One line.
            now_s: Monotonic time, s.
        """
        return self._give(Judgment(0.0, reason), now_s)

    def judge(self, motion: Motion, now_s: float) -> Judgment:
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
        reach_m = longest_reach_m(self._model, self._limits, state, self.reaction_s + age_s)
        share = 1.0
        if reach_m >= min(here.distance_m - limit_m, here.people_m - margins.slow_m):
            path = stop_path(self._model, self._limits, state, self.reaction_s + age_s)
            ahead = closest(self._model, path, limit_m, margins.slow_m, here)
            share = margins.velocity_share(ahead.people_m)
            if here.distance_m < margins.collision_m:
                share = min(share, margins.slowest)
            if lost or (ahead.distance_m < limit_m and ahead.distance_m < here.distance_m - _NEARER_M):
                there = self._model.clearance(ahead.position)
                return self._give(Judgment(0.0, _stopped(there, ahead.distance_m, lost), here, share, lost), now_s)
        speed = share
        if not self.resting and here.distance_m > limit_m:
            speed = self._approach_speed(motion, share, age_s, limit_m, here)
        speed = min(speed, self._speed + _RISE_HZ * min(now_s - self._judged_s, _LONGEST_PERIOD_S))
        return self._give(Judgment(speed, _slowed(here, speed), here, share), now_s)

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

    def _approach_speed(self, motion: Motion, share: float, age_s: float, limit_m: float, here: Clearance) -> float:
        """Return the largest speed from which the arm, as it moves now, comes to rest in time if told later.

        Args:
            motion: Of the joints, not at rest.
            share: Largest speed to try, a share of the velocity limits.
            age_s: Of the joint state, s.
            limit_m: Smallest distance that a motion may lead to, m.
            here: At the present position.
        """
        full = motion.velocity / float((np.abs(motion.velocity) / self._limits.velocity).max())
        reaction_s = self.reaction_s + age_s + _EARLY_S
        for speed in (share, *(speed for speed in _SPEEDS if speed < share)):
            state = State(motion.position, speed * full, np.zeros_like(full))
            if longest_reach_m(self._model, self._limits, state, reaction_s) < here.distance_m - limit_m:
                return speed
            path = stop_path(self._model, self._limits, state, reaction_s)
            if path.reach_m < here.distance_m - limit_m:
                return speed
            ahead = closest(self._model, path, limit_m, -math.inf, here)
            if ahead.distance_m >= min(limit_m, here.distance_m - _NEARER_M):
                return speed
        return _SPEEDS[-1]

    def _give(self, permit: Judgment, now_s: float) -> Judgment:
        self._speed, self._judged_s = permit.speed, now_s
        return permit


def _stopped(there: Clearance, distance_m: float, lost: bool) -> str:
    near = f"come within {1000 * distance_m:.0f} mm of" if distance_m > 0.0 else "touch"
    if lost:
        return f"{there.part} went on to {near} {there.obstacle} without permission"
    return f"{there.part} would {near} {there.obstacle}"


def _slowed(here: Clearance, speed: float) -> str:
    if speed >= 1.0:
        return ""
    return f"slow: {here.part} is {1000 * here.distance_m:z.0f} mm from {here.obstacle}"
