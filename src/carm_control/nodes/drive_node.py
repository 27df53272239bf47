# SPDX-License-Identifier: Apache-2.0
"""Drive node: moves a real C-arm by CiA 402 drives on a CAN bus; the same contract as the motion node."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from std_srvs.srv import Trigger

from carm_control import OperatingState, Snapshot, TrajectoryController, follow
from carm_control.nodes import messages
from carm_control.nodes.goal_link import MotionSide
from carm_control.nodes.trajectory_node import TrajectoryNode, run
from carm_core.errors import ConfigurationError
from carm_ros.entry import leave

try:
    from carm_control.canopen.can_bus import VIRTUAL, open_network
    from carm_control.canopen.cia402 import DriveError
    from carm_control.canopen.config import load_drives
    from carm_control.canopen.drive_group import DriveGroup, Phase
    from carm_control.canopen.parameters import DriveParameters
    from carm_control.canopen.simulated import Simulation
except ModuleNotFoundError as missing:
    sys.exit(f"drive_node: {missing.name} is not installed: pip install canopen python-can")

_POLL_S = 0.01
_END_S = 2.9
"""Drives that still move when the control loop ends come to rest by a quick stop of their own, s."""


class DriveNode(TrajectoryNode):
    """Trajectory controller of a C-arm whose joints CANopen drives move."""

    def __init__(self, link: MotionSide) -> None:
        """Start; see ``TrajectoryNode``."""
        super().__init__("drive_node", DriveParameters, link)
        self.create_service(Trigger, "home", self._on_home, callback_group=MutuallyExclusiveCallbackGroup())

    def close(self) -> None:
        """Stop the control loop, bring the drives to rest and switch them off."""
        super().close()
        self._drives.close(time.sleep)
        if self._simulation is not None:
            self._simulation.close()

    def _make_controller(self) -> TrajectoryController:
        settings = self._settings
        assert isinstance(settings, DriveParameters)
        if self.get_parameter("use_sim_time").value:
            raise ConfigurationError("parameter use_sim_time = true: drives on a bus use their own clock")
        timing = settings.timing()
        real = not (settings.simulate or settings.bus.startswith(VIRTUAL))
        if real and not settings.drives_config:
            raise ConfigurationError(
                f"bus {settings.bus} needs drives_config: a copy of config/drives.yaml with the values of your drives"
            )
        configs = load_drives(self._carm.joints, settings.drives_config or None)
        network = open_network(settings.bus, settings.bitrate)
        self._simulation: Simulation | None = None
        try:
            if settings.simulate or settings.bus == VIRTUAL:
                self._simulation = Simulation(settings.bus, settings.bitrate, configs, self._carm)
            self._drives = DriveGroup(network, configs, timing, time.monotonic)
            self._drives.connect()
        except Exception:
            network.disconnect()
            if self._simulation is not None:
                self._simulation.close()
            raise
        return follow(self._carm, settings, self._drives)

    def _joints_known(self) -> bool:
        return not self._drives.silent

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Reset the drives' faults and enable them, then release the stop."""
        if self._drives.phase is Phase.FAULT:
            try:
                self._drives.recover()
            except DriveError as error:
                response.success, response.message = False, str(error)
                return response
            self._await(Phase.ENABLING)
        return super()._on_reset(request, response)

    def _on_home(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Run the reference runs, and answer when they have ended."""
        snapshot = self._snapshot
        if snapshot is None or snapshot.state not in (OperatingState.STARTING, OperatingState.IDLE):
            response.success, response.message = False, f"homing is not possible now: {_reason(snapshot)}"
            return response
        self._await(Phase.ENABLING)
        try:
            self._drives.home()
        except DriveError as error:
            response.success, response.message = False, str(error)
            return response
        self._await(Phase.REFERENCE)
        fault = self._drives.fault
        response.success = not fault
        response.message = (
            f"{fault}; reset the fault (carm reset), then home again" if fault else "all joints are homed"
        )
        return response

    def _await(self, phase: Phase) -> None:
        """Wait for the end of a phase; each phase has its own time limit."""
        while self._drives.phase is phase and not self.ending.wait(_POLL_S):
            pass

    def _publish_diagnostics(self, snapshot: Snapshot, stamp: Any) -> None:
        super()._publish_diagnostics(snapshot, stamp)
        for axis in self._drives.axes:
            feedback = axis.feedback
            values = {
                "node": str(axis.config.node_id),
                "state": axis.state.value.lower(),
                "statusword": f"0x{feedback.statusword:04X}",
                "mode of operation": str(feedback.mode),
                "position (counts)": str(feedback.counts),
                "digital inputs": f"0x{feedback.inputs:08X}",
                "homed": str(axis.homed).lower(),
                "last error code": f"0x{axis.error_code:04X}",
            }
            problem = self._drives.fault if self._drives.fault.startswith(f"{axis.joint}:") else ""
            name = f"{self.get_fully_qualified_name()}: drive of {axis.joint}"
            self._diagnostics.publish(messages.health(name, problem, values, stamp))


def _reason(snapshot: Snapshot | None) -> str:
    """Explain why an arm that is neither starting nor idle cannot be homed, and how to fix it."""
    if snapshot is None:
        return "the arm is starting"
    if snapshot.state in (OperatingState.STOPPED, OperatingState.FAULT):
        return f"{snapshot.message} (carm reset)"
    return f"the arm is {snapshot.state.name.lower()}: wait until it is at rest"


def main(arguments: list[str] | None = None) -> int:
    """Run the drive node until SIGINT or SIGTERM.

    Args:
        arguments: ROS arguments; None: those of the process.

    Returns:
        Exit code: 0 after a signal, 2 for a bad parameter or configuration, 1 when the bus, a drive or the node failed.
    """
    for library in ("can", "canopen"):  # what they log as errors is told in one line of our own
        logging.getLogger(library).setLevel(logging.CRITICAL)
    return run("drive_node", DriveNode, arguments, _END_S)


if __name__ == "__main__":
    leave(main())
