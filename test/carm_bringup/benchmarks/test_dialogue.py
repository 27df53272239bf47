# SPDX-License-Identifier: Apache-2.0
"""The bench of the conversation tells what was done from what was meant."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from carm_bringup.benchmarks import dialogue
from carm_bringup.benchmarks.dialogue import OUTCOMES, RULES, bench, outcome_of, run
from carm_core.imaging.frame import XrayFrame
from carm_core.language.commands import Command, Navigate, Nudge, Rotate, Stop, Unknown
from carm_core.localization import Localization, Localizer, Query


class Says(Localizer):
    """Reads every sentence as the same command."""

    name = "says"

    def __init__(self, answer: str) -> None:
        self._answer = answer

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        return Localization(self.name, "", query, self._answer)


@pytest.mark.parametrize(
    ("words", "wanted", "model", "outcome"),
    [
        ("show me the carina", Navigate(11), Navigate(11).text(), "done"),
        ("show me the carina", Navigate(11), "nonsense", "done"),
        ("show me the carina", Navigate(11), Navigate(10).text(), "asked back"),
        ("show me the carina", Navigate(10), None, "wrong"),
        ("2 cm to the left", Nudge(20, 0), Nudge(25, 0).text(), "done"),
        ("2 cm to the left", Nudge(30, 0), None, "other amount"),
        ("show me the elbow", Navigate(6), None, "asked back"),
        ("please freeze!", Stop(), None, "done"),
        ("please freeze!", Rotate(30, 0, relative=False), None, "unnecessary stop"),
        ("onward", Stop(), None, "missed stop"),
        ("nice weather", Unknown(), None, "done"),
        ("nice weather", Navigate(11), None, "no action"),
    ],
)
def test_what_was_done_is_compared_with_what_was_meant(
    words: str, wanted: Command, model: str | None, outcome: str
) -> None:
    assert outcome_of(words, wanted, None if model is None else Says(model)) == outcome


def test_shares_add_up_and_a_model_that_talks_of_something_else_is_never_followed() -> None:
    figures = bench(Says(Navigate(9).text()), 150, seed=1)
    assert sum(figures[name] for name in OUTCOMES) == pytest.approx(1.0, abs=1e-3)
    assert figures["wrong"] == figures["missed stop"] == 0
    assert figures["asked back"] > 0.3
    assert bench(None, 150, seed=1)["done"] > 0.9


def test_the_command_writes_what_it_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    dialogue.add_arguments(parser)
    file = tmp_path / "d.json"
    assert run(parser.parse_args(["--localizer", RULES, "--sentences", "40", "--json", str(file)])) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))["results"][RULES]
    assert f"done {figures['done']:.3f}" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        parser.parse_args(["--sentences", "0"])
