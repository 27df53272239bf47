# SPDX-License-Identifier: Apache-2.0
"""The arm's surroundings over ROS: the patient's surface in, the clearance out, and positions saved by name.

Callbacks run on the executor and are short. A surface is cut into pieces on a thread of its own.
"""

from __future__ import annotations

import math
import threading
from dataclasses import replace
from typing import Any

import numpy as np
from carm_interfaces.srv import SavePosition
from numpy.typing import NDArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from shape_msgs.msg import Mesh
from std_msgs.msg import Float64

from carm_agent.errors import NoJointStatesError
from carm_agent.nodes.ros_ports import CArmGraph
from carm_agent.parameters import AgentParameters
from carm_agent.planning.move import Mover, PlanStore
from carm_agent.planning.planner import Planner
from carm_agent.planning.saved_positions import PositionMemory, PositionNameError, PositionStorageError
from carm_agent.ports import Arm
from carm_core.collision.clearance import Margins
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
from carm_core.errors import CarmError, UnknownNameError
from carm_core.robot.kinematics import CArm

_CLEARANCE_HZ = 10.0
_AHEAD_S = 0.45
"""How far ahead the watch looks, s: half of what the joints need to stop from full speed, and a period."""
_STANDING = 2e-3


class Surroundings:
    """Keeps the planner's obstacles up to date and publishes the present clearance."""

    def __init__(self, node: Node, graph: CArmGraph, planner: Planner) -> None:
        """Listen on ``patient_surface``, publish ``clearance``, serve ``save_position``.

        Args:
            node: The agent node.
            graph: Says where the arm is; a task is interrupted when the arm, as it moves now, would touch people before
                it could come to rest.
            planner: Plans among these surroundings; it has a collision model.

        Raises:
            ConfigurationError: The file of saved positions is malformed.
        """
        assert planner.collision is not None
        self._node, self._graph, self.planner = node, graph, planner
        self.plans = PlanStore()
        self.memory = PositionMemory(planner.carm)
        self._watcher = planner.collision.copy()
        self._received = 0
        self._taken = 0
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        node.create_subscription(Mesh, "patient_surface", self._on_surface, latched)
        self._clearance = node.create_publisher(Float64, "clearance", 10)
        node.create_service(SavePosition, "save_position", self._on_save)
        node.create_timer(1.0 / _CLEARANCE_HZ, self._watch)

    @property
    def surface_heard(self) -> bool:
        """Whether the patient's surface that came last is taken over, or refused."""
        return 0 < self._received == self._taken

    def mover(self, arm: Arm) -> Mover:
        """Return what runs one move.

        Args:
            arm: Of the task.
        """
        return Mover(self.planner, arm, self.plans, self.memory, notes_before=False)

    def take_over(self, settings: AgentParameters) -> None:
        """Change speed, and where people stand, from the next plan on; what was previewed is void then."""
        self.planner.set_velocity_scaling(settings.velocity_scaling)
        assert self.planner.collision is not None
        obstacles, staff = self.planner.collision.obstacles, staff_zones(settings.staff_zones)
        if staff != obstacles.staff:
            self._replace(replace(obstacles, staff=staff))

    def _replace(self, obstacles: Obstacles) -> None:
        model = self.planner.collision
        assert model is not None
        watcher = CollisionModel(self.planner.carm, obstacles, model.margins, model.geometry)
        self.planner.set_obstacles(obstacles)
        self._watcher = watcher

    def _on_surface(self, message: Mesh) -> None:
        self._received += 1
        threading.Thread(target=self._take, args=(message, self._received), name="surface", daemon=True).start()

    def _take(self, message: Mesh, number: int) -> None:
        try:
            surface = surface_from_message(message)
            assert self.planner.collision is not None
            if number == self._received:
                self._replace(Obstacles(surface, staff=self.planner.collision.obstacles.staff))
        except CarmError as error:
            self._node.get_logger().error(f"patient_surface is of no use, the old obstacles stay: {error}")
            self._taken = max(self._taken, number)
            return
        if number == self._received:
            self._taken = number
            self._node.get_logger().info(f"patient's surface with {len(surface.triangles)} triangles taken over")

    def _watch(self) -> None:
        try:
            positions = self._graph.joint_positions()
        except NoJointStatesError:
            self._clearance.publish(Float64(data=math.nan))
            return
        now = self._watcher.clearance(positions, named=False)
        self._clearance.publish(Float64(data=now.distance_m))
        velocities = self._graph.joint_velocities()
        if np.abs(velocities).max() > _STANDING:
            ahead = self._watcher.clearance(positions + _AHEAD_S * velocities)
            if ahead.people_m < min(0.0, now.people_m):
                self._graph.interrupt.cancel(
                    f"{ahead.part} would touch {ahead.obstacle}; the surroundings are not what was planned for"
                )

    def _on_save(self, request: SavePosition.Request, response: SavePosition.Response) -> SavePosition.Response:
        codes = SavePosition.Response
        try:
            if request.name and request.forget:
                self.memory.forget(request.name)
            elif request.name:
                self.memory.save(request.name, self._graph.joint_positions())
        except PositionNameError as error:
            response.error_code, response.error_msg = codes.ERROR_INVALID_NAME, str(error)
        except UnknownNameError as error:
            response.error_code, response.error_msg = codes.ERROR_UNKNOWN_NAME, str(error)
        except NoJointStatesError as error:
            response.error_code, response.error_msg = codes.ERROR_NO_JOINT_STATES, str(error)
        except PositionStorageError as error:
            response.error_code, response.error_msg = codes.ERROR_STORAGE, str(error)
        response.names = self.memory.names
        return response


def make_planner(carm: CArm, settings: AgentParameters) -> Planner:
    """Return a planner among the surroundings that the parameters name.

    Raises:
        ConfigurationError: Margins or staff zones are malformed.
    """
    margins = Margins(
        settings.patient_margin_m, settings.collision_distance_m, settings.warning_distance_m, settings.slow_distance_m
    )
    model = CollisionModel(carm, Obstacles(staff=staff_zones(settings.staff_zones)), margins)
    return Planner(carm, settings.velocity_scaling, model)


def surface_from_message(message: Any) -> Surface:
    """Return the surface in a ``shape_msgs/Mesh``, in frame ``table``, m.

    Raises:
        ConfigurationError: The mesh is not one.
    """
    vertices: NDArray[np.float64] = np.array([(p.x, p.y, p.z) for p in message.vertices], dtype=np.float64)
    triangles = np.array([t.vertex_indices for t in message.triangles], dtype=np.int64)
    return Surface(vertices.reshape(-1, 3), triangles.reshape(-1, 3))
