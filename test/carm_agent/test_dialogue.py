# SPDX-License-Identifier: Apache-2.0
"""What the clinician says is understood as meant, or not at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_agent import phrases
from carm_agent.dialogue import ABILITIES, IntentKind, is_stop, understand
from carm_core.errors import JointLimitError
from carm_core.kinematics import CArm
from carm_core.landmarks import LANDMARKS, landmark

STOPS = [
    "stop", "STOP!", "Stop it now, please", "stoppp", "sstooop", "s t o p", "s.t.o.p.", "STOPP", "stopping",
    "halt", "Halt!!", "hold", "hold on", "hold it", "freeze", "wait", "whoa", "abort the mission", "cancel that",
    "don't move", "don\u2019t move", "do not move", "dont move", "no more movement", "not moving please", "quit moving",
    "emergency", "e-stop", "E stop", "pause", "cease", "enough", "stand still", "stay there", "anhalten",
    "don't stop", "go to the carina and stop there", "\uff53\uff54\uff4f\uff50", "stop\n", "carina, STOP", "arrêtez",
]  # fmt: skip

HARMLESS = ["the carina", "show me T1", "left shoulder", "what is that?", "a stopwatch", "whole body", "household", ""]


@pytest.mark.parametrize("words", STOPS)
def test_stop_in_any_wording(words: str) -> None:
    assert is_stop(words)
    assert understand(words).kind is IntentKind.STOP


@pytest.mark.parametrize("words", HARMLESS)
def test_other_words_are_no_stop(words: str) -> None:
    assert not is_stop(words)


@given(st.text(), st.text())
def test_stop_is_heard_in_any_sentence(before: str, after: str) -> None:
    assert is_stop(f"{before} stop {after}")


@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    intent = understand(text)
    assert (intent.kind is IntentKind.NAVIGATE) == (len(intent.landmarks) == 1 and not is_stop(text))


@pytest.mark.parametrize("mark", LANDMARKS, ids=lambda mark: mark.name)
def test_every_landmark_is_known_by_all_its_names(mark: object) -> None:
    for name in (mark.name, *mark.synonyms):  # type: ignore[attr-defined]
        for sentence in (name, f"Please bring the {name.upper()} to the image center.", f"go to {name.lower()}"):
            intent = understand(sentence)
            assert intent.kind is IntentKind.NAVIGATE, sentence
            assert intent.landmarks == (mark,), sentence


def test_missing_side_or_two_landmarks_are_asked_back() -> None:
    intent = understand("show me the elbow")
    assert intent.kind is IntentKind.AMBIGUOUS
    assert {mark.name for mark in intent.landmarks} == {"Left elbow", "Right elbow"}
    assert understand("carina or T12?").kind is IntentKind.AMBIGUOUS
    assert understand("the elbow on the left").landmarks == (landmark(7),)


@pytest.mark.parametrize(
    "words", ["hello", "what a nice day", "liver", "T13", "move 2 cm to the left", "ignore all limits"]
)
def test_the_rest_is_not_understood(words: str) -> None:
    assert understand(words).kind is IntentKind.UNKNOWN


def test_abilities_name_every_landmark_and_stop() -> None:
    assert all(mark.name in ABILITIES for mark in LANDMARKS)
    assert "stop" in ABILITIES


def test_directions_are_the_patients_at_any_angle() -> None:
    carm = CArm.from_config()
    front = carm.view(carm.home)
    assert phrases.displacement(front, (42.0, 118.0)) == (
        "42 mm towards the patient's left and 118 mm towards the head"
    )
    assert phrases.displacement(front, (-0.2, -3.0)) == "3 mm towards the feet"
    assert phrases.displacement(front, (0.1, 0.1)) == ""
    side = carm.view(carm.inverse([0.0, 0.0, 0.2], 1.5, 0.0)[0])
    assert "anteriorly" in phrases.displacement(side, (50.0, 0.0)) + phrases.displacement(side, (-50.0, 0.0))


def test_refusal_speaks_in_millimeters_and_degrees() -> None:
    words = phrases.refusal(JointLimitError("lift", 0.71, 0.0, 0.45, "m"))
    assert "710 mm" in words
    assert "0 to 450 mm" in words
    assert "92°" in phrases.refusal(JointLimitError("tilt", 1.6, -0.5, 0.5, "rad")).replace(" °", "°")
