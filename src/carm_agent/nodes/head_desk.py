# SPDX-License-Identifier: Apache-2.0
"""Sessions of the larger language model as tasks of the agent node."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_agent.llm import Budget, ChatServer, HeadCode, HeadOptions, HeadResult, Session, Transcript
from carm_agent.nodes.head_hands import NodeHeadHands
from carm_agent.ports import Interrupt
from carm_core.paths import cache_dir

if TYPE_CHECKING:
    from carm_agent.nodes.agent_node import AgentNode


class HeadDesk:
    """Starts sessions, one at a time, and passes the clinician's answers on to the one that runs."""

    def __init__(self, node: AgentNode) -> None:
        """Check the settings; nothing is sent.

        Args:
            node: the agent node.

        Raises:
            ConfigurationError: the server's address is none.
        """
        self._node, settings = node, node.settings
        self._server = ChatServer(
            HeadOptions(settings.head_url, settings.head_model, reply_timeout_s=settings.head_reply_timeout_s)
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
        return self._node.begin(f'working on "{words}"', lambda interrupt: self._run(words, interrupt))

    def _run(self, words: str, interrupt: Interrupt) -> HeadResult:
        if self._node.graph.stays_stopped(interrupt):
            text = "Stop is latched; the arm is at rest. Reset first."
            return HeadResult(HeadCode.STOPPED, False, text, 0, 0, 0.0)
        hands = self._hands = NodeHeadHands(self._node, interrupt, self._node.settings.confirm_timeout_s)
        try:
            return Session(self._server, hands, interrupt, Transcript(self._folder), self._budget).run(words)
        finally:
            self._hands = None
