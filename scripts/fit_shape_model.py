#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write ``src/carm_perception/uncertainty/shape_model.json``: how the landmarks of trunk and head lie to each other.

From generated bodies of the style ``living`` and the seeds 810100 on, which no test and no figure uses. Those of the
style ``standard``, whose trunks are longer, fit the validation anatomies less well (docs/goals.md).

    python scripts/fit_shape_model.py
"""

import json
import sys
from pathlib import Path

import numpy as np

from carm_core.landmarks import IDS
from carm_perception.registration.initial_pose import LIMBS, SUPINE
from carm_sim.phantom import sample_extra_landmarks, sample_landmarks

FIRST_SEED, BODIES, MODES = 810_100, 240, 24
STYLE = "living"
_LEAST_STD_MM = 2.0
OUTPUT = Path(__file__).resolve().parents[1] / "src/carm_perception/uncertainty/shape_model.json"


def main() -> int:
    """Sample the bodies and write the file."""
    ids = [one for one in IDS.tolist() if one not in LIMBS]
    bodies = []
    for seed in range(FIRST_SEED, FIRST_SEED + BODIES):
        marks = sample_landmarks(seed, STYLE) | sample_extra_landmarks(seed, STYLE)
        places = np.array([marks[one] for one in ids]) @ SUPINE.T
        bodies.append(places - places.mean(axis=0))
    flat = np.array(bodies).reshape(BODIES, -1)
    mean = flat.mean(axis=0)
    _, strengths, modes = np.linalg.svd(flat - mean, full_matrices=False)
    modes = modes[:MODES] * strengths[:MODES, None] / np.sqrt(BODIES - 1)
    rest = np.maximum((flat - mean).var(axis=0, ddof=1) - (modes**2).sum(axis=0), 0.0) + _LEAST_STD_MM**2
    document = {
        "source": f"scripts/fit_shape_model.py, {STYLE} phantoms {FIRST_SEED} to {FIRST_SEED + BODIES - 1}",
        "ids": ids,
        "mean_mm": np.round(mean.reshape(-1, 3), 1).tolist(),
        "modes_mm": np.round(modes.reshape(MODES, -1, 3), 2).tolist(),
        "rest_std_mm": np.round(np.sqrt(rest).reshape(-1, 3), 2).tolist(),
    }
    OUTPUT.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
