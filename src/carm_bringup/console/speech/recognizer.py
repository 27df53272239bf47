# SPDX-License-Identifier: Apache-2.0
"""The recognizer's process as the web server sees it: one recording at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from carm_bringup.console.speech.decoder import why_not
from carm_bringup.console.speech.worker import LONGEST_S
from carm_core.errors import CarmError

ANSWER_S = 8.0
_MODULE = "carm_bringup.console.speech.worker"


class SpeechError(CarmError):
    """Nothing can be recognized now; why, in one line."""


class Recognizer:
    """Starts the process when it is first needed; all of it runs on one event loop."""

    def __init__(self, module: str = _MODULE, answer_s: float = ANSWER_S) -> None:
        """Nothing runs.

        Args:
            module: Python module of the process.
            answer_s: Longest wait for an answer, s.
        """
        self._module, self._answer_s = module, answer_s
        self._process: asyncio.subprocess.Process | None = None
        self._busy = False

    @property
    def missing(self) -> str:
        """How to get a recognizer; empty when there is one."""
        return why_not()

    @contextlib.asynccontextmanager
    async def recording(self, on_stop: Callable[[], None]) -> AsyncIterator[Recording]:
        """Begin a recording.

        Args:
            on_stop: Called as soon as a stop is heard, before anything else.

        Raises:
            SpeechError: Somebody else speaks, or there is no recognizer.
        """
        if self.missing:
            raise SpeechError(self.missing)
        if self._busy:
            raise SpeechError("somebody else is speaking")
        self._busy, ended, recording = True, False, None
        try:
            recording = Recording(await self._running(), on_stop, self._answer_s)
            yield recording
            ended = recording.ended
        finally:
            if recording is not None:
                recording.leave()
            if not ended:  # what it still holds belongs to nobody
                await self.close()
            self._busy = False

    async def warm(self) -> None:
        """Start the process, so that the first sentence need not wait for it."""
        if not self.missing and not self._busy:
            self._busy = True
            try:
                await self._running()
            finally:
                self._busy = False

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", self._module),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        return self._process

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()  # closes the pipes


class Recording:
    """One sentence on its way to the recognizer.

    Attributes:
        ended: Whether the answer has come.
    """

    def __init__(self, process: asyncio.subprocess.Process, on_stop: Callable[[], None], answer_s: float) -> None:
        """Nothing has been said.

        Args:
            process: The recognizer.
            on_stop: Called as soon as a stop is heard.
            answer_s: Longest wait for the answer after the end, s.
        """
        self._process, self._on_stop, self._answer_s = process, on_stop, answer_s
        self._reading = asyncio.create_task(self._read())
        self._stopped = self.ended = False

    async def add(self, samples: bytes) -> None:
        """Hand on a part.

        Raises:
            SpeechError: The recognizer is gone.
        """
        if samples:
            await self._write(struct.pack(">I", len(samples)) + samples)

    async def end(self) -> dict[str, Any]:
        """Return the answer: ``text``, empty when nothing was understood, ``guess`` and ``stop``.

        Raises:
            SpeechError: None came.
        """
        await self._write(struct.pack(">I", 0))
        try:
            answer = await asyncio.wait_for(self._reading, self._answer_s)
        except TimeoutError:
            raise SpeechError(f"the speech recognizer does not answer within {self._answer_s:g} s") from None
        self.ended = True
        return answer

    def leave(self) -> None:
        """Wait for nothing any more."""
        self._reading.cancel()

    async def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(data)
            await asyncio.wait_for(self._process.stdin.drain(), LONGEST_S)
        except (OSError, TimeoutError) as error:
            raise SpeechError("the speech recognizer is gone") from error

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer: dict[str, Any] = json.loads(line)
            if answer["stop"] and not self._stopped:
                self._stopped = True
                self._on_stop()
            if "text" in answer:
                return answer
        raise SpeechError("the speech recognizer ended")
