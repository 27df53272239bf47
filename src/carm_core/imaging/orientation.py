# SPDX-License-Identifier: Apache-2.0
"""Directions as DICOM names them (patient orientation, C.7.6.1.1.1), of a patient who is supine, head toward +x."""

from __future__ import annotations

from carm_core.transforms import Array

_LETTERS = (("H", "F"), ("R", "L"), ("A", "P"))
"""Letters for the positive and the negative direction of the axes of frame ``table``."""
_OBLIQUE = 0.2
"""Smallest component of a unit vector that gets a letter of its own."""


def direction_letters(direction: Array) -> str:
    """Return the letters of a unit vector (3,), frame ``table``, the largest component first: ``"L"``, ``"LA"``."""
    order = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    letters = [_LETTERS[axis][0 if direction[axis] > 0 else 1] for axis in order if abs(direction[axis]) > _OBLIQUE]
    return "".join(letters)
