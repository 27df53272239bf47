# SPDX-License-Identifier: Apache-2.0
"""The web application: the page, its images, and two sockets, so that images never delay state or stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from functools import partial
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from carm_bringup.console.access.login import LoginGate
from carm_bringup.console.access.pages import OPEN_FILES, LoginPages
from carm_bringup.console.archive import Archive
from carm_bringup.console.gate import Gate
from carm_bringup.console.hub import Hub, Outbox
from carm_bringup.console.session.exporter import Exporter, ExportError
from carm_bringup.console.speech.pages import listen
from carm_bringup.console.speech.recognizer import Recognizer
from carm_core.imaging.display import deep_display

Signal = Callable[[str], NDArray[np.uint16] | None]

_KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_POLICY_VIOLATION, _TRY_AGAIN_LATER = 1008, 1013
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self' {sockets};"
        " base-uri 'none'; form-action {forms}; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "{referrers}",
    "X-Content-Type-Options": "nosniff",
}
_CHUNK = 2**18
_CLOSED = "Open the console by the address that `carm sim` has printed: it holds the token.\n"


def _page_files() -> dict[str, tuple[bytes, str]]:
    """Return the files of the page by name, with their media types; nothing else is ever served from disk."""
    folder = files("carm_bringup.console") / "data"
    found = {}
    for file in folder.iterdir():
        kind = _KINDS.get(file.name.rpartition(".")[2])
        if kind:
            found[file.name] = (file.read_bytes(), kind)
    return found


class _Site:
    """The routes."""

    def __init__(
        self,
        gate: Gate,
        hub: Hub,
        exposures: Archive,
        previews: Archive,
        room: Archive,
        exporter: Exporter,
        recognizer: Recognizer,
        signal: Signal,
    ) -> None:
        self._gate, self._hub, self._exporter, self._signal = gate, hub, exporter, signal
        self._archives = {"exposures": exposures, "previews": previews, "room": room}
        self._files, self._recognizer = _page_files(), recognizer
        self._login = LoginPages(gate) if isinstance(gate, LoginGate) else None

    async def page(self, request: Request) -> Response:
        """Return the page; a request with the right token gets the cookie, and the address without the token."""
        gate, token = self._gate, request.query_params.get("token")
        if self._login is not None and gate.is_here(request.headers) and not gate.user_of(request.cookies):
            return self._answer(request, RedirectResponse("/login", 303))
        if token is None:
            return self._file(request, "index.html")
        if not gate.is_here(request.headers) or not gate.knows_token(token):
            return self._answer(request, PlainTextResponse(_CLOSED, 429 if gate.closed else 403))
        answer = RedirectResponse("/", 303)
        answer.set_cookie(gate.cookie, gate.session, httponly=True, samesite="strict")
        return self._answer(request, answer)

    async def login(self, request: Request) -> Response:
        """Answer for the login page, on a console with named users."""
        if self._login is None:
            return self._answer(request, PlainTextResponse("not here\n", 404))
        return self._answer(request, await self._login.answer(request), form=True)

    async def file(self, request: Request) -> Response:
        """Return a file of the page."""
        return self._file(request, request.path_params["name"])

    async def picture(self, request: Request) -> Response:
        """Return an exposure, the preview of a plan, or a part of the room in 3D."""
        if not self._gate.admits(request.headers, request.cookies):
            return self._answer(request, PlainTextResponse(_CLOSED, 403))
        archive = self._archives.get(request.path_params["archive"])
        picture = archive.get(request.path_params["key"]) if archive else None
        if picture is None:
            return self._answer(request, PlainTextResponse("not here\n", 404))
        return self._answer(request, Response(picture.data, media_type=picture.kind))

    async def signal(self, request: Request) -> Response:
        """Return an exposure of 16 bits for windowing: little-endian values, their columns and rows in headers."""
        if not self._gate.admits(request.headers, request.cookies):
            return self._answer(request, PlainTextResponse(_CLOSED, 403))
        raw = await run_in_threadpool(self._signal, request.path_params["key"])
        if raw is None:
            return self._answer(request, PlainTextResponse("not here\n", 404))
        deep = await run_in_threadpool(deep_display, raw)
        headers = {"X-Columns": str(deep.shape[1]), "X-Rows": str(deep.shape[0])}
        data = np.ascontiguousarray(deep, "<u2").tobytes()
        return self._answer(request, Response(data, headers=headers, media_type="application/octet-stream"))

    async def session(self, request: Request) -> Response:
        """Return the session as a zip file, made meanwhile by another process."""
        if not self._gate.admits(request.headers, request.cookies):
            return self._answer(request, PlainTextResponse(_CLOSED, 403))
        try:
            file = await run_in_threadpool(self._exporter.make)
        except ExportError as error:
            return self._answer(request, PlainTextResponse(f"{error}\n", 503))
        headers = {
            "Content-Length": str(os.fstat(file.fileno()).st_size),
            "Content-Disposition": f'attachment; filename="carm_session_{time.strftime("%Y-%m-%d_%H-%M-%S")}.zip"',
        }
        parts = iter(partial(file.read, _CHUNK), b"")
        answer = StreamingResponse(parts, 200, headers, "application/zip", BackgroundTask(file.close))
        return self._answer(request, answer)

    def _file(self, request: Request, name: str) -> Response:
        is_open = self._login is not None and name in OPEN_FILES and self._gate.is_here(request.headers)
        if not is_open and not self._gate.admits(request.headers, request.cookies):
            return self._answer(request, PlainTextResponse(_CLOSED, 403))
        if name not in self._files:
            return self._answer(request, PlainTextResponse("not here\n", 404))
        data, kind = self._files[name]
        return self._answer(request, Response(data, media_type=kind))

    def _answer(self, request: Request, answer: Response, form: bool = False) -> Response:
        here = self._gate.is_here(request.headers)
        sockets = f"{self._gate.scheme.replace('http', 'ws')}://{request.headers.get('host')}" if here else ""
        forms, referrers = ("'self'", "same-origin") if form else ("'none'", "no-referrer")  # without, Origin is null
        for name, value in _HEADERS.items():
            answer.headers[name] = value.format(sockets=sockets, forms=forms, referrers=referrers).replace(" ;", ";")
        return answer

    async def control(self, socket: WebSocket) -> None:
        """Serve the socket for state, messages and commands."""
        if not self._gate.admits_socket(socket.headers, socket.cookies):
            await socket.close(_POLICY_VIOLATION)
            return
        await socket.accept()
        user = self._gate.user_of(socket.cookies)
        client = self._hub.join(socket.client.host if socket.client else "unknown", user)
        if client is None:
            await socket.close(_TRY_AGAIN_LATER, "too many pages are open")
            return
        admitted = partial(self._gate.user_of, socket.cookies)  # until logged out, expired, removed
        sending = asyncio.create_task(_send(socket, client.outbox, admitted))
        try:
            while self._hub.receive(client, await socket.receive_text(), admitted):
                pass
            await socket.close(_POLICY_VIOLATION, "too many messages, or logged out")
        except (WebSocketDisconnect, KeyError, RuntimeError):  # gone, sent bytes, or was given up
            pass
        finally:
            self._hub.leave(client)
            await _end(sending)

    async def speech(self, socket: WebSocket) -> None:
        """Serve the socket for speech; everybody may speak, since everybody may stop."""
        if not self._gate.admits_socket(socket.headers, socket.cookies):
            await socket.close(_POLICY_VIOLATION)
            return
        await socket.accept()
        who = f"{self._gate.user_of(socket.cookies)} ({socket.client.host if socket.client else 'unknown'})"
        with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
            await listen(socket, self._hub, self._recognizer, who, partial(self._gate.user_of, socket.cookies))
            await socket.close()

    async def images(self, socket: WebSocket) -> None:
        """Serve the socket for images: the newest only, as fast as the page takes them."""
        if not self._gate.admits_socket(socket.headers, socket.cookies):
            await socket.close(_POLICY_VIOLATION)
            return
        await socket.accept()
        outbox = self._hub.watch_images()
        if outbox is None:
            await socket.close(_TRY_AGAIN_LATER, "too many pages are open")
            return
        admitted = partial(self._gate.user_of, socket.cookies)
        sending = asyncio.create_task(_send(socket, outbox, admitted))
        try:
            await socket.receive()  # the page sends nothing here: whatever comes is its end
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self._hub.images.discard(outbox)
            await _end(sending)


async def _send(socket: WebSocket, outbox: Outbox, admitted: Callable[[], object]) -> None:
    with contextlib.suppress(WebSocketDisconnect, RuntimeError, OSError):
        while (message := await outbox.next()) is not None and admitted():
            await (socket.send_text(message) if isinstance(message, str) else socket.send_bytes(message))
        await socket.close(_TRY_AGAIN_LATER, "the page takes no messages, or is logged out")


async def _end(task: asyncio.Task[Any]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def make_app(
    gate: Gate,
    hub: Hub,
    exposures: Archive,
    previews: Archive,
    room: Archive,
    exporter: Exporter,
    recognizer: Recognizer,
    signal: Signal,
) -> Starlette:
    """Make the application.

    Args:
        gate: Checks who comes.
        hub: Connects pages and graph.
        exposures: Served below ``/exposures``.
        previews: Served below ``/previews``.
        room: Served below ``/room``.
        exporter: Makes what is served as ``/session.zip``.
        recognizer: Of speech.
        signal: Returns the detector signal of an exposure, for what is served below ``/signal``.
    """
    site = _Site(gate, hub, exposures, previews, room, exporter, recognizer, signal)
    routes = [
        Route("/", site.page),
        Route("/login", site.login, methods=["GET", "POST"]),
        Route("/logout", site.login, methods=["POST"]),
        Route("/page/{name}", site.file),
        Route("/session.zip", site.session),
        Route("/signal/{key}", site.signal),
        Route("/{archive}/{key}", site.picture),
        WebSocketRoute("/control", site.control),
        WebSocketRoute("/images", site.images),
        WebSocketRoute("/speech", site.speech),
    ]
    return Starlette(routes=routes)
