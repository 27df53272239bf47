# SPDX-License-Identifier: Apache-2.0
"""The language model with the deep-learning localizer beside it as referee.

How much either counts, and who orders the landmarks, was chosen on the calibration patients. Where the two contradict
each other, that is to say where one's place lies outside the circle of the other, surer one, the language model is
asked to look again; where it then agrees with the referee, both are joined; else the one that weighs more is followed,
with less confidence. The reply says so.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS, landmark
from carm_core.localization import NEEDS_CT, LandmarkEstimate, Localization, Protocol, Query
from carm_perception.localizers.calibrated import CalibratedLocalizer
from carm_perception.localizers.compact import CompactLocalizer
from carm_perception.localizers.regression import RegressionLocalizer, written
from carm_perception.networks.landmark_reader import Reading
from carm_perception.protocols.estimates import confidence, expected_mm
from carm_perception.protocols.parsing import LIMIT_MM, LOCALIZED, RETRIEVED, ReevaluationAnswer
from carm_perception.protocols.reevaluation import earlier_ids
from carm_perception.protocols.remarks import read_remark, revise
from carm_perception.uncertainty.fusion import RADIUS_90_PER_STD, REFEREE, Fusion, Joint, Opinion, join

LISTS = (Protocol.LOCALIZATION, Protocol.RETRIEVAL)
SPOKEN = frozenset(mark.id for mark in LANDMARKS)
"""Landmarks that the language model knows; the deep-learning localizer answers about the others alone."""


class FusedLocalizer(CalibratedLocalizer):
    """Asks both: points from both, lists and second looks from the one that orders better, the rest from the model."""

    name = "fused"

    def _prepare(self) -> None:
        self._speaker = CompactLocalizer(self._loaded, maximum_risk=0.0)
        self._referee = RegressionLocalizer(self._loaded, maximum_risk=0.0)
        calibration = self._guard.calibration
        self._fusion = Fusion.from_dict(calibration.fusion) if calibration is not None else Fusion()

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()
        if query.point_mm is not None:
            return self._reply(query, start, abstained=True, message=NEEDS_CT)
        reply = self._answer(frame, query)
        return replace(reply, localizer=self.name, latency_s=time.perf_counter() - start)

    def sighted(self, frame: XrayFrame) -> tuple[LandmarkEstimate, ...]:
        """See ``carm_perception.registration.body_belief.Sighting``."""
        return self._referee.sighted(frame)

    def _answer(self, frame: XrayFrame, query: Query) -> Localization:
        if query.protocol is Protocol.COMMAND:
            return self._speaker.localize(frame, query)
        nothing = Localization(self.name, self.model_version, query, "")
        try:
            reading = self._referee.read(frame)
        except LocalizerError as error:
            return replace(nothing, error="internal", message=str(error))
        strange = self._guard.strange(self._loaded.read(frame))
        if strange:
            return replace(nothing, abstained=True, message=strange)
        if query.protocol in LISTS:
            return self._listed(frame, query, reading)
        if query.protocol is Protocol.POINTING and query.target_id and query.target_id not in SPOKEN:
            chosen = [e for e in self._referee.estimates(reading) if e.id == query.target_id]
            reply = replace(nothing, answer=written(Protocol.POINTING, tuple(chosen)))
            return self._checked(reply, self._calibrated(chosen, reading), reading)
        spoken = self._speaker.localize(frame, query)
        if query.protocol is Protocol.POINTING:
            return self._judged(frame, spoken, reading)
        if query.protocol is Protocol.REEVALUATION and self._fusion.localization == REFEREE:
            return self._reconsidered(spoken, reading)
        return spoken

    def _reconsidered(self, spoken: Localization, reading: Reading) -> Localization:
        """Return a second look: the referee's order, as far as the clinician's remark allows it.

        A doubt without a reason decides where the image does not.
        """
        query = spoken.query
        estimates = tuple(e for e in self._referee.estimates(reading) if query.covers(e.id))
        by_id = {e.id: e for e in estimates}
        places = {i: e.displacement_mm for i, e in by_id.items()}
        ranking, earlier = list(by_id), earlier_ids(query.correction)
        said = read_remark(query.hint, earlier)
        if said is not None:
            chosen = revise(ranking, said.seen(places))
        else:
            in_doubt = earlier[:1] == (ranking[0],) and tied(*estimates[:2])
            chosen = tuple(ranking[:LOCALIZED][::-1] if in_doubt else ranking[:LOCALIZED])
        answer = looked_again({i: places[i] for i in dict.fromkeys((*earlier, *chosen))}, chosen).text()
        listed = tuple(by_id[i] for i in chosen)
        note = "" if spoken.ok else _replaced(spoken)
        if spoken.ok and spoken.estimates[0].id != chosen[0]:
            names = landmark(spoken.estimates[0].id).name, landmark(chosen[0]).name
            note = f"the language model takes {names[0]} for the closest, the deep-learning localizer {names[1]}"
            note += ", who is followed"
        return replace(spoken, answer=answer, estimates=listed, error=None, abstained=False, message=note)

    def _listed(self, frame: XrayFrame, query: Query, reading: Reading) -> Localization:
        """Return a list: the language model's where it orders better and is not contradicted, else the referee's."""
        estimates = tuple(e for e in self._referee.estimates(reading) if query.covers(e.id))
        answer = written(query.protocol, estimates)
        two = query.protocol is Protocol.LOCALIZATION
        listed = estimates[: LOCALIZED if two else RETRIEVED]
        seen = Localization(self.name, self.model_version, query, answer, listed)
        if (self._fusion.localization if two else self._fusion.retrieval) == REFEREE:
            return seen
        if not query.among or not SPOKEN.issuperset(query.among):
            return seen
        spoken = self._speaker.localize(frame, query)
        if not spoken.ok:
            return replace(seen, message=_replaced(spoken))
        if not contradicted(spoken.estimates[0].id, estimates):
            return spoken
        names = landmark(spoken.estimates[0].id).name, landmark(estimates[0].id).name
        note = f"the language model takes {names[0]} for the closest, the deep-learning localizer {names[1]}"
        second = self._second_look(frame, spoken)
        agree = second is not None and not contradicted(second.estimates[0].id, estimates)
        if second is not None and agree and two:
            answer = written(query.protocol, second.estimates)
            note += "; on a second look they agree"
            return replace(spoken, answer=answer, estimates=second.estimates, message=note)
        return replace(seen, message=f"{note}, who is followed")

    def _judged(self, frame: XrayFrame, spoken: Localization, reading: Reading) -> Localization:
        """Return the places from both opinions."""
        target = spoken.query.target_id
        referee = {e.id: e for e in self._referee.estimates(reading) if spoken.query.covers(e.id)}
        if not spoken.ok:
            chosen = [e for e in referee.values() if target in (None, 0, e.id)]
            answer = spoken.answer or written(Protocol.POINTING, tuple(chosen))
            reply = replace(spoken, answer=answer, error=None, abstained=False, message=_replaced(spoken))
            return self._checked(reply, self._calibrated(chosen, reading), reading)
        said = [e for e in spoken.estimates if e.id in referee]
        joint, estimates = self._joined(said, referee, reading)
        names = [landmark(e.id).name for e, apart in zip(estimates, joint.contradiction, strict=True) if apart]
        note = ""
        if names:
            note = f"language model and deep-learning localizer contradict each other about {', '.join(names)}"
        if names and target:
            note = f"language model and deep-learning localizer are {joint.apart_mm[0]:.0f} mm apart"
            revised = self._revised(frame, spoken)
            if revised is not None:
                joint, estimates = self._joined([revised], referee, reading)
            agree = revised is not None and not joint.contradiction[0]
            follows = "language model" if joint.speaker_leads[0] else "deep-learning localizer"
            note += "; on a second look they agree" if agree else f"; the {follows} is followed"
        others = [] if target else [e for e in referee.values() if e.id not in SPOKEN]
        estimates += self._calibrated(others, reading)
        return self._checked(replace(spoken, message=note), estimates, reading)

    def _calibrated(self, estimates: list[LandmarkEstimate], reading: Reading) -> list[LandmarkEstimate]:
        return [self._guard.calibrated(e, reading.sees(e.id)) for e in estimates]

    def _joined(
        self, spoken: list[LandmarkEstimate], referee: dict[int, LandmarkEstimate], reading: Reading
    ) -> tuple[Joint, list[LandmarkEstimate]]:
        seen = np.array([reading.sees(e.id) for e in spoken])
        joint = join(opinion(spoken), opinion([referee[e.id] for e in spoken]), seen, self._fusion)
        estimates = []
        for one, place, std in zip(spoken, joint.place_mm, joint.std_mm, strict=True):
            spread = float(std)
            fresh = LandmarkEstimate(one.id, (float(place[0]), float(place[1])), spread, confidence=confidence(spread))
            estimates.append(self._guard.calibrated(fresh, reading.sees(one.id)))
        return joint, estimates

    def _checked(self, reply: Localization, estimates: list[LandmarkEstimate], reading: Reading) -> Localization:
        """Return the reply with its estimates, or an abstention."""
        if reply.query.target_id:
            one = estimates[0]
            unsure = self._unsure(one, reading.sees(one.id))
            if unsure:
                message = f"{unsure}; {reply.message}" if reply.message else unsure
                return replace(reply, estimates=(), abstained=True, message=message)
        estimates.sort(key=lambda e: math.hypot(*e.displacement_mm))
        return replace(reply, estimates=tuple(estimates))

    def _second_look(self, frame: XrayFrame, spoken: Localization) -> Localization | None:
        """Return the language model's answer when its earlier one is doubted; None when it has none."""
        if Protocol.REEVALUATION not in self._speaker.protocols:
            return None
        query = Query(Protocol.REEVALUATION, hint=spoken.query.hint, correction=spoken.answer)
        second = self._speaker.localize(frame, query)
        return second if second.ok and second.estimates else None

    def _revised(self, frame: XrayFrame, spoken: Localization) -> LandmarkEstimate | None:
        """Where the language model sees the target on a second look; None when it does not say."""
        second = self._second_look(frame, spoken)
        found = second.estimate(spoken.estimates[0].id) if second is not None else None
        if found is None or not np.isfinite(found.displacement_mm).all():
            return None
        return replace(spoken.estimates[0], displacement_mm=found.displacement_mm)


