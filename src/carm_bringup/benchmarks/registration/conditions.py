# SPDX-License-Identifier: Apache-2.0
"""What differs between the body that is imaged and the CT that is registered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from carm_core.errors import ConfigurationError, PatientError
from carm_core.transforms import Array, RigidTransform
from carm_perception.evaluation.suites.known_ct import another_scan
from carm_perception.evaluation.suites.shifts import SHIFTS, equipped
from carm_perception.registration.model import averaged
from carm_sim.patient.patient import Patient, make_patient
from carm_sim.patient.volume import Volume
from carm_sim.patient_loader import load_patient
from carm_sim.phantom.body import plan_body
from carm_sim.phantom.generator import generate_phantom
from carm_sim.xray import Request, XrayConfig

_LIE_DEG, _LIE_MM = 4.0, (20.0, 20.0, 10.0)
"""How a patient lies against the middle of the table: standard deviations of turns, and along x, y and height."""
BREATH_MM = 14.0
"""How far the diaphragm has moved between CT and X-ray, mm."""
_BREATH_REACH_MM = 70.0
_CHEST_UP_MM = 5.0
_DEFORM_GRID_MM = 4.0
_STILL_VOXELS = 1e-3
_DOMES, _SPINE, _SPINE_MM = (12, 13), (10, 14), 25.0
"""Landmarks of the diaphragm, of the spine (T1, T12), and how far in front of the spine the body begins to move, mm."""


@dataclass(frozen=True)
class Condition:
    """A condition of the bench.

    Attributes:
        text: In one line.
        config: Of the X-ray system.
        request: Of each exposure.
        hardware: Pieces of hardware in the beam that the CT does not know, lowest and highest.
        voxel_mm: Voxels of the CT are averaged up to this; 0: two by two in plane.
        breathing: The X-rays show another phase of breathing than the CT.
        trunk: Only places of the trunk are imaged.
        posture: The arms lie elsewhere than in the CT; phantoms only.
        wrong: The CT is another patient's.
        inverted: The display shows bones dark.
        rtk: The X-ray images are made by ITK-RTK, with monochromatic physics.
    """

    text: str
    config: XrayConfig = SHIFTS[""].config
    request: Request = field(default_factory=Request)
    hardware: tuple[int, int] = (0, 0)
    voxel_mm: float = 0.0
    breathing: bool = False
    posture: bool = False
    trunk: bool = False
    wrong: bool = False
    inverted: bool = False
    rtk: bool = False


CONDITIONS: Mapping[str, Condition] = {
    "nominal": Condition("the CT has half the resolution in plane, and noise of its own"),
    "hardware": Condition("three to five devices in the beam that the CT does not know", hardware=(3, 5)),
    "low-dose": Condition("a tenth of the dose and less", SHIFTS["low-dose"].config),
    "cropped": Condition("a collimated field of 100 by 100 mm", request=Request(field_m=(0.10, 0.10))),
    "breathing": Condition(
        f"the diaphragm lies {BREATH_MM:g} mm elsewhere than in the CT (views of the trunk)", breathing=True, trunk=True
    ),
    "posture": Condition(
        "the arms lie elsewhere than in the CT (phantoms only; views of the trunk)", posture=True, trunk=True
    ),
    "ct-2mm": Condition("the CT has voxels of 2 mm", voxel_mm=2.0),
    "inverted": Condition("the display shows bones dark and air bright", inverted=True),
    "another-renderer": Condition(
        "the X-ray images are made by ITK-RTK (pip install '.[peers]'), with one energy", rtk=True
    ),
    "wrong-patient": Condition("the CT is another patient's, and must be refused", wrong=True),
}
"""By name, as ``carm bench register --condition`` takes them."""


def imaged(name: str, condition: Condition, rng: np.random.Generator) -> Patient:
    """Return the body that is imaged, as it lies on the table.

    Args:
        name: For ``carm_sim.patient_loader.load_patient``.
        condition: Hardware and breathing are put into it.
        rng: Of what is random about it.

    Raises:
        PatientError: The patient cannot be loaded.
    """
    patient = load_patient(name)
    if condition.breathing:
        patient = replace(patient, volume=breathed(patient))
    if condition.hardware[1]:
        patient = equipped(patient, int(rng.integers(condition.hardware[0], condition.hardware[1] + 1)), rng)
    return replace(patient, transform_lps_to_table=lain(patient.transform_lps_to_table, patient, rng))


def lain(pose: RigidTransform, patient: Patient, rng: np.random.Generator) -> RigidTransform:
    """Return a pose a little beside one: nobody lies exactly in the middle of the table."""
    turn = Rotation.from_rotvec(np.radians(rng.normal(0, _LIE_DEG, 3))).as_matrix()
    middle = pose.apply(patient.volume.center_mm)
    return RigidTransform(turn, middle - turn @ middle + rng.normal(0, _LIE_MM)) @ pose


def preoperative(name: str, condition: Condition, other: str, seed: int) -> Patient:
    """Return the CT that is registered: never the voxels that are imaged.

    Args:
        name: Who is imaged.
        condition: What differs.
        other: Whose CT it is where it is a wrong one.
        seed: Of its noise, and of other arms.

    Raises:
        ConfigurationError: Other arms were asked for and the patient is no phantom.
        PatientError: The patient cannot be loaded.
    """
    if condition.posture:
        patient = _with_other_arms(name)
    else:
        patient = load_patient(other if condition.wrong else name)
    coarser = averaged(patient.volume, condition.voxel_mm) if condition.voxel_mm else None
    return another_scan(patient, seed, coarser)


def _with_other_arms(name: str) -> Patient:
    kind, _, seed = name.partition(":")
    if kind != "phantom":
        raise ConfigurationError(f"condition posture needs phantoms: the arms of {name} cannot be moved")
    arms = "crossed" if plan_body(int(seed)).arms == "along" else "along"
    body = generate_phantom(int(seed), arms=arms)
    return make_patient(name, body.volume, body.landmarks_mm, "generated, other arms")


def breath_shift_mm(patient: Patient, points: Array) -> Array:
    """Return how far breathing moves what lies at points (..., 3) afterwards: (..., 3), LPS, mm.

    Raises:
        PatientError: The domes of the diaphragm, T1 or T12 are not among the landmarks.
    """
    known = patient.landmarks_mm
    if not {*_DOMES, *_SPINE} <= set(known):
        raise PatientError(f"{patient.name}: the landmarks do not tell where diaphragm and spine are")
    low, high = patient.volume.body_box_mm()
    dome, spine = (np.mean([known[key] for key in keys], axis=0) for keys in (_DOMES, _SPINE))
    before = spine[1] - points[..., 1]  # mm in front of the spine's middle
    free = np.clip((before - _SPINE_MM) / 30.0, 0, 1)
    side = np.abs(points[..., 0] - spine[0]) / ((high[0] - low[0]) / 2)
    inner = np.clip((0.85 - side) / 0.2, 0, 1)
    near = np.exp(-(((points[..., 2] - dome[2]) / _BREATH_REACH_MM) ** 2))
    shift: Array = np.zeros((*points.shape[:-1], 3))
    shift[..., 2] = -BREATH_MM * near * free * inner
    shift[..., 1] = -_CHEST_UP_MM * near * np.clip((before - 60.0) / 60.0, 0, 1)
    return shift


def breathed_landmarks(patient: Patient) -> dict[int, Array]:
    """Return where the landmarks (3,), LPS, mm, lie in the volume of ``breathed``: id to position.

    Raises:
        PatientError: As of ``breathed``.
    """
    keys, before = list(patient.landmarks_mm), np.array(list(patient.landmarks_mm.values()))
    after = before
    for _ in range(10):  # what lies at a place after breathing came from there, less the shift there
        after = before + breath_shift_mm(patient, after)
    return dict(zip(keys, after, strict=True))


def _between(count: int, step: int) -> Array:
    """Return the weights (count, nodes) of linear interpolation between every ``step``-th voxel and the one after."""
    nodes = len(np.arange(0, count + step, step))
    return np.clip(1.0 - np.abs(np.arange(count)[:, None] / step - np.arange(nodes)), 0.0, 1.0).astype(np.float32)


def breathed(patient: Patient) -> Volume:
    """Return the body at another phase of breathing: the diaphragm down, the breastbone up; the spine stays.

    Raises:
        PatientError: The domes of the diaphragm, T1 or T12 are not among the landmarks.
    """
    volume = patient.volume
    steps = np.maximum(1, np.round(_DEFORM_GRID_MM / volume.spacing_mm)).astype(int)
    grid = [np.arange(0, n + s, s) for n, s in zip(volume.shape, steps, strict=True)]
    points = volume.lps_from_voxel(np.stack(np.meshgrid(*grid, indexing="ij"), -1))
    shift = breath_shift_mm(patient, points)
    inverse = np.linalg.inv(volume.transform_voxel_to_lps[:3, :3])
    coarse = np.moveaxis(shift @ inverse.T, -1, 0).astype(np.float32)
    moving = [axis for axis in range(3) if np.abs(coarse[axis]).max() > _STILL_VOXELS]
    across, along, upward = (_between(n, s) for n, s in zip(volume.shape, steps, strict=True))
    deformed = volume.hu.copy()
    for k in range(volume.shape[2]):
        move = {axis: across @ (coarse[axis] @ upward[k]) @ along.T for axis in moving}
        moved = np.nonzero(np.logical_or.reduce([np.abs(values) > _STILL_VOXELS for values in move.values()]))
        if not len(moved[0]):
            continue
        source = np.stack([*moved, np.full(len(moved[0]), k)]).astype(np.float32)
        for axis, values in move.items():
            source[axis] -= values[moved]
        first = max(0, int(np.floor(source[2].min())) - 1)
        last = min(volume.shape[2], int(np.ceil(source[2].max())) + 2)
        source[2] -= first
        part = volume.hu[..., first:last]
        values = ndimage.map_coordinates(part, source, order=1, mode="nearest", output=np.float32)
        deformed[..., k][moved] = np.rint(values)
    return Volume(deformed, volume.transform_voxel_to_lps)
