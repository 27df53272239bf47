# SPDX-License-Identifier: Apache-2.0
"""The localizer that knows the patient's CT: exact where the CT fits, and honest where it does not."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carm_core.errors import CarmError, ConfigurationError, GoalError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import NEEDS_CT, POINT_ID, Localizer, Protocol, Query
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_perception.localizers import registered
from carm_perception.localizers.ct_preview import CtPreview
from carm_perception.localizers.registered import RegisteredLocalizer, asked_point
from carm_perception.localizers.registry import LocalizerOptions, make_localizer
from carm_perception.registration.breathing import LEAST_SCORE, followed_mm
from carm_perception.registration.model import CtModel, averaged
from carm_sim import patient_loader
from carm_sim.patient.patient import Patient
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XrayConfig, XraySystem

ARM = CArm.from_config()
T1, ELBOW, CARINA, RIGHT_DOME = 10, 6, 11, 12
Make = Callable[..., Localizer]


@pytest.fixture(scope="module")
def chest() -> Patient:
    return load_patient("chest_ct")


@pytest.fixture(scope="module")
def frame(chest: Patient) -> XrayFrame:
    system = XraySystem(chest, ARM, XrayConfig(), seed=2)
    joints = ARM.inverse((chest.landmarks_table_mm[T1] + (-60, 20, 0)) / 1000, math.radians(20), 0.0)[0]
    return system.expose(joints).frame()


@pytest.fixture
def make() -> Iterator[Make]:
    made: list[Localizer] = []

    def localizer(name: str, ct: str = "chest_ct") -> Localizer:
        made.append(make_localizer(name, LocalizerOptions(ct=ct)))
        return made[-1]

    yield localizer
    for one in made:
        one.close()


@pytest.mark.parametrize("name", ["registered", "fused"])
def test_landmarks_of_the_ct_are_exact(name: str, make: Make, chest: Patient, frame: XrayFrame) -> None:
    localizer = make(name)
    assert localizer.name == name
    reply = localizer.localize(frame, Query(Protocol.POINTING, target_id=T1))
    assert reply.ok, reply.message
    assert [e.id for e in reply.estimates] == [T1]
    assert frame.view is not None
    truth = frame.view.displacement_mm(chest.landmarks_table_mm[T1])
    assert np.linalg.norm(np.asarray(reply.estimates[0].displacement_mm) - truth) < 1.0
    assert 1.0 < reply.estimates[0].radius_90_mm < 8.0
    two = localizer.localize(frame, Query(Protocol.LOCALIZATION))
    nearest = sorted(chest.landmarks_mm, key=lambda i: np.linalg.norm(frame_place(frame, chest, i)))
    assert [e.id for e in two.estimates] == nearest[:2]


def test_any_point_of_the_ct_is_a_target_with_its_depth(make: Make, chest: Patient, frame: XrayFrame) -> None:
    localizer = make("registered")
    assert isinstance(localizer, RegisteredLocalizer)
    x, y, z = (chest.landmarks_mm[T1] + (25.0, -40.0, -60.0)).tolist()
    reply = localizer.localize(frame, Query(Protocol.POINTING, point_mm=(x, y, z)))
    assert reply.ok, reply.message
    (estimate,) = reply.estimates
    assert (estimate.id, estimate.name) == (POINT_ID, "Point of the CT")
    there = np.asarray(chest.transform_lps_to_table.apply(np.array([x, y, z])))
    view = frame.view
    assert view is not None
    assert np.linalg.norm(np.asarray(estimate.displacement_mm) - view.displacement_mm(there)) < 1.0
    assert abs(estimate.depth_mm - (there - view.isocenter_mm) @ view.forward) < 3.0
    assert 1.0 < estimate.depth_std_mm < 5.0
    assert 0.0 < localizer.in_view_std_mm < 2.0
    assert asked_point(reply.answer) == (x, y, z)
    assert asked_point(localizer.localize(frame, Query(Protocol.POINTING, target_id=T1)).answer) is None


def test_points_outside_the_ct_and_unknown_names_are_refused(make: Make, chest: Patient) -> None:
    localizer = make("registered")
    assert isinstance(localizer, RegisteredLocalizer)
    localizer.patient = replace(chest, points_mm={"vertebrae_T9": chest.landmarks_mm[T1], "far": np.full(3, 9e3)})
    assert localizer.find("T9 vertebrae")[0] == "vertebrae_T9"
    name, place = localizer.find("Vertebrae T9")
    assert name == "vertebrae_T9"
    np.testing.assert_array_equal(place, chest.landmarks_mm[T1])
    with pytest.raises(UnknownNameError, match="did you mean 'vertebrae_T9'"):
        localizer.find("vertebrae_T8")
    with pytest.raises(UnknownNameError, match="did you mean 'Carina'"):
        localizer.find("carena")
    for bad in ("far", (math.nan, 0.0, 0.0)):
        with pytest.raises(GoalError, match="is outside the CT"):
            localizer.find(bad) if isinstance(bad, str) else localizer.check(np.array(bad))


@pytest.mark.parametrize("name", ["compact", "regression", "fused", "oracle"])
def test_without_a_ct_a_point_is_abstained_on(name: str, frame: XrayFrame) -> None:
    localizer = make_localizer(name, LocalizerOptions(patient="chest_ct"))
    reply = localizer.localize(frame, Query(Protocol.POINTING, point_mm=(0.0, 0.0, 0.0)))
    assert (reply.abstained, reply.message, reply.estimates) == (True, NEEDS_CT, ())


def test_the_preview_looks_like_the_image_that_the_simulator_shows(chest: Patient, frame: XrayFrame) -> None:
    joints = ARM.inverse((chest.landmarks_table_mm[T1] + (-60, 20, 0)) / 1000, math.radians(20), 0.0)[0]
    shown = CtPreview(chest, ARM).image(chest.transform_lps_to_table, joints)
    assert np.corrcoef(shown.ravel(), frame.image.ravel())[0, 1] > 0.95
    for other in (shown[::-1], shown[:, ::-1], 255 - shown):
        assert np.corrcoef(other.ravel(), frame.image.ravel())[0, 1] < 0.9


def frame_place(frame: XrayFrame, patient: Patient, identifier: int) -> np.ndarray:
    assert frame.view is not None
    return np.asarray(frame.view.displacement_mm(patient.landmarks_table_mm[identifier]))


def test_where_the_ct_does_not_fit_fused_goes_on_without(make: Make, frame: XrayFrame) -> None:
    localizer = make("fused", "phantom:7")
    fused = localizer.localize(frame, Query(Protocol.POINTING, target_id=T1))
    assert fused.message.startswith("without the CT: the CT ")
    plain = make_localizer("fused").localize(frame, Query(Protocol.POINTING, target_id=T1))
    assert [e.displacement_mm for e in fused.estimates] == [e.displacement_mm for e in plain.estimates]
    point = localizer.localize(frame, Query(Protocol.POINTING, point_mm=(0.0, 0.0, 0.0)))
    assert point.abstained
    assert point.message.startswith("the CT ")


def test_no_view_and_no_landmark(make: Make, frame: XrayFrame) -> None:
    localizer = make("registered")
    blind = localizer.localize(replace(frame, view=None), Query(Protocol.POINTING, target_id=T1))
    assert (blind.abstained, blind.message) == (True, "the position of the C-arm at the exposure is not known")
    elbow = localizer.localize(frame, Query(Protocol.POINTING, target_id=ELBOW))
    assert (elbow.abstained, elbow.message) == (True, "the CT does not hold Right elbow")


def test_bad_settings_are_one_line(monkeypatch: pytest.MonkeyPatch, chest: Patient, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="needs the patient's CT"):
        make_localizer("registered")
    with pytest.raises(ConfigurationError, match="compact takes no CT"):
        make_localizer("compact", LocalizerOptions(ct="chest_ct"))
    with pytest.raises(CarmError, match="no such file"):
        make_localizer("registered", LocalizerOptions(ct=str(tmp_path / "ct.nii.gz")))
    monkeypatch.setattr(patient_loader, "load_patient", lambda _: replace(chest, landmarks_mm={}))
    with pytest.raises(ConfigurationError, match="carm patient landmarks"):
        make_localizer("registered", LocalizerOptions(ct="my_ct.nii.gz"))


def test_what_is_known_of_one_task_does_not_reach_the_next(make: Make, frame: XrayFrame) -> None:
    localizer = make("registered")
    assert localizer.localize(frame, Query(Protocol.POINTING, target_id=T1)).ok
    assert isinstance(localizer, RegisteredLocalizer)
    before = localizer.registration
    assert before is not None
    localizer.forget()
    assert localizer.registration is None
    assert localizer.localize(frame, Query(Protocol.POINTING, target_id=T1)).ok
    after = localizer.registration
    assert after is not None
    assert after.start == before.start != "belief"


def test_a_dome_is_followed_where_breathing_has_moved_it(chest: Patient) -> None:
    coarse = replace(chest, volume=averaged(chest.volume, 2.5))
    model = CtModel(coarse, 1)
    dome = chest.landmarks_table_mm[RIGHT_DOME]
    moved = RigidTransform(np.eye(3), np.array([-10.0, 0.0, 0.0])) @ chest.transform_lps_to_table
    for pose, way_mm in ((chest.transform_lps_to_table, 0.0), (moved, -10.0)):
        system = XraySystem(replace(coarse, transform_lps_to_table=pose), ARM, XrayConfig(), seed=3)
        image = system.expose(ARM.inverse((dome + np.array([10, -20, 0])) / 1000, 0.1, 0.0)[0]).frame()
        found_mm, score = followed_mm(model, image, chest.transform_lps_to_table, chest.landmarks_mm[RIGHT_DOME])
        assert found_mm == pytest.approx(way_mm, abs=2.0)
        assert score > LEAST_SCORE
    away = ARM.inverse((chest.landmarks_table_mm[T1] + (60, 0, 0)) / 1000, 0.0, 0.0)[0]
    image = system.expose(away).frame()
    assert followed_mm(model, image, chest.transform_lps_to_table, chest.landmarks_mm[RIGHT_DOME])[1] == 0.0


def test_soft_landmarks_are_less_sure_than_bones(make: Make, frame: XrayFrame) -> None:
    reply = make("registered").localize(frame, Query(Protocol.POINTING))
    sure = {e.id: e.std_mm for e in reply.estimates}
    assert sure[T1] < 2.5
    assert sure[CARINA] >= registered.SOFT_STD_MM[CARINA]
    assert sure[RIGHT_DOME] >= registered.SOFT_STD_MM[RIGHT_DOME]
