# SPDX-License-Identifier: Apache-2.0
"""What else the beam meets: implants, tubes and wires, the table, and findings, each by name and seed."""

from carm_sim.devices.catalog import FINDINGS, HARDWARE, UnknownHardwareError, equip
from carm_sim.devices.site import MissingLandmarkError

__all__ = ["FINDINGS", "HARDWARE", "MissingLandmarkError", "UnknownHardwareError", "equip"]
