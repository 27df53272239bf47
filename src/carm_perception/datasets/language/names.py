# SPDX-License-Identifier: Apache-2.0
"""Landmarks as people name them."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from carm_core.landmarks import LANDMARKS, landmark
from carm_perception.datasets.language.words import Split
from carm_perception.protocols.remarks import side_of

SIDED = tuple(mark.id for mark in LANDMARKS if mark.mirror_id)
"""Ids of the landmarks that come in pairs."""
IDS = tuple(mark.id for mark in LANDMARKS)

_VERTEBRAE = {10: ("T1", "T 1", "T-1", "vertebra T1", "Th1"), 14: ("T12", "T 12", "T-12", "vertebra T12", "Th12")}
_BEFORE = ("{side} {part}", "the {side} {part}", "the {side} {part}", "the patient's {side} {part}")
_AFTER = ("the {part} on the {side}", "the {part} on the {side} side", "{part} on the patient's {side}")
_IN_IMAGE = ("the {part} on the {other} of the image", "the {part} on the {other} side of the screen")


@lru_cache(maxsize=64)
def parts(identifier: int) -> tuple[str, ...]:
    """Return all names of a landmark, lower case, without the side."""
    mark = landmark(identifier)
    names = [name.lower() for name in (mark.name, *mark.synonyms)]
    side = side_of(identifier)
    return tuple(name.removeprefix(f"{side} ") for name in names) if side else tuple(names)


@lru_cache(maxsize=64)
def _known(identifier: int, split: Split) -> tuple[str, ...]:
    """Return the names of a split: a name of a pair that training hears for one side only is held out for the other."""
    names = parts(identifier)
    if split == "test" or not side_of(identifier):
        return names
    held_out = names[-1] if side_of(identifier) == "left" else names[-2]
    return tuple(name for name in names if name != held_out)


def _pick(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[int(rng.integers(len(options)))]


def part(rng: np.random.Generator, identifier: int, split: Split) -> str:
    """Return a name without the side; the first ones, which are common, more often."""
    names = _known(identifier, split)
    return names[int(len(names) * rng.random() ** 1.3)]


def phrase(rng: np.random.Generator, identifier: int, split: Split) -> str:
    """Return the words for a landmark with its side, for example ``the elbow on the left``."""
    name = part(rng, identifier, split)
    side = side_of(identifier)
    if not side:
        if identifier in _VERTEBRAE and rng.random() < 0.6:
            return _pick(rng, _VERTEBRAE[identifier])
        return name if rng.random() < 0.4 else f"the {name}"
    if " of the " in name and rng.random() < 0.6:
        start, end = name.split(" of the ", 1)
        return f"{start} of the {side} {end}" if rng.random() < 0.5 else f"the {start} of the {side} {end}"
    kind = rng.random()
    options = _BEFORE if kind < 0.75 else _AFTER if kind < 0.95 else _IN_IMAGE
    other = "right" if side == "left" else "left"
    return _pick(rng, options).format(side=side, part=name, other=other)


def another(rng: np.random.Generator, identifier: int) -> int:
    """Return a different landmark, the other side's more often."""
    mirror = landmark(identifier).mirror_id
    if mirror and rng.random() < 0.3:
        return mirror
    choices = [i for i in IDS if i != identifier]
    return choices[int(rng.integers(len(choices)))]
