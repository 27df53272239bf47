# SPDX-License-Identifier: Apache-2.0
"""Bands of rows over plain threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


class Bands:
    """Spreads bands of rows over threads; the caller's thread is one of them.

    Attributes:
        threads: Threads in use, at least 1.
    """

    def __init__(self, threads: int) -> None:
        """Store the number of threads; start them on first use."""
        self.threads = max(1, threads)
        self._pool: ThreadPoolExecutor | None = None
        self._process = 0

    def run(self, work: Callable[[int, int], Any], count: int, size: int) -> None:
        """Call ``work(first, last)`` for bands of ``size`` rows that cover ``range(count)``."""
        bands = [(first, min(first + size, count)) for first in range(0, count, size)]
        if self.threads == 1 or len(bands) == 1:
            for first, last in bands:
                work(first, last)
            return
        if self._pool is None or self._process != os.getpid():
            self._pool = ThreadPoolExecutor(self.threads - 1, thread_name_prefix="drr")
            self._process = os.getpid()
        queue = iter(bands)

        def drain() -> None:
            for first, last in queue:
                work(first, last)

        others = [self._pool.submit(drain) for _ in range(self.threads - 1)]
        drain()
        for other in others:
            other.result()

    def split(self, count: int) -> int:
        """Return the band size that gives each thread a few bands of ``count`` rows."""
        return max(1, -(-count // (self.threads if self.threads == 1 else 4 * self.threads)))
