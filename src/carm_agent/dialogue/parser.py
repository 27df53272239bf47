# SPDX-License-Identifier: Apache-2.0
"""Reads a clinician's sentence by rule: the check on the language model, and what serves when there is none.

What is not understood in full is never half obeyed: a missing part or two commands at once are told apart, so that
the agent can ask back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

from carm_agent.dialogue.patterns import (
    AGAIN,
    AND,
    ASIDES,
    CORRECTING,
    DENIED,
    DEPTH,
    DOUBTS,
    EXPOSE,
    FILLERS,
    FRONT,
    IDIOMS,
    LATERAL,
    LEANS,
    LIMITS,
    MEANT,
    MERE_POLITENESS,
    MORE,
    MOVE,
    NAMES,
    NO,
    OTHER,
    QUESTION,
    SEE,
    STEPS,
    TURN,
    VIEW,
    WRONG,
    YES,
    spelled,
)
from carm_agent.dialogue.quantities import ANGLE, NUMBER, UNITS, Text, number
from carm_agent.dialogue.stop_words import is_stop
from carm_agent.navigation.task import Doubt
from carm_agent.planning.standard_views import find_view
from carm_core.errors import GoalError
from carm_core.landmarks import Landmark
from carm_core.language.commands import (
    ANGLE_LIMIT_DEG,
    COMMAND_LIMIT,
    VAGUE_DEG,
    VAGUE_MM,
    Command,
    Confirm,
    Correct,
    Expose,
    Hint,
    Navigate,
    Nudge,
    Rotate,
    Stop,
    Unknown,
)
from carm_core.language.mentions import Mention, mentions, split_words

LONGEST_SENTENCE = 60
"""Words of a sentence; longer ones are not read."""
LONGEST_TEXT = 500
"""Characters of a sentence; longer ones are not read."""
HINTS = {"left": Hint.LEFT, "right": Hint.RIGHT, "up": Hint.UP, "down": Hint.DOWN}


class Topic(StrEnum):
    """What a sentence is about beside its command, or what it lacks."""

    NONE = "none"
    DECLINE = "decline"
    STATUS = "status"
    BACK = "back"
    VIEW = "view"
    WHICH = "which landmark"
    WHERE_TO = "direction"
    HOW_FAR = "out of range"
    TWO = "two commands"
    LIMITS = "limits"
    LONG = "too long"
    QUESTION = "question"


@dataclass(frozen=True)
class Reading:
    """What was understood.

    Attributes:
        command: What the clinician wants; ``Unknown`` when it is not clear.
        topic: What the sentence is about when it is no command, or what it lacks.
        landmarks: That may be meant, when it is not clear which.
        certain: Whether every word was understood.
    """

    command: Command = field(default_factory=Unknown)
    topic: Topic = Topic.NONE
    landmarks: tuple[Landmark, ...] = ()
    certain: bool = True


@dataclass(frozen=True)
class Heard:
    """An utterance, handed on as it is: each part is read once, when it is first needed.

    A stop is known at once. Reading the rest may take 80 ms, too long for what only has to be searched for a stop.

    Attributes:
        words: As they came.
    """

    words: str

    @cached_property
    def is_stop(self) -> bool:
        """Whether the words sound like a stop."""
        return is_stop(self.words)

    @cached_property
    def intent(self) -> Reading:
        """What was understood by rule."""
        return Reading(Stop()) if self.is_stop else _read(self.words)


def _read(text: str) -> Reading:
    if len(text) > LONGEST_TEXT:
        return Reading(topic=Topic.LONG)
    words = split_words(text)
    sentence = " ".join(words)
    if not words or len(words) > LONGEST_SENTENCE:
        return Reading()
    words = [spelled(word) for word in words]
    if any(re.search(rf"\b(?:{LIMITS})(?!\w)", said) for said in (sentence, " ".join(words))):
        return Reading(topic=Topic.LIMITS)
    answer = _answer(" ".join(words))
    if answer is not None:
        return answer
    if re.search(r"(?<!\w)[-\u2212]\d|\bminus\b", text):
        return Reading(topic=Topic.WHERE_TO)
    return _Sentence(words).read()


def named_thing(text: str) -> str:
    """Return what a sentence asks to see, whether or not it is a landmark, as in "show me the left kidney"; or ""."""
    said = re.fullmatch(_WANTED, " ".join(text.lower().split()).strip(" .!"))
    return said.group(1) if said else ""


_WANTED = re.compile(
    r"(?:please |now |next )*"
    r"(?:(?:can you |could you )?(?:show|bring|get|find|look at)(?: me| us)?|(?:go|move|navigate|take (?:me|us)) to"
    r"|cent(?:er|re)(?: on)?|(?:i|we) (?:want|need|would like)(?: to see)?) "
    r"(?:the )?([a-z][a-z0-9_ ]{1,40}?)"
    r"(?: (?:to|in|into) the (?:image )?(?:center|centre|middle))?(?: please| now)*"
)


def chosen(text: str) -> int | None:
    """Return which of two options a text names by its place, 0 or 1; None when it says anything else too."""
    said = re.fullmatch(
        r"(?:(?:the|number|option|no|yes|please|i mean|i meant|take|rather) )*(?:(first|former|1)|second|latter|2)"
        r"(?: (?:one|option|please))*",
        " ".join(split_words(text)),
    )
    return None if said is None else int(said.group(1) is None)


def doubted(text: str) -> Doubt:
    """Return what a correction says about where the arm stands: "look again" leaves open what "wrong" denies."""
    again = re.search(rf"\b(?:{AGAIN})\b", " ".join(split_words(text)))
    return Doubt.LOOK_AGAIN if again else Doubt.DENIED


def _answer(sentence: str) -> Reading | None:
    """Read what is an answer or a question rather than a command."""
    if re.fullmatch(NO, sentence):
        return Reading(topic=Topic.DECLINE)
    bare = re.sub(rf"\b(?:{YES})\b", " ", sentence).strip()
    if not bare and not re.fullmatch(MERE_POLITENESS, sentence.replace("go ahead", "yes")):
        return Reading(Confirm())
    if sentence in ("ok", "okay", "ok go", "fine", "please do", "right"):
        return Reading(Confirm()) if sentence != "right" else None
    if re.search(r"\bwhere (?:were|are) we\b|\b(?:what is the )?status\b|\bwhat are you doing\b", sentence):
        return Reading(topic=Topic.STATUS)
    if re.search(r"\b(?:go )?back (?:to )?(?:where we were|the last|the previous|before)|\bgo back$", sentence):
        return Reading(topic=Topic.BACK)
    if re.fullmatch(QUESTION, sentence) and not re.match(r"(?:how|what) about\b|is wrong", sentence):
        return Reading(topic=Topic.QUESTION)
    return None


class _Sentence:
    """One sentence on its way through the rules."""

    def __init__(self, words: list[str]) -> None:
        self.sentence = " ".join(words)
        self.named = mentions(words)
        left = list(words)
        for mention in self.named:
            left[mention.start : mention.stop] = ["#"] * (mention.stop - mention.start)
        self.words, self.text, self.in_depth = words, Text(left), False

    def read(self) -> Reading:
        correction = self._correction()
        if correction is not None:
            for pattern in (WRONG, AGAIN, OTHER, MEANT):
                self.text.take(pattern)
            self.text.directions()
            self.text.vague()
            self.text.take(CORRECTING)
            return self._certain(correction)
        self.text.take(IDIOMS)
        self.in_depth = self.text.take(DEPTH)
        view = self._view()
        turn = self._turned() if view is None or self.text.has(ANGLE.pattern) else None
        views = [reading for reading in (view, turn) if reading is not None]
        shift = self._shifted() if not views or Text(self.text.rest.split()).lengths() else None
        target = self._navigated()
        shot = Reading(Expose()) if not self.named and self.text.take(EXPOSE) else None
        found = [reading for reading in (*views, shift, target, shot) if reading is not None]
        if self.named and ("then" in self.words[2:] or self.text.has(AND)):
            found.append(Reading())
        if len(found) > 1:
            return Reading(topic=Topic.TWO)
        if not found:
            return Reading(topic=Topic.WHICH if self.in_depth else Topic.NONE)
        if self.in_depth and target is None:
            return Reading()
        return self._certain(found[0])

    def _certain(self, reading: Reading) -> Reading:
        if re.search(rf"\b(?:{DOUBTS})(?!\w)", self.sentence):
            return Reading(reading.command, reading.topic, reading.landmarks, certain=False)
        self.text.take(DENIED)
        self.text.take(ASIDES)
        self.text.take(FILLERS)
        left = re.sub(r"[|·#\s]+", "", self.text.rest)
        return Reading(reading.command, reading.topic, reading.landmarks, reading.certain and not left)

    # Corrections

    def _correction(self) -> Reading | None:
        marked = re.match(rf"(?:{WRONG})\b", self.sentence) is not None
        again = self.text.has(AGAIN)
        about_view = re.search(
            r"\b(?:this|that) (?:is|isnt)\b(?! wrong| it\b| not it)|\bthats\b(?! wrong| it\b| not it)"
            r"|\b(?:this|it) cannot\b|dont think this|looking at",
            self.sentence,
        )
        if self.text.has(OTHER):
            return Reading(Correct(Hint.OTHER_SIDE))
        if about_view and self.named:
            return Reading(Correct(Hint.LOOK_AGAIN))
        sided = self._sided()
        if sided is not None:
            return sided
        meant = self._meant(marked)
        if meant is not None:
            return meant
        too = re.search(r"\btoo (low|high|far (?:to the )?(left|right))\b", self.sentence)
        if too is not None:
            opposite = {"low": Hint.UP, "high": Hint.DOWN, "left": Hint.RIGHT, "right": Hint.LEFT}
            return Reading(Correct(opposite[too.group(2) or too.group(1)]))
        if not marked and not again:
            return None
        ways = [] if Text(self.words).lengths() else Text(self.words).directions()
        if len(ways) == 1 and not again:
            return Reading(Correct(HINTS[str(ways[0].value)]))
        if again or re.fullmatch(rf"(?:(?:{WRONG}) ?)+", self.sentence):
            return Reading(Correct(Hint.LOOK_AGAIN))
        return None

    def _sided(self) -> Reading | None:
        if self.named:
            return None
        match = re.search(r"(?<!not )(?:\bthe )\b(left|right) (?:one|side)\b|\bsaid (left|right)\b"
                          r"|\b(left|right) not (?:left|right)\b", self.sentence)  # fmt: skip
        if match is None or not re.match(rf"(?:{WRONG}|i meant|i said|it was|the)\b", self.sentence):
            return None
        side = next(group for group in match.groups() if group)
        return Reading(Correct(Hint.LEFT_SIDE if side == "left" else Hint.RIGHT_SIDE))

    def _meant(self, marked: bool) -> Reading | None:
        """Return a landmark that was meant instead."""
        if not self.named:
            return None
        meaning = re.search(rf"\b(?:{MEANT})\b", self.sentence)
        wanted = [mention for mention in self.named if not self._denied(mention)]
        instead = len(self.named) > len(wanted) and not self._verb()
        if not (marked or meaning or instead) or self.text.has(r"stop"):
            return None
        if len(wanted) == 1 and len(wanted[0].landmarks) == 1:
            return Reading(Correct(wanted[0].landmarks[0].id))
        choices = [mark for mention in wanted for mark in mention.landmarks]
        return Reading(topic=Topic.WHICH, landmarks=tuple(dict.fromkeys(choices)))

    def _denied(self, mention: Mention) -> bool:
        before = self.words[max(0, mention.start - 4) : mention.start]
        while before and before[-1] in ("the", "at", "to", "patients", "vertebra"):
            before.pop()
        return bool(before) and before[-1] == "not"

    def _verb(self) -> bool:
        return self.text.has(SEE)

    # Commands

    def _view(self) -> Reading | None:
        """Return the view angles as they are named: absolute."""
        total, hits = [0.0, 0.0], [0, 0]
        for _, axis, name in NAMES:
            pattern = rf"(?:{name}) ({NUMBER})(?: ?(?:degrees?|deg|°))?"
            matches = re.findall(rf"(?<!\w)(?:{pattern})(?!\w)", self.text.rest)
            if not matches or number(matches[0]) % 1:
                continue
            self.text.take(pattern)
            total = [t + number(matches[0]) * a for t, a in zip(total, axis, strict=True)]
            hits = [hit + len(matches) * abs(a) for hit, a in zip(hits, axis, strict=True)]
        if max(hits) > 1:
            return Reading(topic=Topic.TWO)  # "LAO 30 LAO 20", "LAO 30 RAO 30"
        if any(hits):
            return self._rotation(total[0], total[1], False)
        if self.text.take(FRONT):
            return Reading(Rotate(0, 0))
        lateral = re.search(rf"(?<!\w){LATERAL}(?!\w)", self.text.rest)
        if lateral is not None:
            self.text.take(LATERAL)
            return Reading(Rotate(-90 if lateral.group(1) == "right " else 90, 0))
        named = re.search(rf"(?<!\w){VIEW}(?!\w)", self.text.rest)
        if named is not None:
            self.text.take(VIEW)
            view = find_view(named.group(1))
            return Reading(Rotate(round(view.primary_deg), round(view.secondary_deg)), Topic.VIEW)
        return None

    def _turned(self) -> Reading | None:
        """Return a turn by an angle: relative."""
        turns = self.text.has(TURN)
        angles = self.text.angles()
        obliques = [name for name, _, pattern in NAMES if self.text.take(rf"(?:(?:to|towards?) )?(?:{pattern})")]
        if not (turns or angles or obliques):
            return None
        if self.text.has("degrees?|deg|°"):
            return Reading(topic=Topic.HOW_FAR)
        self.text.take(TURN)
        more = self.text.has(MORE)
        leans = obliques or [str(way.value) for way in self.text.directions()]
        amounts = self.text.vague() if not angles else []
        if self.named or len(leans) != 1 or len(angles) > 1 or len(amounts) > 1:
            return Reading(topic=Topic.WHERE_TO if not leans and not self.named else Topic.NONE)
        if not turns and not angles:
            return Reading()  # "a bit cranial": a move or a turn?
        size = angles[0].value if angles else VAGUE_DEG[str(amounts[0].value) if amounts else ""]
        axis = LEANS[leans[0]]
        reading = self._rotation(float(size) * axis[0], float(size) * axis[1], True)
        if not turns and not more:
            return Reading(reading.command, reading.topic, certain=False)  # "30 degrees LAO": by or to?
        return reading

    def _rotation(self, primary: float, secondary: float, relative: bool) -> Reading:
        if max(abs(primary), abs(secondary)) > ANGLE_LIMIT_DEG or primary % 1 or secondary % 1:
            return Reading(topic=Topic.HOW_FAR)
        try:
            return Reading(Rotate(int(primary), int(secondary), relative))
        except GoalError:
            return Reading(topic=Topic.HOW_FAR)

    def _shifted(self) -> Reading | None:
        lengths, ways, vague = self.text.lengths(), self.text.directions(), self.text.vague()
        if self.text.has(UNITS):
            return Reading(topic=Topic.HOW_FAR)
        if not lengths and not ways:
            lacks = not self.named and (vague or self.text.has(MOVE)) and not self.text.has(EXPOSE)
            return Reading(topic=Topic.WHERE_TO) if lacks else None
        if not ways:
            return Reading(topic=Topic.WHERE_TO)
        if self.named and not lengths and self._verb():
            return Reading(topic=Topic.TWO)
        sizes = [float(part.value) for part in lengths] or [float(VAGUE_MM[str(part.value)]) for part in vague]
        if not sizes and not self.named:
            sizes = [float(VAGUE_MM[""])]
        axes = {way.value in ("up", "down") for way in ways}
        if len(sizes) != len(ways) or len(axes) != len(ways):
            return Reading(topic=Topic.WHERE_TO)
        if max(sizes) > COMMAND_LIMIT:
            return Reading(topic=Topic.HOW_FAR)
        steps = [(size * STEPS[str(way.value)][0], size * STEPS[str(way.value)][1])
                 for size, way in zip(sizes, ways, strict=True)]  # fmt: skip
        try:
            return Reading(Nudge(round(sum(step[0] for step in steps)), round(sum(step[1] for step in steps))))
        except GoalError:
            return Reading(topic=Topic.HOW_FAR)

    def _navigated(self) -> Reading | None:
        wanted = [mention for mention in self.named if not self._denied(mention)]
        if not wanted:
            return None
        marks = tuple(dict.fromkeys(mark for mention in wanted for mark in mention.landmarks))
        if len(marks) == 1:
            return Reading(Navigate(marks[0].id, self.in_depth))
        return Reading(topic=Topic.WHICH, landmarks=marks)
