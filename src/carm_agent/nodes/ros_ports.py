# SPDX-License-Identifier: Apache-2.0
"""The ports of a task over ROS topics, services and actions.

``CArmGraph`` lives as long as the node: its callbacks run on the executor's thread and only store what came. The ports
live as long as a task and block the task's own thread, until what they wait for has come or the task is interrupted.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from action_msgs.msg import GoalStatus
from builtin_interfaces.msg import Time
from carm_interfaces.action import Localize
from carm_interfaces.msg import CArmState, Exposure, PlannedMotion
from carm_interfaces.srv import BoneAxes as FindBone
from carm_interfaces.srv import Expose, FindPoint
from control_msgs.action import FollowJointTrajectory
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.task import Future
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_srvs.srv import Trigger
from unique_identifier_msgs.msg import UUID

from carm_agent.errors import (
    ImagingError,
    MotionError,
    NoJointStatesError,
    NotAtRestError,
    RejectedTrajectoryError,
    StoppedError,
)
from carm_agent.nodes.action_requests import ask, cancel
from carm_agent.nodes.conversions import localization_from_result, planned_motion
from carm_agent.nodes.diagnostics import Counters
from carm_agent.parameters import AgentParameters
from carm_agent.planning.planner import Plan
from carm_agent.ports import Acquisition, Arm, Clock, Imager, Interrupt
from carm_core.anatomy.axes import BoneAxes
from carm_core.errors import CarmError, GoalError, ImageError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Query
from carm_core.plausibility import FreezeWatch, ImplausibleError, number, numbers
from carm_core.robot.controller_log import NO_MOTION_NOW, ControllerLog
from carm_core.robot.joint_check import JointStateCheck
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_ros.heartbeat import HeartbeatSender
from carm_ros.message_checks import (
    LARGEST_IMAGE,
    LARGEST_STATE,
    arm_state,
    camera_info,
    image,
    joint_state,
)
from carm_ros.messages import frame_from_messages, nanoseconds, point_message, seconds, trajectory_message
from carm_ros.node import OrderlyNode

_FREEZE_S = 1.0
"""A task ends when the agent stood still for longer: what it then hears is of before, s."""
_LATE_S = 0.5
"""A busy machine may wake a thread so much after what it waits for came, s."""
_IMAGE_AGE_S = 0.5
"""Joint states so far from an image's stamp do not say where the arm was, s."""
_MOST_DOSE_GYM2 = 1.0
_KEPT_FRAMES = 4
_FURTHEST_M = 100.0
_LONGEST_METHOD = 200
_KEPT_JOINT_STATES = 150
_RESET_NEWS_S = 0.3
_FRESH_STATE_S = 0.5
_POLL_S = 0.1
_RESEND_S = 0.1
_WATCH_S = 0.3
_REASON_S = 0.5
"""How long the reason of a rejected goal may follow the answer on /rosout, s."""
_PERMIT_PATIENCE_S, _ASK_AGAIN_S = 2.0, 0.2
"""How long a motion waits, s, where the supervisor permits none just now, and how often it asks."""
_REST_VELOCITY = 2e-3
_AT_REST = (CArmState.STATE_IDLE, CArmState.STATE_STOPPED, CArmState.STATE_FAULT)
_LATCHED = (CArmState.STATE_STOPPED, CArmState.STATE_FAULT)
_STOPPED = (*_LATCHED, CArmState.STATE_STOPPING)