TIE_STDS = 0.35
"""Two landmarks whose distances from the image center differ by less than this, in standard deviations, are about
equally likely to be the closest. On the calibration patients, where 1 of 14 first answers is wrong, a doubt then mends
half of the wrong ones and breaks 4 % of the right ones."""


def tied(first: LandmarkEstimate, second: LandmarkEstimate) -> bool:
    """Return whether it is open which of two landmarks is closer to the image center."""
    near, far = (expected_mm(math.hypot(*e.displacement_mm), e.std_mm) for e in (first, second))
    return far - near < TIE_STDS * math.hypot(first.std_mm, second.std_mm)


def looked_again(places_mm: Mapping[int, tuple[float, float]], chosen: tuple[int, ...]) -> ReevaluationAnswer:
    """Return the answer of the re-evaluation protocol in the form that the compact model is taught.

    Args:
        places_mm: Landmark id to its place, of those that are spoken of.
        chosen: The two closest.
    """
    limited = {i: [round(max(-LIMIT_MM, min(LIMIT_MM, value))) for value in place] for i, place in places_mm.items()}
    reasons = [f"{landmark(i).name} at {right} by {up} mm" for i, (right, up) in limited.items()]
    return ReevaluationAnswer("; ".join(reasons), chosen)


def _replaced(spoken: Localization) -> str:
    return f"the language model gave no answer ({spoken.message}); the deep-learning localizer answers"


def radius_mm(estimate: LandmarkEstimate) -> float:
    """Radius that holds the landmark in 90 of 100 cases: the calibrated one, else that of a normal distribution."""
    if math.isfinite(estimate.radius_90_mm):
        return estimate.radius_90_mm
    return RADIUS_90_PER_STD * estimate.std_mm


def opinion(estimates: list[LandmarkEstimate]) -> Opinion:
    """Return the places (n, 2) and radii (n,) of estimates with a finite place and standard deviation."""
    places = np.array([e.displacement_mm for e in estimates], dtype=np.float64).reshape(-1, 2)
    return Opinion(places, np.maximum(np.array([radius_mm(e) for e in estimates], dtype=np.float64), 1e-3))


def contradicted(first_id: int, estimates: tuple[LandmarkEstimate, ...]) -> bool:
    """Return whether a landmark can hardly be the closest: another one's farthest place is nearer than its nearest.

    Args:
        first_id: Landmark that is said to be closest to the image center.
        estimates: The referee's opinion on every landmark.
    """
    nearest = next(math.hypot(*e.displacement_mm) - radius_mm(e) for e in estimates if e.id == first_id)
    return any(math.hypot(*e.displacement_mm) + radius_mm(e) < nearest for e in estimates)
