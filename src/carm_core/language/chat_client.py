# SPDX-License-Identifier: Apache-2.0
"""Client of the OpenAI chat completions API: the library ``openai`` under one deadline, with bounded replies.

The library takes keys, headers and addresses from ``OPENAI_*`` environment variables; none of them reaches a server
from here. The libraries are imported with the first client, because that takes a second.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from carm_core.data_files import parse_json
from carm_core.errors import CarmError, ConfigurationError, plain_line

if TYPE_CHECKING:
    import httpx2

logger = logging.getLogger(__name__)

_LONGEST_REASON = 500
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SENT = {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "user-agent"}

T = TypeVar("T")


class ChatError(CarmError):
    """The server gives no usable answer.

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


@dataclass(frozen=True)
class ChatOptions:
    """Which server, and how it is asked.

    Attributes:
        url: Base address of the API, up to and with ``/v1``.
        api_key_env: Environment variable that holds the key; not set: none is sent.
        timeout_s: Longest wait for an answer, all attempts together, s.
        retries: Further attempts when the server cannot be reached or is busy.
        verify_tls: Check the server's certificate.
        ca_file: Certificates (PEM) to check it against; empty: those of this machine.
    """

    url: str = "http://127.0.0.1:8000/v1"
    api_key_env: str = "CARM_API_KEY"
    timeout_s: float = 20.0
    retries: int = 3
    verify_tls: bool = True
    ca_file: str = ""


class ChatClient:
    """Asks one server, from any thread. The requests run on an event loop of the client's own thread."""

    def __init__(self, options: ChatOptions, longest_reply: int = 2**20) -> None:
        """Check the options; nothing is sent.

        Args:
            options: Which server, and how it is asked.
            longest_reply: Longest body of a reply, bytes; a longer one is broken off.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        url, trust = _checked_url(options), _trust(options)
        self._options = options
        self._key = os.environ.get(options.api_key_env, "").strip() if options.api_key_env else ""
        if not self._key.isascii() or not (self._key or "x").isprintable():
            raise ConfigurationError(f"the key in {options.api_key_env} is not printable ASCII")
        if self._key and url.scheme == "http" and url.hostname not in _LOOPBACK:
            logger.warning("the API key travels unencrypted to %s", url.hostname)
        if not options.verify_tls:
            logger.warning("the certificate of %s is not checked", url.hostname)
        import openai

        self._last_status = 0
        self._openai = openai.AsyncOpenAI(
            api_key=self._key or "none",
            admin_api_key="",
            base_url=options.url,
            timeout=options.timeout_s,
            max_retries=options.retries,
            http_client=_http_client(
                self._key,
                longest_reply,
                verify=trust,
                timeout=options.timeout_s,
                trust_env=url.hostname not in _LOOPBACK,
                event_hooks={"response": [self._note]},
            ),
        )
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run_loop, name="chat", daemon=True).start()

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin work that awaits this client; canceling the future breaks the request off."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def models(self, deadline_s: float) -> list[dict[str, Any]]:
        """Return the server's models.

        Args:
            deadline_s: When to give up, monotonic, s.

        Raises:
            ChatError: There is no such answer in time.
        """
        models = (await self._ask("GET", "models", None, deadline_s)).get("data")
        if not isinstance(models, list) or not all(
            isinstance(m, dict) and isinstance(m.get("id"), str) for m in models
        ):
            raise ChatError(f"{self._options.url} gives no list of models")
        return models

    async def complete(self, payload: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        """Return the reply to a chat: a JSON object whose ``choices[0].message`` is an object, otherwise unchecked.

        Args:
            payload: Body of the request.
            deadline_s: When to give up, monotonic, s.

        Raises:
            ChatError: There is no such answer in time.
        """
        reply = await self._ask("POST", "chat/completions", payload, deadline_s)
        try:
            reply["choices"][0]["message"].items()
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ChatError(f"{self._options.url} replies without a message") from None
        return reply

    def close(self) -> None:
        """Close the connections and end the thread."""
        self.submit(self._openai.close()).result()
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _run_loop(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    async def _note(self, response: httpx2.Response) -> None:
        self._last_status = response.status_code

    async def _ask(self, method: str, path: str, payload: dict[str, Any] | None, deadline_s: float) -> dict[str, Any]:
        import httpx2
        import openai

        url, left_s = self._options.url, deadline_s - time.monotonic()
        self._last_status = 0
        try:
            async with asyncio.timeout(left_s):
                if method == "GET":
                    response = await self._openai.get(path, cast_to=httpx2.Response)
                else:
                    response = await self._openai.post(path, cast_to=httpx2.Response, body=payload)
        except TimeoutError:
            last = f"; its last reply was {self._last_status}" if self._last_status else ""
            raise ChatError(f"{url} gives no answer within {max(round(left_s, 1), 0):g} s{last}") from None
        except openai.APIStatusError as error:
            reason = self._clean(_reason(error.response.content))
            raise ChatError(f"{url} refuses ({error.status_code}): {reason}", error.status_code) from None
        except openai.OpenAIError as error:
            raise ChatError(f"{url} cannot be reached: {self._clean(error.__cause__ or error)}") from None
        try:
            reply = parse_json(response.content)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise ChatError(f"{url} replies with something that is no JSON object")
        return reply

    def _clean(self, reason: object) -> str:
        """Return one line without the key, and without what a terminal would obey."""
        line = str(reason).replace(self._key, "***") if self._key else str(reason)
        return plain_line(line, _LONGEST_REASON) or type(reason).__name__


def _checked_url(options: ChatOptions) -> SplitResult:
    try:
        url = urlsplit(options.url)
        _ = url.port
    except ValueError as error:
        raise ConfigurationError(f"the server's address {options.url!r} is no URL: {error}") from error
    if url.username is not None:
        raise ConfigurationError(
            f"the server's address must not hold a password; put the key into ${options.api_key_env}"
        )
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigurationError(f"the server's address must read http(s)://HOST:PORT/v1, not {options.url!r}")
    if not options.timeout_s > 0 or options.retries < 0:
        raise ConfigurationError(f"timeout {options.timeout_s} s and {options.retries} retries are no sound options")
    return url


def _trust(options: ChatOptions) -> ssl.SSLContext | bool:
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


def _http_client(key: str, longest_reply: int, **settings: Any) -> httpx2.AsyncClient:
    """Make a client that sends no header but the usual ones and the key, and reads no more than it should."""
    import httpx2

    class BoundedClient(httpx2.AsyncClient):
        async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
            for name in set(request.headers) - _SENT:
                del request.headers[name]
            if key:
                request.headers["Authorization"] = f"Bearer {key}"
            response = await super().send(request, **(options | {"stream": True}))
            body = bytearray()
            try:
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > longest_reply:
                        raise ChatError(f"{request.url.host} sends more than {longest_reply} bytes")
            finally:
                await response.aclose()
            wait = {name: response.headers[name] for name in ("retry-after",) if name in response.headers}
            return httpx2.Response(response.status_code, headers=wait, content=bytes(body), request=request)

    return BoundedClient(**settings)


def _reason(content: bytes) -> str:
    """Return what an OpenAI-style error says, else the start of the body."""
    try:
        return str(parse_json(content)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return content[:200].decode(errors="replace")
