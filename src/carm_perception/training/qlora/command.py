# SPDX-License-Identifier: Apache-2.0
"""Options of ``carm train --recipe qlora``. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

BATCH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what this recipe has beyond the others."""
    group = parser.add_argument_group("recipe qlora")
    group.add_argument("--model", default="", metavar="ID_OR_PATH", help="Hugging Face image-text-to-text model")
    group.add_argument("--steps", type=int, default=0, help="optimizer steps (as many as the epochs make)")
    group.add_argument("--epochs", type=float, default=1.0, help="passes over the images (1)")
    group.add_argument("--micro-batch", type=int, default=1, help="examples at once on each GPU (1)")
    group.add_argument("--rate", type=float, default=2e-4, help="highest learning rate (2e-4)")
    group.add_argument("--rank", type=int, default=16, help="rank of the adapters (16)")
    group.add_argument("--dropout", type=float, default=0.05, help="of the adapters' input (0.05)")
    group.add_argument(
        "--precision",
        choices=("auto", "nf4", "bfloat16", "float32"),
        default="auto",
        help="of the base model; auto: 4-bit NF4 on CUDA with bitsandbytes, else what fits (auto)",
    )
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train (auto)")
    group.add_argument("--save-every", type=int, default=50, help="steps between checkpoints (50)")
    group.add_argument("--evaluate", type=int, default=64, help="validation examples at each checkpoint (64)")


def run(args: argparse.Namespace, data: Path) -> int:
    """Fine-tune a model, or resume an earlier run.

    Args:
        args: As parsed.
        data: Folder of the data set.

    Raises:
        CarmError: As ``carm_perception.training.qlora.trainer.train_qlora``.
    """
    from carm_perception.training.qlora.options import QloraOptions

    options = QloraOptions(
        model=args.model and (str(Path(args.model).expanduser()) if args.model.startswith("~") else args.model),
        data=data,
        output=args.output,
        work=args.work,
        steps=args.steps,
        epochs=args.epochs,
        batch=args.batch or BATCH,
        micro_batch=args.micro_batch,
        rate=args.rate,
        rank=args.rank,
        dropout=args.dropout,
        precision=args.precision,
        device=args.device,
        save_every=args.save_every,
        evaluate=args.evaluate,
        seed=args.seed,
    )
    from carm_perception.training.qlora.trainer import train_qlora

    folder = train_qlora(options)
    if os.environ.get("RANK", "0") == "0":
        print(f"adapter in {folder}; try it: carm eval localize --localizer {folder}")
    return 0
