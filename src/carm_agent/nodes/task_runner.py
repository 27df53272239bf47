# SPDX-License-Identifier: Apache-2.0
"""Runs tasks, one at a time, each on a thread of its own; the executor's one thread never waits for them."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from carm_interfaces.msg import Utterance
from numpy.typing import NDArray
from rclpy.task import Future
from std_msgs.msg import String

from carm_agent.dialogue.actions import Recall, Shift, Show, Turn
from carm_agent.dialogue.confirmation import Consent, ConsentedArm, NotedArm
from carm_agent.errors import CanceledError, InterruptedTaskError, StoppedError
from carm_agent.navigation.budget import code_of
from carm_agent.navigation.navigator import Navigator
from carm_agent.navigation.task import NavigationCode, NavigationGoal, NavigationResult, Progress
from carm_agent.nodes.environment import Surroundings
from carm_agent.nodes.ros_ports import CArmGraph, RosArm, RosClock, RosCt, RosImager, RosLocalizer
from carm_agent.planning.move import MoveCode, MoveGoal, MoveResult
from carm_agent.ports import Arm, Interrupt
from carm_core.errors import CarmError

LATCHED = "Stop is latched; the arm is at rest. Reset first."


class TaskRunner:
    """Runs at most one task. Methods are called on the executor's thread, unless they say otherwise.

    Attributes:
        graph: What the other nodes say; its parameters are those of the agent node.
        say: Says something to the clinician; arguments as of ``AgentNode.say``.
        task: What is being done, for the clinician; empty when nothing is.
        imaging: Whether the running task needs X-ray images now.
        before: Joint positions (J,) before the first motion of the last task that moved, m or rad; None: none did.
        consent: Where a motion waits for a yes, when each motion needs one.
        on_consent_asked: Called when a motion begins to wait for a yes, on the task's thread.
        on_ended: Called after each task.
    """

    def __init__(
        self,
        graph: CArmGraph,
        surroundings: Surroundings,
        say: Callable[..., None],
        refusal: Callable[[Interrupt, float], str],
    ) -> None:
        """Run nothing yet.

        Args:
            graph: What the other nodes say.
            surroundings: With the planner, the previewed plans and the saved positions.
            say: Says something to the clinician; called on the task's thread too.
            refusal: Waits for missing parts of the graph, at most so many s; returns why nothing may move yet, or "".
        """
        self.graph, self.say, self._surroundings, self._missing_parts = graph, say, surroundings, refusal
        self.task = ""
        self.imaging = False
        self.before: tuple[float, ...] | None = None
        self.consent = Consent(self._ask_consent, graph.parameters.confirm_timeout_s)
        self.on_consent_asked: Callable[[], None] = lambda: None
        self.on_ended: Callable[[], None] = lambda: None
        self._noted: Interrupt | None = None
        self._ended: Future | None = None
        self._tasks = graph.node.create_publisher(String, "agent/task", 10)
        graph.on_stopped = lambda message: self.stopped(message or "stop was pressed")

    @property
    def busy(self) -> bool:
        """Whether a task runs."""
        return bool(self.task)

    def interrupt(self, message: str) -> None:
        """Ask the running task, if any, to end."""
        self.graph.interrupt.cancel(message)

    def stopped(self, message: str) -> None:
        """Tell the running task, if any, that stop was asked for."""
        if self.busy:
            self.graph.interrupt.stop(message)

    def give_up(self, message: str) -> None:
        """End a task that does not end by itself, for those who wait for it."""
        executor, ended = self.graph.node.executor, self._ended
        if executor is not None and ended is not None and not ended.done():
            executor.create_task(ended.set_result, (None, CanceledError(message)))

    async def all_ended(self) -> None:
        """Wait until no task runs."""
        if self.busy and self._ended is not None:
            await self._ended

    def begin(self, description: str, work: Callable[[Interrupt], Any]) -> Future:
        """Run ``work`` on a thread of its own, as the one task.

        Args:
            description: What is being done, as in "I am turning to LAO 30".
            work: The task; ends early when its interrupt trips.

        Returns:
            A future, resolved on the executor, of the result and the exception.
        """
        self.task = description
        freezes, began_s = self.graph.freezes, time.monotonic()
        interrupt = self.graph.interrupt = Interrupt(lambda: freezes.stood_still_s(began_s))
        executor = self.graph.node.executor
        ended = self._ended = Future(executor=executor)

        def finish(result: Any, error: Exception | None) -> None:
            self.task = ""
            if not ended.done():
                ended.set_result((result, error))
            executor.create_task(self.on_ended)

        def run() -> None:
            result, error = None, None
            try:
                result = work(interrupt)
            except Exception as caught:
                error = caught
            executor.create_task(finish, result, error)

        threading.Thread(target=run, name=description, daemon=True).start()
        return ended

    # On the task's thread

    def navigate(
        self, goal: NavigationGoal, interrupt: Interrupt, report: Callable[[Progress], None] | None = None
    ) -> NavigationResult:
        """Run one navigation to its end, on the task's thread.

        Args:
            goal: What to bring where.
            interrupt: Of the task.
            report: Told each step; None: decisions are told to the clinician.
        """
        refusal = self._refusal(interrupt, NavigationCode)
        if refusal:
            return NavigationResult(*refusal, summary="I am not ready; nothing moves yet.")
        graph = self.graph
        self._tasks.publish(String(data=json.dumps(dataclasses.asdict(goal))))
        if graph.stays_stopped(interrupt):
            return NavigationResult(NavigationCode.STOPPED, "stop is latched; reset first", summary=LATCHED)
        if goal.point_mm is not None:
            try:
                RosCt(graph, interrupt).check(goal.point_mm)
            except CarmError as error:
                return NavigationResult(code_of(error), str(error), summary=f"I did not start: {error}.")
        navigator = Navigator(
            self._surroundings.planner,
            RosImager(graph, interrupt),
            RosLocalizer(graph, interrupt),
            self._arm(interrupt),
            RosClock(graph.node),
            interrupt,
            graph.parameters.navigator_config(),
        )
        self.imaging = True
        try:
            return navigator.run(goal, report or self.tell)
        finally:
            self.imaging = False

    def tell(self, progress: Progress) -> None:
        """Tell the clinician a step of a navigation, if it is a decision; on any thread."""
        if progress.decision:
            self.say(Utterance.KIND_WARNING if progress.warning else Utterance.KIND_REASON, progress.reasoning)

    def move(self, goal: MoveGoal, interrupt: Interrupt, tell: Callable[..., None]) -> MoveResult:
        """Run one move to its end, on the task's thread.

        Args:
            goal: Where to.
            interrupt: Of the task.
            tell: Told each stage, and the share of the way.
        """
        if not goal.plan_only and self.graph.stays_stopped(interrupt):
            return MoveResult(MoveCode.STOPPED, "stop is latched; reset first")
        refusal = None if goal.plan_only else self._refusal(interrupt, MoveCode)
        if refusal:
            return MoveResult(*refusal)
        arm = self._arm(interrupt, lambda share: tell("moving", share))
        return self._surroundings.mover(arm, RosCt(self.graph, interrupt).axes_of).run(goal, tell)

    def move_from_here(self, step: Shift | Turn | Recall | Show, interrupt: Interrupt) -> MoveResult:
        """Run one move by words to its end, on the task's thread.

        Args:
            step: Makes the goal from where the arm is.
            interrupt: Of the task.
        """
        try:
            goal = step.goal(self.graph.carm, self.graph.joint_positions())
        except CarmError as error:
            return MoveResult(MoveCode.NO_JOINT_STATES, str(error))
        return self.move(goal, interrupt, lambda stage, progress=0.0: None)

    def _refusal(self, interrupt: Interrupt, codes: Any) -> tuple[Any, str] | None:
        """Wait for the graph to be complete; return code and reason when nothing may move yet."""
        settings = self.graph.parameters
        try:
            reason = settings.wait_for_all and self._missing_parts(interrupt, settings.server_timeout_s)
        except InterruptedTaskError as error:
            return codes.STOPPED if isinstance(error, StoppedError) else codes.CANCELED, str(error)
        return (codes.NOT_READY, reason) if reason else None

    def _arm(self, interrupt: Interrupt, progress: Callable[[float], None] = lambda share: None) -> Arm:
        arm = NotedArm(RosArm(self.graph, interrupt, progress), lambda place: self._note_before(place, interrupt))
        return ConsentedArm(arm, self.consent, interrupt) if self.graph.parameters.confirm_moves else arm

    def _note_before(self, positions: NDArray[np.float64], interrupt: Interrupt) -> None:
        """Note where the arm is before the first motion of a task, for "go back" and ``before``."""
        if interrupt is not self._noted:
            self._noted, self.before = interrupt, tuple(positions.tolist())
            self._surroundings.memory.note_before(positions)

    def _ask_consent(self, question: str) -> None:
        self.on_consent_asked()
        self.say(Utterance.KIND_QUESTION, question)
