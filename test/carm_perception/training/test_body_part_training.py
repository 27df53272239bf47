# SPDX-License-Identifier: Apache-2.0
"""Training of the classifier of body parts."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ResNetConfig, ResNetModel

from carm_core.errors import ConfigurationError
from carm_perception.networks.landmark_network import LocalizerSize
from carm_perception.networks.tower import Tower
from carm_perception.training import commands
from carm_perception.training.body_part.recipe import PartOptions, Training, figures_of, train
from carm_perception.training.body_part.views import GeneratedViews, PictureViews, moved_at_random


@pytest.fixture(scope="module")
def pictures() -> PictureViews:
    """Bars that lie (hand) or stand (wrist)."""
    rng = np.random.default_rng(0)
    gray = np.zeros((40, 128, 128), np.uint8)
    for number, image in enumerate(gray):
        place = int(rng.integers(30, 80))
        image[place : place + 20] = 200
        if number % 2:
            image[:] = image.T
    return PictureViews(gray, [(9,) if number % 2 == 0 else (21,) for number in range(40)])


def test_the_tower_is_that_of_transformers() -> None:
    size = LocalizerSize()
    config = ResNetConfig(
        num_channels=1,
        embedding_size=size.stem,
        hidden_sizes=list(size.channels),
        depths=list(size.blocks),
        layer_type="basic",
        hidden_act="relu",
    )
    theirs = ResNetModel(config).eval()
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    ours = Tower(size.stem, size.channels, size.blocks).eval()
    ours.load_state_dict(theirs.state_dict())
    pixels = torch.randn(2, 1, 64, 96)
    with torch.no_grad():
        expected = theirs(pixels, output_hidden_states=True).hidden_states
        for one, other in zip(ours(pixels), expected, strict=True):
            assert torch.equal(one, other)


def test_training_learns_and_goes_on_where_it_stopped(pictures: PictureViews, tmp_path: Path) -> None:
    options = PartOptions(600.0, batch=8, steps=12)
    record = train(pictures, pictures, options, tmp_path / "work", tmp_path / "model")
    assert record["hit_2"] > 0.9
    assert json.loads((tmp_path / "model" / "training.json").read_text())["steps"] == 12
    resumed = Training(PartOptions(600.0, batch=8, steps=14), tmp_path / "work")
    assert resumed.step == 12
    assert figures_of(resumed.average.module, pictures)["hit_2"] == record["hit_2"]
    (tmp_path / "work" / "body_part.safetensors").write_bytes(b"")
    with pytest.raises(ConfigurationError):
        Training(options, tmp_path / "work")


def test_rare_parts_are_drawn_more_often() -> None:
    views = PictureViews(np.zeros((5, 128, 128), np.uint8), [(3,), (3,), (3,), (3,), (17,)])
    shares = views.shares()
    assert shares.sum() == pytest.approx(1)
    assert shares[4] == pytest.approx(2 * shares[0])


def test_moved_images_stay_images(pictures: PictureViews) -> None:
    generator = torch.Generator().manual_seed(1)
    moved = moved_at_random(pictures.plain(np.arange(8))[:, None], generator)
    assert moved.shape == (8, 1, 128, 128)
    drawn = pictures.drawn(np.arange(8), generator)
    assert drawn.shape == (8, 128, 128)
    assert 0 <= float(drawn.min()) <= float(drawn.max()) <= 1


def test_the_command_trains_on_the_competitions_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rng = np.random.default_rng(2)
    rows = ["SOPInstanceUID,Target"]
    for number in range(12):
        Image.fromarray(rng.integers(0, 255, (40, 30)).astype(np.uint8)).save(data / f"{number}.png")
        rows.append(f"{number},{number % 3}")
    (data / "train.csv").write_text("\n".join([*rows, "77,1"]))
    parser = argparse.ArgumentParser()
    commands.add_train_arguments(parser)
    words = ["--recipe", "body-part", "--data", str(data), "--work", str(tmp_path / "work"), "--threads", "1"]
    words += ["--output", str(tmp_path / "model"), "--minutes", "0.01", "--batch", "2"]
    assert commands.run_train(parser.parse_args(words)) == 0
    told = capsys.readouterr()
    assert "77: no image of this name" in told.err
    assert "validation Hit@1" in told.out
    assert (tmp_path / "model" / "body_part.safetensors").is_file()


def test_a_data_set_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="carm dataset --task body-part"):
        GeneratedViews(tmp_path, "train")


def test_body_parts_take_no_ct(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    commands.add_dataset_arguments(parser)
    with pytest.raises(ConfigurationError, match="takes no --ct"):
        commands.run_dataset(parser.parse_args(["--task", "body-part", "--ct", str(tmp_path)]))
