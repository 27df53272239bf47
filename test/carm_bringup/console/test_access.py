# SPDX-License-Identifier: Apache-2.0
"""Named users and TLS: the users file, sessions, limits, and the login over a real socket."""

import io
import json
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from carm_bringup.cli.app import run
from carm_bringup.console.access.certificate import make, read_names
from carm_bringup.console.access.login import EXPIRES_S, Access, LoginError, LoginGate, read_access
from carm_bringup.console.access.users import Users, change_user, read_users
from carm_bringup.console.commands import Command
from carm_bringup.console.server import Server
from carm_core.errors import ConfigurationError

PASSWORD = "correct horse"


class Time:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Desk:
    def __init__(self) -> None:
        self.stops: list[str] = []

    def stop(self, who: str) -> None:
        self.stops.append(who)

    def command(self, command: Command, number: int, who: str) -> None: ...

    def left(self, number: int, why: str) -> None: ...


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    make(folder, ["carm.example", "*.lab.example", "127.0.0.1", "::1"])
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "etc" / "users.json"
    change_user(file, "alice", PASSWORD)
    return file


@pytest.fixture
def access(folder: Path, file: Path) -> Access:
    found = read_access("0.0.0.0", str(folder / "console_cert.pem"), str(folder / "console_key.pem"), str(file))
    assert found is not None
    return found


def test_passwords_are_salted_hashes_in_a_file_of_ones_own(file: Path) -> None:
    change_user(file, "bob", PASSWORD)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert PASSWORD not in file.read_text()
    entries = read_users(file)
    assert entries["alice"].hash != entries["bob"].hash
    users = Users(file)
    assert users.check("alice", PASSWORD) == entries["alice"]
    for name, password in (("alice", PASSWORD + "x"), ("alice", ""), ("carol", PASSWORD), ("", "")):
        assert users.check(name, password) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no JSON|JSON"),
        ("[]", "no object `users`"),
        ('{"users":{"alice":{"salt":"00","hash":"00"}}}', "salt of alice"),
        ('{"users":{"alice":7}}', "salt of alice"),
        ('{"users":{"../x":{}}}', "no user name"),
    ],
)
def test_a_malformed_users_file_is_refused_in_one_line(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "users.json"
    file.write_text(content)
    file.chmod(0o600)
    with pytest.raises(ConfigurationError, match=reason) as refused:
        Users(file)
    assert "\n" not in str(refused.value)


def test_a_users_file_that_others_may_read_is_refused(file: Path) -> None:
    file.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Users(file)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "console.example", ""])
def test_other_machines_are_not_served_without_tls_and_users(host: str, folder: Path, file: Path) -> None:
    files = str(folder / "console_cert.pem"), str(folder / "console_key.pem")
    with pytest.raises(ConfigurationError, match="carm console user NAME"):
        read_access(host, "", "", "")
    with pytest.raises(ConfigurationError, match="both"):
        read_access(host, files[0], "", str(file))
    change_user(file, "alice", None)
    with pytest.raises(ConfigurationError, match="no users; make one"):
        read_access(host, *files, str(file))
    with pytest.raises(ConfigurationError, match="No such file"):
        read_access(host, *files, str(file.parent / "none.json"))


def test_this_machine_is_served_by_a_token_as_ever() -> None:
    assert read_access("127.0.0.1", "", "", "") is None
    with pytest.raises(ConfigurationError, match="named users need TLS"):
        read_access("127.0.0.1", "", "", "users.json")


def test_certificate_and_key_must_fit(folder: Path, tmp_path: Path) -> None:
    assert read_names(*(folder / name for name in ("console_cert.pem", "console_key.pem")))[0] == "carm.example"
    make(tmp_path, ["other.example"])
    with pytest.raises(ConfigurationError, match="MISMATCH|mismatch"):
        read_names(folder / "console_cert.pem", tmp_path / "console_key.pem")
    (tmp_path / "none.pem").write_text("nothing")
    with pytest.raises(ConfigurationError, match="no certificate"):
        read_names(tmp_path / "none.pem", tmp_path / "console_key.pem")
    with pytest.raises(ConfigurationError, match="exists already"):
        make(tmp_path, ["other.example"])
    with pytest.raises(ConfigurationError, match="neither a host name nor an address"):
        make(tmp_path / "new", ["a b"])
    assert stat.S_IMODE((tmp_path / "console_key.pem").stat().st_mode) == 0o600


