# SPDX-License-Identifier: Apache-2.0
"""The supervisor's process, around the real logic of its node."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from carm_bringup.benchmarks.faults.kernel import Part, World
from carm_bringup.benchmarks.faults.parts import JointStates
from carm_control import JointLimits, Permit
from carm_control.supervision.joint_states import JointStateCheck
from carm_control.supervision.obedience import Obedience
from carm_control.supervision.parameters import SupervisorParameters
from carm_control.supervision.permit_judge import Judgment, PermitJudge
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, StaffZone, Surface
from carm_core.collision.patient_surface import PatientSurface
from carm_core.errors import ConfigurationError
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry
from carm_core.transforms import Array

_STOP_AGAIN_S = 0.5


class Supervisor(Part):
    """The process that permits motion; see ``carm_control.nodes.supervisor_node``."""

    def __init__(self, world: World, carm: CArm, limits: JointLimits, model: CollisionModel, surface: Surface) -> None:
        """Begin with the patient's true surface.

        Args:
            world: With the faults.
            carm: The arm.
            limits: Of its joints.
            model: Among the true obstacles.
            surface: Of the patient.
        """
        super().__init__(world, "supervisor")
        settings = SupervisorParameters()
        self._carm, self._staff, self._judge_geometry = carm, model.obstacles.staff, model.geometry
        self._check = JointStateCheck(limits, settings.joint_states_timeout_s)
        self._judge = PermitJudge(limits, model, settings.reaction_time_s)
        deviation = limits.by_unit(settings.deviation_m, settings.deviation_rad)
        self._obedience = Obedience(limits, settings.obedience_timeout_s, deviation)
        self._store = PatientSurface()
        self._store.surface = surface
        self._permit = Judgment(0.0, "no valid joint states so far")
        self._stopped_s = -math.inf
        self._calm: tuple[Array, Judgment] | None = None
        self._limits = limits
        self.permit_out: Callable[[Permit], None] = lambda permit: None
        self.stop_out: Callable[[], None] = lambda: None
        self.every(lambda: 1.0 / settings.rate_hz, self._tick)

    def on_joints(self, message: JointStates) -> None:
        """Take joint states."""
        now_s = self.world.now_s
        self._check.receive(message.names, message.positions, message.velocities, message.stamp_s, now_s)

    def on_controller(self, reference: Array) -> None:
        """Compare the controller's reference with where the joints are."""
        now_s = self.world.now_s
        motion, doubt = self._check.motion(now_s)
        if motion is not None and not doubt and self._obedience.compare(reference, motion.position, now_s):
            self._stop(now_s)

    def on_surface(self, offer: tuple[Array, NDArray[np.int64], str]) -> None:
        """Judge a patient's surface: vertices, triangles, and who else may have sent it."""
        vertices, triangles, stranger = offer
        try:
            decision = self._store.offer(Surface(vertices, triangles), stranger)
            if decision.surface is not None and decision.surface is not self._store.surface:
                model = build_model(self._carm, decision.surface, self._staff, self._judge_geometry)
                self._store.surface = decision.surface
                self._judge.use(model)
                self._calm = None
        except ConfigurationError:
            return

    def _tick(self) -> None:
        now_s = self.world.now_s
        motion, doubt = self._check.motion(now_s)
        if doubt or motion is None:
            self._calm = None
            self._permit = self._judge.deny(doubt)
        elif self._calm is not None and self._is_calm(motion.position, motion.velocity):
            self._permit = self._calm[1]
        else:
            self._permit = self._judge.judge(motion, now_s)
            steady = self._judge.resting and self._permit.speed >= self._permit.share > 0.0
            self._calm = (motion.position, self._permit) if steady else None
        self.permit_out(Permit(self._permit.speed, self._permit.reason))
        if motion is not None:
            fault = self._obedience.judge(motion, self._permit, now_s) or ("lost" if self._permit.lost else "")
            if fault:
                self._stop(now_s)

    def _is_calm(self, position: Array, velocity: Array) -> bool:
        """Return whether nothing has changed since the last judgment of an arm at rest: judging again takes time."""
        assert self._calm is not None
        still = np.abs(velocity) < self._limits.by_unit(0.001, 0.0025)
        return bool(still.all() and np.abs(position - self._calm[0]).max() < 1e-3)

    def _stop(self, now_s: float) -> None:
        if now_s - self._stopped_s >= _STOP_AGAIN_S:
            self._stopped_s = now_s
            self.stop_out()


def build_model(
    carm: CArm, surface: Surface, staff: tuple[StaffZone, ...], geometry: RobotGeometry | None = None
) -> CollisionModel:
    """Return the supervisor's collision model."""
    return CollisionModel(carm, Obstacles(surface, staff=staff), SupervisorParameters().margins(), geometry)
