# SPDX-License-Identifier: Apache-2.0
"""Servers for tests: `carm serve` as a process, and applications on a thread of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn

SOURCE = Path(__file__).resolve().parents[3] / "src"
PATIENCE_S = 120.0


@contextlib.contextmanager
def carm_serve(*arguments: str, key: str = "") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run `carm serve` on a free port; yields the process and its address once it is ready."""
    path = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "CARM_API_KEY": key, "OMP_NUM_THREADS": "1"}
    code = "from carm_bringup.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "serve", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    late = threading.Timer(PATIENCE_S, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        late.cancel()
        assert " on http" in line, process.communicate()[1]
        yield process, line.split(" on ")[1].strip()
    finally:
        late.cancel()
        process.kill()
        process.communicate()


@contextlib.contextmanager
def served(app: Any, **options: Any) -> Iterator[str]:
    """Run an ASGI application on a free port; yields its address."""
    bound = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1, **options))
    ready = threading.Event()
    startup = server.startup

    async def started(sockets: Any = None) -> None:
        await startup(sockets)
        ready.set()

    server.startup = started  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    assert ready.wait(PATIENCE_S)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        bound.close()
