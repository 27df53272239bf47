# SPDX-License-Identifier: Apache-2.0
"""Client verbs of the ``carm`` command: they talk to a running graph. The one module here with rclpy verbs."""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import rclpy
from action_msgs.msg import GoalStatus
from carm_interfaces.action import MoveCArm, Navigate
from carm_interfaces.msg import CArmState, Utterance
from carm_interfaces.srv import Expose, FindPoint, PreviewXray, SavePosition
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point
from rclpy.action import ActionClient
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from carm_bringup.graph.description import ALL_NODES
from carm_bringup.graph.domain_lock import InstanceLock, domain_id
from carm_bringup.security.access import OPERATOR
from carm_core.errors import CarmError, GoalError, UnknownNameError
from carm_core.landmarks import find_landmark
from carm_core.localization import NEEDS_CT
from carm_ros.heartbeat import HeartbeatSender
from carm_ros.messages import point_message
from carm_ros.middleware import prepare_middleware
from carm_ros.security import enclave_arguments

SERVER_TIMEOUT_S = 5.0
"""How long to wait for the graph, s."""
ABSENT_S = 3.0
"""When nothing of a graph has shown up by then, there is none, s."""
UNSEEN_S = 1.0
"""How long to look for a graph elsewhere that may know a name, s."""
ASK_AGAIN_S = 0.5
"""How long to wait before a goal that came too early is sent again, s."""
AGENT_STATUS_S = 2.5
"""The agent says once a second whether it is ready, s."""
REST_TIMEOUT_S = 10.0
"""How long to wait for the arm to come to rest after a cancel, s."""
ANSWER_TIMEOUT_S = 10.0
"""How long to wait for the answer of a service, s."""
HOMING_TIMEOUT_S = 900.0
"""How long to wait for the reference runs of all joints, s; each has a limit of its own."""
READY_TIMEOUT_S = 90.0
"""How long a graph that was just started may take until it accepts a task, s."""
LAST_LINES_S = 3.0
"""How long to wait for the last lines after a result, s."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class ClientError(CarmError):
    """The graph is not there, does not answer or refuses."""


class GoalRefusedError(ClientError):
    """The server is present and refuses the goal, such as an agent that is not active yet."""


class Session:
    """A node that asks a running graph.

    Attributes:
        node: The ``rclpy`` node.
        pressed: Ctrl-C was pressed and nobody has heeded it yet.
    """

    def __init__(self, node: Node, wait_s: float = SERVER_TIMEOUT_S) -> None:
        """Wrap a node.

        Args:
            node: The ``rclpy`` node.
            wait_s: Longest wait for a graph that starts, s.
        """
        self.node = node
        self.wait_s = wait_s
        self.pressed = False
        self._heartbeat = HeartbeatSender(node, f"carm ({node.get_name()}, process {os.getpid()})")

    @property
    def is_there(self) -> bool:
        """Whether a graph runs or starts in this domain and namespace, on this machine or on another."""
        space = self.node.get_namespace()
        running = {name for name, where in self.node.get_node_names_and_namespaces() if where == space}
        return bool(running & {spec.name for spec in ALL_NODES}) or InstanceLock(domain_id(), space).held

    def spin_until(self, condition: Callable[[], bool], timeout_s: float = math.inf) -> bool:
        """Handle messages until the condition holds; return False on a timeout.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed, also where Python could not raise it at once: in a destructor.
        """
        deadline = time.monotonic() + timeout_s
        try:
            while not condition():
                if self.pressed:
                    raise KeyboardInterrupt
                if time.monotonic() >= deadline:
                    return False
                rclpy.spin_once(self.node, timeout_sec=0.05)
        except KeyboardInterrupt:
            self.pressed = False
            raise
        return True

    def press(self, number: int, stack: FrameType | None) -> None:
        """Handle SIGINT: note it, then raise as usual."""
        self.pressed = True
        signal.default_int_handler(number, stack)

    def result(self, future: Future, timeout_s: float, what: str) -> Any:
        """Return a future's result.

        Raises:
            ClientError: It did not come in time.
        """
        if not self.spin_until(future.done, timeout_s):
            raise ClientError(f"{what} did not answer within {timeout_s:g} s")
        return future.result()

    def require(self, ready: Callable[[], bool], what: str) -> None:
        """Wait for a server, up to ``wait_s`` if a graph is present that may still be starting.

        Raises:
            ClientError: It is not there.
        """
        began_s = time.monotonic()
        patient = self.wait_s > SERVER_TIMEOUT_S
        if self.spin_until(ready, ABSENT_S if patient else self.wait_s):
            return
        if patient and self.is_there:
            print(f"waiting for {what}: the graph is still starting (at most {self.wait_s:g} s)", flush=True)
            if self.spin_until(lambda: ready() or not self.is_there, self.wait_s - ABSENT_S) and ready():
                return
        raise ClientError(
            f"no {what} within {time.monotonic() - began_s:.0f} s in domain {domain_id()}, namespace "
            f"{self.node.get_namespace()}: is `make sim` running?"
        )

    def call(self, service_type: Any, name: str, request: Any, timeout_s: float = ANSWER_TIMEOUT_S) -> Any:
        """Call a service and wait for its answer, s.

        Raises:
            ClientError: There is no such service, or it does not answer.
        """
        client = self.node.create_client(service_type, name)
        self.require(client.service_is_ready, f"service {name}")
        return self.result(client.call_async(request), timeout_s, f"service {name}")

    def receive(self, message_type: Any, topic: str, qos: QoSProfile | int, timeout_s: float) -> Any:
        """Return the next message of a topic.

        Raises:
            ClientError: None came in time.
        """
        received: list[Any] = []
        subscription = self.node.create_subscription(message_type, topic, received.append, qos)
        try:
            if not self.spin_until(lambda: bool(received), timeout_s):
                raise ClientError(f"nothing on topic {topic} within {timeout_s:g} s: is `make sim` running?")
        finally:
            self.node.destroy_subscription(subscription)
        return received[0]

    def run_when_ready(self, action: Any, name: str, goal: Any, on_feedback: Callable[[Any], None]) -> Any:
        """As ``run_action``; a goal that comes too early for a graph that starts is sent again, up to ``wait_s``."""
        until_s = time.monotonic() + self.wait_s
        told = ""
        while True:
            try:
                outcome = self.run_action(action, name, goal, on_feedback)
            except GoalRefusedError as refusal:  # by an agent that is not active yet
                if time.monotonic() >= until_s:
                    raise
                if str(refusal) != told:
                    told = str(refusal)
                    print(f"waiting for the graph (at most {self.wait_s:g} s): {told}", flush=True)
                self.spin_until(lambda: False, ASK_AGAIN_S)
                continue
            result = outcome.result
            if result.error_code != action.Result.ERROR_NOT_READY or time.monotonic() >= until_s:
                return outcome
            if result.error_msg != told:
                told = result.error_msg
                print(f"waiting for the graph (at most {self.wait_s:g} s): {told}", flush=True)
            self.spin_until(lambda: False, ASK_AGAIN_S)

    def agent_ready(self) -> None:
        """Wait, up to ``wait_s``, while the agent says that the graph is not complete yet."""
        said: list[str] = []

        def on_diagnostics(message: DiagnosticArray) -> None:
            for status in message.status:
                if (status.name, status.hardware_id) == ("carm_agent", self.node.get_namespace()):
                    ready = {pair.key: pair.value for pair in status.values}.get("ready", "yes")
                    said.append("" if ready == "yes" else status.message)

        subscription = self.node.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, 10)
        try:
            if self.spin_until(lambda: bool(said), AGENT_STATUS_S) and said[-1]:
                print(f"waiting for the graph (at most {self.wait_s:g} s): {said[-1]}", flush=True)
                if not self.spin_until(lambda: not said[-1], self.wait_s):
                    raise ClientError(f"not ready within {self.wait_s:g} s: {said[-1]}")
        finally:
            self.node.destroy_subscription(subscription)

    def run_action(self, action: Any, name: str, goal: Any, on_feedback: Callable[[Any], None]) -> Any:
        """Send a goal and wait for its result; Ctrl-C cancels it and waits until the arm is at rest.

        The goal is renewed as long as this process runs: where it is killed or suspended, the arm decelerates.

        Returns:
            The wrapped result, with ``status`` and ``result``.

        Raises:
            ClientError: There is no server, or it refuses.
        """
        client = ActionClient(self.node, action, name)
        self.require(client.server_is_ready, f"action {name}")
        number = self._heartbeat.begin()
        try:
            sending = client.send_goal_async(goal, lambda m: on_feedback(m.feedback), number)
            handle = self.result(sending, ANSWER_TIMEOUT_S, f"action {name}")
            if not handle.accepted:
                raise GoalRefusedError(f"action {name} refused the goal")
            finished = handle.get_result_async()
            try:
                self.spin_until(finished.done)
            except KeyboardInterrupt:
                print("canceling, waiting for the arm to come to rest ...", flush=True)
                handle.cancel_goal_async()
                if not self.spin_until(finished.done, REST_TIMEOUT_S):
                    raise ClientError(f"no result within {REST_TIMEOUT_S:g} s after the cancel") from None
            return finished.result()
        finally:
            self._heartbeat.end(number)


@contextmanager
def session(namespace: str, wait_s: float = SERVER_TIMEOUT_S) -> Iterator[Session]:
    """Join the graph as a node for the length of a ``with`` block; ``wait_s`` as of ``Session``."""
    prepare_middleware()
    rclpy.init(args=enclave_arguments(namespace, OPERATOR) or None, signal_handler_options=SignalHandlerOptions.NO)
    node = Node("carm_command", namespace=namespace, start_parameter_services=False, enable_rosout=False)
    graph, before = Session(node, wait_s), signal.getsignal(signal.SIGINT)
    mine = before is signal.default_int_handler and threading.current_thread() is threading.main_thread()
    if mine:
        signal.signal(signal.SIGINT, graph.press)
    try:
        yield graph
    finally:
        if mine:
            signal.signal(signal.SIGINT, before)
        node.destroy_node()
        rclpy.try_shutdown()


def navigate(options: argparse.Namespace) -> int:
    """Bring a landmark, or a point of the CT, to the image center, with a line for each step."""
    name = " ".join(options.target)
    goal, unknown = (Navigate.Goal(at_point=True), None) if options.point is not None else _target(name)
    if options.point is not None:
        goal.point, name = point_message(options.point), "point of the CT"
    goal.tolerance = float(options.tolerance) / 1000.0
    goal.max_exposures = options.max_exposures
    goal.max_duration_s = float(options.max_duration)
    goal.biplane = options.biplane
    with session(options.namespace, options.wait) as graph:
        if unknown is not None:
            _aim_at_point(graph, goal, name, unknown)
        return _navigate(graph, goal, goal.target_name or name)


def _target(name: str) -> tuple[Any, UnknownNameError | None]:
    """Return a goal for a landmark, or a goal without a target and why: only a CT may know the name."""
    try:
        landmark = find_landmark(name)
    except UnknownNameError as error:
        return Navigate.Goal(), error
    return Navigate.Goal(target_id=landmark.id, target_name=landmark.name), None


def _aim_at_point(graph: Session, goal: Any, name: str, unknown: UnknownNameError) -> None:
    """Set a goal's target to a named point of the CT; errors are those of ``_named_point``."""
    goal.at_point, (goal.target_name, goal.point) = True, _named_point(graph, name, unknown)


