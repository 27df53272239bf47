# SPDX-License-Identifier: Apache-2.0
"""Record of a generated body, for data cards and for selecting bodies."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from carm_sim.patient.volume import Volume
from carm_sim.phantom.body import BodyPlan
from carm_sim.phantom.grid import compiled
from carm_sim.phantom.skeleton.posture import PosedSkeleton
from carm_sim.phantom.skeleton.skeleton import SIDES

_LUNG_TO_SOFT_HU = (-1000.0, -100.0, 100.0, 3000.0)
_DENSITY_G_CM3 = (0.0, 0.93, 1.07, 2.40)


@dataclass(frozen=True)
class BodyRecord:
    """Parameters of a generated body.

    Attributes:
        sex: ``female`` or ``male``.
        age_years: Age.
        stature_mm: From heel to crown.
        mass_kg: Mass of the body as built, with the part of the legs below the volume added as cones.
        bmi_kg_m2: Body mass index.
        arms: ``crossed``, ``along``, ``one_up`` or ``raised``.
        bone_density: Against a healthy young adult's, about 0.4 to 1.4.
        fatness: 0 (slim) to 1 (obese), and beyond in rare bodies.
        muscle: Thickness factor of the muscles, about 1.
        kyphosis_mm, scoliosis_mm: Bulge of the thoracic spine backwards, and sideways.
        head_turn_deg: Axial rotation of the head.
        inspiration: 0 as in quiet breathing, 1 for a deep breath held.
        heart_size: Against the typical size.
        bowel_gas: Amount of gas in stomach and bowel, about 1.
        compression_fractures: Names of vertebrae with one.
    """

    sex: str
    age_years: float
    stature_mm: float
    mass_kg: float
    bmi_kg_m2: float
    arms: str
    bone_density: float
    fatness: float
    muscle: float
    kyphosis_mm: float
    scoliosis_mm: float
    head_turn_deg: float
    inspiration: float
    heart_size: float
    bowel_gas: float
    compression_fractures: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return the record as plain values, for JSON."""
        return asdict(self) | {"compression_fractures": list(self.compression_fractures)}

    @staticmethod
    def from_dict(content: dict[str, Any]) -> BodyRecord:
        """Return the record that ``as_dict`` wrote."""
        return BodyRecord(**content | {"compression_fractures": tuple(content["compression_fractures"])})


def body_record(plan: BodyPlan, skeleton: PosedSkeleton, volume: Volume) -> BodyRecord:
    """Return the record of a built body."""
    mass = _mass_kg(volume) + _legs_below_kg(plan, skeleton, volume)
    traits = plan.traits
    return BodyRecord(
        sex="female" if plan.female else "male",
        age_years=round(traits.age_years, 1),
        stature_mm=round(skeleton.stature_mm, 1),
        mass_kg=round(mass, 1),
        bmi_kg_m2=round(mass / (skeleton.stature_mm / 1000) ** 2, 1),
        arms=plan.arms,
        bone_density=round(traits.density, 3),
        fatness=round(plan.fatness, 3),
        muscle=round(plan.muscle, 3),
        kyphosis_mm=round(plan.kyphosis_mm, 1),
        scoliosis_mm=round(plan.scoliosis_mm, 1),
        head_turn_deg=round(float(np.degrees(plan.head_rotation_rad[0])), 1),
        inspiration=round(plan.inspiration, 3),
        heart_size=round(traits.heart, 3),
        bowel_gas=round(traits.gas, 3),
        compression_fractures=tuple(sorted(traits.wedges)),
    )


@compiled
def _count(hu: Any, counts: Any) -> None:
    """Voxels of each value from -1000 on."""
    for i in range(hu.shape[0]):
        for j in range(hu.shape[1]):
            for k in range(hu.shape[2]):
                counts[hu[i, j, k] + 1000] += 1


def _mass_kg(volume: Volume) -> float:
    """Return the mass from Hounsfield units: water-like density up to bone (piecewise linear)."""
    table = np.interp(np.arange(-1000, 3001), _LUNG_TO_SOFT_HU, _DENSITY_G_CM3)
    counts = np.zeros(len(table), np.int64)
    _count(volume.hu, counts)
    return float(counts @ table * np.prod(volume.spacing_mm) * 1e-6)


def _legs_below_kg(plan: BodyPlan, skeleton: PosedSkeleton, volume: Volume) -> float:
    """Return the mass of the legs below the volume, as truncated cones of density 1.04 g/cm3."""
    bottom = float(volume.lps_from_voxel(np.zeros(3))[2])
    bulk = plan.muscle * plan.frame_scale**0.5
    fat = 6.0 + 16.0 * plan.fatness
    radii = (72 * bulk + fat, 50 * bulk + 0.6 * fat, 35 * bulk + 0.15 * fat, 32.0)
    total = 0.0
    for side in SIDES:
        marks = [skeleton.joints_mm[f"{joint}_{side}"] for joint in ("hip", "knee", "ankle", "toes")]
        for (start, end), (first, last) in zip(itertools.pairwise(marks), itertools.pairwise(radii), strict=True):
            below = float(np.clip((bottom - end[2]) / max(start[2] - end[2], 1.0), 0, 1))
            middle = last + below * (first - last)
            length = below * float(np.linalg.norm(end - start))
            total += np.pi / 3 * length * (last**2 + last * middle + middle**2)
    return total * 1.04e-6
