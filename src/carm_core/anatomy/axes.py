# SPDX-License-Identifier: Apache-2.0
"""The axes of one bone, and the names of the bones that have some."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from carm_core.errors import GoalError
from carm_core.transforms import Array, RigidTransform

VERTEBRAE = (
    *(f"C{n}" for n in range(3, 8)),
    *(f"T{n}" for n in range(1, 13)),
    *(f"L{n}" for n in range(1, 6)),
)
"""From the neck down."""
TRUNK, PELVIS = "trunk", "pelvis"
HIPS, SHOULDERS = ("left hip", "right hip"), ("left shoulder", "right shoulder")
BONES = (*VERTEBRAE, TRUNK, PELVIS, *HIPS, *SHOULDERS)
"""Names of what has axes: a hip has those of the pelvis, a shoulder those of the scapula."""


class MissingAnatomyError(GoalError):
    """The axes of a bone cannot be told: a landmark or label is missing, which the message names."""


@dataclass(frozen=True, eq=False)
class BoneAxes:
    """Where a bone is and how it is turned, in LPS of a CT or in frame ``table``.

    Attributes:
        name: One of ``BONES``.
        origin_mm: (3,), mm: what views of the bone are centered on.
        rotation: (3, 3); the columns are the bone's own left, back and head, unit vectors as in LPS.
        method: How the axes were found, in one line.
        std_deg: By how much they may be off, root mean square, deg; 0 where they are those of labels or a CT.
    """

    name: str
    origin_mm: Array
    rotation: Array
    method: str = ""
    std_deg: float = 0.0

    @property
    def left(self) -> Array:
        """Unit vector (3,) to the bone's left."""
        return self.rotation[:, 0]

    @property
    def front(self) -> Array:
        """Unit vector (3,) to the bone's front."""
        return -self.rotation[:, 1]

    @property
    def head(self) -> Array:
        """Unit vector (3,) to the bone's upper end."""
        return self.rotation[:, 2]

    def moved(self, transform: RigidTransform) -> BoneAxes:
        """Return the axes in another frame, for example with ``transform_lps_to_table``, mm."""
        return replace(self, origin_mm=transform.apply(self.origin_mm), rotation=transform.rotation @ self.rotation)

    def direction(self, primary_deg: float, secondary_deg: float) -> Array:
        """Return the unit vector (3,) from source to detector at DICOM angles that refer to the bone, not the table.

        Args:
            primary_deg: Toward the bone's left, deg.
            secondary_deg: Toward its head, deg.
        """
        p, s = np.radians([primary_deg, secondary_deg])
        return np.asarray(np.sin(s) * self.head + np.cos(s) * (np.cos(p) * self.front + np.sin(p) * self.left))


def made(
    name: str, origin_mm: Array, head: Array, left: Array, method: str = "", *, keep_left: bool = False
) -> BoneAxes:
    """Return axes from two directions (3,), which need be neither of unit length nor perpendicular.

    Args:
        name: Of the bone.
        origin_mm: (3,), mm.
        head: Toward the head; kept, and the other is turned into the plane across it.
        left: Toward the left.
        method: How the directions were found.
        keep_left: Keep ``left`` instead.
    """
    kept, other = (left, head) if keep_left else (head, left)
    kept = kept / np.linalg.norm(kept)
    other = other - (other @ kept) * kept
    other = other / np.linalg.norm(other)
    x, z = (kept, other) if keep_left else (other, kept)
    return BoneAxes(name, np.asarray(origin_mm, float), np.column_stack([x, np.cross(z, x), z]), method)


def named(bone: str) -> str:
    """Return a bone's name as a sentence has it: ``T12``, ``the pelvis``."""
    return bone if bone in VERTEBRAE else f"the {bone}"


def angle_deg(one: Array, other: Array) -> float:
    """Return the angle between two unit vectors (3,), 0 to 180 deg."""
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(one, other)), one @ other)))
