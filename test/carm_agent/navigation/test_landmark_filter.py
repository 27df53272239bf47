# SPDX-License-Identifier: Apache-2.0
"""What a few measurements say about a point in space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_agent.navigation.landmark_filter import RADIUS_90_PER_STD, Belief
from carm_core.imaging.projection import XrayView
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()

angles = st.tuples(st.floats(-0.6, 0.6), st.floats(-0.5, 0.5))
displacements = st.tuples(st.floats(-300.0, 300.0), st.floats(-300.0, 300.0))


def view_at(isocenter_m: tuple[float, float, float], angles_rad: tuple[float, float]) -> XrayView:
    return CARM.view(CARM.inverse(isocenter_m, *angles_rad)[0])


@given(angles, displacements)
def test_first_measurement_is_reproduced(angles_rad: tuple[float, float], displacement: tuple[float, float]) -> None:
    view = view_at((0.0, 0.0, 0.15), angles_rad)
    belief = Belief.from_measurement(view, displacement, 5.0, 60.0)
    assert belief.offset_mm(view) == pytest.approx(displacement, abs=1e-6)
    assert belief.surprise(view, displacement, 5.0) == pytest.approx(0.0, abs=1e-6)
    assert RADIUS_90_PER_STD * 5.0 - 1e-6 <= belief.radius_90_mm(view) <= 1.7 * RADIUS_90_PER_STD * 5.0


@given(angles, displacements)
def test_shift_along_the_display_axes_centers_the_point(
    angles_rad: tuple[float, float], displacement: tuple[float, float]
) -> None:
    view = view_at((0.0, 0.0, 0.15), angles_rad)
    belief = Belief.from_measurement(view, displacement, 5.0, 60.0)
    shifted = view.isocenter_mm + np.asarray(displacement) @ np.array(view.display_axes)
    assert shifted == pytest.approx(belief.mean_mm, abs=1e-6)


@settings(max_examples=40)
@given(st.floats(-80.0, 80.0), st.floats(-60.0, 60.0), st.floats(-60.0, 60.0))
def test_two_views_find_the_depth(depth: float, x: float, y: float) -> None:
    """Exact measurements from 40 degrees apart triangulate a point."""
    point = np.array([x, y, 150.0 + depth])
    first, second = view_at((0.0, 0.0, 0.15), (0.35, 0.0)), view_at((0.0, 0.0, 0.15), (-0.35, 0.0))
    belief = Belief.from_measurement(first, first.displacement_mm(point), 0.1, 60.0)
    belief = belief.updated(second, second.displacement_mm(point), 0.1)
    assert np.linalg.norm(belief.mean_mm - point) < 2.0


@given(displacements, st.floats(1.0, 30.0), st.floats(1.0, 30.0))
def test_a_further_measurement_never_makes_less_sure(
    displacement: tuple[float, float], first_std: float, second_std: float
) -> None:
    view = view_at((0.0, 0.0, 0.15), (0.0, 0.0))
    belief = Belief.from_measurement(view, displacement, first_std, 60.0)
    further = belief.updated(view, displacement, second_std)
    assert further.radius_90_mm(view) <= belief.radius_90_mm(view) + 1e-6
    assert np.linalg.eigvalsh(further.covariance_mm2)[0] > 0.0
    assert belief.diffused(5.0).radius_90_mm(view) > belief.radius_90_mm(view)


def test_equal_measurements_meet_in_the_middle() -> None:
    view = view_at((0.0, 0.0, 0.15), (0.0, 0.0))
    belief = Belief.from_measurement(view, (10.0, 0.0), 5.0, 60.0).updated(view, (20.0, 0.0), 5.0)
    assert belief.offset_mm(view) == pytest.approx((15.0, 0.0), abs=0.1)


def test_surprise_counts_standard_deviations() -> None:
    view = view_at((0.0, 0.0, 0.15), (0.0, 0.0))
    belief = Belief.from_measurement(view, (0.0, 0.0), 3.0, 60.0)
    assert belief.surprise(view, (50.0, 0.0), 4.0) == pytest.approx(10.0, rel=1e-3)
