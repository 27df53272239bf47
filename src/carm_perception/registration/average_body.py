# SPDX-License-Identifier: Apache-2.0
"""The axes of bones without a CT: an average body is fitted to the landmarks that are seen in one to three images.

Pose, size and shape are fitted together. The shape is the mean of generated bodies and their principal modes
(``scripts/make_average_body.py``; Cootes et al., "Active shape models", CVIU 61(1), 1995), so that landmarks that vary
much say little. How bones are turned varies with the same modes. What the fit does not know follows from its
covariance.
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

from carm_core.anatomy.axes import TRUNK, BoneAxes, MissingAnatomyError, named
from carm_core.transforms import Array
from carm_perception.registration.initial_pose import SUPINE, Sighted

LEAST_LANDMARKS = 4
_PRIOR_DEG, _PRIOR_MM = 5.0, 300.0
_LEAST_STD_MM, _MOST_STD_MM = 4.0, 30.0
_HEIGHT_MM, _HEIGHT_STD_MM = 110.0, 30.0
"""Of the middle of the trunk above the table's top, where its back lies on it, mm."""


@dataclass(frozen=True, eq=False)
class AverageBody:
    """Landmarks and bones in the axes of the trunk, in units of the distance from T12 to T1; n rows of each array.

    The rows are the landmarks, then the places of the bones, then their turns against the trunk, rotation vectors, rad.

    Attributes:
        ids: Landmark ids.
        bones: Names of bones.
        mean: (n, 3): to the left, the back and the head.
        modes: (m, n, 3): one standard deviation of each principal mode.
        rest_std: (n, 3): what the modes leave.
        length_mm: Mean and standard deviation of the unit, mm.
    """

    ids: tuple[int, ...]
    bones: tuple[str, ...]
    mean: Array
    modes: Array
    rest_std: Array
    length_mm: tuple[float, float]

    def rows_of(self, bone: str) -> tuple[int, int]:
        """Return the rows of a bone's place and turn."""
        first = len(self.ids) + self.bones.index(bone)
        return first, first + len(self.bones)


@lru_cache(maxsize=1)
def average_body() -> AverageBody:
    """Return the body of the file that ships."""
    data = json.loads(files("carm_perception.registration").joinpath("average_body.json").read_text(encoding="utf-8"))
    return AverageBody(
        tuple(data["ids"]),
        tuple(data["bones"]),
        np.array(data["mean"]),
        np.array(data["modes"]),
        np.array(data["rest_std"]),
        (data["length_mm"][0], data["length_mm"][1]),
    )


