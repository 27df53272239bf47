# SPDX-License-Identifier: Apache-2.0
"""What the heads' outputs mean, and how two opinions become one."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.localization import LandmarkEstimate
from carm_perception.fused import fuse
from carm_perception.heads import SEEN_MASS, SEEN_STD_MM, peak
from carm_perception.image import FIELD_MM

CELL_MM = FIELD_MM / 16


@given(st.integers(0, 15), st.integers(0, 15))
def test_peak_lies_in_the_middle_of_a_certain_cell(row: int, column: int) -> None:
    probability = np.zeros(257)
    probability[16 * row + column] = 1.0
    place, std, mass = peak(probability)
    assert place == pytest.approx([(column - 7.5) * CELL_MM, (7.5 - row) * CELL_MM], abs=1e-9)
    assert std == SEEN_STD_MM[-1]
    assert mass == 1.0


def test_peak_lies_between_cells_that_share_a_landmark() -> None:
    probability = np.zeros(257)
    probability[[16 * 4 + 9, 16 * 4 + 10]] = 0.3, 0.1
    probability[256] = 0.6
    place, std, mass = peak(probability)
    assert place == pytest.approx([(9.25 - 7.5) * CELL_MM, 3.5 * CELL_MM])
    assert mass == pytest.approx(0.4)
    assert std == pytest.approx(np.interp(0.4, SEEN_MASS, SEEN_STD_MM))


def test_likelier_of_two_places_is_taken_not_their_middle() -> None:
    probability = np.zeros(257)
    probability[[16 * 2 + 2, 16 * 13 + 13]] = 0.5, 0.4
    assert peak(probability)[0] == pytest.approx([-5.5 * CELL_MM, 5.5 * CELL_MM])


def estimate(x: float, y: float, std: float) -> LandmarkEstimate:
    return LandmarkEstimate(8, (x, y), std, confidence=0.5)


finite = st.floats(-400, 400)
spread = st.floats(1, 200)


@given(finite, finite, spread, finite, finite, spread)
def test_fusion_is_symmetric_and_never_surer_than_the_better(
    x: float, y: float, s: float, u: float, v: float, t: float
) -> None:
    one, apart = fuse(estimate(x, y, s), estimate(u, v, t))
    other, same = fuse(estimate(u, v, t), estimate(x, y, s))
    assert apart == pytest.approx(same)
    if s != t:
        assert one.displacement_mm == pytest.approx(other.displacement_mm, abs=1e-6)
    assert one.std_mm >= min(s, t)
    assert 0 < one.confidence < 1
    assert math.dist(one.displacement_mm, (x, y)) <= math.dist((x, y), (u, v)) + 1e-6


def test_agreeing_estimates_meet_nearer_to_the_better() -> None:
    joint, apart = fuse(estimate(0, 0, 30), estimate(10, 0, 10))
    assert apart == 0
    assert joint.displacement_mm == pytest.approx((9.0, 0.0))
    assert joint.std_mm == 10


def test_contradiction_is_told_and_costs_confidence() -> None:
    joint, apart = fuse(estimate(0, 0, 8), estimate(120, 0, 12))
    assert apart == pytest.approx(120)
    assert joint.displacement_mm == (0, 0)
    assert joint.std_mm == pytest.approx(math.hypot(8, 30))
