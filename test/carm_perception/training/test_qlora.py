# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from carm_core.errors import ConfigurationError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Protocol, Query
from carm_perception.datasets.rendering.acquisition import MIRRORED
from carm_perception.datasets.storage.dataset import generate
from carm_perception.localizers.huggingface.loader import (
    GIB,
    Machine,
    Placement,
    Size,
    choose_device,
    empty_model,
    load,
    resolve_source,
)
from carm_perception.localizers.huggingface.localizer import HuggingFaceLocalizer
from carm_perception.localizers.huggingface.processor import load_processor
from carm_perception.localizers.registry import make_localizer
from carm_perception.protocols.parsing import parse
from carm_perception.training.checkpoint_file import load_checkpoint
from carm_perception.training.qlora import checkpoint, trainer
from carm_perception.training.qlora.adapters import adapter_parameters, language_model, prepare, target_modules
from carm_perception.training.qlora.encoding import IGNORED, Encoder, end_of_turn
from carm_perception.training.qlora.examples import Examples, Picture, Pictures
from carm_perception.training.qlora.options import QloraOptions
from carm_perception.training.qlora.questions import CHANCES, Question, draw_question
from carm_perception.training.qlora.trainer import learning_rate, train_qlora

from ..beads import BeadSpec
from ..tiny_models import BUILDERS, build

ROOT = Path(__file__).resolve().parents[3]
NAMED = ("Qwen2_5_VLForConditionalGeneration", "Gemma3ForConditionalGeneration", "LlavaForConditionalGeneration")
LLAVA = NAMED[2]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(name, tmp_path_factory.mktemp(name)) for name in BUILDERS}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for split, views in (("train", 12), ("validation", 3)):
        spec = BeadSpec(split, 1, views=views, patients_per_shard=1, format="xray")
        generate(folder, spec, workers=1, progress=False)
    return folder


def options(model: Path, data: Path, output: Path, **more: Any) -> QloraOptions:
    values: dict[str, Any] = {
        "steps": 4, "batch": 2, "micro_batch": 2, "rank": 4, "rate": 0.02, "device": "cpu", "evaluate": 2,
        "save_every": 2, **more,
    }  # fmt: skip
    return QloraOptions(str(model), data, output, **values)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "work" / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def picture(seed: int = 0) -> Picture:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (90, 80)).astype(np.uint8)
    return Picture(image, 1.5, rng.normal(0, 120, (14, 2)).astype(np.float32), "upright")


