# SPDX-License-Identifier: Apache-2.0
"""Fit the probability that a registration is right (``carm_perception.registration.evidence``).

    carm bench register --patient ... --condition hardware --condition wrong-patient ... --json cases.json
    python scripts/fit_registration_evidence.py cases.json

Logistic regression on bodies that no figure is reported of. Right is an error in view below 4 mm, wrong one above 6 mm,
and anything found in another patient's CT; right and wrong ones weigh the same in all. Prints the coefficients, and how
many of either the limits of the registrar would take.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from carm_perception.registration.evidence import Evidence
from carm_perception.registration.registrar import LEAST_PROBABILITY

RIGHT_MM, WRONG_MM = 4.0, 6.0
WRONG_PATIENT = "wrong-patient"
PENALTY = 0.002
NAMES = ("best", "aligned", "offset")


def samples(files: list[Path]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the figures (n, 2) of all judged registrations, and whether each is right (n,)."""
    rows, right = [], []
    for file in files:
        for condition, cases in json.loads(file.read_text(encoding="utf-8"))["cases"].items():
            for case in cases:
                for suffix in ("", "_two"):
                    error_mm = math.inf if condition == WRONG_PATIENT else case[f"in_view{suffix}_mm"]
                    if error_mm < RIGHT_MM or error_mm > WRONG_MM:
                        rows.append(Evidence(**case[f"evidence{suffix}"]).figures)
                        right.append(error_mm < RIGHT_MM)
    return np.array(rows), np.array(right)


def fit(figures: NDArray[np.float64], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the coefficients (3,) of the figures (n, 2) and the offset."""
    weights = np.where(right, 0.5 / right.mean(), 0.5 / (1 - right.mean()))

    def loss(x: NDArray[np.float64]) -> float:
        odds = figures @ x[:-1] + x[-1]
        misses = np.logaddexp(0, np.where(right, -odds, odds))
        return float((weights * misses).mean() + PENALTY * (x[:-1] ** 2).sum())

    return np.asarray(minimize(loss, np.array([1.0, 1.0, 0.0])).x)


def main() -> None:
    """Fit and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("files", type=Path, nargs="+", metavar="JSON", help="of carm bench register --json")
    figures, right = samples(parser.parse_args().files)
    x = fit(figures, right)
    probability = 1 / (1 + np.exp(-(figures @ x[:-1] + x[-1])))
    print("  ".join(f"{name} {value:.2f}" for name, value in zip(NAMES, x, strict=True)))
    for start, least in LEAST_PROBABILITY.items():
        taken = probability >= least
        of = ", ".join(
            f"{taken[one].sum()} of {one.sum()} {word}" for word, one in (("right", right), ("wrong", ~right))
        )
        print(f"{start}: from {least}: {of}")


if __name__ == "__main__":
    main()
