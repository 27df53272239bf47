# SPDX-License-Identifier: Apache-2.0
"""What the two small heads on the compact model's image tokens say about every landmark.

One says in which cell of the image a landmark lies, which is exact but knows only what is in view; the other guesses
the displacement, however far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import LocalizerError
from carm_core.landmarks import LANDMARKS
from carm_perception.image import FIELD_MM

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

HEAD_FILE = "displacement_head.safetensors"
_ROWS = {mark.id: row for row, mark in enumerate(LANDMARKS)}

DISPLACEMENT, PRESENCE = "displacement.", "presence."
"""Prefixes of the weights of either head in :data:`HEAD_FILE`."""

SEEN = 0.35
"""Probability within 3 x 3 cells from which on a landmark counts as seen."""

SEEN_MASS = (0.35, 0.50, 0.60, 0.75, 0.87)
SEEN_STD_MM = (42.0, 25.0, 16.0, 9.5, 6.0)
"""Standard deviation of either component of a seen place by the probability of its cells: the radius that held 90 % of
the landmarks of phantoms of the style ``validation``, as of a Gaussian. The cells' soft labels spread over more than
3 x 3 cells, so that the probability does not reach 1."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Where the landmarks are.

    Attributes:
        displacement_mm: (14, 2), right and up at isocenter depth, mm.
        std_mm: Standard deviation of either component (14,), mm.
        seen: Whether each landmark was seen in the image (14,); otherwise its place is inferred from others.
        presence: Probability of the likeliest 3 x 3 cells (14,): how surely each landmark is in the image.
    """

    displacement_mm: NDArray[np.float64]
    std_mm: NDArray[np.float64]
    seen: NDArray[np.bool_]
    presence: NDArray[np.float64]

    def sees(self, landmark_id: int) -> bool:
        """Whether a landmark was seen in the image."""
        return bool(self.seen[_ROWS[landmark_id]])


class Heads:
    """Both heads, with their weights."""

    def __init__(self, displacement: Any, presence: Any) -> None:
        """Take trained heads.

        Args:
            displacement: A :class:`carm_perception.train.architecture.DisplacementHead`.
            presence: A :class:`carm_perception.train.architecture.PresenceHead`.
        """
        self._displacement, self._presence = displacement.eval(), presence.eval()

    @classmethod
    def load(cls, folder: Path, width: int) -> Heads:
        """Read the heads of a model folder.

        Args:
            folder: Model folder.
            width: Width of the projected image tokens.

        Raises:
            LocalizerError: The file is missing or belongs to another model.
        """
        from safetensors.torch import load_file

        from carm_perception.train.architecture import DisplacementHead, PresenceHead

        path = folder / HEAD_FILE
        if not path.is_file():
            raise LocalizerError(f"model folder {folder} lacks {HEAD_FILE}")
        heads = {DISPLACEMENT: DisplacementHead(width), PRESENCE: PresenceHead(width)}
        try:
            weights = {key: value.float() for key, value in load_file(path).items()}
            for prefix, head in heads.items():
                head.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        except (OSError, RuntimeError, ValueError) as error:
            raise LocalizerError(f"{path} does not belong to this model: {str(error).splitlines()[0]}") from error
        return cls(heads[DISPLACEMENT], heads[PRESENCE])

    def read(self, tokens: Tensor) -> Reading:
        """Read the projected image tokens (1, tokens, width) of one image."""
        import torch

        from carm_perception.train.architecture import SCALE_MM

        with torch.inference_mode():
            mean, log_scale = (value[0].double().numpy() for value in self._displacement(tokens))
            cells = self._presence(tokens)[0].double().softmax(-1).numpy()
        places = mean * SCALE_MM
        spreads = np.sqrt(2 * (np.exp(log_scale) * SCALE_MM) ** 2).mean(-1)
        seen, presence = np.zeros(len(LANDMARKS), bool), np.zeros(len(LANDMARKS))
        for index, probability in enumerate(cells):
            place, spread, mass = peak(probability)
            presence[index] = mass
            if mass >= SEEN:
                places[index], spreads[index], seen[index] = place, spread, True
        return Reading(places, spreads, seen, presence)


def peak(probability: NDArray[np.float64]) -> tuple[NDArray[np.float64], float, float]:
    """The likeliest 3 x 3 cells.

    Args:
        probability: Of each cell, row by row as displayed, then of absence: (side * side + 1,).

    Returns:
        Mean displacement (2,) right and up, mm, the standard deviation of either component, mm, and the probability
        of these cells.
    """
    side = math.isqrt(len(probability) - 1)
    grid = np.pad(probability[:-1].reshape(side, side), 1)
    mass = sum(grid[r : r + side, c : c + side] for r in range(3) for c in range(3))
    row, column = np.unravel_index(int(np.argmax(mass)), (side, side))
    near = grid[row : row + 3, column : column + 3]
    total = float(near.sum())
    cell_mm = FIELD_MM / side
    offset = np.arange(-1, 2)
    right = (column + (near.sum(0) @ offset) / total - (side - 1) / 2) * cell_mm
    up = ((side - 1) / 2 - row - (near.sum(1) @ offset) / total) * cell_mm
    return np.array([right, up]), float(np.interp(total, SEEN_MASS, SEEN_STD_MM)), total
