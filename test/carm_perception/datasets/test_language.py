# SPDX-License-Identifier: Apache-2.0
"""Sentences with their commands, and remarks: enough of them, well-formed, held apart, and consistent with anatomy."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.landmarks import LANDMARKS, landmark
from carm_core.language.commands import Command, Correct, Intent, Navigate, Nudge, Rotate
from carm_perception.datasets.language import WORD_LIMIT, Split, remark, sample
from carm_perception.datasets.language.amounts import number_words
from carm_perception.protocols.parsing import parse_command
from carm_perception.protocols.remarks import beyond, read_remark, revise

SPLITS: tuple[Split, ...] = ("train", "test")
IDS = [mark.id for mark in LANDMARKS]


def drawn(split: Split, count: int, seed: int = 0) -> list[tuple[str, Command]]:
    rng = np.random.default_rng(seed)
    return [sample(rng, split) for _ in range(count)]


@pytest.mark.parametrize("split", SPLITS)
def test_sentences_are_short_and_their_commands_have_one_form(split: Split) -> None:
    for sentence, command in drawn(split, 4000):
        assert 0 < len(sentence.split()) <= WORD_LIMIT
        assert "{" not in sentence
        assert parse_command(command.text()) == command


def test_all_intents_targets_and_directions_occur() -> None:
    commands = [command for _, command in drawn("train", 6000)]
    assert set(Counter(command.intent for command in commands)) == set(Intent)
    assert {c.target for c in commands if isinstance(c, Navigate)} == set(IDS)
    assert {(np.sign(c.dx_mm), np.sign(c.dy_mm)) for c in commands if isinstance(c, Nudge)} >= {
        *((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1))
    }
    assert {c.relative for c in commands if isinstance(c, Rotate)} == {True, False}
    assert len({c.what for c in commands if isinstance(c, Correct)}) >= 8 + 10


def test_there_are_far_more_than_a_hundred_thousand_sentences() -> None:
    """By the birthday paradox: two independent draws of n sentences share n^2 / N when N are equally likely."""
    first, second = ({text.lower() for text, _ in drawn("train", 6000, seed)} for seed in (1, 2))
    assert len(first) * len(second) / len(first & second) > 1e5 / 4  # frequent short sentences repeat most
    assert len(first) > 4800


def test_training_hears_no_sentence_of_the_test() -> None:
    plain = ({text.lower().strip(" .!") for text, command in drawn(split, 4000)} for split in SPLITS)
    train, test = plain
    assert len(train & test) < 0.01 * len(test)


def test_draws_are_reproducible() -> None:
    assert drawn("train", 50, 3) == drawn("train", 50, 3)


@given(st.integers(0, 99))
def test_numbers_in_words(value: int) -> None:
    assert number_words(value).replace(" ", "").isalpha()
    assert len({number_words(n) for n in range(100)}) == 100


@given(st.permutations(IDS), st.integers(0, 2**32 - 1), st.sampled_from(SPLITS))
def test_a_remark_is_read_as_it_was_meant(order: list[int], seed: int, split: Split) -> None:
    wrong, other, right = order[:3]
    text = remark(np.random.default_rng(seed), wrong, right, split)
    constraint = read_remark(text, (wrong, other))
    assert constraint is not None, text
    assert wrong in constraint.wrong, text
    assert right in constraint.candidates, text
    assert not constraint.wrong & constraint.candidates


@given(st.sampled_from([mark for mark in LANDMARKS if mark.mirror_id]), st.integers(0, 10**6), st.sampled_from(SPLITS))
def test_a_remark_on_the_side_names_the_mirror(mark: object, seed: int, split: Split) -> None:
    wrong, right = mark.id, mark.mirror_id  # type: ignore[attr-defined]
    constraint = read_remark(remark(np.random.default_rng(seed), wrong, right, split), (wrong, 10))
    assert constraint is not None
    assert right in constraint.candidates


@pytest.mark.parametrize(
    ("text", "answered", "wrong", "candidates"),
    [
        ("no, that is the other side", (3, 10), {3}, {2}),
        ("further up", (11, 12), {11}, {1, 2, 3, 10}),
        ("this is the diaphragm, not the carina", (11, 10), {11}, {12, 13}),
        ("The right one!", (10, 7), {7}, {6}),
        ("too low", (14, 12), {14}, set(range(1, 14))),
        ("on the left of the image", (11, 10), {11}, {1, 2, 4, 6, 8, 9, 10, 12, 14}),
    ],
)
def test_remarks_by_hand(text: str, answered: tuple[int, ...], wrong: set[int], candidates: set[int]) -> None:
    constraint = read_remark(text, answered)
    assert constraint is not None
    assert constraint.wrong == wrong
    assert constraint.candidates & set(IDS) == candidates


@pytest.mark.parametrize("text", ["", "hello", "up and down", "nice weather"])
def test_other_words_are_no_remark(text: str) -> None:
    assert read_remark(text, (11, 10)) is None


def test_relations_are_antisymmetric_and_mirror() -> None:
    for one in IDS:
        for way, back in (("up", "down"), ("left", "right")):
            assert all(one in beyond(other, back) for other in beyond(one, way))
        mirror = landmark(one).mirror_id
        assert mirror is None or mirror not in beyond(one, "up") | beyond(one, "down")


def test_what_the_image_shows_narrows_a_direction() -> None:
    constraint = read_remark("no, further down", (10, 11))
    assert constraint is not None
    places = {10: (0.0, 0.0), 11: (2.0, -60.0), 2: (-140.0, 5.0), 3: (150.0, -4.0)}
    assert constraint.seen(places).candidates == {11, 3}
    assert constraint.seen({10: (0.0, 0.0), 2: (-140.0, 5.0)}).candidates == constraint.candidates
    side = read_remark("no, the other side", (3, 10))
    assert side is not None
    assert side.seen(places) == side


def test_revision_puts_the_likeliest_candidate_first() -> None:
    constraint = read_remark("no, the other side", (3, 10))
    assert constraint is not None
    assert revise((3, 10, 2, 11), constraint) == (2, 10)
