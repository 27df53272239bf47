# SPDX-License-Identifier: Apache-2.0
"""Figures of classifiers of body parts: strict ones, and as the paper scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.body_parts import BODY_PARTS
from carm_perception.classifiers.classifier import Classification, Classifier
from carm_perception.evaluation.scoring.figures import latencies, rate, with_interval
from carm_perception.evaluation.scoring.published import first_two
from carm_perception.protocols.body_parts import PartForm

CHEST = BODY_PARTS.index("Chest")


@dataclass(frozen=True)
class PartRecord:
    """Both answers about one image.

    Attributes:
        name: The image.
        truth_ids: What it shows.
        label: Reply in the form ``<label_id>9,21</label_id>``.
        pair: Reply in the form ``[9,21]``.
    """

    name: str
    truth_ids: tuple[int, ...]
    label: Classification
    pair: Classification


def asked(
    classifier: Classifier, images: Iterable[tuple[str, tuple[int, ...], NDArray[np.uint8]]]
) -> Iterable[PartRecord]:
    """Ask both questions about images.

    Args:
        classifier: Who answers.
        images: Name, ids of the body parts, display image (rows, columns).
    """
    for name, truth, image in images:
        label, pair = (classifier.classify(image, form) for form in (PartForm.LABEL, PartForm.PAIR))
        yield PartRecord(name, truth, label, pair)


def figures_of(records: Sequence[PartRecord]) -> dict[str, Any]:
    """Return the figures: what is malformed or failed is a miss; any of an image's parts is right.

    ``hit_1`` and ``hit_2`` are of the answers with two ids, ``exact`` of the answers with one or more: the same set as
    the label. ``as_published`` counts the first two numbers of an answer with two ids, and leaves out answers without.
    ``always_chest`` is what the answer "Chest" would reach.
    """
    figures: dict[str, Any] = {"n": len(records)}
    for k in (1, 2):
        figures |= with_interval(f"hit_{k}", [_hit(r, k) for r in records])
    figures |= with_interval("exact", [set(r.label.part_ids) == set(r.truth_ids) for r in records])
    for key in ("malformed", "failed"):
        kind = "internal" if key == "failed" else key
        figures |= with_interval(key, [reply.error == kind for r in records for reply in (r.label, r.pair)])
    figures["always_chest"] = rate(CHEST in r.truth_ids for r in records)
    found = [(pair, r.truth_ids) for r in records if (pair := first_two(r.pair.answer)) is not None]
    published: dict[str, Any] = {"n": len(found)}
    for k in (1, 2):
        published[f"hit_{k}"] = rate(bool(set(pair[:k]) & set(truth)) for pair, truth in found)
    figures["as_published"] = published
    figures["per_body_part"] = {
        name: {"n": len(own), "hit_1": rate(_hit(r, 1) for r in own), "hit_2": rate(_hit(r, 2) for r in own)}
        for number, name in enumerate(BODY_PARTS)
        if (own := [r for r in records if number in r.truth_ids])
    }
    return figures | latencies([r.pair.latency_s for r in records])


def _hit(record: PartRecord, k: int) -> bool:
    return bool(set(record.truth_ids) & set(record.pair.part_ids[:k]))
