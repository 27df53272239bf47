# SPDX-License-Identifier: Apache-2.0
"""Where files are: configuration that ships with the project, and the user's cache."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from carm_core.errors import ConfigurationError


def cache_dir() -> Path:
    """Return the cache folder: ``$XDG_CACHE_HOME/carm`` or ``~/.cache/carm``. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carm"


def workspace_prefix() -> Path | None:
    """Return the prefix into which colcon has installed the command that runs; None in a virtual environment.

    In a virtual environment the console scripts stand beside the interpreter, in a ROS prefix in ``lib/carm_bringup``.
    """
    if (Path(sys.executable).parent / "carm").is_file():
        return None
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return next((prefix for prefix in prefixes if (prefix / "lib/carm_bringup/carm").is_file()), None)


def executable(name: str) -> Path | None:
    """Return the path of a console script of this project, or of a program on the PATH; None when there is none."""
    prefix = workspace_prefix()
    own = Path(sys.executable).parent / name if prefix is None else prefix / "lib/carm_bringup" / name
    found = str(own) if own.is_file() else shutil.which(name)
    return Path(found) if found else None


def share_dir() -> Path:
    """Return the folder that holds ``config/``: the checkout, or ``share/carm_bringup`` of where it is installed.

    Raises:
        ConfigurationError: Neither is there.
    """
    here = Path(__file__).resolve()
    candidates = [here.parents[2], *(folder / "share" / "carm_bringup" for folder in here.parents[1:])]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(prefix) / "share" / "carm_bringup" for prefix in prefixes if prefix]
    for candidate in candidates:
        if (candidate / "config" / "carm.yaml").is_file():
            return candidate
    raise ConfigurationError(f"config/carm.yaml not found; looked around {here.parent} and in AMENT_PREFIX_PATH")


def config_file(name: str) -> Path:
    """Return the path of a shipped configuration file, for example ``"carm.yaml"``.

    Raises:
        ConfigurationError: There is no such file.
    """
    path = share_dir() / "config" / name
    if not path.is_file():
        raise ConfigurationError(f"configuration file {path} not found")
    return path
