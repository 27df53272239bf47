# SPDX-License-Identifier: Apache-2.0
"""What each shift of the test sets changes: the patient, the X-ray system, the view or the display."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.errors import ConfigurationError, PatientError
from carm_core.imaging.projection import XrayView
from carm_core.landmarks import LANDMARKS
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array, rotation_about
from carm_sim.devices import equip
from carm_sim.patient.patient import Patient, make_patient
from carm_sim.patient_loader import load_patient
from carm_sim.phantom import cached_phantom
from carm_sim.phantom.crop import crop_to_ct_field
from carm_sim.physics.detector import DetectorModel
from carm_sim.physics.exposure_control import ExposureControl
from carm_sim.xray import Exposure, Request, XrayConfig, XraySystem

HARDWARE = (
    *("pacemaker", "ecg", "tubes", "catheter", "sternal_wires", "screws_rods"),
    *("shoulder_implant", "jewellery", "table", "surgeon_hand"),
)
"""What the hardware suite draws from; a list of its own, so that new hardware does not change the suite."""

BLUR_STEPS = 5
"""Exposures along the motion that are averaged, each with its share of the dose."""
_PLAIN = XrayConfig(threads=1)


@dataclass(frozen=True)
class Shift:
    """Changes against the nominal protocol.

    Attributes:
        config: Settings of the X-ray system.
        hardware: Number of pieces of hardware, lowest and highest.
        truncated: Every other patient's volume is cut to the field of a chest CT.
        collimated: Side of the collimated field of the other patients against the whole, lowest and highest.
        motion_mm: Motion during the exposure at isocenter depth, lowest and highest.
        roll_deg: Rotation of the detector about the central ray, lowest and highest, to either side.
        inverted: Bones dark, air bright.
    """

    config: XrayConfig = _PLAIN
    hardware: tuple[int, int] = (0, 0)
    truncated: bool = False
    collimated: tuple[float, float] = (1.0, 1.0)
    motion_mm: tuple[float, float] = (0.0, 0.0)
    roll_deg: tuple[float, float] = (0.0, 0.0)
    inverted: bool = False


def _with_dose(config: XrayConfig, share: float) -> XrayConfig:
    control = config.control
    lower = replace(
        control, detector_dose_gy=control.detector_dose_gy * share, lowest_mas=control.lowest_mas * min(share, 1.0)
    )
    return replace(config, control=lower)


_NOISY = DetectorModel(electronic_noise_adu=100.0, dead_pixel_fraction=0.002)

SHIFTS: Mapping[str, Shift] = {
    "": Shift(),
    "noise": Shift(replace(_PLAIN, detector=_NOISY)),
    "low-dose": Shift(replace(_PLAIN, control=ExposureControl(detector_dose_gy=5e-9, lowest_mas=0.00025))),
    "hardware": Shift(hardware=(3, 5)),
    "cropping": Shift(truncated=True, collimated=(0.50, 0.85)),
    "habitus": Shift(),
    "arms": Shift(),
    "motion-blur": Shift(_with_dose(_PLAIN, 1 / BLUR_STEPS), motion_mm=(4.0, 12.0)),
    "rotation": Shift(roll_deg=(10.0, 25.0)),
    "inverted": Shift(inverted=True),
}
"""By the names of ``carm_perception.evaluation.suites.suites.SHIFTS``, which describes them; empty: nominal."""


@dataclass(frozen=True, eq=False)
class RolledCArm(CArm):
    """A C-arm whose detector is turned about the central ray.

    Attributes:
        roll_rad: Angle, right-handed about the ray from source to detector.
    """

    roll_rad: float = 0.0

    @classmethod
    def of(cls, carm: CArm, roll_rad: float) -> RolledCArm:
        """Return the same arm, turned."""
        return cls(**{f.name: getattr(carm, f.name) for f in fields(carm) if f.name != "roll_rad"}, roll_rad=roll_rad)

    def view(self, positions: ArrayLike, binning: int = 3) -> XrayView:
        """As of ``CArm``, turned."""
        view = super().view(positions, binning)
        return replace(view, rotation=view.rotation @ rotation_about("z", self.roll_rad))


@dataclass(frozen=True, eq=False)
class Scene:
    """A patient under a shift, ready for exposures.

    Attributes:
        name: Name of the patient in reports.
        system: The X-ray system.
        carm: The arm.
        points_mm: Landmark id to its position (3,) in the table frame, also those cut off.
        imaged: Ids of the landmarks inside the CT.
        collimated: Whether the shift's collimation applies.
        inside_fraction: Least part of the rays that must meet the CT.
    """

    name: str
    system: XraySystem
    carm: CArm
    points_mm: dict[int, Array]
    imaged: tuple[int, ...]
    collimated: bool = False
    inside_fraction: float = 0.0


def prepare(name: str, number: int, shift: Shift, carm: CArm, rng: np.random.Generator, seed: int) -> Scene:
    """Load a patient as a shift wants it.

    Args:
        name: For ``load_patient``.
        number: Index of the patient in the suite.
        shift: The shift.
        carm: The arm.
        rng: Source of the shift's randomness.
        seed: Seed of the noise.

    Raises:
        PatientError: The patient cannot be loaded.
        ConfigurationError: Its landmarks are unknown.
    """
    truncated = shift.truncated and number % 2 == 0
    if truncated:
        patient, points = _truncated(name, seed)
    else:
        patient = load_patient(name)
        points = patient.all_landmarks_table_mm
    if not patient.landmarks_known:
        raise ConfigurationError(f"patient {name} has no known landmarks")
    if shift.hardware[1]:
        patient = equipped(patient, int(rng.integers(shift.hardware[0], shift.hardware[1] + 1)), rng)
    system = XraySystem(patient, carm, shift.config, seed=seed)
    collimated = shift.collimated[0] < 1 and not truncated
    imaged = tuple(patient.imaged_landmarks_mm)
    return Scene(patient.name, system, carm, points, imaged, collimated, 0.5 * truncated)


def equipped(patient: Patient, count: int, rng: np.random.Generator) -> Patient:
    """Return a patient with so many pieces of hardware; what cannot be placed is passed over for the next."""
    placed = 0
    for item in rng.permutation(HARDWARE):
        if placed == count:
            break
        try:
            patient = equip(patient, [f"{item}:{rng.integers(1000)}"])
            placed += 1
        except PatientError:
            continue
    return patient


def _truncated(name: str, seed: int) -> tuple[Patient, dict[int, Array]]:
    """Return a phantom whose volume ends as a chest CT does, and where all its landmarks are in the table frame."""
    body = crop_to_ct_field(cached_phantom(int(name.removeprefix("phantom:"))), seed)
    patient = make_patient(f"{name} (truncated)", body.volume, body.landmarks_mm, "truncated phantom")
    known = {mark.id for mark in LANDMARKS}
    to_table = patient.transform_lps_to_table
    points = {key: np.asarray(to_table.apply(p)) for key, p in body.anatomical_landmarks_mm.items() if key in known}
    return patient, points


def expose(
    scene: Scene, shift: Shift, positions: Array, rng: np.random.Generator
) -> tuple[Exposure, NDArray[np.uint8]]:
    """Take an exposure as the shift requires.

    Args:
        scene: Patient and X-ray system.
        shift: The shift.
        positions: Joint positions (6,), m and rad.
        rng: Source of the shift's randomness.

    Returns:
        The exposure (that of the middle of the motion, if there is one), and the display image.
    """
    roll_deg, reach_mm, share = (rng.uniform(*r) for r in (shift.roll_deg, shift.motion_mm, shift.collimated))
    side, direction, stretch = rng.choice([-1.0, 1.0]), rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.0)
    request = Request()
    if roll_deg:
        scene.system.carm = RolledCArm.of(scene.carm, float(np.radians(side * roll_deg)))
    view = scene.system.carm.view(positions, scene.system.config.binning)
    if scene.collimated:
        full_m = view.mm_per_px_at_isocenter * view.detector.columns / 1000
        request = Request(field_m=(full_m * share, full_m * share * stretch))
    if not reach_mm:
        exposure = scene.system.expose(positions, request)
        return exposure, 255 - exposure.display if shift.inverted else exposure.display
    right, up = view.display_axes
    motion_m = reach_mm / 1000 * (np.cos(direction) * right + np.sin(direction) * up)
    steps = np.linspace(-0.5, 0.5, BLUR_STEPS)
    exposures = [scene.system.expose(_moved(positions, s * motion_m), request) for s in steps]
    mean = np.mean([e.display for e in exposures], axis=0)
    return exposures[BLUR_STEPS // 2], np.asarray(np.rint(mean), np.uint8)


def _moved(positions: ArrayLike, offset_m: Array) -> Array:
    """Positions (6,) with the whole arm shifted by (3,) in the table frame: cart and lift move along its axes."""
    moved = np.array(positions, np.float64)
    moved[:3] += offset_m
    return moved
