# SPDX-License-Identifier: Apache-2.0
"""Watch the graph come up and say in one line when it is ready, and what to do next.

Ready means: the motion node reports a state, the supervisor permits motion, an X-ray image has arrived, the localizer
has answered for it, and the agent lacks nothing: its diagnostics say so, and tasks are not refused anymore. Where an
exposure would be real, none is made: then the X-ray service and a loaded localizer count.
Run as a process of its own (``python -m carm_bringup.graph.readiness``) by the launcher and by the launch file.
"""

from __future__ import annotations

import argparse
import math
import shlex
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from carm_bringup.graph.domain_lock import domain_id
from carm_bringup.security.access import OPERATOR
from carm_core.paths import executable, workspace_prefix
from carm_ros.middleware import prepare_middleware
from carm_ros.security import enclave_arguments

EXIT_RUNNING_ALREADY = 3
EXIT_INTERRUPTED = 130
PROBE_S = 1.0
"""How long to listen for nodes of another graph, s. Discovery on one machine takes about 0.1 s."""
SLOW_S = 30.0
"""After this time a line says what is still missing, s."""
EXPOSE_AGAIN_S = 5.0
"""Ask for another first exposure when none has come for this long, s."""


@dataclass
class Progress:
    """What has been seen of the graph so far.

    Attributes:
        seen: Part -> seconds from the start to its first sign of life.
        parts: What has to be seen.
        notes: Part -> what it said last of why it is not ready.
    """

    seen: dict[str, float] = field(default_factory=dict)
    parts: tuple[str, ...] = ("motion", "supervisor", "X-ray image", "localizer", "agent")
    notes: dict[str, str] = field(default_factory=dict)

    def mark(self, part: str, now_s: float) -> None:
        """Note a sign of life; only the first counts."""
        self.seen.setdefault(part, now_s)

    @property
    def missing(self) -> tuple[str, ...]:
        """Parts not seen yet, in order."""
        return tuple(part for part in self.parts if part not in self.seen)

    @property
    def missing_text(self) -> str:
        """Parts not seen yet, each with what it says itself."""
        return ", ".join(part + (f" ({self.notes[part]})" if self.notes.get(part) else "") for part in self.missing)


def ready_line(seconds: float, patient: str, localizer: str, namespace: str = "/carm") -> str:
    """Return the line that tells the user what runs and what to do next: a command that works where it is typed."""
    what = f": {patient}, {localizer} localizer" if patient and localizer else ""
    where = f", domain {domain_id()}" if domain_id() else ""
    command = "ros2 run carm_bringup carm"
    if workspace_prefix() is None:
        path = executable("carm") or Path("carm")
        command = shlex.quote(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))
    option = "" if namespace == "/carm" else f" --namespace {namespace}"
    return f"Ready in {seconds:.1f} s{what}{where}. In a second terminal: {command} navigate carina{option}"


def probe(namespace: str) -> bool:
    """Return whether nodes of a graph are alive in this namespace and domain."""
    import rclpy
    from rclpy.node import Node

    prepare_middleware()
    rclpy.init(args=enclave_arguments(namespace, OPERATOR) or None)
    try:
        node = Node("carm_probe", namespace=namespace, start_parameter_services=False, enable_rosout=False)
        deadline = time.monotonic() + PROBE_S
        while time.monotonic() < deadline:
            rclpy.spin_once(node, timeout_sec=0.05)
            names = {name for name, space in node.get_node_names_and_namespaces() if space == namespace}
            if names & {"motion_node", "drive_node", "state_node"}:
                return True
        return False
    finally:
        rclpy.try_shutdown()


def answered(message: Any) -> bool:
    """Whether a ``LandmarkArray`` is an answer or an abstention, and no failure; an answer may carry a remark."""
    return bool(message.abstained or message.landmarks or not message.message)


