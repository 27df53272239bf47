# SPDX-License-Identifier: Apache-2.0
"""What counts as the localizer's first answer."""

import argparse
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

import pytest
import rclpy
from carm_interfaces.msg import CArmState, Landmark, LandmarkArray
from carm_interfaces.srv import Expose
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile

from carm_bringup.graph import readiness
from carm_bringup.graph.readiness import answered, ready_line

REMARK = "language model and deep-learning localizer contradict each other about T1"


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        (LandmarkArray(landmarks=[Landmark()]), True),
        (LandmarkArray(landmarks=[Landmark()], message=REMARK), True),
        (LandmarkArray(abstained=True, message="no X-ray image"), True),
        (LandmarkArray(message="the server cannot be reached"), False),
    ],
)
def test_an_answer_with_a_remark_is_one_and_a_failure_is_none(message: LandmarkArray, counts: bool) -> None:
    assert answered(message) == counts


@pytest.mark.parametrize(
    ("namespace", "ending"), [("/carm", "navigate carina"), ("/lab/carm", "navigate carina --namespace /lab/carm")]
)
def test_the_ready_line_prints_a_command_that_works(namespace: str, ending: str) -> None:
    command, _, rest = ready_line(1.0, "chest_ct", "fused", namespace).rpartition(": ")[2].partition(" ")
    assert rest == ending
    assert Path(command).is_file()


def test_ctrl_c_ends_the_wait_with_130_and_the_line_of_a_graph_with_0(
    ros_domain: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(rclpy, "spin_once", press)
    monkeypatch.setattr(readiness.signal, "signal", lambda *_: None)
    options = argparse.Namespace(namespace="/carm", no_exposure=False, for_localizer=False, patient="", localizer="")
    assert readiness.watch(options, time.monotonic()) == 130
    monkeypatch.setattr(sys, "argv", ["readiness"])
    assert readiness.main() == 0


def refuse(_: Expose.Request, response: Expose.Response) -> Expose.Response:
    response.error_msg = "nothing is exposed, the arm is stopped: stop was pressed"
    return response


@pytest.mark.integration
def test_what_refuses_the_first_exposure_is_named(ros_domain: int, capsys: pytest.CaptureFixture[str]) -> None:
    context = rclpy.Context()
    context.init()
    bench = rclpy.create_node("bench", namespace="carm", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(bench)
    bench.create_publisher(LandmarkArray, "landmarks", 10)
    bench.create_service(Expose, "xray/expose", refuse)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    states = bench.create_publisher(CArmState, "state", latched)
    states.publish(CArmState(state=CArmState.STATE_STOPPED))
    thread = threading.Thread(target=executor.spin)
    thread.start()
    options = argparse.Namespace(namespace="/carm", no_exposure=False, for_localizer=False, patient="", localizer="")
    try:
        assert readiness.watch(options, time.monotonic(), timeout_s=4.0) == 1
    finally:
        executor.shutdown()
        context.shutdown()
        thread.join()
    assert "X-ray image (nothing is exposed, the arm is stopped: stop was pressed)" in capsys.readouterr().err
