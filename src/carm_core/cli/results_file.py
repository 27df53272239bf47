# SPDX-License-Identifier: Apache-2.0
"""The frame of every ``--json`` file: what was run, on what, and what came out."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from carm_core.cli.arguments import why_not_writable
from carm_core.errors import ConfigurationError

_PACKAGES = ("carm_bringup", "numpy", "numba", "ruckig", "torch", "transformers")


def document(command: str, seed: int, results: dict[str, Any]) -> dict[str, Any]:
    """Return the content of a file of figures.

    Args:
        command: Command line that gives the figures.
        seed: Seed of all that is random.
        results: Suite or model to metrics.
    """
    return {
        "command": command,
        "seed": seed,
        "commit": _commit(),
        "versions": {"python": platform.python_version(), **_versions()},
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "system": platform.platform()},
        "results": results,
    }


def check_file(file: Path | None) -> None:
    """Check, before anything runs, that a file of figures can be there.

    Raises:
        ConfigurationError: It cannot be written.
    """
    reason = "" if file is None else why_not_writable(file)
    if reason:
        raise ConfigurationError(reason)


def write(file: Path, content: dict[str, Any], *, allow_nan: bool = True) -> None:
    """Write a file of figures.

    Args:
        file: Where to.
        content: Of ``document``.
        allow_nan: Write NaN and infinity, which JSON itself does not know.

    Raises:
        ConfigurationError: It cannot be written.
        ValueError: A number is not finite and that is not allowed.
    """
    try:
        file.write_text(json.dumps(content, indent=1, allow_nan=allow_nan) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write {file}: {error.strerror}") from error


def _commit() -> str:
    """Return the commit of this checkout, with ``+`` when files differ from it; empty outside one."""
    folder = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return ""


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
