# SPDX-License-Identifier: Apache-2.0
"""Body of ``carm calibrate``. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from carm_core.cli.arguments import count
from carm_core.errors import ConfigurationError


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 0 to 1")
    return value


MINIMUM_PATIENTS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm calibrate``."""
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="model folder (the one in the package)")
    parser.add_argument("--patients", type=count, default=120, help="calibration phantoms (120)")
    parser.add_argument("--views", type=count, default=12, help="views of each (12)")
    parser.add_argument(
        "--shifted", type=_fraction, default=SHIFTED, help="part of the patients of the other style (1/3)"
    )
    parser.add_argument("--workers", type=count, default=2, help="processes (2)")


SHIFTED = 1 / 3
"""Part of the calibration patients that is generated in the style ``validation``."""


def run(args: argparse.Namespace) -> int:
    """Calibrate the localizers of a model folder; write ``calibration.json`` into it.

    Images of the calibration patients are kept in the cache: a run that was cut off goes on, and the next model needs
    no rendering.

    Raises:
        ConfigurationError: There are too few patients, or a folder cannot be written.
        LocalizerError: The model folder is incomplete.
    """
    if args.patients < MINIMUM_PATIENTS:
        raise ConfigurationError(f"--patients must be at least {MINIMUM_PATIENTS}, not {args.patients}")
    import numpy as np
    from tqdm import tqdm

    from carm_perception.datasets.calibration.patient_views import patient_names, prepare_views
    from carm_perception.datasets.calibration.synthetic_negatives import shadows, strangers
    from carm_perception.networks.model_folder import COMPACT_FOLDER, REQUIRED, check_model_folder, weights_hash
    from carm_perception.training.calibration.fit import check, fit
    from carm_perception.training.calibration.samples import Reader, collect
    from carm_perception.uncertainty.out_of_distribution import NO_BODY, SHADOWS

    folder = args.model or COMPACT_FOLDER
    check_model_folder(folder, REQUIRED)
    shifted = round(args.shifted * args.patients)
    names = patient_names(args.patients - shifted, shifted)
    with tqdm(total=len(names), desc="images", unit="patient") as bar:
        paths = prepare_views(names, args.views, args.workers, bar.update)
    with tqdm(total=len(names), desc="answers", unit="patient") as bar:
        samples = collect(folder, paths, args.workers, bar.update)
    reader = Reader(folder)
    strange = {NO_BODY: reader.read_strangers(strangers()), SHADOWS: reader.read_strangers(shadows())}
    other = np.array(["validation" in names[number] for number in samples.patient])
    groups = {"nominal": ~other, "shifted": other} if shifted and shifted < len(names) else {}
    held_out = check(samples, strange, groups)
    made = replace(fit(samples, strange, weights_hash(folder)), patients=names, views=args.views, held_out=held_out)
    path = made.write(folder)
    for line in report(held_out):
        print(line)
    print(f"calibration in {path}: {len(names)} patients x {args.views} views, fusion {made.fusion}")
    return 0


def report(held_out: dict[str, Any]) -> list[str]:
    """Return the lines that say how the calibration holds on patients left out."""
    from carm_perception.uncertainty.out_of_distribution import NO_BODY, SHADOWS

    lines = []
    for name, cases in held_out.items():
        if not isinstance(cases, dict) or "all" not in cases:
            continue
        for case, figures in cases.items():
            covered = "  ".join(
                f"{level} % {100 * figures[f'coverage_{level}']:.1f} ({figures[f'radius_{level}_mean_mm']} mm)"
                for level in (90, 95, 97)
            )
            answered = f"answered at 5 % risk {100 * figures['answered_at_0.05']:.0f} %"
            at_risk = figures["wrong_at_0.05"]
            wrong = "" if at_risk is None else f", wrong {100 * at_risk:.1f} %"
            lines.append(f"{name} {case} (n {figures['n']}): {covered}  {answered}{wrong}")
    lines.append(
        f"abstains on {100 * held_out['strange_with_landmark']:.1f} % of the images with a landmark,"
        f" {100 * held_out[f'strange_{NO_BODY}']:.1f} % of those without a body,"
        f" {100 * held_out[f'strange_{SHADOWS}']:.1f} % of those of objects; lists: {held_out['lists']}"
    )
    return lines
