# SPDX-License-Identifier: Apache-2.0
"""The landmark vocabulary: ids, standard names and synonyms. Prompts, parsers and messages derive their lists from it.

Where landmarks lie is known elsewhere: in generated bodies (``carm_sim.phantom.skeleton``), in a CT's
``landmarks.yaml``, and in the weights of the localizers, which have to be trained and calibrated for a new one.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    Landmark(1, "Skull", ("cranium", "calvarium", "calvaria", "skull vault", "head")),
    *_pair(
        3,
        2,
        "humeral head",
        "proximal humerus",
        "glenohumeral head",
        "shoulder",
        "shoulder joint",
        "head of the humerus",
        "ball of the shoulder",
    ),
    *_pair(
        5,
        4,
        "scapular inferior angle",
        "shoulder blade tip",
        "tip of the scapula",
        "scapula",
        "inferior angle of the scapula",
        "inferior scapular angle",
        "shoulder blade",
        "tip of the shoulder blade",
        "bottom of the shoulder blade",
    ),
    *_pair(7, 6, "elbow", "olecranon", "cubital joint", "cubitus", "elbow joint"),
    *_pair(9, 8, "wrist", "carpus", "carpal bones", "radiocarpal joint", "wrist joint"),
    Landmark(
        10,
        "T1",
        (
            "first thoracic vertebra",
            "1st thoracic vertebra",
            "th1",
            "thoracic vertebra 1",
            "topmost thoracic vertebra",
            "uppermost thoracic vertebra",
        ),
    ),
    Landmark(
        11,
        "Carina",
        (
            "tracheal bifurcation",
            "carina tracheae",
            "bifurcation of the trachea",
            "fork of the windpipe",
            "windpipe fork",
            "split of the windpipe",
        ),
    ),
    *_pair(13, 12, "hemidiaphragm", "diaphragmatic dome", "diaphragm", "dome of the diaphragm", "diaphragm dome"),
    Landmark(
        14,
        "T12",
        (
            "twelfth thoracic vertebra",
            "12th thoracic vertebra",
            "th12",
            "thoracic vertebra 12",
            "last thoracic vertebra",
            "lowest thoracic vertebra",
        ),
    ),
)
"""The fourteen landmarks of the upper body that the paper names, in the order of their ids."""


def _vertebra_synonyms(letter: str, region: str, number: int, ordinal: str) -> tuple[str, ...]:
    ending = {1: "st", 2: "nd", 3: "rd"}.get(number, "th")
    named = (f"{ordinal} {region} vertebra", f"{region} vertebra {number}", f"{number}{ending} {region} vertebra")
    return (*named, f"th{number}") if letter == "T" else named


def _extra_landmarks() -> tuple[Landmark, ...]:
    """Return the landmarks from id 101 on, without those that ``LANDMARKS`` already holds (T1, T12)."""
    ordinals = (
        *("first", "second", "third", "fourth", "fifth", "sixth"),
        *("seventh", "eighth", "ninth", "tenth", "eleventh"),
    )
    spine = [("C", "cervical", n) for n in range(3, 8)]
    spine += [("T", "thoracic", n) for n in range(2, 12)]
    spine += [("L", "lumbar", n) for n in range(1, 6)]
    marks = [
        Landmark(101 + row, f"{letter}{n}", _vertebra_synonyms(letter, region, n, ordinals[n - 1]))
        for row, (letter, region, n) in enumerate(spine)
    ]
    return (
        *marks,
        *_pair(122, 121, "femoral head", "hip", "hip joint", "proximal femur"),
        *_pair(124, 123, "knee", "knee joint"),
        *_pair(126, 125, "ankle", "ankle joint", "tibiotalar joint"),
        *_pair(128, 127, "acromioclavicular joint", "ac joint"),
        *_pair(130, 129, "greater trochanter", "trochanter"),
        *_pair(132, 131, "iliac crest", "top of the iliac crest"),
        Landmark(133, "Sacral promontory", ("sacrum", "first sacral vertebra", "s1")),
        Landmark(134, "Pubic symphysis", ("symphysis pubis", "symphysis")),
    )


EXTRA_LANDMARKS: tuple[Landmark, ...] = _extra_landmarks()
"""Further landmarks, ids from 101: the rest of the spine, pelvis, legs and shoulders."""

ALL_LANDMARKS: tuple[Landmark, ...] = (*LANDMARKS, *EXTRA_LANDMARKS)
"""The whole vocabulary: the fourteen first, then the further ones."""

ROWS: dict[int, int] = {mark.id: row for row, mark in enumerate(ALL_LANDMARKS)}
"""Id of each landmark to its row in arrays over ``ALL_LANDMARKS``; the fourteen come first."""

_LONGEST_NAME = 200
_LISTED = 14
_BY_ID = {mark.id: mark for mark in ALL_LANDMARKS}


def _normalize(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower()).strip().removeprefix("the ")


def _named(marks: tuple[Landmark, ...]) -> dict[str, Landmark]:
    return {_normalize(name): mark for mark in marks for name in (mark.name, *mark.synonyms)}


_BY_NAME = _named(ALL_LANDMARKS)


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
        raise UnknownNameError("landmark id", str(landmark_id), None, describe_landmarks()) from None


def describe_landmarks(near: str = "") -> list[str]:
    """Return what can be named, for a message: id, name and the shortest synonyms of the first ``_LISTED`` landmarks.

    Args:
        near: The nearest to this text come first; empty: in the order of their ids.
    """
    named = {mark.name: mark.synonyms for mark in ALL_LANDMARKS}
    order = list(UnknownNameError.among("landmark", near, named).known if near.strip() else named)
    listed = [_described(_BY_NAME[_normalize(name)]) for name in order[:_LISTED]]
    return [*listed, f"and {len(order) - _LISTED} more (carm navigate --help lists all)"]


def _described(mark: Landmark) -> str:
    return f"{mark.id} {mark.name} ({', '.join(sorted(mark.synonyms, key=len)[:2])})"


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
    written = {str(number): mark for number, mark in _BY_ID.items()}
    if text.strip() in written:
        return written[text.strip()]
    sides = [
        m
        for m in _BY_ID.values()
        if m.mirror_id and key and any(_normalize(name).split(" ", 1)[1] == key for name in (m.name, *m.synonyms))
    ]
    if sides:
        raise UnknownNameError("landmark", text, " or ".join(m.name for m in sides), describe_landmarks(key))
    close = difflib.get_close_matches(key[:_LONGEST_NAME], _BY_NAME, n=1, cutoff=0.55)
    raise UnknownNameError("landmark", text, _BY_NAME[close[0]].name if close else None, describe_landmarks(key))


IDS: NDArray[np.int64] = np.array([mark.id for mark in ALL_LANDMARKS])
"""Ids of the rows of arrays over ``ALL_LANDMARKS``."""
