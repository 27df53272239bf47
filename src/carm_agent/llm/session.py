# SPDX-License-Identifier: Apache-2.0
"""One request of the clinician, handled by a language model that calls tools until it reports."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from carm_agent.errors import InterruptedTaskError, StoppedError
from carm_agent.llm.client import ChatServer, Reply, ToolCall
from carm_agent.llm.tools import TOOLS, HeadHands, ToolError, checked_arguments
from carm_agent.llm.transcript import Transcript
from carm_agent.ports import Interrupt
from carm_core.errors import CarmError
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.language.chat_client import ChatError

INSTRUCTIONS = (
    "You steer an X-ray C-arm over a supine patient by calling tools, one at a time. Take an image, localize the"
    " landmark, move the image center towards it, verify with a new image, and report. Use few exposures. Left and"
    " right are the patient's. Every motion is planned, checked and may be refused; a refusal is final for that goal."
    " Ask the clinician when you are not sure. Report a success only after a new image has verified it. The landmarks: "
    + ", ".join(f"{mark.id} {mark.name}" for mark in ALL_LANDMARKS)
    + "."
)
"""System prompt."""

_USE_TOOLS = "Answer with one tool call. When you are done, call `report`."


class HeadCode(StrEnum):
    """How a session ended."""

    REPORTED = "the language model says so; not verified"
    STOPPED = "stopped"
    CANCELED = "canceled"
    STEPS = "all steps are used up"
    TOKENS = "all tokens are used up"
    TIME = "the time is used up"
    NONSENSE = "the model gave nothing usable"
    SERVER = "the server gave no usable reply"


@dataclass(frozen=True)
class Budget:
    """What one session may use.

    Attributes:
        steps: Replies of the model.
        tokens: Of all requests and replies.
        duration_s: s.
        exposures: Calls of ``expose``; more are refused.
        calls_per_reply: Tool calls in one reply; more are refused as a flood.
        nonsense: Replies in a row without a usable call, after which the session ends.
    """

    steps: int = 20
    tokens: int = 40_000
    duration_s: float = 180.0
    exposures: int = 15
    calls_per_reply: int = 4
    nonsense: int = 3


@dataclass(frozen=True)
class HeadResult:
    """How a session ended; the arm is at rest.

    Attributes:
        code: why.
        success: Whether the model reports success.
        text: For the clinician.
        steps: Replies of the model.
        tokens: used.
        duration_s: s.
    """

    code: HeadCode
    success: bool
    text: str
    steps: int
    tokens: int
    duration_s: float


class _End(Exception):
    """The session ends."""

    def __init__(self, code: HeadCode, text: str, success: bool = False) -> None:
        self.code, self.text, self.success = code, text, success
        super().__init__(text)


class Session:
    """Runs on the task's thread."""

    def __init__(
        self,
        server: ChatServer,
        hands: HeadHands,
        interrupt: Interrupt,
        transcript: Transcript,
        budget: Budget | None = None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare.

        Args:
            server: Is asked for tool calls.
            hands: Carry them out.
            interrupt: Ends the session.
            transcript: Of everything that is said and done.
            budget: What may be used.
            now_s: Monotonic time, s.
        """
        self._server, self._hands, self._interrupt = server, hands, interrupt
        self._transcript, self._budget, self._now_s = transcript, budget or Budget(), now_s
        self._messages: list[dict[str, Any]] = []
        self._tools = [tool.declaration() for tool in TOOLS.values()]
        self._steps = self._tokens = self._nonsense = self._exposures = 0
        self._started_s = 0.0

    def run(self, words: str) -> HeadResult:
        """Handle one sentence from the clinician.

        Args:
            words: What the clinician wants.

        Returns:
            How it ended. Expected failures are results, not exceptions.
        """
        self._started_s = self._now_s()
        self._put({"role": "system", "content": INSTRUCTIONS})
        self._put({"role": "user", "content": words})
        try:
            while True:
                self._step()
        except _End as end:
            code, text, success = end.code, end.text, end.success
        except StoppedError as error:
            code, text, success = HeadCode.STOPPED, f"Stopped: {error}. The arm is at rest.", False
        except InterruptedTaskError as error:
            code, text, success = HeadCode.CANCELED, f"Ended: {error}. The arm is at rest.", False
        duration_s = self._now_s() - self._started_s
        result = HeadResult(code, success, text, self._steps, self._tokens, duration_s)
        self._transcript.add("end", code=code.value, success=success, text=text, steps=self._steps, tokens=self._tokens)
        self._transcript.close()
        return result

    def _put(self, message: dict[str, Any]) -> None:
        self._messages.append(message)
        self._transcript.add("message", **message)

    def _step(self) -> None:
        self._check_budget()
        self._steps += 1
        left_s = self._budget.duration_s - (self._now_s() - self._started_s)
        try:
            reply = self._server.complete(self._messages, self._tools, self._interrupt, left_s)
        except ChatError as error:
            self._transcript.add("server", problem=str(error))
            raise _End(HeadCode.SERVER, f"I gave up: {error}.") from None
        self._tokens += reply.tokens
        usable = self._handle(reply)
        self._nonsense = 0 if usable else self._nonsense + 1
        if self._nonsense >= self._budget.nonsense:
            text = f"I gave up: the language model gave nothing usable {self._nonsense} times in a row."
            raise _End(HeadCode.NONSENSE, text)

    def _check_budget(self) -> None:
        self._interrupt.check()
        if self._steps >= self._budget.steps:
            raise _End(HeadCode.STEPS, f"I gave up: all {self._budget.steps} steps are used up.")
        if self._tokens >= self._budget.tokens:
            raise _End(HeadCode.TOKENS, f"I gave up: all {self._budget.tokens} tokens are used up.")
        self._check_time()

    def _check_time(self) -> None:
        if self._now_s() - self._started_s >= self._budget.duration_s:
            raise _End(HeadCode.TIME, f"I gave up: the time of {self._budget.duration_s:.0f} s is used up.")

    def _handle(self, reply: Reply) -> bool:
        """Execute a reply; return whether anything in it was usable."""
        if len(reply.calls) > self._budget.calls_per_reply:
            count = len(reply.calls)
            self._transcript.add("flood", calls=count)
            self._put({"role": "assistant", "content": f"({count} tool calls, refused)"})
            self._put({"role": "user", "content": f"{count} calls at once are refused, all of them. {_USE_TOOLS}"})
            return False
        self._put(reply.raw)
        if not reply.calls:
            self._put({"role": "user", "content": _USE_TOOLS})
            return False
        usable = [self._call(call) for call in reply.calls]  # each call needs its answer
        return any(usable)

    def _call(self, call: ToolCall) -> bool:
        """Execute one call and report the result to the model; return whether the call was valid."""
        self._interrupt.check()
        self._check_time()
        try:
            given = checked_arguments(call.name, call.arguments)
            self._count(call.name)
        except ToolError as error:
            self._answer(call, {"error": str(error)})
            return False
        run = TOOLS[call.name].run
        if run is None:
            self._answer(call, {"ended": True})
            raise _End(HeadCode.REPORTED, given["text"], given["success"])
        try:
            outcome = run(self._hands, given)
        except InterruptedTaskError:
            raise
        except CarmError as error:
            outcome = {"error": str(error)}
        self._answer(call, outcome)
        if call.name == "stop":
            raise _End(HeadCode.STOPPED, f"The language model asked for a stop: {given['reason']}")
        return True

    def _count(self, name: str) -> None:
        if name == "expose":
            if self._exposures >= self._budget.exposures:
                raise ToolError(f"all {self._budget.exposures} exposures are used up")
            self._exposures += 1

    def _answer(self, call: ToolCall, content: dict[str, Any]) -> None:
        text = json.dumps(content, allow_nan=False, default=str)
        self._put({"role": "tool", "tool_call_id": call.id, "content": text})
