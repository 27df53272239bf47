# SPDX-License-Identifier: Apache-2.0
"""Where landmarks of generated bodies lie to each other, against people.

People: the abdomen CT of TotalSegmentator's tests (labels of ``example_seg_fast_force_split``), the XCAT man of the
Mesh-based Human Phantom for Simulation (MIT; read off its surfaces, to about 5 mm), and chest CTs.
"""

from collections.abc import Callable

import numpy as np
import pytest

from carm_core.transforms import Array
from carm_sim.phantom.generator import generate_phantom, sample_extra_landmarks, sample_landmarks
from carm_sim.phantom.skeleton.anatomy import RIBCAGE, anatomy_of
from carm_sim.phantom.skeleton.skeleton import skeleton_model

T1, CARINA, T12, L1, L3, L4, L5 = 10, 11, 14, 116, 118, 119, 120
HIPS, CRESTS, PROMONTORY, SYMPHYSIS = (121, 122), (131, 132), 133, 134
UP, BACK = 2, 1
Points = dict[int, Array]


def above_hips(key: int, axis: int) -> Callable[[Points], float]:
    return lambda points: float((points[key] - (points[HIPS[0]] + points[HIPS[1]]) / 2)[axis])


def between(upper: int, lower: int) -> Callable[[Points], float]:
    return lambda points: float((points[upper] - points[lower])[UP])


PEOPLE: dict[str, tuple[Callable[[Points], float], tuple[float, ...]]] = {
    "promontory above the hips": (above_hips(PROMONTORY, UP), (81.0, 82.0)),
    "promontory behind the hips": (above_hips(PROMONTORY, BACK), (12.0, 5.0)),
    "L5 above the hips": (above_hips(L5, UP), (117.0, 108.0)),
    "L5 behind the hips": (above_hips(L5, BACK), (10.0, 15.0)),
    "L3 behind the hips": (above_hips(L3, BACK), (2.0, 5.0)),
    "T12 behind the hips": (above_hips(T12, BACK), (33.0, 30.0)),
    "L1 to L5": (between(L1, L5), (143.0,)),
    "T12 to L1": (between(T12, L1), (34.0,)),
    "L4 to L5": (between(L4, L5), (35.0,)),
    "iliac crest above the hips": (above_hips(CRESTS[0], UP), (143.0,)),
    "carina from T1, of T1 to T12": (
        lambda points: between(T1, CARINA)(points) / between(T1, T12)(points), (0.37, 0.34),
    ),
    "T1 to T12": (between(T1, T12), (236.0, 255.0)),
}  # fmt: skip


@pytest.fixture(scope="module")
def bodies() -> list[Points]:
    return [sample_landmarks(seed, "living") | sample_extra_landmarks(seed, "living") for seed in range(60)]


@pytest.mark.parametrize("measure", PEOPLE)
def test_people_lie_among_the_bodies(bodies: list[Points], measure: str) -> None:
    of, people = PEOPLE[measure]
    low, high = np.percentile([of(points) for points in bodies], (3, 97))
    for value in people:
        assert low <= value <= high, f"{measure}: {value} is outside {low:.2f} to {high:.2f}"


def test_the_crest_is_at_the_height_of_the_fourth_lumbar_vertebra(bodies: list[Points]) -> None:
    rise = [between(CRESTS[0], L4)(points) for points in bodies]
    assert abs(np.median(rise)) < 20.0
    assert np.median([between(CRESTS[0], L5)(points) for points in bodies]) > 10.0


def test_the_lowest_ribs_reach_as_low_as_in_people() -> None:
    model = skeleton_model()
    ribs = model.mesh_points(RIBCAGE)
    assert 70.0 < anatomy_of(model).t12_mm[UP] - ribs[:, UP].min() < 100.0  # the XCAT man: 83 mm


def test_the_trachea_divides_at_the_carina_as_steeply_as_in_people() -> None:
    body = generate_phantom(820246, style="living")
    carina = body.landmarks_mm[CARINA]

    def airways(below_mm: float) -> tuple[float, ...]:
        """Middles of what is air across the carina, from right to left, mm from it."""
        across, depth = np.meshgrid(np.arange(-45, 45, 0.5), np.arange(-6, 14, 2.0), indexing="ij")
        points = np.stack([carina[0] + across, carina[1] + depth, np.full_like(across, carina[2] - below_mm)], axis=-1)
        air = (body.volume.sample(points.reshape(-1, 3)).reshape(across.shape) < -900).any(1)
        edges = np.flatnonzero(np.diff(np.concatenate([[False], air, [False]]).astype(int)))
        return tuple(float(across[a:b, 0].mean()) for a, b in edges.reshape(-1, 2) if (b - a) * 0.5 > 3)

    assert len(airways(-5.0)) == 1
    (right, left), (lower_right, lower_left) = airways(5.0), airways(12.0)
    angle = np.degrees(np.arctan((right - lower_right) / 7.0) + np.arctan((lower_left - left) / 7.0))
    assert 30 <= angle <= 90  # radiographs: 60 +- 10 degrees
