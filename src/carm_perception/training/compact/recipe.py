# SPDX-License-Identifier: Apache-2.0
"""The recipe ``compact``: data, three stages, export, from nothing and resumable."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from carm_core.errors import ConfigurationError
from carm_core.landmarks import LANDMARKS
from carm_perception.datasets.storage.store import ViewStore
from carm_perception.evaluation.metrics import regression_figures
from carm_perception.networks.landmark_network import LandmarkLocalizer, LocalizerSize
from carm_perception.networks.tokens import number_token_ids
from carm_perception.networks.vision_language_model import (
    IMAGE_PX,
    CompactSize,
    DisplacementHead,
    PresenceHead,
    build_model,
)
from carm_perception.training.checkpoint_file import SUFFIX, load_checkpoint
from carm_perception.training.compact.augment import center_crop, plain_display
from carm_perception.training.compact.export import export
from carm_perception.training.compact.landmark_stage import evaluate_localizer, stage_three
from carm_perception.training.compact.questions import QuestionPacker
from carm_perception.training.compact.stages import (
    SIGMA_END_MM,
    SIGMA_START_MM,
    Compact,
    Stage,
    StageOptions,
    answer_logits,
    evaluate_head,
    load_batch,
    stage_one,
    stage_two,
)
from carm_perception.training.compact.tokenizer import build_tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecipeOptions:
    """What to train on and for how long.

    Attributes:
        data: Folder of the data set.
        work: Folder of checkpoints and logs.
        output: Folder of the finished model.
        tower: Options of stage 1.
        language: Options of stage 2.
        localizer: Options of stage 3.
        size: Widths and depths of the model.
        localizer_size: Widths and depths of the deep-learning localizer; its tower is like the model's.
        threads: CPU threads.
        start: Checkpoint ``language.safetensors`` of an earlier run to go on from with new data, from its averaged
            weights and without stage 1; so does stage 3 from a ``localizer.safetensors`` beside it. None: from nothing.
    """

    data: Path
    work: Path
    output: Path
    tower: StageOptions = field(default_factory=lambda: StageOptions(seconds=2700, rate=2e-3))
    language: StageOptions = field(default_factory=lambda: StageOptions(seconds=1800, rate=1.5e-3))
    localizer: StageOptions = field(default_factory=lambda: StageOptions(seconds=3600, rate=1e-3))
    size: CompactSize = field(default_factory=CompactSize)
    localizer_size: LocalizerSize = field(default_factory=LocalizerSize)
    threads: int = 2
    start: Path | None = None


def fresh(size: CompactSize, seed: int) -> tuple[Compact, Any]:
    """Return the model with random weights, and its tokenizer."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, size)
    return Compact(model, DisplacementHead(size.hidden), PresenceHead(size.hidden)), tokenizer


