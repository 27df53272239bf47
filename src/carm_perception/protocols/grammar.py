# SPDX-License-Identifier: Apache-2.0
"""What a model may answer, as regular expressions: one per question, made from the tables that the parsers use.

A backend that decodes under the expression cannot generate an invalid answer. The expressions keep to what Python,
Rust, xgrammar, outlines and llguidance read alike: literals, classes, groups, alternatives and counts. They admit the
standard form alone; the parsers tolerate a little more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from carm_core.landmarks import LANDMARKS, landmark
from carm_core.language.commands import ANGLE_LIMIT_DEG, COMMAND_LIMIT, Hint, Intent
from carm_core.localization import Protocol, Query
from carm_perception.protocols.parsing import LIMIT_MM

REASON_CHARACTERS = 160
"""Longest free text between two tags."""

_SPECIAL = re.compile(r"[\\\[\]{}()|.*+?^$]")
_PRINTABLE = "[ -;=?-~]"
_IDS = tuple(mark.id for mark in LANDMARKS)
_ALL = frozenset(_IDS)


@dataclass(frozen=True)
class Grammar:
    """A set of texts.

    Attributes:
        regex: Regular expression that a text matches as a whole.
        longest: Length of its longest text, characters; all are ASCII, so an answer takes no more tokens than that.
    """

    regex: str
    longest: int

    def __add__(self, other: Grammar) -> Grammar:
        """Return the texts of this set, each followed by one of the other."""
        return Grammar(self.regex + other.regex, self.longest + other.longest)

    def __or__(self, other: Grammar) -> Grammar:
        """Return the texts of either set."""
        return Grammar(f"(?:{self.regex}|{other.regex})", max(self.longest, other.longest))

    def admits(self, text: str) -> bool:
        """Return whether a text is in the set."""
        return re.fullmatch(self.regex, text) is not None


def literal(text: str) -> Grammar:
    """Return the set of one text."""
    return Grammar(_SPECIAL.sub(r"\\\g<0>", text), len(text))


def choice(options: Iterable[Grammar]) -> Grammar:
    """Return the texts of any of the sets.

    Raises:
        ValueError: There is no set.
    """
    sets = list(options)
    if not sets:
        raise ValueError("a choice needs something to choose from")
    if len(sets) == 1:
        return sets[0]
    return Grammar(f"(?:{'|'.join(one.regex for one in sets)})", max(one.longest for one in sets))


def words(*options: str) -> Grammar:
    """Return the set of these texts."""
    return choice(map(literal, options))


def free_text(longest: int = REASON_CHARACTERS) -> Grammar:
    """Return the printable ASCII without angle brackets, up to a length."""
    return Grammar(f"{_PRINTABLE}{{0,{longest}}}", longest)


def integer(limit: int) -> Grammar:
    """Return whole numbers from ``-limit`` to ``limit``, without leading zeros and without a negative zero."""
    digits = str(limit)
    options = [f"[1-9]{_digits(count)}" for count in range(len(digits) - 1)]
    for place, digit in enumerate(digits):
        lowest = 1 if place == 0 else 0
        if int(digit) > lowest:
            options.append(f"{digits[:place]}[{lowest}-{int(digit) - 1}]{_digits(len(digits) - place - 1)}")
    return Grammar(f"(?:0|-?(?:{'|'.join([*options, digits])}))", len(digits) + 1)


def _digits(count: int) -> str:
    return f"[0-9]{{{count}}}" if count else ""


def _distinct(count: int, item: Callable[[int], str], separator: str, taken: frozenset[int] = frozenset()) -> Grammar:
    """Lists of landmarks without repetition."""
    free = [i for i in _IDS if i not in taken]
    if count == 1:
        return words(*map(item, free))
    return choice(literal(item(i) + separator) + _distinct(count - 1, item, separator, taken | {i}) for i in free)


def _tagged(tag: str, content: Grammar) -> Grammar:
    return literal(f"<{tag}>") + content + literal(f"</{tag}>")


def _retrieval(query: Query) -> Grammar:
    del query
    entries = _distinct(3, lambda i: f"{i}: {landmark(i).name}", ", ")
    return literal("[") + entries + literal("]")


def _localization(query: Query) -> Grammar:
    del query
    return literal("[") + _distinct(2, str, ",") + literal("]")


def _navigation(query: Query) -> Grammar:
    del query

    def axis(name: str, low: str, high: str) -> Grammar:
        away = _tagged(name, words(low, high)) + _tagged(f"extent_{name}", words("SMALL", "MODERATE", "LARGE"))
        here = _tagged(name, literal("CENTER")) + _tagged(f"extent_{name}", literal("NONE"))
        return (away | here) + _tagged(f"reason_{name}", free_text())

    seen = _tagged("step1", _tagged("context", free_text()))
    return _tagged("output", seen + _tagged("step2", axis("x", "LEFT", "RIGHT") + axis("y", "UP", "DOWN")))


def _reevaluation(query: Query) -> Grammar:
    return _tagged("response", _tagged("visual_reasoning", free_text()) + _tagged("landmarks", _localization(query)))


def _pointing(query: Query) -> Grammar:
    target = words(*map(str, [query.target_id] if query.target_id else _IDS))
    number = integer(LIMIT_MM)
    across = literal(', "dx_mm": ') + number + literal(', "dy_mm": ') + number
    return literal('{"target": ') + target + across + literal("}")


def _command(query: Query) -> Grammar:
    del query

    def form(intent: Intent, *rest: Grammar) -> Grammar:
        return sum(rest, literal(f'{{"intent": "{intent}"')) + literal("}")

    def member(name: str, value: Grammar) -> Grammar:
        return literal(f', "{name}": ') + value

    def pair(one: str, other: str, limit: int) -> Grammar:
        return member(one, integer(limit)) + member(other, integer(limit))

    landmarks = words(*map(str, _IDS))
    what = landmarks | words(*(f'"{hint}"' for hint in Hint))
    bare = (Intent.EXPOSE, Intent.CONFIRM, Intent.STOP, Intent.UNKNOWN)
    return choice(
        (
            form(Intent.NAVIGATE, member("target", landmarks)),
            form(Intent.NUDGE, pair("dx_mm", "dy_mm", COMMAND_LIMIT)),
            form(
                Intent.ROTATE,
                pair("primary_deg", "secondary_deg", ANGLE_LIMIT_DEG),
                member("relative", words("0", "1")),
            ),
            form(Intent.CORRECT, member("what", what)),
            *map(form, bare),
        )
    )


def measured(query: Query, first_ids: frozenset[int] = _ALL, denied_ids: frozenset[int] = frozenset()) -> Grammar:
    """Return what the compact model may answer: as ``grammar``, with reasons in the form that it was taught.

    Its answers are short, so that a bound on their length never cuts one off.

    Args:
        query: The question.
        first_ids: Landmarks that a second look may put first.
        denied_ids: Landmarks that it may not name as close.
    """
    if query.protocol is Protocol.NAVIGATION:
        return _measured_navigation()
    if query.protocol is Protocol.REEVALUATION:
        return _measured_reevaluation(first_ids - denied_ids or _ALL - denied_ids, denied_ids)
    return grammar(query)


@lru_cache(maxsize=1)
def _measured_navigation() -> Grammar:
    names = words(*(landmark(i).name for i in _IDS))
    more = Grammar(f"(?:, {names.regex}){{0,2}}", 2 * (names.longest + 2))
    length = Grammar("(?:0|[1-9][0-9]{0,2}) mm ", 7)

    def axis(name: str, low: tuple[str, str], high: tuple[str, str]) -> Grammar:
        def one(word: str, extents: Grammar, unit: str) -> Grammar:
            said = _tagged(name, literal(word)) + _tagged(f"extent_{name}", extents)
            return said + _tagged(f"reason_{name}", length + literal(unit))

        away = words("SMALL", "MODERATE", "LARGE")
        return one(low[0], away, low[1]) | one(high[0], away, high[1]) | one("CENTER", words("NONE"), "off the center")

    across = axis("x", ("RIGHT", "to the patient's right"), ("LEFT", "to the patient's left"))
    along = axis("y", ("DOWN", "towards the feet"), ("UP", "towards the head"))
    context = (names + more) | literal("no landmark")
    return _tagged("output", _tagged("step1", _tagged("context", context)) + _tagged("step2", across + along))


@lru_cache(maxsize=64)
def _measured_reevaluation(first_ids: frozenset[int], denied_ids: frozenset[int]) -> Grammar:
    number = integer(LIMIT_MM)
    place = words(*(landmark(i).name for i in _IDS)) + literal(" at ") + number + literal(" by ") + number
    more = Grammar(f"(?: mm; {place.regex}){{0,3}}", 3 * (place.longest + 5))
    reasons = _tagged("visual_reasoning", place + more + literal(" mm"))
    firsts = sorted(first_ids)
    listed = choice(literal(f"{i},") + _distinct(1, str, ",", denied_ids | {i}) for i in firsts)
    return _tagged("response", reasons + _tagged("landmarks", literal("[") + listed + literal("]")))


_GRAMMARS: dict[Protocol, Callable[[Query], Grammar]] = {
    Protocol.RETRIEVAL: _retrieval,
    Protocol.LOCALIZATION: _localization,
    Protocol.NAVIGATION: _navigation,
    Protocol.REEVALUATION: _reevaluation,
    Protocol.POINTING: _pointing,
    Protocol.COMMAND: _command,
}


@lru_cache(maxsize=64)
def _cached(protocol: Protocol, target_id: int | None) -> Grammar:
    return _GRAMMARS[protocol](Query(protocol, target_id))


def grammar(query: Query) -> Grammar:
    """Return what the answer to a question may be."""
    return _cached(query.protocol, query.target_id)


def json_schema(query: Query) -> dict[str, Any] | None:
    """Return the JSON schema of the answer to a question; None for protocols whose answer is no JSON."""
    if query.protocol is not Protocol.POINTING:
        return None
    number = {"type": "integer", "minimum": -LIMIT_MM, "maximum": LIMIT_MM}
    ids = [query.target_id] if query.target_id else list(_IDS)
    properties: dict[str, Any] = {"target": {"type": "integer", "enum": ids}, "dx_mm": number, "dy_mm": number}
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
