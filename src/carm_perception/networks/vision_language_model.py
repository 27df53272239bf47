# SPDX-License-Identifier: Apache-2.0
"""The compact model: FastVLM (convolutional tower, projector, decoder-only language model) with a small configuration.

Everything is an ordinary ``transformers`` class, so the saved folder loads with ``AutoProcessor`` and
``AutoModelForImageTextToText``. A ``DisplacementHead`` reads the same projected image tokens; it trains the
tower first, and is the deep-learning localizer beside the language model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from carm_core.landmarks import LANDMARKS
from carm_perception.networks.tokens import IMAGE, number_token_ids
from carm_perception.protocols.parsing import LIMIT_MM

IMAGE_PX = 128
REDUCTION = 32
GRID = IMAGE_PX // REDUCTION
IMAGE_TOKENS = GRID * GRID
CELLS_PER_TOKEN = 4
"""Cells along each side of a token's field in ``PresenceHead``."""
ABSENT_ODDS = 6.0
"""A landmark is about this many times more often outside a view than in it."""
MEAN, STD = 0.5, 0.25
SCALE_MM = 100.0
"""The head works in units of this length."""


@dataclass(frozen=True)
class CompactSize:
    """Widths and depths.

    Attributes:
        stem: Channels of the tower's first convolution.
        channels: Channels of the tower's four stages.
        blocks: Residual blocks of each stage.
        hidden: Width of the language model.
        layers: Layers of the language model.
        heads: Attention heads.
        key_value_heads: Heads of keys and values.
        intermediate: Width of the feed-forward layers.
    """

    stem: int = 32
    channels: tuple[int, ...] = (32, 64, 160, 320)
    blocks: tuple[int, ...] = (1, 1, 2, 1)
    hidden: int = 192
    layers: int = 4
    heads: int = 6
    key_value_heads: int = 3
    intermediate: int = 384


def build_model(tokenizer: Any, size: CompactSize | None = None) -> Any:
    """Build the model with random weights.

    Args:
        tokenizer: From ``carm_perception.training.compact.tokenizer.build_tokenizer``.
        size: Widths and depths.

    Returns:
        A ``FastVlmForConditionalGeneration``.
    """
    from transformers import FastVlmConfig, FastVlmForConditionalGeneration

    size = size or CompactSize()
    vision = {
        "model_type": "resnet",
        "embedding_size": size.stem,
        "hidden_sizes": list(size.channels),
        "depths": list(size.blocks),
        "layer_type": "basic",
        "hidden_act": "relu",
        "hidden_size": size.channels[-1],
    }
    text = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": size.hidden,
        "intermediate_size": size.intermediate,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": size.key_value_heads,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = FastVlmConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = FastVlmForConditionalGeneration(config)
    with torch.no_grad():
        embedding = model.get_input_embeddings().weight
        embedding[number_token_ids(tokenizer)] = smooth_embeddings(size.hidden)
    model.generation_config.update(
        do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=32
    )
    return model


def smooth_embeddings(width: int, std: float = 0.02) -> Tensor:
    """Return the embeddings (801, width) of -400 to 400 in which near numbers are alike: sines of many wave lengths.

    Args:
        width: Embedding width.
        std: Standard deviation of a component.
    """
    values = torch.arange(-LIMIT_MM, LIMIT_MM + 1, dtype=torch.float32)[:, None]
    lengths = torch.logspace(math.log10(1600.0), math.log10(12.0), width // 2)[None]
    phase = 2 * math.pi * values / lengths
    return torch.cat([phase.sin(), phase.cos()], dim=1) * (std * math.sqrt(2))


class DisplacementHead(nn.Module):
    """Displacement and scale of every landmark from the projected image tokens.

    Each token votes for every landmark, with a weight; votes are averaged and refined by what the mean token says.
    """

    def __init__(self, width: int, tokens: int = IMAGE_TOKENS) -> None:
        """Build the head.

        Args:
            width: Width of the projected tokens.
            tokens: Number of image tokens.
        """
        super().__init__()
        count = len(LANDMARKS)
        self.position = nn.Parameter(torch.zeros(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.vote = nn.Linear(width, count * 5)
        self.summary = nn.Linear(width, count * 4)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Read tokens (batch, tokens, width).

        Returns:
            Displacement (batch, 14, 2) and logarithm of the Laplace scale (batch, 14, 2), in units of 100 mm.
        """
        batch, count = tokens.shape[0], len(LANDMARKS)
        tokens = self.norm(tokens)
        votes = self.vote(tokens + self.position).view(batch, -1, count, 5)
        weights = votes[..., 4:].softmax(dim=1)
        pooled = (votes[..., :4] * weights).sum(dim=1) + self.summary(tokens.mean(dim=1)).view(batch, count, 4)
        return pooled[..., :2], pooled[..., 2:].clamp(-6.0, 3.0)


class PresenceHead(nn.Module):
    """Says of every cell of a fine grid whether a landmark lies in it, from the projected image tokens.

    Each token learns to tell what lies where within its own field, which a sum over all tokens teaches slowly.
    """

    def __init__(self, width: int) -> None:
        """Build the head.

        Args:
            width: Width of the projected tokens.
        """
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.cells = nn.Linear(width, len(LANDMARKS) * CELLS_PER_TOKEN**2)
        self.absent = nn.Linear(width, len(LANDMARKS))
        nn.init.constant_(self.absent.bias, math.log((GRID * CELLS_PER_TOKEN) ** 2 * ABSENT_ODDS))

    def forward(self, tokens: Tensor) -> Tensor:
        """Read tokens (batch, tokens, width).

        Returns:
            Logits (batch, 14, cells + 1): cells row by row as displayed, then "not in view".
        """
        batch, count, fine = tokens.shape[0], len(LANDMARKS), CELLS_PER_TOKEN
        tokens = self.norm(tokens)
        cells = self.cells(tokens).view(batch, GRID, GRID, count, fine, fine)
        cells = cells.permute(0, 3, 1, 4, 2, 5).reshape(batch, count, (GRID * fine) ** 2)
        return torch.cat([cells, self.absent(tokens.mean(dim=1))[..., None]], dim=-1)


def train_on_gray(model: Any) -> None:
    """Make the first convolution read one channel: the three are equal, so the result is the same and faster."""
    stem = model.model.vision_tower.embedder.embedder.convolution

    def forward(pixels: Tensor) -> Tensor:
        weight = stem.weight.sum(dim=1, keepdim=True)
        return nn.functional.conv2d(pixels[:, :1].contiguous(), weight, None, stem.stride, stem.padding)

    stem.forward = forward


def image_tokens(model: Any, pixels: Tensor) -> Tensor:
    """Return the projected image tokens (batch, tokens, width) of pixels (batch, 3, rows, columns)."""
    features: Tensor = model.model.get_image_features(pixel_values=pixels, return_dict=True).pooler_output
    return features


def normalize(gray: Tensor) -> Tensor:
    """Return the model input (batch, 3, rows, columns) of gray values (batch, rows, columns) in 0 to 1."""
    return ((gray - MEAN) / STD)[:, None].expand(-1, 3, -1, -1)
