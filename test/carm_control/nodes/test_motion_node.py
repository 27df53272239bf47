# SPDX-License-Identifier: Apache-2.0
"""The motion node as a process of its own, driven over DDS as a client would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from carm_control import ErrorCode, OperatingState
from carm_core.robot.kinematics import CArm

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from carm_interfaces.msg import CArmState, GoalHeartbeat, MotionPermit
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTrajectoryControllerState, SpeedScalingFactor
from control_msgs.srv import QueryTrajectoryState
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint
from unique_identifier_msgs.msg import UUID

from carm_core.robot.controller_log import ControllerLog
from carm_ros.messages import duration_message, seconds

from ...met import met

pytestmark = pytest.mark.integration
CARM = CArm.from_config()
NODE = (sys.executable, "-m", "carm_control.nodes.motion_node")
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
PATIENCE_S = 30.0
EXIT_S = 3.0
"""It takes 0.2 s on an idle machine."""
Result = FollowJointTrajectory.Result


class Client:
    """A client of the motion node that keeps what it hears."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("client", namespace="carm", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.heard: dict[str, list[Any]] = {}
        for kind, topic, qos in (
            (JointState, "joint_states", 500),
            (CArmState, "state", LATCHED),
            (String, "robot_description", LATCHED),
            (TFMessage, "/tf", 10),
            (TFMessage, "/tf_static", LATCHED),
            (DiagnosticArray, "/diagnostics", 10),
        ):
            self.node.create_subscription(kind, topic, self.heard.setdefault(topic, []).append, qos)
        self.action = ActionClient(
            self.node, FollowJointTrajectory, "joint_trajectory_controller/follow_joint_trajectory"
        )
        self.log = ControllerLog(self.node, "joint_trajectory_controller/follow_joint_trajectory")
        self.trajectory = self.node.create_publisher(JointTrajectory, "joint_trajectory_controller/joint_trajectory", 1)
        self.feedback: list[FollowJointTrajectory.Feedback] = []

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s"
            self.executor.spin_once(timeout_sec=0.05)

    def wait(self, future: Any, what: str) -> Any:
        self.until(future.done, what)
        return future.result()

    def latest(self, topic: str) -> Any:
        return self.heard[topic][-1]

    def await_state(self, state: OperatingState) -> CArmState:
        self.until(lambda: self.heard["state"] and self.latest("state").state == state, f"state {state.name}")
        return self.latest("state")

    def positions(self) -> np.ndarray:
        return np.array(self.latest("joint_states").position)

    def call(self, service: str) -> Trigger.Response:
        client = self.node.create_client(Trigger, service)
        self.until(client.service_is_ready, f"service {service}")
        return self.wait(client.call_async(Trigger.Request()), f"answer of {service}")

    def set_parameter(self, name: str, value: Any) -> Any:
        client = self.node.create_client(SetParameters, "motion_node/set_parameters")
        self.until(client.service_is_ready, "parameter service")
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        return self.wait(client.call_async(request), "answer of the parameter service").results[0]

    def met(self) -> None:
        """Wait until the process that serves goals, which is not the one that moves, knows this client as well."""
        self.until(self.action.server_is_ready, "action server")
        controller = "joint_trajectory_controller"
        met(self.node, controller, self.until, QueryTrajectoryState, f"{controller}/query_state")

    def ask(self, trajectory: JointTrajectory, feedback: Callable[[Any], None] | None = None) -> Any:
        goal = FollowJointTrajectory.Goal(trajectory=trajectory)
        return self.wait(self.action.send_goal_async(goal, feedback), "answer to the goal")

    def send(self, trajectory: JointTrajectory) -> Any:
        handle = self.ask(trajectory, self._keep)
        assert handle.accepted
        return handle

    def rejected(self, trajectory: JointTrajectory) -> str:
        """Send a goal that is rejected; return what the controller logs."""
        sent_s = time.monotonic()
        assert not self.ask(trajectory).accepted
        self.until(lambda: self.log.since(sent_s), "reason in the log")
        return self.log.since(sent_s)

    def end_of(self, handle: Any) -> tuple[int, Result]:
        answer = self.wait(handle.get_result_async(), "result")
        return answer.status, answer.result

    def _keep(self, message: Any) -> None:
        self.feedback.append(message.feedback)


