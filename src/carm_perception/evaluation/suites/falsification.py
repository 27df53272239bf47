# SPDX-License-Identifier: Apache-2.0
"""Images without any of the landmarks: the right answer is to abstain.

- ``air``: the bare beam, with the noise of the detector.
- ``table``: an empty table with its mattress and rails.
- ``objects``: test objects on the table: cylinders, boxes and balls of plastic, water and aluminum.
- ``hand``: a hand of staff alone in the beam.
- ``photograph``: parts of the photograph of Grace Hopper (US Navy, public domain) that comes with matplotlib, in gray,
  turned and mirrored.
- ``noise``: white noise, noise with a 1/f spectrum, and uniform gray in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array, RigidTransform
from carm_perception.evaluation.suites.suites import FIRST_WHOLE_BODY_SEED
from carm_sim.devices import equip
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import AIR_HU, Volume
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XrayConfig, XraySystem

_STREAM = 83
_TRIES = 400
_SHADOW, _SHOWN = 0.92, 0.15
"""Something is in the image when so much of it is darker than this part of the bare beam."""

MakeFrames = Callable[[int, int, CArm, int], list[XrayFrame]]
"""Called with the number of the group, the number of frames, the arm and the seed of the suite; raises
``ConfigurationError`` when a package is missing or no view is within reach."""


def _rng(seed: int, kind: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number, _STREAM, kind])


def _air_volume() -> Volume:
    return Volume(np.full((4, 4, 4), AIR_HU, np.int16), np.diag([50.0, 50.0, 50.0, 1.0]))


def _air(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
    rng = _rng(seed, 0, number)
    nobody = Patient("air", _air_volume(), {}, True, RigidTransform(np.eye(3), np.array([0.0, 0.0, 100.0])), "air")
    system = XraySystem(nobody, carm, XrayConfig(threads=1), seed=int(rng.integers(2**31)))
    return [system.expose(carm.home).frame() for _ in range(count)]


def _hardware_alone(name: str, stream: int) -> MakeFrames:
    """Return what makes images of a piece of hardware where it lies about a patient, without the patient."""

    def frames(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
        rng = _rng(seed, stream, number)
        body = load_patient(f"phantom:{FIRST_WHOLE_BODY_SEED + number}")
        alone = equip(body, [f"{name}:{number}"])
        nobody = replace(alone, name=name, volume=_air_volume(), landmarks_mm={}, extra_landmarks_mm={})
        system = XraySystem(nobody, carm, XrayConfig(threads=1), seed=int(rng.integers(2**31)))
        middle = np.mean(list(body.landmarks_table_mm.values()), axis=0)
        return _shown(system, carm, rng, middle, np.array([150.0, 130.0, 40.0]), count)

    return frames


def _objects(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
    rng = _rng(seed, 4, number)
    side, step = 100, 4.0
    axes = np.meshgrid(*[(np.arange(side) - side / 2) * step] * 3, indexing="ij")
    hu = np.full((side,) * 3, AIR_HU, np.int16)
    for _ in range(int(rng.integers(2, 9))):
        x, y, z = (axis - rng.uniform(-110, 110) for axis in axes)
        size = rng.uniform(8, 70, 3)
        kind = int(rng.integers(3))
        if kind == 0:
            inside = (np.hypot(x, y) < size[0]) & (np.abs(z) < 2 * size[1])
        elif kind == 1:
            inside = (np.abs(x) < size[0]) & (np.abs(y) < size[1]) & (np.abs(z) < size[2])
        else:
            inside = x**2 + y**2 + z**2 < size[0] ** 2
        hu[inside] = int(rng.choice([-120, 0, 120, 400, 1000, 2000]))
    affine = np.diag([step, step, step, 1.0])
    transform = RigidTransform(np.eye(3), np.array([0.0, 0.0, 150.0]) - side * step / 2 * np.array([1.0, 1.0, 0.0]))
    things = Patient("objects", Volume(hu, affine), {}, True, transform, "objects")
    system = XraySystem(things, carm, XrayConfig(threads=1), seed=int(rng.integers(2**31)))
    center = np.asarray(transform.apply(np.full(3, side * step / 2)))
    return _shown(system, carm, rng, center, np.array([60.0, 60.0, 30.0]), count)


def _shown(
    system: XraySystem, carm: CArm, rng: np.random.Generator, center: Array, spread_mm: Array, count: int
) -> list[XrayFrame]:
    """Return images about a place that show more than air."""
    frames: list[XrayFrame] = []
    for _ in range(_TRIES):
        if len(frames) == count:
            return frames
        place = (center + rng.normal(0, spread_mm)) / 1000.0
        try:
            positions = carm.inverse(place, *(float(a) for a in np.radians(rng.normal(0, 8, 2))))[0]
        except GoalError:
            continue
        exposure = system.expose(positions)
        bright = np.percentile(exposure.raw, 99.5)
        if (exposure.raw < _SHADOW * bright).mean() > _SHOWN:
            frames.append(exposure.frame())
    raise ConfigurationError(f"{system.patient.name}: no view within reach of the arm shows it")


def _photograph(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
    rng = _rng(seed, 2, number)
    try:
        path = files("matplotlib").joinpath("mpl-data", "sample_data", "grace_hopper.jpg")
        photograph = np.asarray(cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE))
    except (ModuleNotFoundError, OSError) as error:
        raise ConfigurationError("the photograph comes with matplotlib: pip install matplotlib") from error
    rows, columns = photograph.shape
    images = []
    for _ in range(count):
        side = int(rng.uniform(0.4, 1.0) * min(rows, columns))
        top, left = rng.integers(rows - side + 1), rng.integers(columns - side + 1)
        part = photograph[top : top + side, left : left + side]
        images.append(np.rot90(part[:, :: int(rng.choice([-1, 1]))], int(rng.integers(4))))
    return [_frame(image, carm) for image in images]


def _noise(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
    rng = _rng(seed, 3, number)
    side = carm.view(carm.home).detector.rows
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1.0
    frames = []
    for index in range(count):
        white = rng.standard_normal((side, side))
        if index % 3 == 0:
            image = 128 + 40 * white
        elif index % 3 == 1:
            pink = np.fft.irfft2(np.fft.rfft2(white) / frequency, (side, side))
            image = 128 + 50 * pink / pink.std()
        else:
            image = np.full((side, side), rng.uniform(0, 255))
        frames.append(_frame(np.clip(image, 0, 255).astype(np.uint8), carm))
    return frames


def _frame(image: NDArray[np.uint8], carm: CArm) -> XrayFrame:
    """Return a square image at the size and the scale of the detector's."""
    view = carm.view(carm.home)
    side = view.detector.rows
    resized = cv2.resize(np.ascontiguousarray(image), (side, side), interpolation=cv2.INTER_AREA)
    return XrayFrame(np.asarray(resized, np.uint8), view.mm_per_px_at_isocenter, 0.0)


KINDS: dict[str, MakeFrames] = {
    "air": _air,
    "table": _hardware_alone("table", 1),
    "objects": _objects,
    "hand": _hardware_alone("surgeon_hand", 5),
    "photograph": _photograph,
    "noise": _noise,
}
"""Kinds of images without landmarks."""
