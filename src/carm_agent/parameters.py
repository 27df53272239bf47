# SPDX-License-Identifier: Apache-2.0
"""Parameters of the agent node; ``config/agent.yaml`` has the same names."""

from dataclasses import dataclass

from carm_agent.navigation.task import NavigatorConfig, Policy
from carm_core.collision.obstacles import removes_staff_zone, staff_zones
from carm_core.errors import ConfigurationError
from carm_core.parameters import parameter

NO_HEAD = "none"
"""Stands for no larger language model."""
POLICIES = ("default", "pointing", "xml", "regression")
"""Names of the launch argument; all but ``xml`` ask for displacements, by another localizer each."""


@dataclass(frozen=True)
class AgentParameters:
    """Parameters of the agent node. Those that guard people can be tightened at run time, not loosened."""

    autostart: bool = parameter(
        True, "configure and activate automatically; false: wait for a lifecycle manager", read_only=True
    )
    controller: str = parameter("joint_trajectory_controller", "name of the trajectory controller", read_only=True)
    velocity_scaling: float = parameter(1.0, "default share of the joints' velocity limits", lower=0.01, upper=1.0)
    policy: str = parameter(
        "default",
        "what the localizer is asked for: xml (directions and extents); default, pointing, regression (displacements)",
    )
    tolerance_m: float = parameter(
        0.010, "success within this distance of the image center", unit="m", lower=0.001, upper=0.1
    )
    max_exposures: int = parameter(15, "exposures of one task", lower=1, upper=100, guard="lower_is_tighter")
    max_duration_s: float = parameter(
        180.0, "duration of one task", unit="s", lower=1.0, upper=3600.0, guard="lower_is_tighter"
    )
    max_steps: int = parameter(12, "motions of one task", lower=1, upper=100, guard="lower_is_tighter")
    max_doubts: int = parameter(
        3, "consecutive doubtful answers that end a task", lower=1, upper=10, guard="lower_is_tighter"
    )
    min_confidence: float = parameter(
        0.3, "answers that state less confidence are doubtful", lower=0.0, upper=1.0, guard="higher_is_tighter"
    )
    max_radius_m: float = parameter(
        0.028, "success needs a 90 % radius below this", unit="m", lower=0.005, upper=0.5, guard="lower_is_tighter"
    )
    exact_radius_m: float = parameter(
        0.0,
        "the last motion on answers with a 90 % radius up to this needs no image; 0: every motion does",
        unit="m",
        lower=0.0,
        upper=0.05,
        guard="lower_is_tighter",
    )
    max_step_m: float = parameter(
        0.4, "longest motion of the isocenter", unit="m", lower=0.01, upper=1.0, guard="lower_is_tighter"
    )
    cautious_step_m: float = parameter(
        0.06, "longest motion on a doubtful answer", unit="m", lower=0.0, upper=0.2, guard="lower_is_tighter"
    )
    server_timeout_s: float = parameter(
        5.0,
        "wait for a service or action to be there and to accept",
        unit="s",
        lower=0.1,
        upper=60.0,
        guard="lower_is_tighter",
    )
    image_timeout_s: float = parameter(
        5.0, "wait for the image of an exposure", unit="s", lower=0.1, upper=60.0, guard="lower_is_tighter"
    )
    localizer_timeout_s: float = parameter(
        60.0, "wait for the localizer's answer", unit="s", lower=0.1, upper=600.0, guard="lower_is_tighter"
    )
    joint_state_timeout_s: float = parameter(
        1.0, "joint states older than this are unknown", unit="s", lower=0.05, upper=10.0, guard="lower_is_tighter"
    )
    motion_timeout_s: float = parameter(
        5.0, "wait beyond the planned end of a motion", unit="s", lower=0.1, upper=60.0, guard="lower_is_tighter"
    )
    rest_timeout_s: float = parameter(
        3.0, "wait for the arm to come to rest", unit="s", lower=0.1, upper=10.0, guard="lower_is_tighter"
    )

    wait_for_all: bool = parameter(
        False,
        "refuse tasks until every part of the graph has been heard from; true in the launch files",
        guard="true_is_tighter",
    )
    confirm_moves: bool = parameter(False, "ask the clinician before each motion", guard="true_is_tighter")
    confirm_timeout_s: float = parameter(
        60.0, "wait for the clinician's yes to a motion", unit="s", lower=1.0, upper=600.0, read_only=True
    )
    max_nudge_m: float = parameter(
        0.2, "longest move that words can ask for", unit="m", lower=0.01, upper=0.4, read_only=True
    )
    command_timeout_s: float = parameter(
        1.0, "wait for the language model to read a sentence", unit="s", lower=0.05, upper=10.0, read_only=True
    )

    head_url: str = parameter(
        NO_HEAD, "OpenAI-compatible API of a larger language model that acts by tools; none: no such", read_only=True
    )
    head_model: str = parameter("default", "name of that model on its server", read_only=True)
    head_verify_tls: bool = parameter(True, "check the certificate of that server", read_only=True)
    head_ca_file: str = parameter(
        "", "certificates (PEM) to check it against; empty: those of this machine", read_only=True
    )
    head_reply_timeout_s: float = parameter(
        60.0, "wait for one reply of that model", unit="s", lower=0.1, upper=600.0, read_only=True
    )
    head_max_steps: int = parameter(20, "replies of that model in one task", lower=1, upper=200, read_only=True)
    head_max_tokens: int = parameter(
        40000, "tokens of that model in one task, requests and replies", lower=100, upper=10_000_000, read_only=True
    )
    head_transcripts: str = parameter(
        "", "folder for the transcripts of that model's tasks; empty: transcripts/ in the cache folder", read_only=True
    )

    surface_source: str = parameter(
        "xray_node",
        "node whose patient_surface is trusted; any: whichever it is, if it is the only one",
        read_only=True,
    )
    accept_smaller_surface: bool = parameter(
        False, "a patient_surface that shows less than the one before takes its place", read_only=True
    )
    patient_margin_m: float = parameter(
        0.02, "added around the patient's surface", unit="m", lower=0.0, upper=0.2, read_only=True
    )
    collision_distance_m: float = parameter(
        0.01, "motions that come nearer to anything are refused", unit="m", lower=0.001, upper=0.2, read_only=True
    )
    warning_distance_m: float = parameter(
        0.05,
        "motions that come nearer to anything are made with a warning",
        unit="m",
        lower=0.0,
        upper=0.5,
        read_only=True,
    )
    slow_distance_m: float = parameter(
        0.10, "motions that come nearer to people are slower", unit="m", lower=0.002, upper=1.0, read_only=True
    )
    staff_zones: str = parameter(
        "",
        "where people stand: 6 numbers each, lower and upper corner of a box in frame table, m; empty: nowhere",
        guard=removes_staff_zone,
    )

    def __post_init__(self) -> None:
        """Check what a range cannot say.

        Raises:
            ConfigurationError: There is no such policy, or the staff zones are malformed.
        """
        staff_zones(self.staff_zones)
        if self.policy not in POLICIES:
            raise ConfigurationError(f"parameter policy = {self.policy!r} is not one of: {', '.join(POLICIES)}")

    def navigator_config(self) -> NavigatorConfig:
        """Return the bounds of the navigation policy, in mm."""
        return NavigatorConfig(
            tolerance_mm=1000.0 * self.tolerance_m,
            max_exposures=self.max_exposures,
            max_duration_s=self.max_duration_s,
            max_steps=self.max_steps,
            max_doubts=self.max_doubts,
            min_confidence=self.min_confidence,
            max_radius_mm=1000.0 * self.max_radius_m,
            exact_mm=1000.0 * self.exact_radius_m,
            max_step_mm=1000.0 * self.max_step_m,
            cautious_step_mm=1000.0 * self.cautious_step_m,
            policy=Policy.XML if self.policy == "xml" else Policy.POINTING,
        )
