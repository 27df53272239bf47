# SPDX-License-Identifier: Apache-2.0
"""Motion node: stands in for the C-arm's motor controllers."""

from __future__ import annotations

from collections.abc import Sequence

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter

from carm_control import MotionParameters, TrajectoryController, build_controller
from carm_control.nodes.goal_link import MotionSide
from carm_control.nodes.trajectory_node import TrajectoryNode, run
from carm_control.parameters import check_blocked_joint
from carm_core.errors import CarmError
from carm_ros.entry import leave


class MotionNode(TrajectoryNode):
    """Trajectory controller, drives and joint sensors of the simulated C-arm."""

    def __init__(self, link: MotionSide) -> None:
        """Start; see ``TrajectoryNode``."""
        super().__init__("motion_node", MotionParameters, link)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _make_controller(self) -> TrajectoryController:
        assert isinstance(self._settings, MotionParameters)
        return build_controller(self._carm, self._settings)

    def _on_parameters(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name != "blocked_joint":
                continue
            try:
                self._controller.block_joints(check_blocked_joint(self._carm, parameter.value))
            except CarmError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the motion node until SIGINT or SIGTERM.

    Args:
        arguments: ROS arguments; None: those of the process.

    Returns:
        Exit code: 0 after a signal, 2 for a bad parameter, 1 when the node failed.
    """
    return run("motion_node", MotionNode, arguments)


if __name__ == "__main__":
    leave(main())
