# SPDX-License-Identifier: Apache-2.0
"""Places of landmarks as far as bodies can look like it."""

from __future__ import annotations

import numpy as np
import pytest

from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import IDS, ROWS
from carm_core.robot.kinematics import CArm
from carm_perception.uncertainty.shape_prior import SPINE_IDS, shape_model
from carm_sim.phantom import sample_extra_landmarks, sample_landmarks

CARM = CArm.from_config()
L3, L2, LEFT_HIP, ELBOW = 118, 117, 122, 6
SURE, UNSURE = 3.0, 30.0


def view(primary_deg: float = 0.0, secondary_deg: float = 0.0):
    isocenter_m = np.array([-0.1, 0.0, 0.12])
    return CARM.view(CARM.inverse(isocenter_m, np.radians(primary_deg), np.radians(secondary_deg))[0])


def body(seed: int) -> np.ndarray:
    """All landmarks (48, 3) of a body that the model was not made from, on the table, mm."""
    from carm_perception.registration.initial_pose import SUPINE

    marks = sample_landmarks(seed) | sample_extra_landmarks(seed)
    places = np.array([marks[one] for one in IDS.tolist()]) @ SUPINE.T
    return places - places[ROWS[L3]]


def axes(one) -> np.ndarray:
    return np.array(one.display_axes)


def errors_mm(seed: int, angles: tuple[float, float], shifted: dict[int, tuple[float, float]]) -> dict[int, float]:
    """Errors after landmarks that are unsure were read beside the truth."""
    across = axes(view(*angles))
    truth = body(seed) @ across.T
    seen, stds = truth.copy(), np.full(len(IDS), SURE)
    for key, by in shifted.items():
        seen[ROWS[key]] += by
        stds[ROWS[key]] = UNSURE
    after, doubts = shape_model().refined(seen, stds, across)
    assert all(doubts[ROWS[key]] >= np.linalg.norm(after[ROWS[key]] - seen[ROWS[key]]) for key in shifted)
    return {key: float(np.linalg.norm(after[ROWS[key]] - truth[ROWS[key]])) for key in shifted}


@pytest.mark.parametrize("angles", [(0, 0), (90, 0), (-35, 20)])
@pytest.mark.parametrize("seed", [810_500, 810_501, 810_502])
def test_an_unsure_landmark_follows_from_its_neighbors(seed: int, angles: tuple[float, float]) -> None:
    errors = errors_mm(seed, angles, {L2: (25.0, 30.0), LEFT_HIP: (-40.0, 10.0)})
    assert errors[L2] < 12.0
    assert errors[LEFT_HIP] < 20.0


def test_sure_places_and_limbs_stay() -> None:
    across = axes(view())
    seen = body(810_500) @ across.T + 5.0
    stds = np.full(len(IDS), SURE)
    seen[ROWS[ELBOW]] += 200.0
    stds[ROWS[ELBOW]] = UNSURE
    after, doubts = shape_model().refined(seen, stds, across)
    assert after == pytest.approx(seen)
    assert doubts == pytest.approx(stds)


def test_where_the_body_lies_does_not_matter() -> None:
    across = axes(view(20, 10))
    seen = body(810_500) @ across.T
    stds = np.full(len(IDS), UNSURE)
    by = np.array([60.0, -80.0])
    first, other = (shape_model().refined(seen + by * sign, stds, across)[0] - by * sign for sign in (1, -1))
    assert first == pytest.approx(other, abs=4.0)  # depth: places far from the center say less


def test_all_levels_of_the_spine_may_be_off_at_once() -> None:
    """Vertebrae that are all taken for the next one are put right by what is no vertebra."""
    across = axes(view())
    truth = body(810_500) @ across.T
    spine = [ROWS[one] for one in SPINE_IDS]
    seen, stds = truth.copy(), np.full(len(IDS), SURE)
    seen[spine] += (0.0, -30.0)
    stds[spine] = 15.0
    after, _ = shape_model().refined(seen, stds, across)
    assert np.abs(after[spine] - truth[spine])[:, 1].mean() < 15.0


def test_what_is_no_body_stays_as_it_is() -> None:
    across = axes(view())
    seen = np.random.default_rng(0).uniform(-200, 200, (len(IDS), 2))
    stds = np.full(len(IDS), 10.0)
    assert shape_model().refined(seen, stds, across)[0] == pytest.approx(seen)
    seen[3] = np.nan
    np.testing.assert_array_equal(shape_model().refined(seen, stds, across)[0], seen)


def test_the_localizer_uses_it_where_the_angles_are_known() -> None:
    from carm_perception.localizers.regression import RegressionLocalizer

    localizer = RegressionLocalizer()
    noise = np.random.default_rng(1).integers(0, 255, (128, 128), dtype=np.uint8)
    plain = localizer.read(XrayFrame(noise, 2.0, 0.0))
    frame = XrayFrame(noise, 2.0, 0.0, view=view())
    refined = localizer.read(frame)
    places, stds = shape_model().refined(plain.displacement_mm, plain.std_mm, axes(view()))
    assert refined.displacement_mm == pytest.approx(places)
    assert refined.std_mm == pytest.approx(stds)
