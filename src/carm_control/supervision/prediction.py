# SPDX-License-Identifier: Apache-2.0
"""Where the arm will be until it rests, if it is told to decelerate now, and how near it comes to anything."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.spline import State
from carm_core.collision.clearance import Clearance
from carm_core.collision.model import CollisionModel
from carm_core.transforms import Array

_SPACING_M = 0.008
"""No point of the machine moves further between two positions of a path, m, unless the path is long."""
_COARSE_M = 0.02
_LOOKS_IN_CONTACT = 2
"""Positions that are looked at in contact: how deep it is takes thirty times as long as how near."""
_LEAST_KNOTS, _MOST_KNOTS = 6, 32


@dataclass(frozen=True, eq=False)
class StopPath:
    """The way to rest.

    Attributes:
        positions: (N, J), m or rad, from the present position to rest; one row at rest.
        motion_m: (N,) how far any point of the machine has moved at most, m.
    """

    positions: Array
    motion_m: Array

    @property
    def reach_m(self) -> float:
        """How far any point of the machine moves at most, m."""
        return float(self.motion_m[-1])


@dataclass(frozen=True)
class Closest:
    """How near a way to rest comes.

    Attributes:
        distance_m: To anything, m: no path comes nearer by more than a few millimeters.
        people_m: To people, m.
        position: Joint positions (J,) where it is the smallest.
    """

    distance_m: float
    people_m: float
    position: Array


def longest_reach_m(model: CollisionModel, limits: JointLimits, start: State, reaction_s: float) -> float:
    """Return a bound on how far any point of the machine moves on its way to rest, m: quicker than ``stop_path``.

    Args:
        model: Tells how far the machine's points move.
        limits: Of the joints, J of them.
        start: Where the joints are, and how they move.
        reaction_s: Time before the deceleration begins, s.
    """
    _, v, a = (np.abs(part) for part in start)
    fastest = np.minimum(v + a * reaction_s, np.maximum(v, limits.velocity)) + a**2 / (2 * limits.jerk)
    braking_s = fastest / limits.acceleration + limits.acceleration / limits.jerk
    return model.motion_bound_m(fastest * (reaction_s + a / limits.jerk + braking_s / 2))


def stop_path(model: CollisionModel, limits: JointLimits, start: State, reaction_s: float) -> StopPath:
    """Return where the arm will be while it goes on as now, and then decelerates to rest.

    Args:
        model: Tells how far the machine's points move.
        limits: Of the joints, J of them.
        start: Where the joints are, and how they move; a joint that decelerates goes on to do so, up to rest.
        reaction_s: Time before the deceleration begins, s.
    """
    if not (np.any(start.velocity) or np.any(start.acceleration)):
        return StopPath(start.position[None, :].copy(), np.zeros(1))
    reacted = State(*(part[0] for part in _carried_on(limits, start, np.array([reaction_s]))))
    profile = StopProfile(limits, reacted)
    travel = np.abs(profile.positions(np.array([profile.duration_s]))[0] - start.position)
    knots = int(np.clip(math.ceil(model.motion_bound_m(travel) / _SPACING_M), _LEAST_KNOTS, _MOST_KNOTS))
    times = np.linspace(0.0, reaction_s + profile.duration_s, knots + 1)
    before = _carried_on(limits, start, times[times < reaction_s]).position
    after = profile.positions(times[times >= reaction_s] - reaction_s)
    positions = np.concatenate([before, after])
    steps = model.motion_bounds_m(np.diff(positions, axis=0))
    return StopPath(positions, np.concatenate([[0.0], np.cumsum(steps)]))


def _carried_on(limits: JointLimits, start: State, times_s: Array) -> State:
    """Return the states (N, J) at times (N,), s, at constant acceleration up to rest or to the velocity limit."""
    q, v, a = start
    slowing = v * a < 0.0
    with np.errstate(divide="ignore", invalid="ignore"):
        rest_s = np.where(slowing, -v / a, np.inf)
        full_s = np.where((a != 0.0) & ~slowing, (limits.velocity - np.abs(v)) / np.abs(a), np.inf)
    after_s = times_s[:, None]
    changing_s = np.clip(np.minimum(rest_s, full_s), 0.0, after_s)
    velocity = np.where(rest_s <= after_s, 0.0, v + a * changing_s)
    position = q + v * changing_s + a * changing_s**2 / 2 + velocity * (after_s - changing_s)
    return State(position, velocity, np.where(changing_s < after_s, 0.0, a))


def closest(
    model: CollisionModel, path: StopPath, enough_m: float, people_m: float, here: Clearance | None = None
) -> Closest:
    """Return how near a way to rest comes to anything, or the first place where it comes too near.

    Positions are passed over as long as no point of the machine can have come near since the last one.

    Args:
        model: The machine among obstacles.
        path: The way.
        enough_m: Distances below this are too near: the search ends there, m.
        people_m: Distances to people above this need not be known, m.
        here: Clearance at the first position, where it is known.
    """
    place, last = 0, len(path.positions) - 1
    best = Closest(math.inf, math.inf, path.positions[0])
    people = math.inf
    least_m = 0.0 if here is None or here.distance_m > 0.0 else path.reach_m / _LOOKS_IN_CONTACT
    while True:
        if place or here is None:
            here = model.clearance(path.positions[place], named=False, deepest=True)
        people = min(people, here.people_m)
        if here.distance_m < best.distance_m:
            best = Closest(here.distance_m, people, path.positions[place])
        if place == last or (place and best.distance_m < enough_m):
            return Closest(best.distance_m, people, best.position)
        free_m = min(here.distance_m - enough_m, max(here.people_m - people_m, _COARSE_M))
        if path.reach_m - path.motion_m[place] <= min(here.distance_m - enough_m, here.people_m - people_m):
            return Closest(best.distance_m, people, best.position)
        beyond = path.motion_m[place] + max(free_m, least_m)
        place = min(last, max(place + 1, int(np.searchsorted(path.motion_m, beyond, side="right")) - 1))
