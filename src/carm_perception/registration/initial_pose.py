# SPDX-License-Identifier: Apache-2.0
"""Where the CT lies as far as the learned landmarks tell; and from where to search when they tell nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate
from carm_core.transforms import Array, RigidTransform

SUPINE = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
"""Rotation from LPS to frame ``table`` of a patient who lies on the back, head towards +x."""
_PRIOR_DEG, _PRIOR_MM = 7.0, (300.0, 60.0, 25.0)
"""How exactly a patient lies: turned, and along the table's x, y and height."""
_LEAST_STD_MM, _MOST_STD_MM = 4.0, 30.0
LEAST_LANDMARKS, SURE_MM = 3, 12.0
"""So many landmarks, or a single one with a standard deviation up to this, tell where to begin: how people lie on a
table leaves little else open."""
LIMBS = frozenset({6, 7, 8, 9, 123, 124, 125, 126})
"""Elbows, wrists, knees and ankles: they may lie elsewhere than in the CT, and count where too little else is seen."""
_STATION_MM, _ACROSS_MM = 12.5, tuple(range(-80, 81, 20))


@dataclass(frozen=True, eq=False)
class Sighted:
    """What a localizer saw in one image.

    Attributes:
        view: Geometry of the image, frame ``table``.
        estimates: Landmarks, with standard deviations.
    """

    view: XrayView
    estimates: tuple[LandmarkEstimate, ...]


def lying(center_lps_mm: Array, low_high_mm: tuple[Array, Array]) -> RigidTransform:
    """Return the pose of a patient who lies supine in the middle of the table, mm.

    Args:
        center_lps_mm: Center of the body in the CT (3,), LPS.
        low_high_mm: Corners of the body, LPS; the back, at the largest y, rests on the table.
    """
    resting = np.array([center_lps_mm[0], low_high_mm[1][1], center_lps_mm[2]])
    return RigidTransform(SUPINE, -SUPINE @ resting)


def from_landmarks(
    seen: Sequence[Sighted], landmarks_mm: Mapping[int, Array], nominal: RigidTransform
) -> RigidTransform | None:
    """Return the pose in which the CT's landmarks project to where they were seen; None: too few were, or unsurely.

    Args:
        seen: Of each image, what was seen.
        landmarks_mm: Landmark id to its LPS position (3,), mm.
        nominal: Pose that is expected within the prior's limits.
    """
    everything = [
        (e.id, (one.view, np.asarray(landmarks_mm[e.id]), np.asarray(e.displacement_mm), max(e.std_mm, _LEAST_STD_MM)))
        for one in seen
        for e in one.estimates
        if e.id in landmarks_mm and np.isfinite(e.displacement_mm).all() and e.std_mm <= _MOST_STD_MM
    ]
    still = [term for key, term in everything if key not in LIMBS]
    terms = still if _enough(still) else [term for _, term in everything]
    if not _enough(terms):
        return None
    middle = np.mean([point for _, point, _, _ in terms], axis=0)
    there = nominal.apply(middle)

    def pose(x: Array) -> RigidTransform:
        turn = Rotation.from_rotvec(x[:3]).as_matrix() @ nominal.rotation
        return RigidTransform(turn, there + x[3:] * 100.0 - turn @ middle)

    def misses(x: Array) -> Array:
        moved = pose(x)
        off = [(view.displacement_mm(moved.apply(point)) - place) / std for view, point, place, std in terms]
        prior = [*(x[:3] / np.radians(_PRIOR_DEG)), *(x[3:] * 100.0 / np.array(_PRIOR_MM))]
        return np.asarray(np.nan_to_num(np.concatenate([np.ravel(off), prior]), nan=50.0))

    first = np.zeros(6)
    view, point, place, _ = min(terms, key=lambda term: term[3])
    first[3:5] = (
        (view.isocenter_mm - there)[:2] + _shift(view, place)[:2] - (nominal.rotate(point - middle))[:2]
    ) / 100
    found = least_squares(misses, first, loss="soft_l1", f_scale=1.5, x_scale="jac", max_nfev=100)
    return pose(found.x)


def _enough(terms: Sequence[tuple[XrayView, Array, Array, float]]) -> bool:
    """Return whether sightings (view, point in LPS, displacement, standard deviation) tell where to begin."""
    count = len({tuple(point) for _, point, _, _ in terms})
    return count >= LEAST_LANDMARKS or min((std for _, _, _, std in terms), default=np.inf) <= SURE_MM


def _shift(view: XrayView, displacement_mm: Array) -> Array:
    right, up = view.display_axes
    return np.asarray(displacement_mm[0] * right + displacement_mm[1] * up)


def everywhere(view: XrayView, nominal: RigidTransform, low_high_mm: tuple[Array, Array]) -> Iterator[RigidTransform]:
    """Yield supine poses in which the central ray meets the body here and there along it.

    Args:
        view: The image's geometry, frame ``table``.
        nominal: Gives the orientation.
        low_high_mm: Corners of the body, LPS, mm.
    """
    low, high = low_high_mm
    middle = (low + high) / 2
    for z in np.arange(low[2] + _STATION_MM / 2, high[2], _STATION_MM):
        for across in _ACROSS_MM:
            there = nominal.apply([middle[0] + across, middle[1], z])
            yield RigidTransform(
                nominal.rotation, nominal.translation + np.append((view.isocenter_mm - there)[:2], 0.0)
            )
