# SPDX-License-Identifier: Apache-2.0
"""The deep-learning localizer: a convolutional tower, attention over the whole image, and two readings of it.

One query per landmark attends to the image and to the other landmarks' queries (as the object queries of DETR, Carion
et al. 2020, arXiv:2005.12872) and gives the displacement, also of what is out of view; multiplied with a fine feature
map it gives the cells of the image in which the landmark lies (as the masks of MaskFormer, Cheng et al. 2021,
arXiv:2107.06278). The tower starts from the language model's.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from carm_core.data_files import parse_json
from carm_core.landmarks import ALL_LANDMARKS
from carm_perception.networks.tower import Tower
from carm_perception.networks.vision_language_model import ABSENT_ODDS, MEAN, STD, CompactSize

SIDE = 32
"""Cells along each side of the image."""
COARSE_SIDE = 8
"""Cells along each side at which attention works."""


@dataclass(frozen=True)
class LocalizerSize:
    """Widths and depths.

    Attributes:
        stem: Channels of the tower's first convolution.
        channels: Channels of the tower's four stages.
        blocks: Residual blocks of each stage.
        width: Width of tokens and queries.
        heads: Attention heads.
        feed_forward: Width of the feed-forward layers.
        encoder_layers: Layers of attention within the image.
        decoder_layers: Layers in which the queries read the image.
        middle: Channels at 16 x 16 cells.
        fine: Channels at 32 x 32 cells.
    """

    stem: int = CompactSize.stem
    channels: tuple[int, ...] = CompactSize.channels
    blocks: tuple[int, ...] = CompactSize.blocks
    width: int = 192
    heads: int = 6
    feed_forward: int = 384
    encoder_layers: int = 3
    decoder_layers: int = 2
    middle: int = 96
    fine: int = 64

    def as_json(self) -> str:
        """Return the text that ``from_json`` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> LocalizerSize:
        """Read what ``as_json`` wrote.

        Raises:
            ValueError: It is no such text.
            TypeError: It has other fields.
        """
        content: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in parse_json(text).items()
        }
        return cls(**content)


def _mixed(channels: int) -> nn.Module:
    """Return a 3 x 3 convolution with its normalization."""
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
    )


class LandmarkLocalizer(nn.Module):
    """Displacement, scale and cells of every landmark from gray values."""

    def __init__(self, size: LocalizerSize | None = None) -> None:
        """Build it with random weights."""
        super().__init__()
        self.size = size = size or LocalizerSize()
        self.tower = Tower(size.stem, size.channels, size.blocks)
        count, width = len(ALL_LANDMARKS), size.width
        first, second, third, fourth = size.channels
        self.from_third, self.from_fourth = nn.Conv2d(third, width, 1), nn.Conv2d(fourth, width, 1)
        self.position = nn.Parameter(torch.randn(COARSE_SIDE**2, width) * 0.02)
        self.queries = nn.Parameter(torch.randn(count, width) * 0.5)
        options: dict[str, Any] = {
            "nhead": size.heads,
            "dim_feedforward": size.feed_forward,
            "dropout": 0.0,
            "activation": "gelu",
            "batch_first": True,
            "norm_first": True,
        }
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(width, **options), size.encoder_layers, nn.LayerNorm(width), False
        )
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(width, **options), size.decoder_layers, nn.LayerNorm(width)
        )
        self.place, self.absent = nn.Linear(width, 4), nn.Linear(width, 1)
        self.to_middle, self.from_second = nn.Conv2d(width, size.middle, 1), nn.Conv2d(second, size.middle, 1)
        self.to_fine, self.from_first = nn.Conv2d(size.middle, size.fine, 1), nn.Conv2d(first, size.fine, 1)
        self.middle, self.fine = _mixed(size.middle), _mixed(size.fine)
        self.mask = nn.Linear(width, size.fine)
        self.cells = nn.Conv2d(size.fine, count, 1)
        nn.init.constant_(self.absent.bias, math.log(SIDE**2 * ABSENT_ODDS))

    def forward(self, gray: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read gray values (batch, 128, 128) in 0 to 1.

        Returns:
            Displacement (batch, 48, 2) and logarithm of the Laplace scale (batch, 48, 2), in units of 100 mm, right
            and up, and logits (batch, 48, cells + 1): cells row by row as displayed, then "not in view".
        """
        pixels = ((gray - MEAN) / STD)[:, None].contiguous(memory_format=torch.channels_last)
        _, first, second, third, fourth = self.tower(pixels)
        coarse = self.from_third(third) + _twice(self.from_fourth(fourth))
        tokens = self.encoder(coarse.flatten(2).transpose(1, 2) + self.position)
        queries = self.decoder(self.queries.expand(len(gray), -1, -1), tokens + self.position)
        places = self.place(queries)
        coarse = tokens.transpose(1, 2).unflatten(2, (COARSE_SIDE, COARSE_SIDE))
        middle = self.middle(_twice(self.to_middle(coarse)) + self.from_second(second))
        fine = self.fine(_twice(self.to_fine(middle)) + self.from_first(first))
        cells = torch.einsum("bqc,bcyx->bqyx", self.mask(queries), fine) / math.sqrt(fine.shape[1])
        logits = torch.cat([(cells + self.cells(fine)).flatten(2), self.absent(queries)], dim=-1)
        return places[..., :2], places[..., 2:].clamp(-6.0, 3.0), logits

    def start_from(self, tower: Any) -> None:
        """Copy the weights of a language model's tower, whose three input channels are equal."""
        weights = dict(tower.state_dict())
        stem = "embedder.embedder.convolution.weight"
        weights[stem] = weights[stem].sum(dim=1, keepdim=True)
        self.tower.load_state_dict(weights)


def _twice(image: Tensor) -> Tensor:
    return functional.interpolate(image, scale_factor=2, mode="bilinear", align_corners=False)
