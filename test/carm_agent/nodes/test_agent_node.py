# SPDX-License-Identifier: Apache-2.0
"""The agent node as its clients see it: real agent and motion processes, a stand-in for X-ray and localizer."""

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from action_msgs.msg import GoalStatus
from carm_interfaces.action import MoveCArm, Navigate
from carm_interfaces.msg import CArmState, Utterance
from carm_interfaces.srv import Expose
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point
from rclpy.action import ActionClient
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from carm_agent.navigation.task import NavigationCode, Stage
from carm_agent.planning.move import MoveCode

from ...met import met

pytestmark = pytest.mark.integration

ROOM = Path(__file__).with_name("room.py")
MOTION = [sys.executable, "-m", "carm_control.nodes.motion_node", "--ros-args", "-r", "__ns:=/carm"]
AGENT = [sys.executable, "-m", "carm_agent.entry_points", "--ros-args", "-r", "__ns:=/carm"]
NEAR = (60.0, -40.0, 120.0)
FAR = (480.0, 100.0, 120.0)
SLACK_S = 20.0
SLOWLY = "velocity_scaling:=0.2"
"""Makes motions to FAR last so long that what a test does during one is over before it ends, on a busy machine too."""
Spawn = Callable[..., "subprocess.Popen[str]"]


class Client:
    """Drives the graph from the test's own process."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.node = Node("client", namespace="/carm", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.navigator = ActionClient(self.node, Navigate, "navigate")
        self.mover = ActionClient(self.node, MoveCArm, "move")
        self.clinician = self.node.create_publisher(String, "clinician", 10)
        self.feedback: list[Any] = []
        self.said: list[Any] = []
        self.joints: JointState | None = None
        self.state: CArmState | None = None
        self.diagnostics: list[Any] = []
        self.known = False
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.node.create_subscription(Utterance, "agent/dialogue", self.said.append, 50)
        self.node.create_subscription(JointState, "joint_states", lambda m: setattr(self, "joints", m), 10)
        self.node.create_subscription(CArmState, "state", lambda m: setattr(self, "state", m), latched)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.diagnostics.append, 10)

    def until(self, condition: Callable[[], Any], timeout_s: float = SLACK_S, what: str = "") -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not in {timeout_s} s: {what}; {self.said[-3:]}"
            self.executor.spin_once(timeout_sec=0.05)

    def ready(self, timeout_s: float = 30.0) -> "Client":
        self.until(lambda: self.navigator.server_is_ready() and self.mover.server_is_ready(), 30.0, "agent")
        self.until(lambda: self.state is not None and self.state.state == CArmState.STATE_IDLE, 30.0, "motion")
        self.until(lambda: self.clinician.get_subscription_count() > 0, 30.0, "clinician")
        self.until(self.complete, timeout_s, "the agent sees all parts")
        return self

    def complete(self) -> bool:
        statuses = [status for message in self.diagnostics for status in message.status if status.name == "carm_agent"]
        return bool(statuses) and statuses[-1].level == DiagnosticStatus.OK

    def send(self, client: ActionClient, goal: Any) -> Any:
        self.feedback.clear()
        if not self.known:  # DDS drops answers to clients that the agent has not discovered yet
            met(self.node, "agent_node", lambda condition, what: self.until(condition, 30.0, what))
            self.known = True
        future = client.send_goal_async(goal, feedback_callback=lambda m: self.feedback.append(m.feedback))
        self.until(future.done, what="goal accepted")
        return future.result()

    def result(self, handle: Any, timeout_s: float = 60.0) -> Any:
        future = handle.get_result_async()
        self.until(future.done, timeout_s, "result")
        return future.result()

    def run(self, client: ActionClient, goal: Any) -> Any:
        return self.result(self.send(client, goal))

    def say(self, text: str) -> Any:
        before = len(self.said)
        self.clinician.publish(String(data=text))
        self.until(lambda: any(u.in_reply_to == text for u in self.said[before:]), what=f"answer to {text}")
        return next(u for u in self.said[before:] if u.in_reply_to == text)

    def trigger(self, name: str) -> None:
        client = self.node.create_client(Trigger, name)
        self.until(client.service_is_ready, what=name)
        future = client.call_async(Trigger.Request())
        self.until(future.done, what=name)
        assert future.result().success

    def moving(self) -> bool:
        return self.state is not None and self.state.state == CArmState.STATE_MOVING

    def speed(self) -> float:
        return float(np.abs(self.joints.velocity).max()) if self.joints is not None else math.inf

    def speed_now(self) -> float:
        """The speed that the first joint states say that are made from now on; older ones may still be on their way."""
        asked = self.node.get_clock().now().nanoseconds

        def newer() -> bool:
            stamp = self.joints.header.stamp if self.joints is not None else None
            return stamp is not None and stamp.sec * 10**9 + stamp.nanosec > asked

        self.until(newer, what="joint states")
        return self.speed()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


@pytest.fixture
def graph(spawn: Spawn) -> Iterator[Callable[..., Client]]:
    """Starts motion, room and agent, and a client that has seen them all."""
    clients: list[Client] = []

    def start(
        point_mm: tuple[float, float, float] = NEAR,
        reply: str = "right",
        delay_s: float = 0.05,
        parts: str = "mra",
        options: tuple[str, ...] = (),
    ) -> Client:
        if "m" in parts:
            spawn(MOTION)
        if "r" in parts:
            spawn([sys.executable, ROOM, reply, str(delay_s), *(str(value) for value in point_mm)])
        patience = (
            ["-p", "server_timeout_s:=15.0"]
            if parts == "mra"
            else ["-p", "server_timeout_s:=1.0", "-p", "joint_state_timeout_s:=0.5"]
        )
        process = spawn([*AGENT, *patience, *(word for option in options for word in ("-p", option))])
        client = Client()
        clients.append(client)
        client.agent = process  # type: ignore[attr-defined]
        return client.ready() if parts == "mra" else client

    yield start
    for client in clients:
        client.close()


def test_navigate_and_its_refusals(graph: Callable[..., Client]) -> None:
    client = graph()
    wrapped = client.run(client.navigator, Navigate.Goal(target_name="carina"))
    assert wrapped.status == GoalStatus.STATUS_SUCCEEDED, wrapped.result.error_msg
    result = wrapped.result
    assert result.error_code == NavigationCode.NONE
    assert result.final_distance < 0.010
    assert 2 <= result.exposures <= 4
    assert result.dose_area_product_gym2 == pytest.approx(2e-6 * result.exposures)
    assert result.path_length == pytest.approx(0.072, abs=0.02)
    assert "carina" in result.summary
    assert client.speed() < 5e-3
    stages = {feedback.stage for feedback in client.feedback}
    assert {Stage.ACQUIRING, Stage.LOCALIZING, Stage.MOVING, Stage.VERIFYING} <= stages
    client.until(lambda: any(u.kind == Utterance.KIND_RESULT for u in client.said))
    assert any("towards the patient's left" in u.text for u in client.said if u.kind == Utterance.KIND_REASON)

    wrapped = client.run(client.navigator, Navigate.Goal(target_name="carena"))
    assert wrapped.status == GoalStatus.STATUS_ABORTED
    assert wrapped.result.error_code == NavigationCode.UNKNOWN_TARGET
    assert "Carina" in wrapped.result.error_msg
    wrapped = client.run(client.navigator, Navigate.Goal(target_id=11, tolerance=math.nan))
    assert wrapped.result.error_code == NavigationCode.INVALID_GOAL


def test_a_point_of_the_ct_is_brought_to_the_center_and_one_outside_refused(graph: Callable[..., Client]) -> None:
    client = graph()
    goal = Navigate.Goal(at_point=True, point=Point(x=-0.012, y=0.03, z=-0.41))
    wrapped = client.run(client.navigator, goal)
    assert wrapped.status == GoalStatus.STATUS_SUCCEEDED, wrapped.result.error_msg
    assert wrapped.result.final_distance < 0.010
    assert wrapped.result.summary.startswith("The point (-12, 30, -410) mm of the CT is ")
    assert "Which landmark" in client.say("no, further up").text  # not the landmark of an earlier task
    goal.point.x, goal.target_name = 5.0, "rib_left_4"
    outside = client.run(client.navigator, goal).result
    assert (outside.error_code, outside.error_msg) == (NavigationCode.INVALID_GOAL, "the point is outside the CT")
    assert outside.exposures == 0
    for bad in (math.nan, 1e9):
        goal.point.x = bad
        assert client.run(client.navigator, goal).result.error_code == NavigationCode.INVALID_GOAL
    goal.point.x, goal.target_id = 0.0, 11
    both = client.run(client.navigator, goal).result
    assert both.error_code == NavigationCode.INVALID_GOAL
    assert "target_id must be 0" in both.error_msg


def test_cancel_and_stop_while_moving(graph: Callable[..., Client]) -> None:
    client = graph(FAR, options=(SLOWLY,))
    handle = client.send(client.navigator, Navigate.Goal(target_id=11))
    client.until(client.moving, what="moving")
    busy = client.run(client.mover, MoveCArm.Goal(goal_type=1, keep_isocenter=True, keep_angles=True))
    assert busy.result.error_code == MoveCode.BUSY
    assert client.run(client.navigator, Navigate.Goal(target_id=1)).result.error_code == NavigationCode.BUSY
    started = time.monotonic()
    handle.cancel_goal_async()
    wrapped = client.result(handle)
    assert time.monotonic() - started < 3.0
    assert wrapped.status == GoalStatus.STATUS_CANCELED
    assert wrapped.result.error_code == NavigationCode.CANCELED
    assert client.speed_now() < 5e-3
    assert wrapped.result.path_length > 0.0
    client.until(lambda: client.state is not None and client.state.state == CArmState.STATE_IDLE)

    handle = client.send(client.navigator, Navigate.Goal(target_id=11))
    client.until(client.moving, what="moving again")
    assert "Stopping" in client.say("please STOP now").text
    wrapped = client.result(handle)
    assert wrapped.status == GoalStatus.STATUS_ABORTED
    assert wrapped.result.error_code == NavigationCode.STOPPED
    assert client.speed_now() < 5e-3
    client.until(lambda: client.state is not None and client.state.state == CArmState.STATE_STOPPED)

    assert client.run(client.navigator, Navigate.Goal(target_id=11)).result.error_code == NavigationCode.STOPPED
    goal = MoveCArm.Goal(goal_type=0, joint_names=["lift"], positions=[0.2])
    assert client.run(client.mover, goal).result.error_code == MoveCode.STOPPED
    client.trigger("reset")
    client.until(lambda: client.state is not None and client.state.state == CArmState.STATE_IDLE)
    handle = client.send(client.navigator, Navigate.Goal(target_id=11))
    client.until(client.moving, what="moving after reset")
    client.trigger("stop")
    assert client.result(handle).result.error_code == NavigationCode.STOPPED


@pytest.mark.serial
def test_cancel_while_the_localizer_thinks(graph: Callable[..., Client]) -> None:
    client = graph(NEAR, "right", 8.0)
    handle = client.send(client.navigator, Navigate.Goal(target_id=11))
    client.until(lambda: any(f.stage == Stage.LOCALIZING for f in client.feedback))
    started = time.monotonic()
    handle.cancel_goal_async()
    wrapped = client.result(handle)
    assert time.monotonic() - started < 0.5
    assert wrapped.status == GoalStatus.STATUS_CANCELED
    assert "Stopping" in client.say("halt").text


@pytest.mark.parametrize(
    ("reply", "code"), [("silent", NavigationCode.LOST_CONFIDENCE), ("malformed", NavigationCode.LOCALIZER)]
)
def test_localizers_that_do_not_help(graph: Callable[..., Client], reply: str, code: NavigationCode) -> None:
    client = graph(NEAR, reply)
    wrapped = client.run(client.navigator, Navigate.Goal(target_id=11))
    assert wrapped.status == GoalStatus.STATUS_ABORTED
    assert wrapped.result.error_code == code
    assert wrapped.result.error_msg
    assert math.isnan(wrapped.result.final_distance)


def test_move_by_joints_and_by_view(graph: Callable[..., Client]) -> None:
    client = graph()
    goal = MoveCArm.Goal(goal_type=0, joint_names=["lift", "orbital"], positions=[0.2, 0.1])
    wrapped = client.run(client.mover, goal)
    assert wrapped.status == GoalStatus.STATUS_SUCCEEDED, wrapped.result.error_msg
    assert client.joints is not None
    assert client.joints.position[client.joints.name.index("lift")] == pytest.approx(0.2, abs=2e-3)
    assert client.feedback[-1].stage == "moving"

    goal = MoveCArm.Goal(goal_type=1, keep_isocenter=True, primary_angle=0.3, secondary_angle=-0.1)
    assert client.run(client.mover, goal).result.error_code == MoveCode.NONE
    client.until(lambda: client.state is not None and abs(client.state.primary_angle - 0.3) < 5e-3)

    before = list(client.joints.position)
    goal = MoveCArm.Goal(goal_type=1, keep_angles=True, plan_only=True)
    goal.isocenter.x, goal.isocenter.z = 0.3, 0.15
    wrapped = client.run(client.mover, goal)
    assert wrapped.result.error_code == MoveCode.NONE
    assert wrapped.result.duration_s > 1.0
    assert len(wrapped.result.trajectory.points) > 5
    assert len(wrapped.result.final_positions) == 6
    assert list(client.joints.position) == pytest.approx(before, abs=2e-3)

    def refused(goal: Any) -> tuple[int, str]:
        wrapped = client.run(client.mover, goal)
        assert wrapped.status == GoalStatus.STATUS_ABORTED
        return wrapped.result.error_code, wrapped.result.error_msg

    code, words = refused(MoveCArm.Goal(goal_type=0, joint_names=["lift"], positions=[0.6]))
    assert code == MoveCode.JOINT_LIMIT
    assert "lift" in words
    assert "0.45" in words
    assert refused(MoveCArm.Goal(goal_type=0, joint_names=["knee"], positions=[0.6]))[0] == MoveCode.INVALID_GOAL
    assert refused(MoveCArm.Goal(goal_type=0, joint_names=["lift"], positions=[]))[0] == MoveCode.INVALID_GOAL
    assert refused(MoveCArm.Goal(goal_type=7))[0] == MoveCode.INVALID_GOAL
    nan = MoveCArm.Goal(goal_type=1, keep_isocenter=True, primary_angle=math.nan)
    assert refused(nan)[0] == MoveCode.INVALID_GOAL
    fast = MoveCArm.Goal(goal_type=1, keep_isocenter=True, keep_angles=True, velocity_scaling=3.0)
    assert refused(fast)[0] == MoveCode.INVALID_GOAL


def test_clinician_is_answered(graph: Callable[..., Client]) -> None:
    client = graph()
    assert "did not understand" in client.say("what a nice day").text
    assert client.say("show me the elbow").kind == Utterance.KIND_QUESTION
    assert "carina" in client.say("bring the carina to the center, please").text
    client.until(lambda: any(u.kind == Utterance.KIND_RESULT for u in client.said), 60.0, "result")
    said = next(u for u in client.said if u.kind == Utterance.KIND_RESULT)
    assert "confirmed" in said.text


def test_missing_servers_are_named(graph: Callable[..., Client]) -> None:
    client = graph(parts="a")
    client.until(client.navigator.server_is_ready, 30.0)
    client.until(client.mover.server_is_ready, 30.0)
    wrapped = client.run(client.navigator, Navigate.Goal(target_id=11))
    assert wrapped.result.error_code == NavigationCode.NO_IMAGE
    assert "xray/expose" in wrapped.result.error_msg
    wrapped = client.run(client.mover, MoveCArm.Goal(goal_type=0, joint_names=["lift"], positions=[0.2]))
    assert wrapped.result.error_code == MoveCode.NO_JOINT_STATES


def test_real_images_and_the_oracle_lead_to_the_carina(spawn: Spawn, graph: Callable[..., Client]) -> None:
    from carm_core.robot.kinematics import CArm
    from carm_sim.patient_loader import load_patient

    for module, options in (
        ("carm_sim.nodes.xray_node", []),
        ("carm_perception.entry_points", ["-p", "localizer:=oracle"]),
    ):
        spawn([sys.executable, "-m", module, "--ros-args", "-r", "__ns:=/carm", "-p", "patient:=chest_ct", *options])
    client = graph(parts="ma")
    client.ready(60.0)
    expose = client.node.create_client(Expose, "xray/expose")

    client.until(expose.service_is_ready, 60.0, "xray/expose")

    def exposed() -> bool:
        future = expose.call_async(Expose.Request())
        client.until(future.done, 30.0, "exposure")
        return bool(future.result().success)

    client.until(exposed, 60.0, "the patient is loaded")
    wrapped = client.run(client.navigator, Navigate.Goal(target_name="tracheal bifurcation"))
    assert wrapped.status == GoalStatus.STATUS_SUCCEEDED, wrapped.result.error_msg
    client.until(lambda: client.speed() < 5e-3)
    assert client.joints is not None
    carm = CArm.from_config()
    positions = [client.joints.position[client.joints.name.index(name)] for name in carm.joint_names]
    displacement = carm.view(positions).displacement_mm(load_patient("chest_ct").landmarks_table_mm[11])
    assert np.linalg.norm(displacement) < 12.0
    assert wrapped.result.dose_area_product_gym2 > 0.0


def test_ends_soon_and_leaves_the_arm_at_rest(graph: Callable[..., Client]) -> None:
    client = graph(FAR, options=(SLOWLY,))
    handle = client.send(client.navigator, Navigate.Goal(target_id=11))
    client.until(client.moving)
    started = time.monotonic()
    client.agent.send_signal(signal.SIGINT)  # type: ignore[attr-defined]
    wrapped = client.result(handle, 5.0)
    assert wrapped.status == GoalStatus.STATUS_ABORTED
    assert "the agent node is shutting down" in wrapped.result.error_msg
    assert client.agent.wait(timeout=5.0) == 0  # type: ignore[attr-defined]
    assert time.monotonic() - started < 4.0
    client.until(lambda: client.speed() < 5e-3, 3.0, "rest")


def test_bad_parameter_ends_in_one_line(spawn: Spawn) -> None:
    process = spawn([*AGENT, "-p", "tolerance_m:=5.0"], stderr=subprocess.STDOUT)
    output, _ = process.communicate(timeout=20.0)
    assert process.returncode == 2
    assert output.strip().count("\n") == 0
    assert "tolerance_m" in output
