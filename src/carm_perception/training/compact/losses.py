# SPDX-License-Identifier: Apache-2.0
"""Losses of all stages."""

from __future__ import annotations

import torch
from torch import Tensor

from carm_perception.networks.vision_language_model import IMAGE_PX, SCALE_MM
from carm_perception.protocols.parsing import LIMIT_MM

FOCUS_MM = 90.0
"""Landmarks within about this distance of the center count up to three times."""

CELL_SIGMA = 0.6
"""Standard deviation of the soft label of ``presence_loss`` with 16 x 16 cells, in cells."""
FINE_CELL_SIGMA = 0.8
"""The same with 32 x 32 cells."""

IN_VIEW_WEIGHT = 3.0
"""Landmarks in view count as much more than those outside."""


def displacement_loss(mean: Tensor, log_scale: Tensor, truth_mm: Tensor) -> Tensor:
    """Return the negative log-likelihood of displacements under a Laplace distribution with learned scale.

    Args:
        mean: (batch, 48, 2) in units of 100 mm.
        log_scale: (batch, 48, 2).
        truth_mm: (batch, 48, 2), NaN when unknown.
    """
    known = ~truth_mm.isnan()
    truth = torch.where(known, truth_mm, torch.zeros_like(truth_mm)) / SCALE_MM
    near = torch.exp(-((truth.norm(dim=-1, keepdim=True) * SCALE_MM / FOCUS_MM) ** 2))
    weight = known * (1 + 2 * near)
    error = (mean.float() - truth).abs()
    loss = error * torch.exp(-log_scale.float()) + log_scale.float()
    total: Tensor = (loss * weight).sum() / weight.sum().clamp_min(1)
    return total


def ordinal_loss(logits: Tensor, truth_mm: Tensor, number_ids: Tensor, sigma_mm: float) -> Tensor:
    """Return the cross-entropy of number tokens against a Gaussian around the true value: near misses cost less.

    Args:
        logits: (n, vocabulary).
        truth_mm: (n,), mm; values beyond the protocol's range count as its limit.
        number_ids: Ids (801,) of the tokens of -400 to 400.
        sigma_mm: Standard deviation of the soft label.

    Returns:
        Loss (n,).
    """
    values = torch.arange(-LIMIT_MM, LIMIT_MM + 1, dtype=torch.float32)
    center = truth_mm.clamp(-LIMIT_MM, LIMIT_MM)
    label = torch.exp(-0.5 * ((values[None] - center[:, None]) / sigma_mm) ** 2)
    label = label / label.sum(dim=1, keepdim=True)
    chosen = logits.float().log_softmax(dim=-1)[:, number_ids]
    loss: Tensor = -(label * chosen).sum(dim=1)
    return loss


def presence_loss(logits: Tensor, truth_mm: Tensor, mm_per_px: Tensor, sigma: float = CELL_SIGMA) -> Tensor:
    """Return the cross-entropy of the cell in which each landmark lies, or of its absence.

    Args:
        logits: (batch, 48, cells + 1), cells row by row as displayed, then absence.
        truth_mm: Displacements (batch, 48, 2), right and up; NaN when unknown.
        mm_per_px: Pixel spacing (batch,) at isocenter depth, mm.
        sigma: Standard deviation of the soft label, in cells.
    """
    side = round((logits.shape[-1] - 1) ** 0.5)
    known = ~truth_mm.isnan().any(dim=-1)
    cell_mm = (mm_per_px * (IMAGE_PX / side))[:, None]
    place = torch.nan_to_num(truth_mm, nan=1e4)
    column = place[..., 0] / cell_mm + side / 2 - 0.5
    row = -place[..., 1] / cell_mm + side / 2 - 0.5
    index = torch.arange(side, dtype=torch.float32)
    across = torch.exp(-0.5 * ((index - column[..., None]) / sigma) ** 2)
    down = torch.exp(-0.5 * ((index - row[..., None]) / sigma) ** 2)
    inside = ((column > -0.5) & (column < side - 0.5) & (row > -0.5) & (row < side - 0.5)).float()
    cells = (down[..., :, None] * across[..., None, :]).flatten(2)
    cells = cells / cells.sum(dim=-1, keepdim=True).clamp_min(1e-6) * inside[..., None]
    label = torch.cat([cells, 1 - inside[..., None]], dim=-1)
    loss = -(label * logits.float().log_softmax(dim=-1)).sum(dim=-1)
    weight = known * (1 + IN_VIEW_WEIGHT * inside)
    total: Tensor = (loss * weight).sum() / weight.sum().clamp_min(1)
    return total
