# SPDX-License-Identifier: Apache-2.0
"""Nothing moves before every part of the graph has been heard from."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rclpy.node import Node

from carm_agent.errors import ImagingError, MotionError, NoJointStatesError
from carm_agent.nodes.environment import Surroundings
from carm_agent.nodes.ros_ports import CArmGraph
from carm_agent.ports import Interrupt
from carm_core.errors import CarmError, LocalizerError

_POLL_S = 0.05
_SILENT_S = 3.0
"""The localizer and the X-ray node report once a second; silent for longer, they are gone, s."""
_STATE_S = 1.0
"""The operating state comes ten times a second, s."""
_NOT_ACTIVE = ("unconfigured", "inactive", "finalized")


class ReadinessGate:
    """Opens once, when all parts have been heard from; from then on each task says itself what it lacks."""

    def __init__(self, node: Node, graph: CArmGraph, surroundings: Surroundings) -> None:
        """Listen to the diagnostics of the localizer and of the X-ray node.

        Args:
            node: The agent node.
            graph: What the other nodes say.
            surroundings: Know whether the patient's surface has come.
        """
        self._node, self._graph, self._surroundings = node, graph, surroundings
        self._loading = False
        self._inactive: set[str] = set()
        self._open = False
        space = node.get_namespace().rstrip("/")
        self._watched = {f"{space}/localizer_node: localizer": "localize", f"{space}/xray_node: X-ray": "xray/expose"}
        names = {"localize": "localizer_node", "xray/expose": "xray_node"}
        self._managed = {part: node.create_client(GetState, f"{name}/get_state") for part, name in names.items()}
        self._heard: dict[str, float] = {}
        self._seen: tuple[Interrupt | None, set[str]] = (None, set())
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            part = self._watched.get(status.name)
            if part is None:
                continue
            self._heard[part] = time.monotonic()
            if status.level != DiagnosticStatus.OK and status.message in _NOT_ACTIVE:
                self._inactive.add(part)
            else:
                self._inactive.discard(part)
            if part == "localize":
                self._loading = status.level != DiagnosticStatus.OK and status.message.startswith("loading")

    @property
    def is_open(self) -> bool:
        """Whether all parts have been heard from once: tasks are not refused for a missing one."""
        return self._open

    def parts(self) -> dict[str, bool]:
        """Return what the agent needs, and whether it is there.

        A localizer that loads its model is not, nor is a managed node that is not active.
        """
        graph = self._graph
        found = {
            "joint_states": graph.joint_states_known,
            "follow_joint_trajectory": graph.follow.server_is_ready(),
            "xray/expose": graph.expose.service_is_ready(),
            "localize": graph.localize.server_is_ready() and not self._loading,
            "stop": graph.stop.service_is_ready(),
        }
        if self._node.count_publishers("patient_surface"):
            found["patient_surface"] = self._surroundings.surface_heard
        return {name: there and self._works(name) for name, there in found.items()}

    def _works(self, part: str) -> bool:
        """Return whether a part's node is active, as far as it is a managed one."""
        client = self._managed.get(part)
        unknown = client is not None and client.service_is_ready() and part not in self._heard
        return part not in self._not_active() and not unknown

    def _not_active(self) -> list[str]:
        """Return the parts whose nodes are there and not active."""
        return sorted(part for part in self._inactive if self._managed[part].service_is_ready())

    def missing(self) -> tuple[str, ...]:
        """Return the parts that are not there, in order."""
        lacking = tuple(name for name, there in self.parts().items() if not there)
        self._open = self._open or not lacking
        return lacking

    def lost(self, interrupt: Interrupt, imaging: bool) -> CarmError | None:
        """Return what a task depends on and has lost since it began; None: nothing.

        Args:
            interrupt: Of the task.
            imaging: Whether the task needs X-ray images, and answers about them.
        """
        graph, now_s = self._graph, time.monotonic()
        there: dict[str, tuple[bool, type[CarmError], str]] = {
            "joint_states": (graph.joint_states_known, NoJointStatesError, "no joint states come any more"),
            "state": (
                now_s - graph.state_time_s < _STATE_S,
                MotionError,
                "the arm's operating state is not told any more",
            ),
            "follow": (graph.follow.server_is_ready(), MotionError, "the trajectory controller is gone"),
        }
        if imaging:
            x_ray, localizer = (now_s - self._heard.get(part, 0.0) < _SILENT_S for part in ("xray/expose", "localize"))
            there["xray"] = (x_ray, ImagingError, "the X-ray node is silent")
            there["expose"] = (graph.expose.service_is_ready(), ImagingError, "the X-ray node is gone")
            there["localizer"] = (localizer, LocalizerError, "the localizer is silent")
            there["localize"] = (graph.localize.server_is_ready(), LocalizerError, "the localizer is gone")
        if self._seen[0] is not interrupt:
            self._seen = (interrupt, set())
        seen = self._seen[1]
        seen |= {name for name, (present, _, _) in there.items() if present}
        return next((kind(line) for name, (present, kind, line) in there.items() if name in seen and not present), None)

    def refusal(self, interrupt: Interrupt, patience_s: float) -> str:
        """Wait for the gate to open; return why it did not, empty when it is open.

        Args:
            interrupt: Of the task that waits.
            patience_s: Longest wait, s.

        Raises:
            InterruptedTaskError: The task is to end.
        """
        deadline_s = time.monotonic() + patience_s
        while not self._open or self._not_active():
            lacking = self.missing()
            if lacking and time.monotonic() > deadline_s:
                inactive = self._not_active()
                why = "not active" if self._open or set(lacking) <= set(inactive) else "not heard from yet"
                named = inactive if self._open and inactive else lacking
                return f"not ready, nothing moves: {why}: {', '.join(named)}"
            if lacking:
                interrupt.wait_for(lambda: False, _POLL_S)
        return ""
