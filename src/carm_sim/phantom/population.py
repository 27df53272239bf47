# SPDX-License-Identifier: Apache-2.0
"""How landmark positions vary in a human population.

``population.json`` holds mean and covariance of 14 landmarks in the coronal plane relative to T1, computed from the
public annotation table (``data/classification.csv``) in the repository of the paper 'Autonomous skeletal landmark
localization towards agentic C-arm control': 161 supine bodies with arms crossed over the abdomen.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

MAX_DEVIATION = 2.6


@dataclass(frozen=True, eq=False)
class LandmarkPopulation:
    """Joint normal distribution of landmark positions in the coronal plane, relative to T1, in mm.

    Attributes:
        ids: Landmark ids, shape (N,).
        mean_mm: Shape (N, 2): distance towards the feet, distance towards the patient's left.
        std_mm: Shape (N, 2).
        covariance_mm2: Shape (2N, 2N); first all distances towards the feet, then all towards the left.
    """

    ids: NDArray[np.int64]
    mean_mm: NDArray[np.float64]
    std_mm: NDArray[np.float64]
    covariance_mm2: NDArray[np.float64]

    def sample(self, rng: np.random.Generator, widen: float = 1.0) -> dict[int, NDArray[np.float64]]:
        """Draw one body: landmark id to (inferior_mm, left_mm) relative to T1.

        Args:
            rng: Source of randomness.
            widen: Factor on the standard deviations.
        """
        root = _square_root(self)
        normal = rng.standard_normal(len(root))
        normal = np.where(np.abs(normal) > MAX_DEVIATION, np.sign(normal) * rng.uniform(0, MAX_DEVIATION), normal)
        flat = root @ normal * widen
        offsets = self.mean_mm + flat.reshape(2, -1).T
        return {int(identifier): offsets[row] for row, identifier in enumerate(self.ids)}


@lru_cache(maxsize=4)
def _square_root(population: LandmarkPopulation) -> NDArray[np.float64]:
    """Return the matrix A with A A^T = covariance."""
    values, vectors = np.linalg.eigh(population.covariance_mm2)
    return np.asarray(vectors * np.sqrt(np.maximum(values, 0)))


@lru_cache(maxsize=1)
def landmark_population() -> LandmarkPopulation:
    """Return the population that ships with the package."""
    content = json.loads(files("carm_sim.phantom").joinpath("population.json").read_text(encoding="utf-8"))
    count = len(content["landmarks"])
    return LandmarkPopulation(
        ids=np.array([entry["id"] for entry in content["landmarks"]]),
        mean_mm=np.array(content["mean"]).reshape(2, count).T,
        std_mm=np.array(content["std"]).reshape(2, count).T,
        covariance_mm2=np.array(content["covariance"]),
    )
