# SPDX-License-Identifier: Apache-2.0
"""Keeps the arm moving, back and forth, and notes when it decelerates: what a stop is measured against."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import rclpy
from control_msgs.action import FollowJointTrajectory
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
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
        self._node.create_timer(_AGAIN_S, self._go)
        self._position: dict[str, float] = {}
        self._busy, self._sign, self._top = False, 1.0, 0.0
        self._slowing: deque[float] = deque(maxlen=100)
        self.cruising = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name="stop probe", daemon=True)
        self._thread.start()

    def slowed_after(self, time_s: float) -> float | None:
        """Return the stamp of the first joint states that were slower, after a time (system time, s); None: not yet."""
        return next((stamp_s for stamp_s in tuple(self._slowing) if stamp_s > time_s), None)

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join(_JOIN_S)
        rclpy.try_shutdown()

    def _spin(self) -> None:
        while not self._closing.is_set():
            try:
                rclpy.spin_once(self._node, timeout_sec=0.05)
            except ExternalShutdownException:
                return

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
