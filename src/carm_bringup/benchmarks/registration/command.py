# SPDX-License-Identifier: Apache-2.0
"""``carm bench register``: registration of a CT to X-ray images, by conditions that are named and seeded."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from carm_bringup.benchmarks.registration.conditions import CONDITIONS
from carm_core.cli import results_file
from carm_core.cli.arguments import output_file, seed, whole
from carm_core.errors import ConfigurationError
from carm_perception.evaluation.suites.suites import FIRST_UNSEEN_SEED

if TYPE_CHECKING:
    from carm_bringup.benchmarks.registration.cases import Capture, Case

WRONG_MM = 5.0
"""An accepted registration that is farther off in view is a wrong one, mm."""
_NEAR_MM = 2.0
_NOMINAL, _WRONG_PATIENT = "nominal", "wrong-patient"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    described = "; ".join(f"{name}: {one.text}" for name, one in CONDITIONS.items())
    parser.add_argument(
        "--condition", action="append", choices=list(CONDITIONS), metavar="NAME", help=f"{described}; repeat (all)"
    )
    parser.add_argument(
        "--patient", action="append", metavar="NAME", help="who is imaged, as patient:= takes it; repeat (phantoms)"
    )
    parser.add_argument("--patients", type=whole(1, 100_000), default=10, help="phantoms, where none is named (10)")
    parser.add_argument(
        "--capture", action="store_true", help="success by how far off a search begins, instead of pairs of X-rays"
    )
    parser.add_argument("--cases", type=whole(1, 100_000), default=4, help="pairs of X-rays of each patient (4)")
    parser.add_argument("--seed", type=seed, default=0, help="of places, angles, noise and how the patient lies (0)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures and every case to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench; return exit code 0.

    Raises:
        CarmError: Bad input.
    """
    from tqdm import tqdm

    from carm_bringup.benchmarks.registration.cases import Job, run_capture, run_job

    results_file.check_file(args.json)
    names = args.patient or [f"phantom:{FIRST_UNSEEN_SEED + number}" for number in range(args.patients)]
    chosen = args.condition or ([_NOMINAL] if args.capture else _possible(names))
    if not _has_rtk() and any(CONDITIONS[name].rtk for name in chosen):
        raise ConfigurationError("another-renderer needs ITK-RTK: pip install '.[peers]'")
    results, cases = {}, {}
    for condition in chosen:
        found: list[Any] = []
        for number, name in enumerate(tqdm(names, desc=condition, unit="patient", file=sys.stderr)):
            other = names[(number + 1) % len(names)] if len(names) > 1 else f"phantom:{FIRST_UNSEEN_SEED}"
            job = Job(condition, name, other, args.cases, args.seed + 1000 * number)
            found += run_capture(job) if args.capture else run_job(job)
        results[condition] = capture_metrics(found) if args.capture else metrics(found)
        cases[condition] = [case.to_dict() for case in found]
        print((capture_lines if args.capture else line)(condition, results[condition]), flush=True)
    if args.json is not None:
        words = " ".join(f"--{key} {value}" for key in ("condition", "patient") for value in getattr(args, key) or ())
        words += ("" if args.patient else f" --patients {args.patients}") + (" --capture" if args.capture else "")
        command = f"carm bench register --cases {args.cases} --seed {args.seed} {words}"
        document = results_file.document(command.strip(), args.seed, results)
        results_file.write(args.json, {**document, "cases": cases})
    return 0


def _possible(names: Sequence[str]) -> list[str]:
    """Return the conditions that can be tried on some patients on this machine."""
    phantoms = all(name.startswith("phantom:") for name in names)
    return [
        name
        for name, condition in CONDITIONS.items()
        if (phantoms or not condition.posture) and (_has_rtk() or not condition.rtk)
    ]


def _has_rtk() -> bool:
    return find_spec("itk") is not None