@pytest.mark.parametrize("name", NAMED)
def test_training_lowers_the_loss_and_the_folder_localizes(
    name: str, folders: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    chosen = options(folders[name], data, tmp_path / "out", steps=12, rank=8, rate=0.1, save_every=4)
    folder = train_qlora(chosen, progress=False)
    start, *steps = lines(folder)
    assert start["architecture"] == name
    assert start["dtype"] == "float32"
    assert [line["step"] for line in steps] == list(range(1, 13))
    losses = [line["loss"] for line in steps]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.04
    assert steps[3]["validation_loss"] > 0
    wanted = {"adapter_model.safetensors", "adapter_config.json", "tokenizer_config.json", "training.json", "README.md"}
    assert wanted <= {path.name for path in folder.iterdir()}
    assert str(folders[name]) in (folder / "README.md").read_text(encoding="utf-8")
    localizer = make_localizer(str(folder))
    assert isinstance(localizer, HuggingFaceLocalizer)
    assert localizer.report.architecture == name
    assert len(localizer.model_version) == 12
    frame = XrayFrame(picture().image, 1.5, 0.0)
    reply = localizer.localize(frame, Query(Protocol.LOCALIZATION))
    assert reply.ok
    assert len(reply.estimates) == 2
    base = HuggingFaceLocalizer(str(folders[name]), device="cpu")
    texts = [one.localize(frame, Query(Protocol.LOCALIZATION)).answer for one in (localizer, base)]
    assert all(texts)


def test_a_stopped_run_ends_in_the_same_state(
    folders: dict[str, Path], data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = options(folders[LLAVA], data, tmp_path / "whole", dropout=0.2)
    train_qlora(whole, progress=False)
    broken = replace(whole, output=tmp_path / "broken")
    taken = trainer.Run.step

    def dying(run: trainer.Run, number: int) -> dict[str, float]:
        if number == 3:
            raise MemoryError
        return taken(run, number)

    monkeypatch.setattr(trainer.Run, "step", dying)
    with pytest.raises(MemoryError):
        train_qlora(broken, progress=False)
    assert not (tmp_path / "broken" / "adapter_model.safetensors").exists()
    monkeypatch.undo()
    train_qlora(broken, progress=False)
    steps = [line["step"] for line in lines(tmp_path / "broken")]
    assert steps == [0, 1, 2, 3, 2, 3, 4]
    one, two = (load_checkpoint(tmp_path / name / "work" / checkpoint.CHECKPOINT) for name in ("whole", "broken"))
    assert one is not None
    assert two is not None
    for name, value in one["adapter"].items():
        torch.testing.assert_close(two["adapter"][name], value, rtol=0, atol=0)
    assert str(one["optimizer"]) == str(two["optimizer"])
    weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("whole", "broken")]
    assert weights[0] == weights[1]
    with pytest.raises(ConfigurationError, match="rank 4 there, 8 here"):
        train_qlora(replace(broken, rank=8), progress=False)
    (tmp_path / "broken" / "work" / checkpoint.CHECKPOINT).write_bytes(b"half")
    with pytest.raises(ConfigurationError, match="is damaged"):
        train_qlora(broken, progress=False)


@pytest.mark.integration
def test_two_processes_do_what_one_does(folders: dict[str, Path], data: Path, tmp_path: Path) -> None:
    script = tmp_path / "carm.py"
    script.write_text("from carm_bringup.cli.app import main\nmain()\n", encoding="utf-8")
    numbers = {"steps": 2, "batch": 4, "rank": 4, "rate": 0.01, "dropout": 0, "evaluate": 0, "save-every": 1}
    words = [word for name, value in numbers.items() for word in (f"--{name}", str(value))]
    words += ["--recipe", "qlora", "--device", "cpu", "--model", str(folders[LLAVA]), "--data", str(data)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT / "src")}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launch, str(script), "train", *words, "--output", str(tmp_path / "2")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("try it: carm eval localize") == 1
    alone = {**numbers, "save_every": numbers["save-every"], "micro_batch": 1}
    del alone["save-every"]
    train_qlora(options(folders[LLAVA], data, tmp_path / "1", **alone), progress=False)
    assert lines(tmp_path / "2")[0]["processes"] == 2
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("1", "2"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", BUILDERS)
def test_labels_are_the_answer_and_nothing_else(name: str, folders: dict[str, Path]) -> None:
    encoder = Encoder(load_processor(str(folders[name])))
    tokenizer = load_processor(str(folders[name])).tokenizer
    asked = Question(Query(Protocol.LOCALIZATION), "[10,11]")
    one = encoder.encode(picture(), asked)
    labels = one["labels"][0]
    assert tokenizer.decode(labels[labels != IGNORED][:-1]) == "[10,11]"
    assert int(labels[-1]) == tokenizer.eos_token_id
    assert one["labels"].shape == one["input_ids"].shape == one["attention_mask"].shape
    sentence = Question(Query(Protocol.COMMAND, hint="stop"), '{"intent": "stop"}')
    other = encoder.encode(picture(), sentence)
    assert "pixel_values" not in other
    both = encoder.collate([one, other])
    assert both["input_ids"].shape[0] == 2
    assert int((both["labels"] != IGNORED).sum()) == sum(int((e["labels"] != IGNORED).sum()) for e in (one, other))
    shorter = int(np.argmin([e["input_ids"].shape[1] for e in (one, other)]))
    assert int(both["attention_mask"][shorter, -1]) == 0


def test_the_end_of_the_turn_is_that_of_the_template(folders: dict[str, Path]) -> None:
    processor = load_processor(str(folders[LLAVA]))
    assert end_of_turn(processor, []) == processor.tokenizer.eos_token_id
    part = "{% for p in m['content'] %}{{ p['text'] }}{% endfor %}"
    processor.chat_template = "{% for m in messages %}{{ m['role'] }}:" + part + "<bos>\n{% endfor %}"
    bos = processor.tokenizer.bos_token_id
    assert end_of_turn(processor, [bos]) == bos
    assert end_of_turn(processor, [processor.tokenizer.eos_token_id]) == processor.tokenizer.eos_token_id


def test_questions_cover_all_protocols_with_answers_that_parse() -> None:
    rng = np.random.default_rng(0)
    count: Counter[Protocol] = Counter()
    for seed in range(300):
        question = draw_question(rng, picture(seed).displacement_mm)
        count[question.query.protocol] += 1
        if question.has_image:
            parse(question.answer, question.query)
    assert set(count) == set(CHANCES) == set(Protocol)
    turned = {draw_question(rng, picture(s).displacement_mm, MIRRORED).query.protocol for s in range(100)}
    assert turned == {Protocol.LOCALIZATION, Protocol.RETRIEVAL, Protocol.COMMAND}
    nothing = np.full((14, 2), np.nan, np.float32)
    assert draw_question(rng, nothing).query.protocol is Protocol.COMMAND


def test_examples_are_repeatable_and_every_epoch_takes_every_image(data: Path) -> None:
    pictures = Pictures(data, "train")
    assert len(pictures) == 12
    one, two = Examples(pictures, 3), Examples(pictures, 3)
    assert [one[k][1] for k in range(30)] == [two[k][1] for k in reversed(range(30))][::-1]
    epochs = [[one[k][0].displacement_mm.tobytes() for k in range(12 * e, 12 * e + 12)] for e in (0, 1)]
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("name", BUILDERS)
def test_adapters_go_on_all_linear_layers_of_the_language_model(name: str, folders: dict[str, Path]) -> None:
    chosen = options(folders[name], Path(), Path())
    _, model = prepare(chosen, Placement("cpu", "float32", "test"))
    base = model.get_base_model()
    prefix, part = language_model(base)
    assert not re.search("vision|visual|projector", prefix)
    adapted = {n.removesuffix(".lora_A.default") for n, _ in model.named_modules() if n.endswith("lora_A.default")}
    assert len(adapted) == 7 * len(part.layers)
    empty = empty_model(str(folders[name]))
    assert all(re.fullmatch(target_modules(empty), n.removeprefix("base_model.model.")) for n in adapted)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trained == adapter_parameters(empty, chosen.rank)


def test_the_learning_rate_rises_and_falls() -> None:
    chosen = QloraOptions("x", Path(), Path(), warm_up=0.1)
    rates = [learning_rate(step, 100, chosen) for step in range(100)]
    assert int(np.argmax(rates)) in (9, 10)
    assert rates[0] == pytest.approx(chosen.rate / 10)
    assert rates[-1] == pytest.approx(0.05 * chosen.rate, rel=0.1)


def test_bad_options_are_one_line(tmp_path: Path, folders: dict[str, Path]) -> None:
    good = QloraOptions("x", tmp_path, tmp_path)
    for change in ({"model": ""}, {"batch": 0}, {"rate": 0.0}, {"precision": "int8"}, {"dropout": 1.0}, {"steps": -1}):
        with pytest.raises(ConfigurationError):
            replace(good, **change)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="a batch of 16 cannot be shared out over 3 processes"):
        good.accumulation(3)
    assert replace(good, micro_batch=2).accumulation(4) == 2
    with pytest.raises(ConfigurationError, match="carm dataset --format xray"):
        train_qlora(options(folders[LLAVA], tmp_path, tmp_path / "o"), progress=False)
    with pytest.raises(LocalizerError, match="does not exist"):
        train_qlora(options(tmp_path / "nowhere", tmp_path, tmp_path / "o"), progress=False)


