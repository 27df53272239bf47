# SPDX-License-Identifier: Apache-2.0
"""Joint positions under names, kept in a file across restarts.

``home`` is the arm's home position, ``before`` where it was before its last motion.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_agent.planning.standard_views import find_view
from carm_core.data_files import read_json, shown
from carm_core.errors import CarmError, ConfigurationError, GoalError, UnknownNameError, quoted
from carm_core.robot.kinematics import CArm

BEFORE = "before"
"""Name of the position before the last motion."""
HOME = "home"
"""Name of the home position of the arm's description."""
_OWN = {BEFORE: "where the arm was before", HOME: "the arm's home position"}
_LONGEST_NAME = 60
_MOST_NAMES = 200
_VERSION = 1


class PositionNameError(GoalError):
    """A name cannot be given to a position."""


class PositionStorageError(CarmError):
    """The file of positions cannot be written."""


def data_dir() -> Path:
    """Return the user's data folder: ``$XDG_DATA_HOME/carm`` or ``~/.local/share/carm``. It may not exist yet."""
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "carm"


class PositionMemory:
    """Saves and recalls joint positions. May be used from several threads."""

    def __init__(self, carm: CArm, file: Path | None = None) -> None:
        """Read what was saved.

        Args:
            carm: The arm, whose joints are meant.
            file: JSON file, which need not exist; None: ``positions.json`` in the user's data folder.

        Raises:
            ConfigurationError: The file is there but malformed, or of another arm.
        """
        self._carm = carm
        self._file = file if file is not None else data_dir() / "positions.json"
        self._lock = threading.Lock()
        self._positions = self._read()

    def _read(self) -> dict[str, list[float]]:
        try:
            data = read_json(self._file)
            if data["joints"] != list(self._carm.joint_names):
                raise ValueError(f"its joints are {shown(data['joints'])}")
            found = {str(name): [float(value) for value in values] for name, values in data["positions"].items()}
            if any(len(v) != len(self._carm.joints) or not all(map(math.isfinite, v)) for v in found.values()):
                raise ValueError("a position has another number of joints, or is not finite")
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, OverflowError, AttributeError) as error:
            raise ConfigurationError(
                f"{self._file}: saved positions cannot be read ({type(error).__name__}: {error});"
                " move the file away to start afresh"
            ) from error
        return found

    @property
    def names(self) -> list[str]:
        """Names of all saved positions, in alphabetical order, without ``before``."""
        with self._lock:
            return sorted(name for name in self._positions if name != BEFORE)

    def save(self, name: str, positions: ArrayLike) -> None:
        """Save a position, in place of an earlier one of the same name.

        Args:
            name: Upper and lower case are the same.
            positions: (6,), m and rad.

        Raises:
            PositionNameError: The name is empty, too long, or means a standard view, ``before`` or ``home``.
            PositionStorageError: The file cannot be written; nothing is saved.
        """
        key = _key(name)
        if not key or len(key) > _LONGEST_NAME or not key.isprintable():
            raise PositionNameError(
                f"a position's name has 1 to {_LONGEST_NAME} printable characters, got {quoted(name)}"
            )
        if key in _OWN or _is_view(key):
            raise PositionNameError(f"{name!r} means {_OWN.get(key, 'a view')} already")
        self._store(key, positions)

    def note_before(self, positions: ArrayLike) -> None:
        """Store the position of the arm before it moves; a file that cannot be written does not prevent the motion.

        Args:
            positions: (6,), m and rad.
        """
        try:
            self._store(BEFORE, positions)
        except PositionStorageError:
            with self._lock:
                self._positions[BEFORE] = np.asarray(positions, dtype=np.float64).tolist()

    def _store(self, key: str, positions: ArrayLike) -> None:
        values = np.asarray(positions, dtype=np.float64)
        if values.shape != (len(self._carm.joints),) or not np.isfinite(values).all():
            raise PositionNameError(f"a position needs {len(self._carm.joints)} finite joint positions")
        with self._lock:
            kept = {**self._positions, key: values.tolist()}
            if len(kept) - (BEFORE in kept) > _MOST_NAMES:
                raise PositionNameError(f"{_MOST_NAMES} positions are saved already; forget one first")
            self._write(kept)
            self._positions = kept

    def forget(self, name: str) -> None:
        """Forget a position.

        Raises:
            UnknownNameError: Nothing is saved under this name.
            PositionStorageError: The file cannot be written; nothing is forgotten.
        """
        with self._lock:
            key = self._known(name)
            kept = {known: values for known, values in self._positions.items() if known != key}
            self._write(kept)
            self._positions = kept

    def recall(self, name: str) -> NDArray[np.float64]:
        """Return a saved position (6,), m and rad; also ``before`` and ``home``.

        Raises:
            UnknownNameError: Nothing is saved under this name; the error lists them, the nearest first.
        """
        with self._lock:
            if _key(name) == HOME and HOME not in self._positions:  # it could be saved in earlier versions
                return self._carm.home.copy()
            return np.array(self._positions[self._known(name)])

    def _known(self, name: str) -> str:
        key = _key(name)
        if key not in self._positions:
            raise UnknownNameError.among("position", name, sorted(self._positions), 0.6)
        return key

    def _write(self, positions: dict[str, list[float]]) -> None:
        """Replace the file as a whole, so that it is never half written."""
        content = {"version": _VERSION, "joints": list(self._carm.joint_names), "positions": positions}
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=self._file.parent, prefix=self._file.name, suffix=".part")
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as stream:
                    json.dump(content, stream, indent=1)
                Path(partial).replace(self._file)
            except BaseException:
                Path(partial).unlink(missing_ok=True)
                raise
        except OSError as error:
            raise PositionStorageError(f"{self._file}: {error.strerror or error}") from error


def _key(name: str) -> str:
    return " ".join(name.lower().split())


def _is_view(name: str) -> bool:
    try:
        find_view(name)
    except UnknownNameError:
        return False
    except GoalError:
        return True
    return True
