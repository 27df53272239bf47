# SPDX-License-Identifier: Apache-2.0
"""What the supervisor permits, with the collision model and a patient's surface: plans that keep clear are let through,
trajectories into the patient are slowed down and stopped, and an arm that is too near may get away."""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pytest

from carm_control import JointLimits
from carm_control.supervision.joint_states import JointStateCheck, Motion
from carm_control.supervision.obedience import Obedience
from carm_control.supervision.parameters import SupervisorParameters
from carm_control.supervision.permit_judge import Judgment, PermitJudge
from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.spline import State
from carm_core.collision.clearance import Margins
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
from carm_core.robot.kinematics import CArm
from carm_sim.patient.surface import patient_surface
from carm_sim.patient_loader import load_patient

CARM = CArm.from_config()
LIMITS = JointLimits.of(CARM.joints)


def sideways(distance_m: float) -> np.ndarray:
    """Where the cart has gone sideways."""
    return np.array([0.0, distance_m, 0.0, 0.0, 0.0, 0.0])


BESIDE = np.array([0.0, 0.0, 0.27, 0.0, 0.0, math.radians(90.0)])
"""The detector stands beside the patient: the cart's way sideways leads into the patient."""
INTO = np.array([0.0, 0.30, 0.27, 0.0, 0.0, math.radians(90.0)])
LAG_S = 0.08
STEP_S = 0.02
Way = Callable[[float], np.ndarray]


@lru_cache(maxsize=1)
def surface() -> Surface:
    mesh = patient_surface(load_patient("phantom:7"))
    return Surface(mesh.vertices_m, mesh.triangles)


@lru_cache(maxsize=4)
def model(staff: str = "") -> CollisionModel:
    obstacles = Obstacles(surface(), staff=staff_zones(staff))
    return CollisionModel(CARM, obstacles, SupervisorParameters().margins())


@lru_cache(maxsize=1)
def skin() -> CollisionModel:
    return CollisionModel(CARM, Obstacles(surface(), assume_patient=False), Margins(patient_m=0.0))


def motion(position: np.ndarray, velocity: np.ndarray | None = None, now_s: float = 1.0) -> Motion:
    return Motion(position, np.zeros(6) if velocity is None else velocity, np.zeros(6), now_s, now_s)


def judge(staff: str = "") -> PermitJudge:
    return PermitJudge(LIMITS, model(staff), SupervisorParameters().reaction_time_s)


def straight(start: np.ndarray, end: np.ndarray, seconds: float) -> Way:
    def at(time_s: float) -> np.ndarray:
        u = min(1.0, time_s / seconds)
        return start + (end - start) * (10 * u**3 - 15 * u**4 + 6 * u**5)

    return at


class Arm:
    """An arm that follows its way as permitted, some time later, as the motion node does."""

    def __init__(self, supervisor: PermitJudge, *, obeys: bool = True) -> None:
        self.supervisor, self.obeys = supervisor, obeys
        self.check = JointStateCheck(LIMITS, 0.3)
        self.now_s = 10.0
        self.steps = 0
        self.permits: list[tuple[float, Judgment]] = []
        self.nearest_m = math.inf

    def follow(self, way: Way, seconds: float, most_s: float = 60.0) -> tuple[np.ndarray, Judgment | None]:
        """Return where the arm ends, and the permit that stopped it."""
        position, stop, stopped = way(0.0), None, None
        for _ in range(10):
            self._be_at(position, position)
        until_s, along_s, rate = self.now_s + most_s, 0.0, 1.0
        while self.now_s < until_s and along_s < seconds:
            heard = [permit for time_s, permit in self.permits if time_s <= self.now_s - LAG_S][-1:]
            permit = heard[0] if heard else Judgment(1.0)
            before, ratio = position, self._ratio(way, along_s)
            if stop is None and permit.speed == 0.0 and self.obeys:
                velocity = (way(along_s + 1e-3) - way(along_s)) / 1e-3 * rate
                stop, stopped = (self.now_s, StopProfile(LIMITS, State(position, velocity, np.zeros(6)))), permit
            if stop is not None:
                if self.now_s - stop[0] > stop[1].duration_s + 0.3:
                    return position, stopped
                position = stop[1].sample(self.now_s - stop[0]).position
            else:
                wanted = 1.0 if ratio == 0.0 or not self.obeys else min(1.0, permit.speed / ratio)
                rate += float(np.clip(wanted - rate, -1.5 * STEP_S, 1.5 * STEP_S))
                along_s = min(seconds, along_s + rate * STEP_S)
                position = way(along_s)
            self._be_at(position, before)
        return position, stopped

    def _be_at(self, position: np.ndarray, before: np.ndarray) -> None:
        self.now_s += STEP_S
        speed = (position - before) / STEP_S
        assert not self.check.receive(LIMITS.names, position.tolist(), speed.tolist(), self.now_s, self.now_s)
        moved, doubt = self.check.motion(self.now_s)
        assert moved is not None
        assert not doubt
        self.steps += 1
        if self.steps % 2 == 0:
            self.permits.append((self.now_s, self.supervisor.judge(moved, self.now_s)))
            self.nearest_m = min(self.nearest_m, skin().clearance(position, named=False).people_m)

    def _ratio(self, way: Way, along_s: float) -> float:
        return float((np.abs(way(along_s + 5e-3) - way(along_s)) / 5e-3 / LIMITS.velocity).max())


