# SPDX-License-Identifier: Apache-2.0
"""Images of a data set by number, and the examples that a run makes of them: repeatable, in any order."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.landmarks import LANDMARKS
from carm_perception.datasets.storage.shards import decoded, open_shard
from carm_perception.training.qlora.questions import Question, draw_question

_COLUMNS = ("image", "mm_per_px", "displacement_mm", "orientation")
_ORDER, _QUESTION = 1, 2


@dataclass(frozen=True, eq=False)
class Picture:
    """One image.

    Attributes:
        image: Gray values uint8 (rows, columns).
        mm_per_px: Pixel spacing at isocenter depth.
        displacement_mm: Landmarks (14, 2), right and up, mm; NaN when unknown.
        orientation: How it is shown.
    """

    image: NDArray[np.uint8]
    mm_per_px: float
    displacement_mm: NDArray[np.float32]
    orientation: str

    @property
    def field_mm(self) -> tuple[float, float]:
        """Width and height at isocenter depth."""
        rows, columns = self.image.shape
        return columns * self.mm_per_px, rows * self.mm_per_px


class Pictures:
    """The images of a split, read from the shards when they are asked for."""

    def __init__(self, data: Path, split: str) -> None:
        """List the shards.

        Args:
            data: Folder of the data set.
            split: Name of the split.

        Raises:
            ConfigurationError: There is none, or one is damaged.
        """
        paths = sorted(data.glob(f"xray-{split}-*.parquet"))
        self._groups: list[tuple[Path, int]] = []
        self._first = [0]
        for path in paths:
            metadata = open_shard(path).metadata
            for group in range(metadata.num_row_groups):
                self._groups.append((path, group))
                self._first.append(self._first[-1] + metadata.row_group(group).num_rows)
        if not paths:
            raise ConfigurationError(
                f"no {split} images in {data}; make them with: carm dataset --format xray --split {split}"
                f" --output {data}"
            )

    def __len__(self) -> int:
        """Return the number of images."""
        return self._first[-1]

    def __getitem__(self, index: int) -> Picture:
        """Read an image."""
        group = bisect_right(self._first, index) - 1
        row = _rows(*self._groups[group])[index - self._first[group]]
        gray = decoded(row["image"]["bytes"], self._groups[group][0])
        marks = np.array(row["displacement_mm"], np.float32).reshape(len(LANDMARKS), 2)
        return Picture(gray, float(row["mm_per_px"]), marks, str(row["orientation"]))


@lru_cache(maxsize=4)
def _rows(path: Path, group: int) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    rows: list[dict[str, Any]] = pq.ParquetFile(path).read_row_group(group, columns=list(_COLUMNS)).to_pylist()
    return rows


class Examples:
    """Examples of a run by number, without end: every epoch takes all images once, in another order."""

    def __init__(self, pictures: Pictures, seed: int) -> None:
        """Store the settings.

        Args:
            pictures: The images.
            seed: Of order and questions.
        """
        self._pictures = pictures
        self._seed = seed

    def __getitem__(self, number: int) -> tuple[Picture, Question]:
        """Return an image with a question about it; the same number gives the same."""
        epoch, place = divmod(number, len(self._pictures))
        picture = self._pictures[int(_order(self._seed, epoch, len(self._pictures))[place])]
        rng = np.random.default_rng([self._seed, _QUESTION, number])
        return picture, draw_question(rng, picture.displacement_mm, picture.orientation)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, epoch]).permutation(count)
