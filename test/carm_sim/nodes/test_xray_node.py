# SPDX-License-Identifier: Apache-2.0
"""The X-ray node as a process of its own, driven over DDS as a client would."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import nibabel
import numpy as np
import pytest

from carm_core.imaging.projection import display_from_raw
from carm_core.robot.kinematics import CArm

pytest.importorskip("rclpy", reason="needs ROS 2")
import rclpy
from carm_interfaces.msg import CArmState, Exposure
from carm_interfaces.srv import Expose
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, JointState
from std_srvs.srv import Trigger

pytestmark = pytest.mark.integration
CARM = CArm.from_config()
NODE = (sys.executable, "-m", "carm_sim.nodes.xray_node", "--ros-args", "-p", "binning:=6")
PATIENCE_S = 30.0
TOPICS = {
    "xray/image": Image,
    "xray/image_raw": Image,
    "xray/image/compressed": CompressedImage,
    "xray/camera_info": CameraInfo,
    "xray/exposure": Exposure,
}
MISSED = CARM.home + np.array([0.6, 0.3, 0, 0, 0, 0])


def ns(stamp: Any) -> int:
    return int(stamp.sec) * 10**9 + int(stamp.nanosec)


class Client:
    """Stands in for the motion node and keeps what the X-ray node publishes, by stamp."""

    def __init__(self, domain: int) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("client", namespace="carm", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self.position = CARM.home
        self.heard: dict[str, dict[int, Any]] = {topic: {} for topic in TOPICS}
        self.arrived_ns: dict[int, int] = {}
        for topic, kind in TOPICS.items():
            self.node.create_subscription(kind, topic, self._keeper(topic), 10)
        self.health: list[DiagnosticArray] = []
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.health.append, 10)
        self.joint_states = self.node.create_publisher(JointState, "joint_states", 10)
        self.timer = self.node.create_timer(0.02, self._tick)
        self.service = self.node.create_client(Expose, "xray/expose")
        self.held = self.node.create_client(Expose, "xray/fluoroscopy")
        self.release = self.node.create_client(Trigger, "xray/fluoroscopy_end")
        self.parameters = self.node.create_client(SetParameters, "xray_node/set_parameters")

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)

    def _keeper(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            stamp = ns(message.header.stamp)
            self.heard[topic][stamp] = message
            self.arrived_ns.setdefault(stamp, time.time_ns())

        return keep

    def _tick(self) -> None:
        message = JointState(name=list(CARM.joint_names), position=self.position.tolist())
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.joint_states.publish(message)

    def until(self, condition: Callable[[], Any], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"no {what} in {PATIENCE_S} s"
            self.executor.spin_once(timeout_sec=0.05)

    def move(self, position: np.ndarray) -> None:
        """Jump, and let the X-ray node hear of it."""
        self.position = position
        count = 0

        def told() -> bool:
            nonlocal count
            count += 1
            return count > 20

        self.until(told, "joint states")

    def expose(self, **fields: Any) -> Expose.Response:
        self.until(self.service.service_is_ready, "service xray/expose")
        future = self.service.call_async(Expose.Request(**fields))
        self.until(future.done, "answer of xray/expose")
        return future.result()

    def hold(self, **fields: Any) -> Expose.Response:
        self.until(self.held.service_is_ready, "service xray/fluoroscopy")
        future = self.held.call_async(Expose.Request(**fields))
        self.until(future.done, "answer of xray/fluoroscopy")
        return future.result()

    def shot(self, **fields: Any) -> dict[str, Any]:
        """Expose and wait for everything that is published with the same stamp."""
        answer = self.expose(**fields)
        assert answer.success, answer.error_msg
        stamp = ns(answer.stamp)
        self.until(lambda: all(stamp in heard for heard in self.heard.values()), "complete set of messages")
        return {"answer": answer} | {topic: heard[stamp] for topic, heard in self.heard.items()}

    def set(self, name: str, value: float) -> Any:
        self.until(self.parameters.service_is_ready, "parameter service")
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        future = self.parameters.call_async(request)
        self.until(future.done, "answer of the parameter service")
        return future.result().results[0]


def pixels(message: Image) -> np.ndarray:
    kind = {"mono8": np.uint8, "mono16": np.uint16}[message.encoding]
    return np.frombuffer(message.data, kind).reshape(message.height, message.width)


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A block of water with a dense rod on the patient's left."""
    hu = np.full((60, 50, 60), -1000, np.int16)
    hu[5:55, 5:45, 5:55] = 0
    hu[38:41, 20:30, 5:55] = 2000  # the first index grows towards the left
    path = tmp_path_factory.mktemp("patient") / "block.nii.gz"
    nibabel.save(nibabel.Nifti1Image(hu, np.diag([-4.0, -4, 4, 1])), path)  # NIfTI is RAS, this is LPS
    return path