def test_only_names_of_the_certificate_are_answered(access: Access) -> None:
    gate = LoginGate("0.0.0.0", 8090, access, Time())
    for host in ("carm.example:8090", "CARM.example:8090", "a.lab.example:8090", "127.0.0.1:8090", "[::1]:8090"):
        assert gate.is_here({"host": host}), host
    for host in (
        "evil.example:8090",
        "carm.example",
        "carm.example:80",
        "a.b.lab.example:8090",
        ".lab.example:8090",
        "",
    ):
        assert not gate.is_here({"host": host}), host
    assert gate.address == "https://carm.example:8090/"


def test_a_session_ends_by_time_logout_new_password_and_removal(access: Access, file: Path) -> None:
    clock = Time()
    gate = LoginGate("127.0.0.1", 8090, access, clock)

    def logged_in() -> dict[str, str]:
        cookies = {gate.cookie: gate.login("alice", PASSWORD, "10.0.0.1")}
        assert gate.user_of(cookies) == "alice"
        return cookies

    assert gate.user_of({gate.cookie: "guess"}) == gate.user_of({}) == ""
    first = logged_in()
    clock.now_s += EXPIRES_S
    assert gate.user_of(first) == ""
    second, third = logged_in(), logged_in()
    gate.logout(second)
    assert (gate.user_of(second), gate.user_of(third)) == ("", "alice")
    change_user(file, "alice", PASSWORD)  # the same one, with a new salt
    assert gate.user_of(third) == ""
    fourth = logged_in()
    change_user(file, "alice", None)
    assert gate.user_of(fourth) == ""
    assert gate.login("alice", PASSWORD, "10.0.0.1") == ""


def test_wrong_passwords_close_the_door_for_an_address_and_many_for_all(access: Access) -> None:
    clock = Time()
    gate = LoginGate("127.0.0.1", 8090, access, clock)
    gate._users.check = lambda name, password: None  # type: ignore[method-assign]  # the limits are meant, not scrypt
    for _ in range(5):
        assert gate.login("alice", "wrong", "10.0.0.1") == ""
    with pytest.raises(LoginError, match="wait a minute"):
        gate.login("alice", PASSWORD, "10.0.0.1")
    for number in range(25):
        gate.login("alice", "wrong", f"10.0.1.{number}")
    with pytest.raises(LoginError):
        gate.login("alice", PASSWORD, "10.0.2.1")
    clock.now_s += 61
    assert gate.login("alice", "wrong", "10.0.0.1") == ""


def test_logins_at_once_are_bounded(access: Access) -> None:
    gate, going, ending = LoginGate("127.0.0.1", 8090, access), threading.Semaphore(0), threading.Event()

    def check(name: str, password: str) -> None:
        going.release()
        ending.wait(20.0)

    gate._users.check = check  # type: ignore[method-assign]
    threads = [threading.Thread(target=gate.login, args=("a", "b", str(number))) for number in range(4)]
    for thread in threads:
        thread.start()
        assert going.acquire(timeout=20.0)
    with pytest.raises(LoginError, match="at once"):
        gate.login("alice", PASSWORD, "10.0.0.1")
    ending.set()
    for thread in threads:
        thread.join(20.0)


@pytest.fixture
def server(access: Access) -> Iterator[tuple[Server, Desk]]:
    desk = Desk()
    server = Server(desk, {"views": [], "landmarks": []}, "127.0.0.1", 0, access)
    yield server, desk
    server.close()


def to_its_end(socket: ClientConnection) -> None:
    while True:
        socket.recv(timeout=20.0)


