# SPDX-License-Identifier: Apache-2.0
"""What the deep-learning localizer says about every landmark: an ensemble of two networks.

Each has two outputs. One says in which cell of the image a landmark lies, which is exact but knows only what is in
view; the other guesses the displacement, however far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from carm_core.errors import LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS, ROWS
from carm_perception.networks.model_folder import HEAD_FILE, LOCALIZER_FILE
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX, model_gray

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from carm_perception.networks.landmark_network import LandmarkLocalizer

DISPLACEMENT, PRESENCE = "displacement.", "presence."
"""Prefixes of the weights of either head in ``HEAD_FILE``."""
SIZE = "size"
"""Key of the widths and depths among the metadata of ``LOCALIZER_FILE``."""

SHIFTS_PX = ((0, 0), (5, 3), (-5, 3), (0, -6))
"""Each image is read in copies that are moved by these pixels, right and down: where they disagree, the network does
not know."""


@dataclass(frozen=True)
class Cells:
    """How the cells of a network are read.

    Attributes:
        window: Side of the square of cells that a landmark's probability is gathered from.
        seen: Probability within the likeliest square from which on a landmark counts as seen.
        mass: Probabilities of the square, ascending.
        std_mm: Standard deviation of either component of a seen place at these: the radius that held 90 % of the
            landmarks of phantoms of the style ``validation``, as of a Gaussian.
    """

    window: int
    seen: float
    mass: tuple[float, ...]
    std_mm: tuple[float, ...]


FINE = Cells(5, 0.2, (0.27, 0.43, 0.57, 0.73, 0.857, 0.927, 0.967, 0.988), (58.0, 40.0, 21.0, 12.7, 6.8, 4.6, 2.6, 1.6))
"""32 x 32 cells of the localizer's network."""
COARSE = Cells(3, 0.35, (0.35, 0.50, 0.60, 0.75, 0.87), (42.0, 25.0, 16.0, 9.5, 6.0))
"""16 x 16 cells of the heads on the language model's tower."""

HEADS_SHARE = 1 / 3
"""What the heads on the tower count in the ensemble: chosen on phantoms of the style ``validation``."""


@dataclass(frozen=True, eq=False)
class Reading:
    """Where the landmarks are.

    Attributes:
        displacement_mm: (48, 2), right and up at isocenter depth, mm.
        std_mm: Standard deviation of either component (48,), mm.
        seen: Whether each landmark was seen in the image (48,); otherwise its place is inferred from others.
        presence: Probability of the likeliest square of cells (48,): how surely each landmark is in the image.
    """

    displacement_mm: NDArray[np.float64]
    std_mm: NDArray[np.float64]
    seen: NDArray[np.bool_]
    presence: NDArray[np.float64]

    def moved(self, by_mm: NDArray[np.float64]) -> Reading:
        """Return the same with all landmarks moved (2,), right and up, mm."""
        return replace(self, displacement_mm=self.displacement_mm + by_mm)

    def rows(self, start: int, stop: int | None) -> Reading:
        """Return the rows of some landmarks."""
        return Reading(*(getattr(self, f.name)[start:stop] for f in fields(self)))

    def sees(self, landmark_id: int) -> bool:
        """Return whether a landmark was seen in the image."""
        return bool(self.seen[ROWS[landmark_id]])


class LandmarkReader:
    """The deep-learning localizer: an ensemble of its network and, for the fourteen, the heads on the model's tower."""

    def __init__(self, network: Any, displacement: Any, presence: Any) -> None:
        """Store the trained parts.

        Args:
            network: A ``carm_perception.networks.landmark_network.LandmarkLocalizer``.
            displacement: A ``carm_perception.networks.vision_language_model.DisplacementHead``.
            presence: A ``carm_perception.networks.vision_language_model.PresenceHead``.
        """
        self._network, self._displacement, self._presence = network.eval(), displacement.eval(), presence.eval()

    @classmethod
    def load(cls, folder: Path, width: int) -> LandmarkReader:
        """Read network and heads of a model folder.

        Args:
            folder: Model folder.
            width: Width of the language model's image tokens.

        Raises:
            LocalizerError: A file is missing, damaged, or belongs to another model.
        """
        from carm_perception.networks.vision_language_model import DisplacementHead, PresenceHead

        network = load_localizer(folder)
        heads, _ = _weights(folder / HEAD_FILE)
        parts = {DISPLACEMENT: DisplacementHead(width), PRESENCE: PresenceHead(width)}
        file = folder / HEAD_FILE
        try:
            for prefix, head in parts.items():
                own = {key.removeprefix(prefix): value for key, value in heads.items() if key.startswith(prefix)}
                head.load_state_dict(own)
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise LocalizerError(f"{file} does not belong to this model: {str(error).splitlines()[0]}") from error
        return cls(network, parts[DISPLACEMENT], parts[PRESENCE])

    def read(self, frame: XrayFrame, tokens: Tensor) -> Reading:
        """Read a frame.

        Args:
            frame: The frame.
            tokens: Its image tokens by the language model's tower (1, tokens, width).

        Raises:
            LocalizerError: The image cannot be read.
        """
        import torch

        gray = model_gray(frame)
        copies = np.stack([shifted(gray, right, down) for right, down in SHIFTS_PX])
        with torch.inference_mode():
            outputs = self._network(torch.tensor(copies, dtype=torch.float32) / 255)
            mean, log_scale = self._displacement(tokens)
            coarse = combined(mean[0], log_scale[0], self._presence(tokens)[0], COARSE)
        fine = [combined(mean, scale, logits, FINE) for mean, scale, logits in zip(*outputs, strict=True)]
        moves = np.array(SHIFTS_PX) * (1, -1) * (FIELD_MM / MODEL_PX)
        moved = [r.moved(-move) for r, move in zip(fine, moves, strict=True)]
        count = len(LANDMARKS)
        first = [*(reading.rows(0, count) for reading in moved), coarse]
        rest = [reading.rows(count, None) for reading in moved]
        share = 1 / len(moved)
        both = (
            joined(first, [(1 - HEADS_SHARE) * share] * len(moved) + [HEADS_SHARE]),
            joined(rest, [share] * len(moved)),
        )
        return Reading(*(np.concatenate([getattr(part, f.name) for part in both]) for f in fields(Reading)))


