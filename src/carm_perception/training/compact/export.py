# SPDX-License-Identifier: Apache-2.0
"""Writes the finished model as an ordinary Hugging Face folder: weights, tokenizer, processor, chat template, card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from carm_core.errors import ConfigurationError
from carm_perception.networks.landmark_network import LandmarkLocalizer
from carm_perception.networks.landmark_reader import DISPLACEMENT, PRESENCE, SIZE
from carm_perception.networks.model_folder import HEAD_FILE, LOCALIZER_FILE
from carm_perception.networks.tokens import CHAT_TEMPLATE, IMAGE
from carm_perception.networks.vision_language_model import IMAGE_PX, MEAN, REDUCTION, STD

TRAINING_FILE = "training.json"
MAXIMUM_BYTES = 25_000_000


def build_processor(tokenizer: Any) -> Any:
    """Return the processor that resizes any image to the model's input and expands the image token.

    Args:
        tokenizer: The compact model's tokenizer.

    Returns:
        A ``LlavaProcessor``.
    """
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    images = CLIPImageProcessorPil(
        do_resize=True,
        size={"height": IMAGE_PX, "width": IMAGE_PX},
        resample=4,
        do_center_crop=False,
        do_rescale=True,
        do_normalize=True,
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
        do_convert_rgb=True,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=REDUCTION,
        vision_feature_select_strategy="full",
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def export(compact: Any, localizer: LandmarkLocalizer, tokenizer: Any, folder: Path, card: dict[str, Any]) -> Path:
    """Save in half precision.

    Args:
        compact: Model and heads.
        localizer: The deep-learning localizer.
        tokenizer: The compact model's tokenizer.
        folder: Where to; made if needed.
        card: How it was trained.

    Raises:
        ConfigurationError: The folder cannot be written, or the weights exceed 25 MB.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        compact.model.config.dtype = torch.float16
        compact.model.save_pretrained(folder, state_dict=_halves(_state(compact)))
        build_processor(tokenizer).save_pretrained(folder)
        heads = {DISPLACEMENT: compact.head, PRESENCE: compact.presence}
        weights = {prefix + key: value for prefix, head in heads.items() for key, value in head.state_dict().items()}
        _save(weights, folder / HEAD_FILE, {})
        _save(localizer.state_dict(), folder / LOCALIZER_FILE, {SIZE: localizer.size.as_json()})
        (folder / TRAINING_FILE).write_text(json.dumps(card, indent=1) + "\n")
    except OSError as error:
        raise ConfigurationError(f"cannot write the model to {folder}: {error.strerror or error}") from error
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    if size > MAXIMUM_BYTES:
        raise ConfigurationError(f"the weights take {size / 1e6:.1f} MB, more than {MAXIMUM_BYTES / 1e6:.0f} MB")
    return folder


def _save(weights: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    from safetensors.torch import save_file

    save_file({key: value.contiguous() for key, value in _halves(weights).items()}, path, metadata=metadata)
    path.chmod(0o644)  # the library makes it for the owner alone


def _halves(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def _state(compact: Any) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = compact.model.state_dict()
    return {key: value for key, value in state.items() if key != "lm_head.weight"}
