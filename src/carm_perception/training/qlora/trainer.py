# SPDX-License-Identifier: Apache-2.0
"""The training loop: the same order of examples on any number of processes, and the same state after a restart."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from carm_core.errors import CarmError, ConfigurationError
from carm_perception.localizers.huggingface.loader import describe, resolve_source
from carm_perception.training.qlora import checkpoint
from carm_perception.training.qlora.adapters import place_for_training, prepare
from carm_perception.training.qlora.encoding import Encoder
from carm_perception.training.qlora.examples import Examples, Pictures
from carm_perception.training.qlora.export import Summary, export
from carm_perception.training.qlora.options import QloraOptions

_MAXIMUM_NORM = 1.0
_FLOOR = 0.05
_VALIDATION_SEED = 7


def learning_rate(step: int, steps: int, options: QloraOptions) -> float:
    """Return the learning rate of a step: a linear rise, then half a cosine down to a twentieth.

    Args:
        step: From 0.
        steps: In all.
        options: The run.
    """
    rise = max(1, round(options.warm_up * steps))
    if step < rise:
        return options.rate * (step + 1) / rise
    progress = (step - rise) / max(1, steps - rise)
    return options.rate * (_FLOOR + (1 - _FLOOR) * 0.5 * (1 + math.cos(math.pi * progress)))


@dataclass
class Run:
    """A run on one process.

    Attributes:
        options: The run.
        accelerator: Knows the other processes.
        model: The model with its adapters, as wrapped by the accelerator.
        optimizer: Of the adapters.
        encoder: Makes tensors.
        examples: For training.
        validation: Examples for validation; None: none.
        steps: In all.
        log: Of the main process.
    """

    options: QloraOptions
    accelerator: Any
    model: Any
    optimizer: Any
    encoder: Encoder
    examples: Examples
    validation: Examples | None
    steps: int
    log: checkpoint.Log

    def batches(self, step: int) -> Iterator[dict[str, Any]]:
        """Micro batches of this process in a step."""
        size, index = self.options.micro_batch, self.accelerator.process_index
        count = self.options.accumulation(self.accelerator.num_processes)
        first = step * self.options.batch + index * count * size
        for start in range(first, first + count * size, size):
            yield self.batch(self.examples, range(start, start + size))

    def batch(self, examples: Examples, numbers: range) -> dict[str, Any]:
        """Return a batch of examples by number, on this process's device."""
        encoded = self.encoder.collate([self.encoder.encode(*examples[number]) for number in numbers])
        dtype = self.accelerator.unwrap_model(self.model).dtype
        return {
            name: value.to(self.accelerator.device, dtype if value.is_floating_point() else value.dtype)
            for name, value in encoded.items()
        }

    def step(self, number: int) -> dict[str, float]:
        """Return one optimizer step.

        Returns:
            Figures for the log: loss, learning rate, norm of the gradient.
        """
        torch.manual_seed((self.options.seed * 1_000_003 + number) * 1009 + self.accelerator.process_index)
        rate = learning_rate(number, self.steps, self.options)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        count = self.options.accumulation(self.accelerator.num_processes)
        total = torch.zeros((), device=self.accelerator.device)
        for index, batch in enumerate(self.batches(number)):
            if index + 1 < count:
                with self.accelerator.no_sync(self.model):
                    total += self._backward(batch, count)
            else:
                total += self._backward(batch, count)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), _MAXIMUM_NORM)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        loss = float(self.accelerator.reduce(total, "mean"))
        if not math.isfinite(loss):
            raise ConfigurationError(f"the loss is {loss} at step {number}: lower --rate (now {self.options.rate})")
        return {"loss": loss, "rate": rate, "grad_norm": float(norm)}

    def _backward(self, batch: dict[str, Any], count: int) -> Any:
        loss = self.model(**batch).loss / count
        self.accelerator.backward(loss)
        return loss.detach()

    def validate(self) -> float | None:
        """Return the mean loss of the validation examples; None: there are none."""
        if self.validation is None or not self.options.evaluate:
            return None
        self.model.eval()
        world, index = self.accelerator.num_processes, self.accelerator.process_index
        sums = torch.zeros(2, device=self.accelerator.device)
        with torch.no_grad():
            for number in range(index, self.options.evaluate, world):
                batch = self.batch(self.validation, range(number, number + 1))
                loss = self.accelerator.unwrap_model(self.model)(**batch).loss.float()
                sums += torch.stack([loss, torch.ones_like(loss)])
        self.model.train()
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        return float(total / max(count, 1.0))


