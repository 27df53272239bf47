# SPDX-License-Identifier: Apache-2.0
"""Supervisor node: ``supervisor/permit``, ``clearance`` and its line, from the joint states and the obstacles alone.

It knows nothing of plans and trusts nobody who makes them: whatever moves the arm, the permit says how fast it may.
A controller that does not obey is stopped by the service ``stop``.
"""

from __future__ import annotations

import gc
import math
import sys
import threading
import time
from typing import Any

import numpy as np
from builtin_interfaces.msg import Time
from carm_interfaces.msg import MotionPermit
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from carm_control import JointLimits
from carm_control.nodes.clearance_line import ClearanceLine
from carm_control.nodes.control_loop import raise_process_priority
from carm_control.nodes.permits import PERMIT
from carm_control.supervision.joint_states import JointStateCheck, Motion
from carm_control.supervision.obedience import Obedience
from carm_control.supervision.parameters import SupervisorParameters
from carm_control.supervision.permit_judge import Judgment, PermitJudge
from carm_core.collision.convex_shapes import giving_way
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface, staff_zones
from carm_core.collision.patient_surface import PatientSurface
from carm_core.robot.kinematics import CArm
from carm_ros.entry import leave
from carm_ros.messages import diagnostics, seconds
from carm_ros.node import OrderlyNode, run_node
from carm_ros.parameters import declare_parameters, follow_parameters
from carm_ros.patient_surface import SurfaceListener, publishers

NAMESPACE = "carm"
"""Namespace when none is given."""

_SWITCH_INTERVAL_S = 0.0005
_COLLECT_AFTER = 50
_AGAIN_S = 0.5
_COMPARE_S = 0.1
_MOST_BYTES = 65_536
_HELD_UP_S = 0.12
"""A node that did not run for so long looks at what has arrived meanwhile before it judges, s."""
_LOG_S = 2.0
_SHOWN_S = 10.0
"""A controller that did not obey is on /diagnostics for so long, s."""


