# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_core.errors import AnswerError
from carm_core.landmarks import LANDMARKS
from carm_core.language.commands import Confirm, Correct, Expose, Hint, Navigate, Nudge, Rotate, Stop, Unknown
from carm_core.localization import Protocol, Query
from carm_perception.protocols.grammar import grammar, integer, json_schema, literal
from carm_perception.protocols.parsing import (
    LIMIT_MM,
    LocalizationAnswer,
    NavigationAnswer,
    PointingAnswer,
    ReevaluationAnswer,
    RetrievalAnswer,
    parse,
)

IDS = [mark.id for mark in LANDMARKS]
QUERIES = [Query(protocol, target) for protocol in Protocol for target in (None, 11)]
COMMANDS = (Correct(14), *map(Correct, Hint), Expose(), Confirm(), Stop(), Unknown())
FREE = st.text(st.sampled_from([chr(c) for c in range(32, 127) if chr(c) not in "<>"]), max_size=60)


def distinct(count: int) -> st.SearchStrategy[tuple[int, ...]]:
    return st.lists(st.sampled_from(IDS), min_size=count, max_size=count, unique=True).map(tuple)


@pytest.mark.parametrize("query", QUERIES, ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_the_grammar_generates_is_an_answer_in_its_standard_form(query: Query, data: st.DataObject) -> None:
    allowed = grammar(query)
    text = data.draw(st.from_regex(re.compile(allowed.regex, re.ASCII), fullmatch=True))
    parsed: Any = parse(text, query)
    assert getattr(parsed, "command", parsed).text() == text
    assert len(text.encode()) <= allowed.longest


@settings(max_examples=60, deadline=None)
@given(two=distinct(2), three=distinct(3), text=FREE, mm=st.tuples(*[st.integers(-LIMIT_MM, LIMIT_MM)] * 2))
def test_every_standard_answer_is_admitted(
    two: tuple[int, ...], three: tuple[int, ...], text: str, mm: tuple[int, int]
) -> None:
    assert grammar(Query(Protocol.LOCALIZATION)).admits(LocalizationAnswer(two).text())
    assert grammar(Query(Protocol.RETRIEVAL)).admits(RetrievalAnswer(three).text())
    assert grammar(Query(Protocol.REEVALUATION)).admits(ReevaluationAnswer(text, two).text())
    for target in (None, three[0]):
        assert grammar(Query(Protocol.POINTING, target)).admits(PointingAnswer(three[0], *mm).text())
    for command in (Navigate(two[0]), Nudge(mm[0], mm[1]), Rotate(0, 0), Rotate(-180, 0, True), *COMMANDS):
        assert grammar(Query(Protocol.COMMAND)).admits(command.text())
    away = NavigationAnswer(text, "LEFT", "SMALL", text, "CENTER", "NONE", text)
    assert grammar(Query(Protocol.NAVIGATION, 1)).admits(away.text())


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_changed_character_is_admitted_only_where_the_parser_agrees(data: st.DataObject) -> None:
    query = data.draw(st.sampled_from(QUERIES))
    allowed = grammar(query)
    text = data.draw(st.from_regex(re.compile(allowed.regex, re.ASCII), fullmatch=True))
    place = data.draw(st.integers(0, len(text)))
    inserted = data.draw(st.sampled_from(['"', "-", " ", ",", "0", "1", "7", "[", "]", "<", ">", "x", "\n", ""]))
    near = text[:place] + inserted + text[place + data.draw(st.integers(0, 1)) :]
    if allowed.admits(near):
        assert parse(near, query)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (Query(Protocol.LOCALIZATION), "[10,10]"),
        (Query(Protocol.LOCALIZATION), "[10,15]"),
        (Query(Protocol.LOCALIZATION), "[0,1]"),
        (Query(Protocol.LOCALIZATION), "[10,11,12]"),
        (Query(Protocol.LOCALIZATION), "[10]"),
        (Query(Protocol.RETRIEVAL), "[11: Carina, 10: T12, 12: Right hemidiaphragm]"),
        (Query(Protocol.RETRIEVAL), "[11: Carina, 10: T1, 11: Carina]"),
        (Query(Protocol.POINTING, 11), '{"target": 10, "dx_mm": 1, "dy_mm": 1}'),
        (Query(Protocol.POINTING, 11), '{"target": 11, "dx_mm": -0, "dy_mm": 1}'),
        (Query(Protocol.POINTING, 11), '{"target": 11, "dx_mm": 401, "dy_mm": 1}'),
        (Query(Protocol.POINTING, 11), '{"target": 11, "dx_mm": 01, "dy_mm": 1}'),
        (Query(Protocol.NAVIGATION, 1), NavigationAnswer("", "LEFT", "NONE", "", "UP", "SMALL", "").text()),
        (Query(Protocol.NAVIGATION, 1), NavigationAnswer("", "UP", "SMALL", "", "UP", "SMALL", "").text()),  # type: ignore[arg-type]
        (Query(Protocol.COMMAND), '{"intent": "nudge", "dx_mm": 401, "dy_mm": 0}'),
        (Query(Protocol.COMMAND), '{"intent": "rotate", "primary_deg": 181, "secondary_deg": 0, "relative": 0}'),
        (Query(Protocol.COMMAND), '{"intent": "rotate", "primary_deg": 0, "secondary_deg": 0, "relative": 2}'),
        (Query(Protocol.COMMAND), '{"intent": "correct", "what": 0}'),
        (Query(Protocol.COMMAND), '{"intent": "dance"}'),
        (Query(Protocol.REEVALUATION), ReevaluationAnswer("<b>", (1, 2)).text()),
    ],
)
def test_near_misses_are_refused_by_grammar_and_parser_alike(query: Query, text: str) -> None:
    assert not grammar(query).admits(text)
    with pytest.raises(AnswerError):
        parse(text, query)


@pytest.mark.parametrize("limit", [1, 9, 10, 99, 100, 350, 400, 1207])
def test_integers_are_exactly_those_of_the_range(limit: int) -> None:
    allowed = integer(limit)
    span = range(-limit - 120, limit + 121)
    assert [value for value in span if allowed.admits(str(value))] == list(range(-limit, limit + 1))
    assert max(len(str(-limit)), 2) == allowed.longest


def test_literals_are_taken_word_for_word() -> None:
    text = "".join(map(chr, range(32, 127)))
    assert literal(text).admits(text)
    assert not literal("a.b").admits("axb")


def test_schema_is_for_the_answer_that_is_json() -> None:
    schema = json_schema(Query(Protocol.POINTING, 11))
    assert schema is not None
    assert schema["properties"]["target"]["enum"] == [11]
    assert all(json_schema(Query(p)) is None for p in Protocol if p is not Protocol.POINTING)