def test_login_over_tls_opens_page_and_sockets_until_logout(server: tuple[Server, Desk], folder: Path) -> None:
    base = server[0].address.rstrip("/")
    trust = ssl.create_default_context(cafile=str(folder / "console_cert.pem"))
    with httpx2.Client(verify=trust, trust_env=False, timeout=20.0, base_url=base) as client:
        assert client.get("/").headers["location"] == "/login"
        page = client.get("/login")
        assert "form-action 'self'" in page.headers["content-security-policy"]
        assert client.get("/page/login.css").status_code == 200
        for path in ("/page/main.js", "/session.zip", "/exposures/1"):
            assert client.get(path).status_code == 403
        good = {"name": "alice", "password": PASSWORD}
        assert client.post("/login", data=good, headers={"Origin": "https://evil.example"}).status_code == 403
        assert client.post("/login", content=b"a" * 5000, headers={"Origin": base}).status_code == 413
        began_s = time.monotonic()
        wrong = client.post("/login", data={**good, "password": "<b>"}, headers={"Origin": base})
        assert time.monotonic() - began_s > 1.0
        assert (wrong.status_code, "Wrong name or password." in wrong.text) == (403, True)
        assert "<b>" not in wrong.text
        answer = client.post("/login", data=good, headers={"Origin": base})
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        words = answer.headers["set-cookie"].lower()
        assert words.startswith("__host-")
        assert all(word in words for word in ("secure", "httponly", "samesite=strict", "max-age=", "path=/"))
        assert "wss://" in client.get("/").headers["content-security-policy"]

        cookie = answer.headers["set-cookie"].partition(";")[0]
        headers = {"Origin": base, "Cookie": cookie}
        address = base.replace("https", "wss") + "/control"
        with connect(address, ssl=trust, additional_headers=headers, proxy=None) as socket:
            assert json.loads(socket.recv(timeout=20.0))["user"] == "alice"
            assert json.loads(socket.recv(timeout=20.0))["holder"] == "alice 1 (127.0.0.1)"
            assert client.post("/logout", headers={"Origin": base}).headers["location"] == "/login"
            socket.send('{"type":"stop"}')  # a stop is heard, whoever asks for it
            with pytest.raises(ConnectionClosed):
                to_its_end(socket)
        assert server[1].stops == ["alice 1 (127.0.0.1)"]
        with pytest.raises(InvalidStatus, match="403"), connect(
            address, ssl=trust, additional_headers=headers, proxy=None
        ):  # fmt: skip
            pass


def test_a_removed_user_sees_and_commands_nothing_more(server: tuple[Server, Desk], folder: Path, file: Path) -> None:
    """The page need not send anything for that: it may have been waiting silently."""
    base = server[0].address.rstrip("/")
    trust = ssl.create_default_context(cafile=str(folder / "console_cert.pem"))
    with httpx2.Client(verify=trust, trust_env=False, timeout=20.0, base_url=base) as client:
        answer = client.post("/login", data={"name": "alice", "password": PASSWORD}, headers={"Origin": base})
    headers = {"Origin": base, "Cookie": answer.headers["set-cookie"].partition(";")[0]}
    address = base.replace("https", "wss") + "/control"
    with connect(address, ssl=trust, additional_headers=headers, proxy=None) as socket:
        for _ in range(2):
            socket.recv(timeout=20.0)
        change_user(file, "alice", None)
        server[0].set_state({"mode": "moving"})
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=20.0)


def test_the_command_sets_and_removes_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "new" / "users.json"
    for password, code in (("short\n", 2), (f"{PASSWORD}\n", 0)):
        monkeypatch.setattr("sys.stdin", io.StringIO(password))
        assert run(["console", "user", "alice", "--file", str(file), "--password-stdin"]) == code
    assert Users(file).check("alice", PASSWORD) is not None
    assert run(["console", "user", "bob", "--file", str(file), "--remove"]) == 2
    assert run(["console", "user", "alice", "--file", str(file), "--remove"]) == 0
    assert read_users(file) == {}
    assert run(["console", "certificate", str(tmp_path / "tls"), "carm.example"]) == 0
    assert "console_cert:=" in capsys.readouterr().out
