# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from carm_core.errors import ConfigurationError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Protocol, Query
from carm_perception.localizers.huggingface import loader
from carm_perception.localizers.huggingface.loader import Placement, choose_device
from carm_perception.localizers.huggingface.localizer import HuggingFaceLocalizer
from carm_perception.localizers.registry import make_localizer

from ..tiny_models import BUILDERS, build

POINT = Query(Protocol.POINTING, 11)


def frame() -> XrayFrame:
    image = np.random.default_rng(0).integers(0, 256, (96, 96)).astype(np.uint8)
    return XrayFrame(image, 1.6, 0.0)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: build(name, tmp_path_factory.mktemp(name)) for name in BUILDERS}


@pytest.mark.parametrize("name", BUILDERS)
def test_any_class_is_asked_and_its_babble_is_a_typed_failure(name: str, folders: dict[str, Path]) -> None:
    localizer = HuggingFaceLocalizer(str(folders[name]), device="cpu", max_new_tokens=4, constrain=False)
    assert localizer.report.architecture == name
    assert (localizer.report.device, localizer.report.dtype) == ("cpu", "float32")
    assert localizer.report.memory_bytes >= 4 * localizer.report.parameters > 0
    assert len(localizer.model_version) == 12
    reply = localizer.localize(frame(), POINT)
    assert reply.error == "malformed"
    assert reply.estimates == ()
    assert reply.latency_s > 0


@pytest.mark.parametrize(
    ("query", "text", "ids"),
    [
        (POINT, '{"target": 11, "dx_mm": -42, "dy_mm": 118}', (11,)),
        (Query(Protocol.LOCALIZATION), "[10,11]", (10, 11)),
        (Query(Protocol.RETRIEVAL), "[11: Carina, 10: T1, 12: Right hemidiaphragm]", (11, 10, 12)),
    ],
)
def test_right_answer_is_parsed_and_a_wrong_one_is_asked_again_once(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, query: Query, text: str, ids: tuple[int, ...]
) -> None:
    localizer = HuggingFaceLocalizer(str(folders["LlavaForConditionalGeneration"]), device="cpu")
    prompts: list[str] = []
    answers = iter(["I think so.", text])

    def answer(frame: XrayFrame, prompt: str, query: Query) -> str:
        prompts.append(prompt)
        return next(answers)

    monkeypatch.setattr(localizer, "_ask", answer)
    reply = localizer.localize(frame(), query)
    assert reply.ok
    assert reply.answer == text
    assert tuple(e.id for e in reply.estimates) == ids
    assert len(prompts) == 2
    assert prompts[1].startswith(prompts[0])


def test_generation_is_bounded_and_repeatable(folders: dict[str, Path]) -> None:
    localizer = HuggingFaceLocalizer(
        str(folders["LlavaForConditionalGeneration"]), device="cpu", max_new_tokens=3, constrain=False
    )
    texts = {localizer._ask(frame(), "Where?", POINT) for _ in range(2)}
    assert len(texts) == 1
    tokenizer = localizer.generator._processor.tokenizer
    assert len(tokenizer.encode(texts.pop(), add_special_tokens=False)) <= 3 * 4  # a byte token may decode to U+FFFD


def test_adapter_changes_the_answer(folders: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    folder = folders["LlavaForConditionalGeneration"]
    base: Any = AutoModelForImageTextToText.from_pretrained(folder)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=3.0)
    adapted.save_pretrained(tmp_path / "adapter")
    plain = HuggingFaceLocalizer(str(folder), device="cpu", max_new_tokens=8, constrain=False)
    tuned = HuggingFaceLocalizer(
        str(folder), adapter=str(tmp_path / "adapter"), device="cpu", max_new_tokens=8, constrain=False
    )
    assert tuned.report.architecture == plain.report.architecture
    assert tuned.report.parameters > plain.report.parameters
    assert tuned._ask(frame(), "Where?", POINT) != plain._ask(frame(), "Where?", POINT)


def test_missing_files_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folders["LlavaForConditionalGeneration"], copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(LocalizerError, match=r"lacks model\.safetensors"):
        make_localizer(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(LocalizerError, match=r"lacks config\.json"):
        make_localizer(str(copy))
    with pytest.raises(LocalizerError, match="does not exist"):
        make_localizer(str(tmp_path / "nowhere"))
    with pytest.raises(LocalizerError, match=r"lacks adapter_config\.json"):
        HuggingFaceLocalizer(str(folders["LlavaForConditionalGeneration"]), adapter=str(tmp_path))


def test_damaged_weights_are_one_line(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(folders["LlavaForConditionalGeneration"], copy)
    (copy / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LocalizerError, match="cannot be loaded") as caught:
        make_localizer(str(copy))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    assert choose_device("auto", False).device == "cpu"
    for device, four in (("cuda", False), ("auto", True), ("cpu", True), ("tpu", False)):
        with pytest.raises(ConfigurationError):
            choose_device(device, four)


@pytest.mark.parametrize(
    ("placement", "device_map"),
    [
        (Placement("cpu", "float32", ""), None),
        (Placement("cuda", "bfloat16", ""), {"": 1}),
        (Placement("cuda", "nf4", ""), {"": 1}),
    ],
)
def test_weights_go_straight_to_their_gpu(
    placement: Placement, device_map: dict[str, int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    asked: dict[str, Any] = {}
    monkeypatch.setattr(loader, "load_processor", lambda place: SimpleNamespace(chat_template="yes"))
    monkeypatch.setattr(
        transformers.AutoModelForImageTextToText, "from_pretrained", lambda model, **given: asked.update(given)
    )
    loader.load_base(loader.Source("m", "", "m"), placement, 1)
    assert asked.get("device_map") == device_map
    assert asked["dtype"] is placement.torch_dtype


def test_image_that_cannot_be_read_is_a_typed_failure(folders: dict[str, Path]) -> None:
    localizer = HuggingFaceLocalizer(str(folders["LlavaForConditionalGeneration"]), device="cpu")
    reply = localizer.localize(XrayFrame(np.zeros((0, 0), np.uint8), 1.0, 0.0), POINT)
    assert reply.error == "internal"
