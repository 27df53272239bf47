# SPDX-License-Identifier: Apache-2.0
"""Which images are like those of the calibration patients, and show at least one landmark.

Two things make an image strange: the mean of its tokens lies far from those of the calibration views (Mahalanobis
distance in their principal components, Lee et al. 2018, arXiv:1807.03888), and no landmark is surely seen in it. A view
of the body whose target lies outside the image is not strange.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import LocalizerError

Array = NDArray[np.float64]

COMPONENTS = 16
"""Principal components of the mean token."""

FALSE_ABSTENTION = 0.01
"""Part of the calibration views with a landmark in the image that counts as strange."""

PRESENCE_WEIGHT = 2.0
"""Weight of the unseen landmarks' logarithm against the distance."""

MINIMUM_PRESENCE = 1e-3


@dataclass(frozen=True, eq=False)
class Familiarity:
    """Statistics of the calibration views.

    Attributes:
        mean: Mean feature (width,).
        whitening: Principal axes over their standard deviation (components, width).
        residual_std: Root mean square of what the components leave over.
        threshold: Largest score of a familiar image.
    """

    mean: Array
    whitening: Array
    residual_std: float
    threshold: float

    def score(self, feature: Array, presence: Array) -> float:
        """How strange an image is; from 0, without unit.

        Args:
            feature: Mean token (width,).
            presence: How surely each landmark is in the image (14,).
        """
        return float(self.scores(feature[None], presence[None])[0])

    def scores(self, features: Array, presences: Array) -> Array:
        """Scores (n,) of many images, see :meth:`score`."""
        centered = features - self.mean
        inside = centered @ self.whitening.T
        axes = self.whitening / np.linalg.norm(self.whitening, axis=1, keepdims=True)
        rest = centered - (centered @ axes.T) @ axes
        far = (inside**2).mean(-1) + (rest**2).mean(-1) / self.residual_std**2
        unseen = -np.log(np.clip(presences.max(-1), MINIMUM_PRESENCE, 1.0))
        scores: Array = far + PRESENCE_WEIGHT * unseen
        return scores

    @classmethod
    def fit(cls, features: Array, presences: Array, counted: NDArray[np.bool_]) -> Familiarity:
        """Learn from calibration views.

        Args:
            features: Mean tokens (n, width).
            presences: How surely each landmark is in each image (n, 14).
            counted: Views with a landmark in the image (n,), from which the threshold is taken.
        """
        mean = features.mean(0)
        _, sizes, axes = np.linalg.svd(features - mean, full_matrices=False)
        kept = min(COMPONENTS, int((sizes > 1e-9 * sizes[0]).sum()))
        spread = sizes / math.sqrt(len(features))
        rest = math.sqrt(max(float((spread[kept:] ** 2).sum()) / features.shape[1], 1e-12))
        found = cls(mean, axes[:kept] / spread[:kept, None], rest, math.inf)
        scores = found.scores(features[counted], presences[counted])
        rank = min(len(scores), math.ceil((len(scores) + 1) * (1 - FALSE_ABSTENTION)))
        limit = float(np.sort(scores)[rank - 1]) if len(scores) else math.inf
        return cls(found.mean, found.whitening, found.residual_std, limit)

    def as_dict(self) -> dict[str, Any]:
        """Content for JSON."""
        return {
            "mean": [float(f"{v:.6g}") for v in self.mean],
            "whitening": [[float(f"{v:.5g}") for v in row] for row in self.whitening],
            "residual_std": float(f"{self.residual_std:.6g}"),
            "threshold": round(self.threshold, 4) if math.isfinite(self.threshold) else None,
        }

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> Familiarity:
        """Read what :meth:`as_dict` wrote.

        Raises:
            LocalizerError: It is something else.
        """
        try:
            limit = content["threshold"]
            found = cls(
                np.array(content["mean"], dtype=np.float64),
                np.array(content["whitening"], dtype=np.float64),
                float(content["residual_std"]),
                math.inf if limit is None else float(limit),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise LocalizerError(f"the statistics of familiar images are damaged: {error!r}") from error
        if found.mean.ndim != 1 or found.whitening.shape[1:] != found.mean.shape or not found.residual_std > 0:
            raise LocalizerError(f"the statistics of familiar images have the shape {found.whitening.shape}")
        return found
