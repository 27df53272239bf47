# SPDX-License-Identifier: Apache-2.0
"""Joint states that are believed, and those that are not."""

import math

import numpy as np
import pytest

from carm_control import JointLimits
from carm_control.supervision.joint_states import JointStateCheck
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
LIMITS = JointLimits.of(CARM.joints)
PERIOD_S = 0.02
NOISE = np.random.default_rng(0)


class Feed:
    """Publishes joint states of an arm whose cart moves sideways."""

    def __init__(self, velocity: float = 0.0, *, with_velocities: bool = True) -> None:
        self.check = JointStateCheck(LIMITS, 0.3)
        self.now_s, self.velocity, self.with_velocities = 100.0, velocity, with_velocities
        self.position = CARM.home.copy()

    def send(self, position: np.ndarray, stamp_s: float, velocity: np.ndarray | None = None) -> str:
        names, speeds = LIMITS.names, [] if velocity is None else velocity.tolist()
        return self.check.receive(names, position.tolist(), speeds, stamp_s, self.now_s)

    def step(self, count: int = 1) -> list[str]:
        doubts = []
        for _ in range(count):
            self.now_s += PERIOD_S
            self.position[1] += self.velocity * PERIOD_S
            speeds = np.array([0.0, self.velocity, 0.0, 0.0, 0.0, 0.0]) + NOISE.normal(0.0, 1e-4, 6)
            noisy = self.position + NOISE.normal(0.0, 1e-5, 6)
            doubts.append(self.send(noisy, self.now_s, speeds if self.with_velocities else None))
        return doubts


@pytest.mark.parametrize("with_velocities", [True, False])
def test_an_honest_arm_is_believed(with_velocities: bool) -> None:
    feed = Feed(0.08, with_velocities=with_velocities)
    assert set(feed.step(20)) == {""}
    motion, doubt = feed.check.motion(feed.now_s)
    assert motion is not None
    assert not doubt
    np.testing.assert_allclose(motion.velocity[1], 0.08, atol=2e-3)
    assert feed.check.motion(feed.now_s + 0.31) == (None, "no valid joint states for 0.3 s")


def test_without_joint_states_nothing_is_known() -> None:
    assert Feed().check.motion(5.0) == (None, "no valid joint states so far")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308, 9.0])
@pytest.mark.parametrize("field", ["position", "velocity"])
def test_what_no_arm_says_is_an_alarm_and_the_truth_stays_known(value: float, field: str) -> None:
    feed = Feed(0.05)
    feed.step(5)
    bad = np.full(6, value)
    for _ in range(30):
        feed.step()
        position, velocity = (bad, np.zeros(6)) if field == "position" else (feed.position, bad)
        assert feed.send(position, feed.now_s, velocity)
    motion, doubt = feed.check.motion(feed.now_s)
    assert motion is not None
    np.testing.assert_allclose(motion.position, feed.position, atol=1e-3)
    assert "finite" in doubt or "limit" in doubt
    feed.step(60)
    assert feed.check.motion(feed.now_s)[1] == ""


def test_a_joint_that_is_not_named_is_missed() -> None:
    feed = Feed()
    assert feed.check.receive(LIMITS.names[:5], [0.0] * 5, [], 1.0, 1.0) == "joint states without orbital"
    assert feed.check.receive(LIMITS.names, [0.0] * 5, [], 1.0, 1.0) == "joint states without orbital"


def test_a_late_and_a_duplicated_message_are_no_alarm() -> None:
    feed = Feed(0.05)
    feed.step(10)
    assert feed.send(feed.position - 0.002 * np.eye(6)[1], feed.now_s - 0.04, np.zeros(6))
    last, _ = feed.check.motion(feed.now_s)
    assert last is not None
    assert feed.send(last.position, last.stamp_s, last.velocity) == ""
    assert feed.check.motion(feed.now_s)[1] == ""
    assert set(feed.step(10)) == {""}


@pytest.mark.parametrize("offset", [0.15, 0.02, 0.006])
@pytest.mark.parametrize("ahead_s", [0.0, 5.0, -5.0])
def test_two_sources_that_differ_stop_the_arm(offset: float, ahead_s: float) -> None:
    feed = Feed(0.03)
    feed.step(5)
    for _ in range(25):
        feed.step()
        elsewhere = feed.position + offset * np.eye(6)[1]
        feed.send(elsewhere, feed.now_s + 1e-3 + ahead_s, np.zeros(6))
    assert feed.check.motion(feed.now_s)[1] != ""


def test_joint_states_that_begin_again_elsewhere_are_believed_after_a_silence() -> None:
    feed = Feed()
    feed.step(5)
    feed.now_s += 1.0
    feed.position[1] += 0.1
    assert set(feed.step(3)) == {""}
    assert feed.check.motion(feed.now_s)[1] == ""
