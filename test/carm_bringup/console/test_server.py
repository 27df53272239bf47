# SPDX-License-Identifier: Apache-2.0
"""The web server over real sockets, without ROS and without a browser."""

import io
import json
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

import carm_bringup.console
from carm_bringup.console.archive import Picture
from carm_bringup.console.commands import Command
from carm_bringup.console.server import Server

DATA = Path(carm_bringup.console.__file__).parent / "data"
SCRIPTS = [file.name for file in DATA.iterdir() if file.suffix in (".js", ".css", ".svg")]
PNG = b"\x89PNG\r\n\x1a\n"


class Desk:
    """Notes who stops and who leaves."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def stop(self, who: str) -> None:
        self.asked.append("stop")

    def command(self, command: Command, number: int, who: str) -> None:
        self.asked.append(command.kind)

    def left(self, number: int, why: str) -> None:
        self.asked.append("left")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def server(desk: Desk) -> Iterator[Server]:
    server = Server(desk, {"views": [], "landmarks": []})
    yield server
    server.close()


def base(server: Server) -> str:
    return server.address.partition("/?")[0]


@contextmanager
def opened(server: Server) -> Iterator[httpx2.Client]:
    """A client with the cookie, as a browser has it."""
    with httpx2.Client(trust_env=False, timeout=20.0, follow_redirects=True) as client:
        assert client.get(server.address).status_code == 200
        yield client


def cookie(client: httpx2.Client) -> str:
    return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


@contextmanager
def socket(server: Server, path: str, **changed: str | None) -> Iterator[ClientConnection]:
    with opened(server) as client:
        wanted = {"Origin": base(server), "Cookie": cookie(client), **changed}
    address = base(server).replace("http", "ws") + path
    with connect(address, additional_headers={k: v for k, v in wanted.items() if v}, proxy=None, max_size=None) as one:
        yield one


def flood(one: ClientConnection) -> None:
    for _ in range(100_000):
        one.send('{"type":"ack"}')


def heard(one: ClientConnection, kind: str) -> dict[str, Any]:
    while True:
        message = json.loads(one.recv(timeout=20))
        if message["type"] == kind:
            return dict(message)


def test_the_token_becomes_a_cookie_that_scripts_and_other_sites_do_not_get(server: Server) -> None:
    answer = httpx2.get(server.address, trust_env=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()
    assert server.address.partition("token=")[2] not in answer.headers["set-cookie"]


@pytest.mark.parametrize(
    "path", ["/", "/?token=wrong", "/page/main.js", "/exposures/1", "/previews/1", "/session.zip", "/signal/1"]
)
def test_nothing_is_shown_without_the_token(server: Server, path: str) -> None:
    server.exposures.add(Picture("1", "image/png", PNG))
    answer = httpx2.get(base(server) + path, trust_env=False)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert "carm sim" in answer.text


def test_another_name_for_this_machine_is_refused(server: Server) -> None:
    answer = httpx2.get(server.address, headers={"Host": "evil.example"}, trust_env=False)
    assert answer.status_code == 403


def test_the_page_is_whole_and_asks_nothing_of_others(server: Server) -> None:
    with opened(server) as client:
        page = client.get(base(server) + "/")
        for name in SCRIPTS:
            file = client.get(f"{base(server)}/page/{name}")
            assert file.status_code == 200, name
            assert "http://" not in file.text.replace("http://www.w3.org/2000/svg", ""), name
            assert "https://" not in file.text, name
        assert client.get(base(server) + "/page/..%2f__init__.py").status_code == 404
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert page.headers["cache-control"] == "no-store"


def test_parts_of_the_room_are_served_to_who_has_the_cookie(server: Server) -> None:
    server.room.add(Picture("three.module.js", "text/javascript", b"export {};"))
    assert httpx2.get(base(server) + "/room/three.module.js", trust_env=False).status_code == 403
    with opened(server) as client:
        answer = client.get(base(server) + "/room/three.module.js")
        assert answer.content == b"export {};"
        assert answer.headers["content-type"].startswith("text/javascript")
        assert client.get(base(server) + "/room/detector").status_code == 404


def test_exposures_are_served_to_who_has_the_cookie(server: Server) -> None:
    server.exposures.add(Picture("1", "image/png", PNG))
    with opened(server) as client:
        assert client.get(base(server) + "/exposures/1").content == PNG
        assert client.get(base(server) + "/exposures/2").status_code == 404
        assert client.get(base(server) + "/secrets/1").status_code == 404


@pytest.mark.parametrize("path", ["/control", "/images"])
@pytest.mark.parametrize("changed", [{"Cookie": None}, {"Origin": "http://evil.example"}, {"Origin": None}])
def test_sockets_want_cookie_and_origin(server: Server, desk: Desk, path: str, changed: dict[str, Any]) -> None:
    with pytest.raises(InvalidStatus, match="403"), socket(server, path, **changed):
        pass
    assert desk.asked == []


def test_a_stop_reaches_the_desk_and_a_lost_connection_too(server: Server, desk: Desk) -> None:
    with socket(server, "/control") as one:
        assert heard(one, "control")["you"]
        one.send('{"type":"stop"}')
        assert heard(one, "asked")["text"] == "stop"
        assert desk.asked == ["stop"]
        one.socket.close()  # cut, without a goodbye
    with socket(server, "/control") as two:
        assert heard(two, "control")["you"] or heard(two, "control")["holder"] == ""
        assert desk.asked == ["stop", "left"]


@pytest.mark.parametrize("message", [b"bytes", "a" * 5000])
def test_large_messages_and_bytes_end_the_connection(server: Server, message: str | bytes) -> None:
    with socket(server, "/control") as one:
        heard(one, "control")
        one.send(message)
        with pytest.raises(ConnectionClosed):
            heard(one, "never")


def test_a_flood_ends_the_connection(server: Server, desk: Desk) -> None:
    with socket(server, "/control") as one:
        with pytest.raises(ConnectionClosed):
            flood(one)
        assert one.close_code == 1008


def test_a_page_gets_the_last_image_and_then_each_newest(server: Server) -> None:
    server.show_image(Picture("1", "image/png", PNG + b"first", {"time": 0.5}))
    with socket(server, "/images") as one:
        frame = one.recv(timeout=20)
        assert isinstance(frame, bytes)
        (length,) = struct.unpack_from(">I", frame)
        assert json.loads(frame[4 : 4 + length]) == {"id": "1", "kind": "image/png", "time": 0.5}
        assert frame[4 + length :] == PNG + b"first"
        server.show_image(Picture("2", "image/png", PNG))
        assert b'"id": "2"' in bytes(one.recv(timeout=20))


def test_a_page_that_does_not_read_costs_one_image(server: Server) -> None:
    """What waits in the kernel's buffers comes first; of all others only the last is sent."""
    image = PNG + bytes(2**20)
    with socket(server, "/images") as slow, socket(server, "/control") as quick:
        for number in range(200):
            server.show_image(Picture(str(number), "image/png", image, {"n": number}))
        server.set_state({"n": 1})
        assert heard(quick, "state")["n"] == 1  # images delay no state
        numbers = []
        while not numbers or numbers[-1] != 199:
            frame = bytes(slow.recv(timeout=20))
            (length,) = struct.unpack_from(">I", frame)
            numbers.append(json.loads(frame[4 : 4 + length])["n"])
        assert len(numbers) < 100


def test_a_session_is_downloaded_again_after_one_was_aborted(server: Server) -> None:
    server.session.note({"type": "said", "text": "Taking an X-ray image."})
    for whole in (False, True):
        with opened(server) as client, client.stream("GET", base(server) + "/session.zip") as answer:
            assert answer.headers["content-type"] == "application/zip"
            if whole:
                content = answer.read()
                assert len(content) == int(answer.headers["content-length"])
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        assert files.testzip() is None
        assert b"Taking an X-ray image." in files.read(next(n for n in files.namelist() if n.endswith("report.html")))
    folder = server.session.folder
    server.close()
    assert not folder.exists()
