# SPDX-License-Identifier: Apache-2.0
"""Figures of merit from records. Rates are fractions; an abstention or a broken answer counts as a miss.

Precision, recall and average precision at k as in Manning, Raghavan and Schütze, Introduction to Information Retrieval
(2008), chapter 8: relevant are the three truly closest landmarks. Intervals are Wilson's at 95 % and take the views as
independent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from carm_core.landmarks import ALL_LANDMARKS, LANDMARKS, Landmark, find_landmark, landmark
from carm_core.localization import Protocol
from carm_perception.evaluation.metrics import average_precision, hit, mirror_swap, precision, recall
from carm_perception.evaluation.scoring.records import LEVELS, ListRecord, PointRecord, Record, Status

RETRIEVAL_K = (1, 2, 3)
NO_ANSWER = "no answer"
"""Last column of the confusion matrix."""


LEVEL_OF: dict[int, int] = {
    find_landmark(f"{region}{number}").id: base + number
    for region, numbers, base in (("C", range(3, 8), 0), ("T", range(1, 13), 7), ("L", range(1, 6), 19))
    for number in numbers
}
"""Id of each vertebra to its place in the spine."""
LUMBAR = frozenset(find_landmark(f"L{number}").id for number in range(1, 6))


def rate(successes: Iterable[bool]) -> float | None:
    """Return the fraction of true values, to four digits; None without any value."""
    values = list(successes)
    return round(float(np.mean(values)), 4) if values else None


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a rate (Wilson, JASA 22:209, 1927).

    Args:
        successes: How often.
        trials: Of how many.

    Returns:
        Lower and upper bound; 0 and 1 without trials.
    """
    if not trials:
        return 0.0, 1.0
    from scipy.stats import binomtest  # takes a second

    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)


def wilson(successes: Sequence[bool]) -> list[float] | None:
    """Return the Wilson's 95 % interval of a rate, to four digits; None without any value."""
    if not successes:
        return None
    return [round(bound, 4) for bound in wilson_interval(int(sum(successes)), len(successes))]


def with_interval(name: str, successes: Sequence[bool]) -> dict[str, Any]:
    """Return a rate and its interval by their names in reports."""
    return {name: rate(successes), f"{name}_ci95": wilson(successes)}


def distances(name: str, values_mm: Sequence[float]) -> dict[str, float | None]:
    """Return the mean, median and 95th percentile of lengths by their names in reports, mm."""
    if not len(values_mm):
        return dict.fromkeys((f"{name}_mean_mm", f"{name}_median_mm", f"{name}_p95_mm"))
    mean, (median, high) = np.mean(values_mm), np.percentile(values_mm, (50, 95))
    return {
        f"{name}_mean_mm": round(float(mean), 2),
        f"{name}_median_mm": round(float(median), 2),
        f"{name}_p95_mm": round(float(high), 2),
    }


def summarize(records: Sequence[Record], cases: int, marks: Sequence[Landmark] = LANDMARKS) -> dict[str, Any]:
    """Return all figures of one localizer on one suite.

    Args:
        records: Every question that was asked, in order.
        cases: Number of images.
        marks: Landmarks that were asked for.
    """
    lists = [r for r in records if isinstance(r, ListRecord)]
    points = [r for r in records if isinstance(r, PointRecord)]
    figures: dict[str, Any] = {"n": cases, "questions": len(records)}
    if any(r.kind for r in records):
        figures |= _falsification(records)
    else:
        hits = [r for r in lists if r.protocol is Protocol.LOCALIZATION]
        retrieved = [r for r in lists if r.protocol is Protocol.RETRIEVAL]
        figures |= hit_figures(hits) | retrieval_figures(retrieved) | _known_figures(hits, retrieved)
        figures |= _errors(points) | with_interval("abstained", [r.status is Status.ABSTAINED for r in records])
        figures["per_landmark"] = {mark.name: landmark_figures(hits, points, mark.id) for mark in marks}
        figures |= left_right_gap(figures["per_landmark"]) | level_figures(hits) | {"confusion": confusion(hits, marks)}
    figures |= with_interval("malformed", [r.status is Status.MALFORMED for r in records])
    figures["failed"] = rate(r.status is Status.FAILED for r in records)
    return figures | latencies([r.latency_s for r in records])


