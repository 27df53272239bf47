# SPDX-License-Identifier: Apache-2.0
"""Measure how deep each landmark lies between the front and the back of generated bodies.

Writes ``src/carm_perception/datasets/landmark_depths.yaml``: id to how it is measured (``share`` of the way from front
to back, or ``back``: mm from the back), its mean, and its standard deviation in mm. Whichever varies less is taken.

    python scripts/fit_landmark_depths.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from carm_perception.datasets import body_columns
from carm_sim.patient_loader import load_patient

NAMES = (
    *(f"phantom:{seed}?whole_body" for seed in range(810000, 810010)),
    *(f"phantom-living:{seed}?whole_body" for seed in range(810010, 810022)),
    *(f"phantom-validation:{seed}?whole_body" for seed in range(810022, 810026)),
)


def main() -> None:
    """Measure and write."""
    found: dict[int, list[tuple[float, float]]] = {}
    for name in NAMES:
        patient = load_patient(name)
        columns = body_columns.BodyColumns(patient)
        for key, (x, y, z) in patient.imaged_landmarks_mm.items():
            ends = columns.ends_mm(x, z)
            if ends is not None:
                found.setdefault(key, []).append((y - ends[0], ends[1] - y))
        print(f"{name}: {len(found)} landmarks", flush=True)
    rows = {}
    for key, pairs in sorted(found.items()):
        front, back = np.array(pairs).T
        share, thickness = front / (front + back), (front + back).mean()
        by_share = float(share.std() * thickness)
        if by_share <= back.std():
            rows[key] = {"share": round(float(share.mean()), 3), "std_mm": round(by_share, 1)}
        else:
            rows[key] = {"back": round(float(back.mean()), 1), "std_mm": round(float(back.std()), 1)}
    header = "# SPDX-License-Identifier: Apache-2.0\n# Written by scripts/fit_landmark_depths.py\n"
    text = header + yaml.safe_dump(rows, default_flow_style=None, sort_keys=True)
    Path(body_columns.DEPTHS_FILE).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
