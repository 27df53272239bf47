# SPDX-License-Identifier: Apache-2.0
"""What can be said: a grammar (JSGF) out of the project's own vocabulary, and how its words sound."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from carm_agent.dialogue import parser
from carm_agent.planning.standard_views import STANDARD_VIEWS
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.language.commands import Unknown

_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TEENS = (
    *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen"),
    *("sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SPOKEN = {str(value): word for value, word in enumerate((*_ONES, *_TEENS), 1)}
_WRITTEN = {word: value for value, word in _SPOKEN.items()}
_NOT_SAID = re.compile(r"^th\d|\d(st|nd|rd|th)\b")
_SIDED = re.compile(r"^(left|right) ")
STOPS = (
    *("stop", "stop now", "stop it", "stop stop", "stop stop stop", "please stop", "stop please", "stop moving"),
    *("stop the arm", "halt", "freeze", "hold it", "wait", "pause", "abort", "emergency", "cancel", "enough"),
    *("don't move", "stand still", "watch out"),
)
"""Each of them is a stop by ``carm_agent.dialogue.stop_words``, whatever else is said with it."""
_ANSWERS = (
    *("yes", "yes please", "okay", "go ahead", "do it", "confirm", "no", "no thanks", "go back", "where are we"),
    *("what is the status", "no the other side", "the other side", "wrong side", "look again", "that is wrong"),
    *("no the left one", "no the right one", "the left one", "the right one", "too low", "too high"),
    *("too far left", "too far right"),
)
_SHOTS = ("take an image", "take another image", "take a shot", "take an x ray", "another image", "expose")
_ASK = ("show me", "go to", "center", "find", "navigate to", "bring me to", "let me see", "look at")
_AMOUNTS = ("a bit", "a touch", "a little", "a lot")
_WAYS = (
    *("left", "right", "up", "down", "to the left", "to the right", "towards the head", "towards the feet"),
    *("to the patient's left", "to the patient's right", "higher", "lower"),
)
_ANGLES = ("lao", "rao", "cranial", "caudal")
PRONUNCIATIONS: Mapping[str, tuple[str, ...]] = {
    "lao": ("EH L EY OW",),
    "rao": ("AA R EY OW",),
    "ap": ("EY P IY",),
    "pa": ("P IY EY",),
    "a": ("AH", "EY"),
    "carina": ("K ER IY N AH", "K AH R IY N AH", "K AH R AY N AH"),
    "humeral": ("HH Y UW M ER AH L",),
    "acromioclavicular": ("AH K R OW M IY OW K L AH V IH K Y AH L ER",),
    "hemidiaphragm": ("HH EH M IY D AY AH F R AE M",),
    "iliac": ("IH L IY AE K",),
    "sacral": ("S EY K R AH L", "S AE K R AH L"),
    "sacrum": ("S EY K R AH M",),
    "promontory": ("P R AA M AH N T AO R IY",),
    "symphysis": ("S IH M F AH S AH S", "S IH M F IH S IH S"),
    "pubis": ("P Y UW B AH S",),
    "pubic": ("P Y UW B IH K",),
    "trochanter": ("T R OW K AE N T ER",),
    "scapular": ("S K AE P Y AH L ER",),
    "olecranon": ("OW L EH K R AH N AA N",),
    "glenohumeral": ("G L EH N OW HH Y UW M ER AH L",),
    "windpipe": ("W IH N D P AY P",),
    "bifurcation": ("B AY F ER K EY SH AH N",),
}
"""Words that the dictionary of the recognizer does not have, or says otherwise; phones of CMUdict."""


def spoken(name: str) -> str:
    """Return a name in words that are said, as in ``t twelve`` for ``T12``."""
    apart = re.sub(r"(?<=[a-z])(?=\d)", " ", name.lower())
    return " ".join(_SPOKEN.get(word, word) for word in re.findall(r"[a-z']+|\d+", apart))


def written(text: str) -> str:
    """Return what was said as it would be typed: ``t twelve`` becomes ``T12``."""
    numbers = "|".join(sorted(_WRITTEN, key=len, reverse=True))
    text = re.sub(rf"\b([tcl]) ({numbers})\b", lambda found: found[1].upper() + _WRITTEN[found[2]], text)
    text = re.sub(rf"\bvertebra ({numbers})\b", lambda found: f"vertebra {_WRITTEN[found[1]]}", text)
    return re.sub(r"\b(lao|rao|ap|pa)\b", lambda found: found[1].upper(), text)


def makes_sense(text: str) -> bool:
    """Return whether the agent's rules understand a sentence: it may have ended in the middle."""
    read = parser.Heard(text).intent
    return (read.certain and not isinstance(read.command, Unknown)) or read.topic is not parser.Topic.NONE


def target_names() -> tuple[str, ...]:
    """Return all names of landmarks as they are said; sides are said before them."""
    names = [name for mark in ALL_LANDMARKS for name in (mark.name, *mark.synonyms) if not _NOT_SAID.search(name)]
    return tuple(sorted({_SIDED.sub("", spoken(name)) for name in names}))


def _standard_views() -> list[str]:
    """Return the names of standard views that the agent's rules know."""
    names = [view.name.lower() for view in STANDARD_VIEWS]
    return [name for name in names if makes_sense(written(name)) and makes_sense(written(f"{name} view"))]


def grammar(known: Iterable[str] | None = None) -> str:
    """Return the grammar (JSGF).

    Args:
        known: Words with a known pronunciation; names of other words are left out. None: all are known.
    """
    words = None if known is None else set(known)

    def sayable(names: Iterable[str]) -> list[str]:
        return [name for name in names if words is None or set(name.split()) <= words]

    rules = {
        "digit": _any(_ONES),
        "number": f"<digit> | {_any(_TEENS)} | ({_any(_TENS)}) [<digit>]",
        "stop": _any(STOPS),
        "answer": _any(_ANSWERS),
        "shot": f"[please] ({_any(_SHOTS)})",
        "name": _any(sayable(target_names())),
        "target": f"[please] ({_any(_ASK)}) [the] [left | right] <name> [please]",
        "unit": "millimeters | centimeters",
        "way": _any(_WAYS),
        "shift": f"[move] [{_any(_AMOUNTS)} | <number> <unit>] <way>",
        "angle": f"({_any(_ANGLES)}) <number> [degrees]",
        "standard": _any(sayable(_standard_views())),
        "view": f"<angle> [<angle>] | <standard> [view] | rotate <number> degrees towards ({_any(_ANGLES)})",
    }
    lines = [f"<{name}> = {rule};" for name, rule in rules.items()]
    said = "<stop> | <answer> | <shot> | <target> | <shift> | <view>"
    return "\n".join(["#JSGF V1.0;", "grammar carm;", *lines, f"public <said> = {said};", ""])


def grammar_words() -> set[str]:
    """Return every word of the grammar."""
    text = re.sub(r"<\w+>", " ", grammar().split(";", 2)[2])
    return set(re.findall(r"[a-z']+", text)) - {"public"}


def _any(words: Iterable[str]) -> str:
    return " | ".join(words)