def hit_figures(hits: Sequence[ListRecord]) -> dict[str, Any]:
    """Return whether the truly closest landmark is the first answer, or among the first two; swaps of sides."""
    figures: dict[str, Any] = {}
    for k in (1, 2):
        right = [hit(r.truth_ids[0], r.answer_ids, k) for r in hits]
        answered = [x for x, r in zip(right, hits, strict=True) if r.status is Status.ANSWERED]
        figures |= with_interval(f"hit_{k}", right) | {f"hit_{k}_answered": rate(answered)}
    return figures | with_interval("mirror_swap", [mirror_swap(r.truth_ids[0], r.answer_ids) for r in hits])


def retrieval_figures(retrieved: Sequence[ListRecord]) -> dict[str, Any]:
    """Return the precision, recall and average precision at 1 to 3."""
    figures: dict[str, Any] = {}
    for k in RETRIEVAL_K:
        for name, of in (("p", precision), ("r", recall), ("ap", average_precision)):
            values = [of(r.truth_ids, r.answer_ids, k) for r in retrieved]
            answered = [x for x, r in zip(values, retrieved, strict=True) if r.status is Status.ANSWERED]
            figures[f"{name}_at_{k}"] = round(float(np.mean(values)), 4) if values else None
            figures[f"{name}_at_{k}_answered"] = round(float(np.mean(answered)), 4) if answered else None
    top = [precision(r.truth_ids, r.answer_ids, 1) == 1 for r in retrieved]
    return figures | {"p_at_1_ci95": wilson(top)}


def _known_figures(hits: Sequence[ListRecord], retrieved: Sequence[ListRecord]) -> dict[str, Any]:
    """The main rates with landmarks of unknown place struck from the answers; nothing where all places are known."""
    if not any(r.unknown_ids for r in (*hits, *retrieved)):
        return {}
    figures = hit_figures([r.known for r in hits]) | retrieval_figures([r.known for r in retrieved])
    return {f"{name}_known": figures[name] for name in ("hit_1", "hit_2", "p_at_1", "p_at_3")}


def _errors(points: Sequence[PointRecord]) -> dict[str, Any]:
    answered = [r for r in points if np.isfinite(r.error_mm)]
    figures: dict[str, Any] = {"pointed": len(points), "point_answered": rate(np.isfinite(r.error_mm) for r in points)}
    figures |= distances("error", [r.error_mm for r in answered])
    figures |= distances("error_centered", [r.error_mm for r in answered if r.centered])
    return figures | coverage(answered)


def coverage(answered: Sequence[PointRecord]) -> dict[str, Any]:
    """Return the fraction of landmarks within the stated radius, and the median radius, at each level."""
    figures: dict[str, Any] = {}
    calibrated = [bool(r.radii_mm) for r in answered]
    figures["radius_source"] = "calibrated" if calibrated and all(calibrated) else "standard deviation"
    for level in LEVELS:
        stated = [(r.error_mm, r.radius_mm(level)) for r in answered if np.isfinite(r.radius_mm(level))]
        figures |= with_interval(f"coverage_{level}", [error <= radius for error, radius in stated])
        figures[f"radius_{level}_median_mm"] = distances("r", [radius for _, radius in stated])["r_median_mm"]
    return figures


def landmark_figures(hits: Sequence[ListRecord], points: Sequence[PointRecord], identifier: int) -> dict[str, Any]:
    """Return the figures of views whose closest landmark is this one, and of pointing to it."""
    own = [r for r in hits if r.truth_ids[0] == identifier]
    answered = [r for r in points if r.target == identifier and np.isfinite(r.error_mm)]
    within = [r.error_mm <= r.radius_mm(90) for r in answered if np.isfinite(r.radius_mm(90))]
    return {
        "n": len(own),
        "hit_1": rate(hit(identifier, r.answer_ids, 1) for r in own),
        **with_interval("hit_2", [hit(identifier, r.answer_ids, 2) for r in own]),
        "mirror_swap": rate(mirror_swap(identifier, r.answer_ids) for r in own),
        **distances("error", [r.error_mm for r in answered]),
        "coverage_90": rate(within),
    }


