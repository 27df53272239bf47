# SPDX-License-Identifier: Apache-2.0
"""Checkpoints as data: tensors in safetensors, everything else as JSON in its header. No file can bring code along."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from torch import Tensor

from carm_core.data_files import parse_json
from carm_core.errors import ConfigurationError
from carm_perception.datasets.storage.shards import StorageError

SUFFIX = ".safetensors"
_FORMAT, _CONTENT = "carm-checkpoint-1", "content"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all.

    Args:
        path: The file; its folder is made.
        content: Dictionaries, lists, tuples, tensors, texts, numbers, truth values and None, nested in any way.

    Raises:
        StorageError: It cannot be written; the one before is kept.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    metadata = {"format": _FORMAT, _CONTENT: json.dumps(_packed(content, tensors))}
    temporary = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata)
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        temporary.unlink(missing_ok=True)
        why = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise StorageError(f"cannot write {path}: {why}; the checkpoint before it is kept") from error


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, or None when there is none.

    Raises:
        ConfigurationError: The file is damaged, or a pickle, which is never opened.
    """
    from safetensors import SafetensorError, safe_open

    old = path.with_suffix(".pt")
    if not path.exists() and not old.exists():
        return None
    if path.suffix != SUFFIX or not path.exists():
        raise ConfigurationError(
            f"{old} is a checkpoint of an earlier version: a pickle, which may hold code and is not opened;"
            " delete it to begin again"
        )
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError("it is no checkpoint")
            content = _unpacked(parse_json(metadata[_CONTENT]), file)
        if not isinstance(content, dict):
            raise ValueError("it is no checkpoint")
    except (OSError, SafetensorError, ValueError, LookupError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(f"checkpoint {path} is damaged ({reason}); delete it to begin again") from error
    return content


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return the JSON form of a value: a list of its kind and what is in it. Tensors get a name each."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()  # tied weights may not share memory in a file
        return ["tensor", name]
    if isinstance(value, dict):
        return ["dict", [[key, _packed(inner, tensors)] for key, inner in value.items()]]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", [_packed(inner, tensors) for inner in value]]
    if value is None or isinstance(value, str | int | float):
        return ["value", value]
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpacked(packed: Any, file: Any) -> Any:
    kind, inner = packed
    if kind == "tensor":
        return file.get_tensor(inner)
    if kind == "dict":
        return {key: _unpacked(value, file) for key, value in inner}
    if kind in ("list", "tuple"):
        values = [_unpacked(value, file) for value in inner]
        return values if kind == "list" else tuple(values)
    if kind == "value":
        return inner
    raise ValueError(f"unknown kind {kind!r}")
