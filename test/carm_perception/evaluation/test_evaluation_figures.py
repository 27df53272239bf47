# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.landmarks import LANDMARKS
from carm_core.localization import LandmarkEstimate, Localization, Protocol, Query
from carm_perception.evaluation.metrics import (
    average_precision,
    closest,
    hit,
    mirror_swap,
    precision,
    recall,
    regression_figures,
)
from carm_perception.evaluation.scoring.figures import confusion, latencies, left_right_gap, summarize, wilson
from carm_perception.evaluation.scoring.records import (
    ListRecord,
    PointRecord,
    Status,
    calibrated_radii,
    round_normal_radius,
    status_of,
)

ids = st.permutations([mark.id for mark in LANDMARKS])


def test_single_answers() -> None:
    marks = np.full((14, 2), np.nan)
    marks[[1, 2, 9, 10]] = [[30, 0], [0, 10], [0, 20], [5, 0]]
    assert closest(marks, 3) == (11, 3, 10)
    assert hit(11, (3, 11), 2)
    assert not hit(11, (3, 11), 1)
    assert mirror_swap(3, (2, 11))
    assert not mirror_swap(11, (10,))
    figures = regression_figures(marks[None], marks[None], 78)
    assert figures["hit_1"] == figures["p_at_3"] == 1
    assert figures["error_mean_mm"] == 0


@pytest.mark.parametrize(
    ("answer", "p", "r", "ap"),
    [
        ((11, 3, 10), (1, 1, 1), (1 / 3, 2 / 3, 1), (1, 1, 1)),
        ((3, 2, 11), (1, 1 / 2, 2 / 3), (1 / 3, 1 / 3, 2 / 3), (1, 1 / 2, (1 + 2 / 3) / 3)),
        ((2, 4, 10), (0, 0, 1 / 3), (0, 0, 1 / 3), (0, 0, 1 / 9)),
        ((), (0, 0, 0), (0, 0, 0), (0, 0, 0)),
    ],
)
def test_retrieval_by_hand(
    answer: tuple[int, ...], p: tuple[float, ...], r: tuple[float, ...], ap: tuple[float, ...]
) -> None:
    truth = (11, 3, 10)
    for k in (1, 2, 3):
        assert precision(truth, answer, k) == pytest.approx(p[k - 1])
        assert recall(truth, answer, k) == pytest.approx(r[k - 1])
        assert average_precision(truth, answer, k) == pytest.approx(ap[k - 1])


@given(truth=ids, answer=ids, k=st.integers(1, 3))
def test_retrieval_properties(truth: list[int], answer: list[int], k: int) -> None:
    true, given_ids = tuple(truth[:3]), tuple(answer[:3])
    p, r, ap = precision(true, given_ids, k), recall(true, given_ids, k), average_precision(true, given_ids, k)
    assert 0 <= ap <= p <= 1
    assert r == pytest.approx(p * k / 3)
    assert (p == 1) == (ap == 1)
    assert recall(true, given_ids, 3) == pytest.approx(len(set(true) & set(given_ids)) / 3)


@given(successes=st.lists(st.booleans(), min_size=1, max_size=300))
def test_wilson_holds_the_rate(successes: list[bool]) -> None:
    low, high = wilson(successes) or (1.0, 0.0)
    assert 0 <= low <= np.mean(successes) + 1e-4
    assert np.mean(successes) - 1e-4 <= high <= 1


def test_wilson_by_hand() -> None:
    """8 of 10: center (0.8 + z²/20) / (1 + z²/10), z = 1.96."""
    assert wilson([True] * 8 + [False] * 2) == pytest.approx([0.4902, 0.9433], abs=2e-4)
    assert wilson([]) is None


@given(share=st.floats(0.01, 0.995), std=st.floats(0.1, 100))
def test_radius_of_a_round_normal_distribution(share: float, std: float) -> None:
    radius = round_normal_radius(std, share)
    assert 1 - math.exp(-(radius**2) / (2 * std**2)) == pytest.approx(share)
    assert round_normal_radius(1, 0.9) == pytest.approx(2.146, abs=1e-3)


def listed(truth: int, answer: tuple[int, ...], status: Status = Status.ANSWERED, case: int = 0) -> ListRecord:
    return ListRecord(case, Protocol.LOCALIZATION, status, (truth, 1, 14), answer, 0.01)


def test_hits_by_hand() -> None:
    """Four views: right, second, sides swapped, abstained."""
    records = [listed(11, (11, 10)), listed(11, (10, 11)), listed(8, (9, 14)), listed(9, (), Status.ABSTAINED)]
    figures = summarize(records, 4)
    assert (figures["hit_1"], figures["hit_2"], figures["mirror_swap"]) == (0.25, 0.5, 0.25)
    assert (figures["hit_1_answered"], figures["hit_2_answered"]) == (0.3333, 0.6667)
    assert (figures["abstained"], figures["malformed"], figures["failed"]) == (0.25, 0, 0)
    assert figures["per_landmark"]["Carina"]["hit_2"] == 1
    assert figures["per_landmark"]["Skull"]["hit_2"] is None
    assert figures["left_right_gap"] == 0
    counts = np.array(figures["confusion"]["counts"])
    assert counts.sum() == 4
    assert (counts[10, 10], counts[10, 9], counts[7, 8], counts[8, 14]) == (1, 1, 1, 1)


