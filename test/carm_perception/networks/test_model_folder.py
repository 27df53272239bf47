# SPDX-License-Identifier: Apache-2.0
"""Folders of models and adapters as they are copied about: what is missing or damaged is named in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from carm_bringup.cli.app import run
from carm_core.errors import LocalizerError
from carm_perception.localizers.huggingface.loader import resolve_source
from carm_perception.networks.model_folder import check_model_folder

WEIGHTS = {"x": np.zeros((8, 8), np.float32)}
MOVED = "/home/alice/models/gemma-3-4b-it"


def adapter(folder: Path, base: object = MOVED) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    save_file(WEIGHTS, folder / "adapter_model.safetensors")
    return folder


def model(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    save_file(WEIGHTS, folder / "model.safetensors")
    return folder


def refusal(place: Path, on_top: str = "") -> str:
    with pytest.raises(LocalizerError) as caught:
        resolve_source(str(place), on_top)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_adapter_without_weights_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter(tmp_path / "adapter")
    (folder / "adapter_model.safetensors").unlink()
    assert refusal(folder) == f"adapter folder {folder} lacks adapter_model.safetensors"
    assert refusal(model(tmp_path / "base"), str(folder)).endswith("lacks adapter_model.safetensors")
    assert run(["serve", "--port", "0", "--model", str(folder)]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "lacks adapter_model.safetensors" in line


@pytest.mark.parametrize("base", [MOVED, "./models/x", "~/models/x", "home/alice/models/x", "C:\\models\\x"])
def test_base_model_that_was_not_copied_is_named(tmp_path: Path, base: str) -> None:
    assert f"belongs to {base}, which is not here" in refusal(adapter(tmp_path / "adapter", base))


def test_base_model_is_checked_too(tmp_path: Path) -> None:
    base = model(tmp_path / "base")
    folder = adapter(tmp_path / "adapter", str(base))
    assert resolve_source(str(folder)).model == str(base)
    (base / "model.safetensors").unlink()
    assert refusal(folder) == f"model folder {base} lacks model.safetensors"


@pytest.mark.parametrize("text", ["", "[]", "{}", "{", "\udcff", '{"base_model_name_or_path": null}'])
def test_configuration_of_an_adapter_that_says_nothing(tmp_path: Path, text: str) -> None:
    folder = adapter(tmp_path / "adapter")
    (folder / "adapter_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    assert "adapter_config.json" in refusal(folder)


def test_weights_that_were_not_copied_whole(tmp_path: Path) -> None:
    for folder, name in ((model(tmp_path / "a"), "model"), (adapter(tmp_path / "b"), "adapter_model")):
        file = folder / f"{name}.safetensors"
        whole = file.read_bytes()
        for content in (b"", whole[:-1], whole[:20], b"version https://git-lfs.github.com/spec/v1\n"):
            file.write_bytes(content)
            assert f"{name}.safetensors is damaged, incomplete, or a pointer of Git LFS" in refusal(folder)


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "lacks config.json, and adapter_config.json" in refusal(empty)
    assert "does not exist" in refusal(tmp_path / "missing")
    file = model(tmp_path / "a") / "model.safetensors"
    assert refusal(file) == f"{file} is a file; give the model's folder"
    for name in ("training_args.bin", "adapter_model.safetensors"):
        other = model(tmp_path / name.partition(".")[0])
        (other / "model.safetensors").rename(other / name)
        assert "lacks model.safetensors" in refusal(other)
    (tmp_path / "a" / "model.safetensors.index.json").write_text(
        '{"weight_map": {"x": "model-00001-of-00002.safetensors"}}'
    )
    assert "lacks model-00001-of-00002.safetensors" in refusal(tmp_path / "a")


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "lacks model.safetensors (pytorch_model.bin is a pickle, which may hold code and is not opened" in refusal(
        folder
    )
    folder = adapter(tmp_path / "b")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "lacks adapter_model.safetensors (adapter_model.bin is a pickle" in refusal(folder)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "pytorch_model.bin"])
def test_an_index_names_files_of_its_folder_alone(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path / "a")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    assert "which is no .safetensors file in it" in refusal(folder)


def test_links_to_outside_of_the_folder_are_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "a")
    (folder / "config.json").rename(tmp_path / "config.json")
    (folder / "config.json").symlink_to("../config.json")
    assert refusal(folder) == f"model folder {folder}: config.json is a link to outside of it"


def test_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    folder = model(tmp_path / "models--a--b" / "snapshots" / "main")
    blobs = tmp_path / "models--a--b" / "blobs"
    blobs.mkdir()
    for file in list(folder.iterdir()):
        file.rename(blobs / file.name)
        file.symlink_to(blobs / file.name)
    check_model_folder(folder)
