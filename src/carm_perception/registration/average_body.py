# SPDX-License-Identifier: Apache-2.0
"""The trunk's axes without a CT: an average body is fitted to the landmarks that are seen in one to three images.

Pose, size and shape are fitted together. The shape is the mean of generated bodies and their principal modes
(``scripts/make_average_body.py``; Cootes et al., "Active shape models", CVIU 61(1), 1995), so that landmarks that vary
much say little. What the fit does not know follows from its covariance.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from carm_core.anatomy.axes import TRUNK, BoneAxes, MissingAnatomyError
from carm_core.transforms import Array
from carm_perception.registration.initial_pose import SUPINE, Sighted

LEAST_LANDMARKS = 4
_PRIOR_DEG, _PRIOR_MM = 7.0, 300.0
_LEAST_STD_MM, _MOST_STD_MM = 4.0, 30.0
_HEIGHT_MM, _HEIGHT_STD_MM = 110.0, 30.0
"""Of the middle of the trunk above the table's top, where its back lies on it, mm."""


@dataclass(frozen=True, eq=False)
class AverageBody:
    """Landmarks and vertebrae in the axes of the trunk, in units of the distance from T12 to T1.

    Attributes:
        ids: Landmark ids (n,).
        mean: (n, 3): to the left, the back and the head.
        modes: (m, n, 3): one standard deviation of each principal mode.
        rest_std: (n, 3): what the modes leave.
        length_mm: Mean and standard deviation of the unit, mm.
        places: Center of each thoracic vertebra (3,), by name.
        turns: Rotation of its axes against the trunk's (3, 3), by name.
        turn_std_deg: Root mean square of the standard deviations of that, deg, by name.
    """

    ids: tuple[int, ...]
    mean: Array
    modes: Array
    rest_std: Array
    length_mm: tuple[float, float]
    places: dict[str, Array]
    turns: dict[str, Array]
    turn_std_deg: dict[str, float]


@lru_cache(maxsize=1)
def average_body() -> AverageBody:
    """Return the body of the file that ships."""
    data = json.loads(files("carm_perception.registration").joinpath("average_body.json").read_text(encoding="utf-8"))
    bones = data["vertebrae"]
    return AverageBody(
        tuple(data["ids"]),
        np.array(data["mean"]),
        np.array(data["modes"]),
        np.array(data["rest_std"]),
        (data["length_mm"][0], data["length_mm"][1]),
        {name: np.array(one["place"]) for name, one in bones.items()},
        {name: Rotation.from_rotvec(one["turn_deg"], degrees=True).as_matrix() for name, one in bones.items()},
        {name: float(np.sqrt(np.mean(np.square(one["turn_std_deg"])))) for name, one in bones.items()},
    )


@dataclass(frozen=True, eq=False)
class TrunkFit:
    """Where the trunk lies.

    Attributes:
        axes: Of the trunk, frame ``table``, mm.
        length_mm: From T12 to T1, mm.
        covariance_deg2: (3, 3), of turns about the table's axes, deg².
        landmarks: How many different ones were used.
    """

    axes: BoneAxes
    length_mm: float
    covariance_deg2: Array
    landmarks: int

    def bone(self, name: str) -> BoneAxes:
        """Return the axes of the trunk or a thoracic vertebra, frame ``table``, mm.

        Raises:
            MissingAnatomyError: It is another bone.
        """
        body = average_body()
        if name == TRUNK:
            return self.axes
        if name not in body.places:
            raise MissingAnatomyError(
                f"the view needs the patient's CT: landmarks alone do not tell the axes of {name}"
            )
        origin = self.axes.origin_mm + self.length_mm * self.axes.rotation @ body.places[name]
        return BoneAxes(name, origin, self.axes.rotation @ body.turns[name], "an average body, fitted to landmarks")

    def std_deg(self, name: str, direction: Array) -> float:
        """Return by how much a direction (3,) in the axes of a bone may be off: root mean square of its angle, deg."""
        across = np.trace(self.covariance_deg2) - direction @ self.covariance_deg2 @ direction
        own = average_body().turn_std_deg.get(name, 0.0)
        return math.sqrt(max(0.0, float(across)) + 2 * own**2)


def fit_trunk(seen: Sequence[Sighted]) -> TrunkFit:
    """Fit the average body.

    Args:
        seen: What was seen in each image of the same patient, who lies supine.

    Raises:
        MissingAnatomyError: Too few landmarks were seen.
    """
    body = average_body()
    rows = {key: row for row, key in enumerate(body.ids)}
    spare = body.length_mm[0] * np.sqrt((body.rest_std**2).mean(axis=1))
    terms = [
        (
            one.view,
            rows[e.id],
            np.asarray(e.displacement_mm),
            math.hypot(max(e.std_mm, _LEAST_STD_MM), spare[rows[e.id]]),
        )
        for one in seen
        for e in one.estimates
        if e.id in rows and np.isfinite(e.displacement_mm).all() and e.std_mm <= _MOST_STD_MM
    ]
    used = sorted({row for _, row, _, _ in terms})
    if len(used) < LEAST_LANDMARKS:
        raise MissingAnatomyError(
            f"{len(used)} landmarks are seen, {LEAST_LANDMARKS} are needed to tell how the trunk lies"
        )
    count, length = len(body.modes), math.log(body.length_mm[0])
    spread = body.length_mm[1] / body.length_mm[0]
    view, row, place, _ = min(terms, key=lambda term: term[3])
    right, up = view.display_axes
    start = view.isocenter_mm + place[0] * right + place[1] * up - body.length_mm[0] * SUPINE @ body.mean[row]
    start[2] = _HEIGHT_MM

    def placed(x: Array) -> tuple[Array, Array, float]:
        turn = Rotation.from_rotvec(x[:3]).as_matrix() @ SUPINE
        return turn, start + 100 * x[3:6], math.exp(length + spread * x[6])

    def misses(x: Array) -> Array:
        turn, origin, scale = placed(x)
        shape = body.mean[used] + np.tensordot(x[7:], body.modes[:, used], 1)
        points = dict(zip(used, origin + scale * shape @ turn.T, strict=True))
        off = [(one.displacement_mm(points[k]) - there) / std for one, k, there, std in terms]
        height = (origin[2] - _HEIGHT_MM) / _HEIGHT_STD_MM
        prior = [*(x[:3] / math.radians(_PRIOR_DEG)), *(x[3:5] * 100 / _PRIOR_MM), height, *x[6:]]
        return np.asarray(np.nan_to_num(np.concatenate([np.ravel(off), prior]), nan=50.0))

    found = least_squares(misses, np.zeros(7 + count), loss="soft_l1", f_scale=2.0, max_nfev=40)
    covariance = np.linalg.inv(found.jac.T @ found.jac)[:3, :3]
    turn, origin, scale = placed(found.x)
    axes = BoneAxes(TRUNK, origin, turn, "an average body, fitted to landmarks")
    return TrunkFit(axes, scale, np.degrees(np.degrees(covariance)), len(used))