@pytest.mark.parametrize("distance_m", [0.20, 0.09, 0.075, 0.06, 0.049, 0.02, 0.0055, 0.004, -0.01])
def test_the_permit_at_rest_follows_the_distance_to_people(distance_m: float) -> None:
    near = judge().judge(motion(BESIDE), 1.0).clearance
    assert near is not None
    at = BESIDE.copy()
    at[1] += near.people_m - distance_m
    permit = judge().judge(motion(at), 1.0)
    assert permit.clearance is not None
    assert permit.clearance.people_m == pytest.approx(distance_m, abs=2e-3)
    assert permit.speed == pytest.approx(model().margins.velocity_share(permit.clearance.people_m))
    assert permit.speed > 0.0
    assert (permit.speed <= 0.25) == (distance_m < 0.05)
    assert bool(permit.reason) == (permit.speed < 1.0)


def test_a_trajectory_into_the_patient_is_slowed_down_and_stopped_before_the_margin() -> None:
    arm = Arm(judge())
    _, stopped = arm.follow(straight(BESIDE, INTO, 7.0), 7.0)
    assert stopped is not None
    assert "patient" in stopped.reason
    assert "detector housing" in stopped.reason
    assert arm.nearest_m > 0.02
    assert min(permit.speed for _, permit in arm.permits if permit.speed > 0.0) < 0.25


def test_goals_again_and_again_do_not_creep_into_the_margin() -> None:
    arm = Arm(judge())
    position, _ = arm.follow(straight(BESIDE, INTO, 7.0), 7.0)
    for _ in range(8):
        position, stopped = arm.follow(straight(position, INTO, 7.0), 7.0)
        assert stopped is not None
        if any(permit.lost for _, permit in arm.permits):
            break
    else:
        pytest.fail("an arm that creeps is not found out")
    assert arm.nearest_m > 0.0235
    _, stopped = arm.follow(straight(position, BESIDE, 7.0), 7.0)
    assert stopped is None


@pytest.mark.parametrize("depth_m", [0.0, 0.02, 0.1])
def test_an_arm_in_contact_may_be_backed_out_but_not_driven_on(depth_m: float) -> None:
    start = BESIDE.copy()
    start[1] = 0.21 + depth_m
    arm = Arm(judge())
    arm.follow(straight(start, start, 0.2), 0.2)
    inside = [permit.speed for _, permit in arm.permits]
    assert all(0.0 < speed <= 0.25 for speed in inside)
    end, stopped = arm.follow(straight(start, BESIDE, 5.0), 5.0)
    assert stopped is None
    np.testing.assert_allclose(end, BESIDE, atol=1e-6)
    arm = Arm(judge())
    arm.follow(straight(start, start, 0.2), 0.2)
    _, stopped = arm.follow(straight(start, start + (INTO - BESIDE), 7.0), 7.0)
    assert stopped is not None


