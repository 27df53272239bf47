# SPDX-License-Identifier: Apache-2.0
"""Bodies of ``carm dataset`` and ``carm train``. Heavy imports wait until a body runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from carm_core.cli.arguments import count, number, output_folder, seed
from carm_core.errors import ConfigurationError
from carm_core.paths import cache_dir
from carm_perception.training.qlora import command as qlora

RECIPES = ("compact", "qlora", "body-part")
TASKS = ("landmarks", "body-part")
SPLITS = ("train", "validation", "test")


def default_data() -> Path:
    """Return the folder of the data set when none is given."""
    return cache_dir() / "dataset"


def add_dataset_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm dataset``."""
    parser.add_argument("--output", type=output_folder, help="folder of the data set (~/.cache/carm/dataset)")
    parser.add_argument(
        "--task",
        choices=TASKS,
        default=TASKS[0],
        help="landmarks: C-arm views of the trunk; body-part: labeled radiographs of all body parts (landmarks)",
    )
    parser.add_argument(
        "--format",
        choices=tuple(DATASET_SIZES),
        default="xray",
        help="xray: images as a screen shows them; integrals: what the compact models are trained on (xray)",
    )
    parser.add_argument("--split", choices=SPLITS, action="append", help="repeat for several (train and validation)")
    parser.add_argument(
        "--patients", type=count, help="training phantoms (xray 640, others a fifth; 360, a tenth; body parts 110)"
    )
    parser.add_argument("--views", type=count, help="views of each phantom (xray and body parts 80, integrals 120)")
    parser.add_argument(
        "--ct",
        action="append",
        default=[],
        metavar="PATH",
        help="render this CT, too: a file or folder with landmarks.yaml, or a folder of such; repeat for several."
        " 80 %% of all CTs belong to train, 10 %% to validation, 10 %% to test, by their checksums",
    )
    parser.add_argument(
        "--ct-share",
        type=number(0.001, 0.99),
        help="share of the views that are of CTs (0.2, but at most 1,000 views of each CT)",
    )
    parser.add_argument("--workers", type=count, default=0, help="processes, or Ray tasks at once (all cores)")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster (local)"
    )


DATASET_SIZES = {"xray": (640, 80, 5, 2), "integrals": (360, 120, 10, 4)}
"""Format to phantoms for training, views of each, how many times fewer phantoms other splits have, and phantoms in a
shard. The first makes 51,200 images for training and 10,240 for validation."""
BODY_PART_SIZES = (110, 80, 14, 1)
"""The same of task ``body-part``."""


def run_dataset(args: argparse.Namespace) -> int:
    """Generate what is missing of a data set.

    Raises:
        ConfigurationError: The folder cannot be written, or Ray is asked for and missing.
        StorageError: The disk is full.
    """
    from carm_perception.datasets.known_cts import MOST_VIEWS, SHARE, find_cts
    from carm_perception.datasets.storage.dataset import DatasetSpec, generate

    body_parts = args.task == "body-part"
    if body_parts and args.ct:
        raise ConfigurationError("--task body-part takes no --ct: its labels follow from the bones of generated bodies")
    if args.ct_share and not args.ct:
        raise ConfigurationError("--ct-share needs CTs: --ct PATH")
    cts = find_cts(args.ct)
    for ct in cts:
        print(f"{ct.path}: {ct.name}, split {ct.split}")
    share = args.ct_share or SHARE
    folder = args.output or default_data()
    patients, views, fewer, per_shard = BODY_PART_SIZES if body_parts else DATASET_SIZES[args.format]
    chosen = f"body-part-{args.format}" if body_parts else args.format
    patients, views = args.patients or patients, args.views or views
    for split in dict.fromkeys(args.split or ("train", "validation")):
        count = patients if split == "train" else max(1, patients // fewer)
        own = tuple(ct for ct in cts if ct.split == split)
        ct_views = max(1, round(share / (1 - share) * count * views / max(1, len(own))))
        ct_views = ct_views if args.ct_share else min(ct_views, MOST_VIEWS)
        spec = DatasetSpec(split, count, views, min(per_shard, count), format=chosen, cts=own, ct_views=ct_views)
        made = generate(folder, spec, args.workers, engine=args.engine)
        also = f" and {len(own)} CTs x {ct_views} views" if own else ""
        print(f"{split}: {made} shards made, {count} patients x {views} views{also} in {folder}")
    return 0


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm train``."""
    parser.add_argument("--recipe", choices=RECIPES, default="compact", help="what to train (compact)")
    parser.add_argument("--data", type=Path, help="folder of the data set (~/.cache/carm/dataset); made if missing")
    parser.add_argument("--work", type=output_folder, help="folder of checkpoints and logs (~/.cache/carm/train)")
    parser.add_argument("--output", type=output_folder, required=True, help="folder of the finished model")
    parser.add_argument(
        "--start",
        type=Path,
        metavar="FILE",
        help="go on from language.safetensors of an earlier run with new data (without stage 1); body-part: from a"
        " model folder",
    )
    parser.add_argument(
        "--minutes", type=number(0.001, 1e5), default=120.0, help="training time of all stages together (120)"
    )
    parser.add_argument("--patients", type=count, help="phantoms of a data set made now (360; body-part 110)")
    parser.add_argument("--views", type=count, help="views of each (120; body-part 80)")
    parser.add_argument("--batch", type=count, help="images per step (compact and body-part 64, qlora 16)")
    parser.add_argument("--seed", type=seed, default=0, help="seed of weights and order (0)")
    parser.add_argument("--threads", type=count, default=2, help="CPU threads (2)")
    qlora.add_arguments(parser)


COMPACT_BATCH = 64
STAGE_SHARES = (0.35, 0.3, 0.35)
"""Parts of the training time that the stages get; without stage 1 the others share it all."""


def run_train(args: argparse.Namespace) -> int:
    """Train from the start, or resume an earlier run.

    Raises:
        ConfigurationError: An option is out of range or a folder cannot be written.
    """
    import logging

    from carm_perception.datasets.storage.dataset import DatasetSpec, generate
    from carm_perception.training.compact.recipe import RecipeOptions, train_compact
    from carm_perception.training.compact.stages import StageOptions

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    data = args.data or default_data()
    if args.recipe == "body-part":
        from carm_perception.training.body_part import command

        return command.run(args, data)
    if args.start is not None and not args.start.is_file():
        raise ConfigurationError(f"--start {args.start}: there is no such file")
    if args.recipe == "qlora":
        return qlora.run(args, data)
    patients = args.patients or 360
    for split, number_of in (("train", patients), ("validation", max(1, patients // 30))):
        if not any(data.glob(f"{split}-*.parquet")):
            generate(data, DatasetSpec(split, number_of, args.views or 120, min(4, number_of)), args.threads)
    shares = STAGE_SHARES if args.start is None else (0.0, *STAGE_SHARES[1:])
    tower, language, localizer = (
        StageOptions(
            args.minutes * 60 * share / sum(shares), batch=args.batch or COMPACT_BATCH, seed=args.seed, rate=rate
        )
        for share, rate in zip(shares, (2e-3, 1.5e-3, 1e-3), strict=True)
    )
    work = args.work or cache_dir() / "train"
    options = RecipeOptions(data, work, args.output, tower, language, localizer, threads=args.threads, start=args.start)
    print(f"model in {train_compact(options)}")
    return 0
