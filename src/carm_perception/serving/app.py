# SPDX-License-Identifier: Apache-2.0
"""The HTTP application: chat completions, models, health."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import time
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from carm_core.data_files import parse_json
from carm_core.errors import CarmError
from carm_perception.localizers.huggingface.generator import Completion
from carm_perception.serving.backends import Backend
from carm_perception.serving.chat import ApiError, ChatRequest, read_request
from carm_perception.serving.connections import Part, Share
from carm_perception.serving.request_queue import RequestQueue

logger = logging.getLogger(__name__)

OWNER = "carm"
_CLIENT_CLOSED = 499
_PARSED_AT_ONCE = 2


@dataclass(frozen=True)
class Limits:
    """What a client may ask for.

    Attributes:
        body_bytes: Largest request.
        image_px: Longest side of an image.
        queue: Most requests that wait.
        upload_s: Longest time until a request has arrived, s.
        bodies: Bodies of the largest size that may be here at once.
        images: Images of the largest size that may be decoded at once; further ones wait.
        patience_s: Longest wait for that, s.
    """

    body_bytes: int = 16 * 2**20
    image_px: int = 4096
    queue: int = 64
    upload_s: float = 30.0
    bodies: int = 8
    images: int = 8
    patience_s: float = 10.0


class Api:
    """Routes and their common state."""

    def __init__(self, backend: Backend, limits: Limits, api_key: str) -> None:
        """Keep what the routes need.

        Args:
            backend: The model.
            limits: What a client may ask for.
            api_key: Clients must send it; empty: none is needed.
        """
        self._backend, self._limits, self._key = backend, limits, api_key.encode()
        self._started = int(time.time())
        self._bytes = Share(limits.bodies * limits.body_bytes, 0.0)
        self._pixels = Share(limits.images * limits.image_px**2, limits.patience_s)
        self._parsing = asyncio.Semaphore(_PARSED_AT_ONCE)
        self._queue: RequestQueue | None = None

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Run the queue while the server runs."""
        del app
        self._queue = RequestQueue(self._backend, self._limits.queue)
        worker = asyncio.create_task(self._queue.run())
        try:
            yield
        finally:
            worker.cancel()
            self._queue.close()

    async def health(self, request: Request) -> Response:
        """Ready, and how many requests wait; needs no key."""
        del request
        waiting = self._queue.waiting if self._queue else 0
        return JSONResponse({"status": "ok", "model": self._backend.name, "waiting": waiting})

    async def models(self, request: Request) -> Response:
        """Return the one model."""
        self._authorize(request)
        return JSONResponse({"object": "list", "data": [self._description()]})

    async def model(self, request: Request) -> Response:
        """Return the one model, by its name."""
        self._authorize(request)
        self._check_name(request.path_params["name"])
        return JSONResponse(self._description())

    async def chat(self, request: Request) -> Response:
        """Answer one chat."""
        self._authorize(request)
        with self._bytes.part() as size, self._pixels.part() as pixels:
            body = await self._body(request, size)
            try:
                async with self._parsing:
                    content = await run_in_threadpool(parse_json, body)
            except ValueError as error:
                raise ApiError(400, f"the request is no JSON: {error}", code="invalid_json") from error
            wanted = await run_in_threadpool(read_request, content, self._limits.image_px, pixels.grow)
            if wanted.model:
                self._check_name(wanted.model)
            done = await self._answer(request, wanted)
        if done is None:
            return Response(status_code=_CLIENT_CLOSED)
        return JSONResponse(_completion(self._backend.name, done))

    def _description(self) -> dict[str, Any]:
        return {"id": self._backend.name, "object": "model", "created": self._started, "owned_by": OWNER}

    def _check_name(self, name: str) -> None:
        if name != self._backend.name:
            message = f"the model {name!r} does not exist; this server has {self._backend.name!r}"
            raise ApiError(404, message, code="model_not_found", param="model")

    async def _answer(self, request: Request, wanted: ChatRequest) -> Completion | None:
        """Return the answer; None when the client went away."""
        assert self._queue is not None
        answer = asyncio.ensure_future(self._queue.answer(wanted))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            return await answer if answer.done() else None
        finally:
            gone.cancel()
            answer.cancel()

    async def _body(self, request: Request, size: Part) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(self._limits.upload_s):
                async for chunk in request.stream():
                    size.grow(len(chunk))
                    body += chunk
                    if len(body) > self._limits.body_bytes:
                        message = f"the request exceeds {self._limits.body_bytes} bytes"
                        raise ApiError(413, message, code="request_too_large")
        except TimeoutError as error:
            raise ApiError(408, f"the request took longer than {self._limits.upload_s:g} s to arrive") from error
        return bytes(body)

    def _authorize(self, request: Request) -> None:
        if not self._key:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, self._key):
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key", kind="authentication_error")


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _completion(model: str, done: Completion) -> dict[str, Any]:
    message = {"role": "assistant", "content": done.text, "refusal": None}
    reason = "stop" if done.finished else "length"
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reason}],
        "usage": {
            "prompt_tokens": done.prompt_tokens,
            "completion_tokens": done.tokens,
            "total_tokens": done.prompt_tokens + done.tokens,
        },
    }


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, CarmError)
    shown = error if isinstance(error, ApiError) else ApiError(400, str(error))
    headers = {"Retry-After": "1"} if shown.status in (429, 503) else None
    return JSONResponse(shown.body(), shown.status, headers)


async def _not_here(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}"
    if error.status_code == HTTPStatus.NOT_FOUND:
        message += "; this server has /v1/chat/completions, /v1/models and /health"
    return JSONResponse(ApiError(error.status_code, message).body(), error.status_code, error.headers)


async def _failed(request: Request, error: Exception) -> Response:
    del request
    logger.error("the model failed: %s: %s", type(error).__name__, (str(error).splitlines() or [""])[0])
    return JSONResponse(ApiError(500, "the model failed", kind="server_error").body(), 500)


def make_app(backend: Backend, limits: Limits | None = None, api_key: str = "") -> Starlette:
    """Make the application.

    Args:
        backend: The model, loaded.
        limits: What a client may ask for.
        api_key: Clients must send it; empty: none is needed.
    """
    api = Api(backend, limits or Limits(), api_key)
    routes = [
        Route("/health", api.health),
        Route("/v1/models", api.models),
        Route("/v1/models/{name:path}", api.model),
        Route("/v1/chat/completions", api.chat, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {
        CarmError: _refused,
        HTTPException: _not_here,
        RuntimeError: _failed,
        ValueError: _failed,
    }
    handlers |= {IndexError: _failed, Exception: _failed}
    return Starlette(routes=routes, lifespan=api.lifespan, exception_handlers=handlers)
