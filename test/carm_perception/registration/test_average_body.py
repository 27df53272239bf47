# SPDX-License-Identifier: Apache-2.0
"""The trunk's axes from landmarks, without a CT."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from carm_core.anatomy.axes import MissingAnatomyError, angle_deg
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_perception.registration.average_body import average_body, fit_trunk
from carm_perception.registration.initial_pose import SUPINE, Sighted

CENTER = np.array([20.0, -10.0, 110.0])
TURN = Rotation.from_euler("xyz", [5, -4, 6], degrees=True).as_matrix() @ SUPINE


def view(primary_deg: float) -> XrayView:
    arm = CArm.from_config()
    return arm.view(arm.inverse(CENTER / 1000, float(np.radians(primary_deg)), 0.0)[0])


def sighted(points: dict[int, Array], from_where: XrayView, std_mm: float = 2.0) -> Sighted:
    seen = []
    for key, point in points.items():
        x, y = from_where.displacement_mm(point)
        seen.append(LandmarkEstimate(key, (float(x), float(y)), std_mm, 2 * std_mm, 0.9))
    return Sighted(from_where, tuple(seen))


def average(keys: set[int] | None = None) -> dict[int, Array]:
    body = average_body()
    rows = {key: row for row, key in enumerate(body.ids)}
    return {
        key: CENTER + body.length_mm[0] * TURN @ body.mean[rows[key]] for key in rows if keys is None or key in keys
    }


def test_an_average_body_is_found_turned() -> None:
    fit = fit_trunk([sighted(average(), view(angle)) for angle in (-20, 25, 70)])
    assert angle_deg(fit.axes.left, TURN[:, 0]) < 1.5
    assert angle_deg(fit.axes.head, TURN[:, 2]) < 1.5
    assert np.allclose(fit.axes.origin_mm, CENTER, atol=8)
    vertebra = fit.bone("T5")
    assert np.allclose(vertebra.rotation, fit.axes.rotation @ average_body().turns["T5"])


def test_more_views_are_more_certain() -> None:
    one = fit_trunk([sighted(average(), view(-20))])
    two = fit_trunk([sighted(average(), view(angle)) for angle in (-20, 50)])
    direction = TURN @ [0.0, -1.0, 0.0]
    assert two.std_deg("trunk", direction) < one.std_deg("trunk", direction)
    assert one.std_deg("T5", direction) > one.std_deg("trunk", direction)


def test_what_landmarks_do_not_tell_is_refused() -> None:
    with pytest.raises(MissingAnatomyError, match="3 landmarks are seen"):
        fit_trunk([sighted(average({10, 11, 14}), view(0))])
    fit = fit_trunk([sighted(average(), view(0))])
    with pytest.raises(MissingAnatomyError, match="needs the patient's CT"):
        fit.bone("L3")
