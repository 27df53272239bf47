# SPDX-License-Identifier: Apache-2.0
"""A clinician's remark on a wrong answer: drawn for training."""

from __future__ import annotations

import numpy as np

from carm_core.landmarks import landmark
from carm_perception.datasets.language import names, surface
from carm_perception.datasets.language.words import Pool, Split, pool
from carm_perception.protocols.remarks import AXES, beyond, side_of

_SIDES = pool(
    "no, that is the other side | wrong side | the other side | no, the {side} one | it is the {side} one"
    " | you mixed up left and right | no, the other {part} | that is the {side} side | this is the {side} {part}"
    " | left and right are swapped | no, the {side} {part} | opposite side",
    "wrong {part}, it is the {side} one | the contralateral {part} | no, on the {side} side | you confused the sides",
)
_NAMED = pool(
    "this is {right}, not {wrong} | that is {right}, not {wrong} | no, this is {right} | i see {right} | not {wrong},"
    " {right} | this is {right} | no, it is {right} | that is not {wrong}, it is {right} | it is {right}",
    "what you see is {right}, not {wrong} | clearly {right} | i would say it is {right}",
)
_NOT = pool(
    "that is not {wrong} | this is not {wrong} | not {wrong} | no, this isn't {wrong} | certainly not {wrong}",
    "i don't think this is {wrong} | it cannot be {wrong}",
)
_WAYS: dict[str, Pool] = {
    "up": pool(
        "further up | higher | look higher up | no, further up | it is higher | more towards the head | too low"
        " | more cranial | you are too low",
        "it lies further up | closer to the head | more superior",
    ),
    "down": pool(
        "further down | lower | look lower down | no, further down | it is lower | more towards the feet | too high"
        " | more caudal | you are too high",
        "it lies further down | closer to the feet | more inferior",
    ),
    "left": pool(
        "further to the left | more to the left | no, further left | more on the patient's left",
        "it lies more to the left",
    ),
    "right": pool(
        "further to the right | more to the right | no, further right | more on the patient's right",
        "it lies more to the right",
    ),
}


def remark(rng: np.random.Generator, wrong_id: int, right_id: int, split: Split = "train") -> str:
    """Draw what a clinician may say when an answer names one landmark instead of another.

    Args:
        rng: Source of randomness.
        wrong_id: Landmark that the answer names.
        right_id: Landmark that it should name.
        split: ``"train"``, or ``"test"`` with templates that training never sees.
    """
    ways = [way for way in AXES if right_id in beyond(wrong_id, way)]
    mirrored = landmark(wrong_id).mirror_id == right_id
    kinds: list[Pool] = [_NAMED, _NOT] + [_WAYS[way] for way in ways if not mirrored]
    kinds += [_SIDES] * 3 if mirrored else []
    text = kinds[int(rng.integers(len(kinds)))].template(rng, split)
    slots = {
        "side": side_of(right_id),
        "part": names.part(rng, right_id, split),
        "right": names.phrase(rng, right_id, split),
        "wrong": names.phrase(rng, wrong_id, split),
    }
    return surface.spoken(rng, text.format(**slots))
