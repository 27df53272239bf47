# SPDX-License-Identifier: Apache-2.0
"""From samples to a calibration, and how well it holds on patients that were left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.landmarks import IDS, LANDMARKS
from carm_core.transforms import Array
from carm_perception.evaluation.metrics import closest, hit, precision
from carm_perception.networks.preprocessing import FIELD_MM
from carm_perception.protocols.estimates import nearest_first
from carm_perception.training.calibration.samples import Samples
from carm_perception.uncertainty.abstention import RISKS, doubt, risk_threshold, wrong
from carm_perception.uncertainty.calibration_file import Calibration, CaseCalibration, LocalizerCalibration
from carm_perception.uncertainty.conformal import CASES, LEVELS, RadiusTable, case_index, fit_radii, interval_score
from carm_perception.uncertainty.fusion import DISAGREEMENTS, REFEREE, SPEAKER, WEIGHTS, Fusion, Joint, Opinion, join
from carm_perception.uncertainty.out_of_distribution import LIMIT, Familiarity

Mask = NDArray[np.bool_]
Strange = Mapping[str, tuple[Array, Array]]
"""Name of a family of strange images to the standard deviations and presences (m, 48) that are read from them."""

Tables = tuple[RadiusTable, ...]
"""A table for each of ``CASES``."""

FOLDS = 5


@dataclass(frozen=True, eq=False)
class Answers:
    """Places of one localizer for all samples.

    Attributes:
        place_mm: Displacements (n, 48, 2).
        std_mm: Stated standard deviations (n, 48).
        seen: Landmarks that count as seen (n, 48).
    """

    place_mm: Array
    std_mm: Array
    seen: Mask

    def error_mm(self, samples: Samples) -> Array:
        """Return the radial errors (n, 48); NaN without an answer or without truth."""
        error: Array = np.linalg.norm(self.place_mm - samples.truth_mm, axis=-1)
        return error

    @property
    def case(self) -> NDArray[np.int64]:
        """Position of each answer in ``CASES`` (n, 48)."""
        return case_index(self.seen, self.place_mm)

    def radii_mm(self, tables: Tables) -> Array:
        """Return the radii (n, 48, levels) from the table of each case."""
        by_case = np.stack([table.radii_mm(self.std_mm) for table in tables])
        radii: Array = np.take_along_axis(by_case, self.case[None, ..., None], axis=0)[0]
        return radii

    def doubt(self, tables: Tables) -> Array:
        """Return how little each answer is to be trusted (n, 48)."""
        return doubt(self.radii_mm(tables)[..., 0], self.place_mm, self.seen)


def speaker_answers(samples: Samples) -> Answers:
    """Return the language model's: what it places in the image counts as seen."""
    inside = (np.abs(samples.speaker_mm) <= FIELD_MM / 2).all(-1)
    return Answers(samples.speaker_mm, samples.speaker_std_mm, np.asarray(inside))


def referee_answers(samples: Samples) -> Answers:
    """Return the deep-learning localizer's."""
    return Answers(samples.referee_mm, samples.referee_std_mm, samples.seen)


def radius_tables(samples: Samples, answers: Answers) -> Tables:
    """Return a table for each case."""
    error, case = answers.error_mm(samples), answers.case
    return tuple(fit_radii(error, answers.std_mm, case == number) for number in range(len(CASES)))


def _opinions(samples: Samples, tables: dict[str, Tables]) -> tuple[Opinion, Opinion]:
    speaker, referee = speaker_answers(samples), referee_answers(samples)
    first, second = speaker.radii_mm(tables["compact"])[..., 0], referee.radii_mm(tables["regression"])[..., 0]
    missing = ~np.isfinite(first)
    return (
        Opinion(np.where(missing[..., None], referee.place_mm, speaker.place_mm), np.where(missing, second, first)),
        Opinion(referee.place_mm, second),
    )


def joined(samples: Samples, tables: dict[str, Tables], fusion: Fusion) -> Joint:
    """Both opinions joined, before any second look."""
    speaker, referee = _opinions(samples, tables)
    return join(speaker, referee, samples.seen, fusion)


def _joint_answers(samples: Samples, joint: Joint) -> Answers:
    return Answers(joint.place_mm, joint.std_mm, samples.seen)


