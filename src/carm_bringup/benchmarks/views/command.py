# SPDX-License-Identifier: Apache-2.0
"""``carm bench views``: how exactly standard views of bones are reached, with and without the patient's CT."""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, seed, whole, words
from carm_perception.evaluation.suites.suites import FIRST_UNSEEN_SEED

if TYPE_CHECKING:
    from carm_bringup.benchmarks.views.cases import Case

VIEWS = (
    "true AP of T5",
    "true lateral of T5",
    "true AP of T12",
    "true lateral of T12",
    "end plates of L3",
    "true lateral of L3",
    "left oblique of L4",
    "true AP of the trunk",
    "true lateral of the trunk",
    "inlet",
    "outlet",
    "obturator oblique of the right hip",
    "iliac oblique of the left hip",
    "Grashey of the left shoulder",
    "scapular Y of the right shoulder",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--view", action="append", type=words, metavar="VIEW", help='for example "true lateral of T12"; repeat (15)'
    )
    parser.add_argument(
        "--patient", action="append", metavar="NAME", help="who is imaged, as patient:= takes it; repeat (phantoms)"
    )
    parser.add_argument("--patients", type=whole(1, 100_000), default=4, help="phantoms, where none is named (4)")
    parser.add_argument("--cases", type=whole(1, 100_000), default=1, help="starts of each view of each patient (1)")
    parser.add_argument("--seed", type=seed, default=0, help="of starts, noise and how the patient lies (0)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures and every case to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench; return exit code 0.

    Raises:
        CarmError: Bad input.
    """
    from tqdm import tqdm

    from carm_agent.planning.anatomical_views import find_anatomical_view
    from carm_bringup.benchmarks.views.cases import MODES, run_case, scene
    from carm_perception.localizers.registry import FUSED, make_localizer

    results_file.check_file(args.json)
    views = args.view or list(VIEWS)
    for view in views:
        find_anatomical_view(view)
    names = args.patient or [f"phantom:{FIRST_UNSEEN_SEED + number}" for number in range(args.patients)]
    found: list[Case] = []
    localizer = make_localizer(FUSED)
    with tqdm(total=len(names) * len(views) * args.cases, unit="case", file=sys.stderr) as bar:
        for number, name in enumerate(names):
            place = scene(name, args.seed + 1000 * number)
            for row, view in enumerate(views):
                for case in range(args.cases):
                    start = args.seed + 1000 * number + 100_000 * row + case
                    found += filter(None, (run_case(place, view, mode, localizer, start) for mode in MODES))
                    bar.update()
    localizer.close()
    results = {mode: metrics([case for case in found if case.mode == mode]) for mode in MODES}
    for mode, figures in results.items():
        print(table(mode, figures), flush=True)
    if args.json is not None:
        options = " ".join(f'--{key} "{value}"' for key in ("view", "patient") for value in getattr(args, key) or ())
        options += "" if args.patient else f" --patients {args.patients}"
        command = f"carm bench views --cases {args.cases} --seed {args.seed} {options}"
        document = results_file.document(command.strip(), args.seed, results)
        results_file.write(args.json, {**document, "cases": [case.__dict__ for case in found]})
    return 0


def metrics(cases: Sequence[Case]) -> dict[str, dict[str, Any]]:
    """Return the figures of one mode by view, and of all views together; angles are those of views reached, deg."""
    by_view: dict[str, list[Case]] = {}
    for case in cases:
        by_view.setdefault(case.view, []).append(case)
    return {view: _figures(own) for view, own in by_view.items()} | {"all": _figures(cases)}


def _figures(cases: Sequence[Case]) -> dict[str, Any]:
    angles = np.array([case.angle_deg for case in cases if not case.reason])
    exposures = [case.exposures for case in cases if not case.reason]
    return {
        "cases": len(cases),
        "angle_median_deg": float(np.median(angles)) if len(angles) else math.nan,
        "angle_p95_deg": float(np.quantile(angles, 0.95)) if len(angles) else math.nan,
        "exposures_median": float(np.median(exposures)) if exposures else math.nan,
        "refused": sum(bool(case.reason) for case in cases) / len(cases) if cases else math.nan,
        "reasons": dict(Counter(case.reason for case in cases if case.reason)),
    }


def table(mode: str, figures: dict[str, dict[str, Any]]) -> str:
    """Return the figures of one mode, a line for each view."""
    lines = [f"{mode:36s} {'cases':>5s} {'median':>8s} {'95 %':>8s} {'exposures':>9s} {'refused':>8s}"]
    for view, own in figures.items():
        lines.append(
            f"  {view:34s} {own['cases']:5d} {own['angle_median_deg']:7.1f}° {own['angle_p95_deg']:7.1f}°"
            f" {own['exposures_median']:9.1f} {100 * own['refused']:6.0f} %"
        )
    return "\n".join(lines)
