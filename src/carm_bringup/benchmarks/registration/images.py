# SPDX-License-Identifier: Apache-2.0
"""The X-ray images of ``carm bench register``: the simulator's, or those of another renderer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from carm_bringup.benchmarks.drr.renderers import Rtk
from carm_bringup.benchmarks.registration.conditions import Condition
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView, display_from_raw
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_perception.registration.model import reduced
from carm_sim.patient.patient import Patient
from carm_sim.xray import XraySystem

_SIDE_PX = 512
_WATER_PER_MM = 0.0193
"""Attenuation of water at 70 keV, 1/mm (NIST XCOM)."""
_PHOTONS = 2e5
"""Of each pixel in air."""
_WINDOW = 0.01, 0.995
"""Quantiles that become black and white."""


class Imager:
    """Takes X-ray images of one body under one condition."""

    def __init__(self, body: Patient, arm: CArm, condition: Condition, seed: int) -> None:
        """Prepare the renderer.

        Args:
            body: Who is imaged.
            arm: The C-arm.
            condition: How.
            seed: Of the noise.

        Raises:
            ImportError: ITK-RTK is asked for and not installed.
        """
        self._system = XraySystem(body, arm, condition.config, seed=seed)
        self._condition = condition
        self._table_to_lps = body.transform_lps_to_table.inverse()
        self._rtk = Rtk(body.volume, 2) if condition.rtk else None
        self._rng = np.random.default_rng(seed)

    def expose(self, joints: Array) -> XrayFrame:
        """Take an image at joint positions (6,), m and rad."""
        frame = self._system.expose(joints, self._condition.request).frame()
        if self._rtk is not None:
            assert frame.view is not None
            frame = self._rendered(self._rtk, reduced(frame.view, _SIDE_PX), frame)
        return replace(frame, image=255 - frame.image) if self._condition.inverted else frame

    def _rendered(self, rtk: Rtk, view: XrayView, frame: XrayFrame) -> XrayFrame:
        water_mm = rtk.render(view.transformed(self._table_to_lps))
        counts = self._rng.poisson(_PHOTONS * np.exp(-_WATER_PER_MM * water_mm.astype(float)))
        density = np.log(_PHOTONS / np.maximum(counts, 1))
        black, white = np.quantile(density, _WINDOW)
        gray = np.clip(255 * (density - black) / max(white - black, 1e-6), 1, 255)
        image = display_from_raw(np.asarray(np.rint(gray), np.uint8))
        return replace(frame, image=image, view=view, mm_per_px_at_isocenter=view.mm_per_px_at_isocenter)
