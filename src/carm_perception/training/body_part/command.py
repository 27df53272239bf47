# SPDX-License-Identifier: Apache-2.0
"""``carm train --recipe body-part``: the compact classifier, on generated radiographs or real ones."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from carm_core.errors import ConfigurationError
from carm_core.paths import cache_dir

if TYPE_CHECKING:
    from carm_perception.training.body_part.views import Views

BATCH = 64
PATIENTS, VIEWS = 110, 80
"""Phantoms of a data set that is made now, and images of each."""
_FEWER = 14
_VALIDATED = 10


def run(args: argparse.Namespace, data: Path) -> int:
    """Train; a generated data set that is missing is made first.

    Raises:
        ConfigurationError: An option is out of range, or a folder cannot be read or written.
    """
    import torch

    from carm_perception.datasets.body_parts.competition import is_competition
    from carm_perception.training.body_part.recipe import PartOptions, train

    torch.set_num_threads(args.threads)
    options = PartOptions(args.minutes * 60, args.batch or BATCH, args.seed, args.start)
    work = args.work or cache_dir() / "train-body-part"
    if is_competition(data):
        views, validation = _pictures(data)
    else:
        views, validation = _generated(args, data)
    record = train(views, validation, options, work, args.output)
    print(f"model in {args.output}: validation Hit@1 {record['hit_1']:.3f}, Hit@2 {record['hit_2']:.3f}")
    return 0


def _generated(args: argparse.Namespace, data: Path) -> tuple[Views, Views]:
    """Return training and validation images of a generated data set."""
    from carm_perception.datasets.storage.dataset import BODY_PART_INTEGRALS, FORMATS, DatasetSpec, generate
    from carm_perception.training.body_part.views import GeneratedViews

    patients, views = args.patients or PATIENTS, args.views or VIEWS
    for split, count in (("train", patients), ("validation", max(1, patients // _FEWER))):
        if not any(data.glob(f"{FORMATS[BODY_PART_INTEGRALS].prefix}{split}-*.parquet")):
            generate(data, DatasetSpec(split, count, views, 1, format=BODY_PART_INTEGRALS), args.threads)
    return GeneratedViews(data, "train"), GeneratedViews(data, "validation")


def _pictures(folder: Path) -> tuple[Views, Views]:
    """Return the labeled images of split ``train``; every tenth validates."""
    from carm_perception.datasets.body_parts.competition import read_competition, read_gray
    from carm_perception.networks.body_part_reader import model_square
    from carm_perception.training.body_part.views import PictureViews

    content = read_competition(folder, "train")
    problems, gray, labels = list(content.problems), [], []
    for image, found in read_gray(content.images):
        if isinstance(found, str):
            problems.append(found)
        else:
            gray.append(model_square(found))
            labels.append(image.part_ids)
    for problem in problems:
        print(f"carm train: {problem}", file=sys.stderr)
    if len(gray) < 2:
        raise ConfigurationError(f"{folder}: {len(gray)} labeled images of split train are too few")
    stack = np.stack(gray)
    held = np.arange(len(gray)) % _VALIDATED == 0
    rest, every_tenth = (
        PictureViews(stack[chosen], [ids for ids, taken in zip(labels, chosen, strict=True) if taken])
        for chosen in (~held, held)
    )
    return rest, every_tenth
