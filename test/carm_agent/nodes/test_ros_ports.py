# SPDX-License-Identifier: Apache-2.0
"""The ports ask action servers from a task's thread; answers that come at once are neither lost nor an error."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import rclpy
from carm_interfaces.action import Localize
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.task import Future
from sensor_msgs.msg import JointState

from carm_agent.errors import (
    CanceledError,
    LostPartError,
    MotionError,
    NoJointStatesError,
    RejectedTrajectoryError,
    StoppedError,
)
from carm_agent.nodes import ros_ports
from carm_agent.nodes.action_requests import ask
from carm_agent.nodes.ros_ports import CArmGraph, RosArm, RosLocalizer
from carm_agent.parameters import AgentParameters
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Protocol, Query
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_ros.node import OrderlyNode

pytestmark = pytest.mark.integration

SLOW_S = 0.1


class SlowToNote:
    """An action client's handle that comes back late from sending, when the answer may be there already."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __getattr__(self, name: str) -> Any:
        inner = getattr(self._handle, name)
        if not name.startswith("send_"):
            return inner

        def send(*arguments: Any) -> Any:
            number = inner(*arguments)
            threading.Event().wait(SLOW_S)
            return number

        return send

    def __enter__(self) -> Any:
        return self._handle.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._handle.__exit__(*error)


def slowly(call: Callable[..., Any]) -> Callable[..., Any]:
    def late(*arguments: Any) -> Any:
        threading.Event().wait(SLOW_S)
        return call(*arguments)

    return late


class Servers(Node):
    """Follows trajectories and answers questions at once, or never; says at 20 Hz that the arm is at rest."""

    def __init__(self, context: Context) -> None:
        super().__init__("servers", namespace="/carm", context=context)
        self.endless = False
        self.reason = ""
        self.pace = 0.0
        self.goals = self.cancels = 0
        self.joints = self.create_publisher(JointState, "joint_states", 10)
        self.create_timer(0.05, self.tell)
        for kind, name in (
            (FollowJointTrajectory, "joint_trajectory_controller/follow_joint_trajectory"),
            (Localize, "localize"),
        ):
            ActionServer(
                self, kind, name, partial(self.run, kind), goal_callback=self.judge, cancel_callback=self.cancel
            )

    def tell(self) -> None:
        carm = CArm.from_config()
        message = JointState(name=list(carm.joint_names), position=carm.home.tolist(), velocity=[0.0] * 6)
        message.header.stamp = self.get_clock().now().to_msg()
        self.joints.publish(message)

    def judge(self, goal: object) -> GoalResponse:
        if not self.reason:
            return GoalResponse.ACCEPT
        self.get_logger().error(self.reason)
        return GoalResponse.REJECT

    def cancel(self, handle: object) -> CancelResponse:
        self.cancels += 1
        return CancelResponse.ACCEPT

    async def run(self, kind: Any, handle: Any) -> Any:
        self.goals += 1
        if self.endless:
            begun_s, told_s = time.monotonic(), 0.0
            while not handle.is_cancel_requested:
                await _next_turn(self.executor)
                along_s = self.pace * (time.monotonic() - begun_s)
                if along_s > 0.1:
                    handle.succeed()
                    return kind.Result()
                if along_s - told_s > 0.01:
                    told_s = along_s
                    feedback = kind.Feedback()
                    feedback.desired.time_from_start.nanosec = int(1e9 * along_s)
                    handle.publish_feedback(feedback)
            handle.canceled()
        else:
            handle.succeed()
        return kind.Result()


async def _next_turn(executor: Any) -> None:
    await executor.create_task(lambda: None)


class Bench:
    """A graph on an executor's thread of its own, the servers on another."""

    def __init__(self) -> None:
        self.context = Context()
        rclpy.init(context=self.context)
        self.servers = Servers(self.context)
        self.node = OrderlyNode("agent", namespace="/carm", context=self.context)
        self.carm = CArm.from_config()
        self.graph = CArmGraph(
            self.node, self.carm, AgentParameters(server_timeout_s=20.0, rest_timeout_s=5.0, motion_timeout_s=1.0)
        )
        for client in (self.graph.follow, self.graph.localize):
            client._client_handle = SlowToNote(client._client_handle)
            client.add_future = slowly(client.add_future)
        self.interrupt = self.graph.interrupt
        self.executors = []
        self.threads = []
        for node in (self.servers, self.node):
            executor = SingleThreadedExecutor(context=self.context)
            executor.add_node(node)
            self.executors.append(executor)
            self.threads.append(threading.Thread(target=self.spin, args=(executor,), daemon=True))
            self.threads[-1].start()

    def spin(self, executor: SingleThreadedExecutor) -> None:
        with contextlib.suppress(ExternalShutdownException):
            executor.spin()

    def trajectory(self) -> Trajectory:
        ends = np.array([self.carm.home, self.carm.home])
        return Trajectory(self.carm.joint_names, np.array([0.0, 0.1]), ends, np.zeros((2, 6)), np.zeros((2, 6)))

    def close(self) -> None:
        for executor in self.executors:
            executor.shutdown()
        for thread in self.threads:
            thread.join(5.0)
        rclpy.shutdown(context=self.context)


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.mark.filterwarnings("error:Unhandled exception in done callback")
def test_answers_that_come_at_once_are_not_lost(bench: Bench) -> None:
    arm = RosArm(bench.graph, bench.interrupt)
    localizer = RosLocalizer(bench.graph, bench.interrupt)
    frame = XrayFrame(np.zeros((8, 8), np.uint8), 1.0, 0.0, 0.0, 0.0, None)
    for _ in range(2):
        arm.execute(bench.trajectory())
        assert localizer.localize(frame, Query(Protocol.POINTING, 11)).error is None
    assert bench.servers.goals == 4


