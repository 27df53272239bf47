# SPDX-License-Identifier: Apache-2.0
"""What the tools of ``carm mcp`` do in a running graph: an operator, like the verbs of ``carm``, with its own stop."""

from __future__ import annotations

import io
import math
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import rclpy
from carm_interfaces.action import Localize, MoveCArm, Navigate
from carm_interfaces.msg import CArmState
from carm_interfaces.srv import Expose
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import Trigger

from carm_agent.llm.tools import ToolError
from carm_agent.planning.anatomical_views import find_anatomical_view
from carm_bringup.mcp.desk import GraphHands
from carm_bringup.nodes.client import ANSWER_TIMEOUT_S, LATCHED, Session, session
from carm_bringup.security.access import OPERATOR
from carm_control import OperatingState
from carm_core.errors import GoalError, UnknownNameError
from carm_core.landmarks import landmark
from carm_core.plausibility import ImplausibleError
from carm_core.robot.joint_check import JointStateCheck
from carm_core.robot.kinematics import CArm
from carm_ros.image_messages import display_pixels
from carm_ros.message_checks import arm_state, joint_state
from carm_ros.security import enclave_arguments

_SIDE_PX = 512
_STATE_TIMEOUT_S = 5.0


class RosHands(GraphHands):
    """Joins the graph twice: as an operator whose calls wait, and with a stop that waits for nothing."""

    def __init__(self, namespace: str, exposures_per_task: int) -> None:
        """Join nothing yet; used as a context manager.

        Args:
            namespace: Of the graph.
            exposures_per_task: That a navigation may take.
        """
        self._namespace, self._exposures_per_task = namespace, exposures_per_task
        self._carm = CArm.from_config()
        self._stack = ExitStack()
        self.on_exposures: Callable[[int], None] = lambda count: None

    def __enter__(self) -> RosHands:
        """Join the graph."""
        self._graph: Session = self._stack.enter_context(session(self._namespace))
        self._images: list[Image] = []
        self._graph.node.create_subscription(Image, "xray/image", self._keep, 2)
        self._graph.require(lambda: self._graph.node.count_publishers("joint_states") > 0, "topic joint_states")
        self._watch = self._stack.enter_context(_Watch(self._namespace))
        return self

    def __exit__(self, *reason: object) -> None:
        """Leave it; a motion that runs is no longer renewed, and the arm decelerates."""
        self._stack.close()

    def _keep(self, image: Image) -> None:
        self._images = [*self._images, image][-2:]

    def expose(self) -> dict[str, Any]:
        """See ``HeadHands.expose``."""
        from PIL import Image as Picture

        self.png = b""
        answer = self._graph.call(Expose, "xray/expose", Expose.Request())
        if not answer.success:
            raise ToolError(answer.error_msg or "no image was taken")
        arrived = self._graph.spin_until(
            lambda: any(image.header.stamp == answer.stamp for image in self._images), ANSWER_TIMEOUT_S
        )
        if not arrived:
            raise ToolError(f"the image did not arrive within {ANSWER_TIMEOUT_S:g} s")
        shot = next(image for image in self._images if image.header.stamp == answer.stamp)
        picture = Picture.fromarray(display_pixels(shot))
        picture.thumbnail((_SIDE_PX, _SIDE_PX))
        file = io.BytesIO()
        picture.save(file, "PNG")
        self.png = file.getvalue()
        return {"taken": True, **self._angles()}

    def localize(self, target_id: int) -> dict[str, Any]:
        """See ``HeadHands.localize``."""
        goal = Localize.Goal(target_id=target_id)
        result = self._graph.run_action(Localize, "localize", goal, lambda feedback: None).result
        marks = [mark for mark in result.landmarks.landmarks if mark.id == target_id]
        if result.error_code or not marks or not all(map(math.isfinite, marks[0].displacement)):
            return {"found": False, "reason": result.error_msg or "no answer"}
        mark = marks[0]
        return {
            "found": True,
            "landmark": mark.name,
            "dx_mm": round(1000 * mark.displacement[0], 1) + 0.0,
            "dy_mm": round(1000 * mark.displacement[1], 1) + 0.0,
            "radius_90_mm": _known(1000 * mark.radius_90),
            "confidence": _known(mark.confidence),
        }

    def move_view(self, dx_mm: float, dy_mm: float) -> dict[str, Any]:
        """See ``HeadHands.move_view``."""
        x, y, z = self._carm.isocenter(self._watch.positions())
        goal = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_VIEW, keep_angles=True)
        goal.isocenter.x, goal.isocenter.y, goal.isocenter.z = x + dy_mm / 1000.0, y - dx_mm / 1000.0, z
        return self._moved(goal)

    def set_angles(self, primary_deg: float, secondary_deg: float) -> dict[str, Any]:
        """See ``HeadHands.set_angles``."""
        goal = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_VIEW, keep_isocenter=True)
        goal.primary_angle, goal.secondary_angle = math.radians(primary_deg), math.radians(secondary_deg)
        return self._moved(goal)

    def show_view(self, view: str) -> dict[str, Any]:
        """See ``HeadHands.show_view``."""
        try:
            name = find_anatomical_view(view).name
        except (GoalError, UnknownNameError) as error:
            raise ToolError(str(error)) from error
        return self._moved(MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_NAMED, name=name))

    def navigate(self, target_id: int) -> dict[str, Any]:
        """See ``GraphHands.navigate``."""
        goal = Navigate.Goal(target_id=target_id, max_exposures=self._exposures_per_task)
        result = self._graph.run_action(Navigate, "navigate", goal, lambda feedback: None).result
        self.on_exposures(int(result.exposures))
        found = {"arrived": result.error_code == 0, "landmark": landmark(target_id).name}
        found |= {"exposures": int(result.exposures), "distance_mm": _known(1000 * result.final_distance)}
        return {**found, "said": result.summary or result.error_msg, **self._angles()}

    def status(self) -> dict[str, Any]:
        """See ``GraphHands.status``."""
        state = self._watch.state()
        found = {"state": OperatingState(state.state).name, "message": state.message, **self._angles()}
        return {**found, "clearance_mm": _known(1000 * state.clearance)}

    def stop(self, reason: str) -> dict[str, Any]:
        """See ``HeadHands.stop``; may be called while another call runs."""
        return self._watch.stop()

    def interrupt(self) -> None:
        """See ``GraphHands.interrupt``."""
        self._graph.pressed = True

    def resume(self) -> None:
        """See ``GraphHands.resume``."""
        self._graph.pressed = False

    def _moved(self, goal: MoveCArm.Goal) -> dict[str, Any]:
        result = self._graph.run_action(MoveCArm, "move", goal, lambda feedback: None).result
        if result.error_code:
            return {"moved": False, "reason": result.error_msg}
        return {"moved": True, **self._angles()}

    def _angles(self) -> dict[str, Any]:
        primary, secondary = self._carm.angles(self._watch.positions())
        return {
            "primary_deg": round(math.degrees(primary), 1) + 0.0,
            "secondary_deg": round(math.degrees(secondary), 1) + 0.0,
        }


