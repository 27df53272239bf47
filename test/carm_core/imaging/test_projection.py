# SPDX-License-Identifier: Apache-2.0
"""Projection geometry: principal point, magnification, signs, and the one flip."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.imaging.projection import (
    Detector,
    XrayView,
    displacement_to_pixel_display,
    display_from_raw,
    flip_pixels,
)
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform, rotation_about

CARM = CArm.from_config()


def view_at(primary_deg: float = 0, secondary_deg: float = 0) -> XrayView:
    """A view of the point (0, 0, 100) mm."""
    return CARM.view(CARM.inverse((0, 0, 0.1), math.radians(primary_deg), math.radians(secondary_deg))[0], binning=3)


@pytest.mark.parametrize(("primary", "secondary"), [(0, 0), (30, 20), (90, 0), (-40, -25), (180, 0)])
def test_isocenter_falls_on_the_principal_point(primary: float, secondary: float) -> None:
    view = view_at(primary, secondary)
    assert view.isocenter_mm == pytest.approx([0, 0, 100], abs=1e-9)
    assert view.pixel_raw(view.isocenter_mm) == pytest.approx([255.5, 255.5], abs=1e-9)
    assert view.displacement_mm(view.isocenter_mm) == pytest.approx([0, 0], abs=1e-9)


def test_left_and_head_at_zero_angles() -> None:
    """In the display image the patient's left is right and the head is up; in the raw image left is left."""
    view = view_at()
    left, head = np.array([0, -10, 100]), np.array([10, 0, 100])
    assert view.displacement_mm(left) == pytest.approx([10, 0])
    assert view.displacement_mm(head) == pytest.approx([0, 10])
    assert view.pixel_display(left)[0] > 255.5 > view.pixel_raw(left)[0]
    assert view.pixel_display(head)[1] == view.pixel_raw(head)[1] < 255.5


def test_magnification_is_source_detector_over_source_object() -> None:
    view = view_at()
    for height_mm in (40.0, 100.0, 180.0):
        pair = np.array([[0, -7, height_mm], [0, 7, height_mm]])
        distance_px = np.ptp(view.pixel_raw(pair)[:, 0])
        source_object_mm = height_mm - view.source_mm[2]
        assert distance_px * view.detector.pitch_mm == pytest.approx(14 * 1020 / source_object_mm)


@given(st.floats(-40, 60), st.floats(-40, 40))
def test_moving_the_isocenter_along_the_display_axes_centers_a_point_at_its_depth(
    primary: float, secondary: float
) -> None:
    view = view_at(primary, secondary)
    right, up = view.display_axes
    point = view.isocenter_mm + 30 * right - 20 * up
    assert view.displacement_mm(point) == pytest.approx([30, -20], abs=1e-8)
    pixel = displacement_to_pixel_display(view.displacement_mm(point), view)
    assert pixel == pytest.approx(view.pixel_display(point), abs=1e-8)


def test_intrinsics_project_like_a_pinhole_camera() -> None:
    view = view_at(20, -10)
    point = view.isocenter_mm + np.array([12.0, -8, 30])
    local = view.rotation.T @ (point - view.source_mm)
    homogeneous = view.intrinsics @ local
    assert homogeneous[:2] / homogeneous[2] == pytest.approx(view.pixel_raw(point))
    assert np.linalg.det(view.rotation) == pytest.approx(1)


def test_points_behind_the_source_have_no_pixel() -> None:
    view = view_at()
    assert np.isnan(view.pixel_raw(view.source_mm - view.forward)).all()


def test_the_flip_is_its_own_inverse_and_moves_pixels_with_the_image() -> None:
    image = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert (display_from_raw(display_from_raw(image)) == image).all()
    column, row = flip_pixels((1, 2), 4).astype(int)
    assert display_from_raw(image)[row, column] == image[2, 1]


def test_a_view_projects_alike_in_another_frame() -> None:
    view = view_at(25, 15)
    transform = RigidTransform(rotation_about("z", 0.3) @ rotation_about("x", -0.7), np.array([5.0, 6, 7]))
    points = view.isocenter_mm + np.random.default_rng(0).normal(0, 40, (20, 3))
    assert view.transformed(transform).pixel_raw(transform.apply(points)) == pytest.approx(view.pixel_raw(points))


def test_an_off_center_principal_point_is_respected() -> None:
    base = view_at()
    view = XrayView(base.source_mm, base.rotation, Detector(100, 200, 0.5), 1020, 530, (10.0, 20.0))
    assert view.pixel_raw(view.isocenter_mm) == pytest.approx([10, 20])
    assert view.pixel_display(view.isocenter_mm) == pytest.approx([189, 20])
