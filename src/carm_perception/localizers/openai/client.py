# SPDX-License-Identifier: Apache-2.0
"""Client of the OpenAI chat completions API: one deadline, retries with back-off and jitter, TLS, no key in texts."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import ssl
import time
from pathlib import Path
from typing import Any

import httpx2

from carm_core.errors import ConfigurationError, LocalizerError
from carm_perception.localizers.openai.options import CONSTRAINTS, IMAGE_FORMATS, ServerOptions

logger = logging.getLogger(__name__)

_TRANSIENT = (408, 429, 500, 502, 503, 504)
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_LONGEST_REPLY = 2**20
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class ServerError(LocalizerError):
    """The server gives no answer.

    Attributes:
        status: HTTP status of its last reply; 0 when there was none.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        """Keep the status beside the message.

        Args:
            message: One line.
            status: HTTP status; 0: there was no reply.
        """
        super().__init__(message)
        self.status = status


class ChatClient:
    """Asks one server. Belongs to one event loop."""

    def __init__(self, options: ServerOptions) -> None:
        """Check the options; nothing is sent.

        Args:
            options: Which server, and how it is asked.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        url = _checked(options)
        self._options = options
        self._key = os.environ.get(options.api_key_env, "").strip() if options.api_key_env else ""
        if not self._key.isascii() or not (self._key or "x").isprintable():
            raise ConfigurationError(f"the key in {options.api_key_env} is not printable ASCII")
        if self._key and url.scheme == "http" and url.host not in _LOOPBACK:
            logger.warning("the API key travels unencrypted to %s", url.host)
        if not options.verify_tls:
            logger.warning("the certificate of %s is not checked", url.host)
        self._http = httpx2.AsyncClient(
            base_url=str(url).rstrip("/") + "/",
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            verify=_trust(options),
            timeout=options.timeout_s,
            trust_env=url.host not in _LOOPBACK,
        )

    async def models(self, deadline_s: float) -> list[dict[str, Any]]:
        """The server's models.

        Args:
            deadline_s: When to give up, monotonic, s.

        Raises:
            ServerError: There is no such answer in time.
        """
        reply = await self._ask("GET", "models", None, deadline_s)
        models = reply.get("data")
        if not isinstance(models, list) or not all(
            isinstance(m, dict) and isinstance(m.get("id"), str) for m in models
        ):
            raise ServerError(f"{self._options.url} gives no list of models")
        return models

    async def complete(self, payload: dict[str, Any], deadline_s: float) -> str:
        """The answer to a chat.

        Args:
            payload: Body of the request.
            deadline_s: When to give up, monotonic, s.

        Raises:
            ServerError: There is no such answer in time.
        """
        reply = await self._ask("POST", "chat/completions", payload, deadline_s)
        try:
            text = reply["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError):
            text = None
        if not isinstance(text, str):
            raise ServerError(f"{self._options.url} replies without a message")
        return text

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, method: str, path: str, payload: dict[str, Any] | None, deadline_s: float) -> dict[str, Any]:
        attempts = 1 + self._options.retries
        failure = ServerError(f"{self._options.url} gives no answer within {self._options.timeout_s:g} s")
        for attempt in range(attempts):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                break
            pause_s = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.0)
            try:
                async with asyncio.timeout(left_s):
                    status, content, wait_s = await self._send(method, path, payload)
            except TimeoutError:
                break
            except httpx2.HTTPError as error:
                failure = ServerError(f"{self._options.url} cannot be reached: {self._clean(error)}")
            else:
                if status == 200:
                    return _object(content, self._options.url)
                failure = ServerError(
                    f"{self._options.url} refuses ({status}): {self._clean(_reason(content))}", status
                )
                if status not in _TRANSIENT:
                    break
                pause_s = max(pause_s, wait_s)
            if attempt + 1 < attempts:
                logger.info("attempt %d of %d failed: %s", attempt + 1, attempts, failure)
                await asyncio.sleep(min(pause_s, max(deadline_s - time.monotonic(), 0)))
        raise failure

    async def _send(self, method: str, path: str, payload: dict[str, Any] | None) -> tuple[int, bytes, float]:
        """Send once; return status, body and how long the server asks to wait, s."""
        async with self._http.stream(method, path, json=payload) as response:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > _LONGEST_REPLY:
                    raise ServerError(f"{self._options.url} sends more than {_LONGEST_REPLY} bytes")
            wait = response.headers.get("retry-after", "")
            return response.status_code, bytes(body), float(wait) if wait.isdecimal() else 0.0

    def _clean(self, reason: object) -> str:
        """One line without the key."""
        line = " ".join(str(reason).split()) or type(reason).__name__
        return line.replace(self._key, "***") if self._key else line


def _checked(options: ServerOptions) -> httpx2.URL:
    try:
        url = httpx2.URL(options.url)
    except httpx2.InvalidURL as error:
        raise ConfigurationError(f"the server's address {options.url!r} is no URL: {error}") from error
    if url.userinfo:
        raise ConfigurationError("the server's address must not hold a password; put the key into the environment")
    if url.scheme not in ("http", "https") or not url.host:
        raise ConfigurationError(f"the server's address must read http(s)://HOST:PORT/v1, not {options.url!r}")
    for value, known, what in (
        (options.constrain, CONSTRAINTS, "server_constrain"),
        (options.image_format, IMAGE_FORMATS, "server_image_format"),
    ):
        if value not in known:
            raise ConfigurationError(f"{what} must be {', '.join(known)}, not {value!r}")
    if not options.timeout_s > 0 or options.retries < 0 or options.image_px < 16:
        raise ConfigurationError(
            f"timeout {options.timeout_s} s, {options.retries} retries and {options.image_px} px are no sound options"
        )
    return url


def _trust(options: ServerOptions) -> ssl.SSLContext | bool:
    if not options.verify_tls:
        return False
    if not options.ca_file:
        return True
    if not Path(options.ca_file).is_file():
        raise ConfigurationError(f"{options.ca_file} does not exist")
    try:
        return ssl.create_default_context(cafile=options.ca_file)
    except ssl.SSLError as error:
        raise ConfigurationError(f"{options.ca_file} holds no certificates: {error.reason}") from error


def _object(content: bytes, url: str) -> dict[str, Any]:
    try:
        reply = json.loads(content)
    except ValueError:
        reply = None
    if not isinstance(reply, dict):
        raise ServerError(f"{url} replies with something that is no JSON object")
    return reply


def _reason(content: bytes) -> str:
    """What an OpenAI-style error says, else the start of the body."""
    try:
        return str(json.loads(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
