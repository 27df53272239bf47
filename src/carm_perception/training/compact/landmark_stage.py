# SPDX-License-Identifier: Apache-2.0
"""The third training stage: the deep-learning localizer, on the same views, from the language model's tower on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from carm_perception.datasets.storage.store import ViewStore
from carm_perception.evaluation.metrics import regression_figures
from carm_perception.networks.landmark_network import LandmarkLocalizer
from carm_perception.networks.landmark_reader import FINE, combined
from carm_perception.networks.preprocessing import FIELD_MM
from carm_perception.training.compact.augment import center_crop, plain_display
from carm_perception.training.compact.losses import FINE_CELL_SIGMA, displacement_loss, presence_loss
from carm_perception.training.compact.stages import Stage, StageOptions, load_batch

TOWER_RATE = 0.4
"""Peak learning rate of the tower, which was trained before, relative to the rest."""


def localizer_loss(
    localizer: LandmarkLocalizer, gray: Tensor, marks: Tensor, mm_per_px: Tensor, progress: float
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of both readings."""
    mean, log_scale, logits = localizer(gray)
    regression = displacement_loss(mean, log_scale, marks)
    presence = presence_loss(logits, marks, mm_per_px, FINE_CELL_SIGMA)
    return regression + presence, {"head": float(regression.detach()), "presence": float(presence.detach())}


@torch.no_grad()
def evaluate_localizer(localizer: LandmarkLocalizer, store: ViewStore, limit: int = 1000) -> dict[str, float]:
    """Return the figures of its readings of plainly displayed views."""
    localizer.eval()
    guesses, truth = [], []
    for start in range(0, min(limit, len(store)), 50):
        batch = load_batch(store, np.arange(start, min(start + 50, len(store), limit)))
        soft, bone, marks = center_crop(batch)
        outputs = localizer(plain_display(soft, bone))
        guesses += [
            combined(mean, scale, logits, FINE).displacement_mm for mean, scale, logits in zip(*outputs, strict=True)
        ]
        truth.append(marks.numpy())
    return regression_figures(np.array(guesses), np.concatenate(truth), FIELD_MM / 2)


def stage_three(localizer: LandmarkLocalizer, options: StageOptions, folder: Path) -> Stage[LandmarkLocalizer]:
    """Prepare stage 3."""
    localizer.tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    rates = [(localizer.tower, options.rate * TOWER_RATE), (localizer, options.rate)]
    return Stage("localizer", localizer, rates, localizer_loss, options, folder)
