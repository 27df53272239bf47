# SPDX-License-Identifier: Apache-2.0
"""Decoded CTs on disk, mapped into memory: unpacking one takes seconds, mapping it milliseconds."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from carm_core.errors import PatientError
from carm_core.paths import cache_dir
from carm_sim.patient.volume import Volume

VERSION = 2
"""Counts up when a file is decoded otherwise than before."""
MOST_ENTRIES = 8
"""Older CTs are removed."""
MOST_TEXTS = 200
WORTH_VOXELS = 2_000_000
"""Smaller CTs are read as fast without a cache."""

_logger = logging.getLogger(__name__)


def cached_ct(files: Sequence[Path], settings: str, read: Callable[[], Volume]) -> Volume:
    """Return the CT of some files, from the cache if none of them has changed.

    A cache file that cannot be read is replaced. Without write permission the CT is read anew each time.

    Args:
        files: The files, in order; path, size and time of change stand for their content.
        settings: What else decides the result.
        read: Reads the CT.

    Raises:
        PatientError: As ``read``.
    """
    path = _entry(files, settings, ".npy")
    if path is None:
        return read()
    volume = _load(path)
    if volume is None:
        volume = read()
        if volume.hu.size >= WORTH_VOXELS:
            _save(path, volume)
    return volume


def cached_text(files: Sequence[Path], settings: str, compute: Callable[[], str]) -> str:
    """Return a line of text that follows from some files, from the cache if none of them has changed.

    Args:
        files: As for ``cached_ct``.
        settings: What the text is, and what else decides it.
        compute: Makes the text.
    """
    path = _entry(files, settings, ".txt")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if path is not None and (text := path.read_text(encoding="ascii")):
            return text
    text = compute()
    if path is not None:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(f".{os.getpid()}.part")
            temporary.write_text(text, encoding="ascii")
            temporary.replace(path)
            _prune(path.parent)
    return text


def _entry(files: Sequence[Path], settings: str, suffix: str) -> Path | None:
    """Where the cache keeps what follows from some files and settings; None when a file cannot be looked at."""
    try:
        stats = [(str(file.resolve()), file.stat()) for file in files]
    except OSError:
        return None
    marks = [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]
    key = hashlib.sha256("\n".join([str(VERSION), settings, *marks]).encode()).hexdigest()[:24]
    return cache_dir() / "ct" / f"{key}{suffix}"


def _load(path: Path) -> Volume | None:
    try:
        affine = np.load(path.with_suffix(".affine.npy"))
        hu = np.asarray(np.load(path, mmap_mode="r"))
        path.touch()
        return Volume(hu, affine)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, PatientError) as error:
        _logger.warning("%s: unreadable cache file (%s), reading the CT again", path, type(error).__name__)
        return None


def _save(path: Path, volume: Volume) -> None:
    """Write to temporary files and rename, the voxels last, so that no reader sees half a CT."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for target, array in ((path.with_suffix(".affine.npy"), volume.transform_voxel_to_lps), (path, volume.hu)):
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as stream:
                temporary = Path(stream.name)
            try:
                with temporary.open("wb") as out:
                    np.save(out, array)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
        _prune(path.parent)
    except OSError as error:
        _logger.warning("%s: cannot be written (%s), the CT is read anew next time", path, error.strerror)


def _prune(folder: Path) -> None:
    volumes = [file for file in folder.glob("*.npy") if not file.name.endswith(".affine.npy")]
    for old in _oldest(volumes, MOST_ENTRIES):
        with contextlib.suppress(OSError):
            old.unlink()
            old.with_suffix(".affine.npy").unlink()
    for old in _oldest(list(folder.glob("*.txt")), MOST_TEXTS):
        with contextlib.suppress(OSError):
            old.unlink()


def _oldest(files: Sequence[Path], kept: int) -> list[Path]:
    def age(file: Path) -> float:
        try:
            return file.stat().st_mtime
        except OSError:
            return 0.0

    return sorted(files, key=age, reverse=True)[kept:]
