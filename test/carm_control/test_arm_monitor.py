# SPDX-License-Identifier: Apache-2.0
"""What the monitor of an arm with a controller of its own says, and when goals are canceled."""

import math

import numpy as np

from carm_control import OperatingState, Permit
from carm_control.arm_monitor import ArmMonitor, StateParameters
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()


def monitor_of(**parameters: object) -> ArmMonitor:
    return ArmMonitor(CARM, StateParameters(**parameters))  # type: ignore[arg-type]


def test_starts_unknown_then_rests_then_moves() -> None:
    monitor = monitor_of()
    assert monitor.judge(0.0)[0] is OperatingState.STARTING
    monitor.observe(CARM.home, np.zeros(6), 1.0)
    assert monitor.judge(1.1)[0] is OperatingState.IDLE
    monitor.observe(CARM.home, np.array([0.0, 0.003, 0, 0, 0, 0]), 1.2)
    assert monitor.judge(1.2)[0] is OperatingState.MOVING
    monitor.observe(CARM.home, np.array([0.0, 0, 0, 0, 0, 0.004]), 1.3)
    assert monitor.judge(1.3)[0] is OperatingState.IDLE
    monitor.goals(True)
    assert monitor.judge(1.3)[0] is OperatingState.MOVING
    assert not monitor.must_cancel(1.3)


def test_stop_latches_until_a_reset_at_rest() -> None:
    monitor = monitor_of()
    monitor.observe(CARM.home, np.zeros(6), 0.0)
    monitor.goals(True)
    monitor.stop("stop was pressed")
    monitor.stop("again")
    assert monitor.must_cancel(0.1)
    assert monitor.judge(0.1) == (OperatingState.STOPPING, "stop was pressed")
    assert not monitor.reset(0.1)[0]
    monitor.goals(False)
    assert monitor.judge(0.1) == (OperatingState.STOPPED, "stop was pressed")
    monitor.goals(True)  # somebody sends another goal
    assert monitor.must_cancel(0.1)
    monitor.goals(False)
    assert monitor.reset(0.2) == (True, "ready")
    assert monitor.judge(0.2)[0] is OperatingState.IDLE


def test_silence_of_the_joints_stops_and_stays_stopped() -> None:
    monitor = monitor_of()
    monitor.observe(CARM.home, np.zeros(6), 0.0)
    monitor.goals(True)
    assert monitor.judge(0.6)[0] is OperatingState.FAULT
    assert monitor.must_cancel(0.6)
    assert not monitor.reset(0.7)[0]
    monitor.goals(False)
    monitor.observe(CARM.home, np.zeros(6), 0.8)
    assert monitor.judge(0.8)[0] is OperatingState.STOPPED
    assert monitor.reset(0.8)[0]


def test_silence_of_the_joints_at_rest_ends_by_itself_but_permits_no_goal() -> None:
    monitor = monitor_of()
    monitor.observe(CARM.home, np.zeros(6), 0.0)
    assert monitor.judge(0.6)[0] is OperatingState.FAULT
    monitor.observe(CARM.home, np.zeros(6), 0.8)  # such as after a second in which a starting graph kept this node busy
    assert monitor.judge(0.8)[0] is OperatingState.IDLE
    monitor.goals(True)
    assert monitor.must_cancel(1.4)
    assert monitor.judge(1.4)[0] is OperatingState.FAULT
    monitor.observe(CARM.home, np.zeros(6), 1.5)
    assert monitor.must_cancel(1.5), "a goal was there while nobody knew where the arm was"


def test_silence_of_moving_joints_latches_without_a_goal_too() -> None:
    monitor = monitor_of()
    monitor.observe(CARM.home, np.full(6, 0.1), 0.0)
    assert monitor.judge(0.6)[0] is OperatingState.FAULT
    monitor.observe(CARM.home, np.zeros(6), 0.7)
    assert monitor.judge(0.7)[0] is OperatingState.STOPPED


def test_reset_before_anything_is_known() -> None:
    monitor = monitor_of()
    assert monitor.reset(math.inf) == (True, "no stop was latched")
    monitor.stop("x")
    assert not monitor.reset(0.0)[0]


def test_goals_are_canceled_without_the_supervisors_permission() -> None:
    monitor = monitor_of(supervised=True)
    monitor.observe(CARM.home, np.zeros(6), 0.0)
    monitor.goals(True)
    assert monitor.must_cancel(0.0)
    assert monitor.judge(0.0)[0] is OperatingState.STOPPING
    assert monitor.permits.renew(Permit(1.0), 0.1)
    assert not monitor.must_cancel(0.2)
    assert monitor.judge(0.2) == (OperatingState.MOVING, "")
    assert monitor.permits.renew(Permit(0.0, "the patient is near"), 0.2)
    assert monitor.must_cancel(0.2)
    assert monitor.judge(0.2) == (OperatingState.STOPPING, "the patient is near")
    assert monitor.permits.renew(Permit(1.0), 0.3)
    monitor.observe(CARM.home, np.zeros(6), 0.9)
    assert monitor.must_cancel(0.9)
    monitor.goals(False)
    assert monitor.judge(0.9) == (OperatingState.IDLE, "")