class CArmGraph:
    """What the C-arm's other nodes last said, and the clients to ask them."""

    def __init__(self, node: OrderlyNode, carm: CArm, parameters: AgentParameters) -> None:
        """Subscribe and make the clients.

        Args:
            node: The agent node.
            carm: The arm.
            parameters: Names and time-outs.
        """
        self.node, self.carm, self.parameters = node, carm, parameters
        self.interrupt = Interrupt()
        self.counters = Counters()
        self.state: CArmState | None = None
        self.state_time_s = -np.inf
        self.on_stopped: Callable[[str], None] = lambda message: None
        self.heartbeat = HeartbeatSender(node, node.get_name())
        self.freezes = FreezeWatch(_FREEZE_S)
        self._check = JointStateCheck(carm.joints)
        self._joints: deque[tuple[int, float, NDArray[np.float64], NDArray[np.float64]]]
        self._joints = deque(maxlen=_KEPT_JOINT_STATES)
        self.images: dict[int, Image] = {}
        self.infos: dict[int, CameraInfo] = {}
        self.doses: dict[int, float] = {}
        self.stamps: dict[float, Time] = {}
        self.expose = node.create_client(Expose, "xray/expose")
        self.find_point = node.create_client(FindPoint, "ct/find_point")
        self.find_bone = node.create_client(FindBone, "ct/bone_axes")
        self.stop = node.create_client(Trigger, "stop")
        self.localize = ActionClient(node, Localize, "localize")
        follow = f"{parameters.controller}/follow_joint_trajectory"
        self.follow = ActionClient(node, FollowJointTrajectory, follow)
        self.plans = node.create_publisher(PlannedMotion, "agent/plan", 5)
        self.controller_log = ControllerLog(node, follow)
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        small, large = {"largest": LARGEST_STATE}, {"largest": LARGEST_IMAGE}
        node.create_subscription(JointState, "joint_states", self._on_joints, 10, **small)
        node.create_subscription(CArmState, "state", self._on_state, latched, **small)
        node.create_subscription(Image, "xray/image", self._on_image, 2, **large)
        node.create_subscription(CameraInfo, "xray/camera_info", self._on_info, 2, **small)
        node.create_subscription(Exposure, "xray/exposure", self._on_exposure, 10, **small)

    def images_come(self) -> bool:
        """Whether images and their camera models are published, as far as this process knows."""
        return all(self.node.count_publishers(topic) for topic in ("xray/image", "xray/camera_info"))

    def _on_joints(self, message: JointState) -> None:
        try:
            read = joint_state(message, self._check, time.monotonic())
        except ImplausibleError as error:
            self._distrust(error)
            raise
        if read is None:
            self.counters.incomplete += 1
            return
        self.counters.joint_states += 1
        self._joints.append((nanoseconds(message.header.stamp), time.monotonic(), *read))
        self.interrupt.notify()

    def _distrust(self, error: ImplausibleError) -> None:
        """End what moves by joint states of which one cannot be true: which one is not known."""
        if not self.interrupt.tripped:
            senders = self.node.get_publishers_info_by_topic("joint_states")
            names = ", ".join(sorted({sender.node_name for sender in senders}))
            self.interrupt.lose(
                NoJointStatesError(f"the joint states cannot be trusted: {error}; they come from {names or 'nobody'}")
            )

    def _on_state(self, message: CArmState) -> None:
        self.state, self.state_time_s = arm_state(message), time.monotonic()
        if message.state in _LATCHED:
            self.on_stopped(message.message)
        self.interrupt.notify()

    def _on_image(self, message: Image) -> None:
        self.counters.images += 1
        self._keep(self.images, message, image(message))

    def _on_info(self, message: CameraInfo) -> None:
        self._keep(self.infos, message, camera_info(message))

    def _on_exposure(self, message: Exposure) -> None:
        dose = number("dose_area_product_gym2", message.dose_area_product_gym2, 0.0, _MOST_DOSE_GYM2, "Gy·m²")
        self._keep(self.doses, message, dose)

    def _keep(self, store: dict[int, Any], message: Any, value: Any) -> None:
        store[nanoseconds(message.header.stamp)] = value
        while len(store) > _KEPT_FRAMES:
            store.pop(next(iter(store)))
        self.interrupt.notify()

    @property
    def joint_states_known(self) -> bool:
        """Whether the last joint states are fresh, and none has contradicted another a moment ago."""
        now_s = time.monotonic()
        fresh = bool(self._joints) and now_s - self._joints[-1][1] <= self.parameters.joint_state_timeout_s
        return fresh and not self._check.in_doubt(now_s)

    @property
    def stopped(self) -> bool:
        """Whether a stop, or a fault of the drives, is latched."""
        return self.state is not None and self.state.state in _LATCHED

    def stays_stopped(self, interrupt: Interrupt) -> bool:
        """Whether a stop, or a fault, is latched; waits a moment for the news of a reset that came just before."""
        return self.stopped and not interrupt.wait_for(lambda: not self.stopped, _RESET_NEWS_S, uninterrupted=True)

    def joint_positions(self, stamp_ns: int | None = None) -> NDArray[np.float64]:
        """Return the joint positions (J,) now, or nearest to a stamp, m or rad.

        Raises:
            NoJointStatesError: There are none, or they are too old.
        """
        known = list(self._joints)
        if known and self._check.in_doubt(time.monotonic()):
            raise NoJointStatesError("the joint positions are unknown: joint_states contradict each other")
        if not known or not self.joint_states_known:
            age = f"the last came {time.monotonic() - known[-1][1]:.1f} s ago" if known else "none came so far"
            raise NoJointStatesError(f"the joint positions are unknown: no joint_states ({age})")
        if stamp_ns is None:
            return known[-1][2].copy()
        nearest = min(known, key=lambda state: abs(state[0] - stamp_ns))
        away_s = abs(nearest[0] - stamp_ns) * 1e-9
        if away_s > _IMAGE_AGE_S:
            raise NoJointStatesError(f"the nearest joint states are {away_s:.2f} s away from the image")
        return nearest[2].copy()

    def at_rest(self, since_s: float) -> bool:
        """Return whether something that came after ``since_s`` (monotonic, s) says that the arm is at rest."""
        if self.state is not None and time.monotonic() - self.state_time_s < _FRESH_STATE_S:
            return self.state_time_s > since_s and self.state.state in _AT_REST
        known = list(self._joints)[-1:]
        return bool(known) and known[0][1] > since_s and bool(np.abs(known[0][3]).max() < _REST_VELOCITY)


