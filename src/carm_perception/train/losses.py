# SPDX-License-Identifier: Apache-2.0
"""Losses of both stages."""

from __future__ import annotations

import torch
from torch import Tensor

from carm_perception.protocols import LIMIT_MM
from carm_perception.train.architecture import SCALE_MM

FOCUS_MM = 90.0
"""Landmarks within about this distance of the center count up to three times."""


def displacement_loss(mean: Tensor, log_scale: Tensor, truth_mm: Tensor) -> Tensor:
    """Negative log-likelihood of displacements under a Laplace distribution with learned scale.

    Args:
        mean: (batch, 14, 2) in units of 100 mm.
        log_scale: (batch, 14, 2).
        truth_mm: (batch, 14, 2), NaN when unknown.
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
    """Cross-entropy of number tokens against a Gaussian around the true value: near misses cost less.

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
