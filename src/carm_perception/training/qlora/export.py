# SPDX-License-Identifier: Apache-2.0
"""The finished adapter: its folder holds all that the localizer needs besides the base model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError
from carm_perception.datasets.storage.shards import StorageError
from carm_perception.localizers.huggingface.loader import LoadReport
from carm_perception.networks.model_folder import ADAPTER_CONFIG
from carm_perception.training.qlora.options import QloraOptions


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        options: The run.
        report: How the base model was loaded.
        steps: Optimizer steps.
        images: Training images.
        trained: Trained parameters.
        last: Figures of the last step.
    """

    options: QloraOptions
    report: LoadReport
    steps: int
    images: int
    trained: int
    last: dict[str, float]


def export(model: Any, processor: Any, summary: Summary) -> None:
    """Write adapter, processor, card and ``training.json``.

    Args:
        model: The model with its adapters.
        processor: The base model's processor.
        summary: For the card.

    Raises:
        StorageError: The folder cannot be written.
    """
    options = summary.options
    folder = options.output
    base = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    content = json.dumps(_plain(asdict(summary)), indent=1) + "\n"
    try:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        configuration = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        configuration["base_model_name_or_path"] = base
        (folder / ADAPTER_CONFIG).write_text(json.dumps(configuration, indent=1) + "\n", encoding="utf-8")
        (folder / "training.json").write_text(content, encoding="utf-8")
        (folder / "README.md").write_text(card(summary, base), encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write {folder}: {error.strerror or error}") from error


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    return str(value) if isinstance(value, Path) else value


def card(summary: Summary, base: str) -> str:
    """Return the model card.

    Args:
        summary: What the run did.
        base: Id or place of the base model.

    Raises:
        ConfigurationError: The run has no figures.
    """
    options, report, last = summary.options, summary.report, summary.last
    if summary.steps < 1:
        raise ConfigurationError("a run without steps has no card")
    shown = [f"{name.replace('_', ' ')} {last[name]:.4g}" for name in ("loss", "validation_loss") if name in last]
    return f"""---
base_model: {base}
library_name: peft
pipeline_tag: image-text-to-text
---
# Adapter for landmarks in C-arm X-ray images

Fine-tuned from `{base}` ({report.architecture}, {report.parameters / 1e9:.3g} billion parameters with the adapter) with
LoRA of rank {options.rank} on all linear layers of the language model ({summary.trained / 1e6:.3g} million trained
parameters), base weights in {report.dtype}, on {summary.images} rendered X-ray images of generated phantoms:
{summary.steps} steps of {options.batch} examples, learning rate {options.rate:g}, seed {options.seed}.
At the end: {", ".join(shown) or "not measured"}. Everything is in `training.json`.

It answers the text protocols of the C-arm stack: retrieval, localization, navigation, re-evaluation, pointing, command.

    carm sim localizer:=FOLDER
    carm eval localize --localizer FOLDER

Trained on simulated images only; not evaluated on people, and not for clinical use. The license of the base model
applies to what is derived from it.
"""
