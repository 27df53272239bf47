# SPDX-License-Identifier: Apache-2.0
"""The training stages of the compact model.

Stage 1 trains the tower and the projector by two heads. Stage 2 attaches the language model
and trains everything on packed questions, with the heads' losses beside it. For stage 3, the deep-learning localizer,
see ``carm_perception.training.compact.landmark_stage``.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from carm_core.errors import ConfigurationError
from carm_core.landmarks import LANDMARKS
from carm_perception.datasets.storage.store import ViewStore
from carm_perception.evaluation.metrics import regression_figures
from carm_perception.networks.tokens import number_token_ids
from carm_perception.networks.vision_language_model import (
    IMAGE_PX,
    SCALE_MM,
    DisplacementHead,
    PresenceHead,
    image_tokens,
    normalize,
    train_on_gray,
)
from carm_perception.training.checkpoint_file import SUFFIX, load_checkpoint, save_checkpoint
from carm_perception.training.compact.augment import (
    Batch,
    center_crop,
    plain_display,
    random_crop,
    random_display,
    with_bowel,
)
from carm_perception.training.compact.checkpoints import (
    Average,
    Budget,
    learning_rate,
    make_optimizer,
    set_rate,
)
from carm_perception.training.compact.losses import displacement_loss, ordinal_loss, presence_loss
from carm_perception.training.compact.questions import Packed, QuestionPacker

logger = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

HEAD_LOSS_WEIGHT = 1.0
TOWER_RATE = 0.7
"""Peak learning rate of the tower in stage 2, relative to the rest."""

PRESENCE_LOSS_WEIGHT = 0.5

SENTENCES_WEIGHT = 0.5

QUESTIONED_FRACTIONS = (0.2, 0.6)
"""Part of each batch that the language model is asked about, early and late; the heads see all of it."""
SENTENCE_ROWS = 0.25
"""Sequences of a clinician's sentences per image of a batch."""
LATE = 0.6
"""Progress from which on more questions are asked: the tower learns first, the language model reads its tokens."""

SIGMA_START_MM, SIGMA_END_MM = 12.0, 2.5


@dataclass(frozen=True)
class StageOptions:
    """How a stage runs.

    Attributes:
        seconds: Training time, s.
        steps: Stop after this many steps; 0: only the time counts.
        batch: Images per step.
        rate: Peak learning rate.
        evaluate_every_s: Time between two looks at the validation views, s.
        checkpoint_every_s: Time between two checkpoints, s.
        seed: Seed of all randomness.
        bf16: Use bfloat16 where torch's autocast does.
    """

    seconds: float = 1800.0
    steps: int = 0
    batch: int = 64
    rate: float = 2e-3
    evaluate_every_s: float = 240.0
    checkpoint_every_s: float = 180.0
    seed: int = 0
    bf16: bool = True


class Compact(nn.Module):
    """Model and heads as one module, so that averaging and checkpoints see all."""

    def __init__(self, model: Any, head: DisplacementHead, presence: PresenceHead) -> None:
        """Join them.

        Args:
            model: From ``carm_perception.networks.vision_language_model.build_model``.
            head: Displacement head of the same width.
            presence: Presence head of the same width.
        """
        super().__init__()
        self.model, self.head, self.presence = model, head, presence

    def tokens(self, gray: Tensor) -> Tensor:
        """Return the projected image tokens of gray values (batch, 128, 128)."""
        pixels = normalize(gray).contiguous(memory_format=torch.channels_last)
        return image_tokens(self.model, pixels)


def load_batch(store: ViewStore, index: np.ndarray[Any, Any]) -> Batch:
    """Return the views of the store as tensors."""
    return Batch(**{name: torch.from_numpy(array) for name, array in store.arrays(index).items()})


