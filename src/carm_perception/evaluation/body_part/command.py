# SPDX-License-Identifier: Apache-2.0
"""``carm eval body-part``: which body parts radiographs show. Heavy imports wait until the body runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from carm_core.cli import results_file
from carm_core.cli.arguments import count, output_file, seed
from carm_core.errors import ConfigurationError
from carm_perception.classifiers import registry as classifiers
from carm_perception.evaluation.body_part import suite
from carm_perception.localizers import registry

GENERATED = "generated"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    parser.add_argument(
        "--suite", choices=(GENERATED,), help="radiographs of generated bodies (where no --data is given)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="folder of the UNIFESP competition as it is downloaded: images and a CSV file (SOPInstanceUID, Target)",
    )
    parser.add_argument("--split", choices=("train", "test", "all"), default="test", help="of --data (test)")
    parser.add_argument(
        "--classifier",
        action="append",
        help="compact, openai (a server), or a Hugging Face id or folder; repeat (compact)",
    )
    parser.add_argument("--model", type=Path, help="model folder of compact (the one in the package)")
    parser.add_argument("--patients", type=count, default=suite.PATIENTS, help=f"generated bodies ({suite.PATIENTS})")
    parser.add_argument("--views", type=count, default=suite.VIEWS, help=f"images of each ({suite.VIEWS})")
    parser.add_argument("--workers", type=count, default=1, help="processes that make images (1)")
    parser.add_argument("--seed", type=seed, default=0, help="random seed (0)")
    parser.add_argument("--threads", type=count, default=2, help="CPU threads of a Hugging Face model (2)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")
    registry.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Ask classifiers, print the figures, write them.

    Returns:
        0; 1 when labels or images had to be left out.

    Raises:
        ConfigurationError: An option is wrong, a folder holds no labeled image, or the file cannot be written.
        UnknownNameError: There is no such classifier.
    """
    from carm_perception.evaluation.body_part.scoring import asked, figures_of

    results_file.check_file(args.json)
    names = list(dict.fromkeys(args.classifier or (classifiers.NAMES[0],)))
    for name in names:
        classifiers.check_name(name)
    images: dict[str, list[suite.Labeled]] = {}
    left_out = 0
    for folder in args.data:
        own, missing = _read(folder, args.split)
        images[folder.resolve().name] = own
        left_out += missing
    if args.suite or not args.data:
        images[GENERATED] = list(_generated(args))
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        options = registry.with_arguments(registry.LocalizerOptions(folder=args.model, threads=args.threads), args)
        classifier = classifiers.make_classifier(name, options)
        for where, own in images.items():
            key = f"{name}/{where}"
            results[key] = figures_of(list(asked(classifier, own)))
            print(line(key, results[key]), flush=True)
        classifier.close()
    if args.json is not None:
        document = results_file.document("carm " + " ".join(sys.argv[1:]), args.seed, results)
        results_file.write(args.json, document, allow_nan=False)
    return int(left_out > 0)


def line(name: str, figures: dict[str, Any]) -> str:
    """Return the most important figures in a line."""
    shown = ("hit_1", "hit_2", "exact", "malformed", "failed", "always_chest")
    parts = [f"{key} {figures[key]:.3f}" for key in shown if figures.get(key) is not None]
    published = figures["as_published"]
    if published["n"]:
        parts.append(f"as published {published['hit_1']:.3f}, {published['hit_2']:.3f} of {published['n']}")
    if figures.get("latency_p50_ms") is not None:
        parts.append(f"latency {figures['latency_p50_ms']:.0f} ms")
    return f"{name}: {figures['n']} images  {'  '.join(parts)}"


def _read(folder: Path, split: str) -> tuple[list[suite.Labeled], int]:
    """Return the images of a folder, and how many could not be used; each is told in a line."""
    from carm_perception.datasets.body_parts.competition import read_competition, read_gray

    content = read_competition(folder, "" if split == "all" else split)
    problems = list(content.problems)
    images: list[suite.Labeled] = []
    for image, gray in read_gray(content.images):
        if isinstance(gray, str):
            problems.append(gray)
        else:
            images.append((image.name, image.part_ids, gray))
    for problem in problems:
        print(f"carm eval body-part: {problem}", file=sys.stderr)
    if not images:
        raise ConfigurationError(f"{folder}: no labeled image of split {split}")
    return images, len(problems)


def _generated(args: argparse.Namespace) -> Iterator[suite.Labeled]:
    from tqdm import tqdm

    with tqdm(total=args.patients * args.views, desc="images", unit="image") as bar:
        for image in suite.generated(args.seed, args.patients, args.views, args.workers):
            bar.update(1)
            yield image
