# SPDX-License-Identifier: Apache-2.0
"""A CT finds its place in X-rays that it did not make, and is refused where it does not belong."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from carm_bringup.benchmarks.registration.cases import in_space, in_view
from carm_bringup.benchmarks.registration.conditions import CONDITIONS, imaged, preoperative
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_perception.registration import registrar as registration
from carm_perception.registration.initial_pose import LIMBS, Sighted, from_landmarks, lying
from carm_perception.registration.model import LEVELS, CtModel, averaged, reduced
from carm_perception.registration.registrar import Registrar
from carm_perception.registration.search import PoseGrid
from carm_perception.registration.similarity import Target, correlation, features, field_mask
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient
from carm_sim.xray import Request, XrayConfig, XraySystem

ARM = CArm.from_config()


@pytest.fixture(scope="module")
def body() -> Patient:
    return imaged("chest_ct", CONDITIONS["nominal"], np.random.default_rng(1))


@pytest.fixture(scope="module")
def model() -> CtModel:
    return CtModel(preoperative("chest_ct", CONDITIONS["nominal"], "", 1))


@pytest.fixture
def registrar(model: CtModel) -> Iterator[Registrar]:
    made = Registrar(model)
    yield made
    made.close()


def frames(body: Patient, *primaries_deg: float, place: int = 10, request: Request | None = None) -> list[XrayFrame]:
    system = XraySystem(body, ARM, XrayConfig(), seed=1)
    center = body.landmarks_table_mm[place] / 1000
    joints = [ARM.inverse(center, math.radians(primary), 0.0)[0] for primary in primaries_deg]
    return [system.expose(j, request).frame() for j in joints]


def estimates(body: Patient, frame: XrayFrame, off_mm: float) -> tuple[LandmarkEstimate, ...]:
    """Return what a localizer with an error of so much to the right would say."""
    assert frame.view is not None
    places = {key: frame.view.displacement_mm(point) for key, point in body.landmarks_table_mm.items()}
    return tuple(LandmarkEstimate(key, (float(p[0]) + off_mm, float(p[1])), 6.0) for key, p in places.items())


def marks(body: Patient) -> np.ndarray:
    return np.array(list(body.landmarks_mm.values()))


def no_image_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Doubt every image, and do not look along the whole body for a better place."""
    monkeypatch.setattr(registration, "LEAST_PROBABILITY", dict.fromkeys(registration.LEAST_PROBABILITY, 1.0))
    monkeypatch.setattr(registration, "_SEARCHED", 0)


def test_two_images_tell_to_the_millimeter_where_the_ct_lies(body: Patient, registrar: Registrar) -> None:
    one, two = frames(body, 15.0, -30.0)
    assert one.view is not None
    found = registrar.register(one, estimates(body, one, 15.0))
    assert found.accepted, found.reason
    assert found.start == "landmarks"
    assert in_view(one.view, body.transform_lps_to_table, found.transform_lps_to_table, marks(body)) < 1.0
    both = registrar.register(two)
    assert both.accepted, both.reason
    assert (both.start, both.images) == ("belief", 2)
    assert in_space(body.transform_lps_to_table, both.transform_lps_to_table, marks(body)) < 1.5
    deviation = np.sqrt(np.diag(both.covariance_mm2(body.landmarks_mm[10])))
    assert ((deviation > 0.01) & (deviation < 3.0)).all()


def test_without_landmarks_it_searches_along_the_body(body: Patient, registrar: Registrar) -> None:
    (frame,) = frames(body, -10.0, place=11)
    assert frame.view is not None
    found = registrar.register(frame)
    assert found.accepted, found.reason
    assert found.start == "stations"
    assert in_view(frame.view, body.transform_lps_to_table, found.transform_lps_to_table, marks(body)) < 1.0


def test_another_patients_ct_is_refused_and_said(body: Patient) -> None:
    (frame,) = frames(body, 5.0)
    other = Registrar(CtModel(load_patient("phantom:7")))
    found = other.register(frame)
    other.close()
    assert not found.accepted
    assert "does not fit" in found.reason or "would lie" in found.reason or "covers only" in found.reason
    assert other.belief is None


