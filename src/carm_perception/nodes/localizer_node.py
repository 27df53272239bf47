# SPDX-License-Identifier: Apache-2.0
"""Localizer node: every new X-ray image to landmarks, and questions about images.

The executor's threads only hand images and questions over and never wait; the localizer works on the service's thread.
"""

from __future__ import annotations

import dataclasses
import gc
import sys
import time
from collections import OrderedDict
from importlib import import_module
from typing import Any
from weakref import WeakKeyDictionary

from builtin_interfaces.msg import Time
from carm_interfaces.action import Localize
from carm_interfaces.msg import LandmarkArray
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rcl_interfaces.msg import SetParametersResult
from rclpy.action import CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.task import Future
from sensor_msgs.msg import CameraInfo, Image, JointState

from carm_core.errors import CarmError, LocalizerError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import find_landmark, landmark
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_core.parameters import guard_changes, updated_parameters
from carm_core.plausibility import ImplausibleError, at_most, numbers
from carm_perception.images.overlay import draw
from carm_perception.localizers.registry import BY_GEOMETRY, OPENAI, ORACLE, POINTERS, REGISTERED, make_localizer
from carm_perception.nodes import messages
from carm_perception.nodes.ct import CtDesk
from carm_perception.nodes.parameters import LocalizerParameters
from carm_perception.nodes.worker import LocalizationService, Outcome, Ticket
from carm_perception.registration.body_belief import Sighting
from carm_perception.uncertainty.answer_filter import Cautious
from carm_ros.entry import leave
from carm_ros.heartbeat import TASK_TIMEOUT_S, HeartbeatMonitor
from carm_ros.image_messages import display_pixels
from carm_ros.managed import ManagedNode
from carm_ros.message_checks import LARGEST_IMAGE, LARGEST_STATE, LARGEST_TEXT, camera_info, image, joint_state
from carm_ros.messages import diagnostics, seconds
from carm_ros.node import run_node
from carm_ros.parameters import declare_parameters
from carm_ros.side_node import SideNode

NAMESPACE = "carm"
"""Namespace when none is given."""

_EXECUTOR_THREADS = 4
_CANCEL_LATENCY_S = 0.02
_KEPT_STAMPS = 16
_JOINT_STATE_TIMEOUT_S = 0.5
_CLOSE_S = 0.2
_FURTHEST_M = 100.0

ERROR_CODES = {
    Outcome.ANSWERED: Localize.Result.ERROR_NONE,
    Outcome.NO_FRAME: Localize.Result.ERROR_NO_FRAME,
    Outcome.MALFORMED: Localize.Result.ERROR_MALFORMED_ANSWER,
    Outcome.ABSTAINED: Localize.Result.ERROR_ABSTAINED,
    Outcome.CANCELED: Localize.Result.ERROR_CANCELED,
    Outcome.SUPERSEDED: Localize.Result.ERROR_SUPERSEDED,
    Outcome.INTERNAL: Localize.Result.ERROR_INTERNAL,
}


