# SPDX-License-Identifier: Apache-2.0
"""Detection of images that are unlike those of the calibration patients.

The deep-learning localizer betrays an image without a body: nothing is surely in it, and every place is vague. A linear
discriminant for each family of strange images tells calibration views from
them (outlier exposure, Hendrycks et al. 2019, arXiv:1812.04606); its threshold is conformal: patients that it was not
learned from exceed it in a stated part of their views that show a landmark. A view of a body whose target, or whose
every landmark, lies outside the image is not strange in itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import LocalizerError
from carm_core.transforms import Array
from carm_perception.uncertainty.conformal import conformal_quantile

FALSE_ABSTENTION = 0.0075
"""Part of the calibration views with a landmark in the image that counts as strange, over all families."""

NO_BODY, SHADOWS = "without_body", "objects"
"""Names of the families of strange images."""
BARE_WEIGHT = 5.0
"""What a calibration view without a landmark in the image counts: there are few of them."""
LIMIT = 1.0
"""Largest strangeness of a familiar image."""

SHRINKAGE = 0.2
"""Of the covariance towards independence."""

MINIMUM_PRESENCE = 1e-3
_LEAST_THRESHOLD = 1e-3
_ORDERED = (0, 3, 7)
"""Places of the standard deviations, from the smallest on, that are looked at besides."""


def describe(std_mm: Array, presence: Array) -> Array:
    """Return what an image is judged by (n, features).

    Args:
        std_mm: Standard deviation of each landmark's place (n, 48).
        presence: How surely each landmark is in the image (n, 48).
    """
    vague = np.log(np.clip(std_mm, 0.1, None))
    inside = np.clip(presence, MINIMUM_PRESENCE, 1 - MINIMUM_PRESENCE)
    sure = np.log(inside / (1 - inside))
    return np.concatenate([vague, sure, np.sort(vague, axis=1)[:, _ORDERED], sure.max(1, keepdims=True)], axis=1)


@dataclass(frozen=True, eq=False)
class Familiarity:
    """A linear judgment of images.

    Attributes:
        mean: Mean description of the calibration views (features,).
        weights: Weight of each feature for each family of strange images (families, features).
        thresholds: Largest score of a familiar image for each family (families,).
    """

    mean: Array
    weights: Array
    thresholds: Array

    def score(self, std_mm: Array, presence: Array) -> float:
        """Return how strange an image is: its reading's standard deviations (48,) and presences (48,)."""
        return float(self.scores(std_mm[None], presence[None])[0])

    def scores(self, std_mm: Array, presence: Array) -> Array:
        """Return the out-of-distribution score (n,): the largest over the families, in units of its threshold."""
        scores: Array = ((describe(std_mm, presence) - self.mean) @ self.weights.T / self.thresholds).max(1)
        return scores

    @classmethod
    def fit(
        cls,
        readings: tuple[Array, Array],
        patient: NDArray[np.int64],
        shows: NDArray[np.bool_],
        strange: Mapping[str, tuple[Array, Array]],
    ) -> Familiarity:
        """Learn the weights from every other calibration patient, and the thresholds from the rest.

        Args:
            readings: Standard deviations and presences (n, 48) of calibration views.
            patient: Whose view each is (n,).
            shows: Whether each shows a landmark (n,).
            strange: Standard deviations and presences of each family of strange images, (m, 48) each, by name.
        """
        first = np.unique(patient, return_inverse=True)[1] % 2 == 0
        known, held_out = (describe(*(part[chosen] for part in readings)) for chosen in (first, ~first & shows))
        scale = known.std(0) + 1e-6
        counts = np.where(shows[first], 1.0, BARE_WEIGHT)
        mean: Array = np.average(known, axis=0, weights=counts)
        weights, thresholds = [], []
        for family in strange.values():
            other = describe(*family)
            spread = (np.cov((known / scale).T, aweights=counts) + np.cov((other / scale).T)) / 2
            spread = (1 - SHRINKAGE) * spread + SHRINKAGE * np.eye(len(scale))
            weight = np.linalg.solve(spread, (other.mean(0) - mean) / scale) / scale
            weights.append(weight)
            level = 1 - FALSE_ABSTENTION / len(strange)
            thresholds.append(max(conformal_quantile((held_out - mean) @ weight, level), _LEAST_THRESHOLD))
        return cls(mean, np.array(weights), np.array(thresholds))

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON."""
        return {
            "mean": [float(f"{v:.6g}") for v in self.mean],
            "weights": [[float(f"{v:.6g}") for v in row] for row in self.weights],
            "thresholds": [round(float(v), 4) if math.isfinite(v) else None for v in self.thresholds],
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Familiarity:
        """Read what ``as_dict`` wrote.

        Raises:
            LocalizerError: It is something else.
        """
        try:
            limits = [math.inf if limit is None else float(limit) for limit in content["thresholds"]]
            mean = np.array(content["mean"], dtype=np.float64)
            weights = np.array(content["weights"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise LocalizerError(f"the statistics of familiar images are damaged: {error!r}") from error
        if mean.ndim != 1 or weights.shape != (len(limits), len(mean)) or not np.isfinite(weights).all():
            raise LocalizerError(f"the statistics of familiar images have the shapes {mean.shape}, {weights.shape}")
        if not limits or not min(limits) > 0:
            raise LocalizerError(f"the thresholds of familiar images are not positive: {limits}")
        return cls(mean, weights, np.array(limits))