def test_two_doubtful_images_that_say_the_same_are_believed(
    body: Patient, registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_image_is_sure(monkeypatch)
    ahead, ahead_again, aside = (frames(body, primary)[0] for primary in (0.0, 1.0, 25.0))
    results = [registrar.register(frame, estimates(body, frame, 8.0)) for frame in (ahead, ahead_again, aside)]
    assert [result.accepted for result in results] == [False, False, True]
    assert results[-1].start == "agreement"
    assert registrar.belief is not None
    np.testing.assert_allclose(
        registrar.belief.transform_lps_to_table.apply(marks(body)),
        body.transform_lps_to_table.apply(marks(body)),
        atol=2.0,
    )
    held = registrar.register(frames(body, 10.0)[0])
    assert (held.accepted, held.start) == (True, "belief")


def test_doubtful_images_of_a_patient_who_moved_between_them_are_not_believed(
    body: Patient, registrar: Registrar, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_image_is_sure(monkeypatch)
    shift = RigidTransform(np.eye(3), np.array([12.0, 0, 0]))
    moved = replace(body, transform_lps_to_table=shift @ body.transform_lps_to_table)
    before, after = frames(body, 0.0)[0], frames(moved, 25.0)[0]
    pairs = (before, estimates(body, before, 8.0)), (after, estimates(moved, after, 8.0))
    results = [registrar.register(*pair) for pair in pairs]
    assert [result.accepted for result in results] == [False, False]


def test_a_patient_who_was_moved_is_found_again(body: Patient, registrar: Registrar) -> None:
    (frame,) = frames(body, 0.0)
    registrar.register(frame, estimates(body, frame, 0.0))
    moved = replace(
        body, transform_lps_to_table=RigidTransform(np.eye(3), np.array([40.0, 25, 0])) @ body.transform_lps_to_table
    )
    (later,) = frames(moved, 0.0)
    assert later.view is not None
    found = registrar.register(later, estimates(moved, later, 5.0))
    assert found.accepted, found.reason
    assert found.images == 1
    assert in_view(later.view, moved.transform_lps_to_table, found.transform_lps_to_table, marks(moved)) < 1.0


def test_the_collimated_field_is_found_and_only_it_counts(body: Patient) -> None:
    (frame,) = frames(body, 0.0, place=11, request=Request(field_m=(0.10, 0.08)))
    mask = field_mask(frame.image)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert np.ptp(columns) * frame.mm_per_px_at_isocenter == pytest.approx(100.0, abs=3.0)
    assert np.ptp(rows) * frame.mm_per_px_at_isocenter == pytest.approx(80.0, abs=3.0)
    target = Target.of(frame, 96)
    assert 0.1 < target.mask.mean() < mask.mean()
    assert not target.features[:, ~target.mask].any()


def test_rays_through_an_end_of_the_ct_do_not_count(model: CtModel, body: Patient) -> None:
    low, high = model.body_box_mm
    pose = lying(model.center_mm, (low, high))
    top = pose.apply([model.center_mm[0], model.center_mm[1], high[2]])
    view = reduced(ARM.view(ARM.inverse(np.asarray(top) / 1000, 0.0, 0.0)[0]), LEVELS[0].side_px)
    _, known = model.render(0, view, pose)
    assert not known[: len(known) // 3].any(), "above the CT's upper end nothing is known"
    assert known[-len(known) // 4 :].all()


def test_a_reduced_view_projects_to_the_same_places() -> None:
    view = ARM.view(ARM.home)
    small = reduced(view.central(view.detector.columns - 40, view.detector.rows - 100), 100)
    points = view.isocenter_mm + np.random.default_rng(0).normal(0, 40, (20, 3))
    np.testing.assert_allclose(small.displacement_mm(points), view.displacement_mm(points), atol=1e-9)
    assert max(small.detector.rows, small.detector.columns) == 100


def test_averaged_voxels_stay_where_they_are() -> None:
    hu = np.zeros((9, 8, 7), np.int16)
    hu[4:6, 2:4, 3] = 1000
    affine = np.diag([1.0, 1.0, 4.0, 1.0])
    affine[:3, 3] = (5, 6, 7)
    small = averaged(Volume(hu, affine), 2.0)
    assert small.shape == (4, 4, 7)
    np.testing.assert_allclose(small.spacing_mm, (2, 2, 4))
    assert small.hu[2, 1, 3] == 1000
    np.testing.assert_allclose(small.lps_from_voxel(np.array([2, 1, 3])), (9.5, 8.5, 19))


def test_exact_landmarks_give_the_exact_pose(body: Patient, model: CtModel) -> None:
    seen = []
    for frame in frames(body, 30.0, -30.0):
        assert frame.view is not None
        seen.append(Sighted(frame.view, estimates(body, frame, 0.0)))
    nominal = lying(model.center_mm, model.body_box_mm)
    pose = from_landmarks(seen, body.landmarks_mm, nominal)
    assert pose is not None
    assert in_space(body.transform_lps_to_table, pose, marks(body)) < 4.0  # the prior pulls a little
    first = seen[0].estimates
    unsure = tuple(replace(estimate, std_mm=20.0) for estimate in first[:2])
    assert from_landmarks([Sighted(seen[0].view, unsure)], body.landmarks_mm, nominal) is None
    assert from_landmarks([Sighted(seen[0].view, ())], body.landmarks_mm, nominal) is None
    single = from_landmarks([Sighted(seen[0].view, (replace(first[0], std_mm=5.0),))], body.landmarks_mm, nominal)
    assert single is not None  # one that is sure says where, and people lie on tables as they do
    there = single.apply(body.landmarks_mm[first[0].id])
    np.testing.assert_allclose(seen[0].view.displacement_mm(there), first[0].displacement_mm, atol=5.0)


def test_arms_that_lie_elsewhere_do_not_move_the_trunk(body: Patient, model: CtModel) -> None:
    (frame,) = frames(body, 0.0)
    assert frame.view is not None
    seen = estimates(body, frame, 0.0)
    trunk = [one for one in seen if one.id not in LIMBS]
    bent = [LandmarkEstimate(key, (300.0, -200.0), 5.0, 10.0, 0.9) for key in LIMBS if key in body.landmarks_mm]
    nominal = lying(model.center_mm, model.body_box_mm)
    pose = from_landmarks([Sighted(frame.view, (*trunk, *bent))], body.landmarks_mm, nominal)
    same = from_landmarks([Sighted(frame.view, tuple(trunk))], body.landmarks_mm, nominal)
    assert pose is not None
    assert same is not None
    np.testing.assert_allclose(pose.translation, same.translation)


def test_gradients_survive_another_display(model: CtModel) -> None:
    pose = lying(model.center_mm, model.body_box_mm)
    center = np.asarray(pose.apply(model.center_mm)) / 1000
    view = reduced(ARM.view(ARM.inverse(center, 0.0, 0.0)[0]), LEVELS[1].side_px)
    image, known = model.render(1, view, pose)
    windowed = (255 * (image / image.max()) ** 0.6).astype(np.float32)
    windowed[20:24, 30:34] = 255.0  # metal
    assert correlation(features(image, known), features(windowed, known), known) > 0.9
    shifted = np.roll(windowed, 6, axis=1)
    assert correlation(features(image, known), features(shifted, known), known) < 0.6


def test_parameters_turn_about_the_isocenter_and_shift_along_the_view() -> None:
    view = ARM.view(ARM.home)
    grid = PoseGrid.around(RigidTransform(), view)
    turned = grid.pose(np.array([0, 0, 90.0, 0, 0, 0]))
    np.testing.assert_allclose(turned.apply(view.isocenter_mm), view.isocenter_mm, atol=1e-9)
    shifted = grid.pose(np.array([0, 0, 0, 1.0, 0, 0]))
    np.testing.assert_allclose(shifted.translation, 2.5 * view.right, atol=1e-9)
