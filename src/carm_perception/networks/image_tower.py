# SPDX-License-Identifier: Apache-2.0
"""The compact model's image tokens, as its own class computes them, without importing ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from carm_core.data_files import read_json
from carm_core.errors import LocalizerError
from carm_perception.networks.tower import Tower
from carm_perception.networks.vision_language_model import MEAN, STD

WEIGHTS = "model.safetensors"
_TOWER, _PROJECTOR = "model.vision_tower.", "model.multi_modal_projector."
_STEM = "embedder.embedder.convolution.weight"
_LARGEST_CONFIG_BYTES = 1 << 20


class ImageTower(nn.Module):
    """Tower and projector of a ``FastVlmForConditionalGeneration`` with a ResNet."""

    def __init__(self, tower: Tower, inner: int, width: int) -> None:
        """Put the projector behind a tower.

        Args:
            tower: The tower.
            inner: Channels of its last stage.
            width: Of the tokens.
        """
        super().__init__()
        self.width = width
        self.tower = tower
        self.linear_1, self.linear_2 = nn.Linear(inner, width), nn.Linear(width, width)

    @classmethod
    def load(cls, folder: Path) -> ImageTower:
        """Read the weights of a compact model folder.

        Raises:
            LocalizerError: The folder's content is no such model.
        """
        from safetensors import SafetensorError, safe_open

        try:
            config: Any = read_json(folder / "config.json", _LARGEST_CONFIG_BYTES)
            vision, width = config["vision_config"], int(config["text_config"]["hidden_size"])
            sizes = [int(size) for size in vision["hidden_sizes"]]
            tower = Tower(int(vision["embedding_size"]), sizes, [int(count) for count in vision["depths"]])
            made = cls(tower, sizes[-1], width)
            with safe_open(folder / WEIGHTS, "pt") as file:
                weights = {
                    new + key.removeprefix(old): file.get_tensor(key).float()
                    for key in file.keys()  # noqa: SIM118
                    for old, new in ((_TOWER, "tower."), (_PROJECTOR, ""))
                    if key.startswith(old)
                }
            stem = "tower." + _STEM
            weights[stem] = weights[stem].sum(dim=1, keepdim=True)  # its three channels get the same gray values
            made.load_state_dict(weights)
        except (OSError, SafetensorError, RuntimeError, ValueError, TypeError, LookupError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise LocalizerError(f"model folder {folder} cannot be loaded: {reason}") from error
        return made.eval()

    def forward(self, gray: Tensor) -> Tensor:
        """Return the image tokens (batch, tokens, width) of gray values (batch, 128, 128) in 0 to 1."""
        features = self.tower(((gray - MEAN) / STD)[:, None])[-1]
        tokens = features.flatten(2).transpose(1, 2)
        projected: Tensor = self.linear_2(functional.gelu(self.linear_1(tokens)))
        return projected
