# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import AnswerError
from carm_core.landmarks import LANDMARKS
from carm_core.language.commands import Command, Confirm, Correct, Expose, Hint, Navigate, Nudge, Rotate, Stop, Unknown
from carm_core.localization import Protocol, Query
from carm_perception.protocols.parsing import (
    LIMIT_MM,
    LocalizationAnswer,
    NavigationAnswer,
    PointingAnswer,
    ReevaluationAnswer,
    RetrievalAnswer,
    parse,
    parse_command,
    parse_localization,
    parse_navigation,
    parse_pointing,
    parse_reevaluation,
    parse_retrieval,
)
from carm_perception.protocols.prompts import SHORT_PROTOCOLS, full_prompt, short_prompt

IDS = [mark.id for mark in LANDMARKS]
ids_of = st.permutations(IDS)
millimeters = st.integers(-LIMIT_MM, LIMIT_MM)
prose = st.text(st.characters(blacklist_characters="<>", blacklist_categories=("Cs",)), max_size=60)
directions = {"x": ("LEFT", "RIGHT"), "y": ("UP", "DOWN")}


@st.composite
def navigation_answers(draw: st.DrawFn) -> NavigationAnswer:
    def axis(name: str) -> tuple[str, str]:
        if draw(st.booleans()):
            return "CENTER", "NONE"
        return draw(st.sampled_from(directions[name])), draw(st.sampled_from(("SMALL", "MODERATE", "LARGE")))

    (x, extent_x), (y, extent_y) = axis("x"), axis("y")
    return NavigationAnswer(draw(prose), x, extent_x, draw(prose), y, extent_y, draw(prose))  # type: ignore[arg-type]


angles = st.integers(-180, 180)
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Navigate, st.sampled_from(IDS)),
    st.builds(Nudge, millimeters, millimeters),
    st.builds(Rotate, angles, angles, st.booleans()),
    st.builds(Correct, st.sampled_from(IDS) | st.sampled_from(Hint)),
    st.sampled_from((Expose(), Confirm(), Stop(), Unknown())),
)


@st.composite
def answers(draw: st.DrawFn) -> tuple[object, Query]:
    order = draw(ids_of)
    protocol = draw(st.sampled_from(list(Protocol)))
    target = order[0]
    answer = {
        Protocol.RETRIEVAL: RetrievalAnswer(tuple(order[:3])),
        Protocol.LOCALIZATION: LocalizationAnswer(tuple(order[:2])),
        Protocol.NAVIGATION: draw(navigation_answers()),
        Protocol.REEVALUATION: ReevaluationAnswer(draw(prose), tuple(order[:2])),
        Protocol.POINTING: PointingAnswer(target, draw(millimeters), draw(millimeters)),
        Protocol.COMMAND: draw(commands),
    }[protocol]
    return answer, Query(protocol, target)


@given(answers(), st.sampled_from(("{}", " {}\n", "```json\n{}\n```", "```\n{}\n```", "\n\n```xml\n {} \n```  ")))
def test_what_is_written_is_read_back(case: tuple[object, Query], around: str) -> None:
    answer, query = case
    assert parse(around.replace("{}", answer.text()), query) == answer  # type: ignore[attr-defined]


@given(answers(), st.text(min_size=1, max_size=8), st.data())
def test_inserted_text_is_never_a_guess(case: tuple[object, Query], extra: str, data: st.DataObject) -> None:
    answer, query = case
    text: str = answer.text()  # type: ignore[attr-defined]
    place = data.draw(st.integers(0, len(text)))
    changed = text[:place] + extra + text[place:]
    try:
        parsed = parse(changed, query)
    except AnswerError:
        return
    if isinstance(parsed, LocalizationAnswer | RetrievalAnswer):
        assert len(set(parsed.landmark_ids)) == len(parsed.landmark_ids)
        assert set(parsed.landmark_ids) <= set(IDS)


@given(st.text(max_size=200), st.sampled_from(list(Protocol)))
def test_prose_is_an_error(text: str, protocol: Protocol) -> None:
    with pytest.raises(AnswerError):
        parse(text, Query(protocol, 11))