@pytest.mark.filterwarnings("error:Unhandled exception in done callback")
def test_a_cancel_reaches_a_controller_that_accepts_at_once(bench: Bench) -> None:
    bench.servers.endless = True
    timer = threading.Timer(3 * SLOW_S, bench.interrupt.cancel)
    timer.start()
    with pytest.raises(CanceledError):
        RosArm(bench.graph, bench.interrupt).execute(bench.trajectory())
    assert bench.servers.cancels == 1
    timer.join()


def test_the_reason_of_a_rejected_goal_is_that_of_the_controller_s_log(bench: Bench) -> None:
    bench.servers.reason = "Velocity of last trajectory point of joint lift is not zero: 0.1"
    with pytest.raises(RejectedTrajectoryError, match="refused the trajectory: Velocity of last"):
        RosArm(bench.graph, bench.interrupt).execute(bench.trajectory())


@pytest.mark.parametrize(("pace", "ends"), [(0.04, True), (0.0, False)])
def test_a_slowed_motion_is_waited_for_and_one_that_stands_is_not(bench: Bench, pace: float, ends: bool) -> None:
    bench.servers.endless, bench.servers.pace = True, pace
    arm = RosArm(bench.graph, bench.interrupt)
    if ends:
        arm.execute(bench.trajectory())
    else:
        with pytest.raises(MotionError, match="did not end"):
            arm.execute(bench.trajectory())
    assert bench.servers.cancels == (0 if ends else 1)


def test_nothing_is_sent_after_a_stop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even when the stop comes between the last look of the task and the executor's turn."""

    def stopped_meanwhile(node: Node, request: Callable[[], Future]) -> Future:
        bench.interrupt.stop()
        return ask(node, request)

    monkeypatch.setattr(ros_ports, "ask", stopped_meanwhile)
    with pytest.raises(StoppedError):
        RosArm(bench.graph, bench.interrupt).execute(bench.trajectory())
    assert bench.servers.goals == 0


def test_joint_states_of_which_one_cannot_be_true_end_the_task_and_are_not_used(bench: Bench) -> None:
    false = Node("stranger", namespace="/carm", context=bench.context)
    publisher = false.create_publisher(JointState, "joint_states", 10)
    wait(lambda: bench.graph.joint_states_known and publisher.get_subscription_count())
    before = bench.graph.joint_positions()
    names = list(bench.carm.joint_names)
    for value, speed in ((np.inf, np.inf), (1e308, 0.0), (np.nan, 0.0), (0.0, np.inf), (-1e6, 0.0)):
        publisher.publish(JointState(name=names, position=[value] * 6, velocity=[speed] * 6))
    publisher.publish(JointState(name=["x" * 70_000]))
    wait(lambda: bench.node.refusals.count("joint_states") == 6)
    np.testing.assert_array_equal(bench.graph.joint_positions(), before)
    with pytest.raises(LostPartError, match=r"cannot be trusted: position of cart_longitudinal = .*servers, stranger"):
        bench.interrupt.check()
    publisher.publish(JointState(name=names, position=(before + 0.3).tolist()))
    wait(lambda: not bench.graph.joint_states_known)
    with pytest.raises(NoJointStatesError, match="contradict"):
        bench.graph.joint_positions()
    wait(lambda: bench.graph.joint_states_known)
    with pytest.raises(NoJointStatesError, match="away from the image"):
        bench.graph.joint_positions(10**9)
    false.destroy_node()


def test_an_answer_that_comes_after_its_deadline_is_dropped(bench: Bench) -> None:
    class Woken:
        """Wakes up long after what it waited for: this process stood still."""

        tripped = False

        def notify(self) -> None:
            pass

        def wait_for(self, predicate: Callable[[], bool], timeout_s: float, *, uninterrupted: bool = False) -> bool:
            threading.Event().wait(timeout_s + ros_ports._LATE_S + 0.05)
            return True

    port = RosLocalizer(bench.graph, Woken())  # type: ignore[arg-type]
    answered: Future = Future()
    answered.set_result(1)
    assert not port._wait_future(answered, 0.05)
    assert RosLocalizer(bench.graph, bench.interrupt)._wait_future(answered, 0.05)


def wait(condition: Callable[[], Any]) -> None:
    deadline_s = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < deadline_s
        threading.Event().wait(0.01)
