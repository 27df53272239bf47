# SPDX-License-Identifier: Apache-2.0
"""Draw the picture of ``docs/registration.md``: an X-ray image and the CT on top of each other, before and after.

    python scripts/render_registration.py docs/images/registration.png

The X-ray shows the chest CT with a pacemaker and ECG leads that the registered CT does not know; that one has half the
resolution and other noise. Before: where the CT lies by the learned landmarks. After: registered.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_bringup.benchmarks.registration.cases import seen
from carm_bringup.benchmarks.registration.conditions import CONDITIONS, imaged, preoperative
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import display_from_raw
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_perception.localizers.registry import FUSED, make_localizer
from carm_perception.registration.initial_pose import Sighted, from_landmarks, lying
from carm_perception.registration.model import CtModel
from carm_perception.registration.registrar import Registrar
from carm_sim.drr.shear_warp.renderer import Renderer
from carm_sim.patient.volume import Volume
from carm_sim.xray import XraySystem

SEED, CARINA, PRIMARY_DEG = 1, 11, 10.0
PERCENTILES = (1.0, 99.5)
"""Window of the CT's image."""


def fused(volume: Volume, frame: XrayFrame, pose: RigidTransform, text: str) -> NDArray[np.uint8]:
    """Return an image (rows, columns, 3): the X-ray in red, what the CT shows there in cyan."""
    assert frame.view is not None
    image = Renderer(volume, threads=1).line_integrals(frame.view.transformed(pose.inverse()))
    low, high = np.percentile(image, PERCENTILES)
    ct = np.clip(255 * (display_from_raw(image) - low) / (high - low), 0, 255).astype(np.uint8)
    canvas = np.ascontiguousarray(np.stack([frame.image, ct, ct], axis=-1))
    cv2.putText(canvas, text, (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (255, 255, 255), 1, cv2.LINE_AA)
    return canvas


def main() -> None:
    """Register and draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, metavar="PNG")
    file = parser.parse_args().file
    condition, arm = CONDITIONS["nominal"], CArm.from_config()
    body = imaged("chest_ct+pacemaker+ecg", condition, np.random.default_rng(SEED))
    ct = preoperative("chest_ct", condition, "", SEED)
    place = body.landmarks_table_mm[CARINA] / 1000
    joints = arm.inverse(place, np.radians(PRIMARY_DEG), 0.0)[0]
    frame = XraySystem(body, arm, condition.config, seed=SEED).expose(joints, condition.request).frame()
    assert frame.view is not None
    localizer, model = make_localizer(FUSED), CtModel(ct)
    estimates = seen(localizer, frame)
    nominal = lying(model.center_mm, model.body_box_mm)
    before = from_landmarks([Sighted(frame.view, estimates)], model.landmarks_mm, nominal)
    assert before is not None
    after = Registrar(model).register(frame, estimates)
    poses = {"by the learned landmarks": before, "registered": after.transform_lps_to_table}
    panels = [fused(ct.volume, frame, pose, text) for text, pose in poses.items()]
    truth = body.transform_lps_to_table
    for text, pose in poses.items():
        off = frame.view.displacement_mm(truth.apply(ct.landmarks_mm[CARINA]))
        off -= frame.view.displacement_mm(pose.apply(ct.landmarks_mm[CARINA]))
        print(f"{text}: carina {np.linalg.norm(off):.1f} mm off in view")
    cv2.imwrite(str(file), np.hstack(panels)[..., ::-1])


if __name__ == "__main__":
    main()
