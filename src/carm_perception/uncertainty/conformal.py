# SPDX-License-Identifier: Apache-2.0
"""Split conformal prediction of radial errors: radii that hold a landmark as often as they say.

For exchangeable data the ``ceil((n + 1) level)``-th smallest of ``n`` calibration scores bounds a new score with
probability of at least ``level``, whatever the model (Vovk et al. 2005; Lei et al. 2018, J. Am. Stat. Assoc. 113). The
score here is the error divided by a power of the stated standard deviation: power 1 follows the model's own
uncertainty (locally adaptive), power 0 gives one radius for all. Landmarks that are seen in the image, and landmarks
whose place is inferred from others, near the image or far from it, are calibrated apart (Mondrian conformal
prediction): the case follows from the answer, not from the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import LocalizerError
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.transforms import Array

LEVELS = (0.90, 0.95, 0.97)
"""Coverage of the three radii."""

CASES = ("seen", "near", "far")
"""Landmarks that are seen, and inferred ones, see ``NEAR_MM``."""

NEAR_MM = 150.0
"""An inferred landmark within this distance of the image center is near: about where errors of the size of the image
decide whether it is in it."""

MINIMUM_SAMPLES = 120
"""A landmark with fewer samples is calibrated together with its counterpart, else with all others that lack samples."""

POWERS = (0.0, 0.5, 1.0)
"""Powers of the stated standard deviation that are tried; the one with the best ``interval_score`` is kept."""

MINIMUM_STD_MM = 1.0
"""Stated standard deviations below this count as this, mm."""


def case_index(seen: NDArray[np.bool_], place_mm: Array) -> NDArray[np.int64]:
    """Return the position in ``CASES`` (...) of answers.

    Args:
        seen: Whether each landmark is seen in the image (...).
        place_mm: Displacements (..., 2) that are stated.
    """
    return np.where(seen, 0, np.where(np.linalg.norm(place_mm, axis=-1) <= NEAR_MM, 1, 2))


def conformal_quantile(scores: Array, level: float) -> float:
    """Return the quantile of calibration scores with the finite-sample correction.

    Args:
        scores: Finite scores (n,).
        level: Coverage asked for, 0 to 1.

    Returns:
        The ``ceil((n + 1) level)``-th smallest score; infinite when there are too few.
    """
    rank = math.ceil((len(scores) + 1) * level - 1e-9)
    if rank > len(scores):
        return math.inf
    return float(np.partition(scores, rank - 1)[rank - 1])


@dataclass(frozen=True, eq=False)
class RadiusTable:
    """Conformal radii of one case.

    Attributes:
        power: Power of the stated standard deviation.
        factors: Radius per ``std_mm ** power`` (48, levels), mm to the power ``1 - power``; infinite when there were
            too few samples.
    """

    power: float
    factors: Array

    def radii_mm(self, std_mm: Array) -> Array:
        """Return the radii (..., 48, levels) for stated standard deviations (..., 48), mm."""
        scale = np.maximum(std_mm, MINIMUM_STD_MM) ** self.power
        radii: Array = scale[..., None] * self.factors
        return radii

    def radius_mm(self, row: int, std_mm: float) -> tuple[float, ...]:
        """Return the radii (levels) of the landmark in one row of the table, mm; infinite when not calibrated."""
        scale = max(std_mm, MINIMUM_STD_MM) ** self.power
        return tuple(float(scale * factor) for factor in self.factors[row])

    def as_dict(self) -> dict[str, Any]:
        """Return the content for JSON; infinity is null."""
        rows = [[round(v, 4) if math.isfinite(v) else None for v in row] for row in self.factors.tolist()]
        return {"power": self.power, "factors": rows}

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> RadiusTable:
        """Read what ``as_dict`` wrote.

        Raises:
            LocalizerError: It is something else.
        """
        try:
            rows = [[math.inf if v is None else float(v) for v in row] for row in content["factors"]]
            table = cls(float(content["power"]), np.array(rows, dtype=np.float64))
        except (KeyError, TypeError, ValueError) as error:
            raise LocalizerError(f"a table of conformal radii is damaged: {error!r}") from error
        if table.factors.shape != (len(ALL_LANDMARKS), len(LEVELS)) or not (table.factors > 0).all():
            raise LocalizerError(f"a table of conformal radii has the shape {table.factors.shape} or values <= 0")
        return table


def interval_score(error_mm: Array, radius_mm: Array, level: float = LEVELS[0]) -> float:
    """Return the mean of the radius and of what the errors exceed it by, mm; the smaller the better.

    It is smallest for radii that hold at their level under every circumstance, not on average alone (Gneiting and
    Raftery 2007, J. Am. Stat. Assoc. 102, for intervals from 0).

    Args:
        error_mm: Radial errors (n,).
        radius_mm: Radii (n,).
        level: Their level.
    """
    return float(np.mean(radius_mm + np.maximum(error_mm - radius_mm, 0.0) / (1 - level)))


def _pools(counts: NDArray[np.int64]) -> list[list[int]]:
    """Return the rows whose samples are taken together for each landmark.

    The pools are a partition wherever there are enough samples, so that coverage is exact over all landmarks too.
    """
    row_of = {mark.id: row for row, mark in enumerate(ALL_LANDMARKS)}
    everything = list(range(len(ALL_LANDMARKS)))
    alone = [row for row in everything if counts[row] >= MINIMUM_SAMPLES]
    pool_of = {row: [row] for row in alone}
    for row, mark in enumerate(ALL_LANDMARKS):
        pair = [row, row_of[mark.mirror_id]] if mark.mirror_id is not None else [row]
        if not set(pair) & set(alone) and counts[pair].sum() >= MINIMUM_SAMPLES:
            pool_of[row] = pair
    rest = [row for row in everything if row not in pool_of]
    shared = rest if rest and counts[rest].sum() >= MINIMUM_SAMPLES else everything
    return [pool_of.get(row, shared) for row in everything]


def fit_radii(error_mm: Array, std_mm: Array, case: NDArray[np.bool_]) -> RadiusTable:
    """Calibrate the radii of one case.

    Args:
        error_mm: Radial errors (n, 48); NaN where there is no truth or no answer.
        std_mm: Stated standard deviations (n, 48).
        case: Which samples belong to the case (n, 48).

    Returns:
        The table whose radii of ``LEVELS`` [0] have the best interval score.
    """
    valid = case & np.isfinite(error_mm) & np.isfinite(std_mm)
    pools = _pools(valid.sum(axis=0))
    tables = []
    for power in POWERS:
        scores = error_mm / np.maximum(std_mm, MINIMUM_STD_MM) ** power
        factors = [[conformal_quantile(scores[:, p][valid[:, p]], level) for level in LEVELS] for p in pools]
        tables.append(RadiusTable(power, np.maximum(np.array(factors), 1e-6)))
    if not valid.any():
        return tables[-1]
    values = [interval_score(error_mm[valid], t.radii_mm(std_mm)[valid][:, 0]) for t in tables]
    return tables[int(np.argmin(np.array(values)))]
