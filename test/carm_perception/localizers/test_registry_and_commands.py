# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from carm_core.errors import ConfigurationError, LocalizerError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localization, Protocol, Query
from carm_core.parameters import parameter_defaults
from carm_core.paths import config_file
from carm_perception.datasets.storage.dataset import SPLITS
from carm_perception.images.overlay import draw, in_view, pixel_of
from carm_perception.localizers import registry
from carm_perception.localizers.openai.options import ServerOptions
from carm_perception.localizers.registry import LocalizerOptions, make_localizer
from carm_perception.nodes.parameters import LocalizerParameters
from carm_perception.training import commands


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
        "import sys, carm_perception.localizers.registry, carm_perception.training.commands;"
        "print(sorted({'torch', 'transformers', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_parameter_file_is_the_declaration() -> None:
    content = yaml.safe_load(config_file("localizer.yaml").read_text(encoding="utf-8"))
    assert content["/**"]["ros__parameters"] == parameter_defaults(LocalizerParameters)


def test_lists_that_stand_twice_agree() -> None:
    assert tuple(SPLITS) == commands.SPLITS


def parse(add: object, text: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add(parser)  # type: ignore[operator]
    return parser.parse_args(text.split())


def test_commands_refuse_bad_input_in_one_line() -> None:
    with pytest.raises(SystemExit):
        parse(commands.add_train_arguments, "--minutes -1 --output x")
    with pytest.raises(SystemExit):
        parse(commands.add_dataset_arguments, "--patients 0")


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


def test_options_of_a_model_of_ones_own_reach_the_localizer() -> None:
    parser = argparse.ArgumentParser()
    registry.add_arguments(parser)
    usual = LocalizerOptions()
    assert registry.with_arguments(usual, parser.parse_args([])) == usual
    words = ["--server-url", "https://host/v1", "--server-model", "m", "--adapter", "a", "--device", "cpu", "--4bit"]
    options = registry.with_arguments(usual, parser.parse_args(words))
    assert (options.server.url, options.server.model) == ("https://host/v1", "m")
    assert (options.adapter, options.device, options.load_in_4bit) == ("a", "cpu", True)


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("fused", {"adapter": "a"}, "adapter"),
        ("compact", {"load_in_4bit": True}, "4-bit quantization"),
        ("regression", {"device": "cuda"}, "GPU"),
        ("oracle", {"folder": Path("/some"), "patient": "chest_ct"}, "model folder"),
        ("compact", {"server": ServerOptions(url="http://other/v1"), "adapter": "a"}, "adapter and no server"),
    ],
)
def test_a_setting_that_the_localizer_does_not_take_is_refused(name: str, settings: Any, words: str) -> None:
    options = LocalizerOptions(**settings)
    with pytest.raises(ConfigurationError, match=f"localizer {name} takes no {words}$"):
        make_localizer(name, options)
    assert registry.unused(name, replace(options, **registry.unused(name, options))) == {}


def test_settings_that_a_localizer_takes_are_no_surplus() -> None:
    own = LocalizerOptions(adapter="a", load_in_4bit=True, device="cuda")
    assert registry.unused("owner/model", own) == {}
    assert registry.unused("openai", LocalizerOptions(server=ServerOptions(model="m"), device="cpu")) == {}
    assert registry.unused("fused", LocalizerOptions(folder=Path("/some"))) == {}
