# SPDX-License-Identifier: Apache-2.0
"""Model folders on disk: where the shipped one is, what one must hold, and the hash that names its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from carm_core.errors import LocalizerError

COMPACT_FOLDER = Path(__file__).parent / "models" / "compact"
LOCALIZER_FILE, HEAD_FILE = "localizer.safetensors", "displacement_head.safetensors"
"""Weights of the deep-learning localizer, beside those of the language model: its network, and heads on the tower."""
REQUIRED = ("config.json", "tokenizer_config.json", "processor_config.json")


def check_model_folder(folder: Path, required: tuple[str, ...] = ("config.json",)) -> None:
    """Check that a model folder is complete before the slow imports begin.

    Args:
        folder: The folder.
        required: Files that it must hold besides the weights.

    Raises:
        LocalizerError: The folder, a required file or a shard of the weights is missing; names it.
    """
    if not folder.is_dir():
        raise LocalizerError(f"model folder {folder} does not exist")
    for name in required:
        if not (folder / name).is_file():
            raise LocalizerError(f"model folder {folder} lacks {name}")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, AttributeError) as error:
            raise LocalizerError(f"model folder {folder}: {index.name} is damaged") from error
        for shard in shards:
            if not (folder / shard).is_file():
                raise LocalizerError(f"model folder {folder} lacks {shard}")
    elif {file.name for file in folder.glob("*.safetensors")} <= {LOCALIZER_FILE, HEAD_FILE} and not any(
        folder.glob("*.bin")
    ):
        raise LocalizerError(f"model folder {folder} lacks model.safetensors")


def weights_hash(folder: Path) -> str:
    """Short hash (12 hex digits) of all weights in a folder; empty when there are none."""
    digest, found = hashlib.sha256(), False
    for file in sorted(folder.glob("*.safetensors")):
        found = True
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:12] if found else ""
