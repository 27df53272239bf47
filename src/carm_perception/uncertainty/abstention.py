# SPDX-License-Identifier: Apache-2.0
"""Abstention thresholds that limit the rate of wrong answers to a stated risk.

The threshold is the loosest for which an upper confidence bound of the rate of wrong answers stays below the risk that
is asked for, tested from the strictest on until one fails (Learn then Test with fixed-sequence testing, Angelopoulos et
al. 2021, arXiv:2110.01052). Views of one patient resemble each other; the Clopper-Pearson bound is therefore taken for
the effective number of samples (Korn and Graubard 1998, Survey Methodology 24).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array

WRONG_MM = 30.0
"""An answer is wrong when it is off by more than this ..."""

WRONG_FRACTION = 0.5
"""... and, for a landmark that was not seen but inferred, by more than this part of its true distance from the image
center: who follows a right answer halves the distance at least."""

RISKS = (0.01, 0.02, 0.05, 0.10, 0.20)
"""Risks for which there are thresholds."""

DEFAULT_RISK = 0.2
"""Risk at which localizers abstain unless told otherwise: the agent weighs answers by their radii, and one that is not
sure still tells it more than none."""

CONFIDENCE = 0.9
"""Confidence of the bound on the risk."""

STEPS = 40
"""Thresholds that are tested."""

FIRST_SHARE = 0.1
"""The strictest threshold tested leaves this part of the answers."""


def allowed_mm(distance_mm: Array, seen: NDArray[np.bool_]) -> Array:
    """Return the largest error of a right answer.

    Args:
        distance_mm: Distances from the image center.
        seen: Which landmarks were seen in the image.
    """
    return np.where(seen, WRONG_MM, np.maximum(WRONG_MM, WRONG_FRACTION * distance_mm))


def wrong(error_mm: Array, distance_mm: Array, seen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which answers are wrong.

    Args:
        error_mm: Radial errors.
        distance_mm: True distances from the image center.
        seen: Which landmarks were seen in the image.
    """
    return np.asarray(error_mm > allowed_mm(distance_mm, seen))


def doubt(radius_mm: Array, place_mm: Array, seen: NDArray[np.bool_]) -> Array:
    """Return how little an answer is to be trusted (...): its 90 % radius against the error that it may have.

    Args:
        radius_mm: 90 % radii (...).
        place_mm: Displacements (..., 2) that are stated.
        seen: Which landmarks were seen in the image (...).
    """
    doubts: Array = radius_mm / allowed_mm(np.linalg.norm(place_mm, axis=-1), seen)
    return doubts


def design_effect(bad: NDArray[np.bool_], patient: NDArray[np.int64]) -> float:
    """By how much the variance of a rate exceeds that of independent samples, at least 1.

    Args:
        bad: Outcomes (n,).
        patient: Whose outcome each is (n,).
    """
    rate, count = float(bad.mean()), len(bad)
    ids, index = np.unique(patient, return_inverse=True)
    if not 0 < rate < 1 or len(ids) < 2:
        return 1.0
    residual = np.bincount(index, weights=bad - rate)
    variance = len(ids) / (len(ids) - 1) * float((residual**2).sum()) / count**2
    return max(1.0, variance / (rate * (1 - rate) / count))


def upper_bound(bad: int, count: int, confidence: float = CONFIDENCE, effect: float = 1.0) -> float:
    """Return the Clopper-Pearson upper bound of a rate.

    Args:
        bad: Wrong answers.
        count: Answers.
        confidence: Confidence of the bound.
        effect: Design effect: the sample counts as if it were smaller by this factor.
    """
    from scipy.stats import beta

    if count == 0 or bad >= count:
        return 1.0
    return float(beta.ppf(confidence, bad / effect + 1, (count - bad) / effect))


def risk_threshold(
    score: Array, bad: NDArray[np.bool_], patient: NDArray[np.int64], risk: float, confidence: float = CONFIDENCE
) -> float:
    """Return the largest score up to which answers may be given.

    Args:
        score: Uncertainty of each answer (n,), larger is less sure.
        bad: Which answers are wrong (n,).
        patient: Whose answer each is (n,).
        risk: Largest rate of wrong answers among those given.
        confidence: With which the risk is kept.

    Returns:
        The threshold: infinite when all may be given, minus infinity when none.
    """
    if not len(score):
        return -math.inf
    effect = design_effect(bad, patient)
    order = np.argsort(score, kind="stable")
    errors = np.cumsum(bad[order])
    found = -math.inf
    for count in np.unique(np.linspace(max(1.0, FIRST_SHARE * len(score)), len(score), STEPS).astype(int)):
        edge = float(score[order[count - 1]])
        given = int(np.searchsorted(score[order], edge, side="right"))
        if upper_bound(int(errors[given - 1]), given, confidence, effect) > risk:
            break
        found = math.inf if given == len(score) else edge
    return found
