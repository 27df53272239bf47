# SPDX-License-Identifier: Apache-2.0
"""``carm localize`` with the model in the package, on X-rays of the real chest CT."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from carm_core.errors import ConfigurationError, UnknownNameError
from carm_core.robot.kinematics import CArm
from carm_perception.evaluation import commands
from carm_perception.images import command
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XraySystem

CARINA, T12 = 11, 14


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a view of the carina and one of T12, and their labels."""
    folder = tmp_path_factory.mktemp("images")
    patient, arm = load_patient("chest_ct"), CArm.from_config()
    system = XraySystem(patient, arm, seed=1)
    for name, key in (("carina", CARINA), ("t12", T12)):
        joints = arm.inverse(patient.landmarks_table_mm[key] / 1000, 0.0, 0.0)[0]
        Image.fromarray(system.expose(joints).frame().image).save(folder / f"{name}.png")
    (folder / "labels.csv").write_text(f"file_name,landmark\ncarina.png,{CARINA}\nt12.png,{T12}\n")
    return folder


def localize(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_a_folder_is_localized_scored_and_drawn(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (str(images), "--json", str(tmp_path / "found.json"), "--overlay", str(tmp_path / "drawn"))
    assert localize(*words) == 0
    told = capsys.readouterr().out
    assert "carina.png: closest to the center Carina" in told
    assert "pixels only" in told
    assert " mm" not in told.replace("--mm-per-px", "")
    assert "2 labeled images, Hit@1 1.000" in told
    document = json.loads((tmp_path / "found.json").read_text())
    assert document["results"]["regression"]["hit_1"] == 1
    first, second = document["images"]
    assert (first["mm_per_px"], second["closest"][0]) == (None, T12)
    carina = next(entry for entry in first["landmarks"] if entry["id"] == CARINA)
    middle = (first["columns"] - 1) / 2
    assert math.hypot(carina["column"] - middle, carina["row"] - middle) < 0.15 * first["columns"]
    assert "right_mm" not in carina
    assert np.asarray(Image.open(tmp_path / "drawn/0001_carina.png")).shape == (first["rows"], first["columns"], 3)


def test_the_evaluation_takes_the_folder_too(images: Path, tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    commands.add_localize_arguments(parser)
    file = tmp_path / "figures.json"
    words = ["--images", str(images), "--localizer", "regression", "--json", str(file)]
    assert commands.run_localize(parser.parse_args(words)) == 0
    figures = json.loads(file.read_text())["results"][f"regression/{images.name}"]
    assert (figures["n"], figures["hit_1"], figures["unreadable"]) == (2, 1, 0)
    (tmp_path / "bare").mkdir()
    with pytest.raises(ConfigurationError, match="needs images and a CSV file of labels"):
        commands.run_localize(parser.parse_args(["--images", str(tmp_path / "bare")]))


def test_a_target_in_millimeters_and_an_unreadable_image(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    assert localize(str(images / "t12.png"), str(tmp_path / "bad.png"), "--target", "T12", "--mm-per-px", "0.3") == 1
    told = capsys.readouterr()
    assert "T12: column" in told.out
    assert "mm up of the center" in told.out
    assert "Right hemidiaphragm" not in told.out
    assert told.err.count("\n") == 1
    assert "bad.png" in told.err


def test_bad_words_are_told_before_anything_is_loaded(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file"):
        localize(str(tmp_path / "nothing.png"))
    with pytest.raises(UnknownNameError):
        localize(str(images), "--target", "third eye")
    with pytest.raises(ConfigurationError, match="exclude each other"):
        localize(str(images), "--target", "T12")
    (images / "more.csv").write_text("file_name,landmark\n")
    try:
        with pytest.raises(ConfigurationError, match="several CSV files"):
            localize(str(images))
    finally:
        (images / "more.csv").unlink()