def lists(samples: Samples, who: str) -> dict[str, float]:
    """Hit@1, Hit@2 over lists of two, P@1, P@3 over lists of three, of the fourteen, by the model or the referee."""
    hits, precisions = [], []
    both = slice(None, len(LANDMARKS))
    columns = samples.truth_mm[:, both], samples.referee_mm[:, both], samples.referee_std_mm[:, both], samples.listed
    for truth, places, stds, listed, of_two in zip(*columns, samples.of_two, strict=True):
        known = np.isfinite(truth).all(-1)
        found = {int(i): (float(x), float(y)) for i, (x, y), k in zip(IDS[both], places, known, strict=True) if k}
        spread = dict(zip(IDS[both].tolist(), stds.tolist(), strict=True))
        order = tuple(e.id for e in nearest_first(found, spread)[:3])
        if who == SPEAKER:
            order = tuple(int(i) for i in listed if 0 < i <= len(known) and known[int(i) - 1])
        first, three = closest(truth, 1)[0], closest(truth, 3)
        if of_two:
            hits.append((hit(first, order, 1), hit(first, order, 2)))
        else:
            precisions.append((precision(three, order, 1), precision(three, order, 3)))
    means = (*np.mean(hits or [(False, False)], axis=0), *np.mean(precisions or [(0.0, 0.0)], axis=0))
    return {key: float(value) for key, value in zip(("hit_1", "hit_2", "p_at_1", "p_at_3"), means, strict=True)}


def choose_fusion(samples: Samples, tables: dict[str, Tables]) -> Fusion:
    """Choose how to combine the two: weights by the mean error, the rest by the interval score and by the lists."""
    fusion = Fusion()
    known = np.isfinite(samples.truth_mm).all(-1)

    def best_weight(chosen: Mask, make: Callable[[float], Fusion]) -> Fusion:
        if not chosen.any():
            return fusion
        errors = [_joint_answers(samples, joined(samples, tables, make(w))).error_mm(samples) for w in WEIGHTS]
        return make(WEIGHTS[int(np.argmin([error[chosen].mean() for error in errors]))])

    fusion = best_weight(known & samples.seen, lambda weight: replace(fusion, weight_seen=weight))
    fusion = best_weight(known & ~samples.seen, lambda weight: replace(fusion, weight_inferred=weight))
    scores = []
    for part in DISAGREEMENTS:
        answers = _joint_answers(samples, joined(samples, tables, replace(fusion, disagreement=part)))
        radii = answers.radii_mm(radius_tables(samples, answers))[..., 0]
        valid = known & np.isfinite(radii)
        scores.append(interval_score(answers.error_mm(samples)[valid], radii[valid]))
    orders = {who: lists(samples, who) for who in (SPEAKER, REFEREE)}
    two = max(orders, key=lambda who: orders[who]["hit_1"] + orders[who]["hit_2"])
    three = max(orders, key=lambda who: orders[who]["p_at_1"] + orders[who]["p_at_3"])
    part = DISAGREEMENTS[int(np.argmin(np.array(scores)))]
    return replace(fusion, disagreement=part, localization=two, retrieval=three)


def thresholds(samples: Samples, answers: Answers, tables: Tables) -> list[tuple[float, ...]]:
    """For each case, the largest doubt with which an answer is given at each risk."""
    error, doubts, case = answers.error_mm(samples), answers.doubt(tables), answers.case
    bad = wrong(error, samples.distance_mm, answers.seen)
    patient = np.broadcast_to(samples.patient[:, None], error.shape)
    found = []
    for number in range(len(CASES)):
        chosen = (case == number) & np.isfinite(error) & np.isfinite(doubts)
        data = doubts[chosen], bad[chosen], patient[chosen]
        found.append(tuple(risk_threshold(*data, risk) for risk in RISKS))
    return found


def _localizer(samples: Samples, answers: Answers, tables: Tables) -> LocalizerCalibration:
    limits = thresholds(samples, answers, tables)
    return LocalizerCalibration(tuple(CaseCalibration(t, limit) for t, limit in zip(tables, limits, strict=True)))


def fit(samples: Samples, strange: Strange, model_version: str) -> Calibration:
    """Calibrate all localizers.

    Args:
        samples: Views of the calibration patients.
        strange: Standard deviations and presences (m, 48) of each family of strange images, by name.
        model_version: Hash of the weights.
    """
    answers = {"compact": speaker_answers(samples), "regression": referee_answers(samples)}
    tables = {name: radius_tables(samples, one) for name, one in answers.items()}
    fusion = choose_fusion(samples, tables)
    answers["fused"] = _joint_answers(samples, joined(samples, tables, fusion))
    tables["fused"] = radius_tables(samples, answers["fused"])
    localizers = {name: _localizer(samples, answers[name], tables[name]) for name in answers}
    readings, shows = (samples.referee_std_mm, samples.presence), np.asarray(samples.in_image.any(-1))
    familiarity = Familiarity.fit(readings, samples.patient, shows, strange)
    return Calibration(model_version, localizers, familiarity, fusion=fusion.as_dict())


def answers_of(name: str, samples: Samples, calibration: Calibration) -> Answers:
    """Return the answers of a localizer, joined as a calibration says."""
    if name == "compact":
        return speaker_answers(samples)
    if name == "regression":
        return referee_answers(samples)
    tables = {n: tuple(case.table for case in c.cases) for n, c in calibration.localizers.items()}
    return _joint_answers(samples, joined(samples, tables, Fusion.from_dict(calibration.fusion)))


