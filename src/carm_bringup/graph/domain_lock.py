# SPDX-License-Identifier: Apache-2.0
"""One graph per DDS domain and namespace: a lock that the kernel releases when its holder ends."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

from carm_ros.middleware import domain_id

__all__ = ("InstanceLock", "domain_id", "own_domain")

_FIRST_OWN_DOMAIN, _OWN_DOMAINS = 20, 20


def own_domain() -> dict[str, str]:
    """Environment of a graph that only this process and its children see; two processes may still draw the same."""
    return {
        "ROS_DOMAIN_ID": str(_FIRST_OWN_DOMAIN + os.getpid() % _OWN_DOMAINS),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
    }


class InstanceLock:
    """Held while a graph runs."""

    def __init__(self, domain: int, namespace: str) -> None:
        """Define the lock without taking it.

        Args:
            domain: DDS domain.
            namespace: ROS namespace, for example ``"/carm"``.
        """
        folder = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        self.path = folder / f"carm-{os.getuid()}-domain-{domain}{namespace.replace('/', '-')}.lock"
        self._file: int | None = None

    def acquire(self) -> bool:
        """Take the lock; False when another process holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._file = descriptor
        return True

    @property
    def held(self) -> bool:
        """Whether a process of this machine holds the lock. The check does not block other processes."""
        try:
            inode, locks = self.path.stat().st_ino, Path("/proc/locks").read_text(encoding="ascii")
        except OSError:
            return False
        fields = [line.split() for line in locks.splitlines()]
        return any("FLOCK" in words and words[-3].endswith(f":{inode}") for words in fields if len(words) > 3)

    def keep_across_exec(self) -> None:
        """Let a program that replaces this one hold the lock until it ends."""
        if self._file is not None:
            os.set_inheritable(self._file, True)

    def release(self) -> None:
        """Give the lock back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