class RosClock(Clock):
    """The node's time, which may be simulated."""

    def __init__(self, node: Node) -> None:
        """Read a node's clock.

        Args:
            node: The node.
        """
        self._clock = node.get_clock()

    def now_s(self) -> float:
        """Return the node's time in s."""
        return float(self._clock.now().nanoseconds) * 1e-9


class _Port:
    """What the ports share: waiting for futures and servers."""

    def __init__(self, graph: CArmGraph, interrupt: Interrupt) -> None:
        self._graph = graph
        self._interrupt = interrupt
        self._parameters = graph.parameters

    def _wait_future(self, future: Any, timeout_s: float, *, uninterrupted: bool = False) -> bool:
        """Return whether a future has come to its end in time.

        What came too late, because this process stood still, is dropped like what did not come.
        """
        future.add_done_callback(lambda _: self._interrupt.notify())
        deadline_s = time.monotonic() + timeout_s + _LATE_S
        held = self._interrupt.wait_for(future.done, timeout_s, uninterrupted=uninterrupted)
        return held and time.monotonic() <= deadline_s

    def _wait_server(self, is_ready: Callable[[], bool], error: CarmError) -> None:
        deadline_s = time.monotonic() + self._parameters.server_timeout_s
        while not is_ready():
            if time.monotonic() > deadline_s:
                raise error
            self._interrupt.wait_for(lambda: False, 0.02)

    def _joint_positions(self, stamp_ns: int | None = None) -> NDArray[np.float64]:
        if not self._graph.joint_states_known:
            self._interrupt.wait_for(lambda: self._graph.joint_states_known, self._parameters.joint_state_timeout_s)
        return self._graph.joint_positions(stamp_ns)


class RosImager(_Port, Imager):
    """Exposes by ``xray/expose``; the image comes on ``xray/image``."""

    def expose(self, field_mm: float = 0.0) -> Acquisition:
        """See ``Imager.expose``."""
        graph, timeout_s = self._graph, self._parameters.image_timeout_s
        name = graph.expose.srv_name
        missing = ImagingError(
            f"no X-ray system: service {name} did not appear in {self._parameters.server_timeout_s} s"
        )
        self._wait_server(graph.expose.service_is_ready, missing)
        self._interrupt.wait_for(graph.images_come, self._parameters.server_timeout_s)  # else an image may be lost
        with graph.counters.exposures:
            return self._expose(field_mm, timeout_s)

    def _expose(self, field_mm: float, timeout_s: float) -> Acquisition:
        graph, name = self._graph, self._graph.expose.srv_name
        asked_ns = graph.node.get_clock().now().nanoseconds
        side_m = field_mm / 1000.0
        future = graph.expose.call_async(Expose.Request(field=[side_m, side_m]))
        if not self._wait_future(future, timeout_s):
            raise ImagingError(f"{name} did not answer in {timeout_s} s")
        response = future.result()
        if response.error_code == Expose.Request.ERROR_FLUOROSCOPY_ACTIVE:
            return self._frame(lambda: next((stamp for stamp in list(graph.images) if stamp > asked_ns), None))
        if response.error_code == Expose.Request.ERROR_STOPPED:
            raise StoppedError(response.error_msg)
        if not response.success:
            raise ImagingError(f"{name} failed: {response.error_msg or f'error code {response.error_code}'}")
        stamp_ns = nanoseconds(response.stamp)
        return self._frame(lambda: stamp_ns)

    def _frame(self, wanted: Callable[[], int | None]) -> Acquisition:
        graph, timeout_s = self._graph, self._parameters.image_timeout_s
        if not self._interrupt.wait_for(lambda: wanted() in graph.images and wanted() in graph.infos, timeout_s):
            raise ImagingError(f"no X-ray image with its camera info came in {timeout_s} s after the exposure")
        stamp_ns = wanted()
        assert stamp_ns is not None
        image, info = graph.images[stamp_ns], graph.infos[stamp_ns]
        self._interrupt.wait_for(lambda: stamp_ns in graph.doses, _POLL_S)
        try:
            frame = frame_from_messages(image, info, graph.carm, self._joint_positions(stamp_ns))
        except ImageError as error:
            raise ImagingError(f"the X-ray image cannot be used: {error}") from error
        graph.stamps = {frame.stamp_s: image.header.stamp}
        return Acquisition(frame, graph.doses.get(stamp_ns, float("nan")))


