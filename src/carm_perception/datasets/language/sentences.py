# SPDX-License-Identifier: Apache-2.0
"""Draws sentences with the commands that they stand for. The conventions are those of docs/dialogue.md."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from carm_core.language.commands import (
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
from carm_perception.datasets.language import amounts, names, scope, surface, words
from carm_perception.datasets.language.words import Pool, Split

WORD_LIMIT = 24
"""No sentence has more words."""

_UNIT = {"left": (1, 0), "right": (-1, 0), "up": (0, 1), "down": (0, -1)}
_LEAN = {"lao": (1, 0), "rao": (-1, 0), "cran": (0, 1), "caud": (0, -1)}
_IMAGE_WORDS = 0.12

Drawn = tuple[str, Command]


class _Speaker:
    """Fills the slots of templates for one split."""

    def __init__(self, rng: np.random.Generator, split: Split) -> None:
        self.rng, self.split = rng, split

    def one_of(self, options: tuple[str, ...]) -> str:
        return options[int(self.rng.integers(len(options)))]

    def say(self, templates: Pool, **slots: str) -> str:
        """Draw a template and fill it; slots not given are drawn."""
        text = templates.template(self.rng, self.split)
        return self.fill(text, **slots)

    def fill(self, text: str, **slots: str) -> str:
        for slot in dict.fromkeys(re.findall(r"\{(\w+)\}", text)):
            value = slots[slot] if slot in slots else self._draw(slot)
            text = text.replace(f"{{{slot}}}", value)
        return text

    def _draw(self, slot: str) -> str:
        pools = {
            "see": words.SEE,
            "move": words.MOVE,
            "turn": words.TURN,
            "view": words.VIEW,
            "wrong": words.WRONG,
            "far": scope.DISTANCES,
            "round": scope.ROUNDS,
        }
        if slot in pools:
            return pools[slot].word(self.rng, self.split)
        drawers: dict[str, Callable[[], str]] = {
            "mark": lambda: self.mark(self.one()),
            "other": lambda: self.mark(self.one()),
            "part": lambda: names.part(self.rng, self.one(names.SIDED), self.split),
            "amount": lambda: amounts.length(self.rng)[0],
            "degrees": lambda: amounts.angle(self.rng)[0],
            "way": lambda: words.WAYS[self.one_of(tuple(_UNIT))].word(self.rng, self.split),
            "lean": lambda: words.LEANS[self.one_of(tuple(_LEAN))].word(self.rng, self.split),
            "angles": lambda: self.angles()[0],
        }
        return drawers[slot]()

    def one(self, ids: tuple[int, ...] = names.IDS) -> int:
        return ids[int(self.rng.integers(len(ids)))]

    def mark(self, identifier: int) -> str:
        return names.phrase(self.rng, identifier, self.split)

    def angles(self) -> tuple[str, int, int]:
        """Draw view angles as they are named, with primary and secondary, degrees."""
        first, second = self.one_of(("lao", "rao")), self.one_of(("cran", "caud"))
        kinds = ((first,), (second,), (first, second))[int(self.rng.choice(3, p=(0.45, 0.2, 0.35)))]
        parts, total = [], [0, 0]
        for kind in kinds:
            top = 13 if kind in ("lao", "rao") else 9
            value = (
                int(self.rng.integers(1, top)) * 5 if self.rng.random() < 0.7 else int(self.rng.integers(1, 5 * top))
            )
            name = words.ANGLE_NAMES[kind].word(self.rng, self.split)
            number = amounts.number_words(value) if self.rng.random() < 0.15 else str(value)
            degrees = self.one_of(("", "", "", " degrees", "°"))
            parts.append(f"{name} {number}{degrees}" if number.isdigit() or degrees != "°" else f"{name} {number}")
            total = [t + value * axis for t, axis in zip(total, _LEAN[kind], strict=True)]
        return self.one_of((" ", " ", " and ", ", ")).join(parts), total[0], total[1]

    def way(self, axes: tuple[str, ...] = tuple(_UNIT)) -> tuple[str, str]:
        """Draw a direction: its words, and the patient's direction."""
        way = self.one_of(axes)
        pool = words.WAYS[way]
        if way in words.IMAGE_WAYS and self.rng.random() < _IMAGE_WORDS:
            pool = words.IMAGE_WAYS[way]
        return pool.word(self.rng, self.split), way


def _navigate(speaker: _Speaker) -> Drawn:
    target = speaker.one()
    other = names.another(speaker.rng, target)
    return speaker.say(words.GO_THERE, mark=speaker.mark(target), other=speaker.mark(other)), Navigate(target)


def _nudge(speaker: _Speaker) -> Drawn:
    kind = speaker.rng.random()
    if kind < 0.15:
        axes = (("left", "right"), ("up", "down"))
        (first, a), (second, b) = (speaker.way(pair) for pair in (axes if speaker.rng.random() < 0.5 else axes[::-1]))
        (one, n), (two, m) = amounts.length(speaker.rng), amounts.length(speaker.rng)
        text = speaker.say(words.NUDGE_BOTH, amount=one, way=first, amount2=two, way2=second)
        return text, Nudge(n * _UNIT[a][0] + m * _UNIT[b][0], n * _UNIT[a][1] + m * _UNIT[b][1])
    words_for_way, way = speaker.way()
    if kind < 0.7:
        text, size = amounts.length(speaker.rng)
        sentence = speaker.say(words.NUDGE, amount=text, way=words_for_way)
    else:
        touch, key = amounts.vague(speaker.rng, speaker.split)
        template = words.NUDGE_VAGUE.template(speaker.rng, speaker.split)
        size = VAGUE_MM[key if "{touch}" in template else ""]
        sentence = speaker.fill(template, touch=touch, way=words_for_way)
    return sentence, Nudge(size * _UNIT[way][0], size * _UNIT[way][1])