class LocalizerNode(ManagedNode):
    """Publishes ``landmarks`` for each frame and serves the action ``localize``, while it is active."""

    def __init__(self) -> None:
        """Declare parameters; ``configure`` loads the localizer.

        Raises:
            CarmError: A parameter is not allowed.
        """
        super().__init__("localizer_node", namespace=NAMESPACE)
        self._settings = declare_parameters(self, LocalizerParameters)
        self.autostart = self._settings.autostart
        self._target = find_landmark(self._settings.target).id if self._settings.target else 0
        self._history: Any = None
        self._side: SideNode | None = None
        self._carm: Any = None
        images = QoSProfile(depth=2)
        self._landmarks = self.create_publisher(LandmarkArray, "landmarks", 10)
        self._overlay = self.create_publisher(Image, "landmarks/image", images)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._sighting: Sighting | None = None
        self._ct = CtDesk(self, self._settings.ct, self._settings.frame_prefix)
        self._pending: OrderedDict[float, Image] = OrderedDict()
        self._focal_px: OrderedDict[float, tuple[float, int]] = OrderedDict()
        self._stamps: OrderedDict[float, Time] = OrderedDict()
        self._open: dict[Ticket, ServerGoalHandle] = {}
        self._counted = (time.monotonic(), 0, 0)
        self._told: WeakKeyDictionary[Ticket, bool] = WeakKeyDictionary()
        self._service = self._make_service()
        arriving = MutuallyExclusiveCallbackGroup()
        if self._settings.localizer in BY_GEOMETRY or self._settings.ct:
            self._watch_joints()
        self.create_subscription(
            Image, "xray/image", self._on_image, images, largest=LARGEST_IMAGE, callback_group=arriving
        )
        self.create_subscription(
            CameraInfo, "xray/camera_info", self._on_info, images, largest=LARGEST_STATE, callback_group=arriving
        )
        self._heartbeats = HeartbeatMonitor(self, TASK_TIMEOUT_S, arriving)
        self._action = self.serve_action(
            Localize,
            "localize",
            self._execute,
            cancel_callback=lambda handle: CancelResponse.ACCEPT,
            callback_group=ReentrantCallbackGroup(),
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # cancels count while a simulation is paused, too
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(0.2, self._watch_service, clock=steady)
        self.create_timer(_CANCEL_LATENCY_S, self._watch_questions, clock=steady)
        self.add_on_set_parameters_callback(self._on_parameters)

    def _make_service(self) -> LocalizationService:
        return LocalizationService(
            self._make_localizer,
            self._publish,
            self._frame_query,
            frame_timeout_s=self._settings.frame_timeout_s,
        )

    def _make_localizer(self) -> Localizer:
        localizer = make_localizer(self._settings.localizer, self._settings.options())
        falls_back = self._settings.localizer != REGISTERED
        self._sighting = localizer if isinstance(localizer, Sighting) and falls_back else None
        if self._settings.ct:
            from carm_perception.localizers.registered import RegisteredLocalizer

            assert isinstance(localizer, RegisteredLocalizer)
            self._ct.prepare(localizer)
        return localizer

    def configure(self) -> None:
        """Load the localizer, and let it answer once.

        Raises:
            Exception: It cannot be loaded.
        """
        service = self._service
        service.start()
        try:
            self.wait_loaded(service.ready, lambda: service.failure)
        except Exception:
            if not self.ending.is_set():
                self._service = self._make_service()
            raise
        gc.collect()
        gc.freeze()  # a model is hundreds of thousands of objects: to go through them takes as long as an answer

    def end_goals(self, reason: str) -> None:
        """See ``OrderlyNode.end_goals``."""
        for ticket in list(self._open):
            self._service.cancel(ticket, reason)

    def cleanup(self) -> None:
        """End the localizer's thread and give the model's memory back."""
        self._service.close()
        self._service = self._make_service()
        self._ct.forget()
        gc.unfreeze()
        gc.collect()

    def close(self) -> None:
        """End the localizer's thread without waiting for a pending answer."""
        if self._side is not None:
            self._side.close()
        self._ct.close()
        self._service.close(_CLOSE_S if self._service.ready.is_set() else 0.0)

    def state_changed(self) -> None:
        """Publish the new state at once."""
        self._publish_diagnostics()

    @property
    def _works(self) -> bool:
        """Whether images are processed: images that arrive while the model loads wait for it."""
        return (self.active or self.starting) and not self.ending.is_set()

    def _watch_service(self) -> None:
        failure = self._service.failure
        if failure is not None and self._service.ready.is_set():
            self.fail(failure)

    def _watch_joints(self) -> None:
        """Keep joint states: shape model, registered CT and oracle need the geometry of each frame."""
        from carm_core.robot.joint_check import JointStateCheck
        from carm_core.robot.joint_history import JointHistory
        from carm_core.robot.kinematics import CArm

        self._carm = CArm.from_config()
        self._history = JointHistory(self._carm.joint_names, _JOINT_STATE_TIMEOUT_S)
        self._check = JointStateCheck(self._carm.joints)
        self._side = SideNode(self, "joints")  # a hundred messages a second would each wake the executor of all others
        self._side.subscribe(JointState, "joint_states", self._on_joints, 10, LARGEST_STATE)
        self._side.start()

    def _on_joints(self, message: JointState) -> None:
        read = joint_state(message, self._check, time.monotonic())
        if read is not None:
            self._history.add(seconds(message.header.stamp), dict(zip(self._carm.joint_names, read[0], strict=True)))

    def _on_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        settings, reason = updated_parameters(self._settings, parameters)
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        old = self._settings
        try:
            target = find_landmark(settings.target).id if settings.target else 0
            if (settings.maximum_std_m, settings.maximum_risk) != (old.maximum_std_m, old.maximum_risk):
                self._service.adjust(lambda localizer: _set_caution(localizer, settings))
        except CarmError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if settings.target != old.target:
            self._target = target
        for line in guard_changes(old, settings):
            self.get_logger().warning(f"parameter {line} (by a request over the network; ROS does not tell whose)")
        self._settings = settings
        return SetParametersResult(successful=True)

    def _on_image(self, message: Image) -> None:
        self._keep(self._pending, seconds(message.header.stamp), image(message))
        self._join(seconds(message.header.stamp))

    def _on_info(self, message: CameraInfo) -> None:
        stamp = seconds(camera_info(message).header.stamp)
        self._keep(self._focal_px, stamp, (float(message.k[0]), int(message.width)))
        self._join(stamp)

    @staticmethod
    def _keep(store: OrderedDict[float, Any], stamp: float, item: Any) -> None:
        store[stamp] = item
        while len(store) > _KEPT_STAMPS:
            store.popitem(last=False)

    def _join(self, stamp: float) -> None:
        """Submit a frame once both its image and its camera model have arrived."""
        if stamp not in self._pending or stamp not in self._focal_px:
            return
        message, (focal_px, width) = self._pending.pop(stamp), self._focal_px.pop(stamp)
        pixels = display_pixels(message)
        if width != pixels.shape[1]:
            raise ImplausibleError(f"camera_info of {width} px does not fit an image of {pixels.shape[1]} px")
        self._keep(self._stamps, stamp, message.header.stamp)
        frame = XrayFrame(pixels, 1000 * self._settings.source_isocenter_m / focal_px, stamp)
        if self._works:
            self._service.submit(self._with_view(frame))

    def _with_view(self, frame: XrayFrame) -> XrayFrame:
        if self._history is None:
            return frame
        try:
            positions = self._history.at(frame.stamp_s)
        except CarmError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return frame
        rows, columns = frame.image.shape
        focal_px = 1000 * self._settings.source_isocenter_m / frame.mm_per_px_at_isocenter
        view = self._carm.view_of_image(positions, columns, rows, focal_px)
        primary, secondary = self._carm.angles(positions)
        return dataclasses.replace(frame, view=view, primary_rad=primary, secondary_rad=secondary)

    def _frame_query(self) -> Query | None:
        if not self._settings.each_frame:
            return None
        if self._target or self._settings.localizer in POINTERS:
            return Query(Protocol.POINTING, self._target or None)
        return Query(Protocol.LOCALIZATION)

    def _publish(self, frame: XrayFrame, reply: Localization) -> None:
        if not self._works:
            return
        stamp = self._stamps.get(frame.stamp_s, Time())
        now = self.get_clock().now().to_msg()
        self._ct.publish(stamp)
        self._landmarks.publish(messages.landmark_array(stamp, now, frame, reply, self._settings.frame_prefix))
        if self._settings.overlay and self._overlay.get_subscription_count():
            self._overlay.publish(messages.rgb_image(stamp, draw(frame, reply), self._settings.frame_prefix))
        self._ct.draw(frame, stamp)
        if self._sighting is not None:
            self._ct.see(frame, self._sighting)

    async def _execute(self, handle: ServerGoalHandle) -> Localize.Result:
        """Answer one goal; no thread of the executor waits for the localizer."""
        goal, result = handle.request, Localize.Result()
        try:
            query = goal_query(goal)
        except CarmError as error:
            result.error_code, result.error_msg = Localize.Result.ERROR_INVALID_GOAL, str(error)
            handle.abort()
            return result
        if query.target_id:
            self._target = query.target_id
        stamp = seconds(goal.stamp)
        executor = self.executor
        ended = Future(executor=executor)
        ticket = self._service.ask(query, stamp or None, lambda: executor.create_task(ended.set_result, None))
        self._open[ticket] = handle
        if not self._works:  # it stopped between the goal's acceptance and now
            self._service.cancel(ticket, self.refusal() or self.why_inactive())
        await ended
        del self._open[ticket]
        return self._result(handle, ticket, result)

    def _watch_questions(self) -> None:
        """Cancel questions whose goal is canceled; publish feedback."""
        for ticket, handle in list(self._open.items()):
            if handle.is_cancel_requested:
                self._service.cancel(ticket)
            elif silent := self._heartbeats.missing(bytes(handle.goal_id.uuid), time.monotonic()):
                self._service.cancel(ticket, silent)
            elif self._told.get(ticket) != ticket.running:
                self._told[ticket] = ticket.running
                elapsed = time.monotonic() - ticket.asked_s
                stage = "running" if ticket.running else "queued"
                handle.publish_feedback(Localize.Feedback(stage=stage, elapsed_s=elapsed))

    def _result(self, handle: ServerGoalHandle, ticket: Ticket, result: Localize.Result) -> Localize.Result:
        outcome = ticket.outcome or Outcome.INTERNAL
        result.error_code, result.error_msg = ERROR_CODES[outcome], ticket.message
        if ticket.frame is not None and ticket.reply is not None and outcome is not Outcome.CANCELED:
            stamp = self._stamps.get(ticket.frame.stamp_s, Time())
            now = self.get_clock().now().to_msg()
            prefix = self._settings.frame_prefix
            result.landmarks = messages.landmark_array(stamp, now, ticket.frame, ticket.reply, prefix)
        if outcome is Outcome.ANSWERED:
            handle.succeed()
        elif outcome is Outcome.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return result

    def _publish_diagnostics(self) -> None:
        statistics = self._service.statistics
        now_s, (then_s, frames, answered) = time.monotonic(), self._counted
        self._counted = (now_s, statistics.frames, statistics.answered)
        period_s = max(now_s - then_s, 1e-3)
        level, text = DiagnosticStatus.OK, "ready"
        if self._service.failure is not None:
            level, text = DiagnosticStatus.ERROR, str(self._service.failure)
        elif not (self.active or self.starting):
            level, text = DiagnosticStatus.WARN, self.life_state
        elif not self._service.ready.is_set():
            level, text = DiagnosticStatus.WARN, f"loading localizer {self._settings.localizer}"
        elif statistics.problem:
            level, text = DiagnosticStatus.WARN, statistics.problem
        values = {
            "localizer": self._settings.localizer,
            "loaded": self._service.loaded,
            "frames": statistics.frames,
            "frames (Hz)": f"{(statistics.frames - frames) / period_s:.1f}",
            "frames passed over": statistics.skipped,
            "answers": statistics.answered,
            "answers (Hz)": f"{(statistics.answered - answered) / period_s:.1f}",
            "latency (ms)": f"{1e3 * statistics.latency_s:.1f}",
        } | self.refusals.values()
        now = self.get_clock().now().to_msg()
        name = f"{self.get_fully_qualified_name()}: localizer"
        report = diagnostics(now, name, level, text, values)
        report.status += self._ct.status(now, self.get_fully_qualified_name())
        self._diagnostics.publish(report)


def _set_caution(localizer: Localizer, settings: LocalizerParameters) -> None:
    if not isinstance(localizer, Cautious):
        raise LocalizerError(
            f"localizer {localizer.name} has no calibration: maximum_std_m and maximum_risk have no effect"
        )
    localizer.set_caution(1000 * settings.maximum_std_m, settings.maximum_risk)


def goal_query(goal: Localize.Goal) -> Query:
    """Return the question of an action goal.

    Raises:
        ImplausibleError: A text is too long.
        UnknownNameError: The target or the protocol is unknown; carries the nearest one.
        LocalizerError: The protocol needs a target, or a sentence; or there are a target and a point.
    """
    for what, text, most in (("protocol", goal.protocol, 100), ("hint", goal.hint, 4000)):
        at_most(what, text, most)
    at_most("correction", goal.correction, LARGEST_TEXT)
    target = landmark(goal.target_id).id if goal.target_id else None
    name = goal.protocol or (Protocol.POINTING if target else Protocol.LOCALIZATION)
    try:
        protocol = Protocol(name)
    except ValueError:
        raise UnknownNameError.among("protocol", name, [p.value for p in Protocol], 0.3) from None
    if protocol is Protocol.NAVIGATION and target is None:
        raise LocalizerError("the navigation protocol needs a target")
    if protocol is Protocol.COMMAND and not goal.hint.strip():
        raise LocalizerError("the command protocol needs a sentence in `hint`")
    if not goal.at_point:
        return Query(protocol, target, goal.hint, goal.correction)
    if target is not None or protocol is Protocol.COMMAND:
        raise LocalizerError("a question is about a landmark, or about a point of the CT: target_id must be 0")
    place = numbers("point", (goal.point.x, goal.point.y, goal.point.z), -_FURTHEST_M, _FURTHEST_M, "m", count=3)
    x, y, z = (1000.0 * place).tolist()
    return Query(Protocol.POINTING, None, goal.hint, goal.correction, (x, y, z))


def _load_libraries(words: list[str]) -> None:
    """Import the libraries of a model before the node exists.

    Nothing in Python hears a signal while a large library is being loaded, for seconds on a loaded machine; a process
    that only imports is ended by the signal itself.
    """
    if not any(f"localizer:={name}" in word.replace('"', "") for word in words for name in (ORACLE, OPENAI)):
        import_module("carm_perception.localizers.fused")


def main(arguments: list[str] | None = None) -> int:
    """Run the localizer node; see ``carm_ros.node.run_node``.

    Args:
        arguments: ROS arguments; None: those of the process.
    """
    _load_libraries(sys.argv if arguments is None else arguments)
    return run_node("localizer_node", LocalizerNode, arguments, threads=_EXECUTOR_THREADS)


if __name__ == "__main__":
    leave(main())
