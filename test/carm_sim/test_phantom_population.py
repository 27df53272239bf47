# SPDX-License-Identifier: Apache-2.0
"""Landmark distances of generated bodies follow the human population."""

from __future__ import annotations

import numpy as np
import pytest

from carm_sim.phantom import sample_landmarks
from carm_sim.phantom.population import landmark_population

SAMPLES = 200
MEAN_TOLERANCE_MM = 6.0
STD_TOLERANCE = 0.35


@pytest.fixture(scope="module")
def offsets() -> np.ndarray:  # type: ignore[type-arg]
    """(samples, landmarks, 2): inferior and left of T1, mm, arms crossed as in the population."""
    ids = landmark_population().ids
    rows = []
    for seed in range(SAMPLES):
        marks = sample_landmarks(seed, arms="crossed")
        away = np.array([marks[int(key)] - marks[10] for key in ids])
        rows.append(np.column_stack([-away[:, 2], away[:, 0]]))
    return np.array(rows)


def test_means(offsets: np.ndarray) -> None:  # type: ignore[type-arg]
    population = landmark_population()
    sampling = 2.0 * population.std_mm / np.sqrt(SAMPLES)
    error = np.abs(offsets.mean(0) - population.mean_mm)
    assert (error < MEAN_TOLERANCE_MM + sampling).all(), error.round(1).tolist()


def test_standard_deviations(offsets: np.ndarray) -> None:  # type: ignore[type-arg]
    population = landmark_population()
    moving = population.ids != 10
    ratio = offsets.std(0)[moving] / population.std_mm[moving]
    assert (np.abs(ratio - 1) < STD_TOLERANCE).all(), ratio.round(2).tolist()


def test_correlations(offsets: np.ndarray) -> None:  # type: ignore[type-arg]
    population = landmark_population()
    moving = np.flatnonzero(np.diag(population.covariance_mm2) > 0)
    flat = np.concatenate([offsets[:, :, 0], offsets[:, :, 1]], axis=1)[:, moving]
    deviation = np.sqrt(np.diag(population.covariance_mm2))[moving]
    wanted = population.covariance_mm2[np.ix_(moving, moving)] / np.outer(deviation, deviation)
    difference = np.abs(np.corrcoef(flat.T) - wanted)
    assert difference.mean() < 0.12
    assert np.percentile(difference, 95) < 0.3


def test_sampling_from_the_population_itself() -> None:
    population = landmark_population()
    rng = np.random.default_rng(0)
    draws = np.array([list(population.sample(rng).values()) for _ in range(3000)])
    np.testing.assert_allclose(draws.mean(0), population.mean_mm, atol=5)
    moving = population.ids != 10
    np.testing.assert_allclose(draws.std(0)[moving] / population.std_mm[moving], 1, atol=0.1)
