# SPDX-License-Identifier: Apache-2.0
"""Parameters of the drive node."""

from __future__ import annotations

from dataclasses import dataclass

from carm_control import ControllerParameters
from carm_control.canopen.drive import Timing
from carm_core.errors import ConfigurationError
from carm_core.parameters import parameter


@dataclass(frozen=True)
class DriveParameters(ControllerParameters):
    """Parameters of the drive node; ``config/drive_node.yaml`` has the same keys."""

    control_rate_hz: float = parameter(
        100.0,
        "rate of the control loop and of SYNC; its period must be whole milliseconds",
        unit="Hz",
        lower=20.0,
        upper=500.0,
        read_only=True,
    )
    bus: str = parameter(
        "virtual",
        "CAN bus: INTERFACE:CHANNEL of python-can, such as socketcan:can0; virtual: simulated drives in this process",
        read_only=True,
    )
    bitrate: int = parameter(
        1000000,
        "bit rate, if a program can set it for this interface (for socketcan use ip link)",
        unit="bit/s",
        lower=10000,
        upper=1000000,
        read_only=True,
    )
    drives_config: str = parameter("", "file that describes the drives; empty: the one in the package", read_only=True)
    simulate: bool = parameter(False, "put simulated drives on the bus, to test with vcan", read_only=True)
    heartbeat_s: float = parameter(
        0.1, "period of heartbeats and node guarding", unit="s", lower=0.01, upper=10.0, read_only=True
    )
    lifetime_factor: float = parameter(
        3.0,
        "a drive, or the master, counts as lost after this many silent periods",
        lower=1.5,
        upper=20.0,
        read_only=True,
    )
    answer_s: float = parameter(
        0.2,
        "a drive counts as lost after this time without an answer to SYNC",
        unit="s",
        lower=0.01,
        upper=5.0,
        read_only=True,
    )

    def timing(self) -> Timing:
        """Return the times of the bus.

        Raises:
            ConfigurationError: The period of the control loop is not a whole number of milliseconds.
        """
        period_ms = 1000.0 / self.control_rate_hz
        if abs(period_ms - round(period_ms)) > 1e-6:
            raise ConfigurationError(
                f"parameter control_rate_hz = {self.control_rate_hz:g} Hz: its period is {period_ms:.3f} ms, and "
                "drives take whole milliseconds (try 50, 100, 125, 200 or 250)"
            )
        return Timing(round(period_ms) / 1000.0, self.heartbeat_s, self.lifetime_factor, self.answer_s)