def _named_point(graph: Session, name: str, unknown: UnknownNameError) -> tuple[str, Point]:
    """Return a name of the CT's landmark file as it is written there, and its place.

    Raises:
        UnknownNameError: There is no graph, or its localizer knows no CT.
        GoalError: The CT does not know it either.
        ClientError: The localizer does not answer yet.
    """
    client = graph.node.create_client(FindPoint, "ct/find_point")
    if not graph.spin_until(client.service_is_ready, UNSEEN_S) and not graph.is_there:
        raise unknown
    answer = graph.call(FindPoint, "ct/find_point", FindPoint.Request(name=name))
    if answer.success:
        return answer.name, answer.point
    if answer.error_code != FindPoint.Request.ERROR_NO_CT:
        raise GoalError(answer.error_msg)
    if answer.error_msg == NEEDS_CT:
        raise unknown
    raise ClientError(answer.error_msg)


def _navigate(graph: Session, goal: Any, name: str) -> int:
    shown: list[tuple[str, str]] = []

    def show(feedback: Any) -> None:
        line = (feedback.stage, feedback.reasoning)
        if shown and shown[-1] == line:
            return
        shown.append(line)
        distance = "" if math.isnan(feedback.distance) else f", {1000 * feedback.distance:.0f} mm away"
        print(f"[{feedback.stage}] {feedback.reasoning} ({_exposures(feedback.exposures)}{distance})", flush=True)

    outcome = graph.run_when_ready(Navigate, "navigate", goal, show)
    result = outcome.result
    succeeded = outcome.status == GoalStatus.STATUS_SUCCEEDED and result.error_code == Navigate.Result.ERROR_NONE
    print(result.summary or result.error_msg or ("done" if succeeded else "failed"))
    distance = "not seen" if math.isnan(result.final_distance) else f"{1000 * result.final_distance:.1f} mm"
    print(
        f"{name}: {distance} from the image center, {_exposures(result.exposures)}, "
        f"{1e6 * result.dose_area_product_gym2:.2f} µGy·m², {result.path_length:.3f} m, {result.duration_s:.1f} s"
    )
    if succeeded:
        return 0
    bad_input = (Navigate.Result.ERROR_UNKNOWN_TARGET, Navigate.Result.ERROR_INVALID_GOAL)
    return fail(result.error_msg or "navigation failed", result.error_code, result.error_code in bad_input)


