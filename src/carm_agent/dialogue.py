# SPDX-License-Identifier: Apache-2.0
"""A deterministic reader of the clinician's words: stop, or a landmark to go to; anything else is not understood.

Whatever sounds like a stop is one, also inside a longer sentence and when negated: an unneeded stop costs seconds.
"""

import re
import unicodedata
from dataclasses import dataclass
from enum import Enum

from carm_core.landmarks import LANDMARKS, Landmark

_STOP = re.compile(
    r"\b(s+t+o+p+(s|e|ed|en|ing|it|pen|pe|ping|ped)?|sto+pp*|halt(e|en|ed|ing)?|hold|freeze|abort|cancel"
    r"|wait|whoa+|pause|quit|emergency|e ?stop|cease|enough|notaus|anhalten|abbrechen|arr[eê]te[rz]?|basta|alto"
    r"|(dont|do not|no more|never|not) (move|moving|motion|movement)|stand still|stay (there|put|where))\b",
    re.IGNORECASE,
)
_SIDES = {"left": "left", "right": "right", "l": "left", "r": "right"}

ABILITIES = (
    "I can bring one of these landmarks to the image center: "
    + ", ".join(landmark.name for landmark in LANDMARKS)
    + '. Say "stop" at any time to bring the arm to rest.'
)
"""What the agent can be told, in one or two sentences."""


class IntentKind(Enum):
    """What the clinician wants."""

    STOP = "stop"
    NAVIGATE = "navigate"
    AMBIGUOUS = "ambiguous"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Intent:
    """What was understood.

    Attributes:
        kind: what the clinician wants.
        landmarks: the target; when ambiguous, all that may be meant.
    """

    kind: IntentKind
    landmarks: tuple[Landmark, ...] = ()


def is_stop(text: str) -> bool:
    """Return whether the words ask for a stop, in whatever wording."""
    plain = unicodedata.normalize("NFKC", text).replace("\u2019", "").replace("'", "")
    words = re.sub(r"[\W_]+", " ", plain)
    spelled = re.sub(r"\b(\w)[\W_]+(?=\w\b)", r"\1", plain)
    return any(_STOP.search(variant) for variant in (words, spelled))


def understand(text: str) -> Intent:
    """Read a sentence of the clinician.

    Args:
        text: free text.

    Returns:
        The intent. Several landmarks, or one that lacks its side, are ambiguous.
    """
    if is_stop(text):
        return Intent(IntentKind.STOP)
    found = _mentioned(text)
    if len(found) == 1:
        return Intent(IntentKind.NAVIGATE, found)
    return Intent(IntentKind.AMBIGUOUS if found else IntentKind.UNKNOWN, found)


def _words(text: str) -> str:
    words = re.sub(r"[\W_]+", " ", text.lower()).split()
    return " ".join(["", *words, ""])


def _without_side(name: str) -> str:
    return " ".join(word for word in name.split() if word not in _SIDES)


def _mentioned(text: str) -> tuple[Landmark, ...]:
    """Return the landmarks that are named; the longest names are taken out first, so that parts do not count."""
    rest = _words(text)
    said_sides = {_SIDES[word] for word in rest.split() if word in _SIDES}
    names = sorted(
        (
            (_without_side(_words(name)), landmark)
            for landmark in LANDMARKS
            for name in (landmark.name, *landmark.synonyms)
        ),
        key=lambda pair: -len(pair[0]),
    )
    found: dict[int, Landmark] = {}
    for name in dict.fromkeys(name for name, _ in names):
        if f" {name} " not in rest:
            continue
        rest = rest.replace(f" {name} ", " | ")
        candidates = [landmark for other, landmark in names if other == name]
        sided = [mark for mark in candidates if mark.name.split()[0].lower() in said_sides]
        found.update({mark.id: mark for mark in (sided or candidates)})
    return tuple(found.values())
