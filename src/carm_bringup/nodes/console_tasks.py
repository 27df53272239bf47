# SPDX-License-Identifier: Apache-2.0
"""What the console asks the graph for: one task at a time, each with the page that it belongs to.

Where motions have to be held, a task that moves is canceled when its page lets go, or is silent for 0.5 s.

All of it but ``hold`` runs on the node's executor.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from carm_interfaces.action import MoveCArm, Navigate
from rclpy.action import ActionClient
from rclpy.clock import Clock, ClockType
from std_msgs.msg import String
from std_srvs.srv import Trigger

from carm_agent.dialogue.stop_words import is_stop
from carm_bringup.console.archive import Archive, Picture, media_type
from carm_bringup.console.commands import Command
from carm_bringup.console.switch import HOLD_S, Switch
from carm_core.errors import CarmError
from carm_core.landmarks import find_landmark
from carm_ros.heartbeat import HeartbeatSender
from carm_ros.node import OrderlyNode

Tell = Callable[[dict[str, Any]], None]
LET_GO = "the button was let go"
_LOOK_S = 0.05
_KEPT_PLANS = 8
_KEPT_SENTENCES = 32


class AbsentError(CarmError):
    """A part of the graph is not there, or has something else to do."""


@dataclass
class Task:
    """A goal that has not ended.

    Attributes:
        text: What it does, for people.
        number: Number of the page that it belongs to.
        moves: Whether it may move the arm.
        client: Of the action.
        goal_id: Of the goal.
        stage: What the server says that it does.
        handle: Of the goal; None until it is accepted.
        canceled: Why it was canceled; empty while it is not.
        goal: What the server was asked for.
    """

    text: str
    number: int
    moves: bool
    client: ActionClient
    goal_id: Any
    stage: str = "asked"
    handle: Any = None
    canceled: str = ""
    goal: Any = None

    def shown(self) -> dict[str, Any]:
        """Return what the page shows."""
        return {"text": self.text, "stage": "canceling" if self.canceled else self.stage, "owner": self.number}


class Tasks:
    """Asks agent and X-ray system.

    Attributes:
        task: What has not ended; None when nothing is open.
        sentences: Those that may still move the arm, with the numbers of the pages that said them.
    """

    def __init__(
        self,
        node: OrderlyNode,
        tell: Tell,
        previews: Archive,
        ghost: Callable[[Any], dict[str, Any] | None],
        held: bool = False,
    ) -> None:
        """Make the clients.

        Args:
            node: The console node.
            tell: Sends a message to all pages.
            previews: Keeps the pictures of plans.
            ghost: Returns how a page draws a trajectory in 3D.
            held: Whether motions run only while a page holds a button.
        """
        self._switch = Switch() if held else None
        self._node, self._tell, self._previews, self._ghost = node, tell, previews, ghost
        self._heartbeat = HeartbeatSender(node, f"the console ({node.get_name()})")
        self._navigate = ActionClient(node, Navigate, "navigate")
        self._move = ActionClient(node, MoveCArm, "move")
        self._reset = node.create_client(Trigger, "reset")
        self._words = node.create_publisher(String, "clinician", 10)
        self._plans: OrderedDict[str, tuple[str, Any]] = OrderedDict()
        self.task: Task | None = None
        self.sentences: OrderedDict[str, int] = OrderedDict()
        self._begun: Counter[str] = Counter()
        if held:
            node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def hold(self, number: int) -> None:
        """Go on with a motion, as a page says that its button is still held; from any thread."""
        if self._switch is not None:
            self._switch.hold(number)

    def obey(self, command: Command, number: int) -> None:
        """Begin what a page asks for; ``stop``, ``point``, positions and all that exposes are not for here.

        Raises:
            CarmError: It cannot begin; why, in one line.
        """
        match command.kind:
            case "say":
                self._say(command.text, number)
            case "reset":
                self._call(self._reset, Trigger.Request(), "reset")
            case "navigate":
                mark = find_landmark(command.text)
                goal = Navigate.Goal(target_id=mark.id, target_name=mark.name)
                self._begin(self._navigate, goal, Task(f"navigate to {mark.name}", number, True, self._navigate, None))
            case "view":
                self.plan(MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_NAMED, name=command.text), command.text, number)
            case "run":
                goal = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_PLAN, plan_id=command.text)
                text = f"run the plan{self._plans.get(command.text, ('', None))[0]}"
                self._begin(self._move, goal, Task(text, number, True, self._move, None))
            case "let_go":
                self._let_go(LET_GO, number)
            case "cancel":
                if self.task is None:
                    raise AbsentError("nothing runs that the console has begun")
                self.cancel("canceled by the operator")
            case _:
                raise AssertionError(command.kind)

    def plan(self, goal: Any, text: str, number: int) -> None:
        """Plan a motion and show it; nothing moves.

        Raises:
            CarmError: The agent is not there, or something runs.
        """
        goal.plan_only = True
        self._begin(self._move, goal, Task(f"plan: {text}", number, False, self._move, None))

    def cancel(self, why: str) -> None:
        """Cancel what runs: the arm decelerates."""
        if self.task is not None and not self.task.canceled:
            self.task.canceled = why
            if self.task.handle is not None:
                self.task.handle.cancel_goal_async()

    def watch(self) -> None:
        """Notice that the server of the open task is gone; to be called now and then."""
        if self.task is not None and not self.task.client.server_is_ready():
            self._end(self.task, False, "the agent is gone")

    def heard(self, kind: str, reply_to: str) -> None:
        """Heed what the agent says.

        With an ``info`` it begins what a sentence asks for, first by breaking off what it does: the ``result`` that
        comes then is of that. A result ends all sentences but those. An answer or a question begins nothing.

        Args:
            kind: ``info``, ``result``, ``answer``, ``question``, ``warning`` or another.
            reply_to: The sentence that it answers.
        """
        if kind == "info" and reply_to in self.sentences:
            self._begun[reply_to] += 1
        elif kind in ("result", "answer", "question", "warning"):
            self._begun = self._begun - Counter((reply_to,))  # without those that are 0
            ended = {"result": list(self.sentences), "warning": []}.get(kind, [reply_to])
            for text in ended:
                if not self._begun[text]:
                    self.sentences.pop(text, None)

    def forget(self, number: int) -> bool:
        """Forget the sentences of a page; return whether one may still move the arm."""
        theirs = [text for text, owner in self.sentences.items() if owner == number]
        for text in theirs:
            del self.sentences[text], self._begun[text]
        return bool(theirs)

    def _look(self) -> None:
        if self._switch is not None and self._switch.lapsed:
            self._let_go(f"the page that held the button was silent for {HOLD_S:g} s", self._switch.owner)

    def _let_go(self, why: str, number: int) -> None:
        if self._switch is None or self._switch.owner != number:
            return
        self._switch.release()
        if self.task is not None and self.task.moves and self.task.number == number:
            self.cancel(why)

    def _say(self, text: str, number: int) -> None:
        if self._switch is not None and not is_stop(text):
            raise AbsentError("motions have to be held here, and what a sentence moves cannot be: use the buttons")
        if not self._words.get_subscription_count():
            raise AbsentError("the agent is not there")
        self.sentences[text] = number
        while len(self.sentences) > _KEPT_SENTENCES:
            del self._begun[self.sentences.popitem(last=False)[0]]
        self._words.publish(String(data=text))

    def _call(self, client: Any, request: Any, what: str) -> None:
        if not client.service_is_ready():
            raise AbsentError(f"{what}: no node serves it")
        client.call_async(request).add_done_callback(partial(self._answered, what))

    def _answered(self, what: str, future: Any) -> None:
        answer = future.result()
        text = getattr(answer, "message", "") or getattr(answer, "error_msg", "")
        self._tell({"type": "result", "ok": bool(answer.success), "text": f"{what}: {text or 'done'}"[:400]})

    def _begin(self, client: ActionClient, goal: Any, task: Task) -> None:
        if self.task is not None:
            raise AbsentError(f"{self.task.text}: cancel it first")
        if not client.server_is_ready():
            raise AbsentError("the agent is not there")
        if self._switch is not None and task.moves:
            self._switch.press(task.number, "")
        task.goal_id, task.goal = self._heartbeat.begin(), goal
        self.task = task
        sent = client.send_goal_async(goal, partial(self._progress, task), task.goal_id)
        sent.add_done_callback(partial(self._accepted, task))

    def _accepted(self, task: Task, future: Any) -> None:
        task.handle = future.result()
        if not task.handle.accepted:
            self._end(task, False, "the agent refused the goal")
            return
        if task.canceled:
            task.handle.cancel_goal_async()
        task.handle.get_result_async().add_done_callback(partial(self._finished, task))

    def _progress(self, task: Task, message: Any) -> None:
        feedback = message.feedback
        if hasattr(feedback, "progress"):
            task.stage = f"{feedback.stage} {100 * feedback.progress:.0f} %"[:80]
            return
        task.stage = f"{feedback.stage}: {feedback.reasoning}"[:400]

    def _finished(self, task: Task, future: Any) -> None:
        result = future.result().result
        ok = result.error_code == 0
        text = result.error_msg or "done"
        if getattr(result, "summary", ""):
            text = ""  # the agent has said it
        elif ok and not task.moves:
            self._show_plan(task, result)
            text = ""
        self._end(task, ok, text)
        plan = getattr(task.goal, "plan_id", "")
        if not ok and task.canceled == LET_GO and plan in self._plans:  # it fits no more: the way from here, to go on
            about, goal = self._plans[plan]
            try:
                self.plan(goal, about.removeprefix(": "), task.number)
            except CarmError as error:
                self._tell({"type": "notice", "text": str(error)[:400]})

    def _show_plan(self, task: Task, result: Any) -> None:
        png = bytes(result.preview_png)
        if media_type(png):
            self._previews.add(Picture(result.plan_id, media_type(png), png))
        text = task.text.removeprefix("plan: ")
        self._plans[result.plan_id] = f": {text}", task.goal
        while len(self._plans) > _KEPT_PLANS:
            self._plans.popitem(last=False)
        plan = {
            "type": "plan",
            "id": result.plan_id,
            "text": text,
            "picture": bool(media_type(png)),
            **self._figures(result),
            "primary_deg": finite(math.degrees(result.final_primary_angle)),
            "secondary_deg": finite(math.degrees(result.final_secondary_angle)),
        }
        self._tell(plan)

    def show_announced(self, message: Any) -> None:
        """Show a motion that the agent is about to make.

        Args:
            message: ``carm_interfaces/PlannedMotion``.
        """
        self._tell({"type": "announced", **self._figures(message)})

    def _figures(self, plan: Any) -> dict[str, Any]:
        """Return what a page shows of any plan: a result of ``MoveCArm``, or a ``PlannedMotion``."""
        return {
            "duration_s": finite(plan.duration_s),
            "clearance_mm": finite(1000 * plan.min_clearance),
            "warning": plan.warning[:400],
            "ghost": self._ghost(plan.trajectory),
        }

    def _end(self, task: Task, ok: bool, text: str) -> None:
        self._heartbeat.end(task.goal_id)
        if self._switch is not None and task.moves:
            self._switch.release()
        if self.task is task:
            self.task = None
        if task.canceled and not ok:
            text = f"ended, {task.canceled}"
        if text:
            self._tell({"type": "result", "ok": ok, "text": f"{task.text}: {text}"[:600]})


def finite(value: float) -> float | None:
    """Return a number, or None for one that is not finite: JSON has neither infinity nor NaN."""
    return float(value) if math.isfinite(value) else None
