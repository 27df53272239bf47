# SPDX-License-Identifier: Apache-2.0
"""What counts as the localizer's first answer."""

import argparse
import sys
import time
from pathlib import Path
from typing import NoReturn

import pytest
import rclpy
from carm_interfaces.msg import Landmark, LandmarkArray

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
