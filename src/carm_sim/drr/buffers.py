# SPDX-License-Identifier: Apache-2.0
"""Buffers that are reused from frame to frame."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CACHE_LINE = 64


def aligned_zeros(count: int, dtype: type) -> NDArray[Any]:
    """Return the zeros (count,) that start at a cache line, where vectors are read and written fastest."""
    size = count * np.dtype(dtype).itemsize
    memory = np.zeros(size + _CACHE_LINE, np.uint8)
    start = -memory.ctypes.data % _CACHE_LINE
    return memory[start : start + size].view(dtype)


class Buffers:
    """Named arrays that grow when a frame needs more and are reused as they are, contents undefined."""

    def __init__(self) -> None:
        """Allocate nothing yet."""
        self._shared: dict[str, NDArray[np.float32]] = {}
        self._own = threading.local()

    def shared(self, name: str, shape: tuple[int, ...], slack: int = 0) -> NDArray[np.float32]:
        """Return an array of all threads; ``slack`` more elements behind it may be read."""
        count = math.prod(shape)
        flat = self._shared.get(name)
        if flat is None or len(flat) < count + slack:
            flat = self._shared[name] = aligned_zeros(count + slack, np.float32)
        return flat[:count].reshape(shape)

    def own(self, name: str, count: int, dtype: type) -> NDArray[Any]:
        """Return a flat array of the calling thread."""
        array: NDArray[Any] | None = getattr(self._own, name, None)
        if array is None or len(array) < count:
            array = aligned_zeros(count, dtype)
            setattr(self._own, name, array)
        return array