def _exposures(number: int) -> str:
    return f"{number} exposure{'' if number == 1 else 's'}"


def navigate_when_ready(namespace: str, target_id: int, biplane: bool) -> tuple[list[str], Any]:
    """Navigate as soon as the graph is ready.

    Args:
        namespace: Of the graph.
        target_id: Landmark to be centered.
        biplane: In depth too.

    Returns:
        What the agent said, line by line, and the action's result.

    Raises:
        ClientError: The graph is not ready in time.
    """
    goal = Navigate.Goal(target_id=target_id, biplane=biplane)
    until_s = time.monotonic() + READY_TIMEOUT_S
    with session(namespace) as graph:
        while True:
            heard: list[Any] = []
            try:
                result = graph.run_action(Navigate, "navigate", goal, heard.append).result
            except ClientError:
                if time.monotonic() >= until_s:
                    raise
                continue
            if result.error_code != Navigate.Result.ERROR_NOT_READY:
                break
            if time.monotonic() >= until_s:
                raise ClientError(result.error_msg)
        arrived = -1
        while arrived != len(heard):  # feedback and result take different ways
            arrived = len(heard)
            graph.spin_until(partial(_more_than, heard, arrived), LAST_LINES_S)
    return [feedback.reasoning for feedback in heard], result


def _more_than(heard: list[Any], count: int) -> bool:
    return len(heard) > count


