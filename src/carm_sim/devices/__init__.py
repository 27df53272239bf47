# SPDX-License-Identifier: Apache-2.0
"""Hardware and findings in the beam: implants, tubes, wires, the table, each by name and seed."""

from carm_sim.devices.catalog import FINDINGS, HARDWARE, UnknownHardwareError, equip
from carm_sim.devices.site import MissingLandmarkError

__all__ = ["FINDINGS", "HARDWARE", "MissingLandmarkError", "UnknownHardwareError", "equip"]
