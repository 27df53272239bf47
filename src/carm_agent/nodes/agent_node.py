# SPDX-License-Identifier: Apache-2.0
"""The agent node: ``navigate``, ``move``, the clinician's words, and what is said in answer.

The executor's one thread never waits: tasks run on threads of their own (``carm_agent.nodes.task_runner``), and an
action's coroutine resumes when its task has ended.
"""

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from carm_interfaces.action import MoveCArm, Navigate
from carm_interfaces.msg import Utterance
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.action import ActionServer, CancelResponse
from rclpy.clock import Clock, ClockType

from carm_agent import phrases
from carm_agent.navigation.task import NavigationCode, NavigationResult, Progress
from carm_agent.nodes.clinician import Clinician
from carm_agent.nodes.conversions import (
    move_goal,
    move_result,
    navigation_feedback,
    navigation_goal,
    navigation_result,
)
from carm_agent.nodes.environment import Surroundings, make_planner
from carm_agent.nodes.readiness import ReadinessGate
from carm_agent.nodes.ros_ports import CArmGraph
from carm_agent.nodes.task_runner import TaskRunner
from carm_agent.parameters import AgentParameters
from carm_agent.planning.move import MoveCode, MoveResult
from carm_agent.ports import Interrupt
from carm_core.errors import CarmError
from carm_core.robot.kinematics import CArm
from carm_ros.entry import leave
from carm_ros.heartbeat import TASK_TIMEOUT_S, HeartbeatMonitor
from carm_ros.managed import ManagedNode
from carm_ros.messages import diagnostics
from carm_ros.node import run_node
from carm_ros.parameters import declare_parameters, follow_parameters

_WATCH_S = 0.2
_WATCH_TASK_S = 0.1
_DIAGNOSTICS_S = 0.95