class RosLocalizer(_Port, Localizer):
    """Asks the localizer node by the action ``localize``."""

    name = "localize"

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """See ``Localizer.localize``.

        Raises:
            LocalizerError: The localizer is not there, or did not answer in time.
            InterruptedTaskError: The task is to end; the request is canceled.
        """
        graph, parameters = self._graph, self._parameters
        missing = LocalizerError(f"no localizer: action localize did not appear in {parameters.server_timeout_s} s")
        self._wait_server(graph.localize.server_is_ready, missing)
        goal = Localize.Goal(
            target_id=query.target_id or 0, protocol=query.protocol.value, hint=query.hint, correction=query.correction
        )
        if query.point_mm is not None:
            goal.at_point, goal.point = True, point_message(query.point_mm)
        if frame.stamp_s in graph.stamps:
            goal.stamp = graph.stamps[frame.stamp_s]
        deadline_s = time.monotonic() + parameters.image_timeout_s
        while True:
            with graph.counters.answers:
                result = self._ask(goal)
            if result.error_code != Localize.Result.ERROR_NO_FRAME or time.monotonic() > deadline_s:
                break
            self._interrupt.wait_for(lambda: False, _RESEND_S)  # the frame is still on its way to the localizer
        if result.error_code == Localize.Result.ERROR_INVALID_GOAL:
            raise LocalizerError(f"the localizer refuses the question: {result.error_msg}")
        asked_ns, told_ns = nanoseconds(goal.stamp), nanoseconds(result.landmarks.header.stamp)
        if asked_ns and told_ns and asked_ns != told_ns:
            graph.counters.late_answers += 1
            raise LocalizerError(
                f"the localizer answered about the image of {told_ns} ns, not about that of {asked_ns} ns"
            )
        try:
            return localization_from_result(result, query)
        except ImplausibleError as error:
            raise LocalizerError(str(error)) from error

    def _ask(self, goal: Any) -> Any:
        number = self._graph.heartbeat.begin()
        try:
            return self._answer(goal, number)
        finally:
            self._graph.heartbeat.end(number)

    def _answer(self, goal: Any, number: UUID) -> Any:
        parameters = self._parameters
        sent = ask(self._graph.node, lambda: self._graph.localize.send_goal_async(goal, goal_uuid=number))
        try:
            if not self._wait_future(sent, parameters.server_timeout_s):
                raise LocalizerError(f"the localizer did not take the question in {parameters.server_timeout_s} s")
        except CarmError:
            cancel(self._graph.node, sent)
            raise
        handle = sent.result()
        if not handle.accepted:
            raise LocalizerError("the localizer refuses the question")
        answered = ask(self._graph.node, handle.get_result_async)
        until_s = time.monotonic() + parameters.localizer_timeout_s
        try:
            while not self._wait_future(answered, _WATCH_S):
                if not self._graph.localize.server_is_ready():
                    raise LocalizerError("the localizer went away while it was asked")
                if time.monotonic() > until_s:
                    raise LocalizerError(f"the localizer did not answer in {parameters.localizer_timeout_s} s")
        except CarmError:
            self._graph.counters.given_up(answered)
            cancel(self._graph.node, sent)
            raise
        return answered.result().result


