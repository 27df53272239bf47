#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write ``src/carm_perception/registration/average_body.json``: how landmarks and bones lie in the trunk's axes.

From generated bodies of the seeds 810000 on, which no test and no figure uses, of both styles by turns:

    python scripts/make_average_body.py
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from carm_core.anatomy.axes import HIPS, PELVIS, VERTEBRAE
from carm_core.anatomy.from_landmarks import axes_of
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.transforms import Array
from carm_perception.registration.initial_pose import LIMBS
from carm_sim.patient.bone_axes import bone_axes
from carm_sim.phantom import generate_phantom
from carm_sim.phantom.labels import phantom_labels

FIRST_SEED, BODIES, MODES, WORKERS = 810_000, 80, 14, 2
STYLES = "standard", "living"
COARSE_MM, LABELS_MM = 5.0, 2.0
OUTPUT = Path(__file__).resolve().parents[1] / "src/carm_perception/registration/average_body.json"
IDS = [mark.id for mark in ALL_LANDMARKS if mark.id not in LIMBS]
BONES = (*VERTEBRAE, PELVIS, *HIPS)


def measured(seed: int) -> tuple[float, Array]:
    """Return the distance from T12 to T1, mm, and in the trunk's axes, in that unit, (landmarks + 2 bones, 3).

    First come the landmarks, then the bones' places, then how they are turned, rad.
    """
    style = STYLES[seed % len(STYLES)]
    body = generate_phantom(seed, COARSE_MM, style)  # organs' depths need the body built
    every = body.anatomical_landmarks_mm | body.extra_landmarks_mm
    bones, _ = bone_axes(phantom_labels(seed, style, LABELS_MM), every)
    trunk = axes_of("trunk", every, bones)
    length = float(np.linalg.norm(every[10] - every[14]))
    found = [axes_of(name, every, bones) for name in BONES]
    places = np.array([*(every[key] for key in IDS), *(axes.origin_mm for axes in found)])
    turns = [Rotation.from_matrix(trunk.rotation.T @ axes.rotation).as_rotvec() for axes in found]
    return length, np.concatenate([(places - trunk.origin_mm) @ trunk.rotation / length, turns])


def main() -> int:
    """Measure the bodies and write the file."""
    with ProcessPoolExecutor(WORKERS) as pool:
        seeds = range(FIRST_SEED, FIRST_SEED + BODIES)
        lengths, shapes = zip(*tqdm(pool.map(measured, seeds), total=BODIES, unit="body"), strict=True)
    flat = np.array(shapes).reshape(BODIES, -1)
    mean = flat.mean(axis=0)
    _, strengths, modes = np.linalg.svd(flat - mean, full_matrices=False)
    modes = modes[:MODES] * strengths[:MODES, None] / np.sqrt(BODIES - 1)
    rest = np.maximum((flat - mean).var(axis=0, ddof=1) - (modes**2).sum(axis=0), 0.0)
    document = {
        "source": f"scripts/make_average_body.py, phantoms {FIRST_SEED} to {FIRST_SEED + BODIES - 1}",
        "axes": "left, back, head of the trunk; origin midway between T1 and T12; unit: from T12 to T1; turns in rad",
        "length_mm": [round(float(np.mean(lengths)), 1), round(float(np.std(lengths)), 1)],
        "ids": IDS,
        "bones": BONES,
        "mean": np.round(mean.reshape(-1, 3), 4).tolist(),
        "modes": np.round(modes.reshape(MODES, -1, 3), 4).tolist(),
        "rest_std": np.round(np.sqrt(rest).reshape(-1, 3), 4).tolist(),
    }
    OUTPUT.write_text(json.dumps(document) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
