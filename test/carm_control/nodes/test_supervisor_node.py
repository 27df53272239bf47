# SPDX-License-Identifier: Apache-2.0
"""The supervisor beside the motion node, as processes of their own, among false messages over DDS."""

import math
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from carm_interfaces.msg import MotionPermit
from control_msgs.action import FollowJointTrajectory
from rcl_interfaces.srv import SetParameters
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from shape_msgs.msg import Mesh
from std_msgs.msg import Float64
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from visualization_msgs.msg import Marker

from carm_control import OperatingState
from carm_core.robot.kinematics import CArm
from carm_ros.messages import duration_message
from carm_ros.patient_surface import surface_message

from ...carm_core.collision.test_collision import box
from .test_motion_node import LATCHED, NODE, Client

pytestmark = pytest.mark.integration
CARM = CArm.from_config()
SUPERVISOR = (sys.executable, "-m", "carm_control.nodes.supervisor_node", "--ros-args", "-p", "surface_source:=client")
PATIENT = (*NODE, "--ros-args", "-p", "longest_gap_s:=1.0")
"""A busy machine does not stop it."""
SUPERVISED = (*PATIENT, "-p", "supervised:=true")
HEIGHT_M = 0.50
"""Of a body below the detector, which is 0.08 m above its margin at home."""
FROZEN_S = 0.8
"""Longer than joint states may be missing."""
TINY = ((-1.0, -1.5, -0.9), (-0.99, -1.49, -0.89))


class Watcher(Client):
    """A client that hears permits and sends what is false."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain)
        for kind, topic in ((MotionPermit, "supervisor/permit"), (Float64, "clearance"), (Marker, "clearance/line")):
            self.node.create_subscription(kind, topic, self.heard.setdefault(topic, []).append, 10)
        self.surface = self.node.create_publisher(Mesh, "patient_surface", LATCHED)

    @property
    def permit(self) -> MotionPermit:
        heard = self.heard["supervisor/permit"]
        return heard[-1] if heard else MotionPermit(reason="none heard")

    def near(self, clearance_m: float) -> bool:
        heard = self.heard["clearance"]
        return bool(heard) and abs(heard[-1].data - clearance_m) < 0.002

    def line_mm(self) -> float:
        """Length of the newest line, from the machine to the patient's margin."""
        heard = self.heard["clearance/line"]
        if not heard or heard[-1].action != Marker.ADD:
            return math.nan
        begin, end = (np.array([point.x, point.y, point.z]) for point in heard[-1].points)
        return 1000.0 * float(np.linalg.norm(begin - end))

    def publish_body(self, low: tuple[float, ...], high: tuple[float, ...]) -> None:
        found = box(low, high)  # type: ignore[arg-type]
        self.surface.publish(surface_message(found.vertices_m, found.triangles))

    def set(self, name: str, value: float) -> Any:
        client = self.node.create_client(SetParameters, "supervisor_node/set_parameters")
        self.until(client.service_is_ready, "parameter service")
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.wait(client.call_async(request), "answer of the parameter service").results[0]

    def lift(self, height_m: float, seconds: float) -> FollowJointTrajectory.Result:
        """Drive the lift, whatever is there."""
        self.met()
        start = self.positions()
        goal = start.copy()
        goal[2] = height_m
        trajectory = JointTrajectory(joint_names=list(CARM.joint_names))
        for share in np.linspace(0.0, 1.0, 21).tolist():
            smooth = 10 * share**3 - 15 * share**4 + 6 * share**5
            rate = (30 * share**2 - 60 * share**3 + 30 * share**4) / seconds
            point = JointTrajectoryPoint(positions=(start + (goal - start) * smooth).tolist())
            point.velocities = ((goal - start) * rate).tolist()
            point.time_from_start = duration_message(share * seconds)
            trajectory.points.append(point)
        handle = self.send(trajectory)
        return self.wait(handle.get_result_async(), "end of the motion").result


@pytest.fixture
def client(ros_domain: int, spawn: Any) -> Iterator[Watcher]:
    spawn(SUPERVISED)
    spawn(SUPERVISOR)
    watcher = Watcher(ros_domain)
    yield watcher
    watcher.close()


