# SPDX-License-Identifier: Apache-2.0
"""Sessions of the larger language model as tasks of the agent node."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from carm_interfaces.msg import Utterance

from carm_agent.dialogue.actions import Shift, Show, Turn
from carm_agent.errors import CanceledError, StoppedError
from carm_agent.llm import Budget, ChatServer, HeadCode, HeadOptions, HeadResult, Session, Transcript
from carm_agent.llm.tools import HeadHands, ToolError
from carm_agent.nodes.ros_ports import RosImager, RosLocalizer
from carm_agent.nodes.task_runner import LATCHED, TaskRunner
from carm_agent.planning.anatomical_views import find_anatomical_view
from carm_agent.planning.move import MoveCode
from carm_agent.ports import Interrupt
from carm_core.errors import GoalError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import landmark
from carm_core.localization import Protocol, Query
from carm_core.paths import cache_dir


class HeadDesk:
    """Starts sessions, one at a time, and passes the clinician's answers on to the one that runs."""

    def __init__(self, runner: TaskRunner, request_stop: Callable[[str], None]) -> None:
        """Check the settings; nothing is sent.

        Args:
            runner: Runs sessions and their moves.
            request_stop: Brings everything to rest; told why.

        Raises:
            ConfigurationError: The server's address or certificates cannot be used.
        """
        self._runner, self._request_stop, settings = runner, request_stop, runner.graph.parameters
        self._server = ChatServer(
            HeadOptions(
                settings.head_url,
                timeout_s=settings.head_reply_timeout_s,
                verify_tls=settings.head_verify_tls,
                ca_file=settings.head_ca_file,
                model=settings.head_model,
            )
        )
        self._budget = Budget(
            steps=settings.head_max_steps,
            tokens=settings.head_max_tokens,
            duration_s=settings.max_duration_s,
            exposures=settings.max_exposures,
        )
        folder = settings.head_transcripts
        self._folder = Path(folder).expanduser() if folder else cache_dir() / "transcripts"
        self._hands: NodeHeadHands | None = None

    def answer(self, words: str) -> bool:
        """Pass words on to a session that waits for an answer; return whether one does."""
        return self._hands is not None and self._hands.answer(words)

    def begin(self, words: str) -> Any:
        """Begin a session; return the future of its result and exception."""
        return self._runner.begin(f'working on "{words}"', lambda interrupt: self._run(words, interrupt))

    def _run(self, words: str, interrupt: Interrupt) -> HeadResult:
        if self._runner.graph.stays_stopped(interrupt):
            return HeadResult(HeadCode.STOPPED, False, LATCHED, 0, 0, 0.0)
        hands = self._hands = NodeHeadHands(self._runner, self._request_stop, interrupt)
        try:
            return Session(self._server, hands, interrupt, Transcript(self._folder), self._budget).run(words)
        finally:
            self._hands = None


class NodeHeadHands(HeadHands):
    """Tools of one session. Its calls block the task's thread; ``answer`` comes from the executor's."""

    def __init__(self, runner: TaskRunner, request_stop: Callable[[str], None], interrupt: Interrupt) -> None:
        """Serve one session.

        Args:
            runner: Moves, and says what is asked.
            request_stop: Brings everything to rest; told why.
            interrupt: Of the task.
        """
        self._runner, self._request_stop, self._interrupt = runner, request_stop, interrupt
        self._graph = graph = runner.graph
        self._imager, self._localizer = RosImager(graph, interrupt), RosLocalizer(graph, interrupt)
        self._ask_timeout_s = graph.parameters.confirm_timeout_s
        self._frame: XrayFrame | None = None
        self._lock = threading.Lock()
        self._awaits = False
        self._heard: str | None = None

    def answer(self, words: str) -> bool:
        """Take the clinician's words as the answer to an open question; return whether one is open."""
        with self._lock:
            if not self._awaits:
                return False
            self._awaits, self._heard = False, words
        self._interrupt.notify()
        return True

    def expose(self) -> dict[str, Any]:
        """See ``HeadHands.expose``."""
        self._frame = self._imager.expose().frame
        field_mm = self._frame.mm_per_px_at_isocenter * max(self._frame.image.shape)
        return {"taken": True, "field_mm": round(field_mm), **self._view()}

    def localize(self, target_id: int) -> dict[str, Any]:
        """See ``HeadHands.localize``."""
        if self._frame is None:
            raise ToolError("there is no image of the present view; take one first")
        reply = self._localizer.localize(self._frame, Query(Protocol.POINTING, target_id))
        estimate = reply.estimate(target_id) if reply.ok else None
        if estimate is None or not all(map(math.isfinite, estimate.displacement_mm)):
            return {"found": False, "reason": reply.message or "no answer"}
        return {
            "found": True,
            "landmark": landmark(target_id).name,
            "dx_mm": round(estimate.displacement_mm[0], 1) + 0.0,
            "dy_mm": round(estimate.displacement_mm[1], 1) + 0.0,
            "std_mm": _known(estimate.std_mm),
            "radius_90_mm": _known(estimate.radius_90_mm),
            "confidence": _known(estimate.confidence),
        }

    def move_view(self, dx_mm: float, dy_mm: float) -> dict[str, Any]:
        """See ``HeadHands.move_view``."""
        return self._moved(Shift(dx_mm, dy_mm))

    def set_angles(self, primary_deg: float, secondary_deg: float) -> dict[str, Any]:
        """See ``HeadHands.set_angles``."""
        return self._moved(Turn(primary_deg, secondary_deg))

    def show_view(self, view: str) -> dict[str, Any]:
        """See ``HeadHands.show_view``."""
        try:
            return self._moved(Show(find_anatomical_view(view).name))
        except (GoalError, UnknownNameError) as error:
            raise ToolError(str(error)) from error

    def ask(self, question: str) -> dict[str, Any]:
        """See ``HeadHands.ask``."""
        with self._lock:
            self._awaits, self._heard = True, None
        self._runner.say(Utterance.KIND_QUESTION, question)
        answered = self._interrupt.wait_for(lambda: self._heard is not None, self._ask_timeout_s)
        with self._lock:
            self._awaits = False
        return {"answer": self._heard} if answered else {"error": f"no answer in {self._ask_timeout_s:.0f} s"}

    def stop(self, reason: str) -> dict[str, Any]:
        """See ``HeadHands.stop``."""
        self._request_stop(f"the language model asked for it: {reason}")
        return {"stopped": True}

    def _moved(self, step: Shift | Turn | Show) -> dict[str, Any]:
        result = self._runner.move_from_here(step, self._interrupt)
        if result.error_code == MoveCode.STOPPED:
            raise StoppedError(result.error_msg)
        if result.error_code == MoveCode.CANCELED:
            raise CanceledError(result.error_msg)
        if result.error_code:
            return {"moved": False, "reason": result.error_msg}
        self._frame = None
        note = {"note": result.plan.note} if result.plan is not None and result.plan.note else {}
        return {"moved": True, **self._view(), **note}

    def _view(self) -> dict[str, Any]:
        positions = self._graph.joint_positions()
        primary, secondary = np.degrees(self._graph.carm.angles(positions))
        return {"primary_deg": round(float(primary), 1) + 0.0, "secondary_deg": round(float(secondary), 1) + 0.0}


def _known(value: float) -> float | None:
    return round(value, 2) + 0.0 if math.isfinite(value) else None
