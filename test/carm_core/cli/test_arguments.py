# SPDX-License-Identifier: Apache-2.0
"""Types of command line options: what they take, and what they refuse before anything is computed."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from carm_core.cli import arguments
from carm_core.errors import JointLimitError, UnknownNameError, quoted


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (arguments.count, "12", 12),
        (arguments.whole(-3, 3), "-3", -3),
        (arguments.seed, "0", 0),
        (arguments.seed, "4294967295", 2**32 - 1),
        (arguments.number(0, 2), "1e-1", 0.1),
        (arguments.words, "LAO 30", "LAO 30"),
        (arguments.namespace, "lab/arm_2/", "/lab/arm_2"),
        (arguments.namespace, "/carm", "/carm"),
        (arguments.namespace, "", "/"),
    ],
)
def test_values_that_are_taken(read: Callable[[str], Any], text: str, value: Any) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (arguments.count, "0"),
        (arguments.count, "1.5"),
        (arguments.count, "9" * 5000),
        (arguments.count, "²"),
        (arguments.seed, "-1"),
        (arguments.seed, str(2**32)),
        (arguments.number(0, 2), "nan"),
        (arguments.number(0, 2), "inf"),
        (arguments.number(0, 2), "1e999"),
        (arguments.number(0, 2), ""),
        (arguments.words, ""),
        (arguments.words, " \t"),
        (arguments.words, "\udcff"),
        (arguments.namespace, "a b"),
        (arguments.namespace, "~x"),
        (arguments.namespace, "a//b"),
        (arguments.namespace, "7up"),
        (arguments.namespace, "grün"),
        (arguments.output_file(), ""),
        (arguments.output_file(), "https://example.org/a.json"),
        (arguments.output_file(".png"), "a.jpg"),
        (arguments.output_file(), "x" * 300),
        (arguments.output_file(), "/proc/a.json"),
        (arguments.output_folder, ""),
        (arguments.output_folder, "/proc/a/b"),
        (arguments.output_folder, "s3://bucket/a"),
    ],
)
def test_values_that_are_refused_in_one_line(read: Callable[[str], Any], text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError) as refused:
        read(text)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_output_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    there = tmp_path / "with space ü 100 %.json"
    assert arguments.output_file(".json")(str(there)) == there
    assert not there.exists()
    assert arguments.output_file()("~/a.json") == tmp_path / "a.json"
    there.write_text("kept")
    assert arguments.output_file()(str(there)) == there
    assert there.read_text() == "kept"
    for path, reason in (
        (tmp_path, "is a folder"),
        (tmp_path / "missing" / "a", "does not exist"),
        (there / "a", "is a file"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=reason):
            arguments.output_file()(str(path))


def test_output_folders(tmp_path: Path) -> None:
    new = tmp_path / "a" / "b"
    assert arguments.output_folder(str(new)) == new
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "a").write_text("")
    with pytest.raises(argparse.ArgumentTypeError, match="is a file"):
        arguments.output_folder(str(new))


def test_unknown_names_list_the_known_ones_the_nearest_first() -> None:
    error = UnknownNameError.among("suite", "chestct", {"phantoms": (), "all": (), "chest-ct": ("chest_ct",)})
    assert error.suggestion == "chest-ct"
    assert error.known == ("chest-ct", "phantoms", "all")
    assert str(error) == "unknown suite 'chestct'; did you mean 'chest-ct'? One of: chest-ct, phantoms, all"
    far = UnknownNameError.among("suite", "xyz", ["phantoms", "all"])
    assert str(far) == "unknown suite 'xyz'; one of: phantoms, all"
    many = UnknownNameError.among("position", "p", [f"place {number}" for number in range(100)])
    assert str(many).endswith("and 70 more")


def test_what_users_wrote_is_quoted_in_one_short_line() -> None:
    assert quoted("a\n\x1b[31m") == "'a\\n\\x1b[31m'"
    assert len(quoted("x" * 10_000)) < 80


def test_a_huge_number_stays_a_short_line() -> None:
    assert str(JointLimitError("lift", 1e308, 0.0, 0.4, "m")) == (
        "lift = 1e+308 m is outside its limits [0.0000, 0.4000] m"
    )
