# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from carm_core.errors import CarmError, ConfigurationError, LocalizerError, UnknownNameError
from carm_core.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query
from carm_core.parameters import parameter_defaults
from carm_core.paths import config_file
from carm_perception import commands, evaluate
from carm_perception.data.dataset import SPLITS
from carm_perception.evaluate import Case, Suite, suite
from carm_perception.metrics import closest, hit, mirror_swap, precision, regression_figures
from carm_perception.overlay import draw, in_view, pixel_of
from carm_perception.parameters import LocalizerParameters
from carm_perception.registry import LocalizerOptions, make_localizer


@pytest.mark.parametrize(("name", "near"), [("compct", "compact"), ("orcale", "oracle"), ("regresion", "regression")])
def test_unknown_localizer_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        make_localizer(name)
    assert caught.value.suggestion == near


def test_options_that_are_missing() -> None:
    with pytest.raises(ConfigurationError, match="patient"):
        make_localizer("oracle")
    with pytest.raises(LocalizerError, match="does not exist"):
        make_localizer("compact", LocalizerOptions(folder=Path("/nowhere")))


def test_registry_and_commands_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, carm_perception.registry, carm_perception.commands;"
        "print(sorted({'torch', 'transformers', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_parameter_file_is_the_declaration() -> None:
    content = yaml.safe_load(config_file("localizer.yaml").read_text(encoding="utf-8"))
    assert content["/**"]["ros__parameters"] == parameter_defaults(LocalizerParameters)


def test_lists_that_stand_twice_agree() -> None:
    assert commands.SUITES == evaluate.SUITE_NAMES
    assert tuple(SPLITS) == commands.SPLITS


def test_metrics() -> None:
    marks = np.full((14, 2), np.nan)
    marks[[1, 2, 9, 10]] = [[30, 0], [0, 10], [0, 20], [5, 0]]
    assert closest(marks, 3) == (11, 3, 10)
    assert hit(11, (3, 11), 2)
    assert not hit(11, (3, 11), 1)
    assert precision((11, 3, 10), (3, 2, 11), 3) == pytest.approx(2 / 3)
    assert mirror_swap(3, (2, 11))
    assert not mirror_swap(11, (10,))
    figures = regression_figures(marks[None], marks[None], 78)
    assert figures["hit_1"] == figures["p_at_3"] == 1
    assert figures["error_mean_mm"] == 0


class Scripted(Localizer):
    """Answers with the truth, shifted; abstains or breaks the protocol where told."""

    name = "scripted"

    def __init__(self) -> None:
        self.case: Case | None = None
        self.shift_mm, self.abstains, self.malformed = 0.0, False, False

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        assert self.case is not None
        if self.malformed:
            return Localization("scripted", "", query, "?", error="malformed", message="no")
        if self.abstains:
            return Localization("scripted", "", query, "", abstained=True, latency_s=0.001)
        order = closest(self.case.displacement_mm, 3)
        marks = {m.id: row for m, row in zip(LANDMARKS, self.case.displacement_mm, strict=True)}
        ids = (query.target_id,) if query.protocol is Protocol.POINTING else order
        estimates = tuple(LandmarkEstimate(i, (marks[i][0] + self.shift_mm, marks[i][1]), std_mm=5.0) for i in ids if i)
        return Localization("scripted", "", query, "", estimates, latency_s=0.001)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    localizer = Scripted()

    def cases(chosen: Suite, seed: int) -> Iterator[Case]:
        rng = np.random.default_rng(seed)
        for index in range(chosen.views):
            marks = rng.uniform(-200, 200, (14, 2))
            target = int(rng.integers(1, 15)) if index % 2 == 0 else 0
            if target:
                marks[target - 1] = rng.uniform(-10, 10, 2)
            image = np.zeros((64, 64), np.uint8)
            localizer.case = Case("p", XrayFrame(image, 2.4, float(index)), marks, target)
            yield localizer.case

    monkeypatch.setattr(evaluate, "cases", cases)
    return localizer


def test_evaluation_counts_right_answers(scripted: Scripted) -> None:
    scripted.shift_mm = 3.0
    figures = evaluate.evaluate(scripted, suite("phantom", 2, 40), 0)
    assert figures["n"] == 40
    assert figures["hit_1"] == figures["hit_2"] == figures["p_at_1"] == figures["p_at_3"] == 1
    assert figures["mirror_swap"] == figures["malformed"] == figures["abstained"] == 0
    assert figures["error_mean_mm"] == figures["error_p95_mm"] == 3
    assert figures["latency_p50_ms"] == 1
    json.dumps(figures)


@pytest.mark.parametrize("kind", ["malformed", "abstains"])
def test_no_answer_counts_as_a_miss(scripted: Scripted, kind: str) -> None:
    setattr(scripted, kind, True)
    figures = evaluate.evaluate(scripted, suite("phantom", 2, 10), 0)
    assert figures["hit_2"] == figures["p_at_1"] == 0
    assert figures["malformed" if kind == "malformed" else "abstained"] == 1


def parse(add: object, text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser)  # type: ignore[operator]
    return parser.parse_args(text.split())


def test_eval_command_writes_the_agreed_figures(
    scripted: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("carm_perception.registry.make_localizer", lambda name, options: scripted)
    file = tmp_path / "figures.json"
    options = f"--localizer compact --suite phantom --views 8 --patients 2 --seed 3 --json {file}"
    assert commands.run_eval(parse(commands.add_eval_arguments, options)) == 0
    document = json.loads(file.read_text(encoding="utf-8"))
    assert {"command", "seed", "commit", "versions", "machine", "results"} <= set(document)
    figures = document["results"]["compact/phantom"]
    wanted = "n hit_1 hit_2 p_at_1 p_at_3 error_mean_mm error_p95_mm mirror_swap malformed abstained latency_p50_ms"
    assert set(wanted.split()) <= set(figures)
    assert "hit_2 1.000" in capsys.readouterr().out


def test_commands_refuse_bad_input_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        commands.run_eval(parse(commands.add_eval_arguments, f"--json {tmp_path}/nowhere/a.json"))
    with pytest.raises(CarmError, match="did you mean 'compact'"):
        commands.run_eval(parse(commands.add_eval_arguments, "--localizer compcat"))
    with pytest.raises(ConfigurationError, match="positive"):
        commands.run_train(parse(commands.add_train_arguments, "--minutes -1 --output x"))
    with pytest.raises(SystemExit):
        parse(commands.add_dataset_arguments, "--patients 0")
    with pytest.raises(ConfigurationError, match="unknown suite"):
        suite("chest")


def test_overlay_marks_where_the_landmark_is() -> None:
    frame = XrayFrame(np.zeros((200, 300), np.uint8), 0.5, 0.0)
    estimate = LandmarkEstimate(11, (20.0, 30.0), std_mm=4.0)
    column, row = pixel_of(estimate, frame)
    assert (column, row) == (149.5 + 40, 99.5 - 60)
    assert in_view(estimate, frame)
    assert not in_view(LandmarkEstimate(11, (80.0, 0.0)), frame)
    assert not in_view(LandmarkEstimate(11, (float("nan"), 0.0)), frame)
    reply = Localization("compact", "", Query(Protocol.POINTING, 11), "answer", (estimate,), latency_s=0.05)
    image = draw(frame, reply)
    assert image.shape == (200, 300, 3)
    assert image[round(row), round(column)].max() > 150
    silent = Localization("compact", "", Query(), "", latency_s=0.05, abstained=True, message="not sure")
    assert draw(frame, silent).any()
