#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write ``src/carm_perception/registration/average_body.json``: how landmarks and vertebrae lie in the trunk's axes.

From generated bodies of the seeds 810000 on, which no test and no figure uses:

    python scripts/make_average_body.py
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from carm_core.anatomy.axes import VERTEBRAE
from carm_core.anatomy.from_landmarks import axes_of
from carm_core.landmarks import LANDMARKS
from carm_core.transforms import Array
from carm_sim.patient.bone_axes import bone_axes
from carm_sim.phantom import generate_phantom, sample_extra_landmarks
from carm_sim.phantom.labels import phantom_labels

FIRST_SEED, BODIES, MODES = 810_000, 30, 10
COARSE_MM, LABELS_MM = 5.0, 2.0
OUTPUT = Path(__file__).resolve().parents[1] / "src/carm_perception/registration/average_body.json"
IDS = [mark.id for mark in LANDMARKS]
THORACIC = [name for name in VERTEBRAE if name[0] == "T"]


def main() -> int:
    """Measure the bodies and write the file."""
    shapes, lengths = [], []
    turns: dict[str, list[Array]] = {name: [] for name in THORACIC}
    places: dict[str, list[Array]] = {name: [] for name in THORACIC}
    for seed in tqdm(range(FIRST_SEED, FIRST_SEED + BODIES), unit="body"):
        learned = generate_phantom(seed, COARSE_MM).anatomical_landmarks_mm  # organs' depths need the body built
        every = learned | sample_extra_landmarks(seed)
        bones, _ = bone_axes(phantom_labels(seed, spacing_mm=LABELS_MM), every)
        trunk = axes_of("trunk", every, bones)
        length = float(np.linalg.norm(every[10] - every[14]))
        lengths.append(length)
        shapes.append([trunk.rotation.T @ (learned[key] - trunk.origin_mm) / length for key in IDS])
        for name in THORACIC:
            turns[name].append(Rotation.from_matrix(trunk.rotation.T @ bones[name].rotation).as_rotvec(degrees=True))
            places[name].append(trunk.rotation.T @ (bones[name].origin_mm - trunk.origin_mm) / length)
    flat = np.array(shapes).reshape(BODIES, -1)
    mean = flat.mean(axis=0)
    _, strengths, modes = np.linalg.svd(flat - mean, full_matrices=False)
    modes = modes[:MODES] * strengths[:MODES, None] / np.sqrt(BODIES - 1)
    rest = np.maximum((flat - mean).var(axis=0, ddof=1) - (modes**2).sum(axis=0), 0.0)
    document = {
        "source": f"scripts/make_average_body.py, phantoms {FIRST_SEED} to {FIRST_SEED + BODIES - 1}",
        "axes": "left, back, head of the trunk; origin midway between T1 and T12; unit: from T12 to T1",
        "length_mm": [round(float(np.mean(lengths)), 1), round(float(np.std(lengths)), 1)],
        "ids": IDS,
        "mean": np.round(mean.reshape(-1, 3), 4).tolist(),
        "modes": np.round(modes.reshape(MODES, -1, 3), 4).tolist(),
        "rest_std": np.round(np.sqrt(rest).reshape(-1, 3), 4).tolist(),
        "vertebrae": {
            name: {
                "place": np.round(np.mean(places[name], axis=0), 4).tolist(),
                "turn_deg": np.round(np.mean(turns[name], axis=0), 2).tolist(),
                "turn_std_deg": np.round(np.std(turns[name], axis=0), 2).tolist(),
            }
            for name in THORACIC
        },
    }
    OUTPUT.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