class AgentNode(ManagedNode):
    """Brings landmarks to the image center, moves the arm, and talks about it."""

    def __init__(self, **node_arguments: Any) -> None:
        """Start the node, in namespace ``/carm`` unless remapped.

        Args:
            **node_arguments: Passed to ``ManagedNode``.

        Raises:
            ConfigurationError: A parameter is out of range.
        """
        super().__init__("agent_node", **{"namespace": "/carm", **node_arguments})
        settings = declare_parameters(self, AgentParameters)
        self.autostart = settings.autostart
        planner = make_planner(CArm.from_config(), settings)
        self._dialogue = self.create_publisher(Utterance, "agent/dialogue", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._graph = CArmGraph(self, planner.carm, settings)
        self._surroundings = Surroundings(self, self._graph, planner)
        self._gate = ReadinessGate(self, self._graph, self._surroundings)
        self._runner = TaskRunner(self._graph, self._surroundings, self.say, self._gate.refusal)
        self._clinician = Clinician(self, self._runner)
        self._heartbeats = HeartbeatMonitor(self, TASK_TIMEOUT_S)
        self._goal_id = b""
        self._missing: tuple[str, ...] | None = None
        self._told_s = -math.inf
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(_WATCH_S, self._watch_parts, clock=steady)
        self.create_timer(_WATCH_TASK_S, self._watch_task, clock=steady)
        follow_parameters(self, settings, self._take_over, self._busy)
        self._servers = [
            self._serve(Navigate, "navigate", self._execute_navigate),
            self._serve(MoveCArm, "move", self._execute_move),
        ]

    def _serve(self, kind: Any, name: str, execute: Callable[[Any], Any]) -> ActionServer:
        return self.serve_action(kind, name, execute, cancel_callback=self._on_cancel)

    def end_goals(self, reason: str) -> None:
        """See ``OrderlyNode.end_goals``."""
        self._clinician.drop_queued()
        self._runner.interrupt(reason)

    def has_ended(self) -> bool:
        """See ``OrderlyNode.has_ended``."""
        return not self._runner.busy and super().has_ended()

    def give_up(self) -> None:
        """Abort the goal of a task that does not end; what it began to move is not known to rest."""
        self._runner.give_up(f"{self.called} is shutting down and did not hear that the arm came to rest")

    def close(self) -> None:
        """See ``OrderlyNode.close``."""
        self._clinician.close()

    def destroy_node(self) -> None:
        """See ``rclpy.node.Node``."""
        self._clinician.close()
        super().destroy_node()

    async def come_to_rest(self) -> None:
        """See ``ManagedNode.come_to_rest``."""
        await self._runner.all_ended()
        await self.all_goals_ended()

    def state_changed(self) -> None:
        """Tell others at once."""
        self._missing = None
        if self.executor is not None:
            self.executor.create_task(self._watch_parts)

    def _on_cancel(self, goal_handle: Any) -> CancelResponse:
        if getattr(goal_handle, "carm_runs", False):
            self._runner.interrupt("canceled by the client")
        return CancelResponse.ACCEPT

    def _busy(self, _: AgentParameters) -> str:
        """Return why parameters cannot change now; empty between two tasks."""
        return f"a task runs ({self._runner.task}): change parameters between tasks" if self._runner.busy else ""

    def _take_over(self, settings: AgentParameters) -> None:
        self._surroundings.take_over(settings)
        self._graph.parameters = settings

    # Actions

    async def _execute_navigate(self, goal_handle: Any) -> Any:
        if self._runner.busy:
            busy = NavigationResult(NavigationCode.BUSY, f"another task runs: {self._runner.task}")
            return _end(goal_handle, busy.error_code, NavigationCode, navigation_result(busy))

        def report(progress: Progress) -> None:
            goal_handle.publish_feedback(navigation_feedback(progress))
            self._runner.tell(progress)

        try:
            goal = navigation_goal(goal_handle.request)
        except CarmError as error:
            refused = NavigationResult(NavigationCode.INVALID_GOAL, str(error), summary=f"I did not start: {error}.")
            return _end(goal_handle, refused.error_code, NavigationCode, navigation_result(refused))
        try:
            landmark = goal.landmark()
            description = f"bringing {phrases.called(landmark)} to the image center"
            self._clinician.conversation.target_is(landmark.id or None)  # a point of the CT has no other side
        except CarmError:
            description = "navigating"
        work = partial(self._runner.navigate, goal, report=report)
        result, failure = await self._run(goal_handle, description, work)
        if failure:
            self.get_logger().error(f"navigate failed: {failure}")
            summary = "I gave up because of an internal error; make sure that the arm stands still."
            result = NavigationResult(NavigationCode.INTERNAL, failure, summary=summary)
        self.say(Utterance.KIND_RESULT, result.summary, result.error_msg)
        return _end(goal_handle, result.error_code, NavigationCode, navigation_result(result))

    async def _execute_move(self, goal_handle: Any) -> Any:
        try:
            goal = move_goal(goal_handle.request)
        except CarmError as error:
            refused = MoveResult(MoveCode.INVALID_GOAL, str(error))
            return _end(goal_handle, refused.error_code, MoveCode, move_result(refused))
        if self._runner.busy:
            busy = MoveResult(MoveCode.BUSY, f"another task runs: {self._runner.task}")
            return _end(goal_handle, busy.error_code, MoveCode, move_result(busy))

        def tell(stage: str, progress: float = 0.0) -> None:
            goal_handle.publish_feedback(MoveCArm.Feedback(stage=stage, progress=progress))

        result, failure = await self._run(goal_handle, "moving", partial(self._runner.move, goal, tell=tell))
        if failure:
            self.get_logger().error(f"move failed: {failure}")
            result = MoveResult(MoveCode.INTERNAL, failure)
        return _end(goal_handle, result.error_code, MoveCode, move_result(result, self._graph.carm))

    async def _run(self, goal_handle: Any, description: str, work: Callable[[Interrupt], Any]) -> tuple[Any, str]:
        """Run the task of a goal; return its result, and what went wrong inside it."""
        goal_handle.carm_runs = True
        ended = self._runner.begin(description, work)
        if goal_handle.is_cancel_requested:
            self._runner.interrupt("canceled by the client")
        self._goal_id = goal_id = bytes(goal_handle.goal_id.uuid)
        result, error = await ended
        if self._goal_id == goal_id:
            self._goal_id = b""
        return result, "" if error is None else f"{type(error).__name__}: {error}"

    # Dialogue

    def say(self, kind: int, text: str, reason: str = "", in_reply_to: str = "") -> None:
        """Say something to the clinician.

        Args:
            kind: One of ``Utterance.KIND_*``.
            text: One sentence or two.
            reason: why.
            in_reply_to: The clinician's words that it answers.
        """
        text, reason = phrases.printable(text), phrases.printable(reason)
        utterance = Utterance(kind=kind, text=text, reason=reason, in_reply_to=in_reply_to)
        utterance.header.stamp = self.get_clock().now().to_msg()
        self._dialogue.publish(utterance)
        self.get_logger().info(text)

    def _watch_task(self) -> None:
        """End the running task when who asked for it, or what it depends on, is gone."""
        interrupt = self._graph.interrupt
        if not self._runner.busy or interrupt.tripped:
            return
        silent = self._heartbeats.missing(self._goal_id, time.monotonic()) if self._goal_id else ""
        lost = self._gate.lost(interrupt, self._runner.imaging)
        if silent:
            interrupt.cancel(silent)
        elif lost is not None:
            interrupt.lose(lost)

    def _watch_parts(self) -> None:
        """Publish diagnostics each second, and at once when a part comes or goes."""
        missing = self._gate.missing()
        if missing != self._missing or time.monotonic() - self._told_s > _DIAGNOSTICS_S:
            self._missing, self._told_s = missing, time.monotonic()
            self._publish_diagnostics(missing)

    def _publish_diagnostics(self, missing: tuple[str, ...]) -> None:
        level, text = DiagnosticStatus.OK, self._runner.task or "idle"
        if not (self.active or self.starting):
            level, text = DiagnosticStatus.WARN, self.life_state
        elif missing:
            level, text = DiagnosticStatus.WARN, f"missing: {', '.join(missing)}"
        values = {name: "ok" if name not in missing else "missing" for name in self._gate.parts()}
        ready = self._gate.is_open or not self._graph.parameters.wait_for_all
        values |= {"ready": "yes" if ready else "no", "task": self._runner.task or "idle"}
        values |= self._graph.counters.values() | self.refusals.values()
        now = self.get_clock().now().to_msg()
        self._diagnostics.publish(diagnostics(now, "carm_agent", level, text, values, self.get_namespace()))


def _end(goal_handle: Any, code: Any, codes: Any, message: Any) -> Any:
    """Bring a goal into its final state and return the result message."""
    if code == codes.NONE:
        goal_handle.succeed()
    elif code == codes.CANCELED and goal_handle.is_cancel_requested:
        goal_handle.canceled()
    else:
        goal_handle.abort()
    return message


def main(arguments: list[str] | None = None) -> int:
    """Run the agent node; the arm is brought to rest before it ends. See ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    return run_node("agent_node", AgentNode, arguments)


if __name__ == "__main__":
    leave(main())
