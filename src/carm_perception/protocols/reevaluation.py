# SPDX-License-Identifier: Apache-2.0
"""The second look: what an earlier answer said, and what a new one may say."""

from __future__ import annotations

import re

from carm_core.errors import AnswerError
from carm_core.landmarks import landmark
from carm_core.localization import NAN, LandmarkEstimate, Protocol, Query
from carm_perception.protocols.grammar import Grammar, measured
from carm_perception.protocols.parsing import LOCALIZED, PointingAnswer, ReevaluationAnswer, parse
from carm_perception.protocols.remarks import read_remark

_REASONING = re.compile(r"([^;]+) at (-?\d+) by (-?\d+) mm(?:; |$)")


def earlier_ids(text: str) -> tuple[int, ...]:
    """Landmarks of an earlier answer of any protocol, closest first, two at most; empty when it is no answer."""
    for protocol in (Protocol.LOCALIZATION, Protocol.RETRIEVAL, Protocol.REEVALUATION, Protocol.POINTING):
        try:
            answer = parse(text, Query(protocol))
        except AnswerError:
            continue
        ids = (answer.target,) if isinstance(answer, PointingAnswer) else getattr(answer, "landmark_ids", ())
        return tuple(ids[:LOCALIZED])
    return ()


def earlier_list(text: str) -> str:
    """Return an earlier answer of any protocol as the list of its landmarks; empty when it is no answer."""
    ids = earlier_ids(text)
    return f"[{','.join(map(str, ids))}]" if ids else ""


def allowed(question: Query) -> Grammar:
    """Return what the model may answer: after a remark that is understood by rule, nothing that contradicts it."""
    if question.protocol is Protocol.REEVALUATION:
        said = read_remark(question.hint, earlier_ids(question.correction))
        if said is not None:
            return measured(question, said.candidates, said.wrong)
    return measured(question)


def reasoned(answer: ReevaluationAnswer) -> tuple[LandmarkEstimate, ...]:
    """Return the estimates of a second look, with the places that the reasoning gives."""
    places = {}
    for name, right, up in _REASONING.findall(answer.visual_reasoning):
        places[name] = (float(right), float(up))
    return tuple(LandmarkEstimate(i, places.get(landmark(i).name, (NAN, NAN))) for i in answer.landmark_ids)