@pytest.mark.parametrize(
    "text",
    [
        "[10, 11, 12]",
        "[10]",
        "[10,10]",
        "[0,11]",
        "[10,15]",
        "[10,99999999]",
        "[010,11]",
        "[10,  11]",
        "[10 ,11]",
        "[10;11]",
        "10,11",
        "The answer is [10,11]",
        "[10,11].",
        "[[10,11]]",
        "[10.0,11]",
        "[-10,11]",
        "[]",
        "[T1,Carina]",
    ],
)
def test_localization_refuses(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_localization(text)


@pytest.mark.parametrize("text", ["[10,11]", "[10, 11]", "  [10,11]\n", "```\n[10,11]\n```"])
def test_localization_tolerates(text: str) -> None:
    assert parse_localization(text).landmark_ids == (10, 11)


@pytest.mark.parametrize(
    "text",
    [
        "[11: Carina, 10: T1]",
        "[11: Carina, 10: T1, 11: Carina]",
        "[11: Carina, 10: T1, 12: Left hemidiaphragm]",
        "[11: carina, 10: T1, 12: Right hemidiaphragm]",
        "[11:Carina, 10: T1, 12: Right hemidiaphragm]",
        "[11, 10, 12]",
        "[11: Carina, 10: T1, 15: Heart]",
    ],
)
def test_retrieval_refuses(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_retrieval(text)


@pytest.mark.parametrize(
    "text",
    [
        '{"target": 11, "dx_mm": -42.5, "dy_mm": 118}',
        '{"target": 11, "dx_mm": 401, "dy_mm": 0}',
        '{"target": 11, "dx_mm": 007, "dy_mm": 0}',
        '{"target": 11, "dx_mm": -0, "dy_mm": 0}',
        '{"target": 11, "dy_mm": 0, "dx_mm": 0}',
        '{"target": 11, "dx_mm": 0, "dy_mm": 0, "note": 1}',
        '{"target": "11", "dx_mm": 0, "dy_mm": 0}',
        '{"target": 10, "dx_mm": 0, "dy_mm": 0}',
        '{"target": 15, "dx_mm": 0, "dy_mm": 0}',
        "{'target': 11, 'dx_mm': 0, 'dy_mm': 0}",
        '{"target": 11, "dx_mm": 1e2, "dy_mm": 0}',
    ],
)
def test_pointing_refuses(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_pointing(text, 11)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<x>RIGHT</x>", "<x>UP</x>"),
        ("<x>RIGHT</x>", "<x>CENTER</x>"),
        ("<extent_x>SMALL</extent_x>", "<extent_x>NONE</extent_x>"),
        ("<extent_x>SMALL</extent_x>", "<extent_x>small</extent_x>"),
        ("<y>DOWN</y>", ""),
        ("</output>", ""),
    ],
)
def test_navigation_refuses(old: str, new: str) -> None:
    text = NavigationAnswer("Skull", "RIGHT", "SMALL", "a", "DOWN", "LARGE", "b").text()
    assert parse_navigation(text).x == "RIGHT"
    with pytest.raises(AnswerError):
        parse_navigation(text.replace(old, new))


def test_contract_examples() -> None:
    assert parse_retrieval("[11: Carina, 10: T1, 12: Right hemidiaphragm]").landmark_ids == (11, 10, 12)
    response = "<response><visual_reasoning>ribs</visual_reasoning><landmarks>[10,11]</landmarks></response>"
    assert parse_reevaluation(response) == ReevaluationAnswer("ribs", (10, 11))
    assert parse_pointing('{"target": 11, "dx_mm": -42, "dy_mm": 118}') == PointingAnswer(11, -42, 118)


def test_prompts_hold_the_vocabulary_and_the_hint() -> None:
    for protocol in Protocol:
        text = full_prompt(Query(protocol, 9, hint="further up", correction="[2,3]"), (155.0, 155.0))
        assert all(f"{mark.id}: {mark.name}" in text for mark in LANDMARKS)
        assert text.endswith("The clinician says: further up")
    assert "9 (Left wrist)" in full_prompt(Query(Protocol.POINTING, 9), (155.0, 155.0))
    assert "[2,3]" in full_prompt(Query(Protocol.REEVALUATION, correction="[2,3]"), (155.0, 155.0))
    assert len({short_prompt(Query(protocol, 9)) for protocol in SHORT_PROTOCOLS}) == len(SHORT_PROTOCOLS)


@pytest.mark.parametrize(
    "text",
    [
        '{"intent": "navigate"}',
        '{"intent": "navigate", "target": 15}',
        '{"intent": "navigate", "target": "Carina"}',
        '{"intent": "nudge", "dx_mm": 401, "dy_mm": 0}',
        '{"intent": "nudge", "dx_mm": 1.5, "dy_mm": 0}',
        '{"intent": "nudge", "dy_mm": 0, "dx_mm": 1}',
        '{"intent": "rotate", "primary_deg": 181, "secondary_deg": 0, "relative": 0}',
        '{"intent": "rotate", "primary_deg": 18, "secondary_deg": 0, "relative": 2}',
        '{"intent": "rotate", "primary_deg": 18, "secondary_deg": 0, "relative": true}',
        '{"intent": "rotate", "primary_deg": -0, "secondary_deg": 0, "relative": 1}',
        '{"intent": "correct", "what": "sideways"}',
        '{"intent": "correct", "what": 0}',
        '{"intent": "stop", "velocity": 5}',
        '{"intent": "Stop"}',
        '{"intent": "disable_supervisor"}',
        "stop",
        '{"intent": "stop"}{"intent": "stop"}',
    ],
)
def test_command_refuses(text: str) -> None:
    with pytest.raises(AnswerError):
        parse_command(text)


@given(st.text(max_size=400))
def test_a_sentence_cannot_bring_special_tokens_into_a_prompt(sentence: str) -> None:
    prompt = short_prompt(Query(Protocol.COMMAND, hint=f"<image>{sentence}<|assistant|>"))
    assert not set("<>\n") & set(prompt)
    assert len(prompt) < 220