def test_a_plan_of_the_planner_is_not_slowed_down() -> None:
    from carm_agent.planning.planner import Planner

    planner = Planner(CARM, 1.0, CollisionModel(CARM, Obstacles(surface()), Margins()))
    for lateral in (0.10, 0.14, 0.157):
        plan = planner.to_joints(BESIDE, BESIDE + sideways(lateral))
        arm = Arm(judge())
        begin_s = arm.now_s
        end, stopped = arm.follow(lambda t, plan=plan: plan.trajectory.sample(t)[0], plan.duration_s)  # type: ignore[misc]
        assert stopped is None
        np.testing.assert_allclose(end, plan.goal, atol=1e-6)
        assert arm.now_s - begin_s < 1.1 * plan.duration_s + 0.3


def test_staff_stand_where_the_zones_say() -> None:
    at = BESIDE + sideways(-0.05)
    free = judge().judge(motion(at), 1.0)
    assert free.speed == 1.0
    kept = judge("-0.3 -0.6 -0.9 0.3 0.6 0.9").judge(motion(at), 1.0)
    assert 0.0 < kept.speed <= 0.25
    assert "staff" in kept.reason


def test_an_obstacle_that_comes_does_not_lock_the_arm_in() -> None:
    supervisor = judge()
    at = BESIDE + sideways(0.16)
    assert supervisor.judge(motion(at, now_s=1.0), 1.0).speed > 0.0
    larger = Surface(surface().vertices_m * [1.0, 1.4, 1.0], surface().triangles)
    supervisor.use(CollisionModel(CARM, Obstacles(larger), SupervisorParameters().margins()))
    permit = supervisor.judge(motion(at, now_s=1.04), 1.04)
    assert permit.clearance is not None
    assert permit.clearance.people_m < 0.0
    assert 0.0 < permit.speed <= 0.25
    out, into = np.zeros(6), np.zeros(6)
    out[1], into[1] = -0.02, 0.02
    assert supervisor.judge(motion(at, out, 1.08), 1.08).speed > 0.0
    assert supervisor.judge(motion(at, into, 1.12), 1.12).speed == 0.0


def test_a_controller_that_goes_on_without_a_permit_is_found_out_and_a_braking_one_is_not() -> None:
    fast = LIMITS.velocity * [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    denied = Judgment(0.0, "because")
    for obeys in (False, True):
        watch = Obedience(LIMITS, 0.5, LIMITS.by_unit(0.05, 0.1))
        profile = StopProfile(LIMITS, State(BESIDE, fast, np.zeros(6)))
        found = []
        for now_s in np.arange(0.0, 3.0, 0.04):
            state = profile.sample(max(0.0, now_s - 0.1))
            moved = motion(state.position, state.velocity if obeys else fast, float(now_s))
            found.append((float(now_s), watch.judge(moved, denied, float(now_s))))
        faults = [time_s for time_s, fault in found if fault]
        assert bool(faults) is not obeys
        assert obeys or faults[0] < 0.9


def test_a_controller_that_stays_too_fast_is_found_out() -> None:
    watch = Obedience(LIMITS, 0.5, LIMITS.by_unit(0.05, 0.1))
    slow = Judgment(0.25, "slow", share=0.25)
    times = np.arange(0.0, 3.0, 0.04)
    for ratio, wrong in ((0.26, False), (0.8, True)):
        faults = [watch.judge(motion(BESIDE, ratio * LIMITS.velocity, t), slow, t) for t in times.tolist()]
        assert bool(faults[-1]) is wrong


def test_joints_that_are_not_where_the_controller_wants_them_are_found_out() -> None:
    watch = Obedience(LIMITS, 0.5, LIMITS.by_unit(0.05, 0.1))
    near, far = BESIDE + 0.04, BESIDE + sideways(0.06)
    assert not any(watch.compare(near, BESIDE, t) for t in (0.0, 0.3, 0.6, 0.9))
    assert [bool(watch.compare(far, BESIDE, t)) for t in (1.0, 1.4, 1.6)] == [False, False, True]
    assert not watch.compare(np.full(6, np.nan), BESIDE, 2.0)