def fail(message: str, code: int, bad_input: bool = False) -> int:
    """Print why something failed; return exit code 1, or 2 if the request is invalid."""
    print(f"failed: {message} (error {code})", file=sys.stderr)
    return 2 if bad_input else 1


def angles(graph: Session, options: argparse.Namespace) -> tuple[float, float]:
    """Return the primary and secondary angle that were asked for, rad; one that was left out stays as it is."""
    asked = [None if degrees is None else math.radians(degrees) for degrees in (options.primary, options.secondary)]
    if None in asked:
        state = graph.receive(CArmState, "state", LATCHED, SERVER_TIMEOUT_S)
        present = (state.primary_angle, state.secondary_angle)
    else:
        present = (0.0, 0.0)
    primary, secondary = (there if angle is None else angle for angle, there in zip(asked, present, strict=True))
    return primary, secondary


def view(options: argparse.Namespace) -> int:
    """Move to a view: by name, angles, isocenter or the id of a previewed plan; or save and list positions."""
    words = " ".join(options.name)
    angles_given = options.primary is not None or options.secondary is not None
    if bool(words) + bool(options.run) + (angles_given or options.isocenter is not None) > 1:
        raise GoalError("give only one of: a name, angles and isocenter, or --run")
    if options.preview is not None and options.preview.suffix.lower() != ".png":
        raise GoalError(f"{options.preview}: the picture's name must end in .png")
    stored = [name for name in ("save", "forget", "list") if getattr(options, name)]
    moved = words or options.run or angles_given or options.isocenter is not None or options.at is not None
    if len(stored) > 1 or (stored and (moved or options.plan_only or options.preview is not None)):
        raise GoalError(f"--{stored[0]} cannot be combined with a view or with another of --save, --forget, --list")
    if not stored and not moved and not (options.plan_only or options.preview is not None):
        raise GoalError("say which view: a name (spider, RAO 30 CRAN 20), --at, --primary, --secondary, --isocenter")
    first, unknown = (None, None) if options.at is None else _target(options.at)
    with session(options.namespace, options.wait) as graph:
        if options.save or options.forget or options.list:
            return _positions(graph, options)
        if first is not None:
            if unknown is not None:
                _aim_at_point(graph, first, str(options.at), unknown)
            code = _navigate(graph, first, first.target_name)
            if code:
                return code
        goal = _view_goal(graph, options, words)
        result = graph.run_when_ready(MoveCArm, "move", goal, _progress()).result
        xray = _previewed(graph, result) if options.preview is not None else None
    if result.error_code != MoveCArm.Result.ERROR_NONE:
        bad_input = (MoveCArm.Result.ERROR_INVALID_GOAL, MoveCArm.Result.ERROR_JOINT_LIMIT)
        return fail(result.error_msg, result.error_code, result.error_code in bad_input)
    return _moved(result, options.preview, goal.plan_only) or _show_xray(xray, options.preview)


