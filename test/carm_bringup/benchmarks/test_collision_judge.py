# SPDX-License-Identifier: Apache-2.0
"""The bench's judge sees contact, and agrees with the planner's own distances, with which it shares nothing."""

import numpy as np
import pytest

from carm_agent.planning.planner import Planner
from carm_bringup.benchmarks.navigation.collision_judge import Judge, Surroundings
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_sim.patient.patient import make_patient
from carm_sim.patient.volume import AIR_HU, Volume

CARM = CArm.from_config()


def block(height_mm: float) -> Volume:
    """A body 400 mm long, 300 mm wide and as high as wanted."""
    x, y, _ = np.meshgrid(
        np.arange(-200, 201, 5.0), np.arange(-20, height_mm + 21, 5.0), np.arange(0, 401, 5.0), indexing="ij"
    )
    hu = np.full(x.shape, AIR_HU, np.int16)
    hu[(np.abs(x) <= 150) & (y >= 0) & (y <= height_mm)] = 40
    affine = np.diag([5.0, 5.0, 5.0, 1.0])
    affine[:3, 3] = (-200, -20, 0)
    return Volume(hu, affine)


@pytest.fixture(scope="module")
def around() -> Surroundings:
    return Surroundings.of(make_patient("block", block(250.0), None, "test"), CARM)


def test_judge_and_planner_agree_but_for_margin_and_cells(around: Surroundings) -> None:
    generator = np.random.default_rng(1)
    for _ in range(8):
        position = CARM.home + generator.uniform(-1, 1, 6) * [0.1, 0.1, 0.1, 0.1, 0.4, 0.4]
        planned = around.model.clearance(position).distance_m
        seen = around.judge.clearance_m(position)
        assert planned <= seen + 0.012
        if seen < 0.25:
            assert planned >= min(seen, 0.079) - 0.05


def test_contact_is_seen_also_between_the_points_of_a_trajectory() -> None:
    judge = Judge(make_patient("tall", block(620.0), None, "test"), CARM)
    positions = np.array([CARM.home, CARM.home])
    positions[0, 0], positions[1, 0] = -0.59, 0.59
    assert min(judge.clearance_m(q) for q in positions) > 0.1
    rest = np.zeros((2, 6))
    swept = judge.along_m(Trajectory(CARM.joint_names, np.array([0.0, 14.0]), positions, rest, rest))
    assert swept <= 0.0


def test_planned_motions_are_no_collisions(around: Surroundings) -> None:
    planner = Planner(CARM, collision=around.model)
    plan = planner.to_view(CARM.home, [0.05, 0.0, 0.13], (0.6, 0.3))
    assert around.judge.along_m(plan.trajectory) >= around.model.margins.collision_m
