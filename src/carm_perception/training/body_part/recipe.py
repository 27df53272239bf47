# SPDX-License-Identifier: Apache-2.0
"""Training of the classifier of body parts: one stage, resumable, weights averaged over its steps."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from carm_core.errors import ConfigurationError
from carm_perception.networks.body_part_network import BodyPartNetwork, load_network, save_network
from carm_perception.networks.landmark_reader import load_localizer
from carm_perception.networks.model_folder import COMPACT_FOLDER
from carm_perception.training.body_part.views import Views
from carm_perception.training.checkpoint_file import SUFFIX, load_checkpoint, save_checkpoint
from carm_perception.training.compact.checkpoints import Average, Budget, learning_rate, make_optimizer, set_rate

logger = logging.getLogger(__name__)

RATE, SMOOTHING = 1e-3, 0.02
_EVALUATE_S, _SAVE_S = 60.0, 120.0


@dataclass(frozen=True)
class PartOptions:
    """How it runs.

    Attributes:
        seconds: Training time, s.
        batch: Images in a step.
        seed: Of weights and order.
        start: Folder with weights to go on from; None: the tower of the landmark localizer that ships.
        rate: Peak learning rate.
        device: ``cpu`` or ``cuda``: where the network is; images are drawn on the CPU.
        steps: Steps instead of time; 0: by time.
    """

    seconds: float
    batch: int = 64
    seed: int = 0
    start: Path | None = None
    rate: float = RATE
    steps: int = 0
    device: str = "cpu"


def figures_of(network: BodyPartNetwork, views: Views) -> dict[str, float]:
    """Return Hit@1 and Hit@2 on views as they are."""
    network.eval()
    hits = np.zeros(2)
    for start in range(0, len(views), 128):
        index = np.arange(start, min(start + 128, len(views)))
        with torch.inference_mode():
            logits = network(views.plain(index).to(next(network.parameters()).device))
            ranked = (-logits).argsort(1).cpu().numpy()
        right = np.take_along_axis(views.labels[index], ranked, 1) > 0
        hits += right[:, 0].sum(), right[:, :2].any(1).sum()
    return {f"hit_{k}": round(float(hits[k - 1] / len(views)), 4) for k in (1, 2)}


class Training:
    """Network, optimizer and progress, as a checkpoint keeps them."""

    def __init__(self, options: PartOptions, work: Path) -> None:
        """Begin, or resume from ``work``.

        Raises:
            ConfigurationError: The checkpoint is of another network.
            LocalizerError: The weights to start from cannot be read.
        """
        torch.manual_seed(options.seed)
        self.options, self._path = options, work / f"body_part{SUFFIX}"
        self.network = load_network(options.start) if options.start else BodyPartNetwork()
        if options.start is None:
            self.network.start_from(load_localizer(COMPACT_FOLDER))
        self.network.to(options.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = make_optimizer([(self.network, options.rate)])
        self.average = Average(self.network)
        self.step, spent = 0, 0.0
        saved = load_checkpoint(self._path)
        if saved:
            try:
                self.network.load_state_dict(saved["network"])
                self.average.module.load_state_dict(saved["average"])
                self.optimizer.load_state_dict(saved["optimizer"])
                self.step, spent = int(saved["step"]), float(saved["spent"])
            except (RuntimeError, ValueError, LookupError, TypeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ConfigurationError(
                    f"checkpoint {self._path} is of another network ({reason}); delete it to begin again"
                ) from error
        self.budget = Budget(options.seconds, spent)
        self._rng = np.random.default_rng([options.seed, self.step])
        self._generator = torch.Generator().manual_seed(options.seed + 7919 * self.step)

    @property
    def over(self) -> bool:
        """The time, or the steps, are used up."""
        return self.step >= self.options.steps if self.options.steps else self.budget.over

    def advance(self, views: Views) -> float:
        """Run one step on random views; return its loss."""
        self.network.train()
        options = self.options
        progress = self.step / options.steps if options.steps else self.budget.progress
        set_rate(self.optimizer, learning_rate(progress))
        index = self._rng.choice(len(views), options.batch, p=views.shares())
        gray = views.drawn(index, self._generator).to(options.device)
        target = torch.from_numpy(views.labels[index]) * (1 - 2 * SMOOTHING) + SMOOTHING
        target = target.to(options.device)
        with torch.autocast(options.device, torch.bfloat16):
            logits = self.network(gray)
        loss = nn.functional.binary_cross_entropy_with_logits(logits.float(), target) * target.shape[1]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimizer.step()
        self.average.update(self.network)
        self.step += 1
        return float(loss.detach())

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            StorageError: It cannot be written.
        """
        content = {
            "network": self.network.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "spent": self.budget.spent,
        }
        save_checkpoint(self._path, content)


def train(
    views: Views,
    validation: Views,
    options: PartOptions,
    work: Path,
    output: Path,
    refill: Callable[[], int] = lambda: 0,
) -> dict[str, Any]:
    """Train, and write the averaged weights with a record of the training.

    Args:
        views: Training images.
        validation: Images of other patients.
        options: How it runs.
        work: Folder of checkpoint and log.
        output: Folder of the weights.
        refill: Called now and then to load images that were finished meanwhile.

    Returns:
        Figures on the validation images.

    Raises:
        ConfigurationError: A folder cannot be written.
        StorageError: The checkpoint cannot be written.
    """
    training = Training(options, work)
    looked = saved = training.budget.spent
    first, began = training.step, time.monotonic()
    losses: list[float] = []
    while not training.over:
        losses.append(training.advance(views))
        now = training.budget.spent
        if now - looked > _EVALUATE_S:
            looked = now
            refill()
            speed = (training.step - first) * options.batch / (time.monotonic() - began)
            line = {"step": training.step, "spent_s": round(now), "images_per_s": round(speed, 1), "views": len(views)}
            line |= {"loss": round(float(np.mean(losses)), 4)}
            logger.info("%s", json.dumps(line | figures_of(training.average.module, validation)))
            losses = []
        if now - saved > _SAVE_S:
            saved = now
            training.save()
    training.save()
    figures = figures_of(training.average.module, validation)
    record = {"steps": training.step, "batch": options.batch, "seconds": round(training.budget.spent), **figures}
    record |= {"views": len(views), "seed": options.seed}
    try:
        save_network(training.average.module.cpu(), output)
        (output / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"cannot write the model to {output}: {error.strerror or error}") from error
    return record