def test_landmarks_outside_the_ct() -> None:
    """An answer that names one is wrong; struck from it, the rest is right."""
    record = ListRecord(0, Protocol.LOCALIZATION, Status.ANSWERED, (11, 1, 14), (7, 11), unknown_ids=frozenset({6, 7}))
    figures = summarize([record], 1)
    assert (figures["hit_1"], figures["hit_2"], figures["hit_1_known"]) == (0, 1, 1)
    assert "hit_1_known" not in summarize([listed(11, (7, 11))], 1)


def test_gap_between_sides_by_hand() -> None:
    """Wrists: right 1 of 1, left 0 of 1; elbows: right 1 of 1, left 1 of 1."""
    records = [listed(8, (8, 1)), listed(9, (8, 1)), listed(6, (6, 1)), listed(7, (7, 1))]
    figures = summarize(records, 4)
    assert figures["left_right_gap"] == 0.5
    assert (figures["left_right_gap_worst"], figures["left_right_gap_worst_pair"]) == (1, "wrist")
    assert left_right_gap(summarize(records[:1], 1)["per_landmark"])["left_right_gap"] is None


def test_errors_and_coverage_by_hand() -> None:
    errors = [1.0, 2.0, 3.0, 10.0]
    points = [PointRecord(0, 11, Status.ANSWERED, e, e == 1.0, std_mm=1.0) for e in errors]
    points.append(PointRecord(0, 11, Status.ABSTAINED))
    figures = summarize(points, 1)
    assert (figures["error_mean_mm"], figures["error_median_mm"]) == (4.0, 2.5)
    assert figures["error_centered_mean_mm"] == 1
    assert figures["point_answered"] == 0.8
    assert (figures["coverage_90"], figures["coverage_97"]) == (0.5, 0.5)
    assert figures["radius_source"] == "standard deviation"
    assert figures["abstained"] == 0.2


def test_calibrated_radii_are_preferred() -> None:
    points = [
        PointRecord(0, 11, Status.ANSWERED, error, std_mm=1.0, radii_mm={90: 5.0, 95: 6.0, 97: 12.0})
        for error in (4.0, 5.5, 7.0, 11.0)
    ]
    figures = summarize(points, 1)
    assert (figures["coverage_90"], figures["coverage_95"], figures["coverage_97"]) == (0.25, 0.5, 1)
    assert (figures["radius_source"], figures["radius_95_median_mm"]) == ("calibrated", 6)
    estimate = LandmarkEstimate(11, (0.0, 0.0), std_mm=1.0, radius_90_mm=4.0)
    assert calibrated_radii(estimate) == {90: 4.0}
    assert calibrated_radii(LandmarkEstimate(11, (0.0, 0.0), std_mm=1.0)) == {}


def test_falsification_by_hand() -> None:
    kinds = [("air", Status.ABSTAINED), ("air", Status.ANSWERED), ("noise", Status.FAILED)]
    records = [ListRecord(0, Protocol.RETRIEVAL, s, (), (11,) * (s is Status.ANSWERED), kind=k) for k, s in kinds]
    records_and_point = [*records, PointRecord(0, 3, Status.ABSTAINED, kind="noise")]
    figures = summarize(records_and_point, 3)
    assert (figures["abstained"], figures["false_answers"], figures["failed"]) == (0.5, 0.25, 0.25)
    assert (figures["abstained_air"], figures["abstained_noise"]) == (0.5, 0.5)
    assert (figures["abstained_retrieval"], figures["abstained_pointing"]) == (0.3333, 1)
    assert "hit_1" not in figures


def test_first_call_is_apart() -> None:
    figures = latencies([5.0, 0.010, 0.020, 0.030])
    assert figures == {"latency_first_ms": 5000.0, "latency_p50_ms": 20.0, "latency_p99_ms": 29.8}
    assert latencies([])["latency_p50_ms"] is None


def test_what_came_of_a_question() -> None:
    query = Query()
    assert status_of(Localization("x", "", query, "")) is Status.ANSWERED
    assert status_of(Localization("x", "", query, "", abstained=True)) is Status.ABSTAINED
    assert status_of(Localization("x", "", query, "", error="malformed")) is Status.MALFORMED
    assert status_of(Localization("x", "", query, "", error="internal")) is Status.FAILED


@given(truth=st.lists(st.integers(1, 14), max_size=40), seed=st.integers(0, 99))
def test_confusion_counts_every_view(truth: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    records = [listed(t, tuple(rng.permutation(14)[:2] + 1) if rng.random() < 0.8 else ()) for t in truth]
    counts = np.array(confusion(records)["counts"])
    assert counts.sum() == len(truth)
    assert counts.sum(1).tolist() == [truth.count(mark.id) for mark in LANDMARKS]
