# SPDX-License-Identifier: Apache-2.0
"""What clients of `carm serve` may hold, and for how long."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest

from carm_core.imaging import display
from carm_perception.serving import chat, connections
from carm_perception.serving.app import Limits, make_app
from carm_perception.serving.chat import ApiError, read_request
from carm_perception.serving.command import is_loopback
from carm_perception.serving.connections import BoundedProtocol, Share

from .server import served
from .test_chat_requests import picture

PATIENCE_S = 30.0


class Backend(SimpleNamespace):
    name, batch = "test", 1

    def close(self) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setattr(connections, "HEADER_S", 0.5)
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(connections, "_LINGER_S", 0.5)
    limits = Limits(body_bytes=1000, bodies=2, upload_s=20.0)
    with served(make_app(Backend(), limits, "key"), http=BoundedProtocol) as url:  # type: ignore[arg-type]
        yield "127.0.0.1", urlsplit(url).port or 0


def connect(address: tuple[str, int], sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(address, PATIENCE_S)
    connection.sendall(sent)
    return connection


def received(connection: socket.socket, end: bytes = b"") -> bytes:
    """Everything up to some bytes; without them, until the server closes."""
    content = b""
    while not (end and end in content):
        try:
            part = connection.recv(4096)
        except ConnectionResetError:
            break
        if not part:
            break
        content += part
    return content


@pytest.mark.parametrize("sent", [b"", b"GET", b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-a: "])
def test_a_header_that_never_ends_is_given_up(address: tuple[str, int], sent: bytes) -> None:
    with connect(address, sent) as connection:
        assert received(connection) == b""


def test_a_second_header_that_never_ends_is_given_up(address: tuple[str, int]) -> None:
    with connect(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert b"200 OK" in received(connection, b"}")
        connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert received(connection) == b""


def test_a_body_after_its_answer_is_not_waited_for(address: tuple[str, int]) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n{"
    with connect(address, head) as connection:
        assert b"401 Unauthorized" in received(connection)


def test_a_header_is_bounded(address: tuple[str, int]) -> None:
    with connect(address, b"GET /health HTTP/1.1\r\nX-a: " + b"a" * (1 << 17)) as connection:
        assert b"200 OK" not in received(connection)


def test_a_request_gets_through_among_connections_that_send_nothing(address: tuple[str, int]) -> None:
    idle = [connect(address) for _ in range(20)]
    with connect(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert b"200 OK" in received(connection, b"}")
    for connection in idle:
        connection.settimeout(PATIENCE_S)
        assert received(connection) == b""
        connection.close()


@pytest.mark.parametrize("length", [0, 1_000_000])
def test_a_request_gets_through_among_connections_that_were_answered(address: tuple[str, int], length: int) -> None:
    """Whose clients owe the rest of a body, or keep the connection for another request."""
    head = f"GET /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode()
    others = [connect(address, head) for _ in range(connections.MOST_CONNECTIONS)]
    for connection in others:
        assert b"404" in received(connection, b"}}")
    with connect(address, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n") as connection:
        assert b"200 OK" in received(connection, b"}")
    for connection in others:
        connection.close()


def test_a_body_that_never_ends_is_given_up(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_S", 0.5)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nContent-Length: 1000\r\n"
    with connect(address, head + b"\r\n{") as connection:
        connection.settimeout(10.0)  # the application itself would wait for 20 s
        assert received(connection) == b""


def test_bodies_that_are_on_their_way_are_bounded(address: tuple[str, int]) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer key\r\nContent-Length: 1000\r\n\r\n"
    held = [connect(address, head + b" " * 900) for _ in range(2)]
    refusals = 0
    while not refusals:
        with connect(address, head + b" " * 900) as connection:
            connection.settimeout(0.5)
            try:
                refusals += b"503" in received(connection, b"}")
            except TimeoutError:
                continue
    for connection in held:
        connection.close()


def test_a_share_is_waited_for_and_given_back() -> None:
    share = Share(10, PATIENCE_S)
    with share.part() as part:
        part.grow(8)
        waiting = threading.Thread(target=share.take, args=(3,))
        waiting.start()
        assert waiting.is_alive()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive()
    with pytest.raises(ApiError, match="too many large requests") as caught, Share(10, 0.01).part() as part:
        part.grow(11)
    assert caught.value.status == 503


def message(*urls: str) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"messages": [{"role": "user", "content": [*images, {"type": "text", "text": "a"}]}]}


def test_nothing_is_decoded_before_there_is_room_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    url = picture(np.zeros((40, 30), np.uint8))["image_url"]["url"]
    decoded: list[int] = []
    monkeypatch.setattr(chat, "open_picture", lambda *given: decoded.append(1) or display.open_picture(*given))

    def reserve(pixels: int) -> None:
        assert decoded == []
        assert pixels == 2 * 40 * 30
        raise ApiError(503, "full")

    with pytest.raises(ApiError, match="full"):
        read_request(message(url, url), 512, reserve)
    with pytest.raises(ApiError, match="at most 4 images"):
        read_request(message(*[url] * 60), 512, reserve)
    assert decoded == []


@pytest.mark.parametrize("url", ["http://192.0.2.1/a.png", "https://x/a.png", "file:///etc/passwd", "data:text/html,"])
def test_no_image_is_fetched(url: str) -> None:
    with pytest.raises(ApiError, match="data URLs only"):
        read_request(message(url), 512)


def test_a_picture_that_lies_about_its_size_is_not_decoded() -> None:
    content = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
    )
    big = content.replace(b"\x00\x00\x00\x01\x00\x00\x00\x01", b"\x00\x00\x75\x30\x00\x00\x75\x30")
    with pytest.raises(ApiError, match="the image"):
        read_request(message("data:image/png;base64," + base64.b64encode(big).decode()), 4096)


@pytest.mark.parametrize(
    ("host", "local"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("127.0.0.2", True), ("0.0.0.0", False)],
)
def test_who_reaches_an_address(host: str, local: bool) -> None:
    assert is_loopback(host) is local
