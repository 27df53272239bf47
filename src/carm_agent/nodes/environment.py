# SPDX-License-Identifier: Apache-2.0
"""The arm's surroundings over ROS: the patient's surface, and positions saved by name.

Callbacks run on the executor and are short. A surface is read and cut on the listener's thread. Whether the arm, as it
moves, keeps clear of what stands there is the supervisor's business (``carm_control.nodes.supervisor_node``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from carm_interfaces.srv import SavePosition
from rclpy.node import Node

from carm_agent.errors import NoJointStatesError
from carm_agent.nodes.ros_ports import CArmGraph
from carm_agent.parameters import AgentParameters
from carm_agent.planning.move import Mover, PlanStore
from carm_agent.planning.planner import Planner
from carm_agent.planning.saved_positions import PositionMemory, PositionNameError, PositionStorageError
from carm_agent.ports import Arm
from carm_core.anatomy.axes import BoneAxes
from carm_core.collision.clearance import Margins
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
from carm_core.collision.patient_surface import NewestSurface, PatientSurface, both_surfaces
from carm_core.errors import UnknownNameError
from carm_core.robot.kinematics import CArm
from carm_ros.patient_surface import CT_TOPIC, LOCALIZER_NODE, SurfaceListener


class Surroundings:
    """Keeps the planner's obstacles up to date."""

    def __init__(self, node: Node, graph: CArmGraph, planner: Planner) -> None:
        """Listen on ``patient_surface`` and ``ct/surface``, serve ``save_position``.

        Args:
            node: The agent node.
            graph: Says where the arm is.
            planner: Plans among these surroundings; it has a collision model.

        Raises:
            ConfigurationError: The file of saved positions is malformed.
        """
        assert planner.collision is not None
        self._graph, self.planner = graph, planner
        self.plans = PlanStore()
        self.memory = PositionMemory(planner.carm)
        self._replacing = threading.Lock()
        parameters = graph.parameters
        self._surfaces = SurfaceListener(
            node, parameters.surface_source, self._on_surface, store=PatientSurface(parameters.accept_smaller_surface)
        )
        self._patient: Surface | None = None
        self._registered: Surface | None = None
        self._cts = SurfaceListener(node, LOCALIZER_NODE, self._on_registered, topic=CT_TOPIC, store=NewestSurface())
        node.create_service(SavePosition, "save_position", self._on_save)

    @property
    def surface_heard(self) -> bool:
        """Whether the patient's surface that came last is taken over, or refused."""
        return self._surfaces.heard

    def mover(self, arm: Arm, axes_of: Callable[[str], BoneAxes] | None = None) -> Mover:
        """Return what runs one move.

        Args:
            arm: Of the task.
            axes_of: Tells the axes of a bone; see ``Mover``.
        """
        return Mover(self.planner, arm, self.plans, self.memory, axes_of, notes_before=False)

    def take_over(self, settings: AgentParameters) -> None:
        """Change speed, and where people stand, from the next plan on; what was previewed is void then."""
        self.planner.set_velocity_scaling(settings.velocity_scaling)
        assert self.planner.collision is not None
        staff = staff_zones(settings.staff_zones)
        with self._replacing:
            obstacles = self.planner.collision.obstacles
            if staff != obstacles.staff:
                self.planner.set_obstacles(replace(obstacles, staff=staff))

    def _on_surface(self, surface: Surface) -> None:
        with self._replacing:
            self._use(surface, self._registered)
            self._patient = surface

    def _on_registered(self, surface: Surface) -> None:
        with self._replacing:
            self._use(self._patient, surface)
            self._registered = surface

    def _use(self, patient: Surface | None, registered: Surface | None) -> None:
        assert self.planner.collision is not None
        surface = both_surfaces(patient, registered)
        self.planner.set_obstacles(replace(self.planner.collision.obstacles, surface=surface))

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