class RosCt(_Port):
    """Asks the localizer node what it knows of the patient's CT."""

    def check(self, point_mm: tuple[float, float, float]) -> None:
        """Check that a point, LPS, mm, is one of the CT.

        Raises:
            GoalError: It is outside the CT, or the localizer knows no CT.
            LocalizerError: The localizer does not answer.
            InterruptedTaskError: The task is to end.
        """
        self._ask(self._graph.find_point, FindPoint.Request(point=point_message(point_mm)))

    def axes_of(self, bone: str) -> BoneAxes:
        """Return the axes of a bone by the registered CT, else by the landmarks of the last images, ``table``, mm.

        Raises:
            GoalError: They are not known; the localizer's reason.
            LocalizerError: The localizer does not answer, or not with axes.
            InterruptedTaskError: The task is to end.
        """
        answer = self._ask(self._graph.find_bone, FindBone.Request(bone=bone))
        pose, std = answer.pose, answer.std
        place, turn = pose.position, pose.orientation
        origin = numbers("position", (place.x, place.y, place.z), -_FURTHEST_M, _FURTHEST_M, "m", count=3)
        try:
            quaternion = numbers("orientation", (turn.x, turn.y, turn.z, turn.w), -2.0, 2.0, count=4)
            rotation = Rotation.from_quat(quaternion).as_matrix()
        except ValueError as error:
            raise LocalizerError(f"the localizer's axes of {bone} are none: {error}") from error
        (std_rad,) = numbers("std", (std,), 0.0, math.pi, "rad", count=1)
        return BoneAxes(bone, 1000.0 * origin, rotation, answer.method[:_LONGEST_METHOD], math.degrees(float(std_rad)))

    def _ask(self, client: Any, request: Any) -> Any:
        timeout_s = self._parameters.server_timeout_s
        missing = LocalizerError(f"no localizer: service {client.srv_name} did not appear in {timeout_s} s")
        self._wait_server(client.service_is_ready, missing)
        future = client.call_async(request)
        if not self._wait_future(future, timeout_s):
            raise LocalizerError(f"{client.srv_name} did not answer in {timeout_s} s")
        if not future.result().success:
            raise GoalError(future.result().error_msg or "the localizer refuses")
        return future.result()


