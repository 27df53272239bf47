# SPDX-License-Identifier: Apache-2.0
"""A stand-in for the generator of phantoms: a box of water with a bead at every landmark, made at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from carm_core.landmarks import LANDMARKS
from carm_perception.datasets.storage.dataset import DatasetSpec
from carm_sim.patient.volume import Volume


class BeadBody:
    """What the data set needs of a phantom."""

    def __init__(
        self,
        seed: int,
        spacing_mm: float = 2.0,
        style: str = "standard",
        arms: str | None = None,
        whole_body: bool = False,
    ) -> None:
        rng = np.random.default_rng(seed)
        hu: NDArray[np.int16] = np.full((120, 60, 160), -1000, np.int16)
        hu[10:110, 8:52, 4:156] = 20
        places = [(i, k) for i in (28, 60, 92) for k in (30, 60, 90, 120, 140)]
        places[5], places[13] = places[13], places[5]  # T12 below T1
        index = {
            m.id: np.array([places[n][0], int(rng.integers(16, 44)), places[n][1]]) + rng.integers(-5, 6, 3) * (1, 0, 1)
            for n, m in enumerate(LANDMARKS)
        }
        for i, j, k in index.values():
            hu[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = 3000
        self.volume = Volume(hu, np.diag([3.0, 3.0, 3.0, 1.0]))
        self.landmarks_mm = {key: self.volume.lps_from_voxel(value.astype(float)) for key, value in index.items()}
        self.extra_landmarks_mm: dict[int, NDArray[np.float64]] = {}


class BeadSpec(DatasetSpec):
    """A split of such bodies."""

    def rows(self, seed: int) -> Iterator[Mapping[str, Any]]:
        with patch("carm_sim.phantom.generate_phantom", BeadBody):
            yield from super().rows(seed)