@dataclass(frozen=True, eq=False)
class _Judged:
    """A localizer on patients that its calibration does not know; arrays (n, 48), radii and given (n, 48, ...)."""

    error_mm: Array
    radii_mm: Array
    given: Mask
    case: NDArray[np.int64]
    bad: Mask
    in_image: Mask

    @classmethod
    def of(cls, name: str, samples: Samples, calibration: Calibration) -> _Judged:
        answers, one = answers_of(name, samples, calibration), calibration.localizers[name]
        tables, case = tuple(c.table for c in one.cases), answers.case
        limits = np.array([c.thresholds for c in one.cases])[case]
        given = (answers.doubt(tables)[..., None] <= limits) | (limits == math.inf)
        error = answers.error_mm(samples)
        bad = wrong(error, samples.distance_mm, answers.seen)
        return cls(error, answers.radii_mm(tables), given, case, bad, samples.in_image)

    def of_views(self, chosen: Mask) -> _Judged:
        """Return some of the views (n,)."""
        return _Judged(*(getattr(self, f.name)[chosen] for f in fields(self)))

    def figures(self) -> dict[str, Any]:
        """Return the coverage and mean radius at each level, risk and share of answers at each risk."""
        valid = np.isfinite(self.error_mm)
        masks = {"all": valid, "in_image": valid & self.in_image}
        masks |= {case: valid & (self.case == number) for number, case in enumerate(CASES)}
        return {case: self._case(mask) for case, mask in masks.items() if mask.any()}

    def _case(self, mask: Mask) -> dict[str, Any]:
        error, radii = self.error_mm[mask], self.radii_mm[mask]
        case: dict[str, Any] = {"n": int(mask.sum()), "error_mean_mm": round(float(error.mean()), 2)}
        for column, level in enumerate(LEVELS):
            name, finite = f"{100 * level:.0f}", np.isfinite(radii[:, column])
            case[f"coverage_{name}"] = round(float((error <= radii[:, column]).mean()), 4)
            case[f"radius_{name}_mean_mm"] = round(float(radii[finite, column].mean()), 1) if finite.any() else None
        case["wrong"] = round(float(self.bad[mask].mean()), 4)
        for column, risk in enumerate(RISKS):
            given = self.given[mask][:, column]
            case[f"answered_at_{risk:g}"] = round(float(given.mean()), 4)
            case[f"wrong_at_{risk:g}"] = round(float(self.bad[mask][given].mean()), 4) if given.any() else None
        return case


def _concatenated(parts: list[_Judged]) -> _Judged:
    return _Judged(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(_Judged)))


def check(samples: Samples, strange: Strange, groups: dict[str, Mask]) -> dict[str, Any]:
    """Return how a calibration holds on patients left out: each is judged by one that was made without it.

    Args:
        samples: Views of the calibration patients.
        strange: Standard deviations and presences (m, 48) of each family of strange images, by name.
        groups: Views (n,) for which figures are also given apart.

    Returns:
        Figures by localizer and case, false abstentions, figures of the lists.
    """
    fold = samples.patient % FOLDS
    judged: dict[str, list[_Judged]] = {}
    order, away = [], []
    left_alone: dict[str, list[float]] = {}
    for number in range(FOLDS):
        left_out = fold == number
        calibration = fit(samples.of(~left_out), strange, "")
        rest = samples.of(left_out)
        order.append(np.flatnonzero(left_out))
        familiarity = calibration.familiarity
        away.append(familiarity.scores(rest.referee_std_mm, rest.presence) > LIMIT)
        for family, reading in strange.items():
            left_alone.setdefault(family, []).append(float((familiarity.scores(*reading) > LIMIT).mean()))
        for name in calibration.localizers:
            judged.setdefault(name, []).append(_Judged.of(name, rest, calibration))
    index, abstained = np.concatenate(order), np.concatenate(away)
    figures: dict[str, Any] = {"folds": FOLDS}
    for name, parts in judged.items():
        whole = _concatenated(parts)
        figures[name] = whole.figures()
        for group, mask in groups.items():
            figures[f"{name}/{group}"] = whole.of_views(mask[index]).figures()
    shows: Mask = np.asarray(samples.in_image.any(-1))[index]
    figures["strange_with_landmark"] = round(float(abstained[shows].mean()), 4)
    figures["strange_without_landmark"] = round(float(abstained[~shows].mean()), 4) if (~shows).any() else None
    figures |= {f"strange_{family}": round(float(np.mean(parts)), 4) for family, parts in left_alone.items()}
    figures["lists"] = {who: {k: round(v, 4) for k, v in lists(samples, who).items()} for who in (SPEAKER, REFEREE)}
    return figures