def capture_metrics(found: Sequence[Capture]) -> dict[str, Any]:
    """Return the shares of searches that end within 2 mm and are accepted, by how far off they began, mm."""
    rows = {}
    for start_mm in sorted({one.start_mm for one in found}):
        errors = [one for one in found if one.start_mm == start_mm and math.isfinite(one.in_view_mm)]
        near = sum(one.in_view_mm < _NEAR_MM for one in errors)
        accepted = sum(one.accepted for one in errors)
        wrong = sum(one.accepted and one.in_view_mm > WRONG_MM for one in errors)
        count = len(errors) or 1
        rows[f"{start_mm:g}"] = {
            "cases": len(errors),
            "success_2mm": near / count,
            "accepted": accepted / count,
            "wrong_accepted": wrong / count,
        }
    return rows


def capture_lines(condition: str, found: dict[str, Any]) -> str:
    """Return the capture range of one condition, one line for each distance."""
    rows = [
        f"  from {start} mm: {row['cases']} searches, within 2 mm {100 * row['success_2mm']:.0f} %, accepted"
        f" {100 * row['accepted']:.0f} %, accepted and beyond {WRONG_MM:g} mm {100 * row['wrong_accepted']:.1f} %"
        for start, row in found.items()
    ]
    return "\n".join([f"{condition}, by how far off the search begins:", *rows])


def metrics(cases: Sequence[Case]) -> dict[str, Any]:
    """Return the figures of one condition; errors are those of accepted registrations, mm.

    Success is counted over the cases with a judged landmark in the first image.
    """
    judged = sum(math.isfinite(case.in_view_mm) for case in cases) or 1
    good = [case for case in cases if case.accepted and math.isfinite(case.in_view_mm)]
    both = [case for case in cases if case.accepted and case.accepted_two and math.isfinite(case.error_two_mm)]
    view = np.array([case.in_view_mm for case in good])
    space, two = np.array([case.error_mm for case in good]), np.array([case.error_two_mm for case in both])
    count = len(cases)

    def of(values: np.ndarray, share: float) -> float:
        values = values[np.isfinite(values)]
        return float(np.quantile(values, share)) if len(values) else math.nan

    wrong = sum(case.in_view_mm > WRONG_MM for case in good) + sum(case.in_view_two_mm > WRONG_MM for case in both)
    return {
        "cases": count,
        "judged": judged,
        "accepted": sum(case.accepted for case in cases) / count,
        "accepted_two": sum(case.accepted_two for case in cases) / count,
        "wrong_accepted": wrong / (2 * count),
        "in_view_median_mm": of(view, 0.5),
        "in_view_p95_mm": of(view, 0.95),
        "success_2mm": float((view < _NEAR_MM).sum()) / judged,
        "success_5mm": float((view < 5.0).sum()) / judged,
        "mtre_median_mm": of(space, 0.5),
        "mtre_p95_mm": of(space, 0.95),
        "mtre_two_views_median_mm": of(two, 0.5),
        "mtre_two_views_p95_mm": of(two, 0.95),
        "start_median_mm": of(np.array([case.start_mm for case in cases]), 0.5),
        "time_median_s": of(np.array([case.first_s for case in cases]), 0.5),
        "time_p95_s": of(np.array([case.first_s for case in cases]), 0.95),
        "next_time_median_s": of(np.array([case.second_s for case in cases]), 0.5),
    }


def line(condition: str, found: dict[str, Any]) -> str:
    """Return the figures of one condition in two lines."""
    if condition == _WRONG_PATIENT:
        return f"{condition}: {100 * (1 - found['accepted']):.1f} % refused, of {found['cases']} cases"
    return (
        f"{condition}: {found['cases']} cases, {100 * found['accepted']:.1f} % accepted,"
        f" {100 * found['wrong_accepted']:.1f} % accepted and beyond {WRONG_MM:g} mm\n"
        f"  in view {found['in_view_median_mm']:.2f} mm (median), {found['in_view_p95_mm']:.2f} mm (95 %),"
        f" within 2 mm {100 * found['success_2mm']:.1f} %, within 5 mm {100 * found['success_5mm']:.1f} %\n"
        f"  in space {found['mtre_median_mm']:.1f} mm from one view,"
        f" {found['mtre_two_views_median_mm']:.1f} mm from two;"
        f" {found['time_median_s']:.1f} s (95 %: {found['time_p95_s']:.1f} s), next {found['next_time_median_s']:.1f} s"
    )
