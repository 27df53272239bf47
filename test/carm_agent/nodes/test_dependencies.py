# SPDX-License-Identifier: Apache-2.0
"""A motion ends when who asked for it, or what it depends on, is gone; and when the agent itself stood still."""

import signal
import time
from collections.abc import Callable

import numpy as np
import pytest
from action_msgs.msg import GoalStatus
from carm_interfaces.action import MoveCArm, Navigate
from carm_interfaces.msg import CArmState
from sensor_msgs.msg import JointState

from carm_agent.navigation.task import NavigationCode
from carm_agent.planning.move import MoveCode
from carm_ros.heartbeat import HeartbeatSender

from .test_agent_node import FAR, SLOWLY, Client, graph

pytestmark = pytest.mark.integration
__all__ = ["graph"]

STOOD_STILL_S = 2.0


def move(to: float) -> MoveCArm.Goal:
    return MoveCArm.Goal(joint_names=["cart_longitudinal"], positions=[to])


def idle(client: Client) -> bool:
    return client.state is not None and client.state.state == CArmState.STATE_IDLE and client.speed() < 5e-3


def test_a_motion_ends_with_those_whom_it_needs(graph: Callable[..., Client]) -> None:
    client = graph(FAR, options=(SLOWLY,))
    heartbeat = HeartbeatSender(client.node, "console")

    # A client that renews its goal, and falls silent.
    false = client.node.create_publisher(JointState, "joint_states", 10)  # early, so that all know whose it is
    number = heartbeat.begin()
    sending = client.mover.send_goal_async(move(0.5), goal_uuid=number)
    client.until(sending.done, what="goal accepted")
    client.until(client.moving, what="moving")
    heartbeat.end(number)
    silent_s = time.monotonic()
    result = client.result(sending.result())
    assert time.monotonic() - silent_s < 5.0
    assert (result.status, result.result.error_code) == (GoalStatus.STATUS_ABORTED, MoveCode.CANCELED)
    assert "console has not renewed its goal" in result.result.error_msg
    client.until(lambda: idle(client), what="rest")

    # Joint states that cannot be true, from a second publisher.
    handle = client.send(client.mover, move(-0.5))
    client.until(client.moving, what="moving")
    client.until(lambda: false.get_subscription_count() >= 2, what="listeners")
    names = list(client.joints.name)  # type: ignore[union-attr]
    false.publish(JointState(name=names, position=[np.inf] * 6, velocity=[np.inf] * 6))
    result = client.result(handle).result
    assert result.error_code == MoveCode.NO_JOINT_STATES
    assert "client" in result.error_msg
    client.node.destroy_publisher(false)
    client.until(lambda: idle(client), what="rest")

    # The agent itself: what it hears after a pause is of before, and is not acted upon.
    handle = client.send(client.navigator, Navigate.Goal(target_id=11))
    client.until(client.moving, what="moving")
    client.agent.send_signal(signal.SIGSTOP)  # type: ignore[attr-defined]
    frozen_s = time.monotonic()
    client.until(lambda: time.monotonic() - frozen_s > STOOD_STILL_S)
    assert client.speed_now() < 5e-3  # its goal was not renewed
    client.agent.send_signal(signal.SIGCONT)  # type: ignore[attr-defined]
    result = client.result(handle).result
    assert result.error_code in (NavigationCode.CANCELED, NavigationCode.MOTION)
    client.until(lambda: idle(client), what="rest")
    place = client.joints.position[0]  # type: ignore[union-attr]
    again_s = time.monotonic()
    client.until(lambda: time.monotonic() - again_s > 1.0)
    assert abs(client.joints.position[0] - place) < 1e-3  # type: ignore[union-attr]
