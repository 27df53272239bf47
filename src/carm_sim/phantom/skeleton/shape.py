# SPDX-License-Identifier: Apache-2.0
"""Random shape of each bone, about fixed points, so that joints stay closed and landmarks are known exactly."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from carm_core.transforms import Array
from carm_sim.phantom.body import BodyPlan

_WAVES = 5
_STREAM = 7
_STRETCH = (  # standard deviation of the stretch along x, y, z, and of the surface waves in mm
    (r"thoracic|lumbar", (0.035, 0.035, 0.022), 0.35),
    (r"ribcage", (0.015, 0.02, 0.0), 1.6),
    (r"skull|jaw|cervical", (0.03, 0.03, 0.0), 0.3),
    (r"pelvis|sacrum", (0.035, 0.035, 0.03), 0.8),
    (r"scapula", (0.04, 0.05, 0.03), 0.6),
    (r"clavicle", (0.015, 0.07, 0.07), 0.4),
    (r"humerus|femur|tibia|fibula", (0.05, 0.05, 0.0), 0.4),
    (r"ulna|radius", (0.05, 0.05, 0.0), 0.25),
)
_BOW_MM = ((r"clavicle", 0, 2.5), (r"humerus|radius|tibia", 2, 1.5), (r"ulna", 2, 1.2), (r"femur", 2, 3.0))
_SHARED = ((r"skull|jaw|cervical", "head"), (r"pelvis|sacrum", "pelvis"))
_RIB_SLOPE = 0.035
_FEMALE_OUTLET, _MALE_OUTLET = 0.085, -0.025


@dataclass(frozen=True)
class BoneShape:
    """A smooth map of the neutral model's space that leaves ``center_mm`` in place.

    Attributes:
        center_mm: Fixed point, (3,).
        stretch: Factors along x, y, z, (3,).
        slant: Change of z for each mm in front of the center.
        taper: Added stretch along x, growing from 0 at the center's height to this at ``taper_length_mm`` below.
        taper_length_mm: See ``taper``.
        bow_mm: Displacement (3,) in the middle of ``bow_span_mm``, 0 at its ends.
        bow_axis: Axis that the span is measured along.
        bow_span_mm: Lower and upper end of the bowed part.
        wedge: Share of the height that is lost at the front of a vertebral body.
        waves_rad_mm: Wave vectors (W, 3).
        phase_rad: Phases (W,).
        waves_mm: Amplitudes (W, 3).
    """

    center_mm: Array
    stretch: Array
    slant: float
    taper: float
    taper_length_mm: float
    bow_mm: Array
    bow_axis: int
    bow_span_mm: tuple[float, float]
    wedge: float
    waves_rad_mm: Array
    phase_rad: Array
    waves_mm: Array

    def __call__(self, points_mm: Array) -> Array:
        """Deform points (N, 3) of the neutral model, mm."""
        away = points_mm - self.center_mm
        moved = away * self.stretch
        if self.slant:
            moved[:, 2] += self.slant * away[:, 1]
        if self.taper:
            moved[:, 0] *= 1 + self.taper * np.clip(-away[:, 2] / self.taper_length_mm, 0, 1.2)
        if self.wedge:
            front = np.clip(0.5 - away[:, 1] / 28.0, 0, 1)
            moved[:, 2] *= 1 - self.wedge * front
        low, high = self.bow_span_mm
        if high > low:
            along = np.clip((points_mm[:, self.bow_axis] - low) / (high - low), 0, 1)
            moved += np.sin(np.pi * along)[:, None] ** 2 * self.bow_mm
        turn = self.center_mm @ self.waves_rad_mm.T + self.phase_rad
        moved += (np.sin(away @ self.waves_rad_mm.T + turn) - np.sin(turn)) @ self.waves_mm
        return np.asarray(moved + self.center_mm)


def draw_shapes(
    plan: BodyPlan, centers_mm: dict[str, Array], spans_mm: dict[str, Array], names: Iterable[str]
) -> dict[str, BoneShape]:
    """Draw the shapes of bones.

    Args:
        plan: The body.
        centers_mm: Mesh name to the point that stays, (3,), in the neutral model.
        spans_mm: Mesh name to the lower and upper corner of its bounding box, (2, 3), in the neutral model.
        names: Meshes to draw for; a bone's shape does not depend on the others.
    """
    return {
        name: _draw(plan, name, centers_mm[name], spans_mm[name])
        for name in names
        if any(re.search(pattern, name) for pattern, _, _ in _STRETCH)
    }


def _draw(plan: BodyPlan, name: str, center: Array, span: Array) -> BoneShape:
    joint = next((group for pattern, group in _SHARED if re.search(pattern, name)), None)
    kind = joint or re.sub(r"_[rl]$|^[rl]_", "", name)
    common = np.random.default_rng([plan.seed, len(plan.style), _STREAM, zlib.crc32(kind.encode())])
    own = np.random.default_rng([plan.seed, len(plan.style), _STREAM, zlib.crc32((joint or name).encode()), 1])
    deviation, wave_mm = next((values, wave) for pattern, values, wave in _STRETCH if re.search(pattern, name))
    strength = plan.traits.shape
    normal = 0.85 * common.standard_normal(3) + 0.5 * own.standard_normal(3)
    stretch = 1 + strength * np.array(deviation) * np.clip(normal, -2.5, 2.5)
    slant = taper = 0.0
    if "ribcage" in name:
        slant = strength * _RIB_SLOPE * float(np.clip(common.normal(), -2.2, 2.2))
        stretch *= [1 - 0.2 * plan.traits.barrel, 1 + plan.traits.barrel, 1.0]
    if joint == "pelvis":
        taper = (_FEMALE_OUTLET if plan.female else _MALE_OUTLET) + 0.03 * strength * float(common.normal())
    axis, bow = next(((axis, bow) for pattern, axis, bow in _BOW_MM if re.search(pattern, name)), (2, 0.0))
    bowed = strength * bow * np.clip(0.7 * common.standard_normal(3) + 0.7 * own.standard_normal(3), -2.2, 2.2)
    bowed[axis] = 0.0
    size = float(np.ptp(span, axis=0).max())
    direction = own.standard_normal((_WAVES, 3))
    direction /= np.linalg.norm(direction, axis=1)[:, None]
    length = size * own.uniform(0.6, 1.6, (_WAVES, 1))
    ends = (float(span[0, axis]), float(span[1, axis])) if bow else (0.0, 0.0)
    return BoneShape(
        center_mm=center,
        stretch=stretch,
        slant=slant,
        taper=taper,
        taper_length_mm=190.0,
        bow_mm=bowed,
        bow_axis=axis,
        bow_span_mm=ends,
        wedge=plan.traits.wedges.get(vertebra_of(name) or "", 0.0),
        waves_rad_mm=2 * np.pi * direction / length,
        phase_rad=own.uniform(0, 2 * np.pi, _WAVES),
        waves_mm=strength * wave_mm * own.standard_normal((_WAVES, 3)) / np.sqrt(_WAVES / 2),
    )


def vertebra_of(name: str) -> str | None:
    """``T8`` for ``torso_geom_5_thoracic8_s``; None for other meshes."""
    found = re.search(r"(thoracic|lumbar)(\d+)", name)
    return f"{found.group(1)[0].upper()}{found.group(2)}" if found else None