def _view_goal(graph: Session, options: argparse.Namespace, words: str) -> Any:
    goal = MoveCArm.Goal(goal_type=MoveCArm.Goal.GOAL_VIEW, plan_only=options.plan_only or options.preview is not None)
    if options.run:
        goal.goal_type, goal.plan_id = MoveCArm.Goal.GOAL_PLAN, options.run
    elif words:
        goal.goal_type, goal.name = MoveCArm.Goal.GOAL_NAMED, words
    else:
        goal.keep_isocenter = options.isocenter is None
        if options.isocenter is not None:
            goal.isocenter.x, goal.isocenter.y, goal.isocenter.z = options.isocenter
        goal.keep_angles = options.primary is None and options.secondary is None
        if not goal.keep_angles:
            goal.primary_angle, goal.secondary_angle = angles(graph, options)
    return goal


def _progress() -> Callable[[Any], None]:
    shown: set[str] = set()

    def show(feedback: Any) -> None:
        line = f"[{feedback.stage}] {10 * int(10 * feedback.progress)} %"
        if line not in shown:
            shown.add(line)
            print(line, flush=True)

    return show


def _moved(result: Any, preview: Path | None, planned: bool) -> int:
    """Print the result of a move or of its plan."""
    positions = zip(result.trajectory.joint_names, result.final_positions, strict=False)
    print(("planned: " if planned else "there: ") + ", ".join(f"{n} {p:z.4f}" for n, p in positions))
    clearance_mm = 1000 * result.min_clearance
    clearance = "" if math.isnan(clearance_mm) else f", smallest clearance {clearance_mm:z.0f} mm"
    print(f"{result.duration_s:.1f} s{clearance}")
    if result.warning:
        print(f"warning: {result.warning}")
    if planned and result.plan_id:
        print(f"run it: carm view --run {result.plan_id}")
    if preview is not None:
        if not result.preview_png:
            return fail("the agent sent no picture", 1)
        return _written(preview, result.preview_png)
    return 0


def _written(path: Path, data: Any) -> int:
    """Write a picture and print where; return the exit code."""
    try:
        path.write_bytes(bytes(data))
    except OSError as error:
        return fail(f"cannot write {path}: {error.strerror}", 1)
    print(path)
    return 0


def _previewed(graph: Session, result: Any) -> Any:
    """Return the localizer's answer about the registered CT's X-ray at the end of a plan; None: there is no answer."""
    client = graph.node.create_client(PreviewXray, "xray/preview")
    if result.error_code != MoveCArm.Result.ERROR_NONE or not graph.spin_until(client.service_is_ready, ABSENT_S):
        return None
    request = PreviewXray.Request(joint_names=result.trajectory.joint_names, positions=result.final_positions)
    return graph.call(PreviewXray, "xray/preview", request)


def _show_xray(answer: Any, preview: Path | None) -> int:
    """Write the X-ray beside the picture of the path, or say why there is none."""
    if preview is None:
        return 0
    if answer is None or not answer.success:
        print(f"no preview of the X-ray: {answer.error_msg if answer is not None else 'no localizer'}")
        return 0
    return _written(preview.with_name(f"{preview.stem}_xray.png"), answer.png)