class _Watch:
    """Hears the arm and calls ``stop`` on a thread and an executor of its own."""

    def __init__(self, namespace: str) -> None:
        self._context = rclpy.Context()
        self._namespace = namespace

    def __enter__(self) -> _Watch:
        arguments = enclave_arguments(self._namespace, OPERATOR) or None
        rclpy.init(args=arguments, context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self._node = Node(
            "carm_mcp",
            namespace=self._namespace,
            context=self._context,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self._check = JointStateCheck(CArm.from_config().joints)
        self._joints: list[float] | None = None
        self._state: CArmState | None = None
        self._heard = threading.Event()
        self._node.create_subscription(JointState, "joint_states", self._on_joints, 10)
        self._node.create_subscription(CArmState, "state", self._on_state, LATCHED)
        self._stop = self._node.create_client(Trigger, "stop")
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._executor.spin, name="carm_mcp", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *reason: object) -> None:
        self._executor.shutdown()
        self._thread.join(timeout=2.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def _on_joints(self, message: JointState) -> None:
        try:
            read = joint_state(message, self._check, time.monotonic())
        except ImplausibleError:
            return
        if read is None:
            return
        self._joints = read[0].tolist()
        if self._state is not None:
            self._heard.set()

    def _on_state(self, message: CArmState) -> None:
        try:
            self._state = arm_state(message)
        except ImplausibleError:
            return
        if self._joints is not None:
            self._heard.set()

    def _wait(self) -> None:
        if not self._heard.wait(_STATE_TIMEOUT_S):
            raise ToolError("nothing is heard of the arm: is the graph running?")

    def positions(self) -> list[float]:
        """Return the joint positions (J,) in the arm's order, m or rad."""
        self._wait()
        assert self._joints is not None
        return self._joints

    def state(self) -> CArmState:
        """Return the last state."""
        self._wait()
        assert self._state is not None
        return self._state

    def stop(self) -> dict[str, Any]:
        """Call the service ``stop``."""
        answered = threading.Event()
        if not self._stop.service_is_ready():
            raise ToolError("the stop service is not there: use the emergency stop")
        future = self._stop.call_async(Trigger.Request())
        future.add_done_callback(lambda _: answered.set())
        if not answered.wait(ANSWER_TIMEOUT_S) or not future.result().success:
            raise ToolError("the stop was not confirmed: use the emergency stop")
        return {"stopped": True, "message": future.result().message}


def _known(value: float) -> float | None:
    return round(value, 2) + 0.0 if math.isfinite(value) else None
