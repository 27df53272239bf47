# SPDX-License-Identifier: Apache-2.0
"""Compare what ``carm patient landmarks`` finds by itself with landmarks that are known.

python scripts/check_patient_landmarks.py chest_ct phantom:900000 phantom:900001
"""

from __future__ import annotations

import sys
import time

import numpy as np

from carm_core.landmarks import LANDMARKS, landmark
from carm_perception.datasets.ct_landmarks import find_landmarks
from carm_perception.localizers.registry import FUSED, make_localizer
from carm_sim.patient_loader import load_patient


def main(names: list[str]) -> None:
    """Print the errors in space, mm, of each patient and of all."""
    localizer = make_localizer(FUSED)
    errors: list[float] = []
    held: list[bool] = []
    known = 0
    for name in names:
        patient, began_s = load_patient(name), time.monotonic()
        truth = patient.imaged_landmarks_mm
        found = {key: one for key, one in find_landmarks(patient, localizer).found.items() if key in truth}
        off = {key: float(np.linalg.norm(one.position_mm - truth[key])) for key, one in found.items()}
        first = [off[mark.id] for mark in LANDMARKS if mark.id in off]
        print(
            f"{name}: {len(off)} of {len(truth)} landmarks in {time.monotonic() - began_s:.0f} s, median"
            f" {np.median(list(off.values())) if off else np.nan:.1f} mm; of the 14 {len(first)}, median"
            f" {np.median(first) if first else np.nan:.1f} mm"
        )
        print("  " + ", ".join(f"{landmark(key).name} {value:.0f}" for key, value in off.items()), flush=True)
        errors += off.values()
        held += [one.radius_90_mm >= off[key] for key, one in found.items()]
        known += len(truth)
    localizer.close()
    print(
        f"all: {len(errors)} of {known}, median {np.median(errors):.1f} mm, 90 % {np.quantile(errors, 0.9):.1f} mm,"
        f" the 90 % radii hold {100 * np.mean(held):.0f} %"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
