# SPDX-License-Identifier: Apache-2.0
"""Model folders on disk: where the shipped one is, what one must hold, and the hash that names its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from carm_core.errors import ConfigurationError, LocalizerError

COMPACT_FOLDER = Path(__file__).parents[1] / "models" / "compact"
LOCALIZER_FILE, HEAD_FILE = "localizer.safetensors", "displacement_head.safetensors"
"""Weights of the deep-learning localizer, beside those of the language model: its network, and heads on the tower."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
REQUIRED = ("config.json", "tokenizer_config.json", "processor_config.json")


class ModelFolderError(LocalizerError, ConfigurationError):
    """A folder that was given holds no complete model or adapter."""


def check_model_folder(folder: Path, required: tuple[str, ...] = ("config.json",)) -> None:
    """Check that a model folder is complete before the slow imports begin.

    Args:
        folder: The folder.
        required: Files that it must hold besides the weights.

    Raises:
        ModelFolderError: The folder, a required file or a shard of the weights is missing or damaged; names it.
    """
    _check_files("model", folder, required)
    for index in (folder / "model.safetensors.index.json", folder / "pytorch_model.bin.index.json"):
        if index.is_file():
            _check_files("model", folder, _shards(index))
            break
    else:
        others = {LOCALIZER_FILE, HEAD_FILE, *ADAPTER_WEIGHTS}
        if not {file.name for pattern in _WEIGHTS for file in folder.glob(pattern)} - others:
            raise ModelFolderError(f"model folder {folder} lacks model.safetensors")
    _check_weights("model", folder)


def check_adapter_folder(folder: Path) -> None:
    """Check that the folder of a PEFT adapter is complete.

    Args:
        folder: The folder.

    Raises:
        ModelFolderError: The folder, its configuration or its weights are missing or damaged; names the file.
    """
    _check_files("adapter", folder, (ADAPTER_CONFIG,))
    if not any((folder / name).is_file() for name in ADAPTER_WEIGHTS):
        raise ModelFolderError(f"adapter folder {folder} lacks {ADAPTER_WEIGHTS[0]}")
    _check_weights("adapter", folder)


def _check_files(kind: str, folder: Path, names: Sequence[str]) -> None:
    if folder.is_file():
        raise ModelFolderError(f"{folder} is a file; give the {kind}'s folder")
    if not folder.is_dir():
        raise ModelFolderError(f"{kind} folder {folder} does not exist")
    for name in names:
        if not (folder / name).is_file():
            raise ModelFolderError(f"{kind} folder {folder} lacks {name}")


def _shards(index: Path) -> list[str]:
    try:
        return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelFolderError(f"model folder {index.parent}: {index.name} is damaged") from error


def _check_weights(kind: str, folder: Path) -> None:
    """Read the headers: they know how long the files are."""
    from safetensors import SafetensorError, safe_open

    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError) as error:
            reason = f"{file.name} is damaged, incomplete, or a pointer of Git LFS ({error})"
            raise ModelFolderError(f"{kind} folder {folder} cannot be loaded: {reason}") from error


def weights_hash(folder: Path) -> str:
    """Return the short hash (12 hex digits) of all weights in a folder; empty when there are none."""
    digest, found = hashlib.sha256(), False
    for file in sorted(folder.glob("*.safetensors")):
        found = True
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12] if found else ""
