# SPDX-License-Identifier: Apache-2.0
"""The full record of a session with a language model: one JSON object a line, written as it happens."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TextIO

from carm_core.errors import ConfigurationError


class Transcript:
    """A file that grows by one line per event."""

    def __init__(self, folder: Path | None) -> None:
        """Open a new file, named by the time.

        Args:
            folder: Made if it is not there; None keeps no record.

        Raises:
            ConfigurationError: The file cannot be made.
        """
        self.path: Path | None = None
        self._file: TextIO | None = None
        if folder is None:
            return
        name = time.strftime("head-%Y%m%d-%H%M%S", time.gmtime()) + f"-{time.time_ns() % 1_000_000_000:09d}.jsonl"
        self.path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("x", encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            raise ConfigurationError(f"no transcript can be kept in {folder}: {error.strerror}") from error

    def add(self, event: str, **content: Any) -> None:
        """Write one event with the time, s since the epoch."""
        if self._file is None:
            return
        line = json.dumps({"time_s": round(time.time(), 3), "event": event, **content}, ensure_ascii=False)
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
