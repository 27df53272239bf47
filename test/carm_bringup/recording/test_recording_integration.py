# SPDX-License-Identifier: Apache-2.0
"""`carm record` as a process: killed without warning, on a full disk, ended properly."""

import itertools
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from rosbags.highlevel import AnyReader

from carm_bringup.recording.bag.reader import read_bag

CARM = [sys.executable, "-c", "from carm_bringup.cli.app import main; main()"]
TALKER = [sys.executable, Path(__file__).parents[1] / "fakes" / "talker.py"]
JOINTS = "/carm/joint_states"
MUTE = f"""
import rclpy
from sensor_msgs.msg import JointState
rclpy.init()
node = rclpy.create_node("mute")
publisher = node.create_publisher(JointState, {JOINTS!r}, 10)
rclpy.spin(node)
"""
PATIENCE_S = 60.0
LOSS_NS = 1_000_000_000
FULL_BYTES = 300_000

pytestmark = pytest.mark.integration
Spawn = Callable[..., "subprocess.Popen[str]"]


def wait_for_messages(bag: Path, count: int) -> None:
    """Wait until the recorder has handed over a number of messages."""
    file, deadline = bag / "metadata.yaml", time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
        written = next((int(line.split()[-1]) for line in lines if line.startswith("  message_count:")), 0)
        if written >= count:
            return
        time.sleep(0.05)
    pytest.fail(f"{count} messages were not recorded within {PATIENCE_S} s")


@pytest.mark.serial
def test_a_killed_recorder_loses_a_second_at_most(spawn: Spawn, tmp_path: Path) -> None:
    spawn(TALKER)
    recorder = spawn([*CARM, "record", "--output", tmp_path / "bag"])
    wait_for_messages(tmp_path / "bag", 150)
    killed_ns = time.time_ns()
    os.killpg(recorder.pid, signal.SIGKILL)
    recorder.wait(timeout=PATIENCE_S)
    bag = read_bag(tmp_path / "bag")
    assert not bag.complete
    assert killed_ns - bag.end_ns < LOSS_NS
    stamps = [recorded.message.header.stamp for recorded in bag.of(JOINTS)]
    gaps = [b.sec - a.sec + (b.nanosec - a.nanosec) * 1e-9 for a, b in itertools.pairwise(stamps)]
    assert all(gap > 0 for gap in gaps)
    assert bag.records["session"]["carm"]


def test_a_full_disk_ends_the_recording_in_one_line(spawn: Spawn, tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, FULL_BYTES))

    spawn(TALKER)
    recorder = spawn([*CARM, "record", "--output", tmp_path / "bag"], preexec_fn=limit, stderr=subprocess.PIPE)
    _, errors = recorder.communicate(timeout=PATIENCE_S)
    assert recorder.returncode == 1
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line.startswith("carm record: recording ended: cannot write")]
    assert len(lines) == 1, errors
    assert len(read_bag(tmp_path / "bag").of(JOINTS)) > 10


def test_a_recorder_that_hears_nothing_says_so(spawn: Spawn, tmp_path: Path) -> None:
    spawn([sys.executable, "-c", MUTE])
    recorder = spawn([*CARM, "record", "--output", tmp_path / "bag", "--duration", "9"], stderr=subprocess.PIPE)
    _, errors = recorder.communicate(timeout=PATIENCE_S)
    assert recorder.returncode == 1
    assert "carm record: joint states are published, but none arrives" in errors


def test_exposures_become_a_dicom_study(spawn: Spawn, tmp_path: Path) -> None:
    study = tmp_path / "study"
    spawn(TALKER)
    recorder = spawn([*CARM, "record", "--output", tmp_path / "bag", "--dicom", study, "--exclude", "noise"])
    deadline = time.monotonic() + PATIENCE_S
    while len(list(study.glob("image_*.dcm"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    recorder.send_signal(signal.SIGINT)
    output, _ = recorder.communicate(timeout=PATIENCE_S)
    assert recorder.returncode == 0, output
    images = [pydicom.dcmread(file) for file in sorted(study.glob("image_*.dcm"))]
    assert len(images) >= 2
    report = pydicom.dcmread(study / "dose_report.dcm")
    named = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in named] == [image.SOPInstanceUID for image in images]


def test_a_recording_ended_by_hand_is_whole(spawn: Spawn, tmp_path: Path) -> None:
    spawn(TALKER)
    recorder = spawn([*CARM, "record", "--output", tmp_path / "bag", "--exclude", "noise"])
    wait_for_messages(tmp_path / "bag", 50)
    recorder.send_signal(signal.SIGINT)
    output, _ = recorder.communicate(timeout=PATIENCE_S)
    assert recorder.returncode == 0, output
    with AnyReader([tmp_path / "bag"]) as reader:
        assert JOINTS in reader.topics
        assert "/carm/noise" not in reader.topics
        for connection, _, data in reader.messages():
            reader.deserialize(data, connection.msgtype)
    bag = read_bag(tmp_path / "bag")
    assert bag.complete
    assert any(name.startswith("parameters /carm/talker") for name in bag.records)
