# SPDX-License-Identifier: Apache-2.0
"""X-ray images of the registered CT at views that were not exposed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_sim.patient.patient import Patient
from carm_sim.xray import XrayConfig, XraySystem


class CtPreview:
    """Images a CT where it was found, with the physics of the simulator. One thread at a time owns an instance."""

    def __init__(self, patient: Patient, carm: CArm) -> None:
        """Prepare; the first image of each pose makes copies of the voxels.

        Args:
            patient: The CT.
            carm: Kinematics and detector.
        """
        self._patient, self._carm = patient, carm
        self._made: tuple[RigidTransform, XraySystem] | None = None

    def image(self, transform_lps_to_table: RigidTransform, positions: ArrayLike) -> NDArray[np.uint8]:
        """Return the display image uint8 (rows, columns), bones bright.

        Args:
            transform_lps_to_table: Where the CT lies, mm.
            positions: Joint positions (J,), m or rad.
        """
        if self._made is None or self._made[0] is not transform_lps_to_table:
            lying = replace(self._patient, transform_lps_to_table=transform_lps_to_table)
            self._made = transform_lps_to_table, XraySystem(lying, self._carm, XrayConfig(threads=1))
        return self._made[1].expose(positions).display
