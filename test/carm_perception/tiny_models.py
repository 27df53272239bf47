# SPDX-License-Identifier: Apache-2.0
"""Tiny random models of the classes that people use, saved to disk as their authors save them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from carm_perception.localizers.huggingface.processor import image_only

_PLAIN = ("<pad>", "<eos>", "<bos>")


def _tokenizer(*special: str, **named: str) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[*_PLAIN, *special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["landmark"], trainer)
    pad, eos, bos = _PLAIN
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, eos_token=eos, bos_token=bos, extra_special_tokens=named
    )


def _template(image: str) -> str:
    return (
        "{% for message in messages %}{% for part in message['content'] %}{% if part['type'] == 'image' %}"
        + image
        + "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
    )


def _text(size: int, **more: Any) -> dict[str, Any]:
    text = {
        "vocab_size": size,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": 2,
    }
    return {**text, **more}


def _vision(**more: Any) -> dict[str, Any]:
    vision = {
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 56,
        "patch_size": 14,
    }
    return {**vision, **more}


def qwen2_5_vl(folder: Path) -> None:
    tokenizer = _tokenizer("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    image, video, start, end = range(3, 7)
    images = transformers.Qwen2VLImageProcessorPil(size={"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 16})
    template = _template("<|vision_start|><|image_pad|><|vision_end|>")
    processor = image_only(transformers.Qwen2_5_VLProcessor)(images, tokenizer, chat_template=template)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        text_config=_text(len(tokenizer), rope_parameters=rope),
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "window_size": 28,
            "fullatt_block_indexes": [0],
        },
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    _save(transformers.Qwen2_5_VLForConditionalGeneration(config), processor, folder)


def gemma3(folder: Path) -> None:
    tokenizer = _tokenizer(
        "<image_soft_token>",
        "<start_of_image>",
        "<end_of_image>",
        image_token="<image_soft_token>",
        boi_token="<start_of_image>",
        eoi_token="<end_of_image>",
    )
    images = transformers.Gemma3ImageProcessorPil(size={"height": 56, "width": 56})
    processor = transformers.Gemma3Processor(
        images, tokenizer, chat_template=_template("<start_of_image>"), image_seq_length=4
    )
    config = transformers.Gemma3Config(
        text_config=_text(len(tokenizer), sliding_window=64),
        vision_config=_vision(vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_index=3,
        boi_token_index=4,
        eoi_token_index=5,
    )
    _save(transformers.Gemma3ForConditionalGeneration(config), processor, folder)


def llava(folder: Path) -> None:
    tokenizer = _tokenizer("<image>")
    images = transformers.CLIPImageProcessorPil(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56})
    processor = transformers.LlavaProcessor(
        images,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=_template("<image>"),
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        text_config={"model_type": "llama", **_text(len(tokenizer))},
        vision_config={"model_type": "clip_vision_model", **_vision(projection_dim=32)},
        image_token_index=3,
        vision_feature_layer=-1,
    )
    _save(transformers.LlavaForConditionalGeneration(config), processor, folder)


def idefics3(folder: Path) -> None:
    """The class of SmolVLM-Instruct."""
    tokenizer = _tokenizer(
        "<fake_token_around_image>",
        "<image>",
        "<end_of_utterance>",
        "<global-img>",
        fake_image_token="<fake_token_around_image>",
        image_token="<image>",
        end_of_utterance_token="<end_of_utterance>",
        global_image_token="<global-img>",
    )
    images = transformers.Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
    )
    processor = transformers.Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=_template("<image>"))
    config = transformers.Idefics3Config(
        text_config={"model_type": "llama", **_text(len(tokenizer))},
        vision_config=_vision(),
        image_token_id=4,
        scale_factor=2,
    )
    _save(transformers.Idefics3ForConditionalGeneration(config), processor, folder)


def _save(model: Any, processor: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


BUILDERS: dict[str, Callable[[Path], None]] = {
    "Qwen2_5_VLForConditionalGeneration": qwen2_5_vl,
    "Gemma3ForConditionalGeneration": gemma3,
    "LlavaForConditionalGeneration": llava,
    "Idefics3ForConditionalGeneration": idefics3,
}


def build(architecture: str, folder: Path) -> Path:
    """Save a tiny random model of an architecture."""
    torch.manual_seed(0)
    BUILDERS[architecture](folder)
    return folder
