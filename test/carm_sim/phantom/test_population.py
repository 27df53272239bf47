# SPDX-License-Identifier: Apache-2.0
"""Landmark distances of generated bodies follow the human population."""

from __future__ import annotations

import numpy as np
import pytest

from carm_sim.phantom import sample_landmarks
from carm_sim.phantom.body import BodyPlan, plan_body
from carm_sim.phantom.population import landmark_population
from carm_sim.phantom.skeleton.posture import pose_skeleton

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


@pytest.fixture(scope="module")
def plans() -> list[BodyPlan]:
    return [plan_body(seed, arms="crossed") for seed in range(400)]


def test_sex_and_age_show_where_they_should(plans: list[BodyPlan]) -> None:
    women = np.array([plan.female for plan in plans])
    assert 0.35 < women.mean() < 0.55
    breadth = np.array([plan.targets_mm[3][1] - plan.targets_mm[2][1] for plan in plans])
    assert breadth[~women].mean() - breadth[women].mean() > 15
    age = np.array([plan.traits.age_years for plan in plans])
    density = np.array([plan.traits.density for plan in plans])
    assert np.corrcoef(age, density)[0, 1] < -0.5
    old = age > 65
    assert density[old & women].mean() < density[old & ~women].mean()
    assert np.corrcoef(age, [plan.kyphosis_mm for plan in plans])[0, 1] > 0.1


def test_statures_are_human(plans: list[BodyPlan]) -> None:
    some = plans[:80]
    stature = np.array([pose_skeleton(plan, with_bones=False).stature_mm for plan in some])
    women = np.array([plan.female for plan in some])
    assert 1600 < stature[women].mean() < 1720 < stature[~women].mean() < 1820
    assert 60 < stature.std() < 130


def test_most_bodies_are_mild_and_a_few_are_not(plans: list[BodyPlan]) -> None:
    for values, typical, strong in (
        ([abs(plan.scoliosis_mm) for plan in plans], 8.0, 14.0),
        ([plan.kyphosis_mm for plan in plans], 16.0, 35.0),
        ([abs(plan.head_rotation_rad[0]) for plan in plans], 0.3, 0.7),
        ([plan.traits.heart for plan in plans], 1.05, 1.15),
        ([plan.traits.gas for plan in plans], 1.35, 1.9),
        ([plan.fatness for plan in plans], 0.6, 0.95),
    ):
        assert np.percentile(values, 70) < typical
        assert 0.002 < (np.array(values) > strong).mean() < 0.12
