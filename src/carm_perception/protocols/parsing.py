# SPDX-License-Identifier: Apache-2.0
"""Text protocols between the project and any multimodal LLM: prompts, and strict parsers of the answers.

A parser returns a typed answer or raises ``~carm_core.errors.AnswerError``. Tolerated are white space around
the answer, a code fence around it, and a space after a comma; nothing else.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import AnswerError, CarmError
from carm_core.landmarks import landmark
from carm_core.language.commands import Command, command_from_text
from carm_core.localization import Protocol, Query

RETRIEVED = 3
LOCALIZED = 2
LIMIT_MM = 400
"""Largest component of a displacement that the pointing protocol carries, mm."""

Horizontal = Literal["LEFT", "RIGHT", "CENTER"]
Vertical = Literal["UP", "DOWN", "CENTER"]
Extent = Literal["NONE", "SMALL", "MODERATE", "LARGE"]

EXTENTS: dict[Extent, tuple[float, float, float]] = {
    "NONE": (10.0, 0.0, 6.0),
    "SMALL": (40.0, 25.0, 10.0),
    "MODERATE": (100.0, 68.0, 18.0),
    "LARGE": (math.inf, 160.0, 60.0),
}
"""What the navigation protocol's words mean: less than this many mm; typical mm; their standard deviation."""


def extent(value_mm: float) -> Extent:
    """Return the word for a length, mm, of either sign."""
    return next(word for word, (limit, _, _) in EXTENTS.items() if abs(value_mm) < limit)


@dataclass(frozen=True)
class RetrievalAnswer:
    """Protocol 1: the three landmarks closest to the image center, closest first."""

    landmark_ids: tuple[int, ...]

    def text(self) -> str:
        """Write the answer in its standard form."""
        return "[" + ", ".join(f"{i}: {landmark(i).name}" for i in self.landmark_ids) + "]"


@dataclass(frozen=True)
class LocalizationAnswer:
    """Protocol 2: the two landmarks closest to the image center, closest first."""

    landmark_ids: tuple[int, ...]

    def text(self) -> str:
        """Write the answer in its standard form."""
        return "[" + ",".join(map(str, self.landmark_ids)) + "]"


@dataclass(frozen=True)
class NavigationAnswer:
    """Protocol 3: what is seen, and the direction to the target in the patient's frame."""

    context: str
    x: Horizontal
    extent_x: Extent
    reason_x: str
    y: Vertical
    extent_y: Extent
    reason_y: str

    def text(self) -> str:
        """Write the answer in its standard form."""
        return (
            f"<output><step1><context>{self.context}</context></step1><step2>"
            f"<x>{self.x}</x><extent_x>{self.extent_x}</extent_x><reason_x>{self.reason_x}</reason_x>"
            f"<y>{self.y}</y><extent_y>{self.extent_y}</extent_y><reason_y>{self.reason_y}</reason_y>"
            "</step2></output>"
        )


@dataclass(frozen=True)
class ReevaluationAnswer:
    """Protocol 4: a second look at an earlier answer."""

    visual_reasoning: str
    landmark_ids: tuple[int, ...]

    def text(self) -> str:
        """Write the answer in its standard form."""
        ids = ",".join(map(str, self.landmark_ids))
        return (
            f"<response><visual_reasoning>{self.visual_reasoning}</visual_reasoning>"
            f"<landmarks>[{ids}]</landmarks></response>"
        )


@dataclass(frozen=True)
class PointingAnswer:
    """Protocol 5: displacement from the image center to the target at isocenter depth, mm.

    Attributes:
        target: Landmark id.
        dx_mm: Towards the right of the display image (patient's left at 0/0).
        dy_mm: Towards its top (head at 0/0).
    """

    target: int
    dx_mm: int
    dy_mm: int

    def text(self) -> str:
        """Write the answer in its standard form."""
        return f'{{"target": {self.target}, "dx_mm": {self.dx_mm}, "dy_mm": {self.dy_mm}}}'


@dataclass(frozen=True)
class BodyPartAnswer:
    """Protocol 7: the body parts in the image.

    Attributes:
        part_ids: Places in ``carm_core.body_parts.BODY_PARTS``.
        pair: Exactly two were asked for, the more central first.
    """

    part_ids: tuple[int, ...]
    pair: bool = False

    def text(self) -> str:
        """Write the answer in its standard form."""
        ids = ",".join(map(str, self.part_ids))
        return f"[{ids}]" if self.pair else f"<label_id>{ids}</label_id>"


