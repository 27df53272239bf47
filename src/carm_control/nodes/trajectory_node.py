# SPDX-License-Identifier: Apache-2.0
"""What every node that moves the C-arm is to others: a trajectory controller, joint states, state, stop and reset.

The control loop runs on a thread of its own at a fixed rate, on the monotonic clock. It alone moves the arm and
publishes what moves. Goals are read in another process (``carm_control.nodes.goal_server``): stop, reset and the
supervisor's permission are all that this process hears.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from carm_interfaces.msg import CArmState, MotionPermit
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from carm_control import (
    ControllerParameters,
    ErrorCode,
    GoalOutcome,
    OperatingState,
    Permit,
    Snapshot,
    TrajectoryController,
)
from carm_control.nodes import messages
from carm_control.nodes.control_loop import (
    LONGEST_GAP_WITHOUT_REAL_TIME_S,
    ControlLoop,
    Schedule,
    at_real_time,
    raise_process_priority,
)
from carm_control.nodes.goal_link import MotionSide, Setup, fork_goal_side
from carm_control.nodes.goal_server import CONTROLLER, NAMESPACE, serve
from carm_control.nodes.permits import LONGEST_REASON, NEWEST, PERMIT
from carm_core.errors import CarmError, ConfigurationError, UnknownNameError
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import LinkPoses
from carm_core.robot.urdf import Variant, urdf
from carm_ros.node import END_S, OrderlyNode, run_node
from carm_ros.parameters import declare_parameters
from carm_ros.side_node import SideNode

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_EXECUTOR_THREADS = 4
_DEAF_S = 1.0
"""The arm holds when the process that serves goals was not heard for this long, s."""
_CYCLE_S = 0.05
_CLEARANCE_AGE_S = 0.5
"""A clearance older than this is unknown."""
_COLLECT_AFTER = 50
"""Full garbage collection after this many partial ones, 7000 new objects each."""
_SWITCH_INTERVAL_S = 0.0005


class GoalServerLostError(CarmError):
    """Nobody serves goals any more."""


class TrajectoryNode(OrderlyNode):
    """Trajectory controller of a C-arm, whatever moves its joints: everything that others see of it."""

    def __init__(self, name: str, parameters: type[ControllerParameters], link: MotionSide) -> None:
        """Declare parameters and start.

        Args:
            name: Name of the node.
            parameters: Its parameters.
            link: To the process that serves goals.

        Raises:
            CarmError: A parameter is not allowed, or what moves the joints cannot be started.
        """
        super().__init__(name, namespace=NAMESPACE)
        self._halted = threading.Event()
        self._link = link
        self._cycled_s, self._heard_s, self._deaf_s = time.monotonic(), 0.0, 0.0
        self._settings = _as_punctual(declare_parameters(self, parameters))
        self._carm = CArm.from_config(self._settings.carm_config or None)
        self._controller = self._make_controller()
        self._limits = self._controller.limits
        description = urdf(self._carm, Variant(frame_prefix=self._settings.frame_prefix))
        self._poses = LinkPoses(description)
        self._snapshot: Snapshot | None = None
        self._published_state: OperatingState | None = None
        self._clearance_m, self._clearance_s = math.nan, -math.inf
        rate = self._settings.control_rate_hz
        self._joint_states_due = Schedule(self._settings.joint_states_rate_hz, rate)
        self._state_due = Schedule(self._settings.state_rate_hz, rate)
        self._diagnostics_due = Schedule(1.0, rate)
        self._reported_s = time.monotonic()
        self._joint_states_sent = 0
        self._make_publishers(description)
        self._permits = SideNode(self, "permits")
        self._make_servers()
        self._loop = ControlLoop(rate, self._cycle, self._fail)
        self._loop.start()
        setup = Setup(self._settings, self._controller.checker, self.called)
        link.begin(
            self._controller, setup, lambda: self._snapshot, self.ending.is_set, self._report, self._on_link_lost
        )

    def close(self) -> None:
        """Stop the control loop."""
        self._halted.set()
        self._loop.close()
        self._permits.close()
        self._link.close()

    def started(self) -> None:
        """Leave full garbage collections, which hold up every thread, to the control loop: while the arm rests."""
        if not at_real_time():
            gap_s = self._settings.longest_gap_s
            self.get_logger().warning(f"no real-time priority: a stop latches only after a delay of {gap_s:g} s")
        gc.collect()
        gc.freeze()
        gc.set_threshold(700, 10, 10**6)

    def end_goals(self, reason: str) -> None:
        """Stop category 1: the arm decelerates to rest, then the goal is aborted."""
        self._controller.stop(reason)

    def has_ended(self) -> bool:
        """Return whether the arm rests and no goal is open."""
        snapshot = self._snapshot
        moves = snapshot is not None and snapshot.state in (OperatingState.MOVING, OperatingState.STOPPING)
        return (self._halted.is_set() or not moves) and not self._link.open_goals

    def _make_controller(self) -> TrajectoryController:
        """Create the drives and their controller."""
        raise NotImplementedError

    def _joints_known(self) -> bool:
        """Return whether the positions measured last are of now; where they are not, no joint states are published."""
        return True

    def _make_publishers(self, description: str) -> None:
        self._joint_states = self.create_publisher(JointState, "joint_states", 10)
        self._state = self.create_publisher(CArmState, "state", _LATCHED)
        self._tf = self.create_publisher(TFMessage, "/tf", 100)
        self._controller_state = self.create_publisher(
            JointTrajectoryControllerState, f"{CONTROLLER}/controller_state", 10
        )
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._tf_static = self.create_publisher(TFMessage, "/tf_static", _LATCHED)
        self._robot_description = self.create_publisher(String, "robot_description", _LATCHED)
        self._tf_static.publish(messages.transforms(self._poses.fixed, self.get_clock().now().to_msg()))
        self._robot_description.publish(String(data=description))

    def _make_servers(self) -> None:
        urgent = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, "stop", self._on_stop, callback_group=urgent)
        self.create_service(Trigger, "reset", self._on_reset, callback_group=MutuallyExclusiveCallbackGroup())
        permits = self._permits  # 25 a second: rclpy's executor of several threads would take most of a core for them
        permits.node.create_subscription(MotionPermit, permits.name_of(PERMIT), self._on_permit, NEWEST)
        permits.node.create_subscription(Float64, permits.name_of("clearance"), self._on_clearance, 1)
        permits.start()

    def _on_permit(self, message: MotionPermit) -> None:
        """Hold the supervisor's permission to move."""
        self._controller.permits.renew(Permit(message.speed, message.reason[:LONGEST_REASON]), time.monotonic())

    def _on_clearance(self, message: Float64) -> None:
        """Store the last clearance from the supervisor."""
        self._clearance_m, self._clearance_s = message.data, time.monotonic()

    def _cycle(self) -> None:
        now_s, stamp = time.monotonic(), self.get_clock().now().to_msg()
        snapshot = self._controller.step(now_s)
        self._watch_goal_server(now_s)
        self._snapshot = snapshot
        for outcome in snapshot.outcomes:
            self._link.put(outcome)
        if self._joint_states_due.due(now_s) and self._joints_known():
            position = snapshot.measured.position.tolist()
            self._joint_states_sent += 1
            self._joint_states.publish(messages.joint_state(self._limits.names, snapshot, stamp))
            poses = self._poses.moved(dict(zip(self._limits.names, position, strict=True)))
            self._tf.publish(messages.transforms(poses, stamp))
        if self._controller_state.get_subscription_count():
            self._controller_state.publish(messages.controller_state(self._limits.names, snapshot, stamp))
        if self._state_due.due(now_s) or snapshot.state is not self._published_state:
            self._published_state = snapshot.state
            clearance_m = self._clearance_m if now_s - self._clearance_s < _CLEARANCE_AGE_S else math.nan
            prefix = self._settings.frame_prefix
            self._state.publish(
                messages.operating_state(self._carm, self._limits, snapshot, stamp, clearance_m, prefix)
            )
        if self._diagnostics_due.due(now_s):
            self._publish_diagnostics(snapshot, stamp)
            resting = snapshot.state in (OperatingState.IDLE, OperatingState.STOPPED)
            if resting and gc.get_count()[2] > _COLLECT_AFTER:
                gc.collect()

    def _watch_goal_server(self, now_s: float) -> None:
        """Hold the arm when a cancel would not be heard; time in which this loop did not run does not count."""
        passed, self._cycled_s = now_s - self._cycled_s, now_s
        heard_s = self._link.heard_s
        self._deaf_s = 0.0 if heard_s != self._heard_s else self._deaf_s + min(passed, _CYCLE_S)
        self._heard_s = heard_s
        if self._deaf_s > _DEAF_S:
            self._controller.hold(f"goals are not served for {self._deaf_s:.1f} s: a cancel would not be heard")

    def _report(self, outcome: GoalOutcome) -> None:
        """Log how a goal ended; not on the control loop's thread, which the first line of a log holds up for long."""
        line = f"goal {outcome.goal_id} {outcome.status.value}: {outcome.message}"
        if outcome.code is ErrorCode.SUCCESSFUL:  # rclpy wants one severity per line of code
            self.get_logger().info(line)
        else:
            self.get_logger().warning(line)

    def _publish_diagnostics(self, snapshot: Snapshot, stamp: Any) -> None:
        loop = self._loop.report()
        period_s = max(time.monotonic() - self._reported_s, 1e-3)
        sent, self._joint_states_sent, self._reported_s = self._joint_states_sent, 0, time.monotonic()
        problem = f"{loop.missed} control cycles missed" if loop.missed else ""
        values = {
            "state": snapshot.state.name,
            "control rate (Hz)": f"{self._settings.control_rate_hz:g}",
            "measured control rate (Hz)": f"{loop.cycles / period_s:.1f}",
            "joint states (Hz)": f"{sent / period_s:.1f}",
            "real-time priority": "yes" if self._loop.real_time else "no",
            "cycles": str(loop.cycles),
            "missed cycles": str(loop.missed),
            "largest delay (ms)": f"{1e3 * loop.latest_s:.2f}",
            "longest cycle (ms)": f"{1e3 * loop.longest_s:.2f}",
        }
        name = f"{self.get_fully_qualified_name()}: control loop"
        self._diagnostics.publish(messages.health(name, problem, values, stamp))

    def _fail(self, error: Exception) -> None:
        self._halted.set()
        self.fail(error)

    def _on_link_lost(self) -> None:
        self._controller.stop("the process that serves goals ended")
        self._link.open_goals = 0
        self.fail(GoalServerLostError("the process that serves goals ended"))

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.stop()
        response.success, response.message = True, "decelerating to rest; reset releases the stop"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._controller.reset()
        return response


def _as_punctual(settings: ControllerParameters) -> ControllerParameters:
    """Return the settings with a gap of the control loop that this machine's scheduler allows to call a fault."""
    if at_real_time():
        return settings
    return replace(settings, longest_gap_s=max(settings.longest_gap_s, LONGEST_GAP_WITHOUT_REAL_TIME_S))


def run(
    name: str, make_node: Callable[[MotionSide], TrajectoryNode], arguments: list[str] | None, end_s: float = END_S
) -> int:
    """Run a node that moves the arm; see ``carm_ros.node.run_node``.

    Args:
        name: What its complaints begin with.
        make_node: Makes the node.
        arguments: ROS arguments; None: those of the process.
        end_s: The process is gone this long after the signal, s.
    """
    link = fork_goal_side(lambda side: serve(side, arguments))
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    raise_process_priority()
    blamed = (ConfigurationError, UnknownNameError)
    threads = _EXECUTOR_THREADS
    try:
        return run_node(name, lambda: make_node(link), arguments, threads=threads, bad_input=blamed, end_s=end_s)
    finally:
        link.close()
