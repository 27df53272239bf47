# SPDX-License-Identifier: Apache-2.0
"""The session's images that a page can go back to, bounded in number and bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Picture:
    """A compressed image.

    Attributes:
        key: Its id in addresses.
        kind: Media type, such as ``image/png``.
        data: The file.
        about: What the page is told about it.
    """

    key: str
    kind: str
    data: bytes
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def described(self) -> dict[str, Any]:
        """What the page is told about it, with its id and media type."""
        return {"id": self.key, "kind": self.kind, **self.about}


def media_type(data: bytes) -> str:
    """Return the media type of a PNG or JPEG file by its first bytes; empty for anything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/jpeg" if data.startswith(b"\xff\xd8\xff") else ""


class Archive:
    """The newest pictures, from any thread."""

    def __init__(self, most: int, most_bytes: int = 64 * 2**20) -> None:
        """Start empty.

        Args:
            most: Pictures that are kept.
            most_bytes: Of all of them together; the newest is kept in any case.
        """
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, Picture] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, picture: Picture) -> None:
        """Keep a picture, and drop the oldest where there are too many."""
        with self._lock:
            self._kept.pop(picture.key, None)
            self._kept[picture.key] = picture
            while len(self._kept) > 1 and (len(self._kept) > self._most or self._bytes > self._most_bytes):
                self._kept.popitem(last=False)

    def get(self, key: str) -> Picture | None:
        """Return a picture, if it is still kept."""
        with self._lock:
            return self._kept.get(key)

    def all(self) -> list[Picture]:
        """Return all pictures, the oldest first."""
        with self._lock:
            return list(self._kept.values())

    @property
    def _bytes(self) -> int:
        return sum(len(picture.data) for picture in self._kept.values())