@torch.no_grad()
def evaluate_head(compact: Compact, store: ViewStore, limit: int = 1000) -> dict[str, float]:
    """Return the figures of the displacement head on plainly displayed views."""
    compact.eval()
    predicted, truth, spacing = [], [], 1.0
    for start in range(0, min(limit, len(store)), 100):
        batch = load_batch(store, np.arange(start, min(start + 100, len(store), limit)))
        soft, bone, everything = center_crop(batch)
        marks = everything[:, : len(LANDMARKS)]
        mean, _ = compact.head(compact.tokens(plain_display(soft, bone)))
        predicted.append(mean.float().numpy() * SCALE_MM)
        truth.append(marks.numpy())
        spacing = float(batch.mm_per_px[0])
    return regression_figures(np.concatenate(predicted), np.concatenate(truth), IMAGE_PX / 2 * spacing)


class Stage(Generic[Module]):
    """Runs one stage: draws batches, steps, averages, evaluates, saves."""

    def __init__(
        self,
        name: str,
        module: Module,
        rates: list[tuple[nn.Module, float]],
        loss: Callable[[Module, Tensor, Tensor, Tensor, float], tuple[Tensor, dict[str, float]]],
        options: StageOptions,
        folder: Path,
    ) -> None:
        """Resume from the stage's checkpoint in the folder, if there is one.

        Args:
            name: Name of the stage and of its checkpoint.
            module: What is trained.
            rates: Modules with their peak learning rates.
            loss: Loss of (module, gray values, displacements, pixel spacings, progress), with figures for the log.
            options: How it runs.
            folder: Folder of the checkpoints and the log.
        """
        self.name, self.module, self.options, self.folder = name, module, options, folder
        self._loss = loss
        self.optimizer = make_optimizer(rates)
        self.average = Average(module)
        self._path = folder / f"{name}{SUFFIX}"
        self._step, spent = 0, 0.0
        saved = load_checkpoint(self._path)
        if saved:
            try:
                self._step, spent = self._take(saved)
            except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise ConfigurationError(
                    f"checkpoint {self._path} is of another model or damaged ({reason}); delete it to begin again"
                ) from error
            logger.info("%s: resumed at step %d", name, self._step)
        self._generator = torch.Generator().manual_seed(options.seed + 7919 * self._step)
        self._rng = np.random.default_rng([options.seed, self._step])
        self.budget = Budget(options.seconds, spent)

    def _take(self, saved: dict[str, Any]) -> tuple[int, float]:
        """Go on from a checkpoint; returns steps and time so far."""
        self.module.load_state_dict(saved["module"])
        self.average.module.load_state_dict(saved["average"])
        peaks = [group["peak"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, peak in zip(self.optimizer.param_groups, peaks, strict=True):
            group["peak"] = peak
        return int(saved["step"]), float(saved["spent"])

    def save(self) -> None:
        """Write the checkpoint.

        Raises:
            StorageError: It cannot be written.
        """
        content = {
            "module": self.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self._step,
            "spent": self.budget.spent,
        }
        save_checkpoint(self._path, content)

    def _finished(self) -> bool:
        return self.budget.over or bool(self.options.steps and self._step >= self.options.steps)

    def _progress(self) -> float:
        if self.options.steps:
            return max(self.budget.progress, self._step / self.options.steps)
        return self.budget.progress

    def step(self, store: ViewStore) -> dict[str, float]:
        """Run one training step on random views.

        Returns:
            Figures for the log.
        """
        self.module.train()
        progress = self._progress()
        set_rate(self.optimizer, learning_rate(progress))
        batch = load_batch(store, self._rng.integers(0, len(store), self.options.batch))
        with torch.no_grad():
            soft, bone, marks = random_crop(batch, self._generator)
            soft = with_bowel(soft, marks, batch.mm_per_px, self._generator)
            gray = random_display(soft, bone, self._generator)
        with sdpa_kernel(SDPBackend.MATH):  # for so few tokens, three times as fast on a CPU as flash attention
            with torch.autocast("cpu", torch.bfloat16, enabled=self.options.bf16):
                loss, figures = self._loss(self.module, gray, marks, batch.mm_per_px, progress)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.module.parameters(), 2.0)
        self.optimizer.step()
        self.average.update(self.module)
        self._step += 1
        return {"loss": float(loss.detach()), **figures}

    def run(
        self,
        store: ViewStore,
        validation: ViewStore,
        evaluate: Callable[[Module, ViewStore], dict[str, float]],
        refill: Callable[[], int] | None = None,
        report: Callable[[float], None] | None = None,
    ) -> Module:
        """Train until the time is over.

        Args:
            store: Training views.
            validation: Views of unseen patients of another style.
            evaluate: Figures of the averaged weights on the validation views.
            refill: Called now and then to load shards that were finished meanwhile.
            report: Called with the progress, 0 to 1.

        Returns:
            The averaged weights.
        """
        looked = saved = self.budget.spent
        recent: list[dict[str, float]] = []
        first = self._step
        started = self.budget.spent
        while not self._finished():
            recent.append(self.step(store))
            now = self.budget.spent
            if report:
                report(self._progress())
            if now - looked > self.options.evaluate_every_s:
                looked = now
                added = refill() if refill else 0
                speed = (self._step - first) * self.options.batch / max(now - started, 1e-9)
                self._log(recent, evaluate(self.average.module, validation), speed, len(store), added)
                recent = []
            if now - saved > self.options.checkpoint_every_s:
                saved = now
                self.save()
        self.save()
        if recent:
            self._log(recent, evaluate(self.average.module, validation), 0.0, len(store), 0)
        return self.average.module

    def _log(
        self, recent: list[dict[str, float]], figures: dict[str, float], speed: float, views: int, added: int
    ) -> None:
        means = {key: round(float(np.mean([r[key] for r in recent])), 4) for key in recent[0]}
        line = {
            "stage": self.name,
            "step": self._step,
            "spent_s": round(self.budget.spent),
            "images_per_s": round(speed, 1),
            "views": views,
            "added": added,
            **means,
            "validation": {key: round(value, 4) for key, value in figures.items()},
        }
        logger.info("%s", json.dumps(line))
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def heads_loss(compact: Compact, tokens: Tensor, marks: Tensor, mm_per_px: Tensor) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of both heads on projected image tokens, with figures for the log."""
    mean, log_scale = compact.head(tokens)
    regression = displacement_loss(mean, log_scale, marks)
    presence = presence_loss(compact.presence(tokens), marks, mm_per_px)
    figures = {"head": float(regression.detach()), "presence": float(presence.detach())}
    return HEAD_LOSS_WEIGHT * regression + PRESENCE_LOSS_WEIGHT * presence, figures


def tower_loss(
    compact: Compact, gray: Tensor, marks: Tensor, mm_per_px: Tensor, progress: float
) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of stage 1."""
    return heads_loss(compact, compact.tokens(gray), marks[:, : len(LANDMARKS)], mm_per_px)


class QuestionLoss:
    """Loss of stage 2: answers to packed questions, and the head's loss beside it."""

    def __init__(
        self, tokenizer: Any, seed: int = 0, pointing: int = 3, sigma_start_mm: float = SIGMA_START_MM
    ) -> None:
        """Prepare.

        Args:
            tokenizer: The compact model's tokenizer.
            seed: Seed of the questions.
            pointing: Pointing questions per image.
            sigma_start_mm: Width of the soft labels at the start; it shrinks over the first half.
        """
        self._sigma_start_mm = sigma_start_mm
        self._packer = QuestionPacker(tokenizer, pointing)
        self._numbers = torch.tensor(number_token_ids(tokenizer))
        self._rng = np.random.default_rng([seed, 99])

    def __call__(
        self, compact: Compact, gray: Tensor, marks: Tensor, mm_per_px: Tensor, progress: float
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of a batch: the language model is taught the fourteen landmarks."""
        marks = marks[:, : len(LANDMARKS)]
        tokens = compact.tokens(gray)
        heads, figures = heads_loss(compact, tokens, marks, mm_per_px)
        asked = max(1, round(QUESTIONED_FRACTIONS[progress > LATE] * len(marks)))
        packed = self._packer.pack(marks[:asked].numpy(), self._rng)
        logits = answer_logits(compact.model, tokens[:asked], packed)
        sigma = SIGMA_END_MM + (self._sigma_start_mm - SIGMA_END_MM) * max(0.0, 1 - 2 * progress)
        text, number, order = self._parts(logits, packed, sigma)
        spoken = self._spoken(compact, max(1, round(SENTENCE_ROWS * len(marks))))
        figures = {"number": number, "order": order, "spoken": float(spoken.detach()), **figures}
        return text + SENTENCES_WEIGHT * spoken + heads, figures

    def _spoken(self, compact: Compact, rows: int) -> Tensor:
        """Return the loss of sentences of a clinician, which are read without an image."""
        packed = self._packer.pack_commands(rows, self._rng)
        labels, weights = packed.labels.flatten(), packed.weights.flatten()
        logits = answer_logits(compact.model, None, packed).flatten(0, 1).float()
        loss: Tensor = (nn.functional.cross_entropy(logits, labels, reduction="none") * weights).sum() / weights.sum()
        return loss

    def _parts(self, logits: Tensor, packed: Packed, sigma_mm: float) -> tuple[Tensor, float, float]:
        labels, weights = packed.labels.flatten(), packed.weights.flatten()
        truth = packed.numbers_mm.flatten()
        flat = logits.flatten(0, 1).float()
        is_number = ~truth.isnan()
        plain = nn.functional.cross_entropy(flat[~is_number], labels[~is_number], reduction="none")
        ordinal = ordinal_loss(flat[is_number], truth[is_number], self._numbers, sigma_mm)
        plain_weight, number_weight = weights[~is_number], weights[is_number]
        total = ((plain * plain_weight).sum() + (ordinal * number_weight).sum()) / weights.sum()
        order = float((plain.detach() * plain_weight).sum() / plain_weight.sum())
        return total, float(ordinal.detach().mean()), order


def answer_logits(model: Any, tokens: Tensor | None, packed: Packed) -> Tensor:
    """Return the logits (batch, p, vocabulary) at the positions that predict the answers of packed questions.

    Args:
        model: The language model with its tower.
        tokens: Image tokens (batch, tokens, width); None: the questions come without an image.
        packed: The questions.
    """
    embedded = model.get_input_embeddings()(packed.input_ids)
    if tokens is not None:
        count = tokens.shape[1]
        embedded = torch.cat([embedded[:, :1], tokens.to(embedded.dtype), embedded[:, 1 + count :]], dim=1)
    hidden = model.model.language_model(
        inputs_embeds=embedded,
        attention_mask=packed.mask.to(embedded.dtype),
        position_ids=packed.position_ids,
        use_cache=False,
    ).last_hidden_state
    chosen = hidden.gather(1, packed.positions[..., None].expand(-1, -1, hidden.shape[-1]))
    logits: Tensor = model.lm_head(chosen)
    return logits


def stage_one(compact: Compact, options: StageOptions, folder: Path) -> Stage[Compact]:
    """Prepare stage 1: tower, projector and head."""
    model = compact.model.model
    train_on_gray(compact.model)
    model.vision_tower.to(memory_format=torch.channels_last)
    parts = (model.vision_tower, model.multi_modal_projector, compact.head, compact.presence)
    rates = [(part, options.rate) for part in parts]
    return Stage("tower", compact, rates, tower_loss, options, folder)


def stage_two(
    compact: Compact, tokenizer: Any, options: StageOptions, folder: Path, sigma_start_mm: float = SIGMA_START_MM
) -> Stage[Compact]:
    """Prepare stage 2: everything, the tower at a lower rate. For the width see ``QuestionLoss``."""
    model = compact.model.model
    train_on_gray(compact.model)
    model.vision_tower.to(memory_format=torch.channels_last)
    rates = [
        (model.vision_tower, options.rate * TOWER_RATE),
        (model.multi_modal_projector, options.rate),
        (compact.head, options.rate),
        (compact.presence, options.rate),
        (compact.model, options.rate),
    ]
    loss = QuestionLoss(tokenizer, options.seed, sigma_start_mm=sigma_start_mm)
    return Stage("language", compact, rates, loss, options, folder)