Answer = RetrievalAnswer | LocalizationAnswer | NavigationAnswer | ReevaluationAnswer | PointingAnswer | Command

_FENCE = re.compile(r"```[a-z]*\n(.*)\n```", re.DOTALL)
_NUMBER = r"(-?(?:0|[1-9]\d{0,5}))"
_POINTING = re.compile(rf'\{{"target": ?{_NUMBER}, ?"dx_mm": ?{_NUMBER}, ?"dy_mm": ?{_NUMBER}\}}')
_PAIR = re.compile(r"([1-9]\d{0,5}): ([^,\[\]]+)")
_TEXT = r"([^<>]*)"
_NAVIGATION = re.compile(
    rf"<output>\s*<step1>\s*<context>{_TEXT}</context>\s*</step1>\s*<step2>\s*<x>{_TEXT}</x>\s*"
    rf"<extent_x>{_TEXT}</extent_x>\s*<reason_x>{_TEXT}</reason_x>\s*<y>{_TEXT}</y>\s*"
    rf"<extent_y>{_TEXT}</extent_y>\s*<reason_y>{_TEXT}</reason_y>\s*</step2>\s*</output>"
)
_PART = r"(?:0|[1-9]\d{0,5})"
_BODY_PARTS = re.compile(rf"<label_id>({_PART}(?:, ?{_PART})*)</label_id>|\[({_PART}, ?{_PART})\]")
_REEVALUATION = re.compile(
    rf"<response>\s*<visual_reasoning>{_TEXT}</visual_reasoning>\s*<landmarks>{_TEXT}</landmarks>\s*</response>"
)


def _bare(text: str) -> str:
    """Remove surrounding white space and one code fence."""
    stripped = text.strip()
    fenced = _FENCE.fullmatch(stripped)
    return fenced.group(1).strip() if fenced else stripped


def _known(number: str, answer: str) -> int:
    try:
        return landmark(int(number)).id
    except (CarmError, ValueError):
        raise AnswerError(f"there is no landmark with id {number}", answer) from None


def _id_list(text: str, count: int, answer: str) -> tuple[int, ...]:
    inner = re.fullmatch(r"\[(.*)\]", text, re.DOTALL)
    if inner is None:
        raise AnswerError("expected a list in square brackets", answer)
    parts = re.split(r", ?", inner.group(1))
    if not all(re.fullmatch(r"[1-9]\d{0,5}", part) for part in parts):
        raise AnswerError("the list must hold landmark ids", answer)
    ids = tuple(_known(part, answer) for part in parts)
    _check_count(ids, count, answer)
    return ids


def _check_count(ids: tuple[int, ...], count: int, answer: str) -> None:
    if len(ids) != count:
        raise AnswerError(f"expected {count} landmarks, got {len(ids)}", answer)
    if len(set(ids)) != count:
        raise AnswerError("a landmark is named twice", answer)


def parse_retrieval(text: str) -> RetrievalAnswer:
    """Parse protocol 1, for example ``[11: Carina, 10: T1, 12: Right hemidiaphragm]``.

    Raises:
        AnswerError: The text is not exactly such an answer, or a name does not belong to its id.
    """
    inner = re.fullmatch(r"\[(.*)\]", _bare(text), re.DOTALL)
    if inner is None:
        raise AnswerError("expected a list in square brackets", text)
    ids: list[int] = []
    for part in re.split(r", ?", inner.group(1)):
        pair = _PAIR.fullmatch(part)
        if pair is None:
            raise AnswerError("each entry must read `id: name`", text)
        identifier = _known(pair.group(1), text)
        if landmark(identifier).name != pair.group(2):
            raise AnswerError(f"landmark {identifier} is {landmark(identifier).name}, not {pair.group(2)}", text)
        ids.append(identifier)
    _check_count(tuple(ids), RETRIEVED, text)
    return RetrievalAnswer(tuple(ids))


def parse_localization(text: str) -> LocalizationAnswer:
    """Parse protocol 2, for example ``[10,11]``.

    Raises:
        AnswerError: The text is not exactly such an answer.
    """
    return LocalizationAnswer(_id_list(_bare(text), LOCALIZED, text))