@dataclass(frozen=True, eq=False)
class BodyFit:
    """Where a body lies.

    Attributes:
        origin_mm: Midway between T1 and T12 (3,), frame ``table``, mm.
        x: Turn about the table's axes (3,), rad; shift in 100 mm (3,), size, and strength of each mode.
        covariance: Of these.
        landmarks: How many different ones were used.
        misfit: Root mean square of what separates landmarks from where they were seen, in standard deviations.
    """

    origin_mm: Array
    x: Array
    covariance: Array
    landmarks: int
    misfit: float

    def bone(self, name: str) -> BoneAxes:
        """Return the axes of the trunk, a vertebra, the pelvis or a hip, frame ``table``, mm.

        Raises:
            MissingAnatomyError: It is another bone.
        """
        self._check(name)
        body, turn = average_body(), _turn(self.x)
        if name == TRUNK:
            place, own = np.zeros(3), np.eye(3)
        else:
            shape = body.mean + np.tensordot(self.x[7:], body.modes, 1)
            place, vector = (shape[row] for row in body.rows_of(name))
            own = Rotation.from_rotvec(vector).as_matrix()
        origin = self.origin_mm + _scale(body, self.x) * turn @ place
        return BoneAxes(name, origin, turn @ own, f"an average body, fitted to {self.landmarks} landmarks")

    def std_deg(self, name: str, direction: Array) -> float:
        """Return by how much a direction (3,) in the axes of a bone may be off: root mean square of its angle, deg.

        Raises:
            MissingAnatomyError: It is a bone whose axes ``bone`` does not tell.
        """
        self._check(name)
        moves = np.zeros((3, len(self.x)))
        moves[:, :3] = np.eye(3)
        own = np.zeros((3, 3))
        if name != TRUNK:
            body = average_body()
            row = body.rows_of(name)[1]
            turn = _turn(self.x)  # small turns add up, in the axes of the table
            moves[:, 7:] = turn @ body.modes[:, row].T
            own = turn @ np.diag(body.rest_std[row] ** 2) @ turn.T
        covariance = moves @ self.covariance @ moves.T + own
        across = np.trace(covariance) - direction @ covariance @ direction
        return math.degrees(math.sqrt(max(0.0, float(across))))

    def place_std_mm(self, name: str) -> float:
        """Return by how much a bone may lie elsewhere: root mean square of the distance, mm.

        Raises:
            MissingAnatomyError: It is a bone whose axes ``bone`` does not tell.
        """
        self._check(name)
        body, turn, scale = average_body(), _turn(self.x), _scale(average_body(), self.x)
        moves = np.zeros((3, len(self.x)))
        moves[:, 3:6] = 100.0 * np.eye(3)
        rest = np.zeros(3)
        if name != TRUNK:
            row = body.rows_of(name)[0]
            away = scale * turn @ (body.mean[row] + np.tensordot(self.x[7:], body.modes[:, row], 1))
            moves[:, :3] = np.cross(np.eye(3), away).T
            moves[:, 6] = body.length_mm[1] / body.length_mm[0] * away
            moves[:, 7:] = scale * turn @ body.modes[:, row].T
            rest = scale * body.rest_std[row]
        return math.sqrt(float(np.trace(moves @ self.covariance @ moves.T)) + float(rest @ rest))

    @staticmethod
    def _check(name: str) -> None:
        if name != TRUNK and name not in average_body().bones:
            raise MissingAnatomyError(
                f"the view needs the patient's CT: landmarks alone do not tell the axes of {named(name)}"
            )


def _turn(x: Array) -> Array:
    return np.asarray(Rotation.from_rotvec(x[:3]).as_matrix() @ SUPINE)


def _scale(body: AverageBody, x: Array) -> float:
    mean, std = body.length_mm
    return math.exp(math.log(mean) + std / mean * x[6])


def fit_body(seen: Sequence[Sighted]) -> BodyFit:
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
            f"{len(used)} landmarks are seen, {LEAST_LANDMARKS} are needed to tell how the patient lies"
        )
    view, row, place, _ = min(terms, key=lambda term: term[3])
    right, up = view.display_axes
    start = view.isocenter_mm + place[0] * right + place[1] * up - body.length_mm[0] * SUPINE @ body.mean[row]
    start[2] = _HEIGHT_MM

    def off(x: Array) -> Array:
        """Return how far each landmark is from where it was seen, in standard deviations."""
        shape = body.mean[used] + np.tensordot(x[7:], body.modes[:, used], 1)
        places = start + 100 * x[3:6] + _scale(body, x) * shape @ _turn(x).T
        points = dict(zip(used, places, strict=True))
        return np.ravel([(one.displacement_mm(points[k]) - there) / std for one, k, there, std in terms])

    def misses(x: Array) -> Array:
        height = (start[2] + 100 * x[5] - _HEIGHT_MM) / _HEIGHT_STD_MM
        prior = [*(x[:3] / math.radians(_PRIOR_DEG)), *(x[3:5] * 100 / _PRIOR_MM), height, *x[6:]]
        return np.asarray(np.nan_to_num(np.concatenate([off(x), prior]), nan=50.0))

    found = least_squares(misses, np.zeros(7 + len(body.modes)), loss="soft_l1", f_scale=2.0, max_nfev=40)
    covariance = np.linalg.inv(found.jac.T @ found.jac)
    misfit = float(np.sqrt(np.mean(off(found.x) ** 2)))
    return BodyFit(start + 100 * found.x[3:6], found.x, covariance, len(used), misfit)
