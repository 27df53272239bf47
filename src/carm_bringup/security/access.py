# SPDX-License-Identifier: Apache-2.0
"""What each process of the graph may do, by the names that ROS gives it.

One enclave for each node of ``carm_bringup.graph.description``, one for the people at the commands of ``carm``
(``operator``), one for recordings. What is not named here is refused. ``{controller}`` stands for the controller's
name, other names are relative to the graph's namespace unless they begin with a slash.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from carm_bringup.graph import description as graph

OPERATOR, RECORDER = "operator", "recorder_node"
FOLLOW = "{controller}/follow_joint_trajectory"
LIFE_CYCLE = (
    *("change_state", "get_state", "get_available_states", "get_available_transitions"),
    "get_transition_graph",
)
PARAMETER_SERVICES = (
    *("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters"),
    *("set_parameters", "set_parameters_atomically", "get_type_description"),
)
_READING = ("describe_parameters", "get_parameter_types", "get_parameters", "list_parameters")


@dataclass(frozen=True)
class Access:
    """What a process may do beside what every node does (log, parameters of its own).

    Attributes:
        publishes: Topics.
        subscribes: Topics; ``*`` at the end stands for anything.
        serves: Services.
        calls: Services.
        acts: Actions that it serves.
        asks: Actions that it asks for.
        managed: Whether the node has a life cycle.
    """

    publishes: tuple[str, ...] = ()
    subscribes: tuple[str, ...] = ()
    serves: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    acts: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    managed: bool = False


_DESCRIPTION = ("/tf", "/tf_static", "robot_description")
_IMAGES = ("xray/image", "xray/camera_info")
_MOTION = Access(
    publishes=("joint_states", "state", *_DESCRIPTION, "{controller}/controller_state", "/diagnostics"),
    subscribes=(
        *("clearance", "supervisor/permit", "goal_heartbeat"),
        *("{controller}/joint_trajectory", "{controller}/speed_scaling_input"),
    ),
    serves=("stop", "reset", "{controller}/query_state"),
    acts=(FOLLOW,),
)

ACCESS: Mapping[str, Access] = {
    "motion_node": _MOTION,
    "drive_node": Access(**{**_MOTION.__dict__, "serves": (*_MOTION.serves, "home")}),
    "state_node": Access(
        publishes=("state", *_DESCRIPTION, "/diagnostics"),
        subscribes=("joint_states", "clearance", "supervisor/permit", f"{FOLLOW}/_action/status"),
        serves=("stop", "reset"),
        calls=(f"{FOLLOW}/_action/cancel_goal",),
    ),
    "supervisor_node": Access(
        publishes=("supervisor/permit", "clearance", "clearance/line", "/diagnostics"),
        subscribes=("*",),
        calls=("stop", f"{FOLLOW}/_action/cancel_goal"),
    ),
    "xray_node": Access(
        publishes=(
            *(*_IMAGES, "xray/image_raw", "xray/image/compressed", "xray/exposure"),
            *("patient_surface", "/diagnostics"),
        ),
        subscribes=("joint_states", "state", "supervisor/permit"),
        serves=("xray/expose", "xray/fluoroscopy", "xray/fluoroscopy_end"),
        managed=True,
    ),
    "localizer_node": Access(
        publishes=("landmarks", "landmarks/image", "landmarks/contours", "ct/surface", "/tf", "/diagnostics"),
        subscribes=(*_IMAGES, "joint_states"),
        serves=("ct/find_point", "ct/bone_axes", "xray/preview"),
        acts=("localize",),
        managed=True,
    ),
    "agent_node": Access(
        publishes=("agent/dialogue", "agent/task", "agent/plan", "clearance", "goal_heartbeat", "/diagnostics"),
        subscribes=(
            *("clinician", "patient_surface", "joint_states", "state", *_IMAGES, "xray/exposure", "landmarks"),
            *("ct/surface", "clearance", "supervisor/permit", "/diagnostics", "/rosout"),
        ),
        serves=("save_position",),
        calls=(
            *("xray/expose", "ct/find_point", "ct/bone_axes", "stop"),
            *("xray_node/get_state", "localizer_node/get_state"),
        ),
        acts=("navigate", "move"),
        asks=("localize", FOLLOW),
        managed=True,
    ),
    "scene_node": Access(
        publishes=("scene/patient", "scene/xray", "scene/landmarks", "/diagnostics"),
        subscribes=("patient_surface", *_IMAGES, "landmarks"),
    ),
    "console_node": Access(
        publishes=("clinician", "goal_heartbeat"),
        subscribes=(
            *("state", "joint_states", "supervisor/permit", "landmarks", "agent/dialogue", "/diagnostics"),
            *("xray/image/compressed", "xray/image_raw", "xray/camera_info", "xray/exposure", "patient_surface"),
            *("clearance/line", "landmarks/contours", "agent/task", "agent/plan"),
        ),
        calls=(
            *("stop", "reset", "xray/expose", "xray/fluoroscopy", "xray/fluoroscopy_end", "save_position"),
            "supervisor_node/get_parameters",  # the staff zones, to draw them
        ),
        asks=("navigate", "move"),
    ),
    RECORDER: Access(publishes=("/diagnostics",), subscribes=("*", "/tf", "/tf_static", "/diagnostics", "/rosout")),
    OPERATOR: Access(
        publishes=("clinician", "goal_heartbeat"),
        subscribes=("*", "/tf", "/tf_static", "/diagnostics", "/rosout"),
        calls=(
            *("stop", "reset", "home", "save_position", "xray/expose", "ct/find_point", "ct/bone_axes", "xray/preview"),
            *(f"{node}/{service}" for node in ("xray_node", "localizer_node", "agent_node") for service in LIFE_CYCLE),
        ),
        asks=("navigate", "move", "localize"),
    ),
}
"""Enclave (below the namespace) to what it may do. Nobody publishes ``{controller}/joint_trajectory``."""


@dataclass
class Permissions:
    """Topics of DDS, as ROS names them: ``rt/`` topics, ``rq/`` requests, ``rr/`` replies.

    Attributes:
        publish: Those that may be written.
        subscribe: Those that may be read.
    """

    publish: set[str] = field(default_factory=set)
    subscribe: set[str] = field(default_factory=set)


def enclaves(values: Mapping[str, graph.Value]) -> dict[str, Permissions]:
    """Return what each enclave of a graph may do.

    Args:
        values: Launch arguments: namespace, controller and topic of the joint states are heeded.

    Returns:
        Full name of the enclave to its permissions.
    """
    space = graph.namespace(values)
    words = {"controller": str(values.get("controller", "joint_trajectory_controller"))}
    joints = str(values.get("joint_states", "joint_states"))

    def full(name: str) -> str:
        name = joints if name == "joint_states" else name.format(**words)
        return name if name.startswith("/") else f"{space}/{name}"

    found = {}
    for enclave, access in ACCESS.items():
        found[f"{space}/{enclave}"] = _permissions(access, f"{space}/{enclave}", full)
    for node in ACCESS:
        if node != OPERATOR:
            for enclave in (OPERATOR, RECORDER):
                for service in _READING:
                    _call(found[f"{space}/{enclave}"], f"{space}/{node}/{service}")
    return found


def _permissions(access: Access, node: str, full: Callable[[str], str]) -> Permissions:
    allowed = Permissions()
    allowed.publish |= {f"rt{full(name)}" for name in access.publishes}
    allowed.subscribe |= {f"rt{full(name)}" for name in access.subscribes}
    for name in access.serves:
        _serve(allowed, full(name))
    for name in access.calls:
        _call(allowed, full(name))
    for name in access.acts:
        for service in ("send_goal", "cancel_goal", "get_result"):
            _serve(allowed, f"{full(name)}/_action/{service}")
        allowed.publish |= {f"rt{full(name)}/_action/{topic}" for topic in ("feedback", "status")}
    for name in access.asks:
        for service in ("send_goal", "cancel_goal", "get_result"):
            _call(allowed, f"{full(name)}/_action/{service}")
        allowed.subscribe |= {f"rt{full(name)}/_action/{topic}" for topic in ("feedback", "status")}
    for service in (*PARAMETER_SERVICES, *(LIFE_CYCLE if access.managed else ())):
        _serve(allowed, f"{node}/{service}")
    if access.managed:
        allowed.publish.add(f"rt{node}/transition_event")
    allowed.publish |= {"rt/rosout", "rt/parameter_events", "ros_discovery_info"}
    allowed.subscribe |= {"rt/parameter_events", "rt/clock", "ros_discovery_info"}
    return allowed


def _serve(allowed: Permissions, service: str) -> None:
    allowed.subscribe.add(f"rq{service}Request")
    allowed.publish.add(f"rr{service}Reply")


def _call(allowed: Permissions, service: str) -> None:
    allowed.publish.add(f"rq{service}Request")
    allowed.subscribe.add(f"rr{service}Reply")
