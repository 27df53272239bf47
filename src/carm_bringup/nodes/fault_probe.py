# SPDX-License-Identifier: Apache-2.0
"""A client of the trajectory controller for ``carm bench faults``: gives a goal, sends signals, notes what moves."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from builtin_interfaces.msg import Duration
from carm_interfaces.msg import MotionPermit
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTrajectoryControllerState
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from carm_bringup.benchmarks.faults.history import History
from carm_bringup.benchmarks.faults.scenario import Fault, Order, Scenario
from carm_core.errors import CarmError
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_ros.heartbeat import HeartbeatSender
from carm_ros.messages import seconds
from carm_ros.middleware import prepare_middleware

_START_S, _END_S = 60.0, 30.0
_SPACING_S = 0.035
"""Samples are so far apart, s: the noise of the encoders is no motion then."""
_SLOWER = 0.99


class ProbeError(CarmError):
    """The graph did not come up."""


def children(pid: int) -> list[int]:
    """Return the process ids of the children of a process."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


class FaultProbe:
    """A client that gives a goal, does what the scenario says, and records what the arm does."""

    def __init__(self, namespace: str, carm: CArm) -> None:
        """Join the graph.

        Args:
            namespace: Of the motion node.
            carm: The arm.
        """
        prepare_middleware()
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("fault_probe", namespace=namespace, context=self._context)
        self._carm, self.history = carm, History()
        self._begin_s = time.monotonic()
        self._samples: list[tuple[float, float, Array]] = []
        self._error = ""
        self._speed = 0.0
        self._commanded: list[tuple[float, float]] = []
        self._fastest = np.array([joint.velocity for joint in carm.joints])
        newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._node.create_subscription(JointState, "joint_states", self._on_joints, 50)
        self._node.create_subscription(MotionPermit, "supervisor/permit", self._on_permit, newest)
        self._node.create_subscription(
            JointTrajectoryControllerState, "joint_trajectory_controller/controller_state", self._on_reference, 50
        )
        self._follow = ActionClient(
            self._node, FollowJointTrajectory, "joint_trajectory_controller/follow_joint_trajectory"
        )
        self._stop = self._node.create_client(Trigger, "stop")
        self._heartbeats = HeartbeatSender(self._node, "fault_probe")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        while not self._closing.is_set():
            try:
                self._executor.spin_once(timeout_sec=0.05)
            except Exception as error:
                self._error = f"{type(error).__name__}: {error}"

    def close(self) -> None:
        """Leave the graph."""
        self._closing.set()
        self._thread.join()
        self._executor.shutdown()
        self._node.destroy_node()
        self._context.try_shutdown()

    def _now_s(self) -> float:
        self.history.now_s = time.monotonic() - self._begin_s
        return self.history.now_s

    def _on_joints(self, message: Any) -> None:

        order = [message.name.index(name) for name in self._carm.joint_names]
        place = np.array([message.position[k] for k in order])
        self._samples.append((seconds(message.header.stamp), self._now_s(), place))
        self._velocity = np.array([message.velocity[k] for k in order])

    def _on_reference(self, message: Any) -> None:
        order = [message.joint_names.index(name) for name in self._carm.joint_names]
        point = message.reference
        position, velocity, acceleration = (
            np.array([values[k] for k in order]) for values in (point.positions, point.velocities, point.accelerations)
        )
        self._commanded.append((self._now_s(), float(np.abs(velocity / self._fastest).max())))
        self.history.setpoints.append((seconds(message.header.stamp), position, velocity, acceleration))

    def deceleration_s(self) -> float | None:
        """Return the time from the request of a stop in a motion to the first slower setpoint, s; None without."""
        stops = [event.time_s for event in self.history.of("stop_sent")]
        before = [speed for time_s, speed in self._commanded if stops and time_s <= stops[0]]
        if not before or before[-1] < 0.05:
            return None
        last = before[-1]
        for time_s, speed in self._commanded:
            if time_s > stops[0]:
                if speed < _SLOWER * last:
                    return time_s - stops[0]
                last = max(last, speed)
        return None

    def _on_permit(self, message: Any) -> None:
        self._now_s()
        self._speed = message.speed
        self.history.note("permit", "", message.speed, message.reason)

    def _until(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        end_s = time.monotonic() + timeout_s
        pause = threading.Event()
        while not condition():
            if time.monotonic() > end_s:
                return False
            pause.wait(0.01)
        return True

    def run(self, drawn: Scenario, pids: dict[str, int]) -> tuple[History, list[str]]:
        """Run an episode; return what happened, and what did not end.

        Args:
            drawn: What happens.
            pids: Process ids of the nodes, by name.

        Raises:
            ProbeError: Nothing permits a motion, or the goal is refused.
        """
        ready = self._until(
            lambda: (
                bool(self._samples)
                and self._speed > 0
                and self._follow.server_is_ready()
                and self._stop.service_is_ready()
            ),
            _START_S,
        )
        if not ready:
            raise ProbeError("motion node and supervisor did not permit a motion in time")
        fault, order = drawn.faults[0], drawn.orders[0]
        handle, goal_id = self._give(order)
        begin_s = time.monotonic()
        self._until(lambda: time.monotonic() - begin_s >= fault.begin_s, fault.begin_s + 1.0)
        self._act(fault, pids, handle, goal_id)
        result = handle.get_result_async()
        gone = fault.kind == "death" and fault.target == "goal_server"
        ended = self._until(result.done, order.times_s[-1] + fault.duration_s + _END_S) or gone
        self._heartbeats.end(goal_id)
        self._now_s()
        if result.done():
            self.history.note("ended", "1", 0.0, str(result.result().status))
        still: list[float] = []
        self._until(lambda: self._rests(still), 5.0)
        self._place_samples()
        if self._error:
            raise ProbeError(f"the client failed: {self._error}")
        if len(self.history.setpoints) < 2:
            raise ProbeError("the controller published no setpoints")
        return self.history, [] if ended else ["the goal"]

    def _place_samples(self) -> None:
        """Put the samples on this process's clock: the message that came fastest tells how the clocks differ."""
        ahead_s = max(stamp_s - arrival_s for stamp_s, arrival_s, _ in self._samples)
        for stamp_s, _, place in self._samples:
            time_s = stamp_s - ahead_s
            if not self.history.times_s or time_s >= self.history.times_s[-1] + _SPACING_S:
                self.history.sample(time_s, place)

    def _rests(self, still: list[float]) -> bool:
        if float(np.abs(self._velocity).max()) > 0.002:
            still.clear()
            return False
        still.append(time.monotonic())
        return still[-1] - still[0] > 1.0

    def _give(self, order: Order) -> tuple[Any, Any]:
        zero, last_s = [0.0] * 6, order.times_s[-1]
        whole, rest = divmod(last_s, 1.0)
        point = JointTrajectoryPoint(
            positions=list(order.positions[-1]),
            velocities=zero,
            accelerations=zero,
            time_from_start=Duration(sec=int(whole), nanosec=int(rest * 1e9)),
        )
        trajectory = JointTrajectory(joint_names=list(self._carm.joint_names), points=[point])
        goal_id = self._heartbeats.begin()
        sent_s = self._now_s()
        sent = self._follow.send_goal_async(FollowJointTrajectory.Goal(trajectory=trajectory), goal_uuid=goal_id)
        if not self._until(sent.done, 10.0) or not sent.result().accepted:
            raise ProbeError("the controller did not accept the goal")
        self.history.note("accepted", "1", time_s=sent_s)
        self.history.note("given", "1", 0.0, "console_1", sent_s)
        self.history.note("heard", "console_1", time_s=sent_s)
        return sent.result(), goal_id

    def _act(self, fault: Fault, pids: dict[str, int], handle: Any, goal_id: Any) -> None:
        self._now_s()
        if fault.kind == "stop":
            self.history.note("stop_sent")
            sent_s = self._now_s()
            self._stop.call_async(Trigger.Request())
            self.history.note("stop", "pressed", time_s=sent_s)
        elif fault.kind == "cancel":
            self.history.note("cancel", "1")
            handle.cancel_goal_async()
        elif fault.target == "console":
            self.history.note(
                "dead" if fault.kind == "death" else "frozen", "console", self._now_s() + fault.duration_s
            )
            self._heartbeats.end(goal_id)
        else:
            self._signal(fault, pids)

    def _signal(self, fault: Fault, pids: dict[str, int]) -> None:
        core = pids["motion_node"]
        pid = {"core": core, "goal_server": (children(core) or [core])[0]}.get(fault.target, pids["supervisor_node"])
        self.history.note("dead" if fault.kind == "death" else "frozen", fault.target, self._now_s() + fault.duration_s)
        if fault.kind == "death":
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGSTOP)
        begin_s = time.monotonic()
        self._until(lambda: time.monotonic() - begin_s >= fault.duration_s, fault.duration_s + 1.0)
        os.kill(pid, signal.SIGCONT)