def train_qlora(options: QloraOptions, progress: bool = True) -> Path:
    """Fine-tune a model, or resume an earlier run; under ``accelerate launch`` on several GPUs.

    Args:
        options: The run.
        progress: Show a progress bar.

    Returns:
        Folder of the adapter, which the localizer takes as it is.

    Raises:
        ConfigurationError: An option is out of range, the data are missing, or the checkpoint is of another run.
        LocalizerError: The model cannot be loaded, or fits nowhere.
        StorageError: A file cannot be written.
    """
    resolve_source(options.model)
    pictures = Pictures(options.data, "train")
    steps = options.steps or max(1, math.ceil(options.epochs * len(pictures) / options.batch))
    accelerator = _accelerator(options)
    options.accumulation(accelerator.num_processes)
    try:
        options.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {options.folder}: {error.strerror}") from error
    try:
        placement = place_for_training(options, accelerator.local_process_index)
        processor, model = prepare(options, placement, accelerator.local_process_index)
    except CarmError:
        for made in (options.folder, options.output):
            with suppress(OSError):  # what was there before has something in it
                made.rmdir()
        raise
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=options.rate, weight_decay=0.0)
    fingerprint = options.fingerprint(steps, len(pictures))
    done = checkpoint.resume(options.folder, model, optimizer, fingerprint)
    report = describe(model, placement)
    ends = model.generation_config.eos_token_id if model.generation_config is not None else None
    ends = [ends] if isinstance(ends, int) else list(ends or ())
    log = checkpoint.Log(options.folder, accelerator.is_main_process)
    log.write(
        event="start", step=done, steps=steps, images=len(pictures), trained=sum(p.numel() for p in trained),
        processes=accelerator.num_processes, **asdict(report), **_versions(),
    )  # fmt: skip
    if accelerator.is_main_process:
        print(report)
    model, optimizer = accelerator.prepare(model, optimizer)
    run = Run(
        options, accelerator, model, optimizer, Encoder(processor, ends), Examples(pictures, options.seed),
        _validation(options), steps, log,
    )  # fmt: skip
    last = _train(run, done, fingerprint, progress)
    if accelerator.is_main_process:
        summary = Summary(options, report, steps, len(pictures), sum(p.numel() for p in trained), last)
        export(accelerator.unwrap_model(run.model), processor, summary)
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return options.output


def _train(run: Run, done: int, fingerprint: dict[str, Any], progress: bool) -> dict[str, float]:
    from tqdm import tqdm

    options, accelerator = run.options, run.accelerator
    hidden = not (progress and accelerator.is_main_process)
    last: dict[str, float] = {}
    run.model.train()
    start = time.perf_counter()
    with tqdm(total=run.steps, initial=done, unit="step", disable=hidden) as bar:
        for number in range(done, run.steps):
            last = run.step(number)
            finished = number + 1
            if finished % options.save_every == 0 or finished == run.steps:
                validation = run.validate()
                last |= {} if validation is None else {"validation_loss": validation}
                if accelerator.is_main_process:
                    unwrapped = accelerator.unwrap_model(run.model)
                    checkpoint.save(options.folder, unwrapped, run.optimizer, finished, fingerprint)
                accelerator.wait_for_everyone()
            elapsed = time.perf_counter() - start
            rate = (finished - done) * options.batch / elapsed
            run.log.write(step=finished, **last, images_per_s=round(rate, 3), elapsed_s=round(elapsed, 2), **_memory())
            bar.update()
            bar.set_postfix(loss=f"{last['loss']:.3f}")
    return last


def _accelerator(options: QloraOptions) -> Any:
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise ConfigurationError("fine-tuning needs accelerate: pip install accelerate") from error
    return Accelerator(cpu=options.device == "cpu" or not torch.cuda.is_available(), mixed_precision="no")


def _validation(options: QloraOptions) -> Examples | None:
    if not options.evaluate or not any(options.data.glob("xray-validation-*.parquet")):
        return None
    return Examples(Pictures(options.data, "validation"), _VALIDATION_SEED)


def _memory() -> dict[str, float]:
    if not torch.cuda.is_available():
        return {}
    return {"gpu_peak_gib": round(torch.cuda.max_memory_allocated() / (1 << 30), 2)}


def _versions() -> dict[str, str]:
    return {name: metadata.version(name) for name in ("torch", "transformers", "peft", "accelerate")}
