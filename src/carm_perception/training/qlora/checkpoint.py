# SPDX-License-Identifier: Apache-2.0
"""What a run needs to go on: adapters, optimizer and step, in one file that is whole or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError
from carm_perception.datasets.storage.shards import StorageError
from carm_perception.training.checkpoint_file import SUFFIX, load_checkpoint, save_checkpoint

CHECKPOINT, LOG = f"checkpoint{SUFFIX}", "log.jsonl"


def save(folder: Path, model: Any, optimizer: Any, step: int, fingerprint: dict[str, Any]) -> None:
    """Write a checkpoint.

    Args:
        folder: Where to.
        model: The model with its adapters.
        optimizer: Its optimizer.
        step: Steps done.
        fingerprint: What a run that goes on must have in common with this one.

    Raises:
        StorageError: It cannot be written; the one before is kept.
    """
    from peft import get_peft_model_state_dict

    adapter = {name: value.detach().cpu() for name, value in get_peft_model_state_dict(model).items()}
    content = {"step": step, "fingerprint": fingerprint, "adapter": adapter, "optimizer": optimizer.state_dict()}
    save_checkpoint(folder / CHECKPOINT, content)


def resume(folder: Path, model: Any, optimizer: Any, fingerprint: dict[str, Any]) -> int:
    """Resume from a checkpoint, if there is one.

    Args:
        folder: Where it may be.
        model: The model with fresh adapters.
        optimizer: Its fresh optimizer.
        fingerprint: Of this run.

    Returns:
        Steps done.

    Raises:
        ConfigurationError: It is damaged, or belongs to another run; the message says what differs.
    """
    from peft import set_peft_model_state_dict

    path = folder / CHECKPOINT
    content = load_checkpoint(path)
    if content is None:
        return 0
    try:
        before, step = dict(content["fingerprint"]), int(content["step"])
    except (LookupError, TypeError, ValueError) as error:
        raise ConfigurationError(f"checkpoint {path} is damaged; delete it to begin again") from error
    differing = [name for name in fingerprint if before.get(name) != fingerprint[name]]
    if differing:
        changed = ", ".join(f"{name} {before.get(name)!r} there, {fingerprint[name]!r} here" for name in differing)
        raise ConfigurationError(f"{path} belongs to another run ({changed}): name another --work folder")
    try:
        set_peft_model_state_dict(model, content["adapter"])
        optimizer.load_state_dict(content["optimizer"])
    except (RuntimeError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(f"checkpoint {path} is damaged; delete it to begin again") from error
    return step


class Log:
    """Lines of JSON, one a step."""

    def __init__(self, folder: Path, active: bool = True) -> None:
        """Open the log of a folder; ``active``: whether this process writes it."""
        self._path = folder / LOG if active else None

    def write(self, **values: Any) -> None:
        """Add a line.

        Raises:
            StorageError: It cannot be written.
        """
        if self._path is None:
            return
        try:
            with self._path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {error.strerror}") from error
