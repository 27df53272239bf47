# SPDX-License-Identifier: Apache-2.0
"""Console node: the graph in a browser. Joins the web server (``carm_bringup.console``) to topics and actions."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from carm_interfaces.action import MoveCArm
from carm_interfaces.msg import CArmState, MotionPermit, PlannedMotion, Utterance
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger

from carm_agent.planning.anatomical_views import listed_views
from carm_agent.planning.standard_views import STANDARD_VIEWS
from carm_bringup.console.access.login import read_access
from carm_bringup.console.archive import Picture
from carm_bringup.console.commands import SWITCH, Command
from carm_bringup.console.dose import DoseWatch
from carm_bringup.console.parameters import ConsoleParameters
from carm_bringup.console.server import Server
from carm_bringup.nodes.console_beam import Beam
from carm_bringup.nodes.console_images import Images, centered_isocenter_m
from carm_bringup.nodes.console_overlays import Overlays
from carm_bringup.nodes.console_positions import Positions
from carm_bringup.nodes.console_room import Room
from carm_bringup.nodes.console_session import SessionExposures
from carm_bringup.nodes.console_tasks import Tasks, finite
from carm_core.errors import CarmError
from carm_core.landmarks import ALL_LANDMARKS
from carm_core.robot.kinematics import CArm
from carm_ros.entry import leave
from carm_ros.message_checks import LARGEST_PLAN, LARGEST_STATE, LARGEST_TEXT, arm_state
from carm_ros.messages import point_message
from carm_ros.node import OrderlyNode, run_node
from carm_ros.parameters import declare_parameters
from carm_ros.side_node import SideNode

NAMESPACE = "carm"
"""Namespace when none is given."""
STATE_HZ = 10.0
_STALE_S = 0.5
"""A state that is older is none, s."""
_RECENT_S = 3.0
"""What has not been heard for so long counts as missing, s."""
_LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
_STATES = {
    CArmState.STATE_STARTING: "starting",
    CArmState.STATE_IDLE: "idle",
    CArmState.STATE_MOVING: "moving",
    CArmState.STATE_STOPPING: "stopping",
    CArmState.STATE_STOPPED: "stopped",
    CArmState.STATE_FAULT: "fault",
}
_KINDS = {
    Utterance.KIND_INFO: "info",
    Utterance.KIND_REASON: "reason",
    Utterance.KIND_QUESTION: "question",
    Utterance.KIND_WARNING: "warning",
    Utterance.KIND_RESULT: "result",
    Utterance.KIND_ANSWER: "answer",
}
_EXPOSES = (*SWITCH, "expose", "field")
"""Commands that go to the X-ray system."""


class ConsoleNode(OrderlyNode):
    """Serves the page; is the ``Desk`` of ``carm_bringup.console.hub``.

    Attributes:
        server: The web server.
    """

    def __init__(self, **node_arguments: Any) -> None:
        """Declare parameters, subscribe, take the port.

        Args:
            **node_arguments: Passed to ``OrderlyNode``.

        Raises:
            CarmError: A parameter is not allowed, or the address cannot be used.
        """
        super().__init__("console_node", **{"namespace": NAMESPACE, **node_arguments})
        settings = declare_parameters(self, ConsoleParameters)
        carm = CArm.from_config(settings.carm_config or None)
        greeting: dict[str, Any] = {
            "views": [
                *({"name": view.name, "about": view.description} for view in STANDARD_VIEWS),
                *({"name": asked.name, "about": asked.view.description} for asked in listed_views()),
            ],
            "landmarks": [mark.name for mark in ALL_LANDMARKS],
            "held": settings.run_mode == "hold",
        }
        self._state: CArmState | None = None
        self._state_s = self._permit_s = self._agent_s = -math.inf
        self._permit = MotionPermit()
        self._agent = ""
        self._stops = 0
        self._stop_side = SideNode(self, "stop")
        self._stop_client = self._stop_side.node.create_client(Trigger, self.resolve_service_name("stop"))
        access = read_access(settings.host, settings.tls_cert, settings.tls_key, settings.users_file)
        self.server = Server(self, greeting, settings.host, settings.port, access)
        self.server.session.recordings = Path(settings.recordings)
        self._room = Room(self, carm, self.server.room)
        self._tasks = Tasks(self, self.server.tell, self.server.previews, self._room.ghost, greeting["held"])
        self._beam = Beam(self, self.server.tell, self.server.tell_one)
        self._positions = Positions(self, self.server.tell, self._show_positions)
        self._greeting = greeting
        greeting["room"] = self._room.description
        self._images = Images(self, carm, self.server.show_image, self._keep)
        self._watch, self._counted = DoseWatch(settings.kerma_notice_mgy), -1
        self._overlays = Overlays(self, self.server.tell)
        self._session = SessionExposures(self, carm, self.server.session)
        self.create_subscription(CArmState, "state", self._on_state, _LATCHED, largest=LARGEST_STATE)
        self.create_subscription(MotionPermit, "supervisor/permit", self._on_permit, 1, largest=LARGEST_STATE)
        self.create_subscription(Utterance, "agent/dialogue", self._on_utterance, 20, largest=LARGEST_TEXT)
        announced = self._tasks.show_announced
        self.create_subscription(PlannedMotion, "agent/plan", announced, 5, largest=LARGEST_PLAN)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 20, largest=LARGEST_TEXT)
        self.create_timer(1.0 / STATE_HZ, self._show_state, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def started(self) -> None:
        """Print the address; not by the log, which recordings keep: it holds the token."""
        self._stop_side.start()
        self._beam.start()
        print(f"Console: {self.server.address}", flush=True)

    def close(self) -> None:
        """End the threads."""
        self._session.close()
        self.server.close()
        self._images.close()
        self._beam.close()
        self._stop_side.close()

    def end_goals(self, reason: str) -> None:
        """Cancel what the console has begun, and stop what a sentence may have begun."""
        self._beam.end(reason)
        self._later(partial(self._tasks.cancel, reason))
        if self._tasks.sentences:
            self.stop(f"the console itself: a sentence may still move the arm, and {reason}")

    def has_ended(self) -> bool:
        """Return whether nothing runs that the console has begun."""
        return super().has_ended() and self._tasks.task is None

    # Of the desk, on the server's thread

    def stop(self, who: str) -> None:
        """Ask for a stop on a thread that does nothing else."""
        self._stops += 1
        self._stop_side.do(partial(self._stop, who))
        self._beam.end(f"stop by {who}")

    def command(self, command: Command, number: int, who: str) -> None:
        """Carry out a command on the executor's thread, or on that of the beam."""
        if command.kind == "moving":  # counts from now, not from when the executor comes to it
            self._tasks.hold(number)
            return
        if command.kind in _EXPOSES:
            self._beam.obey(command, number, who)
            return
        self._later(partial(self._obey, command, number, who, self._stops))

    def left(self, number: int, why: str) -> None:
        """End what a page has started: a goal is canceled; a sentence has no goal, so its motion is stopped."""
        self._beam.end(why, number)
        self._later(partial(self._end_of, number, why))

    def _later(self, work: Callable[[], None]) -> None:
        if self.executor is not None:
            self.executor.create_task(work)

    # On the thread for stops

    def _stop(self, who: str) -> None:
        if not self._stop_client.service_is_ready():
            self.server.tell({"type": "stop", "ok": False, "text": "no node serves stop: use the emergency stop"})
            return
        self._stop_client.call_async(Trigger.Request()).add_done_callback(self._stop_answered)
        self.get_logger().warning(f"stop by {who}", throttle_duration_sec=1.0)

    def _stop_answered(self, future: Any) -> None:
        answer = future.result()
        self.server.tell({"type": "stop", "ok": bool(answer.success), "text": answer.message[:400]})

    # On the executor's thread

    def _obey(self, command: Command, number: int, who: str, stops: int) -> None:
        """Carry out a command that came when so many stops had come."""
        self.get_logger().info(f"{command.line} by {who}")
        try:
            if command.kind == "reset" and stops != self._stops:
                raise CarmError("not reset: somebody has asked for a stop since then")
            if command.kind == "point":
                self._plan_to_point(command, number)
            elif command.kind in ("save", "forget"):
                self._positions.obey(command)
            else:
                self._tasks.obey(command, number)
        except CarmError as error:
            self.server.tell_one(number, {"type": "notice", "text": str(error)[:400]})

    def _plan_to_point(self, command: Command, number: int) -> None:
        x, y, z = centered_isocenter_m(self._images.view_of(command.image), command.pixel)
        goal = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_VIEW, keep_angles=True)
        goal.isocenter = point_message((1000 * x, 1000 * y, 1000 * z))
        self._tasks.plan(goal, "center this point", number)

    def _end_of(self, number: int, why: str) -> None:
        task = self._tasks.task
        if task is not None and task.number == number:
            self.get_logger().warning(f"{task.text}: canceled, {why}")
            self._tasks.cancel(why)
        if self._tasks.forget(number):  # also at rest: what a sentence has begun may move in a moment
            self.stop(f"the console itself: a sentence may still move the arm, and {why}")

    @property
    def _mode(self) -> str:
        """What the arm does; ``unknown`` without a fresh state."""
        if self._state is None or time.monotonic() - self._state_s > _STALE_S:
            return "unknown"
        return _STATES[self._state.state]

    def _on_state(self, message: CArmState) -> None:
        self._state, self._state_s = arm_state(message), time.monotonic()

    def _on_permit(self, message: MotionPermit) -> None:
        self._permit, self._permit_s = message, time.monotonic()

    def _on_utterance(self, message: Utterance) -> None:
        kind = _KINDS.get(message.kind, "info")
        self._tasks.heard(kind, message.in_reply_to)
        if kind == "result":
            self._overlays.target = ""
        said = {"type": "said", "kind": kind, "text": message.text[:1000], "reason": message.reason[:1000]}
        self.server.tell({**said, "reply_to": message.in_reply_to[:500]})

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if (status.name, status.hardware_id) == ("carm_agent", self.get_namespace()):
                ready = {pair.key: pair.value for pair in status.values}.get("ready", "yes") == "yes"
                self._agent = "" if ready and status.level == DiagnosticStatus.OK else status.message[:300]
                self._agent_s = time.monotonic()
            elif status.name == f"{self.get_namespace()}/recorder_node: recorder":
                folder = {pair.key: pair.value for pair in status.values}.get("folder", "")
                self.server.session.recording = folder[:200]

    def _show_positions(self, names: list[str]) -> None:
        self._greeting["positions"] = names  # for pages that come later
        self.server.tell({"type": "positions", "names": names})

    def _keep(self, picture: Picture) -> None:
        self.server.exposures.add(picture)
        self.server.tell({"type": "exposure", **picture.described})

    def _show_state(self) -> None:
        self._tasks.watch()
        state, now_s, dose = self._state, time.monotonic(), self._images.dose
        fresh = now_s - self._permit_s < _STALE_S
        task = self._tasks.task
        shown: dict[str, Any] = {
            "time": time.time(),
            "mode": self._mode,
            "arm": None,
            "permit": {"speed": finite(self._permit.speed), "reason": self._permit.reason[:300]} if fresh else None,
            "parts": self._parts(now_s),
            "dose": None,
            "localizer": self._overlays.localizer,
            "target": self._overlays.target,
            "task": None if task is None else task.shown(),
            "room": self._room.shown(self._images.joints),
            **self._beam.shown(),
        }
        if state is not None:
            shown["arm"] = {
                "message": state.message[:300],
                "primary_deg": finite(math.degrees(state.primary_angle)),
                "secondary_deg": finite(math.degrees(state.secondary_angle)),
                "isocenter_mm": [finite(1000 * v) for v in (state.isocenter.x, state.isocenter.y, state.isocenter.z)],
                "clearance_mm": finite(1000 * state.clearance),
                "limits": [name[:80] for name in state.limits_hit[:12]],
            }
        if dose is not None:
            kerma_mgy = 1e3 * dose.cumulative_air_kerma_gy
            if dose.sequence != self._counted and (reached := self._watch.heard(kerma_mgy, now_s)):
                self.get_logger().warning(reached)
                self.server.tell({"type": "notice", "text": reached})
            self._counted = dose.sequence
            shown["dose"] = {
                "air_kerma_mgy": finite(kerma_mgy),
                "rate_mgy_min": finite(self._watch.rate_mgy_min(now_s)),
                "level_mgy": finite(self._watch.level_mgy(kerma_mgy)),
                "area_product_ugym2": finite(1e6 * dose.cumulative_dose_area_product_gym2),
                "exposures": int(dose.sequence),
                "fluoroscopy": bool(dose.fluoroscopy),
                "tube_kv": finite(dose.tube_voltage_kv),
            }
        self.server.set_state(shown)

    def _parts(self, now_s: float) -> list[dict[str, Any]]:
        """Return each part of the graph, whether it is there, and what is wrong with it."""
        agent = now_s - self._agent_s < _RECENT_S
        waits = self._agent.replace("missing: ", "not ready, waits for ")
        parts = {
            "motors": (self._mode != "unknown", "no state"),
            "supervisor": (now_s - self._permit_s < _STALE_S, "no permit: the arm holds"),
            "X-ray": (self.count_publishers("xray/image/compressed") > 0, "no images"),
            "localizer": (self.count_publishers("landmarks") > 0, "no landmarks"),
            "agent": (agent and not self._agent, waits if agent else "not heard"),
        }
        return [{"name": name, "ok": ok, "note": "" if ok else note} for name, (ok, note) in parts.items()]


def main(arguments: list[str] | None = None) -> int:
    """Run the console node; see ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    return run_node("console_node", ConsoleNode, arguments)


if __name__ == "__main__":
    leave(main())