def body(height_m: float) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return (-1.0, -0.24, 0.0), (1.0, 0.24, height_m)


def test_false_messages_bring_the_arm_no_nearer(client: Watcher) -> None:
    client.until(lambda: client.permit.speed > 0.0, "permit")
    client.publish_body(*body(HEIGHT_M))
    client.until(lambda: client.near(0.08), "clearance")
    client.until(lambda: 0.6 < client.permit.speed < 0.8, "a permit of the distance")
    client.until(lambda: abs(client.line_mm() - 1000.0 * client.heard["clearance"][-1].data) < 0.1, "a line as long")
    shown = client.heard["clearance/line"][-1]
    assert shown.header.frame_id == "table"
    assert [point.z for point in shown.points] == pytest.approx([0.6, HEIGHT_M + 0.02], abs=0.002)

    for low, high in (TINY, body(0.3)):
        client.publish_body(low, high)
    stopped = client.lift(0.03, 8.0)
    assert stopped.error_code != FollowJointTrajectory.Result.SUCCESSFUL
    assert "detector housing would come within" in stopped.error_string
    assert "of patient" in stopped.error_string
    assert np.nanmin([message.data for message in client.heard["clearance"]]) > 0.0
    client.until(lambda: 0.0 < client.permit.speed <= 0.25, "a slow permit at rest")
    assert client.lift(0.17, 10.0).error_code == FollowJointTrajectory.Result.SUCCESSFUL

    assert "looser" in client.set("collision_distance_m", 0.001).reason
    assert client.set("collision_distance_m", 0.02).successful
    assert "looser" in client.set("collision_distance_m", 0.005).reason

    stranger = client.node.create_publisher(JointState, "joint_states", 10)
    nan = JointState(name=list(CARM.joint_names), position=[math.nan] * 6, velocity=[math.nan] * 6)

    def denied() -> bool:
        stranger.publish(nan)
        return client.permit.speed == 0.0 and "not finite" in client.permit.reason

    client.until(denied, "a permit that is withdrawn")
    assert "/carm/client" in client.permit.reason
    assert "/carm/motion_node" in client.permit.reason
    client.node.destroy_publisher(stranger)
    client.until(lambda: client.permit.speed > 0.0, "a permit once the stranger has gone")


def test_a_supervisor_that_was_frozen_reads_what_has_arrived_before_it_judges(ros_domain: int, spawn: Any) -> None:
    spawn(SUPERVISED)
    supervisor = spawn(SUPERVISOR)
    client = Watcher(ros_domain)
    try:
        client.until(lambda: client.permit.speed > 0.0, "permit")
        for _ in range(3):
            supervisor.send_signal(signal.SIGSTOP)
            frozen, begin_s = len(client.heard["supervisor/permit"]), time.monotonic()
            client.until(lambda b=begin_s: time.monotonic() > b + FROZEN_S, "the freeze")  # type: ignore[misc]
            supervisor.send_signal(signal.SIGCONT)
            client.until(lambda n=frozen: len(client.heard["supervisor/permit"]) > n + 5, "permits")  # type: ignore[misc]
            after = client.heard["supervisor/permit"][frozen:]
            assert [permit.reason for permit in after if permit.speed == 0.0] == []
    finally:
        client.close()


def test_a_controller_that_does_not_obey_is_stopped(ros_domain: int, spawn: Any) -> None:
    spawn(PATIENT)
    spawn(SUPERVISOR)
    client = Watcher(ros_domain)
    try:
        client.until(lambda: client.permit.speed > 0.0, "permit")
        client.publish_body(*body(HEIGHT_M))
        client.until(lambda: client.near(0.08), "clearance")
        assert client.lift(0.02, 8.0).error_code != FollowJointTrajectory.Result.SUCCESSFUL
        client.await_state(OperatingState.STOPPED)

        def said() -> bool:
            found = (status for message in client.heard["/diagnostics"] for status in message.status)
            return any("supervisor" in status.name and "the arm was stopped" in status.message for status in found)

        client.until(said, "the stop on /diagnostics")
    finally:
        client.close()
