# SPDX-License-Identifier: Apache-2.0
"""Stored views in memory, for training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.landmarks import ALL_LANDMARKS, ROWS
from carm_perception.datasets.storage.shards import decoded, open_shard
from carm_perception.datasets.views import LIMB_IDS


def without_missing_limbs(
    displacement_mm: NDArray[np.float32], image: NDArray[np.uint8], mm_per_px: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Remove the landmarks of arms that a truncated volume does not contain: their positions are air.

    Args:
        displacement_mm: Displacements (count, 48, 2), right and up.
        image: Gray values (count, side, side), 0 where nothing attenuates.
        mm_per_px: Pixel spacing (count,).

    Returns:
        A copy, NaN at what cannot be known from the image.
    """
    side = image.shape[-1]
    known = displacement_mm.copy()
    views = np.arange(len(image))
    for mark in LIMB_IDS:
        pixel = displacement_mm[:, ROWS[mark]] / mm_per_px[:, None] * (1, -1) + (side - 1) / 2
        column, row = np.clip(np.rint(np.nan_to_num(pixel, nan=-1e6)), -1, side).astype(int).T
        inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
        air = image[views, np.clip(row, 0, side - 1), np.clip(column, 0, side - 1)] <= 1
        known[inside & air, ROWS[mark]] = np.nan
    return known


class ViewStore:
    """Views of many Parquet shards, decoded once.

    Attributes:
        image: Gray values uint8 (count, side, side) of all attenuation.
        bone: Gray values uint8 of the bone excess.
    """

    def __init__(self, capacity: int = 0) -> None:
        """Start empty.

        Args:
            capacity: Views to keep at most; 0: all.
        """
        self._capacity = capacity
        self._loaded: set[str] = set()
        self._parts: dict[str, list[NDArray[Any]]] = {}
        self._arrays: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        """Return the number of views."""
        return len(self._arrays["displacement_mm"]) if self._arrays else 0

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column for all views: see ``add_shard``."""
        return self._arrays[name]

    def refresh(self, folder: Path, split: str, limit: int = 0) -> int:
        """Load shards of a split that are new in the folder.

        Args:
            folder: Folder of the data set.
            split: Name of the split.
            limit: Largest number of shards to load in this call; 0: all.

        Returns:
            Number of views that were added.

        Raises:
            ConfigurationError: A shard cannot be read.
        """
        before = len(self)
        paths = [p for p in sorted(folder.glob(f"{split}-*.parquet")) if p.name not in self._loaded]
        for path in paths[: limit or None]:
            if self._capacity and sum(map(len, self._parts.get("seed", []))) >= self._capacity:
                break
            self.add_shard(path)
        if paths:
            self._arrays = {name: np.concatenate(parts) for name, parts in self._parts.items()}
            self._parts = {name: [array] for name, array in self._arrays.items()}
        return len(self) - before

    def add_shard(self, path: Path) -> None:
        """Decode one shard into the columns image, bone, image_max_mm, bone_max_mm, displacement_mm, mm_per_px, seed.

        Raises:
            ConfigurationError: The file cannot be read.
        """
        shard = open_shard(path)
        try:
            table = shard.read()
            self._add(table, path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigurationError(f"cannot read shard {path}: {reason}") from error
        self._loaded.add(path.name)

    def _add(self, table: Any, path: Path) -> None:
        for name in ("image", "bone"):
            encoded = table.column(name).combine_chunks().field("bytes")
            images = [decoded(item.as_py(), path) for item in encoded]
            self._parts.setdefault(name, []).append(np.stack(images))
        for name in ("image_max_mm", "bone_max_mm", "mm_per_px", "seed", "centered_on"):
            self._parts.setdefault(name, []).append(table.column(name).to_numpy())
        spacing = table.column("mm_per_px").to_numpy()
        flat = np.array(table.column("displacement_mm").to_pylist(), np.float32)
        marks = without_missing_limbs(flat.reshape(-1, len(ALL_LANDMARKS), 2), self._parts["image"][-1], spacing)
        self._parts.setdefault("displacement_mm", []).append(marks)

    def arrays(self, index: NDArray[np.int64]) -> dict[str, NDArray[np.float32]]:
        """Return the views by index.

        Returns:
            ``soft`` and ``bone`` (n, side, side) in mm of water, ``displacement_mm`` (n, 48, 2), ``mm_per_px`` (n,).
        """
        everything = self["image"][index].astype(np.float32) * (self["image_max_mm"][index] / 255)[:, None, None]
        bone = self["bone"][index].astype(np.float32) * (self["bone_max_mm"][index] / 255)[:, None, None]
        return {
            "soft": np.maximum(everything - bone, 0),
            "bone": bone,
            "displacement_mm": self["displacement_mm"][index],
            "mm_per_px": self["mm_per_px"][index].astype(np.float32),
        }
