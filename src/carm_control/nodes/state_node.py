# SPDX-License-Identifier: Apache-2.0
"""State node: ``state``, ``stop``, ``reset``, ``/tf``, ``robot_description`` for motors with a controller of their own.

It watches joint states and the goals of any FollowJointTrajectory server. Stop cancels all its goals, and those that
come until ``reset``; so does an end of the joint states, and the end of this node. Without the supervisor's permission
goals are canceled too.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus, GoalStatusArray
from action_msgs.srv import CancelGoal
from carm_interfaces.msg import CArmState, MotionPermit
from control_msgs.msg import SpeedScalingFactor
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_action_status_default
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from carm_control import JointLimits, OperatingState, Permit
from carm_control.arm_monitor import ArmMonitor, StateParameters
from carm_control.nodes import messages
from carm_control.nodes.permits import LONGEST_REASON, NEWEST, PERMIT
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import LinkPoses
from carm_core.robot.urdf import Variant, urdf
from carm_ros.entry import leave
from carm_ros.node import OrderlyNode, run_node
from carm_ros.parameters import declare_parameters, follow_parameters

NAMESPACE = "carm"
"""Namespace when none is given."""

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_ACTIVE = (GoalStatus.STATUS_ACCEPTED, GoalStatus.STATUS_EXECUTING, GoalStatus.STATUS_CANCELING)
_CLEARANCE_AGE_S = 0.5


class StateNode(OrderlyNode):
    """Says what the arm is doing, and stops it."""

    def __init__(self, **node_arguments: Any) -> None:
        """Declare parameters and begin to watch.

        Args:
            **node_arguments: Passed to ``OrderlyNode``.

        Raises:
            CarmError: A parameter is not allowed.
        """
        super().__init__("state_node", **{"namespace": NAMESPACE, **node_arguments})
        self._settings = declare_parameters(self, StateParameters)
        self._carm = CArm.from_config(self._settings.carm_config or None)
        self._limits = JointLimits.of(self._carm.joints)
        self._monitor = ArmMonitor(self._carm, self._settings)
        self._state = OperatingState.STARTING
        self._stamp: Any = None
        self._clearance_m, self._clearance_s = math.nan, -math.inf
        self._received, self._incomplete, self._cancels = 0, 0, 0
        self._publisher = self.create_publisher(CArmState, "state", _LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._poses: LinkPoses | None = None
        if self._settings.publish_description:
            self._describe()
        action = f"{self._settings.controller}/follow_joint_trajectory/_action"
        self._cancel = self.create_client(CancelGoal, f"{action}/cancel_goal")
        self.create_subscription(GoalStatusArray, f"{action}/status", self._on_goals, qos_profile_action_status_default)
        self.create_subscription(JointState, "joint_states", self._on_joints, 10)
        self.create_subscription(Float64, "clearance", self._on_clearance, 1)
        self.create_subscription(MotionPermit, PERMIT, self._on_permit, NEWEST)
        scaling = f"{self._settings.controller}/speed_scaling_input"
        self._scaling = self.create_publisher(SpeedScalingFactor, scaling, _LATCHED)  # JTC hears no other publisher
        self._scaled = 1.0
        self.create_service(Trigger, "stop", self._on_stop)
        self.create_service(Trigger, "reset", self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a paused simulation must not pause the supervision
        self.create_timer(1.0 / self._settings.state_rate_hz, self._watch, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        follow_parameters(self, self._settings, self._take_over)

    def _describe(self) -> None:
        description = urdf(self._carm, Variant(frame_prefix=self._settings.frame_prefix))
        self._poses = LinkPoses(description)
        self._tf = self.create_publisher(TFMessage, "/tf", 100)
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", _LATCHED)
        self._description = self.create_publisher(String, "robot_description", _LATCHED)
        self._tf_static.publish(messages.transforms(self._poses.fixed, self.get_clock().now().to_msg()))
        self._description.publish(String(data=description))

    def _on_joints(self, message: JointState) -> None:
        places = {name: place for place, name in enumerate(message.name)}
        try:
            order = [places[name] for name in self._carm.joint_names]
            positions = np.array([message.position[place] for place in order])
            velocities = np.array([message.velocity[place] for place in order]) if message.velocity else np.zeros(6)
        except (KeyError, IndexError):
            self._incomplete += 1
            return
        if not (np.isfinite(positions).all() and np.isfinite(velocities).all()):
            self._incomplete += 1
            return
        self._received += 1
        self._stamp = message.header.stamp
        self._monitor.observe(positions, velocities, time.monotonic())
        if self._poses is not None:
            poses = self._poses.moved(dict(zip(self._carm.joint_names, positions.tolist(), strict=True)))
            self._tf.publish(messages.transforms(poses, self._stamp))

    def _on_goals(self, message: GoalStatusArray) -> None:
        self._monitor.goals(any(status.status in _ACTIVE for status in message.status_list))
        if self._monitor.must_cancel(time.monotonic()):
            self.cancel_all()

    def _on_clearance(self, message: Float64) -> None:
        self._clearance_m, self._clearance_s = message.data, time.monotonic()

    def _on_permit(self, message: MotionPermit) -> None:
        """Hold the supervisor's permission; cancel what it forbids, slow down what it slows, where that is possible."""
        now_s = time.monotonic()
        self._monitor.permits.renew(Permit(message.speed, message.reason[:LONGEST_REASON]), now_s)
        if self._monitor.must_cancel(now_s):
            self.cancel_all()
        speed = self._monitor.permit(now_s).speed
        if speed > 0 and (speed < 1 or self._scaled < 1):
            self._scaled = speed
            self._scaling.publish(SpeedScalingFactor(factor=speed))

    def cancel_all(self) -> None:
        """Ask the controller to cancel every goal."""
        if self._cancel.service_is_ready():
            self._cancels += 1
            self._cancel.call_async(CancelGoal.Request())

    @property
    def at_rest(self) -> bool:
        """Whether nothing moves, as far as is known."""
        return self._monitor.judge(time.monotonic())[0] not in (OperatingState.MOVING, OperatingState.STOPPING)

    def stop(self, reason: str) -> None:
        """Latch a stop and cancel every goal."""
        self._monitor.stop(reason)
        self.cancel_all()
        self._watch()

    def end_goals(self, reason: str) -> None:
        """See ``OrderlyNode.end_goals``."""
        if not self.at_rest:
            self.stop(reason)

    def has_ended(self) -> bool:
        """See ``OrderlyNode.has_ended``."""
        return self.at_rest and super().has_ended()

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.stop("stop was pressed")
        response.success = self._cancel.service_is_ready()
        response.message = "canceling every goal; reset releases the stop"
        if not response.success:
            response.message = f"latched, but controller {self._settings.controller} does not answer"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._monitor.reset(time.monotonic())
        return response

    def _take_over(self, settings: StateParameters) -> None:
        self._settings = self._monitor.settings = settings

    def _watch(self) -> None:
        """Publish what the arm is doing; cancel what a stop forbids."""
        now_s = time.monotonic()
        state, reason = self._monitor.judge(now_s)
        if self._monitor.must_cancel(time.monotonic()):
            self.cancel_all()
        if state is not self._state and state in (OperatingState.FAULT, OperatingState.STOPPED):
            self.get_logger().warning(f"{state.name.lower()}: {reason}")
        self._state = state
        message = CArmState(state=int(state), message=reason, clearance=math.nan)
        if now_s - self._clearance_s < _CLEARANCE_AGE_S:
            message.clearance = self._clearance_m
        message.header.frame_id = f"{self._settings.frame_prefix}table"
        positions = self._monitor.positions
        if positions is not None:
            message.header.stamp = self._stamp
            message.primary_angle, message.secondary_angle = self._carm.angles(positions)
            x, y, z = (float(value) for value in self._carm.isocenter(positions))
            message.isocenter = Point(x=x, y=y, z=z)
            message.limits_hit = list(self._limits.reached(positions))
        self._publisher.publish(message)

    def _publish_diagnostics(self) -> None:
        state, reason = self._monitor.judge(time.monotonic())
        controller_there = self._cancel.service_is_ready()
        problem = reason if state in (OperatingState.STARTING, OperatingState.FAULT) else ""
        if not controller_there:
            problem = problem or f"no trajectory controller {self._settings.controller}"
        values = {
            "state": state.name,
            "joint states (Hz)": str(self._received),
            "joint states do not name all joints": str(self._incomplete),
            "trajectory controller": "ok" if controller_there else "missing",
            "cancel requests": str(self._cancels),
        }
        self._received = 0
        name = f"{self.get_fully_qualified_name()}: arm"
        stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(messages.health(name, problem, values, stamp))


def main(arguments: list[str] | None = None) -> int:
    """Run the state node; what still moves at its end is canceled. See ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    return run_node("state_node", StateNode, arguments)


if __name__ == "__main__":
    leave(main())
