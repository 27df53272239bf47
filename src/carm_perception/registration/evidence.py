# SPDX-License-Identifier: Apache-2.0
"""How much an image says for a registration.

A CT in the right place fits in detail: the parts of the image that nothing covers agree closely, and each fits best
where it is. Another patient's CT fits here and there, and its parts would rather lie a little elsewhere. Overall
similarity tells the two apart less well: what covers the body, such as devices or a hand, lowers it too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_core.transforms import Array, RigidTransform
from carm_perception.registration.model import CtModel
from carm_perception.registration.similarity import Target, features, patches

_REACH_PX = 3
"""Patches are tried at shifts of up to so many pixels along rows and columns."""
_BEST_SHARE = 0.9
_LEAST_MISFIT = 1e-4
_EMPTY_SHARE = 0.1
"""This share of the patches, those with the weakest edges, is left out."""
_COEFFICIENTS, _OFFSET = np.array([2.97, 11.5]), -5.27
"""Fitted as by ``scripts/fit_registration_evidence.py`` (``docs/registration.md``)."""


@dataclass(frozen=True)
class Evidence:
    """What speaks for a registration in one image.

    Attributes:
        best: The correlation that a tenth of the image's patches exceed, medium resolution, -1 to 1.
        aligned: Share of the patches, fine resolution, that fit best where they are: not shifted by a pixel or more.
    """

    best: float
    aligned: float

    @property
    def figures(self) -> Array:
        """The two on scales on which they tell most (2,): the misfit's order of magnitude, and the share."""
        return np.array([-math.log10(max(_LEAST_MISFIT, 1.0 - self.best)), self.aligned])

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
    medium, fine = targets[-2], targets[-1]
    best = _fits(model, len(targets) - 2, medium, pose, 0)
    shifted = _fits(model, len(targets) - 1, fine, pose, _REACH_PX)
    if not best.size or not shifted.size:
        return Evidence(0.0, 0.0)
    here = shifted.shape[0] // 2
    return Evidence(float(np.quantile(best[0], _BEST_SHARE)), float((shifted.argmax(0) == here).mean()))


def _fits(model: CtModel, level: int, target: Target, pose: RigidTransform, reach_px: int) -> Array:
    """Return the correlation of each patch of the image with the CT, shifted this way and that (shifts, patches)."""
    image, known = model.render(level, target.view, pose)
    mask = target.mask & known
    rendered = features(image, mask)
    steps = range(-reach_px, reach_px + 1)
    fits, energy = [], np.zeros(0)
    for shift in ((rows, columns) for rows in steps for columns in steps):
        there = np.roll(rendered, shift, (1, 2))
        _, fit, energy = patches(mask, there[:, mask], target.features[:, mask])
        fits.append(fit)
    strong = energy > (np.quantile(energy[energy > 0], _EMPTY_SHARE) if (energy > 0).any() else 0.0)
    return np.asarray(fits)[:, strong]
