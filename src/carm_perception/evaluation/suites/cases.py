# SPDX-License-Identifier: Apache-2.0
"""Cases of a suite: X-rays from the simulated system as the graph shows them, with the truth.

Half of the views are centered near a landmark (hits, errors and mirror swaps are taken on these), half are drawn over
the trunk (retrieval). Each patient's cases depend on the suite, the seed and the patient only; the views of a shift
are those of the nominal suite wherever the patients are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import ALL_LANDMARKS, IDS, LANDMARKS
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_perception.datasets.views import TRUNK_IDS, ViewDistribution
from carm_perception.evaluation.suites.falsification import KINDS
from carm_perception.evaluation.suites.shifts import SHIFTS, Scene, Shift, expose, prepare
from carm_perception.evaluation.suites.suites import FALSIFICATION, Suite
from carm_sim.xray import Exposure

_TRIES = 400
CENTERED_OFFSET_MM = 20.0
"""Standard deviation of each component of the distance between a centered view and its landmark."""
_VIEW_STREAM, _SHIFT_STREAM = 31, 57


@dataclass(frozen=True, eq=False)
class Case:
    """One X-ray and the truth.

    Attributes:
        patient: Name of the patient.
        frame: The image.
        displacement_mm: True displacements (48, 2); NaN for landmarks that the patient lacks or that are not asked for.
        centered_on: Landmark near which the view is centered; 0: drawn over the trunk.
        half_field_mm: Half the width and height of the exposed field at isocenter depth (2,).
        kind: Kind of a falsification image; empty: there are landmarks to be found.
        ids: Landmarks that the suite is about.
    """

    patient: str
    frame: XrayFrame
    displacement_mm: Array
    centered_on: int
    half_field_mm: tuple[float, float]
    kind: str = ""
    ids: tuple[int, ...] = tuple(mark.id for mark in LANDMARKS)

    @property
    def unknown(self) -> frozenset[int]:
        """Ids of the landmarks whose true place is not known."""
        known = IDS[np.isfinite(self.displacement_mm).all(-1)].tolist()
        return frozenset(self.ids) - frozenset(known)

    @property
    def in_view(self) -> tuple[int, ...]:
        """Ids of the landmarks whose projection lies in the exposed field."""
        inside = (np.abs(self.displacement_mm) <= np.array(self.half_field_mm)).all(-1)
        return tuple(IDS[inside].tolist())


def patient_cases(chosen: Suite, number: int, seed: int) -> list[Case]:
    """Render the cases of one patient.

    Args:
        chosen: The suite.
        number: Index of the patient in the suite.
        seed: Seed of views and noise.

    Raises:
        PatientError: The patient cannot be loaded.
        ConfigurationError: The patient has no known landmarks, or no view within reach shows it.
    """
    name, share = chosen.patients[number], chosen.shares[number]
    rng = np.random.default_rng([seed, number, _VIEW_STREAM])
    carm = CArm.from_config()
    if chosen.name == FALSIFICATION:
        kind, _, index = name.partition(":")
        frames = KINDS[kind](int(index), share, carm, seed)
        nothing = np.full((len(ALL_LANDMARKS), 2), np.nan)
        return [Case(name, frame, nothing, 0, _half_image(frame), kind, chosen.ids) for frame in frames]
    shift = SHIFTS[chosen.shift]
    shift_rng = np.random.default_rng([seed, number, _SHIFT_STREAM])
    scene = prepare(name, number, shift, carm, shift_rng, seed)
    inside = max(chosen.inside_fraction, scene.inside_fraction)
    wanted = {key: place for key, place in scene.points_mm.items() if key in chosen.ids}
    scene = replace(scene, points_mm=wanted, imaged=tuple(i for i in scene.imaged if i in chosen.ids))
    if not scene.imaged:
        raise ConfigurationError(f"patient {name}: none of the landmarks of suite {chosen.name} is in the CT")
    made = [_case(scene, shift, rng, shift_rng, index % 2 == 0, inside, chosen.everywhere) for index in range(share)]
    return [replace(case, ids=chosen.ids) for case in made]


def _case(
    scene: Scene,
    shift: Shift,
    rng: np.random.Generator,
    shift_rng: np.random.Generator,
    centered: bool,
    inside: float,
    everywhere: bool,
) -> Case:
    spread = ViewDistribution()
    choices = list(scene.imaged)
    for _ in range(_TRIES):
        target = int(rng.choice(choices)) if centered else 0
        middle = int(rng.choice(choices)) if everywhere and not centered else 0
        positions = draw_positions(scene.points_mm, target, spread, scene.carm, rng, middle)
        if positions is None:
            continue
        exposure, image = expose(scene, shift, positions, shift_rng)
        if exposure.hit_fraction < inside:
            continue
        frame = exposure.frame()
        frame = XrayFrame(
            image, frame.mm_per_px_at_isocenter, 0.0, frame.primary_rad, frame.secondary_rad, exposure.view
        )
        return Case(scene.name, frame, truth_mm(exposure, scene.points_mm), target, _half_field(exposure))
    raise ConfigurationError(f"patient {scene.name}: no view within reach of the arm shows the CT")


def truth_mm(exposure: Exposure, points_mm: Mapping[int, Array]) -> Array:
    """True displacements (48, 2) of landmarks given in the table frame; NaN where unknown."""
    truth = np.full((len(ALL_LANDMARKS), 2), np.nan)
    for row, mark in enumerate(ALL_LANDMARKS):
        if mark.id in points_mm:
            truth[row] = exposure.view.displacement_mm(points_mm[mark.id])
    return truth


def draw_positions(
    points: Mapping[int, Array],
    target: int,
    spread: ViewDistribution,
    carm: CArm,
    rng: np.random.Generator,
    middle: int = 0,
) -> NDArray[np.float64] | None:
    """Return the joint positions (6,) of a random view, or None when it is out of reach.

    Args:
        points: Landmark id to its position (3,) in the table frame, mm.
        target: Landmark to center on; 0: about the middle of the trunk.
        spread: How views are drawn.
        carm: The arm.
        rng: Source of randomness.
        middle: Landmark that takes the place of the trunk's middle; 0: none.
    """
    if target:
        scale = np.array([CENTERED_OFFSET_MM, CENTERED_OFFSET_MM, spread.depth_mm])
        center = points[target] + rng.normal(0, scale)
    else:
        around = (middle,) if middle else TRUNK_IDS
        trunk = np.mean([points[i] for i in around if i in points] or list(points.values()), axis=0)
        center = trunk + rng.normal(0, [spread.along_mm, spread.across_mm, spread.depth_mm])
    primary = np.clip(rng.normal(0, spread.primary_deg), -spread.limit_primary_deg, spread.limit_primary_deg)
    secondary = np.clip(rng.normal(0, spread.secondary_deg), -spread.limit_secondary_deg, spread.limit_secondary_deg)
    try:
        return carm.inverse(center / 1000.0, float(np.radians(primary)), float(np.radians(secondary)))[0]
    except GoalError:
        return None


def _half_field(exposure: Exposure) -> tuple[float, float]:
    left, top, right, bottom = exposure.field_px
    scale = exposure.view.mm_per_px_at_isocenter / 2
    return (right - left) * scale, (bottom - top) * scale


def _half_image(frame: XrayFrame) -> tuple[float, float]:
    rows, columns = frame.image.shape
    scale = frame.mm_per_px_at_isocenter / 2
    return columns * scale, rows * scale