def _rotate(speaker: _Speaker) -> Drawn:
    kind = speaker.rng.random()
    if kind < 0.4:
        text, primary, secondary = speaker.angles()
        return speaker.say(words.VIEW_ABSOLUTE, angles=text), Rotate(primary, secondary)
    if kind < 0.5:
        view = tuple(words.VIEW_NAMED)[int(speaker.rng.integers(len(words.VIEW_NAMED)))]
        name = words.VIEW_NAMED[view].word(speaker.rng, speaker.split)
        template = speaker.one_of(("{name}", "{view} {name}", "back to {name}", "go back to {name}"))
        return speaker.fill(template, name=name), Rotate(*view)
    lean = speaker.one_of(tuple(_LEAN))
    side = words.LEANS[lean].word(speaker.rng, speaker.split)
    if kind < 0.8:
        text, size = amounts.angle(speaker.rng)
        sentence = speaker.say(words.TURN_RELATIVE, degrees=text, lean=side)
    else:
        touch, key = amounts.vague(speaker.rng, speaker.split)
        template = words.TURN_VAGUE.template(speaker.rng, speaker.split)
        size = VAGUE_DEG[key if "{touch}" in template else ""]
        sentence = speaker.fill(template, touch=touch, lean=side)
    return sentence, Rotate(size * _LEAN[lean][0], size * _LEAN[lean][1], relative=True)


def _correct(speaker: _Speaker) -> Drawn:
    if speaker.rng.random() < 0.3:
        target = speaker.one()
        other = names.another(speaker.rng, target)
        text = speaker.say(words.CORRECT_MARK, mark=speaker.mark(target), other=speaker.mark(other))
        return text, Correct(target)
    hint = speaker.one_of(tuple(words.CORRECT_HINTS))
    target = speaker.one()
    other = names.another(speaker.rng, target)
    text = speaker.say(words.CORRECT_HINTS[hint], mark=speaker.mark(target), other=speaker.mark(other))
    return text, Correct(Hint(hint))


def _expose(speaker: _Speaker) -> Drawn:
    return speaker.say(words.EXPOSE), Expose()


def _confirm(speaker: _Speaker) -> Drawn:
    return speaker.say(words.CONFIRM), Confirm()


def _stop(speaker: _Speaker) -> Drawn:
    return speaker.say(words.STOP), Stop()


def _unknown(speaker: _Speaker) -> Drawn:
    pools = (
        *(scope.CHAT, scope.CHAT, scope.QUESTIONS, scope.NO_SIDE, scope.NO_SIDE, scope.TWO_TARGETS),
        *(scope.INCOMPLETE, scope.INCOMPLETE, scope.TWO_COMMANDS, scope.LIMITS, scope.LIMITS, scope.TOO_FAR),
    )
    kind = int(speaker.rng.integers(len(pools) + 2))
    if kind == len(pools):
        return speaker.say(words.GO_THERE, mark=f"the {scope.ELSEWHERE.word(speaker.rng, speaker.split)}",
                           other="the heart"), Unknown()  # fmt: skip
    if kind > len(pools):
        return _gibberish(speaker.rng), Unknown()
    mark = speaker.one()
    other = speaker.mark(names.another(speaker.rng, mark))
    return speaker.say(pools[kind], mark=speaker.mark(mark), other=other), Unknown()


def _gibberish(rng: np.random.Generator) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    sizes = rng.integers(2, 9, size=int(rng.integers(1, 5)))
    return " ".join("".join(letters[i] for i in rng.integers(26, size=size)) for size in sizes)


_KINDS: tuple[tuple[float, Callable[[_Speaker], Drawn]], ...] = (
    (0.25, _navigate),
    (0.21, _nudge),
    (0.17, _rotate),
    (0.05, _expose),
    (0.1, _correct),
    (0.04, _confirm),
    (0.07, _stop),
    (0.11, _unknown),
)
_POLITE = (_navigate, _nudge, _rotate, _expose)


def sample(rng: np.random.Generator, split: Split = "train") -> tuple[str, Command]:
    """Draw a sentence and the command that it stands for.

    Args:
        rng: Source of randomness.
        split: ``"train"``, or ``"test"`` with templates and words that training never sees.

    Returns:
        The sentence, at most ``WORD_LIMIT`` words, and its command.
    """
    while True:
        kind = _KINDS[int(rng.choice(len(_KINDS), p=[share for share, _ in _KINDS]))][1]
        text, command = kind(_Speaker(rng, split))
        if kind in _POLITE:
            text = surface.polite(rng, text, split)
        if not isinstance(command, Stop) and rng.random() < surface.TYPO_RATE:
            text = surface.mistyped(rng, text)
        text = surface.spoken(rng, text)
        if len(text.split()) <= WORD_LIMIT:
            return text, command
