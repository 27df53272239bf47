# SPDX-License-Identifier: Apache-2.0
"""How much an image says for a registration.

A CT in the right place fits in detail: the parts of the image that nothing covers agree closely, and the fit falls
quickly when the CT is shifted. Another patient's CT fits here and there, and shifting it costs little. Overall
similarity tells the two apart less well: what covers the body, such as devices, a hand or the table, lowers it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.model import CtModel, Mask
from carm_perception.registration.similarity import Features, Target, correlation, features, patches

_SHIFT_MM = 3.0
_LEAST_MISFIT, _LEAST_SHARPNESS = 1e-4, 1e-3
_EMPTY_SHARE = 0.1
"""This share of the patches, those with the weakest edges, is left out."""
_COEFFICIENTS, _OFFSET = np.array([3.21, 1.42, 1.38]), -3.84
"""From ``scripts/fit_registration_evidence.py``."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a registration in one image.

    Attributes:
        best: The correlation that a quarter of the image's patches exceed, medium resolution, -1 to 1.
        typical: The median correlation of the patches, fine resolution, -1 to 1.
        sharpness: By how much the similarity falls when the CT is shifted by 3 mm across the view, fine resolution.
    """

    best: float
    typical: float
    sharpness: float

    @property
    def figures(self) -> Array:
        """The three on scales on which they tell most (3,): orders of magnitude."""
        misfits = np.maximum(_LEAST_MISFIT, 1.0 - np.array([self.best, self.typical]))
        return np.asarray(np.log10(np.append(1.0 / misfits, max(_LEAST_SHARPNESS, self.sharpness))))

    @property
    def probability(self) -> float:
        """That the registration is right within 5 mm: a logistic regression (``docs/registration.md``)."""
        return 1.0 / (1.0 + math.exp(-float(self.figures @ _COEFFICIENTS) - _OFFSET))


def evidence(model: CtModel, targets: Sequence[Target], pose: RigidTransform) -> Evidence:
    """Return what an image says for a pose.

    Args:
        model: The CT.
        targets: The image at each level of the CT; the last two levels are looked at.
        pose: Where the CT is taken to lie, LPS to ``table``, mm.
    """
    medium, fine = len(targets) - 2, len(targets) - 1
    target = targets[fine]

    def compared(level: int, shift: Array) -> tuple[Features, Mask]:
        moved = RigidTransform(pose.rotation, pose.translation + shift)
        image, known = model.render(level, targets[level].view, moved)
        mask = targets[level].mask & known
        return features(image, mask), mask

    here, mask = compared(fine, np.zeros(3))
    shifts = [sign * _SHIFT_MM * axis for axis in target.view.display_axes for sign in (-1.0, 1.0)]
    beside = [correlation(compared(fine, shift)[0], target.features, mask) for shift in shifts]
    return Evidence(
        _quantile(*compared(medium, np.zeros(3)), targets[medium], 0.75),
        _quantile(here, mask, target, 0.5),
        correlation(here, target.features, mask) - float(np.mean(beside)),
    )


def _quantile(rendered: Features, mask: Mask, target: Target, share: float) -> float:
    """Return the correlation that a share of the patches does not exceed; 0: nothing overlaps."""
    _, fit, energy = patches(mask, rendered[:, mask], target.features[:, mask])
    there = energy > (np.quantile(energy[energy > 0], _EMPTY_SHARE) if (energy > 0).any() else 0.0)
    return float(np.quantile(fit[there], share)) if there.any() else 0.0
