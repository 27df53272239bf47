# SPDX-License-Identifier: Apache-2.0
"""What the classifier of body parts is trained on: generated radiographs, or the pictures of a labeled folder."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import ConfigurationError
from carm_perception.datasets.storage.dataset import BODY_PART_INTEGRALS, FORMATS
from carm_perception.datasets.storage.shards import decoded, open_shard
from carm_perception.networks.body_part_reader import SQUARE_PX
from carm_perception.protocols.parsing import parse_body_parts
from carm_perception.training.compact.augment import low_frequency, plain_display, random_display, window

TURN_DEG, WIDE_TURN_DEG, WIDE = 6.0, 20.0, 0.15
"""Standard deviation of rotations in the image plane, and of those of a part of the images."""
SHIFT, ZOOM, ASPECT = 0.05, 0.09, 0.07
"""Standard deviations: shift in parts of the side, logarithms of zoom and of proportions."""
QUARTER = 0.06
"""Part of the images that is turned by a quarter."""


class Views(ABC):
    """Labeled images that are drawn anew each time."""

    labels: NDArray[np.float32]
    """1 for each body part that an image shows (count, 22)."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def shares(self) -> NDArray[np.float64]:
        """Return how often each image is drawn (count,): those of rare body parts more often."""
        labels = self.labels.astype(np.float64)
        weights = labels / np.sqrt(np.maximum(labels.sum(0), 1.0))
        each = weights.sum(1) / np.maximum(labels.sum(1), 1.0)
        return np.asarray(each / each.sum())

    @abstractmethod
    def plain(self, index: NDArray[np.int64]) -> Tensor:
        """Return images (n, 128, 128) as they are, gray 0 to 1."""

    @abstractmethod
    def drawn(self, index: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """Return images (n, 128, 128) moved, turned and displayed at random, gray 0 to 1."""


def targets_of(labels: Sequence[Sequence[int]]) -> NDArray[np.float32]:
    """Return 1 for each body part of each image (count, 22)."""
    targets = np.zeros((len(labels), len(BODY_PARTS)), np.float32)
    for row, ids in enumerate(labels):
        targets[row, list(ids)] = 1.0
    return targets


class GeneratedViews(Views):
    """Line integrals of the format ``body-part-integrals``; each display is drawn anew."""

    def __init__(self, folder: Path, split: str) -> None:
        """Load what is there.

        Args:
            folder: Folder of the data set.
            split: Name of the split.

        Raises:
            ConfigurationError: There is none of it, or a shard cannot be read.
        """
        self._folder, self._prefix = folder, FORMATS[BODY_PART_INTEGRALS].prefix + split
        self._loaded: set[str] = set()
        self._soft: list[NDArray[np.uint8]] = []
        self._bone: list[NDArray[np.uint8]] = []
        self._most: list[tuple[float, float]] = []
        self._labels: list[tuple[int, ...]] = []
        if not self.refresh():
            raise ConfigurationError(f"{folder} holds no {self._prefix}-*.parquet: carm dataset --task body-part")

    def refresh(self) -> int:
        """Load shards that are new in the folder; return the number of images in them.

        Raises:
            ConfigurationError: A shard cannot be read.
        """
        before = len(self._labels)
        for path in sorted(self._folder.glob(f"{self._prefix}-*.parquet")):
            if path.name not in self._loaded:
                self._add(path)
        self.labels = targets_of(self._labels)
        return len(self._labels) - before

    def _add(self, path: Path) -> None:
        shard = open_shard(path)
        try:
            for row in shard.read().to_pylist():
                self._soft.append(decoded(row["image"]["bytes"], path))
                self._bone.append(decoded(row["bone"]["bytes"], path))
                self._most.append((row["image_max_mm"], row["bone_max_mm"]))
                self._labels.append(parse_body_parts(row["label"]).part_ids)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigurationError(f"cannot read shard {path}: {reason}") from error
        self._loaded.add(path.name)

    def _integrals(self, index: NDArray[np.int64]) -> Tensor:
        """Return soft tissue and bone (n, 2, side, side), mm of water."""
        gray = np.stack([np.stack([self._soft[i], self._bone[i]]) for i in index]).astype(np.float32)
        both = torch.from_numpy(gray) * (torch.tensor([self._most[i] for i in index]) / 255)[:, :, None, None]
        return torch.stack([(both[:, 0] - both[:, 1]).clamp_min(0), both[:, 1]], dim=1)

    def plain(self, index: NDArray[np.int64]) -> Tensor:
        """See ``Views``."""
        small = functional.interpolate(self._integrals(index), size=(SQUARE_PX, SQUARE_PX), mode="area")
        return plain_display(small[:, 0], small[:, 1])

    def drawn(self, index: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """See ``Views``."""
        moved = moved_at_random(self._integrals(index), generator)
        return full_range(random_display(moved[:, 0], moved[:, 1], generator))


class PictureViews(Views):
    """Pictures, stretched to squares."""

    def __init__(self, gray: NDArray[np.uint8], labels: Sequence[Sequence[int]]) -> None:
        """Take pictures.

        Args:
            gray: Of ``model_square`` (count, 128, 128).
            labels: Ids of the body parts in each.
        """
        self._gray, self.labels = gray, targets_of(labels)

    def plain(self, index: NDArray[np.int64]) -> Tensor:
        """See ``Views``."""
        return torch.from_numpy(self._gray[index].astype(np.float32) / 255)

    def drawn(self, index: NDArray[np.int64], generator: torch.Generator) -> Tensor:
        """See ``Views``."""
        count = len(index)
        image = moved_at_random(self.plain(index)[:, None], generator)[:, 0]
        image = image ** torch.exp(0.3 * torch.randn(count, 1, 1, generator=generator))
        shade = low_frequency(generator, count, 4) * 0.1 * torch.rand(count, 1, 1, generator=generator)
        noise = torch.randn(image.shape, generator=generator) * 0.03 * torch.rand(count, 1, 1, generator=generator)
        image = (image + shade + noise).clamp(0, 1)
        inverted = (torch.rand(count, 1, 1, generator=generator) < 0.1).float()
        return full_range(image + inverted * (1 - 2 * image))


def full_range(image: Tensor) -> Tensor:
    """Return images (n, rows, columns) between the percentiles that ``model_square`` takes."""
    low, high = (torch.full((len(image), 1, 1), share) for share in (0.005, 0.995))
    return window(image, low, high)


def moved_at_random(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, mirror, shift, zoom and stretch images at random; what comes from outside is 0.

    Args:
        images: (n, channels, side, side).
        generator: Source of randomness.

    Returns:
        Images (n, channels, 128, 128).
    """
    count = len(images)

    def normal(std: float) -> Tensor:
        return (torch.randn(count, generator=generator) * std).clamp(-3 * std, 3 * std)

    wide = torch.rand(count, generator=generator) < WIDE
    angle = normal(1.0) * torch.deg2rad(torch.where(wide, WIDE_TURN_DEG, TURN_DEG))
    quarters = torch.randint(0, 4, (count,), generator=generator)
    quarters = torch.where(torch.rand(count, generator=generator) < QUARTER, quarters, 0)
    angle = angle + quarters * (math.pi / 2)
    zoom, stretch = torch.exp(normal(ZOOM)), torch.exp(normal(ASPECT))
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    cos, sin = angle.cos(), angle.sin()
    theta[:, 0, 0], theta[:, 0, 1] = mirror * cos * zoom * stretch, -sin * zoom
    theta[:, 1, 0], theta[:, 1, 1] = mirror * sin * zoom, cos * zoom / stretch
    theta[:, 0, 2], theta[:, 1, 2] = normal(2 * SHIFT), normal(2 * SHIFT)
    grid = functional.affine_grid(theta, [count, images.shape[1], SQUARE_PX, SQUARE_PX], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
