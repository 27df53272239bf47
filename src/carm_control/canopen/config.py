# SPDX-License-Identifier: Apache-2.0
"""What ``config/drives.yaml`` says of each drive, and its scaling between encoder counts and joint units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_core.data_files import read_yaml
from carm_core.errors import ConfigurationError
from carm_core.paths import config_file
from carm_core.robot.kinematics import Joint

MAX_NODE_ID = 127
MAX_COUNTS = 2**31 - 1


@dataclass(frozen=True)
class Homing:
    """Reference run of a joint with an incremental encoder, in the joint's unit (m or rad).

    Attributes:
        method: Homing method, 0x6098.
        position: Joint position at the place that the method finds.
        fast: Speed towards the switch, per s.
        slow: Speed away from it, per s.
        acceleration: Per s².
        park: Joint position to go to afterwards, in profile position mode; None: stay.
        timeout_s: Longest time of the run, s.
    """

    method: int
    position: float
    fast: float
    slow: float
    acceleration: float
    park: float | None = None
    timeout_s: float = 120.0


@dataclass(frozen=True)
class DriveConfig:
    """One drive and its joint; lengths and angles in the joint's unit (m or rad).

    Attributes:
        joint: Name.
        unit: ``"m"`` or ``"rad"``.
        node_id: CANopen node, 1 to 127.
        counts_per_unit: Encoder counts per m or rad of the joint.
        direction: 1, or -1 when counts grow as the joint's position falls.
        offset: Joint position at count 0.
        following_error: Largest distance from the setpoint.
        following_error_time_s: How long it may be exceeded, s.
        quick_stop: Deceleration of the quick stop, per s².
        speed: Of motion in profile position mode, per s.
        acceleration: Of motion in profile position mode, per s².
        negative_switch: The drive has a switch at the end of its negative counts (0x60FD bit 0).
        positive_switch: The drive has a switch at the end of its positive counts (0x60FD bit 1).
        node_guarding: Watch by node guarding instead of the heartbeat.
        homing: Reference run; None: the encoder is absolute.
    """

    joint: str
    unit: str
    node_id: int
    counts_per_unit: float
    direction: int
    offset: float
    following_error: float
    following_error_time_s: float
    quick_stop: float
    speed: float
    acceleration: float
    negative_switch: bool = True
    positive_switch: bool = True
    node_guarding: bool = False
    homing: Homing | None = None

    def counts(self, position: float) -> int:
        """Convert a joint position, m or rad, to counts."""
        return round(self.direction * (position - self.offset) * self.counts_per_unit)

    def position(self, counts: float) -> float:
        """Convert counts to a joint position, m or rad."""
        return self.offset + self.direction * counts / self.counts_per_unit

    def velocity(self, counts_s: float) -> float:
        """Convert counts/s to m/s or rad/s."""
        return self.direction * counts_s / self.counts_per_unit

    def magnitude(self, value: float) -> int:
        """Convert a distance, speed or acceleration of the joint to counts (at least 1), without its sign."""
        return max(1, round(abs(value) * self.counts_per_unit))


def load_drives(joints: tuple[Joint, ...], path: str | Path | None = None) -> tuple[DriveConfig, ...]:
    """Read the drives of all joints, in the order of the joints.

    Args:
        joints: The joints of the C-arm.
        path: File; None: the one that ships with the project.

    Raises:
        ConfigurationError: The file is missing or malformed, a joint is missing or unknown, two joints have the same
            node, or a value is out of range.
    """
    file = Path(path) if path else config_file("drives.yaml")
    try:
        content = read_yaml(file)
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{file}: {' '.join(str(error).split())}") from error
    entries = content.get("drives") if isinstance(content, dict) else None
    if not isinstance(entries, dict):
        raise ConfigurationError(f"{file}: no section 'drives'")
    names = [joint.name for joint in joints]
    for name in entries:
        if name not in names:
            raise ConfigurationError(f"{file}: unknown joint {name!r}; joints are {', '.join(names)}")
    drives = tuple(_Reader(file, joint, entries.get(joint.name)).drive() for joint in joints)
    seen: dict[int, str] = {}
    for drive in drives:
        if drive.node_id in seen:
            both = f"{seen[drive.node_id]} and {drive.joint}"
            raise ConfigurationError(f"{file}: {both} have the same node_id {drive.node_id}")
        seen[drive.node_id] = drive.joint
    return drives


class _Reader:
    """Takes one drive's entries one by one, and complains about those that are left over."""

    def __init__(self, file: Path, joint: Joint, entries: Any) -> None:
        self._where, self._joint = f"{file}: {joint.name}", joint
        self._entries: dict[str, Any] = dict(entries) if isinstance(entries, Mapping) else {}
        self._suffix = "m" if joint.unit == "m" else "deg"
        if not self._entries:
            raise ConfigurationError(f"{self._where}: no drive")

    def drive(self) -> DriveConfig:
        joint = self._joint
        travel = self._length("travel_per_turn", above=0.0)
        counts = self._number("counts_per_turn", above=0.0)
        homing = self._homing(self._entries.pop("homing", None))
        drive = DriveConfig(
            joint=joint.name,
            unit=joint.unit,
            node_id=self._integer("node_id", 1, MAX_NODE_ID),
            counts_per_unit=counts * self._number("gear", above=0.0, default=1.0) / travel,
            direction=self._integer("direction", -1, 1, default=1),
            offset=self._length("offset", default=0.0),
            following_error=self._length("following_error", above=0.0),
            following_error_time_s=self._number("following_error_time_s", above=0.0, default=0.05),
            quick_stop=self._length("quick_stop", "_s2", above=0.0),
            speed=joint.velocity / 2,
            acceleration=joint.acceleration / 2,
            negative_switch=self._flag("negative_switch", True),
            positive_switch=self._flag("positive_switch", True),
            node_guarding=self._flag("node_guarding", False),
            homing=homing,
        )
        self._refuse_rest()
        if drive.direction == 0:
            raise ConfigurationError(f"{self._where}: direction is 0, not 1 or -1")
        for bound in (joint.lower, joint.upper):
            if abs(drive.counts(bound)) > MAX_COUNTS:
                text = f"{bound:z.4f} {joint.unit} is {drive.counts(bound)} counts, which exceeds 32 bits"
                raise ConfigurationError(f"{self._where}: {text}")
        return drive

    def _homing(self, entries: Any) -> Homing | None:
        if entries is None:
            return None
        nested = _Reader.__new__(_Reader)
        nested._where, nested._joint, nested._suffix = f"{self._where}: homing", self._joint, self._suffix
        if not isinstance(entries, Mapping):
            raise ConfigurationError(f"{nested._where}: is {entries!r}, not a mapping")
        nested._entries = dict(entries)
        return nested._read_homing()

    def _read_homing(self) -> Homing:
        joint = self._joint
        has_park = f"park_{self._suffix}" in self._entries
        method = self._integer("method", -128, 127)
        if method == 0:
            text = "means no homing; omit `homing` if the encoder is absolute, or use 37 to home in place"
            raise ConfigurationError(f"{self._where}: method 0 {text}")
        homing = Homing(
            method=method,
            position=self._length("position"),
            fast=self._length("fast", "_s", above=0.0),
            slow=self._length("slow", "_s", above=0.0),
            acceleration=self._length("acceleration", "_s2", above=0.0, default=joint.acceleration / 2),
            park=self._length("park") if has_park else None,
            timeout_s=self._number("timeout_s", above=0.0, default=120.0),
        )
        self._refuse_rest()
        if homing.park is not None and not joint.lower <= homing.park <= joint.upper:
            text = f"{homing.park:z.4f} {joint.unit} is outside [{joint.lower:z.4f}, {joint.upper:z.4f}] {joint.unit}"
            raise ConfigurationError(f"{self._where}: park position {text}")
        return homing

    def _refuse_rest(self) -> None:
        if self._entries:
            raise ConfigurationError(f"{self._where}: unknown entry {next(iter(self._entries))!r}")

    def _length(self, name: str, per: str = "", *, above: float = -math.inf, default: float | None = None) -> float:
        """Read a length or an angle; the default is already in the joint's unit."""
        key = f"{name}_{self._suffix}{per}"
        if default is not None and key not in self._entries:
            return default
        value = self._number(key, above=above)
        return value if self._suffix == "m" else math.radians(value)

    def _number(self, key: str, *, above: float = -math.inf, default: float | None = None) -> float:
        value = self._entries.pop(key, default)
        if value is None:
            raise ConfigurationError(f"{self._where}: {key} is missing")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise ConfigurationError(f"{self._where}: {key} is {value!r}, not a number")
        if value <= above:
            raise ConfigurationError(f"{self._where}: {key} is {value}, not above {above:g}")
        return float(value)

    def _integer(self, key: str, lower: int, upper: int, *, default: int | None = None) -> int:
        value = self._number(key, default=default)
        if value != int(value) or not lower <= value <= upper:
            raise ConfigurationError(f"{self._where}: {key} is {value:g}, not a whole number from {lower} to {upper}")
        return int(value)

    def _flag(self, key: str, default: bool) -> bool:
        value = self._entries.pop(key, default)
        if not isinstance(value, bool):
            raise ConfigurationError(f"{self._where}: {key} is {value!r}, not true or false")
        return value
