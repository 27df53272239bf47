# SPDX-License-Identifier: Apache-2.0
"""Nothing moves before every part of the graph has been heard from."""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node

from carm_agent.nodes.clinician import Clinician
from carm_agent.nodes.ros_ports import CArmGraph
from carm_agent.nodes.surroundings import Surroundings
from carm_agent.ports import Interrupt

_POLL_S = 0.05
_NOT_ACTIVE = ("unconfigured", "inactive", "finalized")


class ReadinessGate:
    """Opens once, when all parts have been heard from; from then on each task says itself what it lacks."""

    def __init__(self, node: Node, graph: CArmGraph, surroundings: Surroundings, clinician: Clinician) -> None:
        """Listen to the diagnostics of the localizer and of the X-ray node.

        Args:
            node: the agent node.
            graph: what the other nodes say.
            surroundings: know whether the patient's surface has come.
            clinician: knows whether the stop service is there.
        """
        self._node, self._graph, self._surroundings, self._clinician = node, graph, surroundings, clinician
        self._loading = False
        self._inactive: set[str] = set()
        self._open = False
        space = node.get_namespace().rstrip("/")
        self._watched = {f"{space}/localizer_node: localizer": "localize", f"{space}/xray_node: X-ray": "xray/expose"}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            part = self._watched.get(status.name)
            if part is None:
                continue
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
            "stop": self._clinician.stop_is_ready,
        }
        if self._node.count_publishers("patient_surface"):
            found["patient_surface"] = self._surroundings.surface_heard
        return {name: there and name not in self._inactive for name, there in found.items()}

    def missing(self) -> tuple[str, ...]:
        """Return the parts that are not there, in order."""
        lacking = tuple(name for name, there in self.parts().items() if not there)
        self._open = self._open or not lacking
        return lacking

    def refusal(self, interrupt: Interrupt, patience_s: float) -> str:
        """Wait for the gate to open; return why it did not, empty when it is open.

        Args:
            interrupt: of the task that waits.
            patience_s: longest wait, s.

        Raises:
            InterruptedTaskError: the task is to end.
        """
        deadline_s = time.monotonic() + patience_s
        while not self._open or self._inactive:
            lacking = self.missing()
            if lacking and time.monotonic() > deadline_s:
                why = "not active" if self._open or self._inactive.issuperset(lacking) else "not heard from yet"
                named = sorted(self._inactive) if self._open else lacking
                return f"not ready, nothing moves: {why}: {', '.join(named)}"
            if lacking:
                interrupt.wait_for(lambda: False, _POLL_S)
        return ""
