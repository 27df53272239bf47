# SPDX-License-Identifier: Apache-2.0
"""Bodies of ``carm dataset``, ``carm train`` and ``carm eval localize``. Heavy imports wait until a body runs."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from carm_core.errors import ConfigurationError
from carm_core.paths import cache_dir

RECIPES = ("compact",)
SUITES = ("phantom", "validation", "chest_ct")
"""As in :mod:`carm_perception.evaluate`, which is slow to import; a test holds them together."""

SPLITS = ("train", "validation", "test")


def default_data() -> Path:
    """Folder of the data set when none is given."""
    return cache_dir() / "dataset"


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number from 1")
    return value


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm dataset``."""
    parser.add_argument("--output", type=Path, help="folder of the data set (~/.cache/carm/dataset)")
    parser.add_argument("--split", choices=SPLITS, action="append", help="repeat for several (train and validation)")
    parser.add_argument("--patients", type=_positive, default=360, help="training phantoms; others: a tenth (360)")
    parser.add_argument("--views", type=_positive, default=120, help="views of each phantom (120)")
    parser.add_argument("--workers", type=_positive, default=2, help="processes (2)")


def run_dataset(args: argparse.Namespace) -> int:
    """Generate what is missing of a data set.

    Raises:
        ConfigurationError: The folder cannot be written.
    """
    from carm_perception.data.dataset import DatasetSpec, generate

    folder = args.output or default_data()
    for split in dict.fromkeys(args.split or ("train", "validation")):
        patients = args.patients if split == "train" else max(1, args.patients // 10)
        made = generate(folder, DatasetSpec(split, patients, args.views, min(4, patients)), args.workers)
        print(f"{split}: {made} shards made, {patients} patients x {args.views} views in {folder}")
    return 0


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm train``."""
    parser.add_argument("--recipe", choices=RECIPES, default="compact", help="what to train (compact)")
    parser.add_argument("--data", type=Path, help="folder of the data set (~/.cache/carm/dataset); made if missing")
    parser.add_argument("--work", type=Path, help="folder of checkpoints and logs (~/.cache/carm/train)")
    parser.add_argument("--output", type=Path, required=True, help="folder of the finished model")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="go on from language.pt of an earlier run with new data (stage 2 alone)",
    )
    parser.add_argument("--minutes", type=float, default=75.0, help="training time of both stages together (75)")
    parser.add_argument("--patients", type=_positive, default=360, help="phantoms of a data set made now (360)")
    parser.add_argument("--views", type=_positive, default=120, help="views of each (120)")
    parser.add_argument("--batch", type=_positive, default=64, help="images per step (64)")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and order (0)")
    parser.add_argument("--threads", type=_positive, default=2, help="CPU threads (2)")


TOWER_SHARE = 0.55
"""Part of the training time that stage 1 gets."""


def run_train(args: argparse.Namespace) -> int:
    """Train from nothing, or go on where an earlier run stopped.

    Raises:
        ConfigurationError: An option is out of range or a folder cannot be written.
    """
    import logging

    from carm_perception.data.dataset import DatasetSpec, generate
    from carm_perception.train.recipe import RecipeOptions, train_compact
    from carm_perception.train.stages import StageOptions

    if not 0 < args.minutes < 1e5:
        raise ConfigurationError(f"--minutes must be positive, not {args.minutes}")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = args.data or default_data()
    for split, patients in (("train", args.patients), ("validation", max(1, args.patients // 30))):
        if not any(data.glob(f"{split}-*.parquet")):
            generate(data, DatasetSpec(split, patients, args.views, min(4, patients)), args.threads)
    seconds = args.minutes * 60
    share = TOWER_SHARE if args.start is None else 0.0
    tower = StageOptions(seconds=seconds * share, batch=args.batch, seed=args.seed)
    language = StageOptions(seconds=seconds * (1 - share), batch=args.batch, seed=args.seed, rate=1.5e-3)
    work = args.work or cache_dir() / "train"
    options = RecipeOptions(data, work, args.output, tower, language, threads=args.threads, start=args.start)
    print(f"model in {train_compact(options)}")
    return 0


def add_eval_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm eval localize``."""
    parser.add_argument(
        "--localizer", action="append", help="compact, regression, or a Hugging Face id or folder; repeat (compact)"
    )
    parser.add_argument("--suite", action="append", choices=SUITES, help="repeat for several (all)")
    parser.add_argument("--model", type=Path, help="model folder of compact and regression (the one that ships)")
    parser.add_argument("--patients", type=_positive, default=20, help="phantoms of each suite (20)")
    parser.add_argument("--views", type=_positive, default=400, help="views of each suite (400)")
    parser.add_argument("--seed", type=int, default=0, help="seed of views and noise (0)")
    parser.add_argument("--threads", type=_positive, default=2, help="CPU threads of a Hugging Face model (2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to FILE")


def run_eval(args: argparse.Namespace) -> int:
    """Evaluate localizers on suites and print a table.

    Raises:
        ConfigurationError: An option is out of range or the file cannot be written.
        UnknownNameError: There is no such localizer.
    """
    if args.json is not None and not args.json.parent.is_dir():
        raise ConfigurationError(f"{args.json}: folder {args.json.parent} does not exist")
    from tqdm import tqdm

    from carm_perception.evaluate import evaluate, suite
    from carm_perception.registry import LocalizerOptions, make_localizer

    results: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(args.localizer or ("compact",)):
        localizer = make_localizer(name, LocalizerOptions(folder=args.model, threads=args.threads))
        for chosen in (suite(s, args.patients, args.views) for s in dict.fromkeys(args.suite or SUITES)):
            with tqdm(total=chosen.views, desc=f"{name} {chosen.name}", unit="view") as bar:
                figures = evaluate(localizer, chosen, args.seed, lambda done, b=bar: b.update(done - b.n))  # type: ignore[misc]
            results[f"{name}/{chosen.name}"] = figures
            print(_line(f"{name}/{chosen.name}", figures), flush=True)
        localizer.close()
    if args.json is not None:
        document = {"command": "carm " + " ".join(sys.argv[1:]), "seed": args.seed, **_origin(), "results": results}
        try:
            args.json.write_text(json.dumps(document, indent=1) + "\n")
        except OSError as error:
            raise ConfigurationError(f"cannot write {args.json}: {error.strerror}") from error
    return 0


def _line(name: str, figures: dict[str, Any]) -> str:
    shown = ("hit_1", "hit_2", "p_at_1", "p_at_3", "mirror_swap", "malformed")
    rates = "  ".join(f"{key} {figures[key]:.3f}" for key in shown)
    error = f"error {figures['error_mean_mm']:.1f} mm (p95 {figures['error_p95_mm']:.0f})"
    return f"{name}: {rates}  {error}  latency {figures['latency_p50_ms']:.0f} ms"


def _origin() -> dict[str, Any]:
    """Commit, versions and machine, for figures on file."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    packages = ("torch", "transformers", "numpy")
    return {
        "commit": commit,
        "versions": {"python": platform.python_version(), **{p: metadata.version(p) for p in packages}},
        "machine": f"{platform.machine()}, {platform.processor() or platform.system()}",
    }
