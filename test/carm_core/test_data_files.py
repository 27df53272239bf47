# SPDX-License-Identifier: Apache-2.0
"""YAML and JSON of any origin end in a value that can be walked and shown, or in one error, soon."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.data_files import DataFileError, parse_json, parse_yaml, read_json, read_yaml, shown

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join('*' + chr(97 + i) for _ in range(10))}]\n" for i in range(9)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{i + 1}: &a{i + 1}\n  <<: [{','.join([f'*a{i}'] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize("text", [BOMB, MERGE_BOMB])
def test_aliases_do_not_expand(text: str) -> None:
    start = time.process_time()
    with pytest.raises(DataFileError, match="aliases expand to more than"):
        parse_yaml(text)
    assert time.process_time() - start < 1.0


def test_aliases_are_read() -> None:
    text = "a: &a {x: 1, y: [2, 3]}\nb: {<<: *a, x: 4}\nc: [*a, *a]\n"
    assert parse_yaml(text) == {
        "a": {"x": 1, "y": [2, 3]},
        "b": {"x": 4, "y": [2, 3]},
        "c": [{"x": 1, "y": [2, 3]}] * 2,
    }


@pytest.mark.parametrize(
    "text",
    [
        "[" * 250_000,
        "[" * 100 + "]" * 100,
        "- " * 100 + "x",
        "&a [*a]",
        "&a {b: *a}",
        "&a {*a : b}",
        "!!python/object/apply:os.system [true]",
        "!!python/name:os.system",
        "{[1]: 2}",
        "!!int ''",
        "!!float ''",
        "!!bool maybe",
        "!!timestamp x",
        "2001-99-99",
        "!!binary é",
        "1" * 5000,
        "\x00",
        "\ud800",
        "a: *b",
        "? ? ? ?",
        "%YAML 9.9\n---\n",
        "--- 1\n--- 2\n",
    ],
)
def test_what_is_no_yaml_is_one_error(text: str) -> None:
    with pytest.raises(DataFileError) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("text", ["[" * 250_000, '{"a":' * 250_000, "[" * 65 + "]" * 65, "", "{", "1" * 5000, b"\xff"])
def test_what_is_no_json_is_one_error(text: str | bytes) -> None:
    with pytest.raises(DataFileError) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["[" + "[]," * 600_000 + "[]]", b"[" + b"0," * 1_000_001 + b"0]"])
def test_many_small_values_are_refused_before_they_are_made(text: str | bytes) -> None:
    with pytest.raises(DataFileError, match="more than 1000000 values"):
        parse_json(text)


def test_files_are_bounded(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"\xef\xbb\xbf[1, 2]")
    assert read_yaml(file) == read_json(file) == [1, 2]
    for read in (read_yaml, read_json):
        with pytest.raises(DataFileError, match="more than 100 bytes"):
            read(Path("/dev/zero"), 100)
        file.write_bytes(b"\xff")
        with pytest.raises(DataFileError, match="no text in UTF-8"):
            read(file)
        with pytest.raises(OSError, match="directory"):
            read(tmp_path)


def test_values_are_shown_in_short() -> None:
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert len(shown(nested)) < 100
    assert len(shown({"x" * 1000: ["y" * 1000] * 1000})) < 1000
    assert shown([1.0, "a"]) == "[1.0, 'a']"


@given(st.text(alphabet="[]{}:,-&*!?|>'\"%@`#<= \n\tab01~\x00é", max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_yaml, parse_json):
        try:
            value = parse(text)
        except DataFileError:
            continue
        shown(value)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=20,
    )
)
def test_json_comes_back(value: object) -> None:
    assert parse_json(json.dumps(value)) == value
