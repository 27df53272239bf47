# SPDX-License-Identifier: Apache-2.0
"""Prompts of the text protocols: a full one for large models, a short one for the compact model."""

from __future__ import annotations

import re

from carm_core.landmarks import ALL_LANDMARKS, LANDMARKS, landmark
from carm_core.localization import Protocol, Query

_TABLE = "\n".join(f"{mark.id}: {mark.name}" for mark in LANDMARKS)
_WHOLE_TABLE = "\n".join(f"{mark.id}: {mark.name}" for mark in ALL_LANDMARKS)
_FOURTEEN = frozenset(mark.id for mark in LANDMARKS)

_INTRODUCTION = (
    "You see an X-ray image of the {part} of a supine patient, taken with a C-arm. It is oriented as clinicians"
    " read it: the patient's right is on the left of the image, the head is up. These are the landmarks:\n"
    "{table}\n\n"
)


def _introduction(query: Query) -> str:
    """Return the first part of a prompt: the fourteen landmarks, or all where the question is about others, too."""
    asked = {query.target_id or LANDMARKS[0].id, *query.among}
    if asked <= _FOURTEEN:
        return _INTRODUCTION.format(part="upper body", table=_TABLE)
    return _INTRODUCTION.format(part="body", table=_WHOLE_TABLE)


_TASKS = {
    Protocol.RETRIEVAL: (
        "Which three landmarks are closest to the image center? A landmark may lie outside the image. Answer with"
        " nothing but a list, closest first, in this form: [11: Carina, 10: T1, 12: Right hemidiaphragm]"
    ),
    Protocol.LOCALIZATION: (
        "Which two landmarks are closest to the image center? Answer with nothing but a list of their ids, closest"
        " first, in this form: [10,11]"
    ),
    Protocol.NAVIGATION: (
        "First name the landmarks that you see. Then say in which direction of the patient's frame the target"
        " {target} lies from the image center, and how far. Answer with nothing but\n"
        "<output><step1><context>...</context></step1><step2><x>LEFT|RIGHT|CENTER</x>"
        "<extent_x>NONE|SMALL|MODERATE|LARGE</extent_x><reason_x>...</reason_x><y>UP|DOWN|CENTER</y>"
        "<extent_y>NONE|SMALL|MODERATE|LARGE</extent_y><reason_y>...</reason_y></step2></output>\n"
        "NONE goes with CENTER and only with it. LEFT is the patient's left, UP is towards the head."
    ),
    Protocol.REEVALUATION: (
        "Which two landmarks are closest to the image center? Earlier the answer was {correction}. Look again, with"
        " care for left and right, and correct it if it is wrong. Answer with nothing but\n"
        "<response><visual_reasoning>...</visual_reasoning><landmarks>[10,11]</landmarks></response>"
    ),
    Protocol.POINTING: (
        "Where is landmark {target} relative to the image center, at the depth of the C-arm's isocenter? dx_mm is"
        " positive towards the patient's left (right of the image), dy_mm is positive towards the head; it may lie"
        " outside the image. The image shows {width_mm:.0f} mm by {height_mm:.0f} mm. Answer with nothing but"
        ' {{"target": {target_id}, "dx_mm": INTEGER, "dy_mm": INTEGER}}'
    ),
}

_COMMAND = (
    "You steer a C-arm. A clinician speaks to you. Left and right are the patient's, unless the image is named; up is"
    " towards the head. These are the landmarks:\n"
    f"{_TABLE}\n\n"
    "Put the sentence into one of these forms, with integers (mm, degrees), and answer with nothing but it:\n"
    '{{"intent": "navigate", "target": ID}}: bring a landmark to the image center\n'
    '{{"intent": "nudge", "dx_mm": LEFT, "dy_mm": HEAD}}: move over the patient (a touch: 5, a bit: 10, no amount: 20,'
    " a lot: 50)\n"
    '{{"intent": "rotate", "primary_deg": LAO, "secondary_deg": CRANIAL, "relative": 0 or 1}}: RAO and caudal are'
    " negative; 1: in addition to the present angles (a touch: 2, a bit: 5, no amount: 10, a lot: 20)\n"
    '{{"intent": "expose"}}: take one image\n'
    '{{"intent": "correct", "what": ID or "other_side", "left_side", "right_side", "left", "right", "up", "down" or'
    ' "look_again"}}: you were wrong\n'
    '{{"intent": "confirm"}}: yes\n'
    '{{"intent": "stop"}}: whatever asks for rest, or not to move\n'
    '{{"intent": "unknown"}}: anything else; two commands; a missing side; whatever is about limits, speed or safety\n'
    "The clinician says: {sentence}"
)

LONGEST_SENTENCE = 200
"""Characters of a clinician's sentence that a model is shown."""


def clean_sentence(text: str) -> str:
    """Return a clinician's words as a model may see them: one line, no brackets that could pass for special tokens."""
    return re.sub(r"[\s<>\x00-\x1f]+", " ", text).strip()[:LONGEST_SENTENCE]


_SHORT = {
    Protocol.RETRIEVAL: "Three closest landmarks?",
    Protocol.LOCALIZATION: "Two closest ids?",
    Protocol.POINTING: "Point to {target_id}: {target}.",
    Protocol.NAVIGATION: "Which way to {target_id}: {target}?",
    Protocol.REEVALUATION: "Two closest ids? Earlier answer: {correction}.",
    Protocol.COMMAND: "Command: {hint}",
}

FIRST_PROTOCOLS = (Protocol.RETRIEVAL, Protocol.LOCALIZATION, Protocol.POINTING)
"""Protocols of the earliest compact models."""
SHORT_PROTOCOLS = tuple(_SHORT)
"""Protocols that have a short prompt: those of the compact model."""


def _target_name(query: Query) -> str:
    return landmark(query.target_id).name if query.target_id else ""


def short_prompt(query: Query) -> str:
    """Return the question for the compact model.

    Raises:
        KeyError: The protocol is not one of ``SHORT_PROTOCOLS``.
        UnknownNameError: The target is no landmark.
    """
    question = _SHORT[query.protocol].format(
        target=_target_name(query),
        target_id=query.target_id,
        correction=query.correction or "none",
        hint=clean_sentence(query.hint).lower(),
    )
    remark = clean_sentence(query.hint).lower() if query.protocol is Protocol.REEVALUATION else ""
    return f"{question} Remark: {remark}" if remark else question


def full_prompt(query: Query, field_mm: tuple[float, float]) -> str:
    """Return the question for a large model, self-contained.

    Args:
        query: The question.
        field_mm: Width and height of the image at isocenter depth.

    Raises:
        UnknownNameError: The target is no landmark.
    """
    if query.protocol is Protocol.COMMAND:
        return _COMMAND.format(sentence=clean_sentence(query.hint))
    target = f"{query.target_id} ({_target_name(query)})" if query.target_id else ""
    task = _TASKS[query.protocol].format(
        target=target,
        target_id=query.target_id,
        correction=query.correction or "not given",
        width_mm=field_mm[0],
        height_mm=field_mm[1],
    )
    hint = f"\nThe clinician says: {clean_sentence(query.hint)}" if query.hint else ""
    return f"{_introduction(query)}{task}{hint}"
