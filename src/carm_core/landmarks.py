# SPDX-License-Identifier: Apache-2.0
"""The landmark vocabulary: ids, standard names and synonyms. Every other list of landmarks is derived from it."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from carm_core.errors import UnknownNameError


@dataclass(frozen=True)
class Landmark:
    """One skeletal or soft-tissue landmark.

    Attributes:
        id: Number used in messages, prompts and files.
        name: Standard name.
        synonyms: Further names that people use.
        mirror_id: Id of the same landmark on the other side, or None for one in the midline.
    """

    id: int
    name: str
    synonyms: tuple[str, ...] = ()
    mirror_id: int | None = None


def _pair(left_id: int, right_id: int, name: str, *synonyms: str) -> tuple[Landmark, Landmark]:
    def one(side: str, own: int, other: int) -> Landmark:
        return Landmark(own, f"{side} {name}", tuple(f"{side.lower()} {s}" for s in synonyms), other)

    return one("Right", right_id, left_id), one("Left", left_id, right_id)


LANDMARKS: tuple[Landmark, ...] = (
    Landmark(1, "Skull", ("cranium", "calvarium", "head")),
    *_pair(3, 2, "humeral head", "proximal humerus", "glenohumeral head", "shoulder", "shoulder joint"),
    *_pair(
        5,
        4,
        "scapular inferior angle",
        "shoulder blade tip",
        "tip of the scapula",
        "scapula",
        "inferior angle of the scapula",
    ),
    *_pair(7, 6, "elbow", "olecranon", "cubital joint", "elbow joint"),
    *_pair(9, 8, "wrist", "carpus", "radiocarpal joint", "wrist joint"),
    Landmark(10, "T1", ("first thoracic vertebra", "th1", "thoracic vertebra 1")),
    Landmark(11, "Carina", ("tracheal bifurcation", "carina tracheae", "bifurcation of the trachea")),
    *_pair(13, 12, "hemidiaphragm", "diaphragmatic dome", "diaphragm", "dome of the diaphragm"),
    Landmark(14, "T12", ("twelfth thoracic vertebra", "th12", "thoracic vertebra 12")),
)
"""The fourteen landmarks, in the order of their ids."""

_BY_ID = {landmark.id: landmark for landmark in LANDMARKS}


def _normalize(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip().removeprefix("the ")


_BY_NAME = {_normalize(name): mark for mark in LANDMARKS for name in (mark.name, *mark.synonyms)}


def landmark(landmark_id: int) -> Landmark:
    """Look up a landmark by its id.

    Args:
        landmark_id: Id, for example 11.

    Returns:
        The landmark.

    Raises:
        UnknownNameError: No landmark has this id.
    """
    try:
        return _BY_ID[landmark_id]
    except KeyError:
        raise UnknownNameError("landmark id", str(landmark_id)) from None


def find_landmark(text: str) -> Landmark:
    """Look up a landmark by its name, a synonym or its id, whatever the case.

    Args:
        text: What a person wrote, for example ``"left shoulder"`` or ``"11"``.

    Returns:
        The landmark.

    Raises:
        UnknownNameError: Nothing matches exactly; carries the nearest name as a suggestion.
    """
    key = _normalize(text)
    if key in _BY_NAME:
        return _BY_NAME[key]
    if key.isdecimal() and int(key) in _BY_ID:
        return _BY_ID[int(key)]
    sides = [
        m
        for m in LANDMARKS
        if m.mirror_id and key and any(_normalize(name).split(" ", 1)[1] == key for name in (m.name, *m.synonyms))
    ]
    if sides:
        raise UnknownNameError("landmark", text, " or ".join(m.name for m in sides))
    close = difflib.get_close_matches(key, _BY_NAME, n=1, cutoff=0.55)
    raise UnknownNameError("landmark", text, _BY_NAME[close[0]].name if close else None)
