# SPDX-License-Identifier: Apache-2.0
"""Whatever trajectory is asked for, commands keep velocity, acceleration and jerk, or the goal is refused."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_control import (
    MAX_POINTS,
    Acceptance,
    ErrorCode,
    JointTolerance,
    OperatingState,
    State,
    TrajectoryGoal,
    TrajectoryPoint,
)

from .test_controller import HOME, NAMES, TARGET, Arm, idle

STEPS_S = (0.004, 0.005, 0.005, 0.006, 0.009)
LIMITS = Arm().limits
BOUNDS = LIMITS.velocity, LIMITS.acceleration, LIMITS.jerk
SLACK = 1.051
TILT = NAMES.index("tilt")
WAY = TARGET - HOME


class Recorder:
    """Steps an arm at 200 Hz with jitter and keeps its commands."""

    def __init__(self, seed: int = 0) -> None:
        self.arm = Arm()
        self.random = np.random.default_rng(seed)
        self.commands: list[State] = []
        self.steps_s: list[float] = []

    def accept(self, goal: TrajectoryGoal) -> Acceptance:
        return self.arm.controller.accept(goal, self.arm.now_s)

    def step(self) -> OperatingState:
        dt = float(self.random.choice(STEPS_S))
        self.arm.now_s += dt
        snapshot = self.arm.controller.step(self.arm.now_s)
        self.commands.append(snapshot.desired)
        self.steps_s.append(dt)
        return snapshot.state

    def run(self, seconds: float = 30.0) -> Recorder:
        """Step until the arm is idle."""
        for _ in range(round(seconds / min(STEPS_S))):
            if self.step() is OperatingState.IDLE:
                return self
        raise AssertionError(f"moves after {seconds} s")

    def assert_within_limits(self) -> None:
        p, v, a = (np.array(values) for values in zip(*self.commands, strict=True))
        dt = np.array(self.steps_s)[1:, None]
        for rates, bound in zip((v, a, np.diff(a, axis=0) / dt), BOUNDS, strict=True):
            assert (np.abs(rates) <= SLACK * bound).all(), (np.abs(rates) / bound).max()
        for values, bound in ((p, BOUNDS[0]), (v, BOUNDS[1])):
            assert (np.abs(np.diff(values, axis=0)) <= SLACK * bound * dt + 1e-9).all()
        np.testing.assert_allclose(np.diff(p, axis=0), (v[1:] + v[:-1]) / 2 * dt, atol=5e-6)
        assert (p >= LIMITS.lower - 1e-8).all()
        assert (p <= LIMITS.upper + 1e-8).all()


def points(times: np.ndarray, *fields: np.ndarray) -> TrajectoryGoal:
    """A goal of all joints from times (N,) and positions, velocities, accelerations (N, 6)."""
    return TrajectoryGoal(
        NAMES,
        tuple(TrajectoryPoint(float(t), *(tuple(field[k]) for field in fields)) for k, t in enumerate(times)),
    )


def tilt(*rows: tuple[float, ...]) -> TrajectoryGoal:
    """Time, s, and position, velocity, acceleration of the tilt."""
    return TrajectoryGoal(("tilt",), tuple(TrajectoryPoint(t, *((value,) for value in row)) for t, *row in rows))


def minimum_jerk(start: np.ndarray, way: np.ndarray, duration_s: float, every_s: float) -> tuple[np.ndarray, ...]:
    times = np.append(np.arange(0.0, duration_s - every_s / 2, every_s), duration_s)
    u = (times / duration_s)[:, None]
    return (
        times,
        start + way * (10 * u**3 - 15 * u**4 + 6 * u**5),
        way * (30 * u**2 - 60 * u**3 + 30 * u**4) / duration_s,
    )


def time_optimal(start: np.ndarray, way: np.ndarray, scale: float, every_s: float) -> tuple[np.ndarray, ...]:
    """Trapezoidal velocity at a share of the limits, sampled as MoveIt does: the acceleration steps."""
    far = np.abs(way) > 1e-9
    speed = scale * (LIMITS.velocity[far] / np.abs(way[far])).min()
    push = scale * (LIMITS.acceleration[far] / np.abs(way[far])).min()
    ramp_s = min(speed / push, np.sqrt(1 / push))
    speed = push * ramp_s
    duration_s = 1 / speed + ramp_s
    times = np.append(np.arange(0.0, duration_s - every_s / 4, every_s), duration_s)
    left = duration_s - times
    rows = [
        np.where(times < ramp_s, early, np.where(left < ramp_s, late, middle))[:, None]
        for early, middle, late in (
            (push * times**2 / 2, speed * (times - ramp_s / 2), 1 - push * left**2 / 2),
            (push * times, speed, push * left),
            (push, 0.0, -push),
        )
    ]
    return times, start + way * rows[0], way * rows[1], way * rows[2]


def any_goal(random: np.random.Generator, start: np.ndarray) -> TrajectoryGoal:
    """A goal of one of the kinds that clients send; some cannot be followed."""
    goal = np.clip(start + random.uniform(-0.2, 0.2, 6) * (LIMITS.upper - LIMITS.lower), LIMITS.lower, LIMITS.upper)
    way, every_s = goal - start, float(random.choice([0.01, 0.02, 0.1]))
    fastest_s = float((np.abs(way) / LIMITS.velocity).max())
    corners = np.linspace(0, 1, int(random.integers(2, 5)))[1:, None]
    bends = random.uniform(-0.03, 0.03, (len(corners), 6)) * (corners < 1) * (LIMITS.upper - LIMITS.lower)
    via = np.clip(start + corners * way + bends, LIMITS.lower, LIMITS.upper)
    slow = fastest_s * corners[:, 0] * random.uniform(1.2, 3.0)
    smooth, optimal = minimum_jerk(start, way, 2.2 * fastest_s, every_s), time_optimal(start, way, 0.7, every_s)
    kinds: list[Callable[[], TrajectoryGoal]] = [
        lambda: points(slow, via),
        lambda: points(np.append(0.0, slow), np.vstack([start, via])),
        lambda: points(1.5 * slow, via, np.zeros_like(via)),
        lambda: points(2 * slow, via, random.uniform(-0.2, 0.2, via.shape) * LIMITS.velocity * (corners < 1)),
        lambda: points(*smooth[:2]),
        lambda: points(smooth[0][1:], np.round(smooth[1], 6)[1:]),
        lambda: points(*smooth),
        lambda: points(*optimal[:2]),
        lambda: points(*optimal[:3]),
        lambda: points(*optimal),
    ]
    return kinds[random.integers(len(kinds))]()


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_limits_hold_for_every_trajectory_whatever_happens_on_the_way(seed: int) -> None:
    recorder = Recorder(seed)
    random, controller = recorder.random, recorder.arm.controller
    recorder.step()
    goal_id = 0
    for _ in range(3):
        answer = recorder.accept(any_goal(random, recorder.commands[-1].position))
        assert (answer.goal_id is None) == bool(answer.message)
        goal_id = answer.goal_id or goal_id
        for _ in range(random.integers(20, 350)):
            recorder.step()
            if random.random() < 0.01:
                controller.scale_speed(float(random.choice([0.0, 0.1, 0.4, 1.0, 1.0])))
        how = random.integers(5)
        if how == 0:
            controller.cancel(goal_id)
        if how == 1:
            controller.stop()
            while recorder.step() is not OperatingState.STOPPED:
                pass
            controller.reset()
    controller.scale_speed(1.0)
    recorder.run(60.0).assert_within_limits()


@pytest.mark.parametrize("fields", [1, 2, 3])
@pytest.mark.parametrize("every_s", [0.02, 0.1])
def test_time_optimal_plans_are_followed_within_the_path_tolerance(fields: int, every_s: float) -> None:
    recorder = Recorder()
    times, *values = time_optimal(HOME, WAY, 0.8, every_s)
    assert recorder.accept(points(times, *values[:fields])).message == ""
    recorder.run().assert_within_limits()
    np.testing.assert_allclose(recorder.commands[-1].position, TARGET, atol=1e-9)
    late_s = sum(recorder.steps_s) - times[-1]
    assert 0 < late_s < 0.5
    along = np.array([c.position for c in recorder.commands]) - HOME
    shares = along[:, np.abs(WAY) > 0] / WAY[np.abs(WAY) > 0]
    assert np.ptp(shares, axis=1).max() < 1e-9  # all joints together: the path stays straight


def test_a_smoothed_motion_says_so() -> None:
    arm = Arm()
    arm.go(points(*time_optimal(HOME, WAY, 0.8, 0.1)))
    message = arm.step().message
    assert "smoothed for the limits of acceleration and jerk: ends 0." in message
    assert "deviates by up to" in message


def test_smoothing_keeps_the_tolerances_of_the_goal() -> None:
    goal = tilt((2.0, 0.4), (4.0, 0.0))
    assert Recorder().accept(goal).message == ""
    tight = TrajectoryGoal(goal.joint_names, goal.points, path_tolerance=(JointTolerance("tilt", 0.01),))
    assert "tilt would pass 0.0" in Recorder().accept(tight).message
    assert "beside point 0 (at most 0.0100 rad)" in Recorder().accept(tight).message
    punctual = TrajectoryGoal(goal.joint_names, goal.points, goal_time_tolerance_s=0.2)
    assert "s late (at most 0.200 s)" in Recorder().accept(punctual).message


@pytest.mark.parametrize(
    ("rows", "end_s"),
    [
        (((2.0, 0.1),), 2.0),
        (((2.0, 0.1, 0.0),), 2.0),
        (((2.0, 0.1, 0.0, 0.0),), 2.0),
        (((1.0, 0.1),), 1.39),
        (((0.0, 0.0), (2.0, 0.1), (4.0, 0.1), (6.0, 0.2)), 6.0),
        (((0.0, 0.0, 0.1), (2.0, 0.2, 0.1), (4.0, 0.3, 0.0)), 4.0),
        (((0.0, 0.0, 0.0, 0.5), (3.0, 0.3, 0.0, -0.4)), 3.0),
        (((1.0, 0.05), (2.0, 0.15, 0.05), (3.0, 0.2, 0.0, 0.0)), 3.0),
    ],
)
def test_ends_on_time_where_the_limits_allow_it(rows: tuple[tuple[float, ...], ...], end_s: float) -> None:
    recorder = Recorder()
    assert recorder.accept(tilt(*rows)).message == ""
    recorder.run().assert_within_limits()
    assert sum(recorder.steps_s) == pytest.approx(end_s, abs=0.02)
    assert recorder.commands[-1].position[TILT] == pytest.approx(rows[-1][1], abs=1e-9)


def test_a_dwell_is_a_dwell() -> None:
    arm = Arm()
    arm.go(tilt((3.0, 0.2), (6.0, 0.2), (9.0, 0.5)))
    arm.step(301)
    rest = arm.step(298)
    since = len(arm.history) - 298
    assert np.abs([s.desired.velocity for s in arm.history[since:]]).max() < 1e-9
    assert rest.desired.position[TILT] == pytest.approx(0.2, abs=1e-9)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (((1.0, 0.4),), "velocity of tilt is 0.4000 rad/s on the transition"),
        (((0.0, 0.0), (1.0, 0.4)), "velocity of tilt is 0.4000 rad/s between points 0 and 1"),
        (((2.0, 0.6), (4.0, 0.0)), "smoothed, tilt would pass 0.0"),
        (((1.0, 0.1, 0.0),), "acceleration of tilt is 0.6000 rad/s^2 on the transition"),
        (((0.0, 0.0, 0.0), (1.0, 0.1, 0.0)), "acceleration of tilt is 0.6000 rad/s^2 between points 0 and 1"),
        (((2.0, 0.1, 0.0, 0.0), (2.5, 0.1, 0.2, -0.5), (4.0, 0.2, 0.0, 0.0)), "between points"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_place_and_the_figure(
    rows: tuple[tuple[float, ...], ...], words: str
) -> None:
    answer = Recorder().accept(tilt(*rows))
    assert answer.code is ErrorCode.INVALID_GOAL
    assert words in answer.message
    assert "\n" not in answer.message


def test_too_many_points_are_refused_by_their_count() -> None:
    goal = TrajectoryGoal(("tilt",), (TrajectoryPoint(1.0, (0.1,)),) * (MAX_POINTS + 1))
    assert Recorder().accept(goal).message == "the trajectory has 10001 points; at most 10000 are allowed"


@pytest.mark.parametrize("decimals", [16, 6])
def test_the_longest_trajectory_is_checked_quickly(decimals: int) -> None:
    times, positions, _ = minimum_jerk(HOME, WAY, 0.01 * (MAX_POINTS - 1), 0.01)
    goal = points(times, np.round(positions, decimals))
    assert len(goal.points) == MAX_POINTS
    recorder = Recorder()
    begin_s = time.thread_time()
    assert recorder.accept(goal).message == ""
    assert time.thread_time() - begin_s < 1.0


def test_a_stop_on_the_way_to_the_end_of_travel_keeps_the_limits() -> None:
    lift = NAMES.index("lift")
    way = float(LIMITS.upper[lift] - HOME[lift])
    duration_s = way / (1.04 * float(LIMITS.velocity[lift]))
    goal = TrajectoryGoal(("lift",), (TrajectoryPoint(duration_s, (float(LIMITS.upper[lift]),)),))
    for left_s in (0.6, 0.3, 0.0, -0.2, -0.4):
        recorder = Recorder()
        assert recorder.accept(goal).message == ""
        while recorder.arm.now_s < 100.0 + duration_s - left_s:
            recorder.step()
        recorder.arm.controller.stop()
        while recorder.step() is not OperatingState.STOPPED:
            pass
        recorder.assert_within_limits()


def test_a_goal_from_a_motion_begins_with_that_motion() -> None:
    arm = Arm()
    arm.go(points(*time_optimal(HOME, WAY, 0.8, 0.1)))
    arm.step(150)
    before = arm.last.desired
    arm.go(points(*time_optimal(before.position, HOME - before.position, 0.5, 0.1)))
    after = arm.step().desired
    assert (np.abs(after.acceleration - before.acceleration) <= SLACK * LIMITS.jerk * 0.01).all()
    assert (np.abs(after.velocity - before.velocity) <= SLACK * LIMITS.acceleration * 0.01).all()
    arm.step_until(idle)
    np.testing.assert_allclose(arm.last.desired.position, HOME, atol=1e-9)
