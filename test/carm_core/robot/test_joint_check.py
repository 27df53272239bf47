# SPDX-License-Identifier: Apache-2.0
"""Which joint states are believed."""

import math

import numpy as np
import pytest

from carm_core.plausibility import ImplausibleError
from carm_core.robot.joint_check import DOUBT_S, JointStateCheck
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
NAMES = list(CARM.joint_names)
HOME = CARM.home.tolist()
STILL = [0.0] * 6


def check() -> JointStateCheck:
    return JointStateCheck(CARM.joints)


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan, 1e308, -1e6, 1e9])
def test_no_position_and_no_velocity_out_of_range(bad: float) -> None:
    for place in range(6):
        wrong = [bad if index == place else 0.0 for index in range(6)]
        with pytest.raises(ImplausibleError, match=f"position of {NAMES[place]} = "):
            check().read(NAMES, wrong, STILL, 1.0, 1.0)
        with pytest.raises(ImplausibleError, match=f"velocity of {NAMES[place]} = "):
            check().read(NAMES, HOME, wrong, 1.0, 1.0)


def test_names_in_any_order_and_joints_of_others() -> None:
    names = ["other", *reversed(NAMES)]
    read = check().read(names, [9.0, *reversed(HOME)], [], 1.0, 1.0)
    assert read is not None
    np.testing.assert_array_equal(read[0], CARM.home)
    np.testing.assert_array_equal(read[1], 0.0)


@pytest.mark.parametrize(
    ("names", "positions", "velocities"),
    [(NAMES[:5], HOME[:5], []), (NAMES, HOME[:5], []), (NAMES, HOME, [0.0]), ([], [], [])],
)
def test_a_missing_joint_is_no_contradiction(names: list[str], positions: list[float], velocities: list[float]) -> None:
    assert check().read(names, positions, velocities, 1.0, 1.0) is None
    with pytest.raises(ImplausibleError, match="twice"):
        check().read([*NAMES, NAMES[0]], [*HOME, 0.0], [], 1.0, 1.0)


def test_motion_at_the_velocity_limit_is_believed_also_when_messages_come_late_or_in_a_burst() -> None:
    checked = check()
    speed = np.array([joint.velocity for joint in CARM.joints])
    now_s = 0.0
    for step in range(100):
        stamp_s = 0.01 * step
        now_s = max(now_s, stamp_s if step < 30 else 1.0)  # those after the 30th come at once
        assert checked.read(NAMES, CARM.home + speed * stamp_s, speed, stamp_s, now_s) is not None
        assert not checked.in_doubt(now_s)


def test_two_publishers_that_contradict_each_other_are_both_in_doubt() -> None:
    checked = check()
    false = [HOME[0] + 0.2, *HOME[1:]]
    refused = 0
    for step in range(40):
        now_s = 0.01 * step
        try:
            checked.read(NAMES, false if step % 4 == 3 else HOME, STILL, now_s, now_s)
        except ImplausibleError as error:
            assert "cart_longitudinal jumped" in str(error)
            refused += 1
        assert checked.in_doubt(now_s) == (step >= 3)
    assert refused >= 19
    with pytest.raises(ImplausibleError):
        checked.read(NAMES, HOME, STILL, 0.4, 0.4)  # whichever of the two was true
    assert checked.read(NAMES, HOME, STILL, 0.41, 0.41) is not None
    assert checked.in_doubt(0.41)
    assert not checked.in_doubt(0.4 + DOUBT_S)


def test_after_a_pause_the_arm_may_be_anywhere() -> None:
    checked = check()
    checked.read(NAMES, HOME, STILL, 0.0, 0.0)
    assert checked.read(NAMES, [0.5, *HOME[1:]], STILL, 2.0, 2.0) is not None
    assert not checked.in_doubt(2.0)
