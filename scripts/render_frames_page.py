# SPDX-License-Identifier: Apache-2.0
"""Render the pictures of docs/frames.md: the real chest CT from four directions, with the axes of frame `table`.

.venv/bin/python scripts/render_frames_page.py            # writes docs/images/frames.png
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt

from carm_core.landmarks import landmark
from carm_core.robot.kinematics import CArm
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XraySystem

VIEWS = (
    ("AP", 0, 0),
    ("LAO 30", 30, 0),
    ("RAO 30", -30, 0),
    ("CRAN 25", 0, 25),
    ("CAUD 25", 0, -25),
    ("left lateral", 90, 0),
)
AXES = {"head": (1, 0, 0), "feet": (-1, 0, 0), "R": (0, 1, 0), "L": (0, -1, 0), "ant.": (0, 0, 1), "post.": (0, 0, -1)}


def main() -> None:
    """Render every view and save one sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patient", default="chest_ct")
    parser.add_argument("--output", type=Path, default=Path(__file__).resolve().parents[1] / "docs/images/frames.png")
    arguments = parser.parse_args()
    carm, patient = CArm.from_config(), load_patient(arguments.patient)
    xray = XraySystem(patient, carm, seed=1)
    isocenter_m = patient.landmarks_table_mm[11] / 1000
    figure, panels = plt.subplots(2, 3, figsize=(12, 8.4), facecolor="white")
    for panel, (name, primary, secondary) in zip(panels.ravel(), VIEWS, strict=True):
        q = carm.inverse(isocenter_m, math.radians(primary), math.radians(secondary))[0]
        exposure = xray.expose(q)
        panel.imshow(exposure.display, cmap="gray", vmin=0, vmax=255)
        size = exposure.display.shape[0]
        right, up = exposure.view.display_axes
        for label, axis in AXES.items():
            x, y = float(np.dot(axis, right)), float(np.dot(axis, up))
            if math.hypot(x, y) > 0.75:
                norm = max(abs(x), abs(y))
                panel.text(
                    size / 2 * (1 + 0.92 * x / norm),
                    size / 2 * (1 - 0.92 * y / norm),
                    label,
                    color="#ffd24d",
                    ha="center",
                    va="center",
                    fontsize=11,
                    weight="bold",
                )
        for mark, point in patient.landmarks_table_mm.items():
            column, row = exposure.view.pixel_display(point)
            if 0 <= column < size and 0 <= row < size:
                panel.plot(column, row, "+", color="#4dd2ff", ms=9)
                panel.text(column + 8, row - 8, landmark(mark).name, color="#4dd2ff", fontsize=8, clip_on=True)
        panel.set_title(f"{name}   (primary {primary:+d}°, secondary {secondary:+d}°)", fontsize=11)
        panel.set_axis_off()
    figure.tight_layout()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=80)


if __name__ == "__main__":
    main()
