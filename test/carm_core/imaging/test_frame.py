# SPDX-License-Identifier: Apache-2.0
"""Which way an image looks, by its view or by its angles alone."""

import math

import numpy as np
import pytest

from carm_core.imaging.frame import XrayFrame
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
IMAGE = np.zeros((8, 8), np.uint8)


@pytest.mark.parametrize(("primary_deg", "secondary_deg"), [(0, 0), (30, 0), (90, 0), (0, 25), (-20, 15)])
def test_the_angles_tell_the_axes_of_the_image(primary_deg: float, secondary_deg: float) -> None:
    angles = math.radians(primary_deg), math.radians(secondary_deg)
    view = CARM.view(CARM.inverse(np.array([0.0, 0.0, 0.12]), *angles)[0])
    known, by_angles = XrayFrame(IMAGE, 1.0, 0.0, *angles, view).axes, XrayFrame(IMAGE, 1.0, 0.0, *angles).axes
    assert known is not None
    assert by_angles is not None
    np.testing.assert_array_equal(known, view.display_axes)
    off_deg = np.degrees(np.arccos(np.clip((known * by_angles).sum(1), -1, 1)))
    assert off_deg == pytest.approx(0.0, abs=0.01 if 0 in (primary_deg, secondary_deg) else 8.0)  # the arm rolls


@pytest.mark.parametrize("angles", [(math.nan, 0.0), (0.0, math.nan), (0.0, math.radians(80))])
def test_unknown_angles_and_views_along_the_patient_tell_nothing(angles: tuple[float, float]) -> None:
    assert XrayFrame(IMAGE, 1.0, 0.0, *angles).axes is None
