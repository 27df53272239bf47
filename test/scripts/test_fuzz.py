# SPDX-License-Identifier: Apache-2.0
"""A short run of the fuzzer on every parser, and the small inputs that once failed."""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from carm_core.errors import CarmError

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))
fuzz: Any = importlib.import_module("fuzz")
SLOW = ("configuration", "bags", "checkpoints", "dicom", "messages", "sentences", "subscriptions")

FAILED: tuple[tuple[str, bytes], ...] = (
    ("yaml_and_json", b"[" * 60_000),  # the process died: libyaml's composer recurses in C
    ("yaml_and_json", b"!!int ''"),
    ("landmark_file", b"ct_sha256: x\nlandmarks: &a [*a]\n"),
    ("configuration", b"detector: {rows: .inf}\n"),
    ("volumes", b"NRRD0004\ntype: int16\ndimension: 3\nspace: RAS\nsizes: 12 11 10\nspace directions: " + b"(" * 4000),
    ("answers", b"[" * 60_000),
    ("model_server", b"[" * 60_000),
    ("requests", b'{"messages":' + b"[" * 60_000),
    ("requests", b'{"messages": [{"role": "user", "cont\\nt": [1]}]}'),
    ("requests", b'{"messages": [], "a\\nb": 1}'),
    ("messages", b"M\x00\x01\x00\x00\x01" + bytes(19)),  # a triangle without a vertex
    ("http", b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n"),
)


@pytest.mark.parametrize("name", list(fuzz.TARGETS))
def test_damaged_inputs_end_in_an_answer_or_an_error_of_the_project(name: str) -> None:
    target, count = fuzz.TARGETS[name], 25 if name in SLOW else 100
    for number in range(count):
        fuzz.run_one(target, fuzz.mutated(target, 0, number))


@pytest.mark.parametrize(("name", "data"), FAILED)
def test_inputs_that_once_failed(name: str, data: bytes) -> None:
    fuzz.run_one(fuzz.TARGETS[name], data)


def test_samples_are_accepted() -> None:
    """A target that refuses all of its samples would look at nothing but the first line of its parser."""
    for name in (
        "tool_call",
        "console_messages",
        "pictures",
        "requests",
        "landmark_file",
        "volumes",
        "dicom",
        "bags",
        "checkpoints",
        "subscriptions",
    ):
        accepted = 0
        for sample in fuzz.TARGETS[name].samples():
            try:
                fuzz.TARGETS[name].run(sample)
                accepted += 1
            except CarmError:
                continue
        assert accepted, name


def test_a_failure_is_found_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def run(data: bytes) -> None:
        if data.count(b"b") > 1:
            raise ValueError("two")

    target = type(fuzz.TARGETS["answers"])("answers", run, lambda: [b"abc"], ())
    monkeypatch.setitem(fuzz.TARGETS, "answers", target)
    lines: list[str] = []
    assert fuzz.main(["--target", "answers", "--inputs", "300", "--output", str(tmp_path)], lines.append) == 1
    assert "ValueError: two" in "\n".join(lines)
    (first, *_) = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match="two"):
        run(first.read_bytes())


def test_inputs_follow_from_the_seed() -> None:
    target = fuzz.TARGETS["answers"]
    state = random.getstate()
    assert [fuzz.mutated(target, 3, n) for n in range(20)] == [fuzz.mutated(target, 3, n) for n in range(20)]
    assert len({fuzz.mutated(target, 3, n) for n in range(20)}) > 10
    assert random.getstate() == state