def move(time_s: float, names: Sequence[str] = CARM.joint_names, **joints: float) -> JointTrajectory:
    home = dict(zip(CARM.joint_names, CARM.home, strict=True))
    point = JointTrajectoryPoint(
        positions=[home.get(name, 0.0) + joints.get(name, 0.0) for name in names],
        velocities=[0.0] * len(names),
        accelerations=[0.0] * len(names),
        time_from_start=duration_message(time_s),
    )
    return JointTrajectory(joint_names=list(names), points=[point])


@pytest.fixture
def process(spawn: Callable[..., subprocess.Popen[str]]) -> subprocess.Popen[str]:
    return spawn(NODE)


@pytest.fixture
def client(ros_domain: int, process: subprocess.Popen[str]) -> Iterator[Client]:
    made = Client(ros_domain)
    made.met()
    made.await_state(OperatingState.IDLE)
    made.until(lambda: made.heard["joint_states"], "joint state")
    yield made
    made.close()


def test_goals_succeed_are_canceled_stopped_and_refused(client: Client) -> None:
    status, result = client.end_of(client.send(move(3.0, cart_longitudinal=0.1, orbital=-0.1)))
    assert (status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCESSFUL)
    target = CARM.home + np.array([0.1, 0, 0, 0, 0, -0.1])
    heard = len(client.heard["joint_states"])
    client.until(lambda: len(client.heard["joint_states"]) > heard, "joint state")
    np.testing.assert_allclose(client.positions(), target, atol=1e-3)
    assert list(client.feedback[-1].joint_names) == list(CARM.joint_names)
    assert 0 < seconds(client.feedback[-1].desired.time_from_start) < 3.3

    handle = client.send(move(5.0))
    client.until(lambda: abs(client.latest("joint_states").velocity[0]) > 0.02, "motion")
    answer = client.wait(handle.cancel_goal_async(), "answer to cancel")
    assert len(answer.goals_canceling) == 1
    status, result = client.end_of(handle)
    assert (status, result.error_code) == (GoalStatus.STATUS_CANCELED, Result.SUCCESSFUL)
    state = client.await_state(OperatingState.IDLE)
    assert 0.01 < state.isocenter.x < 0.1

    handle = client.send(move(5.0))
    client.await_state(OperatingState.MOVING)
    client.until(lambda: abs(client.latest("joint_states").velocity[0]) > 0.01, "motion")
    assert client.call("stop").success
    status, result = client.end_of(handle)
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL)
    assert "stop" in result.error_string
    client.await_state(OperatingState.STOPPED)
    rest = client.positions()
    assert "reset" in client.rejected(move(5.0))
    np.testing.assert_allclose(client.positions(), rest, atol=2e-4)

    assert client.call("reset").success
    client.await_state(OperatingState.IDLE)
    status, result = client.end_of(client.send(move(4.0)))
    assert (status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCESSFUL)

    for trajectory, code, words in (
        (move(4.0, ("elbow",)), ErrorCode.INVALID_JOINTS, "'elbow'"),
        (move(60.0, lift=0.3), ErrorCode.INVALID_GOAL, "position of lift is 0.4700 m"),
        (move(60.0, lift=float("nan")), ErrorCode.INVALID_GOAL, "positions of lift at point 0 is nan"),
    ):
        reason = client.rejected(trajectory)
        assert code.name in reason
        assert words in reason


def test_a_newer_goal_preempts_and_the_topic_takes_its_place(client: Client) -> None:
    first = client.send(move(5.0, cart_longitudinal=0.1))
    client.await_state(OperatingState.MOVING)
    second = client.send(move(6.0, cart_longitudinal=-0.1))
    status, result = client.end_of(first)
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL)
    assert "preempted" in result.error_string
    client.trajectory.publish(move(3.0, ("lift",), lift=0.02))
    status, result = client.end_of(second)
    assert (status, result.error_code) == (GoalStatus.STATUS_SUCCEEDED, Result.SUCCESSFUL), result.error_string
    client.await_state(OperatingState.IDLE)
    client.until(lambda: abs(client.positions()[2] - CARM.home[2] - 0.02) < 1e-3, "lift moved by the topic")


