# SPDX-License-Identifier: Apache-2.0
"""Where files are: configuration that ships with the project, and the user's cache."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from carm_core.errors import ConfigurationError


def cache_dir() -> Path:
    """Return the cache folder: ``$XDG_CACHE_HOME/carm`` or ``~/.cache/carm``. It may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "carm"


def share_dir() -> Path:
    """Return the folder that holds ``config/``: the checkout, or the installed ROS package's share.

    Raises:
        ConfigurationError: Neither is there.
    """
    candidates = [Path(__file__).resolve().parents[2], Path(sys.prefix) / "share" / "carm_bringup"]
    prefixes = os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep)
    candidates += [Path(prefix) / "share" / "carm_bringup" for prefix in prefixes if prefix]
    for candidate in candidates:
        if (candidate / "config" / "carm.yaml").is_file():
            return candidate
    raise ConfigurationError(f"config/carm.yaml not found; looked in {', '.join(map(str, candidates))}")


def config_file(name: str) -> Path:
    """Return the path of a shipped configuration file, for example ``"carm.yaml"``.

    Raises:
        ConfigurationError: There is no such file.
    """
    path = share_dir() / "config" / name
    if not path.is_file():
        raise ConfigurationError(f"configuration file {path} not found")
    return path
