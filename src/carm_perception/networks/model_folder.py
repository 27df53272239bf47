# SPDX-License-Identifier: Apache-2.0
"""Model folders on disk: where the shipped one is, what one must hold, and the hash that names its weights."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from carm_core.data_files import read_json, shown
from carm_core.errors import ConfigurationError, LocalizerError

COMPACT_FOLDER = Path(__file__).parents[1] / "models" / "compact"
LOCALIZER_FILE, HEAD_FILE = "localizer.safetensors", "displacement_head.safetensors"
"""Weights of the deep-learning localizer, beside those of the language model: its network, and heads on the tower."""
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
REQUIRED = ("config.json", "tokenizer_config.json", "processor_config.json")
ONLY_DATA = {"use_safetensors": True, "trust_remote_code": False}
"""How ``transformers`` loads weights: no pickle, no code out of a repository, and no question about either."""
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
_LARGEST_INDEX_BYTES = 64 << 20


class ModelFolderError(LocalizerError, ConfigurationError):
    """A folder that was given holds no complete model or adapter."""


def check_model_folder(folder: Path, required: tuple[str, ...] = ("config.json",)) -> None:
    """Check that a model folder is complete, and keeps to itself, before the slow imports begin.

    Weights are read from safetensors alone: pickles can hold code.

    Args:
        folder: The folder.
        required: Files that it must hold besides the weights.

    Raises:
        ModelFolderError: The folder, a required file or a shard of the weights is missing or damaged, or a file lies
            elsewhere; names it.
    """
    _check_files("model", folder, required)
    _check_places("model", folder)
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        _check_files("model", folder, _shards(index))
    elif not {file.name for file in folder.glob("*.safetensors")} - {LOCALIZER_FILE, HEAD_FILE, ADAPTER_WEIGHTS}:
        raise ModelFolderError(f"model folder {folder} lacks model.safetensors{_pickled(folder)}")
    _check_weights("model", folder)


def check_adapter_folder(folder: Path) -> None:
    """Check that the folder of a PEFT adapter is complete.

    Args:
        folder: The folder.

    Raises:
        ModelFolderError: The folder, its configuration or its weights are missing or damaged, or a file lies
            elsewhere; names the file.
    """
    _check_files("adapter", folder, (ADAPTER_CONFIG,))
    _check_places("adapter", folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelFolderError(f"adapter folder {folder} lacks {ADAPTER_WEIGHTS}{_pickled(folder)}")
    _check_weights("adapter", folder)


def _check_files(kind: str, folder: Path, names: Sequence[str]) -> None:
    if folder.is_file():
        raise ModelFolderError(f"{folder} is a file; give the {kind}'s folder")
    if not folder.is_dir():
        raise ModelFolderError(f"{kind} folder {folder} does not exist")
    for name in names:
        if not (folder / name).is_file():
            raise ModelFolderError(f"{kind} folder {folder} lacks {name}")


def _check_places(kind: str, folder: Path) -> None:
    """Refuse files that are links to outside of the folder, other than those of the Hugging Face cache."""
    inside = [folder.resolve()]
    if inside[0].parent.name == "snapshots":
        inside.append(inside[0].parents[1] / "blobs")
    for file in folder.rglob("*"):
        place = file.resolve()
        if not any(place.is_relative_to(root) for root in inside):
            raise ModelFolderError(f"{kind} folder {folder}: {file.relative_to(folder)} is a link to outside of it")


def _pickled(folder: Path) -> str:
    found = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    return f" ({found[0]} is a pickle, which may hold code and is not opened: convert it)" if found else ""


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(read_json(index, _LARGEST_INDEX_BYTES)["weight_map"].values()))
        elsewhere = [name for name in names if Path(name).name != name or not name.endswith(".safetensors")]
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ModelFolderError(f"model folder {index.parent}: {index.name} is damaged") from error
    if elsewhere:
        where = f"model folder {index.parent}: {index.name}"
        raise ModelFolderError(f"{where} names {shown(elsewhere[0])}, which is no .safetensors file in it")
    return names


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