def make_watcher(namespace: str, progress: Progress, start_s: float, exposes: bool = True) -> Any:
    """Return a node that notes the graph's signs of life.

    Args:
        namespace: ROS namespace, for example ``"/carm"``.
        progress: Filled in.
        start_s: Monotonic time of the launch, s.
        exposes: Ask for a first exposure and wait for its image and its landmarks.
    """
    from carm_interfaces.action import Navigate
    from carm_interfaces.msg import CArmState, LandmarkArray, MotionPermit
    from carm_interfaces.srv import Expose
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
    from rclpy.action import ActionClient
    from rclpy.node import Node
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from sensor_msgs.msg import CameraInfo

    class Watcher(Node):
        def __init__(self) -> None:
            super().__init__("readiness", namespace=namespace, start_parameter_services=False)
            latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
            self.create_subscription(CArmState, "state", self.on_state, latched)
            self.create_subscription(MotionPermit, "supervisor/permit", self.on_permit, 1)
            self.create_subscription(CameraInfo, "xray/camera_info", self.on_image, 2)
            self.create_subscription(LandmarkArray, "landmarks", self.on_landmarks, 10)
            self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 10)
            self.expose = self.create_client(Expose, "xray/expose")
            self.navigate = ActionClient(self, Navigate, "navigate")
            self.asked_s = float("-inf")
            self.create_timer(0.1, self.tick)

        def mark(self, part: str) -> None:
            progress.mark(part, time.monotonic() - start_s)

        def on_state(self, message: CArmState) -> None:
            if message.state != CArmState.STATE_STARTING:
                self.mark("motion")

        def on_permit(self, message: MotionPermit) -> None:
            progress.notes["supervisor"] = message.reason
            if message.speed > 0.0:
                self.mark("supervisor")

        def on_image(self, message: CameraInfo) -> None:
            self.mark("X-ray image")

        def on_landmarks(self, message: LandmarkArray) -> None:
            if answered(message):
                self.mark("localizer")
            progress.notes["localizer"] = message.message  # of a failure: a server that cannot be reached, for example

        def on_diagnostics(self, message: DiagnosticArray) -> None:
            loaded = f"{namespace}/localizer_node: localizer"
            for status in message.status:
                well = status.level == DiagnosticStatus.OK
                if status.name == loaded and well and not exposes:
                    self.mark("localizer")
                if (status.name, status.hardware_id) == ("carm_agent", namespace):
                    progress.notes["agent"] = status.message
                    if well and self.navigate.server_is_ready():
                        self.mark("agent")

        def tick(self) -> None:
            if not exposes:
                if self.expose.service_is_ready():
                    self.mark("X-ray")
                return
            listening = self.count_publishers("landmarks") > 0
            waiting = "localizer" in progress.missing and time.monotonic() - self.asked_s > EXPOSE_AGAIN_S
            if waiting and listening and "motion" in progress.seen and self.expose.service_is_ready():
                self.asked_s = time.monotonic()
                self.expose.call_async(Expose.Request()).add_done_callback(self.on_answer)

        def on_answer(self, future: Any) -> None:
            answer = future.result()
            progress.notes["X-ray image"] = "" if answer is None or answer.success else answer.error_msg

    return Watcher()


def watch(options: argparse.Namespace, start_s: float, timeout_s: float = math.inf) -> int:
    """Wait until the graph is ready and print a line; return 0, 1 on a timeout, or 130 when interrupted.

    Args:
        options: Has ``namespace``, and ``patient`` and ``localizer`` for the line that is printed.
        start_s: Monotonic time from which to count, s.
        timeout_s: Longest wait, s.
    """
    import rclpy
    from rclpy._rclpy_pybind11 import RCLError
    from rclpy.executors import ExternalShutdownException

    exposes = not (options.no_exposure or options.for_localizer)
    parts = ("localizer",) if options.for_localizer else ("motion", "supervisor", "X-ray", "localizer", "agent")
    progress = Progress() if exposes else Progress(parts=parts)
    prepare_middleware()
    rclpy.init(args=enclave_arguments(options.namespace, OPERATOR) or None)
    try:
        namespace = "/" + options.namespace.strip("/")
        watcher = make_watcher(namespace, progress, start_s, exposes)
        told = False
        while progress.missing:
            rclpy.spin_once(watcher, timeout_sec=0.1)
            if time.monotonic() - start_s > timeout_s:
                print(f"not ready within {timeout_s:g} s; missing: {progress.missing_text}", file=sys.stderr)
                return 1
            if not told and time.monotonic() - start_s > SLOW_S:
                told = True
                print(f"still waiting for: {progress.missing_text}", flush=True)
        if options.for_localizer:
            print(f"localizer ready in {time.monotonic() - start_s:.1f} s", flush=True)
            return 0
        seconds = time.monotonic() - start_s
        print(ready_line(seconds, options.patient, options.localizer, namespace), flush=True)
    except (KeyboardInterrupt, ExternalShutdownException):
        return EXIT_INTERRUPTED
    except RCLError:
        if rclpy.ok():
            raise
        return EXIT_INTERRUPTED  # the signal came in the middle of a call, which then has no context
    finally:
        rclpy.try_shutdown()
    return 0


def run(options: argparse.Namespace) -> int:
    """Run ``carm wait``."""
    code = watch(options, time.monotonic(), options.timeout)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends anyway; below `ros2 launch` Ctrl-C comes twice
    return code


def main() -> int:
    """Run the probe or the watch; return an exit code."""
    parser = argparse.ArgumentParser(prog="carm_bringup.graph.readiness")
    parser.add_argument("--probe", action="store_true", help="only check for a graph that is already running")
    parser.add_argument("--namespace", default="/carm")
    parser.add_argument("--since", type=float, default=time.monotonic(), help="monotonic time of the start, s")
    parser.add_argument("--patient", default="")
    parser.add_argument("--localizer", default="")
    parser.add_argument("--no-exposure", action="store_true", help="do not make a first exposure")
    parser.add_argument("--for-localizer", action="store_true", help="wait only for the localizer")
    options = parser.parse_args()
    if options.probe:
        return EXIT_RUNNING_ALREADY if probe(options.namespace) else 0
    code = watch(options, options.since)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return 0 if code == EXIT_INTERRUPTED else code  # the graph that it belongs to was ended


if __name__ == "__main__":
    sys.exit(main())
