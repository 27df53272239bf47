# SPDX-License-Identifier: Apache-2.0
"""The web server on a thread and an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import threading
from collections.abc import Callable
from json import dumps
from typing import Any

import uvicorn

from carm_bringup.console.access.login import Access, LoginGate
from carm_bringup.console.app import make_app
from carm_bringup.console.archive import Archive, Picture
from carm_bringup.console.commands import MOST_BYTES
from carm_bringup.console.gate import Gate
from carm_bringup.console.hub import Desk, Hub
from carm_bringup.console.session.exporter import Exporter
from carm_bringup.console.session.store import Session
from carm_bringup.console.speech.recognizer import Recognizer
from carm_core.errors import ConfigurationError
from carm_perception.serving.connections import BoundedProtocol

DEFAULT_PORT = 8090
_KEPT_EXPOSURES = 24
_KEPT_PREVIEWS = 8
_KEPT_PARTS = 32
_WAITING = 64
_JOIN_S = 1.0


def listen(host: str, port: int) -> socket.socket:
    """Take a port.

    Args:
        host: Address; who may be served is not checked here.
        port: Port; 0: ``DEFAULT_PORT``, or any that is free if that is taken.

    Raises:
        ConfigurationError: The address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    choices = (port,) if port else (DEFAULT_PORT, 0)
    for choice in choices:
        bound = socket.socket(family)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, choice))
            bound.listen(_WAITING)
            return bound
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE or choice == choices[-1]:
                raise ConfigurationError(f"cannot listen on {host}:{choice}: {error.strerror}") from error
    raise AssertionError("a port is taken or the reason is raised")


def image_frame(picture: Picture) -> bytes:
    """Return an image as a page gets it: length of the JSON text (4 bytes, big-endian), JSON text, file."""
    about = dumps(picture.described, allow_nan=False).encode()
    return struct.pack(">I", len(about)) + about + picture.data


class Server:
    """Serves the page.

    Attributes:
        address: The address to open, with the token.
        exposures: Images to go back to.
        previews: Pictures of plans.
        session: What has happened.
        room: Meshes of the room in 3D, and the library that draws them.
    """

    def __init__(
        self,
        desk: Desk,
        greeting: dict[str, Any],
        host: str = "127.0.0.1",
        port: int = 0,
        access: Access | None = None,
    ) -> None:
        """Take the port and start the thread.

        Args:
            desk: Carries out commands; called on the server's thread.
            greeting: What each page is told first.
            host: Address; loopback unless there is ``access``.
            port: As of ``listen``.
            access: TLS and users; None: a token.

        Raises:
            ConfigurationError: The address cannot be used.
        """
        self._socket = listen(host, port)
        bound = self._socket.getsockname()[1]
        gate = Gate(host, bound) if access is None else LoginGate(host, bound, access)
        self.address = gate.address
        self.exposures, self.previews = Archive(_KEPT_EXPOSURES), Archive(_KEPT_PREVIEWS)
        self.room = Archive(_KEPT_PARTS)
        self.session = Session()
        self._exporter, self._recognizer = Exporter(self.session), Recognizer()
        self._greeting = greeting
        self._hub = Hub(desk, self._greet, note=self.session.note)
        config = uvicorn.Config(
            make_app(
                gate,
                self._hub,
                self.exposures,
                self.previews,
                self.room,
                self._exporter,
                self._recognizer,
                self.session.signal,
            ),
            http=BoundedProtocol,
            ws="websockets-sansio",
            ws_max_size=MOST_BYTES,
            ws_per_message_deflate=False,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=1,
            ssl_certfile=None if access is None else access.certificate,
            ssl_keyfile=None if access is None else access.key,
        )
        config.load()
        self._server = uvicorn.Server(config)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="console", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._server.serve([self._socket]))
        self._loop.run_until_complete(self._recognizer.close())
        self._loop.close()

    def _greet(self) -> dict[str, Any]:
        speech = self._recognizer.missing
        return {**self._greeting, "no_speech": speech, "exposures": [one.described for one in self.exposures.all()]}

    def tell(self, message: dict[str, Any]) -> None:
        """Send a message to all pages, from any thread; see ``Hub.tell``."""
        self._call(self._hub.tell, message)

    def tell_one(self, number: int, message: dict[str, Any]) -> None:
        """Send a message to one page, from any thread."""
        self._call(self._hub.tell_one, number, message)

    def set_state(self, state: dict[str, Any]) -> None:
        """Show the state, from any thread."""
        self._call(self._hub.set_state, state)

    def show_image(self, picture: Picture) -> None:
        """Show an image, from any thread."""
        self._call(self._hub.show_image, image_frame(picture))

    def _call(self, function: Callable[..., None], *words: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(function, *words)

    def close(self) -> None:
        """End the server and its thread."""
        self._server.should_exit = self._server.force_exit = True
        self._exporter.close()
        self._thread.join(_JOIN_S)
        self._socket.close()
        self.session.close()