def test_a_model_that_cannot_be_loaded_leaves_no_folder(data: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(folders[LLAVA], broken)
    for weights in broken.glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(LocalizerError):
        train_qlora(options(broken, data, tmp_path / "o"), progress=False)
    assert not (tmp_path / "o").exists()
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(LocalizerError):
        train_qlora(options(broken, data, kept), progress=False)
    assert [path.name for path in kept.iterdir()] == ["notes.txt"]


BIG = Size(4_300_000_000, 3_500_000_000)


@pytest.mark.parametrize(
    ("machine", "device", "dtype"),
    [
        (Machine(64 * GIB, 24 * GIB, True, True), "cuda", "bfloat16"),
        (Machine(64 * GIB, 24 * GIB, False, True), "cuda", "float16"),
        (Machine(64 * GIB, 7 * GIB, True, True), "cuda", "nf4"),
        (Machine(64 * GIB, 7 * GIB, True, False), "cpu", "float32"),
        (Machine(64 * GIB), "cpu", "float32"),
        (Machine(12 * GIB), "cpu", "bfloat16"),
    ],
)
def test_a_model_goes_where_it_fits(machine: Machine, device: str, dtype: str) -> None:
    placement = choose_device("auto", False, BIG, machine)
    assert (placement.device, placement.dtype) == (device, dtype)
    assert "GiB" in placement.reason


def test_a_model_that_fits_nowhere_is_refused_with_the_figures() -> None:
    with pytest.raises(
        LocalizerError, match=r"4\.3 billion parameters does not fit: needs .* GiB in float32 of 4\.0"
    ) as e:
        choose_device("auto", False, BIG, Machine(4 * GIB))
    assert "\n" not in str(e.value)
    with pytest.raises(LocalizerError, match="cuda"):
        choose_device("cuda", True, BIG, Machine(64 * GIB, 2 * GIB, True, True))
    with pytest.raises(ConfigurationError, match="pip install bitsandbytes"):
        choose_device("auto", True, BIG, Machine(64 * GIB, 24 * GIB))
    assert Size(100, 64).weight_bytes("nf4") == 64 * 0.5625 + 36 * 2


def test_an_adapter_names_its_base(folders: dict[str, Path], tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    save_file({"nothing": torch.zeros(1)}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(folders[LLAVA])}))
    source = resolve_source(str(adapter))
    assert (source.model, source.adapter, source.processor) == (str(folders[LLAVA]), str(adapter), str(folders[LLAVA]))
    with pytest.raises(LocalizerError, match="cannot go on top"):
        resolve_source(str(adapter), "another/adapter")
    with pytest.raises(LocalizerError, match="cannot be loaded"):
        load(source, "cpu")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "/nowhere/model"}))
    with pytest.raises(LocalizerError, match="which is not here"):
        resolve_source(str(adapter))