def left_right_gap(per_landmark: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Difference of Hit@2 between the patient's right and left: over all pairs together, and of the worst pair."""
    named = [mark for mark in ALL_LANDMARKS if mark.name in per_landmark]
    pairs = [(m, landmark(m.mirror_id)) for m in named if m.mirror_id and m.id < m.mirror_id]
    sums, gaps = np.zeros((2, 2)), {}
    for pair in pairs:
        rows = [per_landmark[mark.name] for mark in pair]
        if any(not row["n"] for row in rows):
            continue
        sums += [[row["n"] * row["hit_2"], row["n"]] for row in rows]
        gaps[pair[0].name.split(" ", 1)[1]] = abs(rows[0]["hit_2"] - rows[1]["hit_2"])
    if not gaps:
        return {"left_right_gap": None, "left_right_gap_worst": None, "left_right_gap_worst_pair": None}
    right, left = sums[:, 0] / sums[:, 1]
    worst = max(gaps, key=lambda name: gaps[name])
    return {
        "left_right_gap": round(float(abs(right - left)), 4),
        "left_right_gap_worst": round(float(gaps[worst]), 4),
        "left_right_gap_worst_pair": worst,
    }


def level_figures(hits: Sequence[ListRecord]) -> dict[str, Any]:
    """Return how often the level of a lumbar vertebra is right, exactly and within one level; nothing without any."""
    own = [r for r in hits if r.truth_ids[0] in LUMBAR]
    if not own:
        return {}
    apart = [LEVEL_OF.get(r.answer_ids[0], 99) - LEVEL_OF[r.truth_ids[0]] if r.answer_ids else 99 for r in own]
    exact = with_interval("lumbar_exact", [step == 0 for step in apart])
    return exact | with_interval("lumbar_within_one", [abs(step) <= 1 for step in apart])


def confusion(hits: Sequence[ListRecord], marks: Sequence[Landmark] = LANDMARKS) -> dict[str, Any]:
    """Return the counts (a row for each true closest landmark; a column for each first answer, last ``NO_ANSWER``)."""
    names = [mark.name for mark in marks]
    row_of = {mark.id: row for row, mark in enumerate(marks)}
    counts = np.zeros((len(names), len(names) + 1), int)
    for record in hits:
        column = row_of.get(record.answer_ids[0], len(names)) if record.answer_ids else len(names)
        counts[row_of[record.truth_ids[0]], column] += 1
    return {"rows": names, "columns": [*names, NO_ANSWER], "counts": counts.tolist()}


def _falsification(records: Sequence[Record]) -> dict[str, Any]:
    """Return the abstention over all questions, by kind of image and by protocol."""
    figures = with_interval("abstained", [r.status is Status.ABSTAINED for r in records])
    figures |= with_interval("false_answers", [r.status is Status.ANSWERED for r in records])
    groups: dict[str, list[bool]] = {}
    for record in records:
        protocol = record.protocol if isinstance(record, ListRecord) else Protocol.POINTING
        for key in (record.kind, str(protocol)):
            groups.setdefault(key, []).append(record.status is Status.ABSTAINED)
    return figures | {f"abstained_{key}": rate(values) for key, values in groups.items()}


COMPARED = ("hit_1", "hit_2", "p_at_1", "p_at_3", "error_mean_mm", "mirror_swap", "abstained", "coverage_90")
"""Figures that are compared between suites."""


def to_nominal(figures: Mapping[str, Any], nominal: Mapping[str, Any]) -> dict[str, float | None]:
    """By how much each of ``COMPARED`` exceeds the nominal suite's; None where either is missing."""
    pairs = {name: (figures.get(name), nominal.get(name)) for name in COMPARED}
    return {k: None if one is None or other is None else round(one - other, 4) for k, (one, other) in pairs.items()}


def latencies(values_s: Sequence[float]) -> dict[str, float | None]:
    """Return the median and 99th percentile without the first call, which is given apart, ms."""
    milliseconds = 1e3 * np.array([value for value in values_s if np.isfinite(value)])
    rest = milliseconds[1:]
    percentiles = {f"latency_p{p}_ms": round(float(np.percentile(rest, p)), 1) if len(rest) else None for p in (50, 99)}
    return {"latency_first_ms": round(float(milliseconds[0]), 1) if len(milliseconds) else None, **percentiles}
