# SPDX-License-Identifier: Apache-2.0
"""The clinician's words over ROS: hears them, has them read, sets errands going. Runs on the executor; never waits."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from carm_interfaces.action import Localize
from carm_interfaces.msg import Utterance
from carm_interfaces.srv import Expose, FindPoint
from numpy.typing import ArrayLike
from rclpy.clock import Clock, ClockType
from rclpy.task import Future
from std_srvs.srv import Trigger

from carm_agent import phrases
from carm_agent.dialogue.actions import Errand
from carm_agent.dialogue.conversation import Conversation, Hands, Kind, Limits
from carm_agent.dialogue.parser import LONGEST_TEXT, Heard, Topic
from carm_agent.llm import HeadCode, HeadResult
from carm_agent.navigation.task import NavigationGoal, NavigationResult
from carm_agent.nodes.conversions import point_in_mm
from carm_agent.nodes.listener import MOST_A_SECOND, Listener
from carm_agent.nodes.llm_tools import HeadDesk
from carm_agent.nodes.task_runner import TaskRunner
from carm_agent.parameters import NO_HEAD
from carm_agent.planning.move import MoveCode, MoveResult
from carm_agent.ports import Interrupt
from carm_core.errors import AnswerError
from carm_core.language.commands import Command, Confirm, command_from_text
from carm_core.localization import Protocol
from carm_core.plausibility import ImplausibleError
from carm_ros.managed import ManagedNode

_TICK_S = 0.05


class Clinician(Hands):
    """Connects a ``Conversation`` with ROS and with what runs tasks."""

    def __init__(self, node: ManagedNode, runner: TaskRunner) -> None:
        """Listen on ``clinician``.

        Args:
            node: The agent node.
            runner: Of the tasks that the clinician's words begin.
        """
        self._node, self._runner, self._graph, settings = node, runner, runner.graph, runner.graph.parameters
        limits = Limits(nudge_mm=1000.0 * settings.max_nudge_m, model_patience_s=settings.command_timeout_s)
        self.conversation = Conversation(self, time.monotonic, limits)
        runner.on_consent_asked = self.conversation.forget_question
        runner.on_ended = self._task_ended
        self._head = HeadDesk(runner, self._request_stop) if settings.head_url not in ("", NO_HEAD) else None
        self._queued: Callable[[], None] | None = None
        self._asked: tuple[int, Any] | None = None
        self._last_result = ""
        self._waiting: deque[tuple[str, Future | None]] = deque(maxlen=2 * MOST_A_SECOND)
        self._stop_request: Future | None = None
        self._listener = Listener(node, self._obey, self._pass_on, self._floods)
        node.create_timer(_TICK_S, self._tick, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _obey(self, words: str) -> None:
        """End the running task for a stop, which the listener has asked for; on the listener's thread."""
        self._queued = None
        self._runner.consent.give(False)
        self._runner.stopped(_said(words))

    def _pass_on(self, words: str, stop: Future | None) -> None:
        """Have words read on the executor; on the listener's thread."""
        self._waiting.append((words, stop))
        if self._node.executor is not None:
            self._node.executor.create_task(self._read_waiting)

    def _read_waiting(self) -> None:
        while self._waiting:
            words, self._stop_request = self._waiting.popleft()
            try:
                self._hear(Heard(words))
            except Exception as error:  # no sentence may end the node that hears "stop"
                self._node.refuse("clinician", error)
                self.say(Kind.WARNING, "I could not read that. Nothing new happens.", words)

    def _hear(self, heard: Heard) -> None:
        if self._head is None or heard.is_stop or _needs_no_head(heard):
            self.conversation.hear(heard)
        elif self._head.answer(heard.words):
            self.say(Kind.REASON, "I pass that on.", heard.words)
        else:
            self._hand_over(self._head, heard)

    def _floods(self, words: str) -> None:
        """Say, every few seconds, that words come too fast to be read; on the listener's thread."""
        if self._node.refusals.note("clinician"):
            self.say(Kind.WARNING, "Too many words at once: I listen for a stop only.", words[:LONGEST_TEXT])

    def _hand_over(self, head: HeadDesk, heard: Heard) -> None:
        """Let the larger language model handle a sentence."""
        first = f"I break off {self.task}. " if self.task else ""
        self.say(Kind.INFO, f'{first}Now working on "{heard.words}".', heard.words)
        self._queue(lambda: self._start_session(head, heard), heard.words)

    def _tick(self) -> None:
        self._read_waiting()
        self.conversation.tick()

    def close(self) -> None:
        """Listen no more."""
        self._listener.close()

    def _task_ended(self) -> None:
        """Begin what waits for the end of the task before it."""
        queued, self._queued = self._queued, None
        if queued is not None:
            queued()

    # Hands

    def say(self, kind: Kind, text: str, in_reply_to: str) -> None:
        """See ``Hands.say``."""
        self._runner.say(int(kind), text, in_reply_to=in_reply_to)

    def stop(self, words: str) -> None:
        """See ``Hands.stop``."""
        self._request_stop(_said(words), words)
        if self._graph.stop.service_is_ready():
            self.say(Kind.INFO, "Stopping. Nothing moves until you reset.", words)
        else:
            text = "The stop service does not answer! I ended my own task; use the emergency stop if the arm moves."
            self.say(Kind.WARNING, text, words)

    def _request_stop(self, message: str, words: str = "") -> None:
        """Call the stop service and end the running task.

        Args:
            message: why.
            words: Of the clinician, when they are why.
        """
        asked, self._stop_request = self._stop_request, None
        request = asked or self._graph.stop.call_async(Trigger.Request())
        request.add_done_callback(lambda done: self._stop_answered(done.result(), words))
        self._queued = None
        self._runner.consent.give(False)
        self._runner.stopped(message)

    def _stop_answered(self, response: Any, words: str) -> None:
        if response is None or not response.success:
            why = response.message if response is not None else "no answer"
            self.say(Kind.WARNING, f"Stop was refused: {why}. Use the emergency stop.", words)
        elif words:
            self.say(Kind.ANSWER, "The stop is latched.", words)

    def begin(self, errand: Errand, words: str) -> None:
        """See ``Hands.begin``."""
        self._queue(lambda: self._start(errand, words), words)

    def drop_queued(self) -> None:
        """Forget what waits for the end of the running task."""
        self._queued = None

    def _inactive(self, words: str) -> bool:
        """Return whether the node does nothing now; this is said."""
        reason = self._node.refusal()
        if reason:
            self.say(Kind.WARNING, f"Nothing is done: {reason}.", words)
        return bool(reason)

    def _queue(self, start: Callable[[], None], words: str) -> None:
        """Start a task, after the running one has ended."""
        if self._inactive(words):
            return
        if self._runner.busy:
            self._queued = start
            self._runner.interrupt("the clinician asked for something else")
        else:
            start()

    def expose(self, words: str) -> None:
        """See ``Hands.expose``."""
        if self._inactive(words):
            return
        client = self._graph.expose
        if not client.service_is_ready():
            self.say(Kind.WARNING, f"No X-ray system: service {client.srv_name} is not there.", words)
            return
        client.call_async(Expose.Request()).add_done_callback(lambda done: self._exposed(done.result(), words))

    def _exposed(self, response: Any, words: str) -> None:
        if response is None or not response.success:
            why = response.error_msg if response is not None else "no answer"
            self.say(Kind.WARNING, f"No image was taken: {why}", words)
        else:
            self.say(Kind.RESULT, "The image is taken.", words)

    def ask_model(self, number: int, words: str) -> bool:
        """See ``Hands.ask_model``."""
        localize = self._graph.localize
        if not localize.server_is_ready():
            return False
        if self._asked is not None:
            self._asked[1].cancel_goal_async()
            self._asked = None
        goal = Localize.Goal(protocol=Protocol.COMMAND.value, hint=words)
        localize.send_goal_async(goal).add_done_callback(lambda sent: self._taken(sent.result(), number))
        return True

    def _taken(self, handle: Any, number: int) -> None:
        if handle is None or not handle.accepted:
            self.conversation.model_answered(number, None)
            return
        self._asked = (number, handle)
        handle.get_result_async().add_done_callback(lambda done: self._read(done.result(), number))

    def _read(self, outcome: Any, number: int) -> None:
        if self._asked is not None and self._asked[0] == number:
            self._asked = None
        command: Command | None = None
        if outcome is not None and outcome.result.error_code == Localize.Result.ERROR_NONE:
            try:
                command = command_from_text(outcome.result.landmarks.answer.strip())
            except AnswerError as error:
                self._node.get_logger().warning(str(error))
        self.conversation.model_answered(number, command)

    def find_point(self, number: int, name: str) -> bool:
        """See ``Hands.find_point``."""
        client = self._graph.find_point
        if not client.service_is_ready():
            return False
        client.call_async(FindPoint.Request(name=name)).add_done_callback(
            lambda done: self._point_found(number, done.result())
        )
        return True

    def _point_found(self, number: int, answer: Any) -> None:
        name, point_mm = "", None
        if answer is not None and answer.success:
            try:
                name, point_mm = answer.name, point_in_mm(answer.point)
            except ImplausibleError as error:
                self._node.get_logger().warning(f"ct/find_point: {error}")
        self.conversation.point_found(number, name, point_mm)

    def consent(self, yes: bool) -> bool:
        """See ``Hands.consent``."""
        awaited = self._runner.consent.awaited
        self._runner.consent.give(yes)
        return awaited

    @property
    def task(self) -> str:
        """See ``Hands.task``."""
        return self._runner.task

    def status(self) -> str:
        """See ``Hands.status``."""
        doing = f"I am {self.task}." if self.task else "Nothing is under way."
        return " ".join(part for part in (doing, self._view(), self._last_result, self._way_back()) if part)

    def _view(self) -> str:
        if not self._graph.joint_states_known:
            return "I do not know where the arm is."
        return f"The view is at {self._angles(self._graph.joint_positions())}."

    def _angles(self, positions: ArrayLike) -> str:
        primary, secondary = np.degrees(self._graph.carm.angles(positions))
        return phrases.angles(float(primary), float(secondary))

    def _way_back(self) -> str:
        before = self._runner.before
        if before is None or not self._graph.joint_states_known:
            return ""
        carm = self._graph.carm
        away_mm = 1000.0 * np.linalg.norm(carm.isocenter(before) - carm.isocenter(self._graph.joint_positions()))
        return f'Before, it was at {self._angles(before)}, {away_mm:.0f} mm away; say "go back" to return there.'

    def earlier(self) -> tuple[float, ...] | None:
        """See ``Hands.earlier``."""
        return self._runner.before

    # Errands

    def _start(self, errand: Errand, words: str) -> None:
        ended = self._runner.begin(errand.doing, lambda interrupt: self._carry_out(errand, interrupt))
        ended.add_done_callback(lambda done: self._finished(done.result()[0], done.result()[1], words))

    def _carry_out(self, errand: Errand, interrupt: Interrupt) -> NavigationResult | MoveResult:
        """Run the steps, on the task's thread."""
        outcome: NavigationResult | MoveResult = MoveResult(MoveCode.NONE)
        for step in errand.steps:
            if isinstance(step, NavigationGoal):
                outcome = self._runner.navigate(step, interrupt)
            else:
                outcome = self._runner.move_from_here(step, interrupt)
            if outcome.error_code:
                return outcome
        return outcome

    def _start_session(self, head: HeadDesk, heard: Heard) -> None:
        ended = head.begin(heard.words)
        ended.add_done_callback(lambda done: self._session_ended(done.result()[0], done.result()[1], heard))

    def _session_ended(self, result: HeadResult | None, failure: Exception | None, heard: Heard) -> None:
        words = heard.words
        if result is None:
            self._finished(None, failure, words)
        elif result.code is HeadCode.SERVER and result.steps <= 1:
            self.say(Kind.WARNING, f"{result.text} I go on without the larger language model.", words)
            self.conversation.hear(heard)
        else:
            self._last_result = f"Last: {result.text}"
            self._runner.say(Utterance.KIND_RESULT, result.text, result.code.value, words)

    def _finished(self, result: Any, failure: Exception | None, words: str) -> None:
        reason = ""
        if failure is not None:
            self._node.get_logger().error(f"errand failed: {type(failure).__name__}: {failure}")
            text = "I gave up because of an internal error; make sure that the arm stands still."
            reason = f"{type(failure).__name__}: {failure}"
        elif isinstance(result, NavigationResult):
            text, reason = result.summary, result.error_msg
        elif result.error_code == MoveCode.NONE:
            note = result.plan.note if result.plan is not None else ""
            text = " ".join(part for part in (f"Done. {self._view()}", note and f"Note: {note}.") if part)
        else:
            text, reason = f"I could not do that: {result.error_msg}", result.error_code.name.lower()
        self._last_result = f"Last: {text}"
        self._runner.say(Utterance.KIND_RESULT, text, reason, words)


def _said(words: str) -> str:
    return f'the clinician said "{words[:LONGEST_TEXT]}"'


def _needs_no_head(heard: Heard) -> bool:
    """Return whether rules alone answer a sentence, whoever else listens."""
    reading = heard.intent
    direct = (Topic.DECLINE, Topic.STATUS, Topic.LIMITS, Topic.LONG, Topic.BACK)
    return isinstance(reading.command, Confirm) or reading.topic in direct
