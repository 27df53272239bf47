# SPDX-License-Identifier: Apache-2.0
"""Render the picture of docs/patients.md: hardware and findings on the chest CT and on phantoms.

.venv/bin/python scripts/render_hardware.py            # writes docs/images/hardware.png
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np

mpl.use("Agg")

import matplotlib.pyplot as plt

from carm_core.errors import CarmError
from carm_core.robot.kinematics import CArm
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XrayConfig, XraySystem


@dataclass(frozen=True)
class Panel:
    """One radiograph.

    Attributes:
        patient: Name of the patient.
        landmark: Id of the landmark at the isocenter.
        offset_mm: Offset of the isocenter from it in LPS, mm.
        primary: Positioner primary angle, degrees.
    """

    patient: str
    landmark: int
    offset_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    primary: float = 0.0


PANELS = (
    Panel("chest_ct+pacemaker+sternal_wires", 11, (25, 0, -20)),
    Panel("chest_ct+tubes+ecg", 11, (0, 0, -10)),
    Panel("chest_ct+screws_rods", 11, (10, 50, -45), 80),
    Panel("chest_ct+catheter+guide_wire", 11, (0, 0, -30)),
    Panel("phantom:11+surgeon_hand+sternal_wires", 11, (0, 0, -20)),
    Panel("phantom:11+shoulder_implant", 2, (15, 0, -30)),
    Panel("phantom:11?whole_body+hip_implant", 121, (-10, 0, -45)),
    Panel("phantom:11+jewellery", 10, (0, 0, -15)),
    Panel("chest_ct+table", 11, (0, 125, -20), 80),
    Panel("chest_ct+pleural_effusion", 11, (0, 0, -60)),
    Panel("phantom:7+fracture:2", 3, (36, -44, 110)),
    Panel("chest_ct+fracture:1", 2, (60, 0, -15)),
)


def main() -> None:
    """Render every panel and save one sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path(__file__).resolve().parents[1] / "docs/images/hardware.png"
    parser.add_argument("--output", type=Path, default=default)
    arguments = parser.parse_args()
    carm = CArm.from_config()
    figure, axes = plt.subplots(2, 6, figsize=(21, 7.6), facecolor="white")
    for axis, panel in zip(axes.ravel(), PANELS, strict=True):
        patient = load_patient(panel.patient)
        marks = patient.extra_landmarks_mm | patient.landmarks_mm
        isocenter_mm = patient.transform_lps_to_table.apply(marks[panel.landmark] + np.array(panel.offset_mm))
        xray = XraySystem(patient, carm, XrayConfig(binning=2), seed=1)
        axis.imshow(xray.expose(_positions(carm, isocenter_mm, panel.primary)).display, cmap="gray", vmin=0, vmax=255)
        axis.set_title(panel.patient, fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(arguments.output, dpi=100)


def _positions(carm: CArm, isocenter_mm: np.ndarray, primary_deg: float) -> np.ndarray:
    """Joint positions for a view; where the patient reaches beyond the C-arm's travel, as near as it gets."""
    goal = isocenter_mm / 1000
    for step in range(40):
        try:
            return carm.inverse(goal - np.sign(goal) * (0.01 * step, 0, 0), math.radians(primary_deg), 0.0)[0]
        except CarmError:
            continue
    raise SystemExit(f"no position of the C-arm shows {isocenter_mm.tolist()} mm")


if __name__ == "__main__":
    main()
