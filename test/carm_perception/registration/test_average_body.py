# SPDX-License-Identifier: Apache-2.0
"""The axes of bones from landmarks, without a CT."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from carm_core.anatomy.axes import MissingAnatomyError, angle_deg
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_perception.registration.average_body import average_body, fit_body
from carm_perception.registration.body_belief import BodyBelief
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
    fit = fit_body([sighted(average(), view(angle)) for angle in (-20, 25, 70)])
    trunk = fit.bone("trunk")
    assert angle_deg(trunk.left, TURN[:, 0]) < 1.5
    assert angle_deg(trunk.head, TURN[:, 2]) < 1.5
    assert np.allclose(trunk.origin_mm, CENTER, atol=8)
    body = average_body()
    for bone in ("T5", "L3", "pelvis", "left hip"):
        place, turn = body.rows_of(bone)
        axes = fit.bone(bone)
        expected = TURN @ Rotation.from_rotvec(body.mean[turn]).as_matrix()
        assert max(angle_deg(axes.rotation[:, k], expected[:, k]) for k in range(3)) < 4
        assert np.allclose(axes.origin_mm, CENTER + body.length_mm[0] * TURN @ body.mean[place], atol=10)


def test_how_a_pelvis_is_tilted_is_seen_in_its_landmarks() -> None:
    body = average_body()
    mode = next(m for m in body.modes if abs(m[body.rows_of("pelvis")[1], 0]) > 0.02)
    points = {
        key: CENTER + body.length_mm[0] * TURN @ (body.mean[row] + 1.5 * mode[row]) for row, key in enumerate(body.ids)
    }
    tilted = TURN @ Rotation.from_rotvec((body.mean + 1.5 * mode)[body.rows_of("pelvis")[1]]).as_matrix()
    plain = TURN @ Rotation.from_rotvec(body.mean[body.rows_of("pelvis")[1]]).as_matrix()
    found = fit_body([sighted(points, view(angle)) for angle in (0, 70)]).bone("pelvis")
    assert angle_deg(plain[:, 2], tilted[:, 2]) > 1.5
    assert angle_deg(found.head, tilted[:, 2]) < 0.5 * angle_deg(plain[:, 2], tilted[:, 2])


def test_more_views_are_more_certain() -> None:
    one = fit_body([sighted(average(), view(-20))])
    two = fit_body([sighted(average(), view(angle)) for angle in (-20, 50)])
    direction = TURN @ [0.0, -1.0, 0.0]
    assert two.std_deg("trunk", direction) < one.std_deg("trunk", direction)
    assert one.std_deg("T5", direction) > one.std_deg("trunk", direction)


def test_what_landmarks_do_not_tell_is_refused() -> None:
    with pytest.raises(MissingAnatomyError, match="3 landmarks are seen"):
        fit_body([sighted(average({10, 11, 14}), view(0))])
    fit = fit_body([sighted(average(), view(0))])
    with pytest.raises(MissingAnatomyError, match="needs the patient's CT"):
        fit.bone("left shoulder")


def test_belief_keeps_views_from_several_sides() -> None:
    belief = BodyBelief()
    with pytest.raises(MissingAnatomyError, match="no image yet"):
        belief.bone("T5")
    belief.add(1.0, sighted(average(), view(0)))
    first = belief.bone("T5")
    belief.add(2.0, sighted(average(), view(1)))  # the same view again: it counts once
    assert belief.bone("T5").std_deg == pytest.approx(first.std_deg, rel=0.1)
    belief.add(3.0, sighted(average(), view(60)))
    assert belief.bone("T5").std_deg < first.std_deg
    belief.forget()
    with pytest.raises(MissingAnatomyError, match="no image yet"):
        belief.bone("T5")


def test_a_patient_who_moved_is_seen_in_the_last_image() -> None:
    belief = BodyBelief()
    belief.add(1.0, sighted(average(), view(-40)))
    moved = np.array([90.0, 30.0, 0.0])
    belief.add(2.0, sighted({key: place + moved for key, place in average().items()}, view(20)))
    assert np.linalg.norm((belief.bone("trunk").origin_mm - CENTER - moved)[:2]) < 25


def test_axes_that_are_not_known_are_not_told() -> None:
    belief = BodyBelief()
    belief.add(1.0, sighted(average({10, 101, 102, 103, 104}), view(0), 25.0))  # the neck
    belief.bone("C7")
    with pytest.raises(MissingAnatomyError, match=r"how the pelvis lies is known to .* mm only"):
        belief.bone("pelvis")