class AnswerEvaluation:
    """Figures of the language model's pointing answers, read from the number tokens without generating."""

    def __init__(self, tokenizer: Any, views: int = 240) -> None:
        """Prepare.

        Args:
            tokenizer: The compact model's tokenizer.
            views: Views to look at.
        """
        self._tokenizer, self._views = tokenizer, views
        self._numbers = number_token_ids(tokenizer)

    @torch.no_grad()
    def __call__(self, compact: Compact, store: ViewStore) -> dict[str, float]:
        """Evaluate on plainly displayed views."""
        compact.eval()
        figures = {f"head_{key}": value for key, value in evaluate_head(compact, store, self._views).items()}
        packer = QuestionPacker(self._tokenizer, pointing=len(LANDMARKS))
        values = torch.arange(-(len(self._numbers) // 2), len(self._numbers) // 2 + 1).float()
        predicted, truth, spacing = [], [], 1.0
        for start in range(0, min(self._views, len(store)), 40):
            batch = load_batch(store, np.arange(start, min(start + 40, len(store), self._views)))
            soft, bone, everything = center_crop(batch)
            marks = everything[:, : len(LANDMARKS)]
            tokens = compact.tokens(plain_display(soft, bone))
            guess = np.full(marks.shape, math.nan)
            packed = packer.pack_all(marks.numpy())
            logits = answer_logits(compact.model, tokens, packed)
            number = ~packed.numbers_mm[0].isnan()
            chosen = logits[:, number][:, :, self._numbers].float()
            best = values[chosen.argmax(-1)]
            guess[:] = best.view(len(best), -1, 2).numpy()
            predicted.append(guess)
            truth.append(marks.numpy())
            spacing = float(batch.mm_per_px[0])
        half = IMAGE_PX / 2 * spacing
        return {**figures, **regression_figures(np.concatenate(predicted), np.concatenate(truth), half)}


def train_compact(options: RecipeOptions, progress: bool = True) -> Path:
    """Run all stages and export; what is finished is not run again.

    Args:
        options: What to train on and for how long.
        progress: Show a progress bar.

    Returns:
        Folder of the finished model.

    Raises:
        ConfigurationError: There are no training or validation views, or the checkpoint to start from is missing.
    """
    torch.set_num_threads(options.threads)
    train, validation = ViewStore(), ViewStore()
    train.refresh(options.data, "train")
    validation.refresh(options.data, "validation")
    for split, store in (("train", train), ("validation", validation)):
        if not len(store):
            raise ConfigurationError(
                f"no {split} views in {options.data}; make them with: carm dataset --format integrals --split {split}"
            )
    compact, tokenizer = fresh(options.size, options.tower.seed)
    if options.start is not None:
        _load_average(compact, options.start)

    def refill() -> int:
        return train.refresh(options.data, "train")

    def run(stage: Stage[Any], evaluate: Any) -> None:
        with _bar(stage.name, progress) as report:
            averaged = stage.run(train, validation, evaluate, refill, report)
        stage.module.load_state_dict(averaged.state_dict())

    if options.start is None:
        run(stage_one(compact, options.tower, options.work), evaluate_head)
    sigma_mm = SIGMA_START_MM if options.start is None else SIGMA_END_MM
    run(stage_two(compact, tokenizer, options.language, options.work, sigma_mm), AnswerEvaluation(tokenizer))
    localizer = _fresh_localizer(options, compact)
    run(stage_three(localizer, options.localizer, options.work), evaluate_localizer)
    card = {**_jsonable(asdict(options)), "views": len(train), "patients": len(set(train["seed"].tolist()))}
    (options.work / "recipe.json").write_text(json.dumps(card, indent=1) + "\n")
    return export(compact, localizer, tokenizer, options.output, card)


def _fresh_localizer(options: RecipeOptions, compact: Compact) -> LandmarkLocalizer:
    """Return the localizer as stage 3 begins: as an earlier run left it, else with the model's tower."""
    localizer = LandmarkLocalizer(options.localizer_size)
    earlier = options.start.with_name(f"localizer{SUFFIX}") if options.start is not None else None
    if earlier is not None and earlier.exists():
        _load_average(localizer, earlier)
    else:
        localizer.start_from(compact.model.model.vision_tower)
    return localizer


def _load_average(module: torch.nn.Module, path: Path) -> None:
    saved = load_checkpoint(path)
    if saved is None:
        raise ConfigurationError(f"no checkpoint {path}")
    try:
        module.load_state_dict(saved["average"])
    except (RuntimeError, LookupError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"checkpoint {path} is of another model ({str(error).splitlines()[0]})") from error


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(item) for item in value]
    return value.name if isinstance(value, Path) else value


class _bar:
    """Progress bar in per cent of a stage's time."""

    def __init__(self, name: str, shown: bool) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=100.0, desc=name, unit="%", disable=not shown, bar_format="{l_bar}{bar}| {elapsed}")

    def __enter__(self) -> Any:
        return lambda progress: self._bar.update(max(0.0, 100 * progress - self._bar.n))

    def __exit__(self, *unused: Any) -> None:
        self._bar.close()
