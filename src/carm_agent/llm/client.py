# SPDX-License-Identifier: Apache-2.0
"""Asks a server of the OpenAI chat completions API for the next tool call. Waits, but never longer than the task."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from carm_agent.ports import Interrupt
from carm_core.language.chat_client import ChatClient, ChatError, ChatOptions

LONGEST_REPLY = 2**18
"""Bytes of a reply; a longer one is broken off."""
_GRACE_S = 1.0
"""What the client may be late in keeping its own deadline, s."""


@dataclass(frozen=True)
class HeadOptions(ChatOptions):
    """Which server, and how it is asked.

    Attributes:
        model: name of the model.
        reply_tokens: longest reply, tokens.
    """

    api_key_env: str = "CARM_HEAD_API_KEY"
    timeout_s: float = 60.0
    retries: int = 2
    model: str = "default"
    reply_tokens: int = 512


@dataclass(frozen=True)
class ToolCall:
    """A call as the model wrote it, unchecked.

    Attributes:
        id: Of the call.
        name: Of the tool.
        arguments: JSON text.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """One reply of the model.

    Attributes:
        content: Text beside the calls; empty when there is none.
        calls: Tool calls, in order.
        tokens: Of prompt and reply, as the server counts, or estimated from the characters.
        raw: The message, as it goes back into the conversation.
    """

    content: str
    calls: tuple[ToolCall, ...]
    tokens: int
    raw: dict[str, Any] = field(default_factory=dict)


class ChatServer:
    """A server that is asked one question at a time."""

    def __init__(self, options: HeadOptions) -> None:
        """Check the options; nothing is sent.

        Args:
            options: Which server, and how it is asked.

        Raises:
            ConfigurationError: an option cannot be used.
        """
        self._options = options
        self._client = ChatClient(options, LONGEST_REPLY)

    def complete(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], interrupt: Interrupt, timeout_s: float
    ) -> Reply:
        """Ask for the next message. An interrupt ends the wait at once; what comes later is dropped.

        Args:
            messages: So far.
            tools: declarations.
            interrupt: Of the task.
            timeout_s: Longest wait, s; the options' one if that is shorter.

        Raises:
            ChatError: no usable reply came in time.
            InterruptedTaskError: the task is to end.
        """
        limit_s = min(timeout_s, self._options.timeout_s)
        body = {
            "model": self._options.model,
            "messages": messages,
            "tools": tools,
            "tool_choice": "auto",
            "temperature": 0.0,
            "max_tokens": self._options.reply_tokens,
        }
        asked = self._client.submit(self._client.complete(body, time.monotonic() + limit_s))
        asked.add_done_callback(lambda _: interrupt.notify())
        try:
            if not interrupt.wait_for(asked.done, limit_s + _GRACE_S):
                raise ChatError(f"{self._options.url} gives no answer within {limit_s:g} s")
            return _reply(asked.result(), messages)
        finally:
            asked.cancel()


def _reply(body: dict[str, Any], messages: list[dict[str, Any]]) -> Reply:
    """Read a reply; whatever it says, only texts come out of it."""
    message = body["choices"][0]["message"]
    try:
        json.dumps(message, ensure_ascii=False).encode()  # half characters cannot be sent back
        text = message.get("content") or ""
        raw_calls = message.get("tool_calls") or []
        calls = tuple(
            ToolCall(str(call.get("id") or f"call_{number}"), call["function"]["name"], call["function"]["arguments"])
            for number, call in enumerate(raw_calls)
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise ChatError(f"the reply is no chat completion: {str(message)[:80]!r}") from None
    if not isinstance(text, str) or not all(
        isinstance(part, str) for call in calls for part in (call.name, call.arguments)
    ):
        raise ChatError(f"the reply is no chat completion: {str(message)[:80]!r}")
    raw: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        raw["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return Reply(text, calls, _tokens(body, messages), raw)


def _tokens(body: dict[str, Any], messages: list[dict[str, Any]]) -> int:
    """Tokens as counted by the server, but no fewer than a cautious estimate from the characters."""
    least = (len(json.dumps(messages)) + len(json.dumps(body))) // 8
    usage = body.get("usage")
    counted = usage.get("total_tokens") if isinstance(usage, dict) else None
    return max(least, counted) if isinstance(counted, int) else 2 * least
