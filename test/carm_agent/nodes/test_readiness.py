# SPDX-License-Identifier: Apache-2.0
"""Nothing moves before every part of the graph has been heard from: real agent and motors, the rest comes late."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from carm_interfaces.action import MoveCArm, Navigate
from rclpy.qos import DurabilityPolicy, QoSProfile
from shape_msgs.msg import Mesh

from carm_agent.navigation.task import NavigationCode
from carm_agent.planning.move import MoveCode

from .test_agent_node import AGENT, MOTION, NEAR, ROOM, Client
from .test_move_integration import mesh

pytestmark = pytest.mark.integration

Spawn = Callable[..., "subprocess.Popen[str]"]
GATE = ["-p", "wait_for_all:=true", "-p", "server_timeout_s:=1.0"]
TURN = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_VIEW, keep_isocenter=True, primary_angle=0.05)


@pytest.fixture
def client(spawn: Spawn) -> Iterator[Client]:
    del spawn
    client = Client()
    yield client
    client.close()


def missing(client: Client) -> str:
    statuses = [status for message in client.diagnostics for status in message.status if status.name == "carm_agent"]
    return str(statuses[-1].message) if statuses else "nothing said"


def refused(client: Client, reason: str) -> None:
    before = list(client.joints.position) if client.joints is not None else []
    moved: Any = client.run(client.mover, TURN).result
    assert moved.error_code == MoveCode.NOT_READY
    assert reason in moved.error_msg
    assert len(moved.error_msg.splitlines()) == 1
    client.executor.spin_once(timeout_sec=0.1)
    assert client.joints is not None
    np.testing.assert_allclose(client.joints.position, before, atol=1e-3)


def test_nothing_moves_before_all_have_been_heard_from(spawn: Spawn, client: Client) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    surface = client.node.create_publisher(Mesh, "patient_surface", latched)
    spawn(MOTION)
    spawn([*AGENT, *GATE])
    client.until(lambda: client.joints is not None and client.mover.server_is_ready(), 30.0, "motion and agent")
    client.until(lambda: missing(client) == "missing: xray/expose, localize, patient_surface", 30.0, "the parts' names")

    refused(client, "not heard from yet: xray/expose, localize, patient_surface")
    looked = client.run(client.navigator, Navigate.Goal(target_name="carina")).result
    assert looked.error_code == NavigationCode.NOT_READY
    assert looked.exposures == 0
    assert client.say("turn to LAO 3") is not None
    client.until(lambda: any("not heard from yet" in said.text for said in client.said), what="the reason in words")
    TURN.plan_only = True
    assert client.run(client.mover, TURN).result.error_code == MoveCode.NONE
    TURN.plan_only = False

    spawn([sys.executable, ROOM, "right", "0.05", *(str(value) for value in NEAR)])
    client.until(lambda: missing(client) == "missing: patient_surface", 30.0, "the surface's name")
    refused(client, "not heard from yet: patient_surface")

    surface.publish(mesh(0.2))
    client.until(client.complete, 30.0, "all parts")
    assert client.run(client.mover, TURN).result.error_code == MoveCode.NONE
