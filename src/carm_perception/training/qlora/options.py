# SPDX-License-Identifier: Apache-2.0
"""Settings of a fine-tuning run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError

PRECISIONS = ("auto", "nf4", "bfloat16", "float32")


@dataclass(frozen=True)
class QloraOptions:
    """What to train, on what, and how.

    Attributes:
        model: Hugging Face id or folder of the base model.
        data: Folder of a data set with images in the format ``xray``.
        output: Folder of the finished adapter.
        work: Folder of checkpoint and log; None: ``work`` in the output folder.
        steps: Optimizer steps; 0: as many as the epochs make.
        epochs: Passes over the training images, when no steps are given.
        batch: Examples of one optimizer step, over all processes together.
        micro_batch: Examples that one process takes at once; memory grows with it.
        rate: Highest learning rate.
        warm_up: Part of the steps in which the learning rate rises; after them it falls as a cosine.
        rank: Rank of the adapters.
        alpha: Their scale, times the rank.
        dropout: Of the adapters' input.
        precision: Of the base model: ``auto`` is 4-bit NF4 on CUDA when bitsandbytes is there, else what fits.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpointing: Compute activations again in the backward pass instead of keeping them.
        save_every: Steps between two checkpoints.
        evaluate: Validation examples at each checkpoint; 0: none.
        seed: Of adapters, order, questions and dropout.
    """

    model: str
    data: Path
    output: Path
    work: Path | None = None
    steps: int = 0
    epochs: float = 1.0
    batch: int = 16
    micro_batch: int = 1
    rate: float = 2e-4
    warm_up: float = 0.03
    rank: int = 16
    alpha: float = 2.0
    dropout: float = 0.05
    precision: str = "auto"
    device: str = "auto"
    checkpointing: bool = True
    save_every: int = 50
    evaluate: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ConfigurationError: A value is out of range.
        """
        if not self.model:
            raise ConfigurationError("the recipe qlora needs --model: a Hugging Face id or a folder")
        for name in ("batch", "micro_batch", "rank", "save_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("steps", "evaluate", "seed"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"{name} must not be negative, not {getattr(self, name)}")
        for name, low, high in (("rate", 0, 1), ("epochs", 0, 1e4), ("alpha", 0, 1e3)):
            if not low < getattr(self, name) <= high:
                raise ConfigurationError(f"{name} must be in ({low}, {high:g}], not {getattr(self, name)}")
        if not 0 <= self.dropout < 1 or not 0 <= self.warm_up < 1:
            raise ConfigurationError("dropout and warm_up must be in [0, 1)")
        if self.precision not in PRECISIONS:
            raise ConfigurationError(f"precision must be one of {', '.join(PRECISIONS)}, not {self.precision!r}")

    @property
    def folder(self) -> Path:
        """Where checkpoint and log are."""
        return self.work or self.output / "work"

    def accumulation(self, processes: int) -> int:
        """Return the micro batches of each process in one step.

        Raises:
            ConfigurationError: The batch cannot be shared out evenly.
        """
        share = self.micro_batch * processes
        if self.batch % share:
            raise ConfigurationError(
                f"a batch of {self.batch} cannot be shared out over {processes} processes x {self.micro_batch} at once"
            )
        return self.batch // share

    def fingerprint(self, steps: int, images: int) -> dict[str, Any]:
        """Return what must be the same for a run to go on: all but places, memory and how often to save.

        Args:
            steps: Optimizer steps in all.
            images: Training images.
        """
        free = {"data", "output", "work", "steps", "epochs", "micro_batch", "device", "checkpointing", "precision"}
        free |= {"save_every", "evaluate"}
        kept = {name: value for name, value in asdict(self).items() if name not in free}
        return kept | {"steps": steps, "images": images}
