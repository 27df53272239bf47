# SPDX-License-Identifier: Apache-2.0
"""A clinician's remark on a wrong answer, read by rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from carm_core.landmarks import landmark
from carm_core.language.mentions import IMAGE, mentions, split_words

TYPICAL_MM: dict[int, tuple[int, int, int]] = {
    1: (6, 164, 18),
    2: (-140, 8, 18),
    3: (148, 6, 18),
    4: (-116, -130, 19),
    5: (118, -135, 20),
    6: (-177, -250, 45),
    7: (177, -242, 45),
    8: (64, -203, 63),
    9: (-56, -190, 62),
    10: (0, 0, 5),
    11: (-3, -62, 15),
    12: (-69, -158, 24),
    13: (94, -176, 25),
    14: (-3, -263, 22),
    101: (4, 77, 9),
    102: (3, 64, 7),
    103: (2, 50, 5),
    104: (1, 36, 3),
    105: (0, 18, 2),
    106: (-1, -17, 2),
    107: (-1, -37, 4),
    108: (-2, -60, 6),
    109: (-1, -82, 8),
    110: (-1, -103, 10),
    111: (-1, -123, 12),
    112: (-2, -149, 15),
    113: (-2, -173, 17),
    114: (-2, -198, 19),
    115: (-3, -224, 22),
    116: (-3, -274, 27),
    117: (-4, -304, 29),
    118: (-4, -335, 32),
    119: (-4, -371, 35),
    120: (-4, -410, 39),
    121: (-86, -565, 51),
    122: (76, -566, 51),
    123: (-87, -965, 77),
    124: (72, -967, 77),
    125: (-89, -1362, 105),
    126: (70, -1363, 104),
    127: (-117, 37, 20),
    128: (119, 35, 19),
    129: (-145, -588, 53),
    130: (135, -590, 53),
    131: (-86, -408, 40),
    132: (77, -409, 40),
    133: (-14, -446, 42),
    134: (-17, -570, 51),
}
"""Landmark id to its place relative to T1, mm: to the patient's left, towards the head; and the standard deviation.
The fourteen are rounded from ``carm_sim/phantom/population.json`` (161 supine bodies, arms crossed over the abdomen),
the others are means of 160 generated bodies."""

APART_MM = 40
"""Landmarks that are less far apart along an axis are neither further left nor further up than each other."""

APART_STDS = 1.3
"""The same in standard deviations of the distance."""

_WORDS = {
    "up": {"up", "higher", "high", "head", "cranial", "cranially", "superior", "above", "upwards"},
    "down": {"down", "lower", "low", "feet", "caudal", "caudally", "inferior", "below", "downwards"},
    "left": {"left", "leftwards"},
    "right": {"right", "rightwards"},
}

_OPPOSITE = {"up": "down", "down": "up", "left": "right", "right": "left"}

AXES = {"left": (0, 1), "right": (0, -1), "up": (1, 1), "down": (1, -1)}


@dataclass(frozen=True)
class Constraint:
    """What a remark says about an answer.

    Attributes:
        wrong: Landmark ids that the answer should not hold.
        candidates: Ids of which one belongs in their place.
        way: Where it lies from the wrong one: ``left``, ``right``, ``up``, ``down``, or empty where that was not said.
    """

    wrong: frozenset[int]
    candidates: frozenset[int]
    way: str = ""

    def seen(self, places_mm: Mapping[int, tuple[float, float]]) -> Constraint:
        """Return the same with the candidates that lie the way that was said in this image, where there are any.

        Args:
            places_mm: Landmark id to its place, to the patient's left and towards the head.
        """
        start = next((places_mm[i] for i in self.wrong if i in places_mm), None)
        if not self.way or start is None:
            return self
        axis, sign = AXES[self.way]
        there = {i: places_mm[i][axis] for i in self.candidates if i in places_mm}
        kept = frozenset(i for i, place in there.items() if sign * (place - start[axis]) > 0)
        return replace(self, candidates=kept or self.candidates)


def beyond(start: int, way: str) -> frozenset[int]:
    """Landmarks that lie ``left``, ``right``, ``up`` or ``down`` of another one in practically every supine body."""
    axis, sign = AXES[way]
    here = TYPICAL_MM[start]
    return frozenset(
        other
        for other, there in TYPICAL_MM.items()
        if sign * (there[axis] - here[axis]) > max(APART_MM, APART_STDS * float(np.hypot(here[2], there[2])))
    )


def read_remark(text: str, answered_ids: Sequence[int]) -> Constraint | None:
    """Read a remark by rule.

    Args:
        text: The remark.
        answered_ids: The answer that it is about, closest first.

    Returns:
        What it says; None when it is not understood.
    """
    words = split_words(text)
    denied, named = _named(words)
    spoken_for = {place for mention in mentions(words) for place in range(mention.start, mention.stop)}
    words = [word for place, word in enumerate(words) if place not in spoken_for]
    way = _way(words)
    pair = named if len(named) == 2 and not denied and _is_about_sides(words, way) else frozenset()
    if (denied or named) and not pair:
        return _about_names(denied, named, answered_ids)
    sided = [i for i in answered_ids if landmark(i).mirror_id and (not pair or i in pair)]
    if _is_about_sides(words, way):
        wrong = [i for i in sided if way is None or side_of(i) != way][:1]
        mirrors = frozenset(landmark(i).mirror_id or i for i in wrong)
        return Constraint(frozenset(wrong), mirrors) if wrong else None
    if way is None or not answered_ids:
        return None
    start = answered_ids[0]
    return Constraint(frozenset((start,)), frozenset(TYPICAL_MM) - {start} - beyond(start, _OPPOSITE[way]), way)


def revise(ranking: Sequence[int], constraint: Constraint, count: int = 2) -> tuple[int, ...]:
    """Choose landmarks again.

    Args:
        ranking: Ids, the likeliest first.
        constraint: What the remark says.
        count: How many to choose.

    Returns:
        The likeliest candidate, then the likeliest others that are not wrong.
    """
    left = [i for i in ranking if i not in constraint.wrong]
    best = [i for i in left if i in constraint.candidates][:1]
    return tuple([*best, *(i for i in left if i not in best)][:count])


def _named(words: list[str]) -> tuple[frozenset[int], frozenset[int]]:
    """Return the ids that are denied, and ids that are named."""
    denied: set[int] = set()
    named: set[int] = set()
    last = 0
    for mention in mentions(words):
        before = words[last : mention.start]
        negative = any(word in ("not", "isnt", "cannot", "dont", "arent", "never") for word in before[-6:])
        (denied if negative else named).update(mark.id for mark in mention.landmarks)
        last = mention.stop
    return frozenset(denied), frozenset(named - denied)


def _about_names(denied: frozenset[int], named: frozenset[int], answered_ids: Sequence[int]) -> Constraint | None:
    answered = frozenset(answered_ids)
    if len(named) == 2 and (only := {landmark(i).mirror_id for i in answered} & named):
        named = frozenset(i for i in only if i is not None)  # the side that the answer does not have
    wrong = denied & answered if denied else frozenset(i for i in answered_ids[:1] if i not in named)
    others = frozenset(TYPICAL_MM) - (denied & answered if denied else wrong)
    return Constraint(wrong, (named or others) - wrong)


def _way(words: list[str]) -> str | None:
    ways = [way for way, known in _WORDS.items() if known & set(words)]
    if len(ways) != 1:
        return None
    flipped = "too" in words or (ways[0] in ("left", "right") and bool(IMAGE & set(words)))
    return _OPPOSITE[ways[0]] if flipped else ways[0]


def _is_about_sides(words: list[str], way: str | None) -> bool:
    said = set(words)
    if way in ("up", "down"):
        return False
    if way in ("left", "right"):
        called = {"one", "side"} & said or {"is", "patients"} <= said
        return bool(called) and not {"further", "more", "to"} & said
    return bool({"other", "wrong", "opposite", "contralateral", "mixed", "swapped", "confused", "sides"} & said)


def side_of(identifier: int) -> str:
    """Return ``"left"``, ``"right"`` or, for a landmark in the midline, nothing."""
    mark = landmark(identifier)
    return mark.name.split()[0].lower() if mark.mirror_id else ""
