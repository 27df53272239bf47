# SPDX-License-Identifier: Apache-2.0
"""`move` through the real agent and motion nodes: surface in, clearance out, previews, names."""

import math
import sys
import time

import pytest
import rclpy
from carm_interfaces.action import MoveCArm
from carm_interfaces.msg import CArmState, MotionPermit
from carm_interfaces.srv import SavePosition
from geometry_msgs.msg import Point
from rclpy.qos import DurabilityPolicy, QoSProfile
from shape_msgs.msg import Mesh

from carm_ros.patient_surface import surface_message

from ...carm_core.collision.test_collision import box
from .test_agent_node import AGENT, MOTION, Client, Spawn

SUPERVISOR = [sys.executable, "-m", "carm_control.nodes.supervisor_node", "--ros-args", "-r", "__ns:=/carm"]
ANY_SOURCE = ["-p", "surface_source:=any"]

pytestmark = pytest.mark.integration
Goal, Result = MoveCArm.Goal, MoveCArm.Result
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def mesh(height_m: float) -> Mesh:
    surface = box((-1.0, -0.24, 0.0), (1.0, 0.24, height_m))
    return surface_message(surface.vertices_m, surface.triangles)


def near(client: Client, distance_m: float) -> bool:
    state: CArmState | None = client.state
    return state is not None and math.isfinite(state.clearance) and abs(state.clearance - distance_m) < 0.002


def test_previews_names_and_surfaces_over_ros(spawn: Spawn) -> None:
    for command in (
        [*MOTION, "-p", "supervised:=true", "-p", "longest_gap_s:=1.0"],
        [*SUPERVISOR, *ANY_SOURCE],
        [*AGENT, *ANY_SOURCE],
    ):
        assert command[0] == sys.executable
        spawn(command)
    client = Client()
    try:
        client.until(client.mover.server_is_ready, 60.0, "agent")
        client.until(lambda: client.state is not None and math.isfinite(client.state.clearance), 30.0, "clearance")
        shown = client.run(client.mover, Goal(goal_type=Goal.GOAL_NAMED, name="LAO 30", plan_only=True)).result
        assert shown.error_code == Result.ERROR_NONE
        assert len(shown.clearances) == len(shown.trajectory.points)
        assert bytes(shown.preview_png[:4]) == b"\x89PNG"
        assert math.degrees(shown.final_primary_angle) == pytest.approx(30.0)

        surface = client.node.create_publisher(Mesh, "patient_surface", LATCHED)
        surface.publish(mesh(0.50))
        client.until(lambda: near(client, 0.60 - 0.50 - 0.02), 30.0, "the supervisor minds the surface")
        down = Goal(goal_type=Goal.GOAL_VIEW, keep_angles=True, isocenter=Point(x=0.0, y=0.0, z=0.02))
        down.plan_only = True
        client.until(
            lambda: client.run(client.mover, down).result.error_code == Result.ERROR_COLLISION,
            30.0,
            "the agent minds the surface",
        )
        stale = client.run(client.mover, Goal(goal_type=Goal.GOAL_PLAN, plan_id=shown.plan_id)).result
        assert stale.error_code == Result.ERROR_STALE_PLAN

        # The registered CT's skin counts beside the surface, and only where the localizer node says that it is.
        level = Goal(goal_type=Goal.GOAL_VIEW, keep_angles=True, plan_only=True)
        level.isocenter.x, level.isocenter.z = 0.05, 0.06
        assert client.run(client.mover, level).result.error_code == Result.ERROR_NONE
        skin = client.node.create_publisher(Mesh, "ct/surface", LATCHED)
        skin.publish(mesh(0.55))
        other = rclpy.create_node("localizer_node", namespace="carm", context=client.node.context)
        assert client.run(client.mover, level).result.error_code == Result.ERROR_NONE
        client.node.destroy_publisher(skin)
        true_skin = other.create_publisher(Mesh, "ct/surface", LATCHED)
        true_skin.publish(mesh(0.55))
        client.until(
            lambda: client.run(client.mover, level).result.error_code == Result.ERROR_COLLISION,
            30.0,
            "the agent minds the registered skin",
        )
        true_skin.publish(mesh(0.45))
        client.until(
            lambda: client.run(client.mover, level).result.error_code == Result.ERROR_NONE,
            30.0,
            "the skin has moved away",
        )
        other.destroy_node()

        down.plan_only = False
        refused = client.run(client.mover, down).result
        assert refused.error_code == Result.ERROR_COLLISION
        assert "patient" in refused.error_msg

        again = client.run(client.mover, Goal(goal_type=Goal.GOAL_NAMED, name="CRAN 3", plan_only=True)).result
        moved = client.run(client.mover, Goal(goal_type=Goal.GOAL_PLAN, plan_id=again.plan_id)).result
        assert moved.error_code == Result.ERROR_NONE
        assert save(client, "my view") == ["my view"]
        back = client.run(client.mover, Goal(goal_type=Goal.GOAL_NAMED, name="before")).result
        assert back.error_code == Result.ERROR_NONE
        assert math.degrees(back.final_secondary_angle) == pytest.approx(0.0, abs=0.01)
        assert save(client, "my view", forget=True) == []

        handle = client.send(client.mover, Goal(goal_type=Goal.GOAL_JOINTS, joint_names=["lift"], positions=[0.35]))
        client.until(client.moving, what="rising")
        assert client.result(handle).result.error_code == Result.ERROR_NONE
        handle = client.send(client.mover, Goal(goal_type=Goal.GOAL_JOINTS, joint_names=["lift"], positions=[0.12]))
        client.until(client.moving, what="sinking")
        surface.publish(mesh(0.63))
        result = client.result(handle).result
        assert result.error_code == Result.ERROR_CONTROLLER_ABORTED, result.error_msg
        assert "patient" in result.error_msg
        assert client.joints.position[2] > 0.12
    finally:
        client.close()
    assert not rclpy.ok()


def save(client: Client, name: str, forget: bool = False) -> list[str]:
    service = client.node.create_client(SavePosition, "save_position")
    client.until(service.service_is_ready, what="save_position")
    future = service.call_async(SavePosition.Request(name=name, forget=forget))
    client.until(future.done, what="save_position")
    answer = future.result()
    assert answer.error_code == SavePosition.Response.ERROR_NONE, answer.error_msg
    return list(answer.names)


def test_a_motion_waits_a_moment_for_the_supervisors_permission(spawn: Spawn) -> None:
    for command in ([*MOTION, "-p", "supervised:=true", "-p", "longest_gap_s:=1.0"], [*AGENT, *ANY_SOURCE]):
        spawn(command)
    client = Client()
    permits = client.node.create_publisher(MotionPermit, "supervisor/permit", 10)
    begins_s = math.inf

    def permit() -> None:
        if time.monotonic() > begins_s:
            permits.publish(MotionPermit(speed=1.0))

    client.node.create_timer(0.04, permit)
    goal = Goal(goal_type=Goal.GOAL_JOINTS, joint_names=["lift"], positions=[0.18])
    try:
        client.until(client.mover.server_is_ready, 60.0, "agent")
        client.until(lambda: permits.get_subscription_count() > 0 and client.joints is not None, 30.0, "motion node")
        denied = client.run(client.mover, goal).result
        assert denied.error_code == Result.ERROR_CONTROLLER_REJECTED, denied.error_msg
        assert "no motion is allowed now" in denied.error_msg
        begins_s = time.monotonic() + 1.0
        assert client.run(client.mover, goal).result.error_code == Result.ERROR_NONE
    finally:
        client.close()
