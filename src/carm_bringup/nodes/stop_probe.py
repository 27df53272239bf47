# SPDX-License-Identifier: Apache-2.0
"""Keeps the arm moving, back and forth, and notes when it decelerates: what a stop is measured against.

It also asks for stops, as a client does, and floods the graph while it does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import rclpy
from carm_interfaces.msg import CArmState
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from carm_bringup.security.access import OPERATOR
from carm_core.robot.kinematics import CArm
from carm_ros.messages import duration_message, seconds
from carm_ros.middleware import prepare_middleware
from carm_ros.security import enclave_arguments

_ACTION = "joint_trajectory_controller/follow_joint_trajectory"
_JOINT, _FAR_RAD, _SPEED_RAD_S = "orbital", 0.8, 0.12
_RAMP_S = 1.0
_CRUISING = 0.98
"""Of the speed of the motion: from there on, the arm moves evenly."""
_SLOWER = 0.98
"""Of that of the fastest sample: the arm decelerates."""
_AGAIN_S = 0.3
_JOIN_S = 2.0


class StopProbe:
    """Moves one joint on a thread of its own.

    Attributes:
        cruising: Whether the joint moves evenly now.
        sent: How much of a flood was sent.
    """

    def __init__(self, namespace: str = "/carm") -> None:
        """Begin to move.

        Args:
            namespace: Of the graph.
        """
        prepare_middleware()
        carm = CArm.from_config()
        self._names = carm.joint_names
        rclpy.init(args=enclave_arguments(namespace, OPERATOR), signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("stop_probe", namespace=namespace)
        self._client = ActionClient(self._node, FollowJointTrajectory, _ACTION)
        self._node.create_subscription(JointState, "joint_states", self._on_joints, 10)
        self._services = {name: self._node.create_client(Trigger, name) for name in ("stop", "reset")}
        self._node.create_subscription(CArmState, "state", self._on_state, 10)
        self._words = self._node.create_publisher(String, "clinician", 10)
        self._node.create_timer(_AGAIN_S, self._go)
        self._position: dict[str, float] = {}
        self._busy, self._sign, self._top = False, 1.0, 0.0
        self.sent = 0
        self._flooding: deque[Any] = deque(maxlen=100)
        self._slowing: deque[float] = deque(maxlen=100)
        self._stopping: deque[tuple[float, float]] = deque(maxlen=100)
        self.cruising = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="stop probe", daemon=True)
        self._thread.start()

    def slowed_after(self, time_s: float) -> float | None:
        """Return the stamp of the first joint states that were slower, after a time (system time, s); None: not yet."""
        return next((stamp_s for stamp_s in tuple(self._slowing) if stamp_s > time_s), None)

    def stopping_after(self, time_s: float) -> float | None:
        """Return the stamp of the first state that came after a time and was ``STOPPING``; system time, s."""
        return next((stamp_s for came_s, stamp_s in tuple(self._stopping) if came_s > time_s), None)

    @property
    def ready(self) -> bool:
        """Whether stops can be asked for, by service and by word."""
        there = all(client.service_is_ready() for client in self._services.values())
        return there and self._words.get_subscription_count() > 0

    def ask(self, service: str) -> None:
        """Call ``stop`` or ``reset``; the answer is not waited for."""
        self._services[service].call_async(Trigger.Request())

    def say(self, sentence: str) -> None:
        """Say something to the agent."""
        self._words.publish(String(data=sentence))

    def flood(self, kind: str, rate_hz: float, until: threading.Event) -> None:
        """Send ``sentences``, ``goals`` or ``resets`` until an event is set; blocks.

        Goals are refused, since they would be too fast; resets are refused while the arm moves.
        """
        bad = [self._point(time_s, 0.7, 0.0) for time_s in (0.01 * k for k in range(1, 201))]
        goal = FollowJointTrajectory.Goal(trajectory=JointTrajectory(joint_names=list(self._names), points=bad))
        while rate_hz and not until.wait(1.0 / rate_hz):
            self.sent += 1
            if kind == "sentences":
                self.say("take a look at it")
            elif kind == "goals":
                self._flooding.append(goal)
            else:
                self.ask("reset")
        self.sent = 0

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join(_JOIN_S)
        rclpy.try_shutdown()

    def _spin(self) -> None:
        while not self._closing.is_set():
            try:
                rclpy.spin_once(self._node, timeout_sec=0.05)
                while self._flooding:  # on this thread: an action client is for one thread
                    self._client.send_goal_async(self._flooding.popleft())
            except ExternalShutdownException:
                return

    def _on_state(self, message: CArmState) -> None:
        if message.state in (CArmState.STATE_STOPPING, CArmState.STATE_STOPPED):
            self._stopping.append((time.time(), seconds(message.header.stamp)))

    def _on_joints(self, message: JointState) -> None:
        self._position = dict(zip(message.name, message.position, strict=True))
        speed = abs(message.velocity[list(message.name).index(_JOINT)])
        if self.cruising and speed < _SLOWER * self._top:
            self._slowing.append(seconds(message.header.stamp))
            self.cruising = False
        self._top = max(self._top, speed) if self._busy else 0.0
        self.cruising = self._busy and (
            self.cruising or (speed >= _CRUISING * _SPEED_RAD_S and self._rest_s() > 2 * _RAMP_S)
        )

    def _rest_s(self) -> float:
        """Return how long the motion goes on evenly."""
        return (_FAR_RAD - self._sign * self._position[_JOINT]) / _SPEED_RAD_S

    def _go(self) -> None:
        if self._busy or not self._position or not self._client.server_is_ready():
            return
        self._sign = -self._sign if self._sign * self._position[_JOINT] > 0 else self._sign
        begin, speed = self._position[_JOINT], self._sign * _SPEED_RAD_S
        far = self._sign * _FAR_RAD
        ramp = 0.5 * speed * _RAMP_S
        even_s = (far - begin - 2 * ramp) / speed
        course = (
            (0.0, begin, 0.0),
            (_RAMP_S, begin + ramp, speed),
            (_RAMP_S + even_s, far - ramp, speed),
            (2 * _RAMP_S + even_s, far, 0.0),
        )
        points = [self._point(*one) for one in course]
        goal = FollowJointTrajectory.Goal(trajectory=JointTrajectory(joint_names=list(self._names), points=points))
        self._busy, self._top = True, 0.0
        self._client.send_goal_async(goal).add_done_callback(self._accepted)

    def _point(self, time_s: float, position: float, speed: float) -> JointTrajectoryPoint:
        return JointTrajectoryPoint(
            positions=[position if name == _JOINT else self._position[name] for name in self._names],
            velocities=[speed if name == _JOINT else 0.0 for name in self._names],
            accelerations=[0.0] * len(self._names),
            time_from_start=duration_message(time_s),
        )

    def _accepted(self, future: Any) -> None:
        handle = future.result()
        if not handle.accepted:
            self._end()
            return
        handle.get_result_async().add_done_callback(lambda done: self._end())

    def _end(self) -> None:
        self._busy = self.cruising = False


def wait_for(condition: Callable[[], bool], patience_s: float) -> bool:
    """Return whether a condition is met in time."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.002)
    return True
