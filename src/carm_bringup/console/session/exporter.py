# SPDX-License-Identifier: Apache-2.0
"""Gives the session as one file: made by another process, bounded in time, one at a time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

from carm_bringup.console.session.store import Session
from carm_core.errors import CarmError

LONGEST_S = 120.0
_KILL_S = 5.0
_MODULE = "carm_bringup.console.session.build"


class ExportError(CarmError):
    """The file cannot be made now; why, in one line."""


class Exporter:
    """Makes files of a session."""

    def __init__(self, session: Session, longest_s: float = LONGEST_S, module: str = _MODULE) -> None:
        """Nothing is made yet.

        Args:
            session: The session.
            longest_s: What takes longer is given up, s.
            module: Python module that is run with the folder and the file to be written.
        """
        self._session, self._longest_s, self._module = session, longest_s, module
        self._busy, self._lock = False, threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    def make(self) -> IO[bytes]:
        """Return the zip file, open, with no name any more: it is gone when it is closed. Takes seconds.

        Raises:
            ExportError: Another one is being made, or it took too long, or failed.
        """
        with self._lock:
            if self._busy:
                raise ExportError("an export is being made already; try again in a few seconds")
            self._busy = True
        try:
            with tempfile.TemporaryDirectory(prefix="carm_export_") as scratch:
                file = Path(scratch) / "session.zip"
                self._run([sys.executable, "-P", "-m", self._module, str(self._session.snapshot()), str(file)])
                return file.open("rb")
        except OSError as error:
            raise ExportError(f"the export could not be written: {error.strerror}") from error
        finally:
            self._busy = False

    def _run(self, words: list[str]) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self._lock:
            if self._closed:
                raise ExportError("the console ends")
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
            )
        with self._process as process:
            try:
                _, said = process.communicate(timeout=self._longest_s)
            except subprocess.TimeoutExpired:
                process.kill()
                raise ExportError(f"the export took more than {self._longest_s:g} s") from None
        if process.returncode:
            last = said.decode(errors="replace").strip().splitlines()[-1:] or [f"exit code {process.returncode}"]
            raise ExportError(f"the export failed: {last[0][:300]}")

    def close(self) -> None:
        """End what is being made."""
        with self._lock:
            self._closed, process = True, self._process
        if process is not None and process.poll() is None:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_KILL_S)