def _positions(graph: Session, options: argparse.Namespace) -> int:
    """Save or forget a position, and list what is saved."""
    request = SavePosition.Request(name=options.save or options.forget or "", forget=bool(options.forget))
    answer = graph.call(SavePosition, "save_position", request)
    if answer.error_code != SavePosition.Response.ERROR_NONE:
        bad_input = (SavePosition.Response.ERROR_INVALID_NAME, SavePosition.Response.ERROR_UNKNOWN_NAME)
        return fail(answer.error_msg, answer.error_code, answer.error_code in bad_input)
    print(", ".join(answer.names) or "no positions are saved")
    return 0


def say(options: argparse.Namespace) -> int:
    """Send a sentence to the agent and print its answer; a stop and a question about status need no ready graph."""
    from carm_agent.dialogue.parser import Heard, Topic
    from carm_agent.llm import HeadCode

    text = " ".join(options.text)
    heard: list[Utterance] = []
    ends = (Utterance.KIND_RESULT, Utterance.KIND_QUESTION, Utterance.KIND_WARNING, Utterance.KIND_ANSWER)
    unfailing = ("", HeadCode.REPORTED.value)

    def on_utterance(message: Utterance) -> None:
        if message.in_reply_to in (text, "") or heard:
            heard.append(message)
            print(message.text + (f" ({message.reason})" if message.reason else ""), flush=True)

    with session(options.namespace, options.wait) as graph:
        publisher = graph.node.create_publisher(String, "clinician", 10)
        graph.node.create_subscription(Utterance, "agent/dialogue", on_utterance, 10)
        graph.require(
            lambda: publisher.get_subscription_count() > 0 and graph.node.count_publishers("agent/dialogue") > 0,
            "agent",
        )
        sentence = Heard(text)
        if not (sentence.is_stop or sentence.intent.topic is Topic.STATUS):
            graph.agent_ready()
        publisher.publish(String(data=text))
        ended = graph.spin_until(lambda: bool(heard) and heard[-1].kind in ends, options.wait)
    if not heard:
        raise ClientError(f"the agent did not answer within {options.wait:g} s")
    if not ended:
        raise ClientError(f"the agent has not finished within {options.wait:g} s; it continues")
    last = heard[-1]
    failed = last.kind == Utterance.KIND_RESULT and last.reason not in unfailing
    return 1 if failed or last.kind == Utterance.KIND_WARNING else 0


def trigger(options: argparse.Namespace) -> int:
    """Call ``stop``, ``reset`` or ``home``."""
    timeout_s = HOMING_TIMEOUT_S if options.verb == "home" else ANSWER_TIMEOUT_S
    with session(options.namespace) as graph:
        answer = graph.call(Trigger, options.verb, Trigger.Request(), timeout_s)
    if not answer.success:
        return fail(answer.message or f"{options.verb} was refused", 1)
    print(answer.message or f"{options.verb}: done")
    return 0


def snapshot(options: argparse.Namespace) -> int:
    """Take an exposure and save the display image as PNG."""
    from PIL import Image as Picture

    from carm_ros.image_messages import display_pixels

    path = Path(options.file)
    images: list[Image] = []
    with session(options.namespace) as graph:
        graph.node.create_subscription(Image, "xray/image", images.append, 2)
        graph.require(lambda: graph.node.count_publishers("xray/image") > 0, "topic xray/image")
        answer = graph.call(Expose, "xray/expose", Expose.Request())
        series = answer.error_code == Expose.Request.ERROR_FLUOROSCOPY_ACTIVE
        if not answer.success and not series:
            return fail(answer.error_msg, answer.error_code)
        wanted = (lambda m: True) if series else (lambda m: m.header.stamp == answer.stamp)
        if not graph.spin_until(lambda: any(map(wanted, images)), ANSWER_TIMEOUT_S):
            raise ClientError(f"no image within {ANSWER_TIMEOUT_S:g} s")
    image = next(filter(wanted, images))
    Picture.fromarray(display_pixels(image)).save(path)
    print(f"{path}: {image.width} x {image.height}")
    return 0
