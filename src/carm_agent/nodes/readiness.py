# SPDX-License-Identifier: Apache-2.0
"""Nothing moves before every part of the graph has been heard from."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.srv import GetState
from rclpy.node import Node

from carm_agent.nodes.environment import Surroundings
from carm_agent.nodes.ros_ports import CArmGraph
from carm_agent.ports import Interrupt

_POLL_S = 0.05
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
        self._heard: set[str] = set()
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            part = self._watched.get(status.name)
            if part is None:
                continue
            self._heard.add(part)
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
