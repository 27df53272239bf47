# SPDX-License-Identifier: Apache-2.0
"""What every node that moves the C-arm is to others: a trajectory controller, joint states, state, stop and reset.

The control loop runs on a thread of its own at a fixed rate. It alone moves the arm and publishes what moves;
action and service callbacks only hand over goals and requests, and wait on other threads.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from carm_interfaces.msg import CArmState
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTrajectoryControllerState, SpeedScalingFactor
from control_msgs.srv import QueryTrajectoryState
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.action import CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory

from carm_control import (
    Acceptance,
    ControllerParameters,
    ErrorCode,
    GoalOutcome,
    GoalRefusedError,
    GoalStatus,
    OperatingState,
    Snapshot,
    TrajectoryController,
)
from carm_control.nodes import messages
from carm_control.nodes.control_loop import ControlLoop, Schedule, raise_process_priority
from carm_core.errors import ConfigurationError, UnknownNameError
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import LinkPoses
from carm_core.robot.urdf import Variant, urdf
from carm_ros.messages import seconds
from carm_ros.node import END_S, OrderlyNode, run_node
from carm_ros.parameters import declare_parameters

CONTROLLER = "joint_trajectory_controller"
NAMESPACE = "carm"
"""Namespace when none is given."""

_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_EXECUTOR_THREADS = 6
_CLEARANCE_AGE_S = 0.5
"""A clearance older than this is unknown."""
_OUTCOMES_KEPT = 32
_COLLECT_AFTER = 50
"""Full garbage collection after this many partial ones, 7000 new objects each."""
_SWITCH_INTERVAL_S = 0.0005


class _Outcomes:
    """Ends of goals, handed from the control loop to the threads that wait for them."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._outcomes: OrderedDict[int, GoalOutcome] = OrderedDict()
        self._closed = False

    def put(self, outcome: GoalOutcome) -> None:
        """Keep an outcome; of the unclaimed ones only the newest stay."""
        with self._arrived:
            self._outcomes[outcome.goal_id] = outcome
            while len(self._outcomes) > _OUTCOMES_KEPT:
                self._outcomes.popitem(last=False)
            self._arrived.notify_all()

    def wait(self, goal_id: int, timeout_s: float) -> GoalOutcome | None:
        """Return the outcome of a goal, or None when it did not end in time, s."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._closed or goal_id in self._outcomes, timeout_s)
            return self._outcomes.pop(goal_id, None)

    def close(self) -> None:
        """Wake all waiting threads."""
        with self._arrived:
            self._closed = True
            self._arrived.notify_all()


class TrajectoryNode(OrderlyNode):
    """Trajectory controller of a C-arm, whatever moves its joints: everything that others see of it."""

    def __init__(self, name: str, parameters: type[ControllerParameters]) -> None:
        """Declare parameters and start.

        Args:
            name: Name of the node.
            parameters: Its parameters.

        Raises:
            CarmError: A parameter is not allowed, or what moves the joints cannot be started.
        """
        super().__init__(name, namespace=NAMESPACE)
        self._halted = threading.Event()
        self._settings = declare_parameters(self, parameters)
        self._carm = CArm.from_config(self._settings.carm_config or None)
        self._controller = self._make_controller()
        self._limits = self._controller.limits
        description = urdf(self._carm, Variant(frame_prefix=self._settings.frame_prefix))
        self._poses = LinkPoses(description)
        self._snapshot: Snapshot | None = None
        self._published_state: OperatingState | None = None
        self._clearance_m, self._clearance_s = math.nan, -math.inf
        self._outcomes = _Outcomes()
        self._accepted: dict[bytes, Acceptance] = {}
        rate = self._settings.control_rate_hz
        self._joint_states_due = Schedule(self._settings.joint_states_rate_hz, rate)
        self._state_due = Schedule(self._settings.state_rate_hz, rate)
        self._diagnostics_due = Schedule(1.0, rate)
        self._reported_s = time.monotonic()
        self._joint_states_sent = 0
        self._make_publishers(description)
        self._make_servers()
        self._loop = ControlLoop(rate, self._cycle, self._fail)
        self._loop.start()

    def close(self) -> None:
        """Stop the control loop and release what waits."""
        self._halted.set()
        self._loop.close()
        self._outcomes.close()

    def started(self) -> None:
        """Leave full garbage collections, which hold up every thread, to the control loop: while the arm rests."""
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
        return (self._halted.is_set() or not moves) and super().has_ended()

    def give_up(self) -> None:
        """See ``OrderlyNode.give_up``."""
        self._halted.set()
        self._outcomes.close()

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
        self.create_service(Trigger, "reset", self._on_reset, callback_group=urgent)
        goals = MutuallyExclusiveCallbackGroup()
        self._action = self.serve_action(
            FollowJointTrajectory,
            f"{CONTROLLER}/follow_joint_trajectory",
            self._execute,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
            callback_group=goals,
        )
        self.create_subscription(
            JointTrajectory, f"{CONTROLLER}/joint_trajectory", self._on_trajectory, 10, callback_group=goals
        )
        self.create_service(QueryTrajectoryState, f"{CONTROLLER}/query_state", self._on_query, callback_group=goals)
        for durability in (DurabilityPolicy.TRANSIENT_LOCAL, DurabilityPolicy.VOLATILE):
            self.create_subscription(  # the latched factor of a publisher, and the word of one that latches nothing
                SpeedScalingFactor,
                f"{CONTROLLER}/speed_scaling_input",
                self._on_speed_scaling,
                QoSProfile(depth=1, durability=durability),
                callback_group=urgent,
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
        self.create_subscription(Float64, "clearance", self._on_clearance, 1)

    def _on_clearance(self, message: Float64) -> None:
        """Store the last clearance from the agent."""
        self._clearance_m, self._clearance_s = message.data, self._now_s()

    def _now_s(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _cycle(self) -> None:
        now = self.get_clock().now()
        now_s, stamp = float(now.nanoseconds) * 1e-9, now.to_msg()
        snapshot = self._controller.step(now_s)
        self._snapshot = snapshot
        for outcome in snapshot.outcomes:
            self._outcomes.put(outcome)
            self._report(outcome)
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

    def _report(self, outcome: GoalOutcome) -> None:
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
            "cycles": str(loop.cycles),
            "missed cycles": str(loop.missed),
            "largest delay (ms)": f"{1e3 * loop.latest_s:.2f}",
            "longest cycle (ms)": f"{1e3 * loop.longest_s:.2f}",
        }
        name = f"{self.get_fully_qualified_name()}: control loop"
        self._diagnostics.publish(messages.health(name, problem, values, stamp))

    def _fail(self, error: Exception) -> None:
        self._halted.set()
        self._outcomes.close()
        self.fail(error)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._controller.stop()
        response.success, response.message = True, "decelerating to rest; reset releases the stop"
        return response

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._controller.reset()
        return response

    def _on_speed_scaling(self, message: SpeedScalingFactor) -> None:
        if not self._controller.scale_speed(message.factor):
            self.get_logger().warning(
                f"speed scaling factor {message.factor} ignored: it must be a number from 0 (pause) to 1"
            )

    def _on_query(
        self, request: QueryTrajectoryState.Request, response: QueryTrajectoryState.Response
    ) -> QueryTrajectoryState.Response:
        state, response.message = self._controller.query(seconds(request.time) - self._now_s())
        response.success, response.name = not response.message, list(self._limits.names)
        response.position, response.velocity, response.acceleration = (values.tolist() for values in state)
        return response

    def _on_trajectory(self, message: JointTrajectory) -> None:
        """Follow the trajectory; an active action goal continues with it, as in joint_trajectory_controller."""
        answer = self._controller.accept(messages.trajectory_goal(message), self._now_s(), replace=True)
        if answer.goal_id is None:
            self.get_logger().error(f"trajectory refused, {answer.code.name}: {answer.message}")
        elif any(accepted.goal_id == answer.goal_id for accepted in list(self._accepted.values())):
            self.get_logger().info(f"goal {answer.goal_id} continues with a trajectory received by topic")

    def _on_goal(self, request: FollowJointTrajectory.Goal) -> GoalResponse:
        if not self._settings.reject_invalid_goals:
            return GoalResponse.ACCEPT
        try:
            answer = self._controller.check(messages.action_goal(request), self._now_s())
        except GoalRefusedError as refusal:
            answer = Acceptance(refusal.code, str(refusal))
        if answer.code is ErrorCode.SUCCESSFUL:
            return GoalResponse.ACCEPT
        self.get_logger().error(f"goal rejected, {answer.code.name}: {answer.message}")
        return GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        try:
            answer = self._controller.accept(messages.action_goal(handle.request), self._now_s())
        except GoalRefusedError as refusal:
            answer = Acceptance(refusal.code, str(refusal))
        self._accepted[bytes(handle.goal_id.uuid)] = answer
        handle.execute()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Accept the cancel, even if the goal is already ending: then it ends as it would have."""
        answer = self._accepted.get(bytes(handle.goal_id.uuid))
        if answer is None or answer.goal_id is None:
            return CancelResponse.REJECT
        self._controller.cancel(answer.goal_id)
        return CancelResponse.ACCEPT

    def _execute(self, handle: ServerGoalHandle) -> FollowJointTrajectory.Result:
        """Wait for the end of a goal on a thread of the executor, and report its progress."""
        key = bytes(handle.goal_id.uuid)
        answer = self._accepted[key]
        try:
            if answer.goal_id is None:
                self.get_logger().error(f"goal refused, {answer.code.name}: {answer.message}")
                handle.abort()
                return messages.action_result(answer)
            outcome = self._follow(handle, answer.goal_id)
        finally:
            del self._accepted[key]
        if outcome.status is GoalStatus.SUCCEEDED:
            handle.succeed()
        elif outcome.status is GoalStatus.CANCELED and self._cancel_is_known(handle):
            handle.canceled()
        else:
            handle.abort()
        return messages.action_result(outcome)

    def _follow(self, handle: ServerGoalHandle, goal_id: int) -> GoalOutcome:
        period_s = 1.0 / self._settings.action_monitor_rate_hz
        while not self._halted.is_set():
            outcome = self._outcomes.wait(goal_id, period_s)
            if outcome is not None:
                return outcome
            snapshot = self._snapshot
            if snapshot is not None and snapshot.goal_id == goal_id:
                stamp = self.get_clock().now().to_msg()
                handle.publish_feedback(messages.action_feedback(self._limits.names, snapshot, stamp))
        return GoalOutcome(goal_id, GoalStatus.ABORTED, ErrorCode.INVALID_GOAL, f"{self.called} ended")

    def _cancel_is_known(self, handle: ServerGoalHandle) -> bool:
        """Wait for rclpy to enter the canceling state, which follows the return of the cancel callback."""
        for _ in range(1000):
            if handle.is_cancel_requested:
                return True
            if self._halted.wait(0.001):
                break
        return bool(handle.is_cancel_requested)


def run(name: str, make_node: Callable[[], TrajectoryNode], arguments: list[str] | None, end_s: float = END_S) -> int:
    """Run a node that moves the arm; see ``carm_ros.node.run_node``.

    Args:
        name: What its complaints begin with.
        make_node: Makes the node.
        arguments: ROS arguments; None: those of the process.
        end_s: The process is gone this long after the signal, s.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    raise_process_priority()
    blamed = (ConfigurationError, UnknownNameError)
    return run_node(name, make_node, arguments, threads=_EXECUTOR_THREADS, bad_input=blamed, end_s=end_s)
