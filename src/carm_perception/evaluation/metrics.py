# SPDX-License-Identifier: Apache-2.0
"""Figures of merit of localizers. Displacements in mm at isocenter depth, ordered by distance from the center."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from carm_core.landmarks import ALL_LANDMARKS, IDS

_MIRROR = {mark.id: mark.mirror_id for mark in ALL_LANDMARKS}


def closest(displacement_mm: NDArray[np.floating], count: int) -> tuple[int, ...]:
    """Return the ids of the ``count`` landmarks closest to the image center, closest first.

    Args:
        displacement_mm: (48, 2), or of the first landmarks only, NaN for unknown landmarks, which come last.
        count: Number of landmarks.
    """
    distance = np.linalg.norm(displacement_mm, axis=-1)
    order = np.argsort(np.where(np.isnan(distance), np.inf, distance), kind="stable")
    return tuple(int(IDS[i]) for i in order[:count])


def hit(truth_id: int, answer_ids: tuple[int, ...], k: int) -> bool:
    """Return whether the landmark that is truly closest is among the first ``k`` of the answer."""
    return truth_id in answer_ids[:k]


def precision(truth_ids: tuple[int, ...], answer_ids: tuple[int, ...], k: int) -> float:
    """Return the fraction of the first ``k`` answers that belong to the true closest landmarks."""
    return sum(i in truth_ids for i in answer_ids[:k]) / k


def recall(truth_ids: tuple[int, ...], answer_ids: tuple[int, ...], k: int) -> float:
    """Return the fraction of the true closest landmarks that are among the first ``k`` answers."""
    return sum(i in truth_ids for i in answer_ids[:k]) / len(truth_ids)


def average_precision(truth_ids: tuple[int, ...], answer_ids: tuple[int, ...], k: int) -> float:
    """Sum of the precision at the place of each right answer among the first ``k``, over the most there can be."""
    places = [place for place, i in enumerate(answer_ids[:k], 1) if i in truth_ids]
    return sum(precision(truth_ids, answer_ids, place) for place in places) / min(k, len(truth_ids))


def mirror_swap(truth_id: int, answer_ids: tuple[int, ...]) -> bool:
    """Return whether the first answer is the true landmark's counterpart on the other side."""
    return bool(answer_ids) and _MIRROR[truth_id] is not None and answer_ids[0] == _MIRROR[truth_id]


def regression_figures(
    predicted_mm: NDArray[np.floating], truth_mm: NDArray[np.floating], half_field_mm: float
) -> dict[str, float]:
    """Return the figures of predicted displacements (n, 48, 2) against the truth.

    Args:
        predicted_mm: Predictions.
        truth_mm: Truth, NaN when unknown.
        half_field_mm: Half the side of the image at isocenter depth: landmarks beyond it are out of view.

    Returns:
        ``hit_1``, ``hit_2``, ``p_at_1``, ``p_at_3``, ``mirror_swap``; mean and 95th percentile of the error of
        landmarks in view and of the landmark closest to the center, mm.
    """
    rows = []
    for guess, true in zip(predicted_mm, truth_mm, strict=True):
        known = np.where(np.isnan(true), np.nan, guess)
        first, three = closest(true, 1)[0], closest(true, 3)
        answer = closest(known, 3)
        rows.append(
            (
                hit(first, answer, 1),
                hit(first, answer, 2),
                precision(three, answer, 1),
                precision(three, answer, 3),
                mirror_swap(first, answer),
            )
        )
    names = ("hit_1", "hit_2", "p_at_1", "p_at_3", "mirror_swap")
    figures = dict(zip(names, np.mean(np.array(rows, float), axis=0).tolist(), strict=True))
    error = np.linalg.norm(predicted_mm - truth_mm, axis=-1)
    distance = np.linalg.norm(truth_mm, axis=-1)
    in_view = error[(np.abs(truth_mm) <= half_field_mm).all(-1)]
    center = error[np.arange(len(error)), np.nanargmin(distance, axis=1)]
    for name, values in (("error", in_view), ("error_center", center)):
        if len(values):
            figures[f"{name}_mean_mm"] = float(values.mean())
            figures[f"{name}_median_mm"] = float(np.median(values))
            figures[f"{name}_p95_mm"] = float(np.percentile(values, 95))
    return figures
