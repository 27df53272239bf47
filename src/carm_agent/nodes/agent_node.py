# SPDX-License-Identifier: Apache-2.0
"""The agent node: `navigate`, `move`, the clinician's words, and what is said in answer.

The executor's one thread never waits: each task runs on a thread of its own, and its action's coroutine resumes when
the task has ended. At most one task runs.
"""

import dataclasses
import json
import math
import threading
import time
from collections.abc import Callable
from typing import Any

from carm_interfaces.action import MoveCArm, Navigate
from carm_interfaces.msg import Utterance
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import ActionServer, CancelResponse
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import String

from carm_agent import phrases
from carm_agent.dialogue.confirmation import ConsentedArm, NotedArm
from carm_agent.errors import CanceledError, InterruptedTaskError, StoppedError
from carm_agent.navigation.navigator import Navigator
from carm_agent.navigation.task import NavigationCode, NavigationGoal, NavigationResult, Progress
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
from carm_agent.nodes.ros_ports import CArmGraph, RosArm, RosClock, RosImager, RosLocalizer
from carm_agent.parameters import AgentParameters
from carm_agent.planning.move import MoveCode, MoveGoal, MoveResult
from carm_agent.ports import Arm, Interrupt
from carm_core.errors import CarmError, GoalError
from carm_core.parameters import updated_parameters
from carm_core.robot.kinematics import CArm
from carm_ros.entry import leave
from carm_ros.managed import ManagedNode
from carm_ros.node import run_node
from carm_ros.parameters import declare_parameters

_WATCH_S = 0.2
_DIAGNOSTICS_S = 0.95


