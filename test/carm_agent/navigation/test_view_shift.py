# SPDX-License-Identifier: Apache-2.0
"""Shifts at the edge of what the arm reaches."""

import numpy as np
import pytest

from carm_agent.navigation.view_shift import plan_shift
from carm_agent.planning.planner import Planner
from carm_core.errors import GoalError
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
LATERAL = next(joint for joint in CARM.joints if joint.name == "cart_lateral")


def start(lateral_m: float) -> np.ndarray:
    return Planner(CARM).to_view(CARM.home, [0.0, lateral_m, 0.15], (0.0, 0.0)).goal


def test_shift_within_reach_is_made_in_full() -> None:
    position = start(0.0)
    shift = plan_shift(Planner(CARM), position, CARM.view(position), np.array([40.0, -60.0]), 0.0)
    assert shift.refused is None
    assert shift.lacking_mm == 0.0
    moved = CARM.isocenter(shift.plan.goal) - CARM.isocenter(position)
    assert np.linalg.norm(moved) == pytest.approx(0.001 * np.hypot(40, 60), abs=1e-6)


def test_blocked_direction_does_not_block_the_other() -> None:
    """The cart stands at its limit towards the patient's left; the target lies further that way and headwards."""
    position = start(LATERAL.lower)
    shift = plan_shift(Planner(CARM), position, CARM.view(position), np.array([30.0, 100.0]), 50.0)
    moved = 1000 * (CARM.isocenter(shift.plan.goal) - CARM.isocenter(position))
    assert moved == pytest.approx([100.0, 0.0, 0.0], abs=0.1)
    assert shift.lacking_mm == pytest.approx(30.0, abs=0.1)
    assert shift.refused is not None


@pytest.mark.parametrize("slack_mm", [10.0, 1000.0])
def test_what_lacks_too_much_or_moves_nothing_is_refused(slack_mm: float) -> None:
    position = start(LATERAL.lower)
    with pytest.raises(GoalError, match="cart_lateral"):
        plan_shift(Planner(CARM), position, CARM.view(position), np.array([30.0, 0.0]), slack_mm)