@pytest.fixture
def process(spawn: Callable[..., subprocess.Popen[str]], patient: Path) -> subprocess.Popen[str]:
    return spawn((*NODE, "-p", f"patient:={patient}", "-p", "air_kerma_alarm_gy:=1.0e-6"))


@pytest.fixture
def client(ros_domain: int, process: subprocess.Popen[str]) -> Iterator[Client]:
    made = Client(ros_domain)
    made.until(lambda: process.poll() is not None or made.expose().success, f"exposure (process: {process.poll()})")
    publishers = lambda topic: made.node.count_publishers(topic)  # noqa: E731
    made.until(lambda: all(publishers(topic) for topic in TOPICS), "publishers")
    yield made
    made.close()


def test_single_exposures_refusals_misses_and_fluoroscopy(client: Client, process: subprocess.Popen[str]) -> None:
    shot = client.shot()
    raw, shown = pixels(shot["xray/image_raw"]), pixels(shot["xray/image"])
    assert raw.shape == shown.shape == (256, 256)
    assert shot["xray/image"].header.frame_id == "xray_optical"
    decoded = cv2.imdecode(np.frombuffer(shot["xray/image/compressed"].data, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(decoded, shown)
    rod = shown[100:150].mean(0)
    assert 150 < int(np.argmax(rod)) < 250  # the patient's left is on the right of the display, and bone is bright
    darkest = int(np.argmin(display_from_raw(raw)[100:150].mean(0)))
    assert abs(darkest - int(np.argmax(rod))) < 20
    view = CARM.view(CARM.home, 6)
    np.testing.assert_allclose(np.reshape(shot["xray/camera_info"].k, (3, 3)), view.intrinsics)
    dose = shot["xray/exposure"]
    assert dose.sequence == shot["answer"].sequence
    assert list(dose.field_px) == [0, 0, 256, 256]
    assert not dose.fluoroscopy
    assert dose.cumulative_air_kerma_gy > dose.air_kerma_gy > 0

    part = client.shot(tube_voltage_kv=70.0, tube_charge_mas=0.2, field=[0.08, 0.04])["xray/exposure"]
    assert part.tube_voltage_kv == 70
    assert part.tube_current_ma * part.exposure_time_s == pytest.approx(0.2)
    assert part.field_px[2] - part.field_px[0] == pytest.approx(2 * (part.field_px[3] - part.field_px[1]), abs=3)

    for fields, words in (
        ({"tube_voltage_kv": 300.0}, "300.0 kV is outside [40, 125] kV"),
        ({"tube_charge_mas": 500.0}, "500.0 mAs is outside"),
        ({"field": [0.5, 0.1]}, "field width 0.5000 m is outside"),
        ({"field": [0.1, 0.0]}, "field height"),
    ):
        refusal = client.expose(**fields)
        assert (refusal.success, refusal.error_code) == (False, Expose.Request.ERROR_INVALID_REQUEST)
        assert words in refusal.error_msg

    client.move(MISSED)
    assert "no ray meets" in client.shot()["answer"].error_msg
    client.until(lambda: any("no ray meets" in m.status[0].message for m in client.health), "warning in diagnostics")
    client.move(CARM.home)
    assert client.shot()["answer"].error_msg == ""
    client.until(lambda: any("dose alarm" in m.status[0].message for m in client.health), "dose alarm in diagnostics")
    values = {pair.key: float(pair.value) for pair in client.health[-1].status[0].values if "(mGy)" in pair.key}
    assert values["cumulative air kerma (mGy)"] > 1e-3

    assert "out of range Min: 0.0, Max: 30.0" in client.set("rate_hz", 99.0).reason
    assert "read-only" in client.set("aluminum_mm", 5.0).reason
    assert client.set("fluoroscopy_voltage_kv", 81.0).successful
    assert client.set("detector_dose_ngy", 50.0).successful
    before = set(client.heard["xray/exposure"])
    assert client.set("rate_hz", 20.0).successful
    client.until(lambda: len(client.heard["xray/exposure"]) >= len(before) + 10, "fluoroscopy")
    assert client.expose().error_code == Expose.Request.ERROR_FLUOROSCOPY_ACTIVE
    assert client.set("rate_hz", 0.0).successful
    client.shot()
    series = [m for stamp, m in sorted(client.heard["xray/exposure"].items()) if stamp not in before]
    assert [m.fluoroscopy for m in series[:10]] == [True] * 10
    assert {m.tube_voltage_kv for m in series[:10]} == {81.0}
    late_s = [(client.arrived_ns[stamp] - stamp) * 1e-9 for stamp in sorted(client.arrived_ns) if stamp not in before]
    assert min(late_s[:10]) >= 0.9 / 20.0 - 1e-3  # the rhythm does not depend on how long an image takes
    sequence = [m.sequence for m in series]
    assert sequence == list(range(sequence[0], sequence[0] + len(series)))

    client.timer.cancel()
    client.until(lambda: client.expose().error_code == Expose.Request.ERROR_NO_JOINT_STATES, "refusal")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=5) == 0


def test_a_stop_ends_the_beam_and_no_request_is_served_late(client: Client, process: subprocess.Popen[str]) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    states = client.node.create_publisher(CArmState, "state", latched)
    client.until(states.get_subscription_count, "the node hears states")

    def tell(state: int) -> None:
        states.publish(CArmState(state=state, message="stop requested" if state else ""))

    def count() -> int:
        return len(client.heard["xray/exposure"])

    def quiet(for_s: float) -> bool:
        before, until_s = count(), time.monotonic() + for_s
        client.until(lambda: time.monotonic() > until_s, "time to pass")
        return count() == before

    # Fluoroscopy and waiting requests end with the motion.
    assert client.set("rate_hz", 10.0).successful
    client.until(lambda: count() >= 5, "fluoroscopy")
    tell(CArmState.STATE_STOPPED)
    client.until(
        lambda: client.health and "stopped: stop requested" in client.health[-1].status[0].message, "diagnostics"
    )
    assert quiet(0.5)
    answers = [client.service.call_async(Expose.Request()) for _ in range(8)]
    client.until(lambda: all(answer.done() for answer in answers), "answers")
    assert {answer.result().error_code for answer in answers} == {Expose.Request.ERROR_STOPPED}
    refused = client.set("rate_hz", 10.0)
    assert not refused.successful
    assert "stopped" in refused.reason
    tell(CArmState.STATE_IDLE)
    client.until(lambda: client.health and "stopped" not in client.health[-1].status[0].message, "diagnostics")
    assert quiet(0.5)  # it does not begin again by itself
    client.shot()
    answers = [client.service.call_async(Expose.Request()) for _ in range(8)]
    tell(CArmState.STATE_STOPPING)
    client.until(lambda: all(answer.done() for answer in answers), "answers")
    assert {answer.result().error_code for answer in answers} <= {0, Expose.Request.ERROR_STOPPED}
    assert quiet(0.3)
    tell(CArmState.STATE_IDLE)
    client.until(lambda: client.expose().error_code != Expose.Request.ERROR_STOPPED, "the end of the stop")
    client.shot()

    # Fluoroscopy that somebody holds is renewed, and ends without a renewal, when it is released, and with a stop.
    def held_for(images: int, **fields: Any) -> None:
        before = count()

        def enough() -> bool:
            answer = client.hold(**fields)
            assert answer.success, answer.error_msg
            return count() >= before + images

        client.until(enough, "images while it is held")

    assert "field width 0.5000 m" in client.hold(field=[0.5, 0.1]).error_msg
    held_for(4, field=[0.08, 0.04])
    assert client.expose().error_code == Expose.Request.ERROR_FLUOROSCOPY_ACTIVE
    last = client.heard["xray/exposure"][max(client.heard["xray/exposure"])]
    assert last.fluoroscopy
    assert last.field_px[2] - last.field_px[0] < 256
    client.until(lambda: quiet(1.0), "end without a renewal")
    assert client.expose().success
    held_for(2)
    future = client.release.call_async(Trigger.Request())
    client.until(future.done, "answer of xray/fluoroscopy_end")
    assert quiet(0.4)  # at once: what is being made is given up
    held_for(2)
    tell(CArmState.STATE_STOPPED)
    client.until(lambda: client.hold().error_code == Expose.Request.ERROR_STOPPED, "refusal")
    assert quiet(0.4)
    tell(CArmState.STATE_IDLE)
    client.until(lambda: client.expose().error_code != Expose.Request.ERROR_STOPPED, "the end of the stop")
    assert quiet(0.5)
    assert client.set("rate_hz", 5.0).successful
    assert "by the parameter rate_hz" in client.hold().error_msg
    assert client.set("rate_hz", 0.0).successful
    client.until(lambda: client.expose().success, "the end of the series")
    held_for(2)
    process.send_signal(signal.SIGSTOP)
    frozen_s = time.monotonic()
    client.until(lambda: time.monotonic() - frozen_s > 1.0, "time to pass")
    before = count()
    process.send_signal(signal.SIGCONT)
    assert quiet(0.5)
    assert count() <= before + 1

    # A node that stood still makes up for nothing.
    process.send_signal(signal.SIGSTOP)
    answer = client.service.call_async(Expose.Request())
    frozen_s = time.monotonic()
    client.until(lambda: time.monotonic() - frozen_s > 2.5, "time to pass")
    before = count()
    process.send_signal(signal.SIGCONT)
    client.until(answer.done, "answer")
    assert answer.result().error_code == Expose.Request.ERROR_TOO_OLD
    assert "more than 2 s" in answer.result().error_msg
    assert count() == before
    client.shot()

    # Joint states that cannot be true are not used.
    false = client.node.create_publisher(JointState, "joint_states", 10)
    client.until(false.get_subscription_count, "the node hears joint states")
    false.publish(JointState(name=list(CARM.joint_names), position=[float("inf")] * 6))
    client.until(
        lambda: any(pair.key == "refused from joint_states" for pair in client.health[-1].status[0].values), "count"
    )
    client.shot()
    assert client.expose(field=[float("nan"), 0.1]).error_code == Expose.Request.ERROR_INVALID_REQUEST


def test_bad_parameters_end_in_one_line_and_exit_code_2(start_each: Callable[..., list[tuple[int, str]]]) -> None:
    refusals = {
        "patient:=chest_tc": "did you mean 'chest_ct'?",
        "patient:=/nowhere/ct.nii.gz": "no such file",
        "binning:=5": "binning 5",
        "rate_hz:=-1.0": "rate_hz",
        "compressed_format:=gif": "gif",
    }
    ends = start_each("carm_sim.nodes.xray_node", list(refusals))
    for words, (code, output) in zip(refusals.values(), ends, strict=True):
        assert code == 2, output
        lines = [line for line in output.splitlines() if line.startswith("xray_node: ")]
        assert len(lines) == 1, output
        assert words in lines[0]
        assert "Traceback" not in output
