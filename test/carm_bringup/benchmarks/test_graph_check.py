# SPDX-License-Identifier: Apache-2.0
"""Episodes of the bench once more through the real graph."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from carm_bringup.benchmarks.navigation.graph_check import compare, sample

Spawn = Callable[..., "subprocess.Popen[str]"]


def test_the_same_words_with_numbers_that_are_hardly_apart_are_the_same() -> None:
    assert compare(["T1 is 41 mm away.", "done"], ["T1 is 42 mm away.", "done"]) == ((), 1.0)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (["T1 is 41 mm away."], ["T1 is 44 mm away."]),
        (["moving there"], ["moving 70 % of the way"]),
        (["one", "two"], ["one"]),
        ([], ["one"]),
    ],
)
def test_other_words_numbers_or_lengths_are_told(said: list[str], heard: list[str]) -> None:
    differences, _ = compare(said, heard)
    assert [line[0] for line in differences] == ["-", "+"]
    assert differences[0] == f"- {said[-1] if said else '(nothing)'}"


def test_samples_are_spread_over_all() -> None:
    episodes = list(range(10))
    assert sample(episodes, 3) == [0, 3, 6]  # type: ignore[arg-type, comparison-overlap]
    assert sample(episodes, 99) == episodes  # type: ignore[arg-type, comparison-overlap]
    assert sample([], 3) == []


@pytest.mark.integration
def test_agent_decides_in_the_graph_as_in_the_bench(spawn: Spawn, tmp_path: Path) -> None:
    """Up to the first image after a motion: half a millimeter may change an answer of the network."""
    file = tmp_path / "nav.json"
    words = ["--suite", "chest-ct", "--episodes", "1", "--seed", "4", "--graph", "1", "--json", str(file)]
    process = spawn([sys.executable, "-c", "from carm_bringup.cli.app import main; main()", "bench", "nav", *words])
    output, _ = process.communicate(timeout=200)
    (episode,) = json.loads(file.read_text(encoding="utf-8"))["graph"]["chest-ct"]
    assert process.returncode == (0 if episode["same_decisions"] else 1), output
    assert episode["same_lines"] >= 5, output
    assert episode["error_code"] == 0, output
