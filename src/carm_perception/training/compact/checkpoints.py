# SPDX-License-Identifier: Apache-2.0
"""What both stages share: time budget, optimizer, averaged weights."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn


class Budget:
    """Training time that survives an interruption. The schedule follows the clock, not the number of steps."""

    def __init__(self, seconds: float, spent: float = 0.0, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock.

        Args:
            seconds: Time to train, s.
            spent: Time trained before, s.
            clock: Source of time, s.
        """
        self.seconds, self._clock = seconds, clock
        self._start = clock() - spent

    @property
    def spent(self) -> float:
        """Time trained, s."""
        return self._clock() - self._start

    @property
    def progress(self) -> float:
        """0 at the start, 1 at the end."""
        return min(1.0, self.spent / self.seconds)

    @property
    def over(self) -> bool:
        """True when the time is used up."""
        return self.spent >= self.seconds


def learning_rate(progress: float, warm_up: float = 0.03) -> float:
    """Factor on the peak learning rate: linear rise, then half a cosine to 1 per cent."""
    if progress < warm_up:
        return progress / warm_up + 0.01
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


Module = TypeVar("Module", bound=nn.Module)


class Average(Generic[Module]):
    """Exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: Module, decay: float = 0.998) -> None:
        """Copy the module.

        Args:
            module: What is trained.
            decay: Weight of the past at each step, reached after a few hundred steps.
        """
        self.module = copy.deepcopy(module).eval()
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, module: Module) -> None:
        """Update with the module's present weights."""
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))
        for mean, value in zip(self._tensors(self.module), self._tensors(module), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)

    @staticmethod
    def _tensors(module: nn.Module) -> list[Tensor]:
        return [*module.parameters(), *module.buffers()]


def make_optimizer(groups: list[tuple[nn.Module, float]], weight_decay: float = 0.03) -> torch.optim.AdamW:
    """Return the AdamW with a peak learning rate per module; vectors are not decayed.

    Args:
        groups: Modules with their peak learning rates; a parameter belongs to the first module that has it.
        weight_decay: Decay of matrices.
    """
    seen: set[int] = set()
    parameters: list[dict[str, Any]] = []
    for module, rate in groups:
        own = [p for p in module.parameters() if id(p) not in seen]
        seen |= {id(p) for p in own}
        for decay, chosen in ((weight_decay, [p for p in own if p.ndim > 1]), (0.0, [p for p in own if p.ndim <= 1])):
            parameters.append({"params": chosen, "lr": rate, "peak": rate, "weight_decay": decay})
    return torch.optim.AdamW(parameters, betas=(0.9, 0.98))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's learning rate to ``factor`` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor
