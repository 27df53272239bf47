# SPDX-License-Identifier: Apache-2.0
"""Login and logout over HTTP."""

from __future__ import annotations

import asyncio
from html import escape
from importlib.resources import files
from urllib.parse import parse_qs

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from carm_bringup.console.access.login import EXPIRES_S, LoginError, LoginGate

OPEN_FILES = ("login.css", "icon.svg")
"""Files that the login page needs: served to everybody."""
_MOST_BYTES = 4096
_WRONG_S = 1.0
"""Added to the answer to a wrong password, s."""


class LoginPages:
    """Answers requests for the login page."""

    def __init__(self, gate: LoginGate) -> None:
        """Read the page.

        Args:
            gate: Knows who has logged in.
        """
        self._gate = gate
        self._page = (files("carm_bringup.console") / "data" / "login.html").read_text(encoding="utf-8")

    def form(self, text: str = "", status: int = 200) -> Response:
        """Return the page; its form may be sent to this server only.

        Args:
            text: Why a login failed.
            status: Of HTTP.
        """
        return HTMLResponse(self._page.replace("<!-- error -->", escape(text)), status)

    async def answer(self, request: Request) -> Response:
        """Answer a request for ``/login`` or ``/logout``."""
        if not self._gate.is_here(request.headers):
            return self.form("Open the console by the address that `carm` has printed.", 403)
        if request.method != "POST":
            return self.form()
        if request.headers.get("origin") != f"https://{request.headers.get('host')}":
            return self.form("This came from another page.", 403)
        if request.url.path == "/logout":
            self._gate.logout(request.cookies)
            return RedirectResponse("/login", 303)
        fields = await _fields(request)
        if fields is None:
            return self.form("This is too long.", 413)
        address = request.client.host if request.client else "unknown"
        try:
            value = await run_in_threadpool(self._gate.login, *fields, address)
        except LoginError as error:
            return self.form(str(error), 429)
        if not value:
            await asyncio.sleep(_WRONG_S)
            return self.form("Wrong name or password.", 403)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(
            self._gate.cookie, value, max_age=int(EXPIRES_S), secure=True, httponly=True, samesite="strict"
        )
        return answer


async def _fields(request: Request) -> tuple[str, str] | None:
    """Return name and password of a form; None when it is too large."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            return None
    found = parse_qs(body.decode("utf-8", "replace"), max_num_fields=None, keep_blank_values=True)
    return tuple((found.get(name) or [""])[0] for name in ("name", "password"))  # type: ignore[return-value]