def test_blocked_drive_aborts_with_path_tolerance_violated(client: Client) -> None:
    assert not client.set_parameter("blocked_joint", "elbow").successful
    assert client.set_parameter("blocked_joint", "cart_longitudinal").successful
    status, result = client.end_of(client.send(move(4.0, cart_longitudinal=0.2)))
    assert (status, result.error_code) == (GoalStatus.STATUS_ABORTED, Result.PATH_TOLERANCE_VIOLATED)
    assert "cart_longitudinal" in result.error_string


@pytest.mark.parametrize("durability", [DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL])
def test_speed_scaling_query_and_state_of_the_controller(client: Client, durability: DurabilityPolicy) -> None:
    states: list[JointTrajectoryControllerState] = []
    base = "joint_trajectory_controller"
    client.node.create_subscription(JointTrajectoryControllerState, f"{base}/controller_state", states.append, 10)
    scaling = client.node.create_publisher(
        SpeedScalingFactor, f"{base}/speed_scaling_input", QoSProfile(depth=1, durability=durability)
    )
    query = client.node.create_client(QueryTrajectoryState, f"{base}/query_state")
    client.until(lambda: states and states[-1].speed_scaling_factor == 1.0, "controller state")
    client.until(lambda: scaling.get_subscription_count() >= 1 and query.service_is_ready(), "speed scaling and query")
    scaling.publish(SpeedScalingFactor(factor=0.25))
    client.until(lambda: states[-1].speed_scaling_factor == 0.25, "factor")
    for wrong in (-0.5, 1.5, float("nan")):
        scaling.publish(SpeedScalingFactor(factor=wrong))
    handle = client.send(move(2.0, lift=0.02))
    client.until(
        lambda: any(states[-1].reference.velocities) and 0.5 < seconds(states[-1].reference.time_from_start) < 1.5,
        "the middle of the trajectory",
    )
    state = states[-1]
    assert list(state.joint_names) == list(CARM.joint_names)
    assert state.speed_scaling_factor == 0.25
    assert seconds(state.feedback.time_from_start) > 3 * seconds(state.reference.time_from_start)
    assert list(state.output.positions) == list(state.reference.positions)
    difference = np.array(state.reference.positions) - np.array(state.feedback.positions)
    np.testing.assert_allclose(state.error.positions, difference, atol=1e-12)
    assert "25 %" in client.await_state(OperatingState.MOVING).message
    answer = client.wait(query.call_async(QueryTrajectoryState.Request(time=state.header.stamp)), "answer to the query")
    assert answer.success, answer.message
    np.testing.assert_allclose(answer.position, state.reference.positions, atol=1e-3)
    scaling.publish(SpeedScalingFactor(factor=1.0))
    assert client.end_of(handle)[0] == GoalStatus.STATUS_SUCCEEDED
    client.await_state(OperatingState.IDLE)
    answer = client.wait(query.call_async(QueryTrajectoryState.Request(time=state.header.stamp)), "answer to the query")
    assert not answer.success
    assert "no trajectory" in answer.message
    assert list(answer.name) == list(CARM.joint_names)


def test_what_the_node_publishes(client: Client) -> None:
    client.until(lambda: len(client.heard["joint_states"]) > 150, "joint states")
    stamps = np.array([seconds(m.header.stamp) for m in client.heard["joint_states"]])
    assert np.median(np.diff(stamps)) == pytest.approx(0.02, rel=0.05)
    message = client.latest("joint_states")
    assert tuple(message.name) == CARM.joint_names
    assert len(message.position) == len(message.velocity) == 6
    states = [seconds(m.header.stamp) for m in client.heard["state"]]
    assert np.median(np.diff(states)) == pytest.approx(0.1, rel=0.05)
    state = client.latest("state")
    assert state.header.frame_id == "table"
    assert (state.message, list(state.limits_hit)) == ("", [])
    assert np.isnan(state.clearance)
    np.testing.assert_allclose([state.primary_angle, state.secondary_angle], 0, atol=1e-3)
    position = state.isocenter
    np.testing.assert_allclose([position.x, position.y, position.z], CARM.isocenter(CARM.home), atol=1e-3)
    children = {t.child_frame_id for t in client.latest("/tf").transforms}
    fixed = {t.child_frame_id for t in client.latest("/tf_static").transforms}
    assert "isocenter" in children
    assert not children & fixed
    assert fixed == {"carm_base", "xray_source", "detector", "xray_optical"}
    assert "<robot" in client.latest("robot_description").data
    client.until(lambda: client.heard["/diagnostics"], "diagnostics")
    assert "control loop" in client.latest("/diagnostics").status[0].name


