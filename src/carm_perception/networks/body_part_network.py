# SPDX-License-Identifier: Apache-2.0
"""The network for body parts: the tower of the deep-learning localizer, with weights of its own, and a small head."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import LocalizerError
from carm_perception.networks.body_part_reader import BODY_PART_FILE
from carm_perception.networks.landmark_network import LandmarkLocalizer, LocalizerSize
from carm_perception.networks.tower import Tower
from carm_perception.networks.vision_language_model import MEAN, STD

_DROPOUT = 0.2


class BodyPartNetwork(nn.Module):
    """One logit for each body part: several can be in an image."""

    def __init__(self, size: LocalizerSize | None = None) -> None:
        """Build it with random weights."""
        super().__init__()
        size = size or LocalizerSize()
        self.tower = Tower(size.stem, size.channels, size.blocks)
        width = size.channels[-1]
        self.head = nn.Sequential(
            nn.Linear(2 * width, width), nn.ReLU(inplace=True), nn.Dropout(_DROPOUT), nn.Linear(width, len(BODY_PARTS))
        )

    def forward(self, gray: Tensor) -> Tensor:
        """Read gray values (batch, 128, 128) in 0 to 1.

        Returns:
            Logits (batch, 22).
        """
        pixels = ((gray - MEAN) / STD)[:, None].contiguous(memory_format=torch.channels_last)
        features = self.tower(pixels)[-1]
        logits: Tensor = self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1))
        return logits

    def start_from(self, localizer: LandmarkLocalizer) -> None:
        """Copy the tower of a localizer of landmarks."""
        self.tower.load_state_dict(localizer.tower.state_dict())


def save_network(network: BodyPartNetwork, folder: Path) -> Path:
    """Write the weights in half precision.

    Raises:
        OSError: The folder cannot be written.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / BODY_PART_FILE
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    save_file(weights, path)
    path.chmod(0o644)  # the library makes it for the owner alone
    return path


def load_network(folder: Path) -> BodyPartNetwork:
    """Read weights.

    Args:
        folder: Folder with ``body_part.safetensors``.

    Raises:
        LocalizerError: They are missing, damaged, or of another network.
    """
    from safetensors import SafetensorError, safe_open

    path = folder / BODY_PART_FILE
    if not path.is_file():
        raise LocalizerError(f"model folder {folder} lacks {BODY_PART_FILE}")
    network = BodyPartNetwork()
    try:
        with safe_open(path, "pt") as file:
            weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    except (OSError, SafetensorError, RuntimeError) as error:
        raise LocalizerError(f"{path} does not belong to this network: {str(error).splitlines()[0]}") from error
    return network.eval()