class AgentNode(ManagedNode):
    """Brings landmarks to the image center, moves the arm, and talks about it."""

    def __init__(self, **node_arguments: Any) -> None:
        """Start the node, in namespace `/carm` unless remapped.

        Args:
            **node_arguments: passed to `ManagedNode`.

        Raises:
            ConfigurationError: a parameter is out of range.
        """
        super().__init__("agent_node", **{"namespace": "/carm", **node_arguments})
        self._settings = declare_parameters(self, AgentParameters)
        self.autostart = self._settings.autostart
        self._ended: Future | None = None
        self._planner = make_planner(CArm.from_config(), self._settings)
        self._graph = CArmGraph(self, self._planner.carm, self._settings)
        self._surroundings = Surroundings(self, self._graph, self._planner, self.interrupt)
        self._graph.on_stopped = self._on_stopped
        self._task = ""
        self._dialogue = self.create_publisher(Utterance, "agent/dialogue", 10)
        self._tasks = self.create_publisher(String, "agent/task", 10)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._clinician = Clinician(self, self._surroundings.memory)
        self._gate = ReadinessGate(self, self._graph, self._surroundings, self._clinician)
        self._missing: tuple[str, ...] | None = None
        self._told_s = -math.inf
        self.create_timer(_WATCH_S, self._watch_parts, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.add_on_set_parameters_callback(self._on_parameters)
        self._servers = [
            self._serve(Navigate, "navigate", self._execute_navigate),
            self._serve(MoveCArm, "move", self._execute_move),
        ]

    def _serve(self, kind: Any, name: str, execute: Callable[[Any], Any]) -> ActionServer:
        return self.serve_action(kind, name, execute, cancel_callback=self._on_cancel)

    @property
    def busy(self) -> bool:
        """Whether a task runs."""
        return bool(self._task)

    @property
    def task(self) -> str:
        """What is being done, for the clinician; empty when nothing is."""
        return self._task

    @property
    def graph(self) -> CArmGraph:
        """What the other nodes say."""
        return self._graph

    @property
    def settings(self) -> AgentParameters:
        """Parameters of the node."""
        return self._settings

    def end_goals(self, reason: str) -> None:
        """See `OrderlyNode.end_goals`."""
        self._clinician.drop_queued()
        self.interrupt(reason)

    def has_ended(self) -> bool:
        """See `OrderlyNode.has_ended`."""
        return not self.busy and super().has_ended()

    def give_up(self) -> None:
        """Abort the goal of a task that does not end; what it began to move is not known to rest."""
        ended = self._ended
        if self.executor is not None and ended is not None and not ended.done():
            error = CanceledError(f"{self.called} is shutting down and did not hear that the arm came to rest")
            self.executor.create_task(ended.set_result, (None, error))

    async def come_to_rest(self) -> None:
        """See `ManagedNode.come_to_rest`."""
        if self.busy and self._ended is not None:
            await self._ended
        await self.all_goals_ended()

    def state_changed(self) -> None:
        """Tell others at once."""
        self._missing = None
        if self.executor is not None:
            self.executor.create_task(self._watch_parts)

    def interrupt(self, message: str) -> None:
        """Ask the running task, if any, to end."""
        self._graph.interrupt.cancel(message)

    def stopped_by_words(self, message: str) -> None:
        """Tell the running task, if any, that stop was asked for."""
        if self.busy:
            self._graph.interrupt.stop(message)

    def request_stop(self, message: str) -> None:
        """Bring everything to rest; a person must reset."""
        self._clinician.request_stop(message)

    def _on_cancel(self, goal_handle: Any) -> CancelResponse:
        if getattr(goal_handle, "carm_runs", False):
            self.interrupt("canceled by the client")
        return CancelResponse.ACCEPT

    def _on_stopped(self, message: str) -> None:
        if self.busy:
            self._graph.interrupt.stop(message or "stop was pressed")

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Take over changes between two tasks."""
        settings, reason = updated_parameters(self._settings, parameters)
        if not reason and settings != self._settings and self.busy:
            reason = f"a task runs ({self._task}): change parameters between tasks"
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        self._surroundings.take_over(settings)
        self._settings = self._graph.parameters = settings
        return SetParametersResult(successful=True)

    # Tasks

    def begin(self, description: str, work: Callable[[Interrupt], Any]) -> Future:
        """Run `work` on a thread of its own, as the one task.

        Args:
            description: what is being done, as in "I am turning to LAO 30".
            work: the task; ends early when its interrupt trips.

        Returns:
            A future, resolved on the executor, of the result and the exception.
        """
        self._task = description
        interrupt = self._graph.interrupt = Interrupt()
        executor = self.executor
        ended = self._ended = Future(executor=executor)

        def finish(result: Any, error: Exception | None) -> None:
            self._task = ""
            if not ended.done():
                ended.set_result((result, error))
            executor.create_task(self._clinician.task_ended)

        def run() -> None:
            result, error = None, None
            try:
                result = work(interrupt)
            except Exception as caught:
                error = caught
            executor.create_task(finish, result, error)

        threading.Thread(target=run, name=description, daemon=True).start()
        return ended

    def _navigate(self, goal: NavigationGoal, report: Callable[[Progress], None]) -> Future:
        try:
            description = f"bringing {phrases.called(goal.landmark())} to the image center"
        except CarmError:
            description = "navigating"
        self._clinician.conversation.target_is(goal.target_id)
        return self.begin(description, lambda interrupt: self.navigate_now(goal, interrupt, report))

    def navigate_now(
        self, goal: NavigationGoal, interrupt: Interrupt, report: Callable[[Progress], None] | None = None
    ) -> NavigationResult:
        """Run one navigation to its end, on the task's thread."""
        refusal = self._refusal(interrupt, NavigationCode)
        if refusal:
            return NavigationResult(*refusal, summary="I am not ready; nothing moves yet.")
        self._tasks.publish(String(data=json.dumps(dataclasses.asdict(goal))))
        if self._graph.stays_stopped(interrupt):
            return NavigationResult(NavigationCode.STOPPED, "stop is latched; reset first", summary=_LATCHED)
        graph = self._graph
        navigator = Navigator(
            self._planner,
            RosImager(graph, interrupt),
            RosLocalizer(graph, interrupt),
            self._arm(interrupt),
            RosClock(self),
            interrupt,
            self._settings.navigator_config(),
        )
        return navigator.run(goal, report or self._told)

    def _refusal(self, interrupt: Interrupt, codes: Any) -> tuple[Any, str] | None:
        """Wait for the graph to be complete; return code and reason when nothing may move yet."""
        try:
            reason = self._settings.wait_for_all and self._gate.refusal(interrupt, self._settings.server_timeout_s)
        except InterruptedTaskError as error:
            return codes.STOPPED if isinstance(error, StoppedError) else codes.CANCELED, str(error)
        return (codes.NOT_READY, reason) if reason else None

    def _arm(self, interrupt: Interrupt, progress: Callable[[float], None] = lambda share: None) -> Arm:
        arm = NotedArm(
            RosArm(self._graph, interrupt, progress), lambda place: self._clinician.note_before(place, interrupt)
        )
        return ConsentedArm(arm, self._clinician.moves_consent, interrupt) if self._settings.confirm_moves else arm

    def _navigation_ended(self, outcome: tuple[Any, Exception | None], in_reply_to: str = "") -> NavigationResult:
        result, error = outcome
        if error is not None:
            self.get_logger().error(f"navigate failed: {type(error).__name__}: {error}")
            summary = "I gave up because of an internal error; make sure that the arm stands still."
            result = NavigationResult(NavigationCode.INTERNAL, f"{type(error).__name__}: {error}", summary=summary)
        self.say(Utterance.KIND_RESULT, result.summary, result.error_msg, in_reply_to)
        return result  # type: ignore[no-any-return]

    def _told(self, progress: Progress) -> None:
        if progress.decision:
            self.say(Utterance.KIND_WARNING if progress.warning else Utterance.KIND_REASON, progress.reasoning)

    async def _execute_navigate(self, goal_handle: Any) -> Any:
        if self.busy:
            busy = NavigationResult(NavigationCode.BUSY, f"another task runs: {self._task}")
            return _end(goal_handle, busy.error_code, NavigationCode, navigation_result(busy))

        def report(progress: Progress) -> None:
            goal_handle.publish_feedback(navigation_feedback(progress))
            self._told(progress)

        goal_handle.carm_runs = True
        future = self._navigate(navigation_goal(goal_handle.request), report)
        if goal_handle.is_cancel_requested:
            self.interrupt("canceled by the client")
        result = self._navigation_ended(await future)
        return _end(goal_handle, result.error_code, NavigationCode, navigation_result(result))

    async def _execute_move(self, goal_handle: Any) -> Any:
        try:
            goal = move_goal(goal_handle.request)
        except GoalError as error:
            refused = MoveResult(MoveCode.INVALID_GOAL, str(error))
            return _end(goal_handle, refused.error_code, MoveCode, move_result(refused))
        if self.busy:
            busy = MoveResult(MoveCode.BUSY, f"another task runs: {self._task}")
            return _end(goal_handle, busy.error_code, MoveCode, move_result(busy))

        def tell(stage: str, progress: float = 0.0) -> None:
            goal_handle.publish_feedback(MoveCArm.Feedback(stage=stage, progress=progress))

        goal_handle.carm_runs = True
        future = self.begin("moving", lambda interrupt: self._move(goal, interrupt, tell))
        if goal_handle.is_cancel_requested:
            self.interrupt("canceled by the client")
        result, failure = await future
        if failure is not None:
            self.get_logger().error(f"move failed: {type(failure).__name__}: {failure}")
            result = MoveResult(MoveCode.INTERNAL, f"{type(failure).__name__}: {failure}")
        return _end(goal_handle, result.error_code, MoveCode, move_result(result, self._planner.carm))

    def _move(self, goal: MoveGoal, interrupt: Interrupt, tell: Callable[..., None]) -> MoveResult:
        if not goal.plan_only and self._graph.stays_stopped(interrupt):
            return MoveResult(MoveCode.STOPPED, "stop is latched; reset first")
        refusal = None if goal.plan_only else self._refusal(interrupt, MoveCode)
        if refusal:
            return MoveResult(*refusal)
        arm = self._arm(interrupt, lambda share: tell("moving", share))
        return self._surroundings.mover(arm).run(goal, tell)

    def move_now(self, make_goal: Callable[[], MoveGoal], interrupt: Interrupt) -> MoveResult:
        """Run one move to its end, on the task's thread.

        Args:
            make_goal: makes the goal from where the arm is.
            interrupt: of the task.
        """
        try:
            goal = make_goal()
        except CarmError as error:
            return MoveResult(MoveCode.NO_JOINT_STATES, str(error))
        return self._move(goal, interrupt, lambda stage, progress=0.0: None)

    # Dialogue

    def ask(self, question: str) -> None:
        """Put a question to the clinician."""
        self.say(Utterance.KIND_QUESTION, question)

    def say(self, kind: int, text: str, reason: str = "", in_reply_to: str = "") -> None:
        """Say something to the clinician.

        Args:
            kind: one of `Utterance.KIND_*`.
            text: one sentence or two.
            reason: why.
            in_reply_to: the clinician's words that it answers.
        """
        text, reason = phrases.printable(text), phrases.printable(reason)
        utterance = Utterance(kind=kind, text=text, reason=reason, in_reply_to=in_reply_to)
        utterance.header.stamp = self.get_clock().now().to_msg()
        self._dialogue.publish(utterance)
        self.get_logger().info(text)

    def _watch_parts(self) -> None:
        """Publish diagnostics each second, and at once when a part comes or goes."""
        missing = self._gate.missing()
        if missing != self._missing or time.monotonic() - self._told_s > _DIAGNOSTICS_S:
            self._missing, self._told_s = missing, time.monotonic()
            self._publish_diagnostics(missing)

    def _publish_diagnostics(self, missing: tuple[str, ...]) -> None:
        status = DiagnosticStatus(name="carm_agent", hardware_id=self.get_namespace(), level=DiagnosticStatus.OK)
        status.message = self._task or "idle"
        if not (self.active or self.starting):
            status.level, status.message = DiagnosticStatus.WARN, self.life_state
        elif missing:
            status.level, status.message = DiagnosticStatus.WARN, f"missing: {', '.join(missing)}"
        values = {name: "ok" if name not in missing else "missing" for name in self._gate.parts()}
        ready = self._gate.is_open or not self._settings.wait_for_all
        values |= {"ready": "yes" if ready else "no", "task": self._task or "idle", **self._graph.counters.values()}
        status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        message = DiagnosticArray(status=[status])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


_LATCHED = "Stop is latched; the arm is at rest. Reset first."


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
    """Run the agent node; the arm is brought to rest before it ends. See `carm_ros.node.run_node`.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    return run_node("agent_node", AgentNode, arguments)


if __name__ == "__main__":
    leave(main())