def test_states_have_the_values_of_the_message() -> None:
    constants = {name[6:]: getattr(CArmState, name) for name in dir(CArmState) if name.startswith("STATE_")}
    assert constants == {state.name: state.value for state in OperatingState}


def test_codes_have_the_values_of_the_action() -> None:
    assert {code.name: getattr(Result, code.name) for code in ErrorCode} == {c.name: c.value for c in ErrorCode}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_brings_the_arm_to_rest_and_ends_the_node(
    number: signal.Signals, client: Client, process: subprocess.Popen[str]
) -> None:
    handle = client.send(move(20.0, cart_longitudinal=0.55))
    result = handle.get_result_async()
    client.until(lambda: client.heard["joint_states"] and client.latest("joint_states").velocity[0] > 0.01, "motion")
    process.send_signal(number)
    answer = client.wait(result, "result")
    assert (answer.status, answer.result.error_code) == (GoalStatus.STATUS_ABORTED, Result.INVALID_GOAL)
    assert "the motion node is shutting down" in answer.result.error_string
    client.until(lambda: abs(client.latest("joint_states").velocity[0]) < 1e-3, "rest")
    client.until(lambda: process.poll() is not None, "end of the node")
    assert process.returncode == 0
    states = client.heard["joint_states"]
    velocity = np.array([message.velocity[0] for message in states])
    times = np.array([seconds(message.header.stamp) for message in states])
    decelerations = np.diff(velocity) / np.maximum(np.diff(times), 0.01)
    assert decelerations.min() > -1.5 * CARM.joints[0].acceleration
    assert process.stdout is not None
    assert "Traceback" not in process.stdout.read()


def test_bad_parameters_are_one_line_and_exit_code_2(start_each: Callable[..., list[tuple[int, str]]]) -> None:
    refusals = {
        "control_rate_hz:=5.0": "control_rate_hz = 5.0 Hz is outside [100.0, 1000.0] Hz",
        "blocked_joint:=elbow": "unknown joint 'elbow'",
        "carm_config:=/nowhere.yaml": "/nowhere.yaml",
        "seed:=many": "seed",
    }
    ends = start_each("carm_control.nodes.motion_node", list(refusals))
    for words, (code, output) in zip(refusals.values(), ends, strict=True):
        assert code == 2, output
        assert words in output
        assert len(output.strip().splitlines()) == 1, output


