# SPDX-License-Identifier: Apache-2.0
"""Serves goals to others in a process of its own: action, topic, queries, speed scaling.

The node has the name that the controller has under ros2_control, ``joint_trajectory_controller``.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from collections import OrderedDict
from typing import Any

from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import SpeedScalingFactor
from control_msgs.srv import QueryTrajectoryState
from rclpy.action import CancelResponse, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.qos import DurabilityPolicy, QoSProfile
from trajectory_msgs.msg import JointTrajectory

from carm_control import (
    Acceptance,
    CheckedTrajectory,
    ErrorCode,
    GoalOutcome,
    GoalRefusedError,
    GoalStatus,
    Snapshot,
)
from carm_control.nodes import messages
from carm_control.nodes.goal_link import MOST_DELAY_S, GoalSide, LinkClosedError, Setup
from carm_ros.heartbeat import HeartbeatMonitor
from carm_ros.messages import seconds
from carm_ros.node import OrderlyNode, run_node

CONTROLLER = "joint_trajectory_controller"
NAMESPACE = "carm"
"""Namespace when none is given."""

_THREADS = 6
_OUTCOMES_KEPT = 32
_COLLECT_AFTER = 50
"""Full garbage collection after this many partial ones, 7000 new objects each."""
_BUSY_S, _QUIET_S = 0.02, 0.1
"""Period of asking how the arm is doing, with and without open goals, s."""


class _Outcomes:
    """Ends of goals, for the threads that wait for them."""

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


class GoalServer(OrderlyNode):
    """Reads and checks goals, hands them to the process that moves the arm, and tells clients how they end."""

    def __init__(self, link: GoalSide, setup: Setup) -> None:
        """Serve from now on.

        Args:
            link: To the process that moves the arm.
            setup: From it.
        """
        super().__init__(CONTROLLER, namespace=NAMESPACE, start_parameter_services=False)
        self._link, self._checker, self._motion = link, setup.checker, setup.called
        self._settings = setup.settings
        self._snapshot: Snapshot | None = None
        self._outcomes = _Outcomes()
        self._accepted: dict[bytes, Acceptance] = {}
        self._checked: tuple[Any, CheckedTrajectory] | None = None
        self._halted, self._asks = threading.Event(), threading.Event()
        self._motion_ends = False
        self._beat_s, self._asking = math.inf, False
        self._trust_s = 0.0
        self._heartbeats = HeartbeatMonitor(self, self._settings.heartbeat_timeout_s, MutuallyExclusiveCallbackGroup())
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
                event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False),
            )
        self._served_s = time.monotonic()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_QUIET_S, self._on_served, goals, steady)
        threading.Thread(target=self._keep_up, name="progress", daemon=True).start()

    def refusal(self) -> str:
        """See ``OrderlyNode.refusal``."""
        return super().refusal() or (f"{self._motion} is shutting down" if self._motion_ends else "")

    def started(self) -> None:
        """Leave full garbage collections, which go through every point of a long goal, to quiet moments."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(700, 10, 10**6)

    def give_up(self) -> None:
        """See ``OrderlyNode.give_up``."""
        self._halted.set()
        self._outcomes.close()

    def close(self) -> None:
        """Release what waits."""
        self.give_up()

    def _keep_up(self) -> None:
        """Ask how the arm is doing until its process ends."""
        try:
            while not self._halted.is_set():
                self._beat()
                self._asks.wait(_BUSY_S if self._accepted else _QUIET_S)
                if not self._accepted and gc.get_count()[2] > _COLLECT_AFTER:
                    gc.collect()
                self._asks.clear()
        except LinkClosedError:
            self._halted.set()
            self._outcomes.close()
            self.ending.set()

    def _beat(self) -> None:
        now_s = time.monotonic()
        if now_s - self._beat_s > MOST_DELAY_S:
            self._trust_s = now_s + MOST_DELAY_S
        self._asking = True
        progress = self._link.progress(len(self._accepted), self._served_s)
        self._beat_s, self._asking = time.monotonic(), False
        self._snapshot, self._motion_ends = progress.snapshot, progress.ending
        for outcome in progress.outcomes:
            self._outcomes.put(outcome)
        for key, answer in tuple(self._accepted.items()):
            silence = self._heartbeats.missing(key, now_s)
            if silence and answer.goal_id is not None:
                self._link.hold(silence, answer.goal_id)

    def _on_served(self) -> None:
        """Note that cancels are heard: in this callback group they wait while a long goal is read."""
        self._served_s = time.monotonic()

    def _was_held_up(self) -> bool:
        """Return whether what comes now may have waited for long while this process was held up.

        While the process that moves the arm is held up this one is not; what waits for it is refused over there.
        """
        now_s = time.monotonic()
        return now_s < self._trust_s or (not self._asking and now_s - self._beat_s > MOST_DELAY_S)

    def _clock_s(self) -> float:
        return float(self.get_clock().now().nanoseconds) * 1e-9

    def _check(self, goal: Any) -> CheckedTrajectory:
        return self._checker.check(goal, time.monotonic(), self._clock_s())

    def _on_speed_scaling(self, message: SpeedScalingFactor) -> None:
        if not self._link.scale_speed(message.factor):
            self.get_logger().warning(
                f"speed scaling factor {message.factor} ignored: it must be a number from 0 (pause) to 1"
            )

    def _on_query(
        self, request: QueryTrajectoryState.Request, response: QueryTrajectoryState.Response
    ) -> QueryTrajectoryState.Response:
        state, response.message = self._link.query(seconds(request.time) - self._clock_s())
        response.success, response.name = not response.message, list(self._checker.limits.names)
        response.position, response.velocity, response.acceleration = (values.tolist() for values in state)
        return response

    def _on_trajectory(self, message: JointTrajectory) -> None:
        """Follow the trajectory; an active action goal continues with it, as in joint_trajectory_controller."""
        since_s = time.monotonic()
        if self._was_held_up():
            self.get_logger().error("trajectory refused: it waited while this process was held up")
            return
        try:
            answer = self._link.accept(self._check(messages.trajectory_goal(message)), since_s, replace=True)
        except GoalRefusedError as refusal:
            answer = Acceptance(refusal.code, str(refusal))
        if answer.goal_id is None:
            self.get_logger().error(f"trajectory refused, {answer.code.name}: {answer.message}")
        elif any(accepted.goal_id == answer.goal_id for accepted in list(self._accepted.values())):
            self.get_logger().info(f"goal {answer.goal_id} continues with a trajectory received by topic")

    def _on_goal(self, request: FollowJointTrajectory.Goal) -> GoalResponse:
        if self._was_held_up():
            self.get_logger().error("goal rejected: it waited while this process was held up; send it again")
            return GoalResponse.REJECT
        if not self._settings.reject_invalid_goals:
            return GoalResponse.ACCEPT
        try:
            checked = self._check(messages.action_goal(request))
            self._checked = (request, checked)
            answer = self._link.check(checked)
        except GoalRefusedError as refusal:
            answer = Acceptance(refusal.code, str(refusal))
        if answer.code is ErrorCode.SUCCESSFUL:
            return GoalResponse.ACCEPT
        self.get_logger().error(f"goal rejected, {answer.code.name}: {answer.message}")
        return GoalResponse.REJECT

    def _on_accepted(self, handle: ServerGoalHandle) -> None:
        since_s = time.monotonic()
        known, self._checked = self._checked, None
        try:
            here = known is not None and known[0] is handle.request
            checked = known[1] if known and here else self._check(messages.action_goal(handle.request))
            answer = self._link.accept(checked, since_s)
        except GoalRefusedError as refusal:
            answer = Acceptance(refusal.code, str(refusal))
        self._accepted[bytes(handle.goal_id.uuid)] = answer
        self._asks.set()
        handle.execute()

    def _on_cancel(self, handle: ServerGoalHandle) -> CancelResponse:
        """Accept the cancel, even if the goal is already ending: then it ends as it would have."""
        answer = self._accepted.get(bytes(handle.goal_id.uuid))
        if answer is None or answer.goal_id is None:
            return CancelResponse.REJECT
        self._link.cancel(answer.goal_id)
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
                handle.publish_feedback(messages.action_feedback(self._checker.limits.names, snapshot, stamp))
        return GoalOutcome(goal_id, GoalStatus.ABORTED, ErrorCode.INVALID_GOAL, f"{self._motion} ended")

    def _cancel_is_known(self, handle: ServerGoalHandle) -> bool:
        """Wait for rclpy to enter the canceling state, which follows the return of the cancel callback."""
        for _ in range(1000):
            if handle.is_cancel_requested:
                return True
            if self._halted.wait(0.001):
                break
        return bool(handle.is_cancel_requested)


def serve(link: GoalSide, arguments: list[str] | None) -> None:
    """Serve goals until the process that moves the arm ends.

    Args:
        link: To that process.
        arguments: ROS arguments of that process; None: those of the command line.
    """
    try:
        setup = link.setup()
    except LinkClosedError:
        return
    words = without_node_name(sys.argv if arguments is None else arguments)
    run_node("goal server", lambda: GoalServer(link, setup), words, threads=_THREADS, heed_signals=False)


def without_node_name(arguments: list[str]) -> list[str]:
    """Return ROS arguments without those that rename every node of the process."""
    kept: list[str] = []
    for word in arguments:
        if word.startswith("__node:=") and kept and kept[-1] in ("-r", "--remap"):
            kept.pop()
        elif not word.startswith("__node:="):
            kept.append(word)
    return kept