class SupervisorNode(OrderlyNode):
    """Permits motion, slows it down, withdraws the permit, and stops who does not obey."""

    def __init__(self, **node_arguments: Any) -> None:
        """Declare parameters and begin to supervise.

        Args:
            **node_arguments: Passed to ``OrderlyNode``.

        Raises:
            CarmError: A parameter is not allowed.
        """
        super().__init__("supervisor_node", **{"namespace": NAMESPACE, **node_arguments})
        self._settings = settings = declare_parameters(self, SupervisorParameters)
        self._simulated_time = bool(self.get_parameter("use_sim_time").value)
        """Stamps of a clock that stands still, or runs faster than the arm, say nothing about its motion."""
        self._carm = CArm.from_config(settings.carm_config or None)
        self._limits = limits = JointLimits.of(self._carm.joints)
        self._building = threading.Lock()
        self._surface: Surface | None = None
        self._next_model: CollisionModel | None = None
        self._check = JointStateCheck(limits, settings.joint_states_timeout_s)
        self._judge = PermitJudge(limits, self._build(settings, None), settings.reaction_time_s)
        deviation = limits.by_unit(settings.deviation_m, settings.deviation_rad)
        self._obedience = Obedience(limits, settings.obedience_timeout_s, deviation)
        self._permit = Judgment(0.0, "no valid joint states so far")
        self._stamp = Time()
        self._sources: tuple[float, list[str]] = (-math.inf, [])
        self._stops, self._stopped_s, self._disobeyed = 0, -math.inf, ""
        self._counted = (time.monotonic(), 0, 0)
        self._ticks, self._longest_s, self._latest_s, self._ticked_s = 0, 0.0, 0.0, math.nan
        self._skipped = False
        self._leaving = ""
        self._permits = self.create_publisher(MotionPermit, PERMIT, QoSProfile(depth=1))
        self._clearance = self.create_publisher(Float64, "clearance", 1)
        self._line = ClearanceLine(self, settings.frame_prefix)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._stop = self.create_client(Trigger, "stop")
        self.create_subscription(JointState, "joint_states", self._on_joints, 10)
        self._compared_s = -math.inf
        if settings.watch_reference:
            topic = f"{settings.controller}/controller_state"
            self.create_subscription(JointTrajectoryControllerState, topic, self._on_controller, 1, raw=True)
        self._surfaces = SurfaceListener(
            self, settings.surface_source, self._on_surface, store=PatientSurface(settings.accept_smaller_surface)
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0 / settings.rate_hz, self._tick, clock=steady)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        follow_parameters(self, settings, self._take_over)

    def started(self) -> None:
        """Keep what was loaded out of garbage collections; full ones are made while the arm rests."""
        gc.collect()
        gc.freeze()
        gc.set_threshold(700, 10, 10**6)

    def end_goals(self, reason: str) -> None:
        """Withdraw the permit."""
        self._leaving = reason
        self._tick()

    # Obstacles

    def _build(self, settings: SupervisorParameters, surface: Surface | None) -> CollisionModel:
        obstacles = Obstacles(surface, staff=staff_zones(settings.staff_zones))
        return CollisionModel(self._carm, obstacles, settings.margins())

    def _on_surface(self, surface: Surface) -> None:
        """Cut a surface, on the listener's thread; the loop goes on with the old one meanwhile."""
        with self._building:
            self._next_model = self._build(self._settings, surface)
            self._surface = surface

    def _rebuild(self) -> None:
        with self._building, giving_way():
            self._next_model = self._build(self._settings, self._surface)

    def _take_over(self, settings: SupervisorParameters) -> None:
        old, self._settings = self._settings, settings
        self._check.timeout_s = settings.joint_states_timeout_s
        self._judge.reaction_s = settings.reaction_time_s
        self._obedience.timeout_s = settings.obedience_timeout_s
        self._obedience.deviation = self._limits.by_unit(settings.deviation_m, settings.deviation_rad)
        if (settings.margins(), settings.staff_zones) != (old.margins(), old.staff_zones):
            threading.Thread(target=self._rebuild, name="obstacles", daemon=True).start()

    # What comes in

    def _on_joints(self, message: JointState) -> None:
        now_s, stamp_s = time.monotonic(), 0.0 if self._simulated_time else seconds(message.header.stamp)
        doubt = self._check.receive(message.name, message.position, message.velocity, stamp_s, now_s)
        if doubt:
            self.get_logger().warning(f"{doubt}{self._named_sources()}", throttle_duration_sec=_LOG_S)
        else:
            self._stamp = message.header.stamp

    def _on_controller(self, data: bytes) -> None:
        """Look at the reference now and then; a controller publishes it in each of its cycles."""
        now_s = time.monotonic()
        if now_s - self._compared_s < _COMPARE_S or len(data) > _MOST_BYTES:
            return
        self._compared_s = now_s
        try:
            message = deserialize_message(data, JointTrajectoryControllerState)
        except Exception:  # rclpy raises what the middleware raises
            return
        motion, doubt = self._check.motion(now_s)
        wanted = dict(zip(message.joint_names, message.reference.positions, strict=False))
        if motion is None or doubt or any(name not in wanted for name in self._limits.names):
            return
        reference = np.array([wanted[name] for name in self._limits.names])
        deviation = self._obedience.compare(reference, motion.position, now_s)
        if deviation:
            self._stop_arm(deviation, now_s)

    def _named_sources(self) -> str:
        """Return who publishes joint states, where it is more than one node; looked up once a second."""
        now_s = time.monotonic()
        if now_s - self._sources[0] > 1.0:
            self._sources = now_s, publishers(self, "joint_states")
        names = self._sources[1]
        return f" (joint_states come from {', '.join(names)})" if len(names) > 1 else ""

    # What goes out

    def _tick(self) -> None:
        begin_s = time.monotonic()
        late_s = begin_s - self._ticked_s if math.isfinite(self._ticked_s) else 0.0
        self._ticked_s = begin_s
        self._latest_s = max(self._latest_s, late_s)
        if late_s > _HELD_UP_S and not self._leaving and not self._skipped:
            self._skipped = True  # joint states wait in the queue: that none came is not known yet
            return
        self._skipped = False
        if self._next_model is not None:
            model, self._next_model = self._next_model, None
            self._judge.use(model)
        motion, doubt = self._check.motion(begin_s)
        if self._leaving or doubt or motion is None:
            self._publish(self._judge.deny(self._leaving or f"{doubt}{self._named_sources()}"))
        else:
            self._publish(self._judge.judge(motion, begin_s))
        if motion is not None:
            self._watch(motion, begin_s)
        self._line.show(self._permit.clearance, self._settings.margins(), self._stamp, begin_s)
        self._ticks += 1
        self._longest_s = max(self._longest_s, time.monotonic() - begin_s)

    def _publish(self, permit: Judgment) -> None:
        if permit.speed == 0.0 and permit.reason != self._permit.reason:
            self.get_logger().warning(f"no motion: {permit.reason}", throttle_duration_sec=_LOG_S)
        self._permit = permit
        message = MotionPermit(speed=float(permit.speed), reason=permit.reason)
        message.header.stamp = self._stamp
        self._permits.publish(message)
        clearance_m = math.nan if permit.clearance is None else permit.clearance.distance_m
        self._clearance.publish(Float64(data=float(clearance_m)))

    def _watch(self, motion: Motion, now_s: float) -> None:
        fault = self._permit.reason if self._permit.lost else ""
        fault = self._obedience.judge(motion, self._permit, now_s) or fault
        if fault:
            self._stop_arm(fault, now_s)

    def _stop_arm(self, fault: str, now_s: float) -> None:
        """Stop a controller that does not obey; again and again, until it does."""
        if now_s - self._stopped_s < _AGAIN_S:
            return
        self._stopped_s, self._disobeyed = now_s, fault
        self._stops += 1
        there = self._stop.service_is_ready()
        if there:
            self._stop.call_async(Trigger.Request())
        self.get_logger().error(f"{fault}: {'stopping the arm' if there else 'there is no service to stop the arm'}")

    def _publish_diagnostics(self) -> None:
        now_s, (then_s, received, ticks) = time.monotonic(), self._counted
        period_s = max(now_s - then_s, 1e-3)
        self._counted = (now_s, self._check.received, self._ticks)
        permit, model = self._permit, self._judge
        level, text = DiagnosticStatus.OK, "ok"
        if self._surfaces.problem:
            level, text = DiagnosticStatus.WARN, self._surfaces.problem
        if permit.speed == 0.0:
            level, text = DiagnosticStatus.WARN, permit.reason
        if now_s - self._stopped_s < _SHOWN_S:
            level, text = DiagnosticStatus.ERROR, f"{self._disobeyed}; the arm was stopped"
        values = {
            "permitted speed": f"{permit.speed:.2f}",
            "reason": permit.reason,
            "clearance (mm)": "unknown" if permit.clearance is None else f"{1e3 * permit.clearance.distance_m:z.0f}",
            "patient": "assumed body" if self._surface is None else f"{len(self._surface.triangles)} triangles",
            "permits (Hz)": f"{(self._ticks - ticks) / period_s:.1f}",
            "joint states (Hz)": f"{(self._check.received - received) / period_s:.1f}",
            "joint states not believed": str(self._check.refused),
            "longest judgment (ms)": f"{1e3 * self._longest_s:.1f}",
            "longest period (ms)": f"{1e3 * self._latest_s:.1f}",
            "stops of a controller that did not obey": str(self._stops),
        }
        self._longest_s = self._latest_s = 0.0
        name = f"{self.get_fully_qualified_name()}: supervisor"
        self._diagnostics.publish(diagnostics(self.get_clock().now().to_msg(), name, level, text, values))
        if model.resting and gc.get_count()[2] > _COLLECT_AFTER:
            gc.collect()


def main(arguments: list[str] | None = None) -> int:
    """Run the supervisor node; the permit is withdrawn at its end. See ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    raise_process_priority()
    return run_node("supervisor_node", SupervisorNode, arguments)


if __name__ == "__main__":
    leave(main())
