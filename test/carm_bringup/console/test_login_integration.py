# SPDX-License-Identifier: Apache-2.0
"""The login in a real browser, over TLS. No graph: the page says so, and still names who has logged in."""

import sys
from pathlib import Path

import pytest

from carm_bringup.console.access.certificate import make
from carm_bringup.console.access.login import read_access
from carm_bringup.console.access.users import change_user
from carm_bringup.console.commands import Command
from carm_bringup.console.server import Server

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fakes"))
from browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]


class Desk:
    def stop(self, who: str) -> None: ...

    def command(self, command: Command, number: int, who: str) -> None: ...

    def left(self, number: int, why: str) -> None: ...


def fill(page: Browser, password: str) -> None:
    for name, value in (("name", "alice"), ("password", password)):
        page.run(f"document.querySelector('[name={name}]').value = '{value}'")
    page.click("form button")


def test_log_in_and_out(tmp_path: Path) -> None:
    files = make(tmp_path / "tls", ["127.0.0.1"])
    change_user(tmp_path / "users.json", "alice", "correct horse")
    access = read_access("127.0.0.1", *map(str, files), str(tmp_path / "users.json"))
    server = Server(Desk(), {"views": [], "landmarks": []}, "127.0.0.1", 0, access)
    try:
        with Browser(tmp_path / "browser", options=["--ignore-certificate-errors"]) as page:
            page.open(server.address)
            page.wait("location.pathname === '/login' && document.querySelector('form')")
            fill(page, "wrong password")
            page.wait("document.querySelector('[role=alert]').textContent === 'Wrong name or password.'")
            page.picture(tmp_path / "login.png")
            fill(page, "correct horse")
            page.wait("document.getElementById('holder').textContent === 'You control'")
            assert page.run("document.getElementById('user-name').textContent") == "alice"
            assert page.run("document.cookie") == ""
            page.picture(tmp_path / "page.png")
            page.click("#logout")
            page.wait("location.pathname === '/login'")
    finally:
        server.close()
