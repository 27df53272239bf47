# SPDX-License-Identifier: Apache-2.0
"""The life cycle of the managed nodes over DDS, as `ros2 lifecycle` and lifecycle managers drive it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from carm_core.robot.kinematics import CArm

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from action_msgs.msg import GoalStatus
from carm_interfaces.action import Localize, MoveCArm
from carm_interfaces.msg import Exposure, LandmarkArray, Utterance
from carm_interfaces.srv import Expose
from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image, JointState
from shape_msgs.msg import Mesh
from std_msgs.msg import String

from ..met import met

pytestmark = pytest.mark.integration
CARM = CArm.from_config()
PATIENCE_S = 60.0
MANAGED = ("--ros-args", "-p", "autostart:=false")
XRAY = (sys.executable, "-m", "carm_sim.nodes.xray_node", *MANAGED, "-p", "binning:=6", "-p", "patient:=phantom:7")
LOCALIZER = (sys.executable, "-m", "carm_perception.entry_points", *MANAGED, "-p", "localizer:=regression")
AGENT = (sys.executable, "-m", "carm_agent.entry_points", *MANAGED, "-p", "server_timeout_s:=1.0")
MOTION = (sys.executable, "-m", "carm_control.nodes.motion_node")
Spawn = Callable[..., "subprocess.Popen[str]"]


class Manager:
    """Changes and asks the state of one node; stands in for the arm where there is none."""

    def __init__(self, domain: int, name: str) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("manager", namespace="carm", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.name = name
        self.diagnostics: dict[str, str] = {}
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 50)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        self.diagnostics.update({status.name: status.message for status in message.status})

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s"
            self.executor.spin_once(timeout_sec=0.05)

    def wait(self, future: Any, what: str) -> Any:
        self.until(future.done, what)
        return future.result()

    def ask(self, kind: Any, service: str, request: Any) -> Any:
        client = self.node.create_client(kind, service)
        self.until(client.service_is_ready, service)
        answer = self.wait(client.call_async(request), f"answer of {service}")
        self.node.destroy_client(client)
        return answer

    def change(self, label: str) -> bool:
        request = ChangeState.Request(transition=Transition(label=label))
        return bool(self.ask(ChangeState, f"{self.name}/change_state", request).success)

    @property
    def state(self) -> str:
        return str(self.ask(GetState, f"{self.name}/get_state", GetState.Request()).current_state.label)

    def goal(self, action: ActionClient, goal: Any) -> Any:
        self.until(action.server_is_ready, "action server")
        met(self.node, self.name, self.until)
        return self.wait(action.send_goal_async(goal), "answer to the goal")


@pytest.fixture
def manage(ros_domain: int) -> Iterator[Callable[[str], Manager]]:
    managers: list[Manager] = []

    def make(name: str) -> Manager:
        managers.append(Manager(ros_domain, name))
        return managers[-1]

    yield make
    for manager in managers:
        manager.executor.shutdown()
        manager.node.destroy_node()
        rclpy.shutdown(context=manager.context)


def ends_well(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=5.0)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    assert "never retrieved" not in output
    return output


def test_xray_node_exposes_only_while_it_is_active(spawn: Spawn, manage: Callable[[str], Manager]) -> None:
    process = spawn((*XRAY, "-p", "rate_hz:=10.0"))
    manager = manage("xray_node")
    exposures: list[Exposure] = []
    manager.node.create_subscription(Exposure, "xray/exposure", exposures.append, 10)
    joints = manager.node.create_publisher(JointState, "joint_states", 10)

    def tell_joints() -> None:
        message = JointState(name=list(CARM.joint_names), position=CARM.home.tolist())
        message.header.stamp = manager.node.get_clock().now().to_msg()
        joints.publish(message)

    manager.node.create_timer(0.02, tell_joints)

    def refusal() -> str:
        answer = manager.ask(Expose, "xray/expose", Expose.Request())
        assert (answer.success, answer.error_code) == (False, Expose.Request.ERROR_INACTIVE)
        return str(answer.error_msg)

    assert manager.state == "unconfigured"
    assert "/carm/xray_node is unconfigured: configure it, then activate it" in refusal()
    assert not manager.change("activate")
    assert not manager.change("no_such_transition")
    assert manager.change("configure")
    assert (manager.state, exposures) == ("inactive", [])
    assert "is inactive: activate it" in refusal()
    assert manager.change("activate")
    manager.until(lambda: len(exposures) >= 2, "fluoroscopy")
    assert manager.change("deactivate")
    assert "is inactive" in refusal()
    manager.diagnostics.clear()
    manager.until(lambda: "/carm/xray_node: X-ray" in manager.diagnostics, "diagnostics")
    assert manager.diagnostics["/carm/xray_node: X-ray"] == "inactive"
    count = len(exposures)
    manager.diagnostics.clear()
    manager.until(lambda: "/carm/xray_node: X-ray" in manager.diagnostics, "a second without exposures")
    assert len(exposures) == count
    assert manager.change("cleanup")
    assert "is unconfigured" in refusal()
    assert manager.change("configure")
    assert manager.change("activate")
    manager.until(lambda: len(exposures) > count, "fluoroscopy again")
    assert manager.change("shutdown")
    assert manager.state == "finalized"
    assert "is finalized" in refusal()
    ends_well(process)


def test_a_patient_that_cannot_be_loaded_leaves_a_managed_node_unconfigured(
    spawn: Spawn, manage: Callable[[str], Manager]
) -> None:
    process = spawn((*XRAY, "-p", "patient:=/nowhere/ct.nii.gz"))
    manager = manage("xray_node")
    assert not manager.change("configure")
    assert manager.state == "unconfigured"
    assert "configure failed: " in ends_well(process)


def test_localizer_answers_only_while_it_is_active(spawn: Spawn, manage: Callable[[str], Manager]) -> None:
    process = spawn(LOCALIZER)
    manager = manage("localizer_node")
    found: list[LandmarkArray] = []
    manager.node.create_subscription(LandmarkArray, "landmarks", found.append, 10)
    image = manager.node.create_publisher(Image, "xray/image", 2)
    info = manager.node.create_publisher(CameraInfo, "xray/camera_info", 2)
    localize = ActionClient(manager.node, Localize, "localize")

    def show() -> None:
        stamp = manager.node.get_clock().now().to_msg()
        pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
        message = Image(height=64, width=64, encoding="mono8", step=64, data=pixels.tobytes())
        model = CameraInfo(height=64, width=64, k=[219.0, 0.0, 31.5, 0.0, 219.0, 31.5, 0.0, 0.0, 1.0])
        message.header.stamp = model.header.stamp = stamp
        info.publish(model)
        image.publish(message)

    manager.node.create_timer(0.1, show)
    assert manager.state == "unconfigured"
    assert not manager.goal(localize, Localize.Goal(target_id=11)).accepted
    assert manager.change("configure")
    assert not manager.goal(localize, Localize.Goal(target_id=11)).accepted
    assert found == []
    assert manager.change("activate")
    manager.until(lambda: found, "landmarks")
    handle = manager.goal(localize, Localize.Goal(target_id=11))
    assert handle.accepted
    result = manager.wait(handle.get_result_async(), "result").result
    assert result.error_code in (Localize.Result.ERROR_NONE, Localize.Result.ERROR_ABSTAINED)
    late = Localize.Goal(target_id=11)
    late.stamp.sec = 1
    waiting = manager.goal(localize, late)
    assert waiting.accepted
    assert manager.change("deactivate")
    ended = manager.wait(waiting.get_result_async(), "result")
    assert ended.status == GoalStatus.STATUS_ABORTED
    assert not manager.goal(localize, Localize.Goal(target_id=11)).accepted
    assert manager.change("cleanup")
    assert manager.change("configure")
    assert manager.change("activate")
    count = len(found)
    manager.until(lambda: len(found) > count, "landmarks again")
    ends_well(process)


def test_agent_stops_what_runs_and_accepts_nothing_while_inactive(
    spawn: Spawn, manage: Callable[[str], Manager]
) -> None:
    spawn(MOTION)
    process = spawn((*AGENT, "-p", "wait_for_all:=false"))
    manager = manage("agent_node")
    joints: list[JointState] = []
    said: list[Utterance] = []
    manager.node.create_subscription(JointState, "joint_states", joints.append, 10)
    manager.node.create_subscription(Utterance, "agent/dialogue", said.append, 10)
    clinician = manager.node.create_publisher(String, "clinician", 10)
    move = ActionClient(manager.node, MoveCArm, "move")
    surface = manager.node.create_publisher(
        Mesh, "patient_surface", QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    )
    surface.publish(Mesh())
    manager.until(lambda: joints, "joint states")
    target = (CARM.home + np.array([0.3, 0, 0, 0, 0, 0])).tolist()
    goal = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_JOINTS, joint_names=list(CARM.joint_names), positions=target)
    assert manager.state == "unconfigured"
    assert not manager.goal(move, goal).accepted
    assert manager.change("configure")
    assert not manager.goal(move, goal).accepted
    assert manager.change("activate")
    handle = manager.goal(move, goal)
    assert handle.accepted
    result = handle.get_result_async()
    manager.until(lambda: result.done() or abs(joints[-1].velocity[0]) > 0.02, "motion")
    assert not result.done(), result.result()
    assert manager.change("deactivate")
    assert manager.state == "inactive"
    assert np.abs(joints[-1].velocity).max() < 0.02
    ended = manager.wait(result, "result")
    assert ended.status == GoalStatus.STATUS_ABORTED
    assert ended.result.error_code == MoveCArm.Result.ERROR_CANCELED
    assert "being deactivated" in ended.result.error_msg
    assert joints[-1].position[0] < 0.29
    assert not manager.goal(move, goal).accepted
    clinician.publish(String(data="turn to LAO 30"))
    manager.until(lambda: any("inactive" in words.text for words in said), "refusal of words")
    transitions = manager.ask(
        GetAvailableTransitions, "agent_node/get_available_transitions", GetAvailableTransitions.Request()
    )
    assert {"activate", "cleanup", "shutdown"} <= {t.transition.label for t in transitions.available_transitions}
    ends_well(process)


def test_a_part_that_is_not_active_is_missing(spawn: Spawn, manage: Callable[[str], Manager]) -> None:
    spawn(XRAY)
    spawn((sys.executable, "-m", "carm_agent.entry_points", "--ros-args", "-p", "server_timeout_s:=1.0"))
    spawn(MOTION)
    manager = manage("xray_node")
    assert manager.change("configure")

    def missing() -> list[str]:
        text = manager.diagnostics.get("carm_agent", "")
        return text.removeprefix("missing: ").split(", ") if text.startswith("missing: ") else []

    manager.until(lambda: missing() and "joint_states" not in missing(), "diagnostics of the agent")
    manager.until(lambda: "xray/expose" in missing(), "lack of an active X-ray system")
    assert manager.change("activate")
    manager.until(lambda: missing() and "xray/expose" not in missing(), "X-ray system")
    assert manager.change("deactivate")
    manager.until(lambda: "xray/expose" in missing(), "lack of the X-ray system")
