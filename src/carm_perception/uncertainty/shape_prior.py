# SPDX-License-Identifier: Apache-2.0
"""What bodies look like, brought to bear on the places of landmarks in one image.

A network places each landmark by itself. The distances between the landmarks of the trunk and the head are known from
generated bodies: their mean and principal modes (``scripts/fit_shape_model.py``; Cootes et al., "Active shape models",
CVIU 61(1), 1995). Given the angles of the view, the places are a linear function of a normally distributed shape and
of an unknown shift, so the posterior is exact. Sure landmarks hardly move; unsure ones follow from their neighbors.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib.resources import files

import numpy as np

from carm_core.landmarks import ROWS
from carm_core.transforms import Array

SPINE_IDS = frozenset((10, 14, *range(101, 121)))
_LEAST_STD_MM = 4.0
_LEVELS_MM = 20.0
"""Vertebrae look alike: all of them may be taken for a neighbor at once. Standard deviation of that common error along
the spine, mm. This and ``_SURE_MM`` were chosen on the validation anatomies (docs/perception.md)."""
_SURE_MM = 6.0
"""Places with a smaller standard deviation stay; those with twice as much follow the posterior, mm."""
_DEPTH = 0.1
"""Landmarks lie in front of the isocenter or behind it, which their places at isocenter depth do not tell: their
distance from the image center is off by this share (60 of 600 mm), one standard deviation."""
_SHIFT_MM = 1000.0
_MOST_MISFIT = 4.0
"""Mean squared misfit, in variances, above which the body is none that the model knows, and nothing moves."""


@dataclass(frozen=True, eq=False)
class ShapeModel:
    """Landmarks of the trunk and the head of a supine body, frame ``table``, up to a shift.

    Attributes:
        ids: Landmark ids (n,).
        mean_mm: (n, 3), mm.
        modes_mm: (m, n, 3): one standard deviation of each principal mode, mm.
        rest_std_mm: (n, 3): what the modes leave, mm.
    """

    ids: tuple[int, ...]
    mean_mm: Array
    modes_mm: Array
    rest_std_mm: Array

    @cached_property
    def rows(self) -> Array:
        """Rows of the landmarks among all (n,)."""
        return np.array([ROWS[one] for one in self.ids])

    @cached_property
    def of_spine(self) -> Array:
        """1 for vertebrae, 0 for others (n,)."""
        return np.array([float(one in SPINE_IDS) for one in self.ids])

    def refined(self, places_mm: Array, stds_mm: Array, axes: Array) -> tuple[Array, Array]:
        """Return places and standard deviations as they follow from all of them and the shape.

        No standard deviation becomes smaller: errors of neighbors are alike, so those of the posterior are too small.
        They grow with the way from where a landmark was seen, since then one of the two is wrong.

        Args:
            places_mm: Of all landmarks (48, 2), right and up in the display image at isocenter depth, mm.
            stds_mm: Standard deviation of either component (48,), mm.
            axes: Directions of right and up in frame ``table`` (2, 3).

        Returns:
            The same for all landmarks; those of the limbs are as they were.
        """
        seen, own = places_mm[self.rows], stds_mm[self.rows]
        if not (np.isfinite(seen).all() and np.isfinite(own).all()):
            return places_mm, stds_mm
        count = len(self.ids)
        expected = (self.mean_mm @ axes.T).ravel()
        modes = (self.modes_mm @ axes.T).reshape(len(self.modes_mm), 2 * count)
        shift = _SHIFT_MM * np.tile(np.eye(2), (count, 1))
        shape = modes.T @ modes + np.diag((self.rest_std_mm**2 @ axes.T**2).ravel()) + shift @ shift.T
        along = axes @ np.array([1.0, 0.0, 0.0])  # the spine, in the image
        levels = _LEVELS_MM * np.outer(self.of_spine, along).ravel()
        each = np.repeat(np.maximum(own, _LEAST_STD_MM) ** 2, 2) + (_DEPTH * seen.ravel()) ** 2
        noise = np.diag(each) + np.outer(levels, levels)
        miss = seen.ravel() - expected
        weighted = np.linalg.solve(shape + noise, miss)
        if miss @ weighted > _MOST_MISFIT * 2 * count:
            return places_mm, stds_mm
        after = (expected + shape @ weighted).reshape(count, 2)
        weight = np.clip((own - _SURE_MM) / _SURE_MM, 0.0, 1.0)
        places, stds = places_mm.copy(), stds_mm.copy()
        places[self.rows] = seen + weight[:, None] * (after - seen)
        stds[self.rows] = np.hypot(own, np.linalg.norm(places[self.rows] - seen, axis=1))
        return places, stds


@lru_cache(maxsize=1)
def shape_model() -> ShapeModel:
    """Return the model of the file that ships."""
    data = json.loads(files("carm_perception.uncertainty").joinpath("shape_model.json").read_text(encoding="utf-8"))
    return ShapeModel(
        tuple(data["ids"]), np.array(data["mean_mm"]), np.array(data["modes_mm"]), np.array(data["rest_std_mm"])
    )
