# SPDX-License-Identifier: Apache-2.0
"""Asks a server of the OpenAI chat completions API for the next tool call. Waits, but never longer than the task."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx2

from carm_agent.errors import AgentError
from carm_agent.ports import Interrupt
from carm_core.errors import ConfigurationError

LONGEST_REPLY = 2**18
"""Bytes of a reply; a longer one is broken off."""


class HeadServerError(AgentError):
    """The server gives no usable reply."""


@dataclass(frozen=True)
class HeadOptions:
    """Which server, and how it is asked.

    Attributes:
        url: of the API, for example ``http://127.0.0.1:8000/v1``.
        model: name of the model.
        api_key_env: environment variable with the key; the variable may be unset.
        reply_timeout_s: longest wait for one reply, s.
        reply_tokens: longest reply, tokens.
    """

    url: str
    model: str = "default"
    api_key_env: str = "CARM_HEAD_API_KEY"
    reply_timeout_s: float = 60.0
    reply_tokens: int = 512


@dataclass(frozen=True)
class ToolCall:
    """A call as the model wrote it, unchecked.

    Attributes:
        id: of the call.
        name: of the tool.
        arguments: JSON text.
    """

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class Reply:
    """One reply of the model.

    Attributes:
        content: text beside the calls; empty when there is none.
        calls: tool calls, in order.
        tokens: of prompt and reply, as the server counts, or estimated from the characters.
        raw: the message, as it goes back into the conversation.
    """

    content: str
    calls: tuple[ToolCall, ...]
    tokens: int
    raw: dict[str, Any] = field(default_factory=dict)


class ChatServer:
    """A server that is asked one question at a time."""

    def __init__(self, options: HeadOptions) -> None:
        """Check the address; nothing is sent.

        Args:
            options: which server, and how it is asked.

        Raises:
            ConfigurationError: the address is none.
        """
        try:
            url = httpx2.URL(options.url)
        except httpx2.InvalidURL as error:
            raise ConfigurationError(f"head_url {options.url!r} is no URL: {error}") from error
        if url.scheme not in ("http", "https") or not url.host:
            raise ConfigurationError(f"head_url must read http(s)://HOST:PORT/v1, not {options.url!r}")
        if url.userinfo:
            raise ConfigurationError(f"head_url must not hold a password; put the key into ${options.api_key_env}")
        self._options = options
        self._key = os.environ.get(options.api_key_env, "").strip() if options.api_key_env else ""

    def complete(
        self, messages: list[dict[str, Any]], tools: list[dict[str, Any]], interrupt: Interrupt, timeout_s: float
    ) -> Reply:
        """Ask for the next message.

        The request runs on a thread of its own, so that an interrupt ends the wait at once; what comes later is
        dropped.

        Args:
            messages: so far.
            tools: declarations.
            interrupt: of the task.
            timeout_s: longest wait, s; the options' one if that is shorter.

        Raises:
            HeadServerError: no usable reply came in time.
            InterruptedTaskError: the task is to end.
        """
        limit_s = min(timeout_s, self._options.reply_timeout_s)
        body = {
            "model": self._options.model,
            "messages": messages,
            "tools": tools,
            "tool_choice": "auto",
            "temperature": 0.0,
            "max_tokens": self._options.reply_tokens,
        }
        outcome: list[Reply | Exception] = []
        client = self._client(limit_s)

        def ask() -> None:
            try:
                outcome.append(_reply(self._send(client, body, time.monotonic() + limit_s), messages))
            except Exception as error:  # told on the task's thread
                outcome.append(error)
            interrupt.notify()

        threading.Thread(target=ask, name="head", daemon=True).start()
        try:
            if not interrupt.wait_for(lambda: bool(outcome), limit_s):
                raise HeadServerError(f"{self._options.url} gave no reply in {limit_s:.0f} s")
        finally:
            client.close()
        if isinstance(outcome[0], Reply):
            return outcome[0]
        if isinstance(outcome[0], HeadServerError):
            raise outcome[0]
        raise HeadServerError(f"{self._options.url} cannot be used: {self._clean(outcome[0])}")

    def _client(self, timeout_s: float) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return httpx2.Client(headers=headers, timeout=timeout_s)

    def _send(self, client: httpx2.Client, body: dict[str, Any], until_s: float) -> bytes:
        content = bytearray()
        with client.stream("POST", f"{self._options.url.rstrip('/')}/chat/completions", json=body) as response:
            for chunk in response.iter_bytes():
                content += chunk
                if len(content) > LONGEST_REPLY:
                    raise HeadServerError(f"{self._options.url} sends more than {LONGEST_REPLY} bytes")
                if time.monotonic() > until_s:
                    raise HeadServerError(f"{self._options.url} does not come to an end")
            if response.status_code != 200:
                reason = " ".join(content.decode(errors="replace").split())[:120]
                raise HeadServerError(f"{self._options.url} refuses ({response.status_code}): {self._clean(reason)}")
        return bytes(content)

    def _clean(self, reason: object) -> str:
        line = " ".join(str(reason).split()) or type(reason).__name__
        return line.replace(self._key, "***") if self._key else line


def _reply(content: bytes, messages: list[dict[str, Any]]) -> Reply:
    """Read a reply; whatever it says, only texts come out of it."""
    try:
        body = json.loads(content)
        message = body["choices"][0]["message"]
        json.dumps(message, ensure_ascii=False).encode()  # half characters cannot be sent back
        text = message.get("content") or ""
        raw_calls = message.get("tool_calls") or []
        calls = tuple(
            ToolCall(str(call.get("id") or f"call_{number}"), call["function"]["name"], call["function"]["arguments"])
            for number, call in enumerate(raw_calls)
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        raise HeadServerError(f"the reply is no chat completion: {content[:80]!r}") from None
    if not isinstance(text, str) or not all(
        isinstance(part, str) for call in calls for part in (call.name, call.arguments)
    ):
        raise HeadServerError(f"the reply is no chat completion: {content[:80]!r}")
    raw: dict[str, Any] = {"role": "assistant", "content": text}
    if calls:
        raw["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in calls
        ]
    return Reply(text, calls, _tokens(body, messages, content), raw)


def _tokens(body: dict[str, Any], messages: list[dict[str, Any]], content: bytes) -> int:
    """Tokens as counted by the server, but no fewer than a cautious estimate from the characters."""
    least = (len(json.dumps(messages)) + len(content)) // 8
    usage = body.get("usage")
    counted = usage.get("total_tokens") if isinstance(usage, dict) else None
    return max(least, counted) if isinstance(counted, int) else 2 * least
