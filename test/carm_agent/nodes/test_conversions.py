# SPDX-License-Identifier: Apache-2.0
"""A frame has the geometry that its camera info states: binning, or the middle of the detector alone."""

import math
from typing import Any

import numpy as np
import pytest
from carm_interfaces.action import Localize, MoveCArm, Navigate
from carm_interfaces.msg import Landmark, LandmarkArray
from geometry_msgs.msg import Point
from sensor_msgs.msg import CameraInfo, Image

from carm_agent.nodes.conversions import localization_from_result, move_goal, navigation_goal
from carm_core.errors import ImageError
from carm_core.imaging.display import display_from_signal
from carm_core.localization import Protocol, Query
from carm_core.plausibility import ImplausibleError
from carm_core.robot.kinematics import CArm
from carm_ros.messages import frame_from_messages

SIDE = 64
POINT_MM = np.array([[30.0, -20.0, 150.0]])


@pytest.mark.parametrize(("pixels", "binning"), [(1536, 1), (1024, 1), (768, 2), (512, 3), (400, 3)])
def test_views_follow_the_camera_info(pixels: int, binning: int) -> None:
    carm = CArm.from_config()
    focal_px = carm.view(carm.home).source_detector_mm / (carm.detector.pitch_mm * binning)
    info = CameraInfo(k=[focal_px, 0.0, (pixels - 1) / 2, 0.0, focal_px, (pixels - 1) / 2, 0.0, 0.0, 1.0])
    image = Image(height=pixels, width=pixels, step=pixels, encoding="mono8", data=bytes(pixels * pixels))
    frame = frame_from_messages(image, info, carm, carm.home)
    assert frame.view is not None
    whole = carm.view(carm.home, binning)
    assert frame.view.detector.pitch_mm == pytest.approx(carm.detector.pitch_mm * binning)
    assert frame.mm_per_px_at_isocenter == pytest.approx(whole.mm_per_px_at_isocenter)
    np.testing.assert_allclose(frame.view.displacement_mm(POINT_MM), whole.displacement_mm(POINT_MM))
    from_center = whole.pixel_display(POINT_MM) - (whole.detector.columns - 1) / 2
    np.testing.assert_allclose(frame.view.pixel_display(POINT_MM) - (pixels - 1) / 2, from_center, atol=1e-6)


def test_every_encoding_shows_the_same_frame() -> None:
    carm = CArm.from_config()
    info = CameraInfo(k=[1000.0, 0.0, 31.5, 0.0, 1000.0, 31.5, 0.0, 0.0, 1.0])
    raw = np.random.default_rng(3).integers(500, 60_000, (SIDE, SIDE)).astype(np.uint16)
    shown = display_from_signal(raw)
    for encoding, pixels in (
        ("mono8", shown),
        ("rgb8", np.repeat(shown, 3, axis=1)),
        ("mono16", raw),
        ("16UC1", raw.astype(">u2")),
    ):
        step = pixels.shape[1] * pixels.itemsize
        image = Image(height=SIDE, width=SIDE, step=step, encoding=encoding, data=pixels.tobytes())
        image.is_bigendian = int(encoding == "16UC1")
        np.testing.assert_array_equal(frame_from_messages(image, info, carm, carm.home).image, shown)
    with pytest.raises(ImageError, match="'32FC1' is not supported"):
        frame_from_messages(Image(height=1, width=1, step=4, encoding="32FC1", data=bytes(4)), info, carm, carm.home)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"goal_type": MoveCArm.Goal.GOAL_VIEW, "primary_angle": math.inf}, "angles = inf"),
        ({"goal_type": MoveCArm.Goal.GOAL_VIEW, "isocenter": Point(x=1e308)}, "isocenter = 1e\\+308"),
        ({"goal_type": MoveCArm.Goal.GOAL_NAMED, "name": "x" * 5000}, "name has 5000 characters"),
        ({"joint_names": ["lift"] * 5000}, "joint_names has 5000 entries"),
        ({"positions": [0.0] * 5000}, "positions has 5000 entries"),
        ({"goal_type": MoveCArm.Goal.GOAL_PLAN, "plan_id": "x" * 5000}, "plan_id has 5000"),
    ],
)
def test_goals_of_no_c_arm(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ImplausibleError, match=words):
        move_goal(MoveCArm.Goal(**fields))


def test_names_and_answers_are_of_bounded_size() -> None:
    with pytest.raises(ImplausibleError, match="target_name has 5000"):
        navigation_goal(Navigate.Goal(target_name="x" * 5000))
    for landmarks in (LandmarkArray(landmarks=[Landmark()] * 500), LandmarkArray(answer="[" * (2**20 + 1))):
        with pytest.raises(ImplausibleError, match="at most"):
            localization_from_result(Localize.Result(landmarks=landmarks), Query(Protocol.POINTING, 11))