def parse_navigation(text: str) -> NavigationAnswer:
    """Parse protocol 3.

    Raises:
        AnswerError: A tag is missing, a word is not allowed, or NONE and CENTER do not come together.
    """
    match = _NAVIGATION.fullmatch(_bare(text))
    if match is None:
        raise AnswerError("expected the tags of the navigation protocol, each once and in order", text)
    context, x, extent_x, reason_x, y, extent_y, reason_y = match.groups()
    for axis, value, allowed in (("x", x, ("LEFT", "RIGHT", "CENTER")), ("y", y, ("UP", "DOWN", "CENTER"))):
        if value not in allowed:
            raise AnswerError(f"{axis} must be one of {', '.join(allowed)}, not {value!r}", text)
    for axis, value, extent in (("x", x, extent_x), ("y", y, extent_y)):
        if extent not in ("NONE", "SMALL", "MODERATE", "LARGE"):
            raise AnswerError(f"extent_{axis} must be NONE, SMALL, MODERATE or LARGE, not {extent!r}", text)
        if (extent == "NONE") != (value == "CENTER"):
            raise AnswerError(f"extent_{axis} is NONE exactly when {axis} is CENTER", text)
    return NavigationAnswer(context, x, extent_x, reason_x, y, extent_y, reason_y)  # type: ignore[arg-type]


def parse_reevaluation(text: str) -> ReevaluationAnswer:
    """Parse protocol 4.

    Raises:
        AnswerError: A tag is missing or the list is not that of protocol 2.
    """
    match = _REEVALUATION.fullmatch(_bare(text))
    if match is None:
        raise AnswerError("expected the tags of the re-evaluation protocol, each once and in order", text)
    return ReevaluationAnswer(match.group(1), _id_list(match.group(2), LOCALIZED, text))


def parse_pointing(text: str, target_id: int | None = None) -> PointingAnswer:
    """Parse protocol 5, for example ``{"target": 11, "dx_mm": -42, "dy_mm": 118}``.

    Args:
        text: The answer.
        target_id: The landmark that was asked for; None: any.

    Raises:
        AnswerError: The text is not exactly such an answer, names another landmark, or leaves the range.
    """
    match = _POINTING.fullmatch(_bare(text))
    if match is None or "-0" in match.groups():
        raise AnswerError('expected {"target": ID, "dx_mm": INTEGER, "dy_mm": INTEGER}', text)
    target = _known(match.group(1), text)
    if target_id is not None and target != target_id:
        raise AnswerError(f"the answer is about landmark {target}, the question about {target_id}", text)
    dx, dy = int(match.group(2)), int(match.group(3))
    if max(abs(dx), abs(dy)) > LIMIT_MM:
        raise AnswerError(f"displacement ({dx}, {dy}) mm exceeds {LIMIT_MM} mm", text)
    return PointingAnswer(target, dx, dy)


def parse_command(text: str) -> Command:
    """Parse protocol 6, for example ``{"intent": "nudge", "dx_mm": 20, "dy_mm": 0}``.

    Raises:
        AnswerError: The text is not exactly such an answer, a landmark is unknown, or a number leaves its range.
    """
    try:
        return command_from_text(_bare(text))
    except AnswerError as error:
        raise AnswerError(error.reason, text) from None


def parse_body_parts(text: str) -> BodyPartAnswer:
    """Parse protocol 7, for example ``<label_id>9,21</label_id>`` (one or more parts) or ``[9,21]`` (exactly two).

    Raises:
        AnswerError: The text is neither, an id is unknown, or a part is named twice.
    """
    match = _BODY_PARTS.fullmatch(_bare(text))
    if match is None:
        raise AnswerError("expected <label_id>ID,...</label_id> or [ID,ID]", text)
    ids = tuple(int(part) for part in (match.group(1) or match.group(2)).split(","))
    if max(ids) >= len(BODY_PARTS):
        raise AnswerError(f"body part {max(ids)} is not in 0 to {len(BODY_PARTS) - 1}", text)
    if len(set(ids)) != len(ids):
        raise AnswerError("a body part is named twice", text)
    return BodyPartAnswer(ids, pair=match.group(2) is not None)


def parse(text: str, query: Query) -> Answer:
    """Parse the answer to a question.

    Raises:
        AnswerError: The text breaks the question's protocol.
    """
    if query.protocol is Protocol.POINTING:
        return parse_pointing(text, query.target_id)
    if query.protocol is Protocol.RETRIEVAL:
        return parse_retrieval(text)
    if query.protocol is Protocol.LOCALIZATION:
        return parse_localization(text)
    if query.protocol is Protocol.NAVIGATION:
        return parse_navigation(text)
    if query.protocol is Protocol.COMMAND:
        return parse_command(text)
    return parse_reevaluation(text)
