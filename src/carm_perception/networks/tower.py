# SPDX-License-Identifier: Apache-2.0
"""The convolutional tower: the ResNet of ``transformers`` with basic blocks (He et al. 2016), in plain torch.

Names and results are those of ``ResNetModel``, so that weights are the same files; importing it takes no time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional


def _convolution(inner: int, outer: int, side: int, stride: int = 1) -> OrderedDict[str, nn.Module]:
    """Return a convolution with its normalization."""
    convolution = nn.Conv2d(inner, outer, side, stride=stride, padding=side // 2, bias=False)
    return OrderedDict(convolution=convolution, normalization=nn.BatchNorm2d(outer))


class _Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        same = inner == outer and stride == 1
        self.shortcut = nn.Identity() if same else nn.Sequential(_convolution(inner, outer, 1, stride))
        first, second = _convolution(inner, outer, 3, stride), _convolution(outer, outer, 3)
        first["activation"] = nn.ReLU(inplace=True)
        self.layer = nn.Sequential(nn.Sequential(first), nn.Sequential(second))

    def forward(self, image: Tensor) -> Tensor:
        return functional.relu(self.layer(image) + self.shortcut(image))


class Tower(nn.Module):
    """Four stages, the first at a quarter of the resolution, the last at 1/32."""

    def __init__(self, stem: int, channels: Sequence[int], blocks: Sequence[int]) -> None:
        """Build it with random weights.

        Args:
            stem: Channels of the first convolution.
            channels: Channels of each stage.
            blocks: Residual blocks of each stage.
        """
        super().__init__()
        layers = OrderedDict(
            embedder=nn.Sequential(_convolution(1, stem, 7, 2)),
            relu=nn.ReLU(inplace=True),
            pooler=nn.MaxPool2d(3, 2, 1),
        )
        self.embedder = nn.Sequential(layers)
        stages = []
        for number, (outer, count) in enumerate(zip(channels, blocks, strict=True)):
            inner = stem if number == 0 else channels[number - 1]
            rows = [_Block(inner, outer, 1 if number == 0 else 2), *(_Block(outer, outer, 1) for _ in range(count - 1))]
            stages.append(nn.Sequential(OrderedDict(layers=nn.Sequential(*rows))))
        self.encoder = nn.Sequential(OrderedDict(stages=nn.Sequential(*stages)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the features after the first convolution and after each stage, of pixels (batch, 1, rows, columns)."""
        features = [self.embedder(pixels)]
        for stage in self.encoder.get_submodule("stages").children():
            features.append(stage(features[-1]))
        return features
