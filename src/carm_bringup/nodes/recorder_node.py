# SPDX-License-Identifier: Apache-2.0
"""Recorder: every topic of the graph into a bag, with definitions, parameters, versions and the model's hash.

Messages are not decoded on their way into the bag. Twice a second everything is handed to the operating system.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import rclpy
from carm_interfaces.msg import LandmarkArray
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import parameter_value_to_python
from rclpy.parameter_client import AsyncParameterClient
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message
from rclpy.signals import SignalHandlerOptions

from carm_bringup.dicom_export.collector import ExposureCollector
from carm_bringup.recording.bag import message_definitions, provenance, topics
from carm_bringup.recording.bag.writer import BagWriter
from carm_bringup.recording.errors import SchemaError
from carm_bringup.security.access import RECORDER
from carm_core.errors import CarmError
from carm_ros.messages import diagnostics
from carm_ros.middleware import prepare_middleware
from carm_ros.security import enclave_arguments

_FLUSH_S = 0.5
_DISCOVERY_S = 0.2
_PARAMETERS_S = 1.0
_DIAGNOSTICS_S = 1.0
_DEPTH = 1000
_IMAGE_DEPTH = 50
_DRAIN_S = 0.5
_SILENCE_S = 5.0
_JOINT_STATES = "sensor_msgs/msg/JointState"
_DEAF = "joint states are published, but none arrives: stop this recording and start it again"
_LANDMARKS = "carm_interfaces/msg/LandmarkArray"


@dataclass(frozen=True)
class RecorderOptions:
    """What to record.

    Attributes:
        folder: The bag; must not exist.
        namespace: Namespace of the graph.
        include: Pattern of topics to record besides.
        exclude: Pattern of topics to leave out.
        duration_s: End by itself after this time, s; 0: never.
        dicom: Folder for DICOM files; None: none are written.
    """

    folder: Path
    namespace: str = "/carm"
    include: str = ""
    exclude: str = ""
    duration_s: float = 0.0
    dicom: Path | None = None


class RecorderNode(Node):
    """Subscribes to what there is, as it appears."""

    def __init__(self, options: RecorderOptions) -> None:
        """Create the bag and begin.

        Args:
            options: What to record.

        Raises:
            CarmError: The bag cannot be created.
        """
        super().__init__("recorder_node", namespace=options.namespace, start_parameter_services=False)
        self._options = options
        self._collector = None if options.dicom is None else ExposureCollector(options.dicom)
        self.bag = BagWriter(options.folder)
        self._skipped: set[str] = set()
        self._asked: dict[str, AsyncParameterClient] = {}
        self._model = ("", "")
        self._counted = (time.monotonic(), 0)
        self._longest_s = 0.0
        self._awaited_since_s: dict[str, float] = {}
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        self._describe()
        self.create_timer(_DIAGNOSTICS_S, self._publish_diagnostics, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_timer(_FLUSH_S, self.bag.flush)
        self.create_timer(_DISCOVERY_S, self._discover)
        self.create_timer(_PARAMETERS_S, self._ask_parameters)

    @property
    def topics(self) -> int:
        """Number of topics that are recorded."""
        return len(list(self.subscriptions))

    @property
    def skipped_exposures(self) -> int:
        """Number of exposures that are not written as DICOM."""
        return 0 if self._collector is None else self._collector.skipped

    @property
    def deaf(self) -> bool:
        """Whether joint states have had a publisher for seconds, but none has ever arrived."""
        before_s = time.monotonic() - _SILENCE_S
        return any(since_s < before_s and self.count_publishers(t) for t, since_s in self._awaited_since_s.items())

    def close(self) -> None:
        """End the bag and the DICOM study.

        Raises:
            CarmError: One of them cannot be written.
        """
        self.bag.close()
        if self._collector is not None:
            self._collector.close()

    def _describe(self) -> None:
        origin = provenance.session_record()
        self.bag.add_record(provenance.SESSION, origin)
        self.bag.add_record(provenance.CARM_CONFIG, provenance.carm_config_record())
        for name, value in origin.items():
            self.bag.describe(name, value)

    def _discover(self) -> None:
        known = {subscription.topic_name for subscription in self.subscriptions}
        for topic, types in self.get_topic_names_and_types():
            if topic in known or topic in self._skipped or not self.count_publishers(topic):
                continue
            if not topics.is_wanted(topic, self._options.namespace, self._options.include, self._options.exclude):
                continue
            try:
                self._record(topic, types[0])
            except (SchemaError, ImportError, AttributeError) as error:
                self._skipped.add(topic)
                self.get_logger().warning(f"{topic} is not recorded: {' '.join(str(error).split())}")

    def _record(self, topic: str, type_name: str) -> None:
        kind = message_class(type_name)
        offered = [topics.offered_profile(info.qos_profile) for info in self.get_publishers_info_by_topic(topic)]
        text, type_hash = message_definitions.definition(type_name), message_definitions.type_hash(type_name)
        channel = self.bag.add_topic(topic, type_name, text, offered, type_hash)
        if type_name == _JOINT_STATES:
            self._awaited_since_s[topic] = time.monotonic()
        reliable, latched = topics.hears_all(offered)
        profile = QoSProfile(
            depth=_IMAGE_DEPTH if type_name.endswith("Image") else _DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
        )
        prefix = self._options.namespace.rstrip("/") + "/"
        short = topic[len(prefix) :] if topic.startswith(prefix) else topic

        def on_message(data: bytes, info: dict[str, int]) -> None:
            received_ns = info["received_timestamp"] or time.time_ns()
            self._longest_s = max(self._longest_s, (time.time_ns() - received_ns) * 1e-9)
            self.bag.write(channel, data, received_ns, info["source_timestamp"] or None)
            self._awaited_since_s.pop(topic, None)
            if type_name == _LANDMARKS:
                self._watch_model(data)
            if self._collector is not None and self._collector.wants(short):
                self._collector.add(short, deserialize_message(data, kind))

        self.create_subscription(kind, topic, on_message, profile, raw=True)

    def _watch_model(self, data: bytes) -> None:
        message = deserialize_message(data, LandmarkArray)
        model = (message.localizer, message.model_version)
        if model != self._model:
            self._model = model
            self.bag.add_record(provenance.MODEL, {"localizer": model[0], "version": model[1]})
            self.bag.describe("model", f"{model[0]} {model[1]}".strip())

    def _publish_diagnostics(self) -> None:
        now_s, (then_s, before) = time.monotonic(), self._counted
        self._counted, longest_s, self._longest_s = (now_s, self.bag.messages), self._longest_s, 0.0
        values = {
            "messages (Hz)": f"{(self.bag.messages - before) / max(now_s - then_s, 1e-3):.1f}",
            "messages": str(self.bag.messages),
            "topics": str(self.topics),
            "topics left out": str(len(self._skipped)),
            "folder": self._options.folder.resolve().name,
            "longest wait in a queue (ms)": f"{1e3 * longest_s:.1f}",
        }
        level, text = DiagnosticStatus.OK, "recording"
        if self.deaf:
            level, text = DiagnosticStatus.ERROR, _DEAF
            self.get_logger().error(_DEAF, throttle_duration_sec=_SILENCE_S)
        name = f"{self.get_fully_qualified_name()}: recorder"
        self._diagnostics.publish(diagnostics(self.get_clock().now().to_msg(), name, level, text, values))

    def _ask_parameters(self) -> None:
        for name, namespace in self.get_node_names_and_namespaces():
            full = f"{namespace.rstrip('/')}/{name}"
            if namespace != self.get_namespace() or name == self.get_name() or name.startswith("_"):
                continue
            if full not in self._asked:
                self._asked[full] = AsyncParameterClient(self, full)
                self._await_parameters(full)

    def _await_parameters(self, node: str) -> None:
        """Ask a node for its parameters once it answers."""
        client = self._asked[node]

        def ask() -> None:
            if client.services_are_ready():
                self.destroy_timer(timer)
                client.list_parameters(callback=listed)

        def listed(answer: Any) -> None:
            if answer.result() is None:
                return
            names = list(answer.result().result.names)
            client.get_parameters(names, callback=lambda values: got(names, values))

        def got(names: list[str], answer: Any) -> None:
            if answer.result() is None:
                return
            values = [parameter_value_to_python(value) for value in answer.result().values]
            plain = {name: list(v) if hasattr(v, "tolist") else v for name, v in zip(names, values, strict=True)}
            self.bag.add_record(provenance.PARAMETERS + node, provenance.parameters_record(plain))

        timer = self.create_timer(_DISCOVERY_S, ask)


def message_class(type_name: str) -> Any:
    """Return the Python class of a message type, action feedback included.

    Raises:
        ImportError: Its package is not installed.
        AttributeError: The package has no such type.
    """
    package, kind, name = type_name.split("/")
    module = importlib.import_module(f"{package}.{kind}")
    if kind == "action" and name.endswith("_FeedbackMessage"):
        return getattr(module, name.removesuffix("_FeedbackMessage")).Impl.FeedbackMessage
    return getattr(module, name)


def record(options: RecorderOptions) -> int:
    """Record until SIGINT or SIGTERM, or until the time is over.

    Returns:
        Exit code: 0; 1 when the bag or a DICOM file could not be written to its end, or no joint state arrived.

    Raises:
        CarmError: The bag cannot be created.
    """
    closing = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: closing.set())
    if os.environ.get("ROS_DISCOVERY_SERVER"):  # it tells other clients only about the topics that they ask for
        os.environ.setdefault("ROS_SUPER_CLIENT", "TRUE")
    prepare_middleware()
    rclpy.init(
        args=enclave_arguments(options.namespace, RECORDER) or None, signal_handler_options=SignalHandlerOptions.NO
    )
    try:
        node = RecorderNode(options)
        print(f"recording to {options.folder} (Ctrl-C ends)", flush=True)
        return _spin(node, options, closing)
    finally:
        rclpy.try_shutdown()


def _spin(node: RecorderNode, options: RecorderOptions, closing: threading.Event) -> int:
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    begin = time.monotonic()
    try:
        while not closing.is_set() and not 0 < options.duration_s <= time.monotonic() - begin:
            executor.spin_once(timeout_sec=0.1)
        last = time.monotonic() + _DRAIN_S
        while time.monotonic() < last:
            executor.spin_once(timeout_sec=0.0)
        recorded, deaf = node.topics, node.deaf
        node.close()
    except CarmError as error:
        print(f"carm record: {error}", file=sys.stderr, flush=True)
        with contextlib.suppress(CarmError):
            node.bag.close()
        return 1
    finally:
        executor.remove_node(node)
        node.destroy_node()
    if node.skipped_exposures:
        print(f"{options.dicom}: {node.skipped_exposures} exposures without a known pose are not written")
    size = node.bag.file.stat().st_size
    print(f"{options.folder}: {node.bag.messages} messages of {recorded} topics, {size / 1e6:.1f} MB", flush=True)
    if deaf:
        print(f"carm record: {_DEAF}", file=sys.stderr, flush=True)
    return int(deaf)
