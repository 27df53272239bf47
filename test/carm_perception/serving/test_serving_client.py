# SPDX-License-Identifier: Apache-2.0
"""The localizer `openai` against servers that misbehave, and the server's queue with a model that waits."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Protocol, Query
from carm_perception.localizers.huggingface.generator import Completion
from carm_perception.localizers.openai.localizer import OpenAiLocalizer
from carm_perception.localizers.openai.options import CONSTRAINTS, ServerOptions
from carm_perception.localizers.registry import LocalizerOptions, make_localizer
from carm_perception.protocols.grammar import grammar
from carm_perception.serving.app import Limits, make_app
from carm_perception.serving.backends import Backend, make_backend
from carm_perception.serving.chat import ChatRequest

from ..tiny_models import build
from .server import PATIENCE_S, served

POINT = Query(Protocol.POINTING, 11)
RIGHT = '{"target": 11, "dx_mm": -42, "dy_mm": 118}'


def frame(side: int = 64) -> XrayFrame:
    return XrayFrame(np.random.default_rng(0).integers(0, 256, (side, side)).astype(np.uint8), 1.6, 0.0)


def said(text: Any) -> Response:
    return JSONResponse({"choices": [{"message": {"content": text}}]})


class Script:
    """A server that replies by a list, then by its last entry; keeps what it was sent."""

    def __init__(self, *replies: Response | Callable[[], Response]) -> None:
        self.replies = list(replies)
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.asked = threading.Event()
        self.app = Starlette(
            routes=[Route("/v1/models", self.models), Route("/v1/chat/completions", self.chat, methods=["POST"])]
        )

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": "foreign-vl"}]})

    async def chat(self, request: Request) -> Response:
        self.bodies.append(json.loads(await request.body()))
        self.keys.append(request.headers.get("authorization"))
        self.asked.set()
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, Response):
            return reply
        import anyio

        return await anyio.to_thread.run_sync(reply)


def ask(script: Script, query: Query = POINT, **options: Any) -> Any:
    with served(script.app) as url:
        localizer = OpenAiLocalizer(ServerOptions(**{"url": url, "timeout_s": 20.0, **options}))
        try:
            return localizer.localize(frame(), query)
        finally:
            localizer.close()


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_busy_server_is_asked_again(status: int) -> None:
    script = Script(JSONResponse({"error": {"message": "busy"}}, status), said(RIGHT))
    reply = ask(script)
    assert reply.ok
    assert reply.estimates[0].displacement_mm == (-42, 118)
    assert len(script.bodies) == 2


@pytest.mark.parametrize(
    ("reply", "message", "times"),
    [
        (JSONResponse({"error": {"message": "busy"}}, 503), "503.*busy", 3),
        (JSONResponse({"error": {"message": "no such thing"}}, 400), "400.*no such thing", 1),
        (Response(b"<html>", 403), "403.*<html>", 1),
        (Response(b"{", media_type="application/json"), "no JSON object", 1),
        (JSONResponse([1]), "no JSON object", 1),
        (JSONResponse({"choices": []}), "without a message", 1),
        (said(None), "without a message", 1),
        (Response(b"x" * (2**20 + 1)), "more than 1048576 bytes", 1),
        (Response(status_code=307, headers={"location": "http://127.0.0.1:1/"}), "307", 1),
    ],
)
def test_what_is_no_answer_is_a_typed_failure(reply: Response, message: str, times: int) -> None:
    import re

    script = Script(reply)
    result = ask(script, retries=2)
    assert result.error == "internal"
    assert re.search(message, result.message)
    assert "\n" not in result.message
    assert len(script.bodies) == times


def test_answer_that_breaks_the_protocol_is_asked_again_once() -> None:
    script = Script(said("I think so."), said(RIGHT))
    assert ask(script).ok
    first, second = (body["messages"][0]["content"][1]["text"] for body in script.bodies)
    assert second.startswith(first)
    assert len(second) > len(first)
    script = Script(said("I think so."))
    reply = ask(script)
    assert (reply.error, reply.answer, len(script.bodies)) == ("malformed", "I think so.", 2)


def test_server_that_is_not_there_is_a_typed_failure_within_the_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    localizer = OpenAiLocalizer(ServerOptions(url=f"http://127.0.0.1:{port}/v1", retries=2, timeout_s=20))
    localizer.warm_up()
    reply = localizer.localize(frame(), POINT)
    assert reply.error == "internal"
    assert "cannot be reached" in reply.message
    assert reply.latency_s < 10


def test_silent_server_is_given_up_in_time_and_a_canceled_question_at_once() -> None:
    go_on = threading.Event()
    script = Script(lambda: (go_on.wait(PATIENCE_S), said(RIGHT))[1])
    with served(script.app) as url:
        try:
            late = OpenAiLocalizer(ServerOptions(url=url, model="m", timeout_s=0.3)).localize(frame(), POINT)
            assert late.error == "internal"
            assert "within 0.3 s" in late.message
            script.asked.clear()
            patient = OpenAiLocalizer(ServerOptions(url=url, model="m", timeout_s=PATIENCE_S))
            replies: list[Any] = []
            thread = threading.Thread(target=lambda: replies.append(patient.localize(frame(), POINT)))
            start = time.monotonic()
            thread.start()
            assert script.asked.wait(PATIENCE_S)
            patient.cancel()
            thread.join(PATIENCE_S)
            assert time.monotonic() - start < PATIENCE_S / 2
            assert (replies[0].error, replies[0].message) == ("internal", "canceled")
        finally:
            go_on.set()
        assert patient.localize(frame(), POINT).ok


def test_key_goes_to_the_server_and_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MY_KEY", "secret-1234")
    script = Script(JSONResponse({"error": {"message": "wrong key: secret-1234"}}, 401))
    with caplog.at_level("DEBUG"):
        reply = ask(script, api_key_env="MY_KEY")
    assert script.keys == ["Bearer secret-1234"]
    assert "wrong key: ***" in reply.message
    assert "secret-1234" not in caplog.text + reply.message
    script = Script(said(RIGHT))
    assert ask(script, api_key_env="NOT_SET_ANYWHERE").ok
    assert script.keys == [None]


@pytest.mark.parametrize(("kind", "side", "sent"), [("png", 64, 64), ("png", 300, 128), ("jpeg", 300, 128)])
def test_image_is_sent_in_the_form_and_size_asked_for(kind: str, side: int, sent: int) -> None:
    script = Script(said(RIGHT))
    with served(script.app) as url:
        options = ServerOptions(url=url, image_px=128, image_format=kind)
        assert OpenAiLocalizer(options).localize(frame(side), POINT).ok
    body = script.bodies[0]
    address = body["messages"][0]["content"][0]["image_url"]["url"]
    assert address.startswith(f"data:image/{kind};base64,")
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert (image.size, image.mode) == ((sent, sent), "L")
    assert body["model"] == "foreign-vl"
    assert "The image shows" in body["messages"][0]["content"][1]["text"]


def test_command_goes_without_an_image() -> None:
    script = Script(said('{"intent": "stop"}'))
    assert ask(script, Query(Protocol.COMMAND, hint="stop")).ok
    assert [part["type"] for part in script.bodies[0]["messages"][0]["content"]] == ["text"]


@pytest.mark.parametrize("way", CONSTRAINTS)
def test_grammar_is_told_in_the_way_asked_for(way: str) -> None:
    script = Script(said(RIGHT))
    assert ask(script, constrain=way).ok
    body, allowed = script.bodies[0], grammar(POINT)
    told = {
        "none": None,
        "structured_outputs": {"regex": allowed.regex},
        "guided_regex": allowed.regex,
        "response_format": {"type": "json_schema"},
    }[way]
    if way == "response_format":
        assert body[way]["json_schema"]["schema"]["properties"]["target"]["enum"] == [11]
    else:
        assert body.get(way) == told
    assert body["max_tokens"] == (allowed.longest + 1 if "regex" in str(told) or way == "guided_regex" else 256)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://host/v1"}, "http"),
        ({"url": "host:8000"}, "http"),
        ({"url": "http://me:secret@host/v1"}, "password"),
        ({"ca_file": "/nowhere.pem"}, "does not exist"),
        ({"ca_file": __file__}, "no certificates"),
        ({"constrain": "magic"}, "server_constrain"),
        ({"image_format": "gif"}, "server_image_format"),
        ({"timeout_s": 0.0}, "timeout"),
    ],
)
def test_options_that_cannot_be_used(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        make_localizer("openai", LocalizerOptions(server=ServerOptions(**options)))
    assert "secret" not in str(caught.value)


class Waiting(Backend):
    """Answers when it is let through; joins what has the same image."""

    name = "waiting"
    batch = 3

    def __init__(self) -> None:
        self.begun, self.through = threading.Semaphore(0), threading.Semaphore(0)
        self.batches: list[list[str]] = []

    def joins(self, first: ChatRequest, other: ChatRequest) -> bool:
        return first.max_tokens == other.max_tokens

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        texts = [request.messages[0]["content"][0]["text"] for request in requests]
        self.batches.append(texts)
        self.begun.release()
        assert self.through.acquire(timeout=PATIENCE_S)
        if "fail" in texts:
            raise RuntimeError("secret details")
        return [Completion(text.upper(), 1, 1, True) for text in texts]


@pytest.fixture
def waiting() -> Iterator[tuple[Waiting, str]]:
    backend = Waiting()
    with served(make_app(backend, Limits(queue=4))) as url:
        yield backend, url
        backend.through.release(100)


def post(url: str, text: str, tokens: int = 8, timeout: float = PATIENCE_S) -> httpx2.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": tokens}
    return httpx2.post(f"{url}/chat/completions", json=body, timeout=timeout, trust_env=False)


def queued(url: str, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    health = url.replace("/v1", "/health")
    while httpx2.get(health, trust_env=False).json()["waiting"] != count:
        assert time.monotonic() < deadline


def test_queue_joins_what_belongs_together_and_is_bounded(waiting: tuple[Waiting, str]) -> None:
    backend, url = waiting
    replies: dict[str, httpx2.Response] = {}

    def send(text: str, tokens: int = 8) -> threading.Thread:
        thread = threading.Thread(target=lambda: replies.update({text: post(url, text, tokens)}))
        thread.start()
        return thread

    threads = [send("first")]
    assert backend.begun.acquire(timeout=PATIENCE_S)
    for count, (text, tokens) in enumerate([("a", 8), ("b", 9), ("c", 8), ("d", 8)], 1):
        threads.append(send(text, tokens))
        queued(url, count)
    full = post(url, "e")
    assert full.status_code == 429
    assert full.headers["retry-after"] == "1"
    backend.through.release(100)
    for thread in threads:
        thread.join(PATIENCE_S)
    assert backend.batches == [["first"], ["a", "c", "d"], ["b"]]
    answers = {text: reply.json()["choices"][0]["message"]["content"] for text, reply in replies.items()}
    assert answers == {text: text.upper() for text in ("first", "a", "b", "c", "d")}


def test_client_that_leaves_is_not_answered_and_a_failure_is_not_told_in_detail(waiting: tuple[Waiting, str]) -> None:
    backend, url = waiting
    first = threading.Thread(target=post, args=(url, "fail"))
    first.start()
    assert backend.begun.acquire(timeout=PATIENCE_S)
    with pytest.raises(httpx2.TimeoutException):
        post(url, "left", timeout=0.3)
    queued(url, 0)
    backend.through.release(100)
    first.join(PATIENCE_S)
    failed = post(url, "fail")
    assert (failed.status_code, failed.json()["error"]["message"]) == (500, "the model failed")
    assert post(url, "again").json()["choices"][0]["message"]["content"] == "AGAIN"
    assert ["left"] not in backend.batches


def test_request_that_never_ends_is_given_up() -> None:
    with served(make_app(Waiting(), Limits(upload_s=0.2))) as url:
        address = httpx2.URL(url)
        with socket.create_connection((address.host, address.port), timeout=PATIENCE_S) as connection:
            connection.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{")
            assert b" 408 " in connection.recv(4096)


def test_big_model_behind_the_server_keeps_every_protocol(tmp_path: Path) -> None:
    backend = make_backend(
        str(build("LlavaForConditionalGeneration", tmp_path / "tiny")), LocalizerOptions(device="cpu")
    )
    queries = [Query(protocol, 11, "stop", "[1,2]") for protocol in Protocol if protocol is not Protocol.NAVIGATION]
    with served(make_app(backend)) as url:
        for way, asked in (("structured_outputs", queries), ("guided_regex", [POINT]), ("response_format", [POINT])):
            localizer = OpenAiLocalizer(ServerOptions(url=url, timeout_s=PATIENCE_S, constrain=way))
            replies = localizer.localize_batch(frame(), asked)
            localizer.close()
            assert [reply.message for reply in replies if not reply.ok] == []
            assert [reply.query for reply in replies] == asked
