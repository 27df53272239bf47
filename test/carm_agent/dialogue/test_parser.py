# SPDX-License-Identifier: Apache-2.0
"""The rules read what the sentence generator means: both follow docs/dialogue.md, and were written apart."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_agent.dialogue.parser import Heard, Topic
from carm_agent.dialogue.quantities import NUMBER, Text, number
from carm_core.language.commands import Confirm, Correct, Expose, Hint, Navigate, Nudge, Rotate, Stop, Unknown
from carm_core.language.mentions import mentions, split_words
from carm_perception.datasets.language import Split, sample
from carm_perception.datasets.language.amounts import angle, length, number_words

MOTIONS = (Navigate, Nudge, Rotate, Expose, Correct, Confirm)


@pytest.mark.parametrize("split", ["train", "test"])
def test_rules_and_generator_agree(split: Split) -> None:
    rng = np.random.default_rng(7)
    drawn = [sample(rng, split) for _ in range(2000)]
    wrong = [(text, command, Heard(text).intent) for text, command in drawn if Heard(text).intent.command != command]
    assert len(wrong) <= 0.005 * len(drawn), wrong[:5]
    assert [case for case in wrong if isinstance(case[2].command, MOTIONS) and case[2].certain] == []


def test_every_stop_of_the_generator_is_one() -> None:
    rng = np.random.default_rng(8)
    for split in ("train", "test"):
        for _ in range(2000):
            text, command = sample(rng, split)  # type: ignore[arg-type]
            assert (command == Stop()) == (Heard(text).intent.command == Stop()), text


@given(st.integers(0, 2**32 - 1))
def test_lengths_and_angles_in_words(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for draw, take in ((length, Text.lengths), (angle, Text.angles)):
        words, value = draw(rng)
        found = take(Text(split_words(words)))
        assert [round(float(part.value)) for part in found] == [value], words


@given(st.integers(0, 99))
def test_number_words_are_read_back(value: int) -> None:
    import re

    assert number(number_words(value)) == value
    assert re.fullmatch(NUMBER, number_words(value))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("the left shoulder", [{3}]),
        ("shoulder on the left side", [{3}]),
        ("the shoulder on the left of the image", [{2}]),
        ("the shoulder on the left in the image center", [{3}]),
        ("head of the patient's right humerus", [{2}]),
        ("towards the head", []),
        ("head to the carina", [{11}]),
        ("T-1, T 12", [{10}, {14}]),
        ("the elbow", [{6, 7}]),
        ("left shoulder blade tip", [{5}]),
        ("left shoulder and right wrist", [{3}, {8}]),
    ],
)
def test_mentions(text: str, ids: list[set[int]]) -> None:
    assert [{mark.id for mark in mention.landmarks} for mention in mentions(split_words(text))] == ids


@pytest.mark.parametrize(
    ("text", "command", "topic"),
    [
        ("bring it 2cm up", Nudge(0, 20), Topic.NONE),
        ("spider view please", Rotate(45, -25), Topic.VIEW),
        ("30 degrees LAO", Rotate(30, 0, True), Topic.NONE),
        ("a bit more cranial", Unknown(), Topic.NONE),
        ("left and right", Unknown(), Topic.WHERE_TO),
        ("LAO 30 and 2 cm up", Unknown(), Topic.TWO),
        ("move 900 mm up", Unknown(), Topic.HOW_FAR),
        ("no", Unknown(), Topic.DECLINE),
        ("where were we", Unknown(), Topic.STATUS),
        ("go back to where we were", Unknown(), Topic.BACK),
        ("no, that's too low", Correct(Hint.UP), Topic.NONE),
        ("show the left elbow, not the right one", Navigate(7), Topic.NONE),
        ("show me the carina in depth too", Navigate(11, in_depth=True), Topic.NONE),
        ("center T12 with two views", Navigate(14, in_depth=True), Topic.NONE),
        ("biplane, please", Unknown(), Topic.WHICH),
        ("2 cm up in depth", Unknown(), Topic.NONE),
    ],
)
def test_by_hand(text: str, command: object, topic: Topic) -> None:
    reading = Heard(text).intent
    assert (reading.command, reading.topic) == (command, topic)


@pytest.mark.parametrize("text", ["show me the carina in depth too", "left wrist in 3d please", "biplane of the T1"])
def test_every_word_about_depth_is_known(text: str) -> None:
    assert Heard(text).intent.certain


def test_thirty_degrees_lao_may_mean_two_things() -> None:
    assert not Heard("30 degrees LAO").intent.certain


@given(st.text(max_size=300))
def test_any_text_is_read_in_no_time(text: str) -> None:
    started = time.monotonic()
    assert Heard(text).intent is not None
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize(
    "text", ["a " * 3000, "left " * 2000, "one and a half " * 1000, "1" * 5000 + " cm up", "lao " * 2000]
)
def test_long_texts_do_not_hold_the_executor(text: str) -> None:
    started = time.monotonic()
    assert Heard(text).intent.command in (Unknown(), Stop())
    assert time.monotonic() - started < 0.5
