# SPDX-License-Identifier: Apache-2.0
"""Types of command line options, for ``argparse``: each reads a text, or says in one line why it cannot."""

from __future__ import annotations

import argparse
import math
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from carm_core.errors import quoted

NAMESPACE_PATTERN = re.compile(r"/?[A-Za-z_]\w*(/[A-Za-z_]\w*)*/?", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LONGEST_NAME = 255  # bytes: NAME_MAX of Linux
_LARGEST_SEED = 2**32 - 1


def whole(lower: int, upper: int) -> Callable[[str], int]:
    """Return a converter for whole numbers of a range, its ends included.

    The converter raises ``argparse.ArgumentTypeError`` for anything else.
    """

    def convert(text: str) -> int:
        digits = text.strip().removeprefix("-")
        value = int(text) if digits.isdecimal() and len(digits) < 20 else lower - 1
        if not lower <= value <= upper:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not a whole number from {lower} to {upper}")
        return value

    return convert


count = whole(1, 1_000_000_000)
"""A whole number from 1."""
seed = whole(0, _LARGEST_SEED)
"""A seed: a whole number from 0, as NumPy and PyTorch both take it."""


def number(lower: float, upper: float) -> Callable[[str], float]:
    """Return a converter for finite numbers of a range, its ends included.

    The converter raises ``argparse.ArgumentTypeError`` for anything else.
    """

    def convert(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not lower <= value <= upper:
            raise argparse.ArgumentTypeError(f"{quoted(text)} is not a number from {lower:g} to {upper:g}")
        return value

    return convert


def point(text: str) -> tuple[float, float, float]:
    """Read a point: three finite numbers with commas between them.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    try:
        x, y, z = map(float, text.split(","))
    except ValueError:
        x = y = z = math.nan
    if not all(map(math.isfinite, (x, y, z))):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not a point: three numbers, such as -12,30,-410")
    return x, y, z


def words(text: str) -> str:
    """Read a text that must not be empty: an empty one is a shell variable that was not set.

    Raises:
        argparse.ArgumentTypeError: It is empty, or no text at all (bytes that are not UTF-8).
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("needs a value that is not empty")
    if not text.isprintable() and any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is not UTF-8")
    return text


def namespace(text: str) -> str:
    """Read a ROS namespace; return it with its leading slash, ``"/"`` for the root.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    if text.strip("/") and not NAMESPACE_PATTERN.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{quoted(text)} is not a ROS namespace (letters, digits, underscores; for example /carm)"
        )
    return "/" + text.strip("/")


def output_file(*suffixes: str) -> Callable[[str], Path]:
    """Return a converter for files to be written, so that nothing is computed that cannot be kept.

    Args:
        *suffixes: Endings that the name may have, lower case with their dot; none: any.

    The converter raises ``argparse.ArgumentTypeError`` for a file that cannot be written.
    """

    def convert(text: str) -> Path:
        path = Path(_local(text)).expanduser()
        if suffixes and path.suffix.lower() not in suffixes:
            raise argparse.ArgumentTypeError(f"{quoted(str(path))} must end in {' or '.join(suffixes)}")
        reason = why_not_writable(path)
        if reason:
            raise argparse.ArgumentTypeError(reason)
        return path

    return convert


def output_folder(text: str) -> Path:
    """Read a folder to be written into; it need not exist.

    Raises:
        argparse.ArgumentTypeError: It cannot be made, or cannot be written into.
    """
    path = Path(_local(text)).expanduser()
    existing = next(one for one in (path, *path.absolute().parents) if _exists(one))
    if not existing.is_dir():
        raise argparse.ArgumentTypeError(f"{quoted(str(existing), 200)} is a file, not a folder")
    reason = _why_no_new_file(existing)
    if reason:
        raise argparse.ArgumentTypeError(f"cannot write into folder {_shown(existing)}: {reason}")
    return path


def why_not_writable(path: Path) -> str:
    """Return one line that says why a file cannot be written, empty when it can."""
    if not _exists(path.parent):
        return f"{_shown(path)}: folder {_shown(path.parent)} does not exist"
    if not os.path.isdir(path.parent):
        return f"{_shown(path)}: {_shown(path.parent)} is a file, not a folder"
    if os.path.isdir(path):
        return f"{_shown(path)} is a folder; name a file"
    if _exists(path):
        return "" if os.access(path, os.W_OK) else f"cannot write {_shown(path)}: no permission, or read-only"
    reason = "the name is too long" if len(os.fsencode(path.name)) > _LONGEST_NAME else _why_no_new_file(path.parent)
    return f"cannot write {_shown(path)}: {reason}" if reason else ""


def _why_no_new_file(folder: Path) -> str:
    """Try to create a file and remove it at once: permissions alone are not enough (read-only, full, no real disk)."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as error:
        return error.strerror or str(error)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that is too long, or that holds a null
        return False


def _shown(path: Path) -> str:
    text = str(path)
    return text if text.isprintable() and len(text) <= 200 else quoted(text, 200)


def _local(text: str) -> str:
    if _URL.match(words(text)):
        raise argparse.ArgumentTypeError(f"{quoted(text)} is a URL; give a file or folder on this machine")
    return text
