# SPDX-License-Identifier: Apache-2.0
"""Goals whose clients renew them, and fall silent."""

import os
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from carm_ros.heartbeat import TIMEOUT_S, HeartbeatMonitor

GOAL = b"g" * 16
LATE_S = 10.0 + TIMEOUT_S + 0.1


class Silent:
    """Stands in for a node: nothing arrives by itself."""

    def create_subscription(self, *_: Any, **__: Any) -> None:
        pass


def monitor() -> HeartbeatMonitor:
    return HeartbeatMonitor(Silent())  # type: ignore[arg-type]


def test_a_client_that_falls_silent_is_named_and_one_that_never_renewed_is_left_alone() -> None:
    heard = monitor()
    assert heard.missing(GOAL, 10.0) == ""
    assert heard.missing(GOAL, 100.0) == ""
    heard.heard(GOAL, "carm", 100.0)
    assert heard.missing(GOAL, 100.0 + TIMEOUT_S) == ""
    assert heard.missing(GOAL, 100.6) == "carm has not renewed its goal for 0.6 s"


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_flood_of_other_ids_does_not_push_a_running_goal_out(asked_before: bool) -> None:
    heard = monitor()
    if asked_before:
        assert heard.missing(GOAL, 10.0) == ""
    heard.heard(GOAL, "carm", 10.0)
    if not asked_before:
        assert heard.missing(GOAL, 10.0) == ""
    for _ in range(5000):
        heard.heard(os.urandom(16), "flood", 10.1)
    assert "carm has not renewed" in heard.missing(GOAL, LATE_S)
    heard.heard(GOAL, "carm", LATE_S)
    assert heard.missing(GOAL, LATE_S) == ""


def test_what_nobody_asks_about_is_forgotten() -> None:
    heard = monitor()
    for number in range(1000):
        heard.missing(number.to_bytes(16, "big"), 10.0 + number)
        heard.heard(os.urandom(16), "flood", 10.0 + number)
    assert len(heard._running) < 10
    assert len(heard._heard) <= 64
