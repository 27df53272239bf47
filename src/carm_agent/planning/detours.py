# SPDX-License-Identifier: Apache-2.0
"""Paths around obstacles: first through a few simple intermediate views, then sampled by OMPL's RRT-Connect.

Sampled paths are checked at discrete positions, shortened, and accepted only after the continuous check of
``carm_core.collision.model``; so is every plain one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from ompl import base, geometric, util

from carm_agent.planning.timed_path import JointPath
from carm_core.collision.clearance import CollisionError
from carm_core.collision.continuous_check import PathCheck
from carm_core.collision.model import CollisionModel
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array

_SEED = 1
_BUFFER_M = 0.01
"""Sampled positions keep this much more clearance than needed, so that the rounded, continuous path does as well."""
_RANGE_M = 0.5
_MOST_EVALUATIONS = 400
"""A path that needs more positions than this to be told from a collision is not taken."""
_RESOLUTION_M = 0.04
_SHORTCUTS = 40
_SPLIT_WIGWAG_RAD = np.radians(2.0)

util.noOutputHandler()
util.RNG.setSeed(_SEED)


def certified(model: CollisionModel, waypoints: list[Array]) -> tuple[JointPath, PathCheck]:
    """Build a path through waypoints and check all of it.

    Args:
        model: The machine among obstacles.
        waypoints: Joint positions (6,), m and rad.

    Raises:
        CollisionError: It comes too close.
    """
    path = JointPath(model.carm, waypoints)
    return path, model.check_path(path.position, path.travel, path.knots, most_evaluations=_MOST_EVALUATIONS)


def straight(carm: CArm, start: Array, goal: Array) -> list[Array]:
    """Return the waypoints of a straight motion.

    When the wigwag turns and the isocenter is the same at both ends, it is kept on the way: the cart follows in steps.
    """
    turn = goal[3] - start[3]
    still = np.linalg.norm(carm.isocenter(goal) - carm.isocenter(start)) < 1e-6
    steps = int(np.ceil(abs(turn) / _SPLIT_WIGWAG_RAD)) if still else 1
    if steps <= 1:
        return [start, goal]
    center = carm.isocenter(start)
    points = []
    for share in np.linspace(0.0, 1.0, steps + 1):
        point = start + share * (goal - start)
        point[:3] += center - carm.isocenter(point)
        points.append(point)
    points[0], points[-1] = start, goal
    return points


def detour(model: CollisionModel, start: Array, goal: Array, deadline_s: float) -> tuple[JointPath, PathCheck] | None:
    """Find a way around what stands between two positions that are themselves clear.

    Args:
        model: The machine among obstacles.
        start: Joint positions (6,), m and rad.
        goal: Joint positions (6,), m and rad.
        deadline_s: Give up at this time (``time.monotonic``), s.

    Returns:
        The quickest way found; None if none was.
    """
    found: list[tuple[JointPath, PathCheck]] = []
    for waypoints in _plain(model, start, goal):
        if time.monotonic() > deadline_s:
            break
        try:
            found.append(certified(model, waypoints))
        except CollisionError:
            continue
    if found:
        return min(found, key=lambda way: way[0].length_s)
    while time.monotonic() < deadline_s:
        sampled = _sampled(model, start, goal, deadline_s)
        if sampled is None:
            return None
        try:
            return certified(model, sampled)
        except CollisionError:
            continue
    return None


def _plain(model: CollisionModel, start: Array, goal: Array) -> Iterator[list[Array]]:
    """Yield paths through a few intermediate positions: shift then turn, turn then shift, through the AP view."""
    shift, turn = start.copy(), start.copy()
    shift[:3], turn[3:] = goal[:3], goal[3:]
    yield [start, shift, goal]
    yield [start, turn, goal]
    home = model.carm.home
    upright, arrival = start.copy(), goal.copy()
    upright[3:], arrival[3:] = home[3:], home[3:]
    yield [start, upright, arrival, goal]
    for lift in (home[2], model.carm.joints[2].lower, model.carm.joints[2].upper):
        first, second = upright.copy(), arrival.copy()
        first[1:3] = second[1:3] = home[1], lift
        yield [start, upright, first, second, arrival, goal]


def _sampled(model: CollisionModel, start: Array, goal: Array, deadline_s: float) -> list[Array] | None:
    """Search with RRT-Connect, in joint positions scaled to how far they move the machine."""
    weights = np.array([model.motion_bound_m(row) for row in np.eye(len(start))])
    space = base.RealVectorStateSpace(len(start))
    bounds = base.RealVectorBounds(len(start))
    for index, joint in enumerate(model.carm.joints):
        bounds.setLow(index, min(joint.lower, start[index]) * weights[index])
        bounds.setHigh(index, max(joint.upper, start[index]) * weights[index])
    space.setBounds(bounds)
    ends = start, goal
    allowed = min(model.margins.collision_m + _BUFFER_M, *(model.clearance(end).distance_m for end in ends))

    def positions(state: base.State) -> Array:
        return np.asarray(np.array([state[index] for index in range(len(start))]) / weights)

    setup = geometric.SimpleSetup(space)
    setup.setStateValidityChecker(lambda state: model.clearance(positions(state)).distance_m >= allowed)
    information = setup.getSpaceInformation()
    information.setStateValidityCheckingResolution(_RESOLUTION_M / space.getMaximumExtent())
    states = space.allocState(), space.allocState()
    for state, end in zip(states, ends, strict=True):
        for index in range(len(start)):
            state[index] = float(end[index] * weights[index])
    setup.setStartAndGoalStates(*states)
    planner = geometric.RRTConnect(information)
    planner.setRange(_RANGE_M)
    setup.setPlanner(planner)
    setup.solve(max(0.01, deadline_s - time.monotonic()))
    if not setup.haveExactSolutionPath():
        return None
    solution = setup.getSolutionPath()
    points = [positions(solution.getState(index)) for index in range(solution.getStateCount())]
    points[0], points[-1] = start, goal
    return shortened(model, points, allowed, deadline_s)


def shortened(model: CollisionModel, points: list[Array], limit_m: float, deadline_s: float) -> list[Array]:
    """Shorten a polyline by random shortcuts, as long as the shortcut is collision-free and time is left.

    Args:
        model: The machine among obstacles.
        points: Joint positions (6,), m and rad.
        limit_m: Smallest clearance allowed, m.
        deadline_s: Stop at this time (``time.monotonic``), s.
    """
    generator = np.random.default_rng(_SEED)
    points = list(points)
    for _ in range(_SHORTCUTS):
        if len(points) < 3 or time.monotonic() > deadline_s:
            break
        first, last = sorted(generator.choice(len(points), 2, replace=False))
        if last - first < 2:
            continue
        if _clear(model, points[first], points[last], limit_m):
            points[first + 1 : last] = []
    return points


def _clear(model: CollisionModel, start: Array, goal: Array, limit_m: float) -> bool:
    steps = max(2, int(np.ceil(model.motion_bound_m(goal - start) / _RESOLUTION_M)))
    shares = np.linspace(0.0, 1.0, steps + 1)[1:-1]
    return all(model.clearance(start + share * (goal - start)).distance_m >= limit_m for share in shares)