class RosArm(_Port, Arm):
    """Moves by the trajectory controller's action ``follow_joint_trajectory``."""

    def __init__(
        self, graph: CArmGraph, interrupt: Interrupt, progress: Callable[[float], None] = lambda share: None
    ) -> None:
        """Move for one task.

        Args:
            graph: The other nodes.
            interrupt: Ends the task.
            progress: Told the share of the trajectory's time that has passed, 0 to 1.
        """
        super().__init__(graph, interrupt)
        self._progress = progress
        self._clock = RosClock(graph.node)

    def joint_positions(self) -> NDArray[np.float64]:
        """See ``Arm.joint_positions``."""
        return self._joint_positions()

    def announce(self, plan: Plan) -> None:
        """See ``Arm.announce``; on the topic ``agent/plan``."""
        self._graph.plans.publish(planned_motion(plan, self._graph.node.get_clock().now().to_msg()))

    def execute(self, trajectory: Trajectory) -> None:
        """See ``Arm.execute``."""
        graph, timeout_s = self._graph, self._parameters.server_timeout_s
        if graph.stopped:
            raise StoppedError("stop is latched; reset first")
        name = f"{self._parameters.controller}/follow_joint_trajectory"
        self._wait_server(
            graph.follow.server_is_ready,
            RejectedTrajectoryError(f"no trajectory controller: action {name} did not appear in {timeout_s} s"),
        )
        until_s = time.monotonic() + _PERMIT_PATIENCE_S
        while not self._ran(trajectory, until_s):
            self._interrupt.wait_for(lambda: False, _ASK_AGAIN_S)
            self._interrupt.check()

    def _ran(self, trajectory: Trajectory, until_s: float) -> bool:
        """Run a trajectory; return False where it was refused only because no motion is allowed just now."""
        number = self._graph.heartbeat.begin()
        try:
            self._run(trajectory, number)
        except RejectedTrajectoryError as error:  # joint states or a permit that came late, on a busy machine
            if NO_MOTION_NOW not in str(error) or time.monotonic() >= until_s:
                raise
            return False
        finally:
            self._graph.heartbeat.end(number)
        return True

    def _run(self, trajectory: Trajectory, number: UUID) -> None:
        graph, timeout_s = self._graph, self._parameters.server_timeout_s
        name = f"{self._parameters.controller}/follow_joint_trajectory"
        goal = FollowJointTrajectory.Goal(trajectory=trajectory_message(trajectory))

        def send() -> Future:
            self._interrupt.check()
            return graph.follow.send_goal_async(
                goal, lambda message: along.append(seconds(message.feedback.desired.time_from_start)), number
            )

        along: deque[float] = deque([0.0], maxlen=1)
        asked_s = time.monotonic()
        sent = ask(graph.node, send)
        sent_s = self._clock.now_s()
        if not self._wait_future(sent, timeout_s, uninterrupted=True):
            cancel(graph.node, sent)
            raise NotAtRestError(f"{name} did not accept or refuse the trajectory in {timeout_s} s")
        handle = sent.result()
        graph.counters.trajectories += 1
        if not handle.accepted:
            graph.counters.refused += 1
            self._raise_if_stopped()
            raise RejectedTrajectoryError(f"{name} refused the trajectory{self._reason(asked_s)}")
        done = ask(graph.node, handle.get_result_async)
        try:
            self._follow(done, trajectory.duration_s, sent_s, along)
        except CarmError:
            cancel(graph.node, sent)
            self._wait_future(done, self._parameters.rest_timeout_s, uninterrupted=True)
            self._wait_rest()
            raise
        self._judge(done.result(), begun=along[-1] > 0.0)

    def _reason(self, asked_s: float) -> str:
        """Wait for the controller to log why it rejected a goal."""
        log = self._graph.controller_log
        self._interrupt.wait_for(lambda: bool(log.since(asked_s)), _REASON_S, uninterrupted=True)
        reason = log.since(asked_s)
        return f": {reason}" if reason else "; its log may say why"

    def _follow(self, done: Any, duration_s: float, sent_s: float, along: deque[float]) -> None:
        """Wait for the end of a motion; a controller whose speed is scaled is given time while the motion goes on.

        Args:
            done: Future of the result.
            duration_s: Of the trajectory, s.
            sent_s: When it was sent, s.
            along: How far along the trajectory the controller said last that it is, s.
        """
        done.add_done_callback(lambda _: self._interrupt.notify())
        reached_s, limit_s = 0.0, duration_s + self._parameters.motion_timeout_s
        while not self._interrupt.wait_for(done.done, _POLL_S):
            elapsed_s = self._clock.now_s() - sent_s
            if along[-1] > reached_s:
                reached_s = along[-1]
                limit_s = max(limit_s, elapsed_s + duration_s - reached_s + self._parameters.motion_timeout_s)
            self._progress(min(1.0, max(0.0, (reached_s or elapsed_s) / duration_s)))
            if elapsed_s > limit_s:
                raise MotionError(f"the motion of {duration_s:.1f} s did not end in {elapsed_s:.1f} s; it was canceled")
        self._progress(1.0)

    def _judge(self, outcome: Any, begun: bool) -> None:
        result = outcome.result
        if outcome.status == GoalStatus.STATUS_SUCCEEDED and result.error_code == result.SUCCESSFUL:
            self._wait_rest()
            self._interrupt.check()
            return
        self._raise_if_stopped()
        self._wait_rest()
        reason = result.error_string or f"error code {result.error_code}"
        refusals = (result.INVALID_GOAL, result.INVALID_JOINTS, result.OLD_HEADER_TIMESTAMP)
        if result.error_code in refusals and not begun:
            raise RejectedTrajectoryError(f"the trajectory controller refused: {reason}")
        raise MotionError(f"the trajectory controller gave up: {reason}")

    def _raise_if_stopped(self) -> None:
        """Wait for the next word on the state; it tells a stop from other ends of a motion."""
        now_s = time.monotonic()
        self._interrupt.wait_for(lambda: self._graph.state_time_s > now_s, _FRESH_STATE_S, uninterrupted=True)
        if self._graph.state is not None and self._graph.state.state in _STOPPED:
            self._wait_rest()
            raise StoppedError(self._graph.state.message or "stop was pressed")

    def _wait_rest(self) -> None:
        now_s, timeout_s = time.monotonic(), self._parameters.rest_timeout_s
        if not self._interrupt.wait_for(lambda: self._graph.at_rest(now_s), timeout_s, uninterrupted=True):
            raise NotAtRestError(f"nothing says that the arm came to rest within {timeout_s} s after its motion")