def test_simulated_time_stamps_messages_and_drives_nothing(
    ros_domain: int, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    spawn((*NODE, "--ros-args", "-p", "use_sim_time:=true"))
    client = Client(ros_domain)
    clock = client.node.create_publisher(Clock, "/clock", 10)
    client.met()
    client.until(
        lambda: (
            clock.publish(Clock(clock=Time(sec=50))),
            client.heard["joint_states"] and stamp(client) == 50.0,
        )[1],
        "simulated stamp",
    )
    assert client.end_of(client.send(move(2.0, cart_longitudinal=0.05)))[0] == GoalStatus.STATUS_SUCCEEDED
    assert client.positions()[0] == pytest.approx(0.05, abs=1e-3)
    assert stamp(client) == 50.0
    answer = client.set_parameter("use_sim_time", False)
    assert not answer.successful
    assert "cannot change while the node runs" in answer.reason
    client.close()


def test_a_node_that_was_held_up_in_a_motion_decelerates_and_stays(
    client: Client, process: subprocess.Popen[str]
) -> None:
    for stop in (False, True):
        start = client.positions()[0]
        handle = client.send(move(8.0, cart_longitudinal=0.3 if start < 0.1 else -0.3))
        client.until(lambda: abs(client.latest("joint_states").velocity[0]) > 0.03, "motion")
        process.send_signal(signal.SIGSTOP)
        before, began_s = client.positions()[0], time.monotonic()
        asked = client.node.create_client(Trigger, "stop").call_async(Trigger.Request()) if stop else None
        client.until(lambda began_s=began_s: time.monotonic() > began_s + 0.7, "time")
        process.send_signal(signal.SIGCONT)
        state = client.await_state(OperatingState.STOPPED)
        assert "held up for 0." in state.message
        assert abs(client.positions()[0] - before) < 0.06  # v/a and a/j: 45 mm from 0.1 m/s
        status, result = client.end_of(handle)
        assert status == GoalStatus.STATUS_ABORTED
        assert "held up" in result.error_string
        if asked is not None:
            assert client.wait(asked, "answer to stop").success
        assert client.call("reset").success
        client.await_state(OperatingState.IDLE)


def test_a_renewed_goal_ends_when_its_client_falls_silent(client: Client) -> None:
    sender = client.node.create_publisher(GoalHeartbeat, "goal_heartbeat", 10)
    client.until(lambda: sender.get_subscription_count() > 0, "listener")
    key = list(range(16))
    goal = FollowJointTrajectory.Goal(trajectory=move(8.0, cart_longitudinal=0.3))
    handle = client.wait(client.action.send_goal_async(goal, goal_uuid=UUID(uuid=key)), "answer to the goal")
    end = handle.get_result_async()

    def renew() -> float:
        sender.publish(GoalHeartbeat(goal_id=key, client="the tester"))
        return float(client.latest("joint_states").velocity[0])

    began_s = time.monotonic()
    client.until(lambda: renew() > 0.03 and time.monotonic() > began_s + 1.0, "motion")
    assert not end.done()
    result = client.wait(end, "end").result
    assert "the tester has not renewed its goal" in result.error_string
    client.await_state(OperatingState.IDLE)


def test_an_enormous_goal_holds_up_neither_motion_nor_stop(client: Client) -> None:
    handle = client.send(move(30.0, cart_longitudinal=0.5))
    client.until(lambda: client.latest("joint_states").velocity[0] > 0.003, "motion")
    point = JointTrajectoryPoint(positions=[0.0] * 6, time_from_start=duration_message(1.0))
    trajectory = JointTrajectory(joint_names=list(CARM.joint_names), points=[point] * 100_000)
    heard = len(client.heard["joint_states"])
    refused = client.action.send_goal_async(FollowJointTrajectory.Goal(trajectory=trajectory))
    answer = client.wait(refused, "answer to the enormous goal")
    assert not answer.accepted
    stamps = [seconds(message.header.stamp) for message in client.heard["joint_states"][heard:]]
    assert len(stamps) > 5
    assert max(np.diff(stamps)) < 0.15
    assert client.call("stop").success
    assert client.end_of(handle)[0] == GoalStatus.STATUS_ABORTED


def test_the_arm_stops_when_the_process_that_serves_goals_dies(client: Client, process: subprocess.Popen[str]) -> None:
    client.send(move(8.0, cart_longitudinal=0.3))
    client.until(lambda: client.latest("joint_states").velocity[0] > 0.03, "motion")
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(child), signal.SIGKILL)
    client.until(lambda: process.poll() is not None, "end of the node")
    assert process.returncode == 1
    velocity = np.array([message.velocity[0] for message in client.heard["joint_states"]])
    assert abs(velocity[-1]) < 2e-3
    assert np.diff(velocity).min() > -1.5 * CARM.joints[0].acceleration * 0.04


def test_nothing_moves_without_the_supervisors_permission(
    ros_domain: int, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    spawn((*NODE, "--ros-args", "-p", "supervised:=true"))
    client = Client(ros_domain)
    permits = client.node.create_publisher(
        MotionPermit, "supervisor/permit", QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
    )
    client.met()
    client.await_state(OperatingState.IDLE)
    assert "supervisor gives no permission" in client.rejected(move(4.0, cart_longitudinal=0.1))
    permits_from = client.node.create_timer(0.04, lambda: permits.publish(MotionPermit(speed=1.0)))
    heard = len(client.heard["state"])
    client.until(lambda: len(client.heard["state"]) > heard + 3, "permits under way")
    handle = client.send(move(4.0, cart_longitudinal=0.1))
    client.until(lambda: client.latest("joint_states").velocity[0] > 0.02, "motion")
    permits_from.cancel()
    status, result = client.end_of(handle)
    assert status == GoalStatus.STATUS_ABORTED
    assert "no permission to move for 0.5 s" in result.error_string
    client.await_state(OperatingState.IDLE)
    client.close()


def stamp(client: Client) -> float:
    return seconds(client.latest("joint_states").header.stamp)
