# SPDX-License-Identifier: Apache-2.0
"""Which tools another agent may call, with what arguments, and how often."""

from __future__ import annotations

import json
import threading
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any

from carm_agent.llm.tools import LONGEST_TEXT, TOOLS, HeadHands, ToolError, checked_arguments
from carm_core.errors import CarmError

OFFERED = ("expose", "localize", "move_view", "set_angles", "show_view")
"""Tools of the agent's own language model that other agents may call as well. ``ask`` and ``report`` are for its
conversation with the clinician; a stop is below, since it must not wait for another call."""
_REST_S = 15.0
NAVIGATE, STATUS, STOP = "navigate", "status", "stop"


@dataclass(frozen=True)
class Offer:
    """A tool as it is announced.

    Attributes:
        name: As it is called.
        description: For the other agent.
        schema: JSON schema of the arguments.
        moves: Whether the arm may move, or X-rays be taken.
    """

    name: str
    description: str
    schema: dict[str, Any]
    moves: bool


@dataclass(frozen=True)
class Outcome:
    """What a call led to.

    Attributes:
        content: As JSON for the other agent.
        failed: Whether nothing, or not what was asked for, happened.
        png: An X-ray image to show; empty: none.
    """

    content: dict[str, Any]
    failed: bool = False
    png: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        """The content as text."""
        return json.dumps(self.content, allow_nan=False, default=str)


class GraphHands(HeadHands):
    """What the tools do in a running graph. Calls block, and come one at a time, except ``stop``."""

    png: bytes = b""
    """The image that ``expose`` took, display orientation, at most 512 pixels wide."""

    @abstractmethod
    def navigate(self, target_id: int) -> dict[str, Any]:
        """Let the agent bring a landmark to the image center; it takes the images itself."""

    @abstractmethod
    def status(self) -> dict[str, Any]:
        """Return what the arm does and where it stands."""

    @abstractmethod
    def interrupt(self) -> None:
        """End the call that runs; the arm decelerates to rest. From any thread."""

    @abstractmethod
    def resume(self) -> None:
        """Forget an interruption that no call has heeded."""

    def ask(self, question: str) -> dict[str, Any]:
        """Refuse: the other agent has its own user."""
        raise ToolError("ask your own user")


@dataclass(frozen=True)
class Budget:
    """What one connection may use.

    Attributes:
        calls: Calls of any tool but ``stop`` and ``status``.
        exposures: X-ray images, those that ``navigate`` may take included.
        exposures_per_task: That ``navigate`` may take.
    """

    calls: int = 200
    exposures: int = 60
    exposures_per_task: int = 12


class Desk:
    """Checks calls against schemas and budget, and carries them out."""

    def __init__(self, hands: GraphHands, budget: Budget | None = None) -> None:
        """Nothing is used up.

        Args:
            hands: Carry calls out.
            budget: What may be used.
        """
        self._hands, self._budget = hands, budget or Budget()
        self._calls = self._exposures = 0
        self._one_at_a_time = threading.Lock()
        self._running: threading.Event | None = None
        self._giving_up = threading.Lock()
        target = TOOLS["localize"].properties["target"]
        nothing: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}
        aim = {**nothing, "properties": {"target": target}, "required": ["target"]}
        brings = "Bring a landmark to the image center: the agent takes images, plans, moves and verifies by itself."
        stops = "Bring everything to rest at once, X-rays included. Nothing moves until a person resets it."
        self.offers = (
            *(Offer(name, TOOLS[name].description, TOOLS[name].schema, name != "localize") for name in OFFERED),
            Offer(NAVIGATE, brings, aim, True),
            Offer(STATUS, "Say what the arm does, where it stands, and what is left of the budget.", nothing, False),
            Offer(STOP, stops, TOOLS[STOP].schema, True),
        )

    def call(self, name: str, arguments: dict[str, Any], given_up: threading.Event | None = None) -> Outcome:
        """Carry out a call. A stop and the status may be asked for while another call runs.

        Args:
            name: Of the tool.
            arguments: As they came; a stop needs none.
            given_up: Of this call alone, for ``give_up``.

        Returns:
            What it led to; what is refused is an outcome as well.
        """
        try:
            if name == STATUS:
                return Outcome({**self._hands.status(), "left": self._left()})
            if name == STOP:  # whatever its arguments are
                return Outcome(self._hands.stop(str(arguments.get("reason", ""))[:LONGEST_TEXT]))
            given = self._checked(name, arguments)
            if not self._one_at_a_time.acquire(blocking=False):
                raise ToolError("another call is under way; wait for it, or stop")
            try:
                self._running = given_up
                if given_up is not None and given_up.is_set():
                    raise ToolError("it was given up before it began")
                self._count(name)
                return self._run(name, given)
            finally:
                with self._giving_up:
                    self._running = None
                    self._hands.resume()
                self._one_at_a_time.release()
        except CarmError as error:
            return Outcome({"error": str(error)}, failed=True)
        except KeyboardInterrupt:  # where a call waits for something else than a motion
            return Outcome({"error": "it was interrupted"}, failed=True)

    def give_up(self, call: threading.Event) -> None:
        """End a call that nobody waits for any more: it does not begin, or the arm decelerates to rest.

        Args:
            call: ``given_up`` of the call.
        """
        call.set()
        with self._giving_up:
            if self._running is call:
                self._hands.interrupt()

    def _checked(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if name not in {offer.name for offer in self.offers}:
            raise ToolError(f"there is no tool {name[:40]!r}; the tools are {', '.join(o.name for o in self.offers)}")
        return checked_arguments("localize" if name == NAVIGATE else name, json.dumps(arguments))

    def _run(self, name: str, given: dict[str, Any]) -> Outcome:
        if name == NAVIGATE:
            content = self._hands.navigate(given["target"])
        else:
            run = TOOLS[name].run
            assert run is not None
            content = run(self._hands, given)
        failed = content.get("moved") is False or content.get("found") is False or content.get("arrived") is False
        return Outcome(content, failed, self._hands.png if name == "expose" else b"")

    def _count(self, name: str) -> None:
        needed = {"expose": 1, NAVIGATE: self._budget.exposures_per_task}.get(name, 0)
        if self._calls >= self._budget.calls:
            raise ToolError(f"all {self._budget.calls} calls are used up")
        if self._exposures + needed > self._budget.exposures:
            raise ToolError(f"{name} may need {needed} X-ray images; {self._left()['exposures']} are left")
        self._calls += 1
        self._exposures += 1 if name == "expose" else 0

    def close(self) -> None:
        """End the call that runs, and wait for the arm to be at rest."""
        self._hands.interrupt()
        self._one_at_a_time.acquire(timeout=_REST_S)

    def used(self, exposures: int) -> None:
        """Count the images that a task took."""
        self._exposures += exposures

    def _left(self) -> dict[str, int]:
        return {
            "calls": self._budget.calls - self._calls,
            "exposures": max(0, self._budget.exposures - self._exposures),
        }
