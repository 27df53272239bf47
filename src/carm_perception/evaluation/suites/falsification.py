# SPDX-License-Identifier: Apache-2.0
"""Images without any of the landmarks: the right answer is to abstain.

- ``air``: the bare beam, with the noise of the detector.
- ``abdomen-legs``: from L4 to the ankles of whole bodies; no landmark within
  ``~carm_perception.datasets.calibration.abdomen_and_legs.AWAY_MM`` of the image center.
- ``photograph``: parts of the photograph of Grace Hopper (US Navy, public domain) that comes with matplotlib, in gray,
  turned and mirrored.
- ``noise``: white noise, noise with a 1/f spectrum, and uniform gray in turn.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_perception.datasets.calibration.abdomen_and_legs import leg_frames
from carm_perception.evaluation.suites.suites import FIRST_WHOLE_BODY_SEED
from carm_sim.patient.patient import Patient
from carm_sim.patient.volume import AIR_HU, Volume
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XrayConfig, XraySystem

_STREAM = 83

MakeFrames = Callable[[int, int, CArm, int], list[XrayFrame]]
"""Called with the number of the group, the number of frames, the arm and the seed of the suite; raises
``ConfigurationError`` when a package is missing or no view is within reach."""


def _rng(seed: int, kind: int, number: int) -> np.random.Generator:
    return np.random.default_rng([seed, number, _STREAM, kind])


def _air(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
    rng = _rng(seed, 0, number)
    affine = np.diag([50.0, 50.0, 50.0, 1.0])
    volume = Volume(np.full((4, 4, 4), AIR_HU, np.int16), affine)
    nobody = Patient("air", volume, {}, True, RigidTransform(np.eye(3), np.array([0.0, 0.0, 100.0])), "air")
    system = XraySystem(nobody, carm, XrayConfig(threads=1), seed=int(rng.integers(2**31)))
    return [system.expose(carm.home).frame() for _ in range(count)]


def _legs(number: int, count: int, carm: CArm, seed: int) -> list[XrayFrame]:
    rng = _rng(seed, 1, number)
    patient = load_patient(f"phantom:{FIRST_WHOLE_BODY_SEED + number}?whole_body")
    return leg_frames(patient, count, carm, rng)


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


KINDS: dict[str, MakeFrames] = {"air": _air, "abdomen-legs": _legs, "photograph": _photograph, "noise": _noise}
"""Kinds of images without landmarks."""
