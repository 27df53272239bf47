# SPDX-License-Identifier: Apache-2.0
"""Hardware and findings: placed where they belong, the same for the same names, refused in one clear line."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from carm_core.errors import PatientError, UnknownNameError
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_sim.devices import FINDINGS, HARDWARE, MissingLandmarkError, equip, materials
from carm_sim.devices.site import Site
from carm_sim.drr.solids import Material, SolidSet
from carm_sim.patient.patient import Patient, make_patient
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient

DOCS = Path(__file__).parents[3] / "docs" / "patients.md"
SPACING_MM = 4.0
MARKS = {
    1: (0, 0, 230),
    2: (-165, 10, 40),
    3: (165, 10, 40),
    6: (-190, 10, -240),
    7: (190, 10, -240),
    8: (-60, -130, -250),
    9: (60, -130, -240),
    10: (0, 40, 30),
    11: (0, 15, -45),
    12: (-80, 0, -190),
    13: (85, 0, -200),
    14: (0, 45, -215),
}
EXTRA = {121: (-90, 20, -480), 122: (90, 20, -480), 123: (-85, 20, -900), 129: (-140, 25, -490), 130: (140, 25, -490)}
EXTRA |= {124: (85, 20, -900)}


def dummy() -> Patient:
    """A head and a trunk with two lungs, a windpipe, a spine and a sternum, from head to thigh."""
    shape = (120, 80, 260)
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = (-238, -158, -700)
    grid = [np.arange(n) * SPACING_MM + o for n, o in zip(shape, affine[:3, 3], strict=True)]
    x, y, z = np.meshgrid(*grid, indexing="ij")
    hu = np.full(shape, -1000, np.int16)
    hu[((x / 200) ** 2 + (y / 110) ** 2 < 1) & (z < 70)] = 30
    hu[(x**2 + y**2 < 65**2) & (z > 60) & (z < 160)] = 30
    hu[(x**2 + (y / 1.2) ** 2 + (z - 230) ** 2 < 85**2)] = 40
    for side in (-1, 1):
        lung = ((x - side * 85) / 60) ** 2 + (y / 75) ** 2 + ((z + 80) / 110) ** 2 < 1
        hu[lung] = -820
    hu[(x**2 + (y - 10) ** 2 < 9**2) & (z > -45) & (z < 90)] = -1000
    hu[(np.abs(x) < 16) & (np.abs(y - 45) < 14) & (z < 60)] = 350
    hu[(np.abs(x) < 18) & (np.abs(y + 88) < 6) & (z < 10) & (z > -170)] = 450
    marks = {key: np.array(point, float) for key, point in MARKS.items()}
    patient = make_patient("dummy", Volume(hu, affine), marks, "test")
    return replace(patient, extra_landmarks_mm={key: np.array(point, float) for key, point in EXTRA.items()})


@pytest.fixture(scope="module")
def patient() -> Patient:
    return dummy()


def points(devices: SolidSet, material: Material | None = None) -> np.ndarray:
    chosen = [solid for solid in devices.solids if material is None or solid.material == material]
    return np.array([body.center_mm for solid in chosen for body in solid.bodies])


def shadow(patient: Patient, target_mm, primary=0.0, binning=6):
    carm = CArm.from_config()
    isocenter = patient.transform_lps_to_table.apply(np.asarray(target_mm, float)) / 1000
    view = carm.view(carm.inverse((0, 0, 0.25), primary, 0.0)[0], binning)
    view = replace(view, source_mm=view.source_mm + 1000 * isocenter - view.isocenter_mm)
    view = view.transformed(patient.transform_lps_to_table.inverse())
    out = np.zeros((3, view.detector.rows, view.detector.columns), np.float32)
    patient.devices.material_integrals(view, None, out)
    return out


@pytest.mark.parametrize("name", HARDWARE)
def test_hardware_is_placed_near_the_patient_and_repeats(patient, name):
    one, other, variant = (equip(patient, [spec]) for spec in (name, name, f"{name}:5"))
    assert one.name == f"dummy+{name}"
    assert len(one.devices) > 0
    np.testing.assert_array_equal(points(one.devices), points(other.devices))
    if name != "table":
        moved = points(variant.devices)
        assert moved.shape != points(one.devices).shape or np.abs(moved - points(one.devices)).max() > 0.1
    assert np.abs(points(one.devices) - patient.volume.center_mm).max() < 1200
    assert one.landmarks_mm is patient.landmarks_mm
    assert one.volume is patient.volume
    assert len(patient.devices) == 0


@pytest.mark.parametrize("name", sorted(set(HARDWARE) - {"hip_implant", "table"}))
def test_hardware_is_seen_from_two_sides(patient, name):
    equipped = equip(patient, [name])
    middle = points(equipped.devices).mean(0)
    for primary in (0.0, 0.6):
        seen = shadow(equipped, middle, primary)
        assert np.isfinite(seen).all()
        assert seen.min() >= 0
        assert seen.sum(0).max() > 0.3


def inside_body(patient: Patient, where: np.ndarray) -> float:
    return float((patient.volume.sample(where) > -950).mean())


def test_a_pacemaker_lies_on_the_left_and_reaches_the_heart(patient):
    for seed in range(4):
        devices = equip(patient, [f"pacemaker:{seed}"]).devices
        can = devices.solids[0].bodies[0].center_mm
        assert 60 < can[0] < 150
        assert patient.volume.sample(can) > -300
        tips = [s.bodies[0].center_mm for s in devices.solids if s.factor == materials.PLATINUM.factor]
        lowest = min(tips, key=lambda tip: tip[2])
        assert len(tips) == 2
        assert 30 < lowest[0] < 75
        assert -230 < lowest[2] < -150
        assert max(tips, key=lambda tip: tip[2])[0] < 0


def test_screws_sit_in_the_spine_on_both_sides(patient):
    devices = equip(patient, ["screws_rods:1"]).devices
    where = points(devices)
    assert (where[:, 0] > 0).sum() == pytest.approx(len(where) / 2, rel=0.1)
    assert 20 < where[:, 1].min() < 60
    assert np.abs(where[:, 0]).max() < 45
    assert where[:, 2].min() > MARKS[14][2] - 25
    assert where[:, 2].max() < MARKS[10][2] + 25


def test_wires_encircle_the_sternum(patient):
    devices = equip(patient, ["sternal_wires"]).devices
    assert 5 <= len(devices) <= 7
    for wire in devices.solids:
        where = np.array([body.center_mm for body in wire.bodies])
        assert where[:, 1].min() < -94
        assert where[:, 1].max() > -90
        assert np.ptp(where[:, 0]) > 18


def test_a_stomach_tube_ends_below_the_diaphragm_and_an_airway_tube_above_the_carina(patient):
    devices = equip(patient, ["tubes"]).devices
    airway, stomach = (np.array([body.center_mm for body in devices.solids[n].bodies]) for n in (0, 3))
    assert 15 < airway[0, 2] - MARKS[11][2] < 70
    assert np.linalg.norm(airway[0, :2] - [0, 10]) < 8
    assert stomach[0, 2] < MARKS[13][2] - 40


def test_electrodes_lie_on_the_skin(patient):
    devices = equip(patient, ["ecg"]).devices
    pads = [s.bodies[0].center_mm for s in devices.solids if s.factor == materials.FOAM.factor]
    assert len(pads) == 5
    for pad in pads:
        near = pad + np.stack(np.meshgrid(*[np.arange(-8, 9, 4.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
        hu = patient.volume.sample(near)
        assert hu.min() < -600
        assert hu.max() > -300


def test_the_table_carries_the_patient(patient):
    devices = equip(patient, ["table"]).devices.transformed(patient.transform_lps_to_table)
    tops = [body.center_mm[2] + body.sizes_mm[2] for solid in devices.solids for body in solid.bodies]
    assert max(tops) == pytest.approx(0.0, abs=0.2)
    assert np.abs(points(devices)[:, 1]).max() < 320


def test_a_hand_is_above_the_patient_and_has_bones(patient):
    devices = equip(patient, ["surgeon_hand"]).devices
    assert inside_body(patient, points(devices)) == 0
    assert points(devices)[:, 1].max() < -100
    assert len(points(devices, Material.BONE)) > 60


def test_an_effusion_turns_lung_into_fluid_on_one_side_only(patient):
    wet = equip(patient, ["pleural_effusion"])
    changed = wet.volume.hu != patient.volume.hu
    where = patient.volume.lps_from_voxel(np.argwhere(changed).astype(float))
    lung = (patient.volume.hu == -820).sum() / 2
    assert 0.15 < changed.sum() / lung < 0.5
    assert (np.sign(where[:, 0]) == np.sign(where[0, 0])).all()
    assert where[:, 1].mean() > 10
    assert (wet.volume.hu[changed] > -830).all()
    assert (patient.volume.hu == dummy().volume.hu).all()


def with_arms(radius_mm=12.0):
    """The dummy with a bony rod in soft tissue from each shoulder to the elbow, and the middle of each."""
    patient = dummy()
    points = patient.volume.lps_from_voxel(np.moveaxis(np.indices(patient.volume.shape), 0, -1).astype(float))
    hu = patient.volume.hu.copy()
    middles = []
    for top, end in ((2, 6), (3, 7)):
        top, end = (patient.landmarks_mm[key] for key in (top, end))
        along = (end - top) / np.linalg.norm(end - top)
        t = (points - top) @ along
        beside = np.linalg.norm(points - top - t[..., None] * along, axis=-1)
        within = (t > -10) & (t < np.linalg.norm(end - top) + 10)
        hu[within & (beside < 40)] = 40
        hu[within & (beside < radius_mm)] = 900
        middles.append((top + end) / 2)
    return replace(patient, volume=Volume(hu, patient.volume.transform_voxel_to_lps)), middles


def test_a_fracture_shifts_a_fragment_and_leaves_landmarks_and_the_rest():
    patient, middles = with_arms()
    broken = equip(patient, ["fracture:2"])
    assert broken.landmarks_mm is patient.landmarks_mm
    changed = broken.volume.hu != patient.volume.hu
    where = patient.volume.lps_from_voxel(np.argwhere(changed).astype(float))
    middle = min(middles, key=lambda point: np.linalg.norm(where.mean(0) - point))
    assert np.linalg.norm(where - middle, axis=1).max() < 150
    for point in patient.landmarks_mm.values():
        assert np.linalg.norm(where - point, axis=1).min() > 6
    bone = broken.volume.hu > 500
    assert bone.sum() == pytest.approx((patient.volume.hu > 500).sum(), rel=0.03)
    side = np.sign(middle[0])
    index = np.argwhere(bone)
    at = patient.volume.lps_from_voxel(index.astype(float))
    at = at[(side * at[:, 0] > 130) & (at[:, 2] < 20) & (at[:, 2] > -200)]
    heights, layer = np.unique(at[:, 2].round(), return_inverse=True)
    center = np.array([at[layer == n, :2].mean(0) for n in range(len(heights))])
    steps = np.linalg.norm(np.diff(center, axis=0), axis=1)
    assert steps.max() > 2.4
    assert np.median(steps) < 0.9


def test_variants_of_a_fracture_break_other_bones_or_the_next_that_is_there():
    patient, middles = with_arms()
    changes = {}
    for variant in (2, 3, 7):
        hu = equip(patient, [f"fracture:{variant}"]).volume.hu
        changes[variant] = patient.volume.lps_from_voxel(np.argwhere(hu != patient.volume.hu).astype(float)).mean(0)
    for variant in (2, 7):
        assert min(np.linalg.norm(changes[variant] - middle) for middle in middles) < 90
    assert np.linalg.norm(changes[2] - changes[7]) > 1
    bare = replace(dummy(), extra_landmarks_mm={})
    nowhere = replace(bare, landmarks_mm={}, landmarks_known=False)
    with pytest.raises(PatientError, match="no bone found that can be broken") as refusal:
        equip(nowhere, ["fracture:1"])
    assert "\n" not in str(refusal.value)


def test_the_real_chest_can_break_a_rib_and_a_collarbone():
    chest = load_patient("chest_ct")
    for variant in (0, 1):
        changed = equip(chest, [f"fracture:{variant}"]).volume.hu != chest.volume.hu
        hu = chest.volume.hu[changed]
        assert (hu > 200).sum() > 50
        assert changed.mean() < 0.01


def test_missing_landmarks_are_named(patient):
    headless = replace(patient, landmarks_mm={11: patient.landmarks_mm[11]}, extra_landmarks_mm={})
    with pytest.raises(MissingLandmarkError, match=r"pacemaker needs the landmark Left humeral head, .* dummy"):
        equip(headless, ["pacemaker"])
    with pytest.raises(MissingLandmarkError, match="femoral head"):
        equip(headless, ["hip_implant"])
    nowhere = replace(patient, landmarks_mm={}, landmarks_known=False, extra_landmarks_mm={})
    assert len(equip(nowhere, ["table"]).devices) > 0
    for name in set(HARDWARE) - {"table"}:
        with pytest.raises(PatientError) as refusal:
            equip(nowhere, [name])
        assert "\n" not in str(refusal.value)


def test_what_the_scan_does_not_reach_is_refused(patient):
    low = replace(patient, extra_landmarks_mm={k: p - [0, 0, 200] for k, p in patient.extra_landmarks_mm.items()})
    with pytest.raises(PatientError, match="does not cover"):
        equip(low, ["hip_implant"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pacemakr"], "unknown hardware 'pacemakr'; did you mean 'pacemaker'"),
        (["ekg"], "did you mean 'ecg'"),
        ([""], "unknown hardware ''"),
        (["ecg:x"], "whole number"),
        (["ecg", "ecg:2"], "more than once"),
    ],
)
def test_bad_names_are_refused(patient, names, message):
    with pytest.raises(PatientError, match=re.escape(message)):
        equip(patient, names)


def test_unknown_hardware_is_an_unknown_name(patient):
    with pytest.raises(UnknownNameError) as refusal:
        equip(patient, ["sternal_wire"])
    assert refusal.value.suggestion == "sternal_wires"


def test_patients_are_loaded_with_hardware():
    loaded = load_patient("chest_ct+sternal_wires+ecg:2")
    assert loaded.name == "chest_ct+sternal_wires+ecg:2"
    assert len(loaded.devices) > 40
    with pytest.raises(PatientError, match="did you mean 'chest_ct'"):
        load_patient("chest_cd+ecg")


def test_spine_and_sternum_of_the_real_chest_are_found_beside_contrast_medium():
    chest = load_patient("chest_ct")
    site = Site(chest, "test", np.random.default_rng(0))
    around = np.stack(np.meshgrid(*[np.arange(-6, 7, 3.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    hu = np.array([chest.volume.sample(center + around) for center in site.spine])
    assert (hu.mean(1) > 60).all()
    assert (hu.std(1) > 25).all()
    assert hu.min() > -250
    skin = np.array([site.skin((x, site.mid_y, z), (0, 1, 0))[1] for x, _, z in site.sternum])
    assert ((site.sternum[:, 1] - skin > 4) & (site.sternum[:, 1] - skin < 30)).all()


def test_a_body_moves_with_its_frame(patient):
    devices = equip(patient, ["catheter"]).devices
    shift = RigidTransform(np.eye(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(points(devices.transformed(shift)), points(devices) + shift.translation)


def test_factors_are_those_of_the_tables():
    xraydb = pytest.importorskip("xraydb")
    titanium = xraydb.material_mu("Ti", 60e3, density=4.506)
    for substance, formula, density in (
        (materials.COPPER, "Cu", 8.96),
        (materials.PLATINUM, "Pt0.9Ir0.1", 21.5),
        (materials.ALUMINUM, "Al", 2.7),
    ):
        assert substance.factor == pytest.approx(
            xraydb.material_mu(formula, 60e3, density=density) / titanium, rel=0.03
        )
    water = xraydb.material_mu("H2O", 60e3, density=1.0)
    assert materials.POLYETHYLENE.factor == pytest.approx(
        xraydb.material_mu("C2H4", 60e3, density=0.95) / water, rel=0.03
    )


def test_every_name_is_in_the_documentation():
    text = DOCS.read_text(encoding="utf-8")
    for name in [*HARDWARE, *FINDINGS]:
        assert f"`{name}`" in text
