# SPDX-License-Identifier: Apache-2.0
"""Parameters of the supervisor node; ``config/supervisor.yaml`` has the same keys."""

from __future__ import annotations

from dataclasses import dataclass

from carm_core.collision.clearance import Margins
from carm_core.collision.obstacles import removes_staff_zone, staff_zones
from carm_core.parameters import parameter


@dataclass(frozen=True)
class SupervisorParameters:
    """Parameters of the supervisor node. Those that guard people can be tightened at run time, not loosened."""

    carm_config: str = parameter("", "C-arm description file; empty: the one in the package", read_only=True)
    frame_prefix: str = parameter("", "prefix of every frame id", read_only=True)
    controller: str = parameter(
        "joint_trajectory_controller", "name of the trajectory controller that is watched", read_only=True
    )
    surface_source: str = parameter(
        "xray_node",
        "node whose patient_surface is trusted; any: whichever it is, if it is the only one",
        read_only=True,
    )
    accept_smaller_surface: bool = parameter(
        False, "a patient_surface that shows less than the one before takes its place", read_only=True
    )
    rate_hz: float = parameter(25.0, "rate of supervisor/permit", unit="Hz", lower=10.0, upper=100.0, read_only=True)
    reaction_time_s: float = parameter(
        0.15,
        "from a joint state to the first deceleration, at most",
        unit="s",
        lower=0.02,
        upper=1.0,
        guard="higher_is_tighter",
    )
    joint_states_timeout_s: float = parameter(
        0.3, "no motion without joint states for this long", unit="s", lower=0.05, upper=2.0, guard="lower_is_tighter"
    )
    obedience_timeout_s: float = parameter(
        0.5,
        "a controller that does not slow down as permitted for this long is stopped",
        unit="s",
        lower=0.1,
        upper=5.0,
        guard="lower_is_tighter",
    )
    watch_reference: bool = parameter(
        True, "compare joint states with the reference on CONTROLLER/controller_state", read_only=True
    )
    deviation_m: float = parameter(
        0.05,
        "a linear joint this far from the controller's reference is stopped",
        unit="m",
        lower=0.001,
        upper=1.0,
        guard="lower_is_tighter",
    )
    deviation_rad: float = parameter(
        0.1,
        "a rotary joint this far from the controller's reference is stopped",
        unit="rad",
        lower=0.001,
        upper=1.0,
        guard="lower_is_tighter",
    )
    patient_margin_m: float = parameter(
        0.02, "added around the patient's surface", unit="m", lower=0.0, upper=0.2, guard="higher_is_tighter"
    )
    collision_distance_m: float = parameter(
        0.005,
        "a motion that would come nearer to anything is stopped; the agent plans with more",
        unit="m",
        lower=0.0,
        upper=0.2,
        guard="higher_is_tighter",
    )
    warning_distance_m: float = parameter(
        0.05,
        "nearer to people than this the arm is slow",
        unit="m",
        lower=0.0,
        upper=0.5,
        guard="higher_is_tighter",
    )
    slow_distance_m: float = parameter(
        0.10,
        "nearer to people than this the arm is slower",
        unit="m",
        lower=0.002,
        upper=1.0,
        guard="higher_is_tighter",
    )
    staff_zones: str = parameter(
        "",
        "where people stand: 6 numbers each, lower and upper corner of a box in frame table, m; empty: nowhere",
        guard=removes_staff_zone,
    )

    def __post_init__(self) -> None:
        """Check what a range cannot say.

        Raises:
            ConfigurationError: The staff zones or the distances are malformed.
        """
        staff_zones(self.staff_zones)
        self.margins()

    def margins(self) -> Margins:
        """Return the distances of the collision model."""
        return Margins(self.patient_margin_m, self.collision_distance_m, self.warning_distance_m, self.slow_distance_m)