def load_localizer(folder: Path) -> LandmarkLocalizer:
    """Read the network of a model folder.

    Raises:
        LocalizerError: The file is missing, damaged, or belongs to another model.
    """
    from carm_perception.networks.landmark_network import LandmarkLocalizer, LocalizerSize

    weights, metadata = _weights(folder / LOCALIZER_FILE)
    try:
        network = LandmarkLocalizer(LocalizerSize.from_json(metadata[SIZE]))
        network.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        file = folder / LOCALIZER_FILE
        raise LocalizerError(f"{file} does not belong to this model: {str(error).splitlines()[0]}") from error
    return network


def _weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise LocalizerError(f"model folder {path.parent} lacks {path.name}")
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key).float() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise LocalizerError(f"{path} is damaged: {str(error).splitlines()[0]}") from error


def shifted(gray: NDArray[np.uint8], right_px: int, down_px: int) -> NDArray[np.uint8]:
    """Return an image (rows, columns) moved by whole pixels; its edges are repeated."""
    reach = max(abs(right_px), abs(down_px))
    padded = np.pad(gray, reach, mode="edge")
    rows, columns = gray.shape
    return padded[reach - down_px : reach - down_px + rows, reach - right_px : reach - right_px + columns]


def joined(readings: Sequence[Reading], shares: Sequence[float]) -> Reading:
    """One reading of several of the same image, as of an ensemble (Lakshminarayanan et al. 2017, arXiv:1612.01474).

    Places are weighted by their variances. Variances are the mean of those that each reading states (aleatoric) and
    the variance between the readings (epistemic).

    Args:
        readings: Of the members.
        shares: What each counts; their sum is 1.
    """
    share = np.array(shares)[:, None]
    places, stds = np.stack([r.displacement_mm for r in readings]), np.stack([r.std_mm for r in readings])
    weights = share * stds**-2 / (share * stds**-2).sum(0)
    place = (weights[..., None] * places).sum(0)
    between = (weights * ((places - place) ** 2).mean(-1)).sum(0)
    std = np.sqrt((weights * stds**2).sum(0) + between)
    seen = (share * np.stack([r.seen for r in readings])).sum(0) >= 0.5 - 1e-9
    return Reading(place, std, seen, (share * np.stack([r.presence for r in readings])).sum(0))


def combined(mean: Tensor, log_scale: Tensor, logits: Tensor, cells: Cells) -> Reading:
    """Return one reading of both outputs for an image.

    Args:
        mean: Displacement (n, 2) in units of 100 mm.
        log_scale: Logarithm of its Laplace scale (n, 2), in the same units.
        logits: Of each landmark's cells, row by row, then of its absence (n, cells + 1).
        cells: How they are read.
    """
    from carm_perception.networks.vision_language_model import SCALE_MM

    places = mean.double().numpy() * SCALE_MM
    spreads = np.sqrt(2 * (np.exp(log_scale.double().numpy()) * SCALE_MM) ** 2).mean(-1)
    seen, presence = np.zeros(len(places), bool), np.zeros(len(places))
    for index, probability in enumerate(logits.double().softmax(-1).numpy()):
        place, spread, mass = peak(probability, cells)
        presence[index] = mass
        if mass >= cells.seen:
            places[index], spreads[index], seen[index] = place, spread, True
    return Reading(places, spreads, seen, presence)


def peak(probability: NDArray[np.float64], cells: Cells) -> tuple[NDArray[np.float64], float, float]:
    """Return the likeliest square of cells.

    Args:
        probability: Of each cell, row by row as displayed, then of absence: (side * side + 1,).
        cells: How they are read.

    Returns:
        Mean displacement (2,) right and up, mm, the standard deviation of either component, mm, and the probability
        of these cells.
    """
    side, window, reach = math.isqrt(len(probability) - 1), cells.window, cells.window // 2
    grid = np.pad(probability[:-1].reshape(side, side), reach)
    mass = sliding_window_view(grid, (window, window)).sum((2, 3))
    row, column = np.unravel_index(int(np.argmax(mass)), mass.shape)
    near = grid[row : row + window, column : column + window]
    total = float(near.sum())
    cell_mm = FIELD_MM / side
    offset = np.arange(-reach, reach + 1)
    right = (column + (near.sum(0) @ offset) / total - (side - 1) / 2) * cell_mm
    up = ((side - 1) / 2 - row - (near.sum(1) @ offset) / total) * cell_mm
    return np.array([right, up]), float(np.interp(total, cells.mass, cells.std_mm)), total
