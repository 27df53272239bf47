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
from carm_core.transforms import Array

_REST_M_S, _REST_RAD_S = 0.001, 0.0025
"""Joints below these velocities count as resting, m/s and rad/s: noise of the encoders."""
_NOISE_M, _NEARER_M = 1e-5, 1e-4
"""What a motion, and what all motions of an arm that is too near may cost of its distance, m."""
_ESCAPE_M = 0.003
"""What an arm that is too near may come nearer on its way out, m: 2 mm of the planner, the rest is noise."""
_LOST_M = 0.001
_EARLY_S = 0.25
"""A motion is slowed down this much earlier than it would have to be stopped, s."""
_SPEEDS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)
_LOOK_S = 0.07
"""How often to look for the speed from which the arm comes to rest in time; what it does now is judged each time, s."""
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


@dataclass(frozen=True)
class _Nearness:
    """How near a motion may lead.

    Attributes:
        model: Tells the distances that count.
        here: At the present position, by that model.
        limit_m: The smallest of these distances that a motion may lead to, m.
        least_m: The same for an arm that is nearer already: what it has been farthest since.
        lost: The arm has come nearer than it was allowed to.
    """

    model: CollisionModel
    here: Clearance
    limit_m: float
    least_m: float
    lost: bool = False

    @property
    def room_m(self) -> float:
        """How much nearer the arm may come, m."""
        return self.here.distance_m - self.limit_m

    def ends_at(self, distance_m: float) -> bool:
        """Return whether a motion that leads to a distance, m, has to end before."""
        return distance_m < min(self.least_m, self.here.distance_m - _NOISE_M)


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
        self._speed, self._looked_s = 1.0, -math.inf
        self.resting = True
        """Whether the arm rested when it was judged last."""
        self.use(model)

    def use(self, model: CollisionModel) -> None:
        """Judge among other obstacles from now on; an arm that is too near to them may move away."""
        self._model = model
        self._leaving: CollisionModel | None = None
        self._held_m = -math.inf
        self._outside = False

    def deny(self, reason: str) -> Judgment:
        """Return no permit, because too little is known.

        Args:
            reason: One line.
        """
        return self._give(Judgment(0.0, reason))

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
        near = self._nearness(motion.position, here)
        age_s = max(0.0, now_s - motion.arrival_s)
        margins = self._model.margins
        reach_m = longest_reach_m(self._model, self._limits, state, self.reaction_s + age_s)
        share = 1.0
        if near.lost or reach_m >= min(near.room_m, here.people_m - margins.slow_m):
            path = stop_path(self._model, self._limits, state, self.reaction_s + age_s)
            ahead = closest(near.model, path, near.limit_m, margins.slow_m, near.here)
            share = margins.velocity_share(ahead.people_m)
            if here.distance_m < margins.collision_m:
                share = min(share, margins.slowest)
            if near.lost or near.ends_at(ahead.distance_m):
                there = near.model.clearance(ahead.position, deepest=True)
                return self._give(Judgment(0.0, _stopped(there, near.lost), here, share, near.lost))
        speed = min(share, self._speed)
        if self.resting or now_s - self._looked_s >= _LOOK_S:
            speed = min(share, self._speed + _RISE_HZ * min(now_s - self._looked_s, _LONGEST_PERIOD_S))
            self._looked_s = now_s
            if not self.resting and near.room_m > 0.0:
                speed = self._approach_speed(motion, speed, age_s, near)
        return self._give(Judgment(speed, _slowed(here, speed), here, share))

    def _nearness(self, position: Array, here: Clearance) -> _Nearness:
        """Return how near a motion may lead.

        An arm that was clear may come as near as the collision distance. One that is nearer, because of an obstacle
        that has come or at the start, may bring no part nearer to what it is too near to than it has been since, less
        what it may lose on its way out, and has to keep the collision distance to everything else.
        """
        nearest_m = self._model.margins.collision_m
        if here.distance_m >= nearest_m:
            self._leaving, self._outside = None, True
        if self._leaving is None and self._outside:
            model, seen = self._model, here
        else:
            model = self._leaving = self._model.leaving(position, _ESCAPE_M, self._leaving)
            seen = model.clearance(position, deepest=True)
        if seen.distance_m < nearest_m - _LOST_M:
            model = self._leaving = self._model.leaving(position, _ESCAPE_M)
            seen = model.clearance(position, deepest=True)
            return _Nearness(model, seen, nearest_m, nearest_m, lost=True)
        if seen.distance_m >= nearest_m:
            self._held_m = -math.inf
            return _Nearness(model, seen, nearest_m, nearest_m)
        self._held_m = max(self._held_m, seen.distance_m)
        return _Nearness(model, seen, nearest_m, self._held_m - _NEARER_M)

    def _approach_speed(self, motion: Motion, highest: float, age_s: float, near: _Nearness) -> float:
        """Return the largest speed from which the arm, as it moves now, comes to rest in time if told later.

        Args:
            motion: Of the joints, not at rest.
            highest: Largest speed to try, a share of the velocity limits.
            age_s: Of the joint state, s.
            near: How near a motion may lead.
        """
        full = motion.velocity / float((np.abs(motion.velocity) / self._limits.velocity).max())
        reaction_s = self.reaction_s + age_s + _EARLY_S
        for speed in (highest, *(speed for speed in _SPEEDS if speed < highest)):
            state = State(motion.position, speed * full, np.zeros_like(full))
            if longest_reach_m(self._model, self._limits, state, reaction_s) < near.room_m:
                return speed
            path = stop_path(self._model, self._limits, state, reaction_s)
            if path.reach_m < near.room_m:
                return speed
            ahead = closest(near.model, path, near.limit_m, -math.inf, near.here)
            if not near.ends_at(ahead.distance_m):
                return speed
        return _SPEEDS[-1]

    def _give(self, permit: Judgment) -> Judgment:
        self._speed = permit.speed
        return permit


def _stopped(there: Clearance, lost: bool) -> str:
    distance_m = there.true_distance_m
    near = f"come within {1000 * distance_m:.0f} mm of" if distance_m > 0.0 else "touch"
    if lost:
        return f"{there.part} went on to {near} {there.obstacle} without permission"
    return f"{there.part} would {near} {there.obstacle}"


def _slowed(here: Clearance, speed: float) -> str:
    if speed >= 1.0:
        return ""
    return f"slow: {here.part} is {1000 * here.distance_m:z.0f} mm from {here.obstacle}"
