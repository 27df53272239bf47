# SPDX-License-Identifier: Apache-2.0
"""CiA 402 drives on a virtual CAN bus: tracking, homing, stops and the state machine, on a clock of their own."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("canopen", reason="needs the extra can")

from carm_control import GoalStatus, OperatingState
from carm_control.canopen import cia402
from carm_control.canopen.cia402 import DriveError, State
from carm_control.canopen.config import load_drives
from carm_control.canopen.drive_group import Phase

from .drive_rig import CARM, LIFT, Rig, homing, moving, only

Make = Callable[..., Rig]


def test_a_trajectory_is_tracked(rig: Rig) -> None:
    np.testing.assert_allclose(rig.history[-1].measured.position, CARM.home, atol=1e-5)
    begun = len(rig.history)
    rig.go(4.0, cart_longitudinal=0.15, cart_lateral=-0.1, tilt=0.6, orbital=-0.3)
    rig.until(lambda: rig.outcomes)
    assert rig.outcomes[-1].status is GoalStatus.SUCCEEDED
    goal = CARM.home + np.array([0.15, -0.1, 0, 0, 0.6, -0.3])
    np.testing.assert_allclose(rig.history[-1].measured.position, goal, atol=2e-4)
    desired = np.array([s.desired.position for s in rig.history[begun:]])
    measured = np.array([s.measured.position for s in rig.history[begun:]])
    lag = 1
    error = np.abs(desired[:-lag] - measured[lag:]).max(axis=0)
    assert error[:3].max() < 0.0005, error
    assert error[3:].max() < math.radians(0.2), error
    commands = [d.config.counts(q) for d, q in zip(rig.drives, goal, strict=True)]
    np.testing.assert_allclose([d.plant.measured for d in rig.drives], commands, atol=40)


@pytest.mark.parametrize("late_s", [0.02, 0.2])
def test_a_late_control_loop_makes_no_set_point_jump(rig: Rig, late_s: float) -> None:
    rig.go(4.0, cart_longitudinal=0.2, tilt=0.6)
    moving(rig, 0.06)
    for _ in range(round(late_s / 0.005)):
        rig.now_s += 0.005
        for drive in rig.drives:
            drive.tick()
    rig.until(lambda: rig.outcomes)
    held_up = late_s > 0.05
    assert rig.outcomes[-1].status is (GoalStatus.ABORTED if held_up else GoalStatus.SUCCEEDED)
    assert ("held up" in rig.outcomes[-1].message) == held_up
    steps = np.abs(np.diff([s.desired.position for s in rig.history], axis=0)).max(axis=0)
    assert (steps <= 1.6 * rig.timing.period_s * np.array([j.velocity for j in CARM.joints])).all()


def test_stop_decelerates_latches_and_holds(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2)
    moving(rig)
    rig.controller.stop()
    rig.until(lambda: rig.history[-1].state is OperatingState.STOPPED)
    assert rig.outcomes[-1].status is GoalStatus.ABORTED
    assert rig.group.fault == ""
    assert all(drive.state is State.ENABLED for drive in rig.drives)
    assert rig.controller.reset()[0]


@pytest.mark.parametrize(("method", "place"), [(17, "low"), (18, "high")])
def test_homing_on_a_limit_switch_then_parking(make: Make, method: int, place: str) -> None:
    position = 0.21 if method == 18 else 0.12
    rig = make(only("lift", homing=homing(method, position=position, park=0.16)))
    assert rig.history[-1].state is OperatingState.STARTING
    assert "lift not homed" in rig.history[-1].message
    assert "not homed" in rig.move(3.0, lift=0.01).message
    drive = rig.drives[LIFT]
    here = drive.plant.position
    away = drive.config.magnitude(0.04) * (1 if method == 18 else -1)
    setattr(drive.plant, place, here + away)
    drive.plant.zero += 12345  # the encoder counts from anywhere
    rig.group.home()
    rig.until(lambda: rig.group.phase is Phase.READY)
    rig.run(0.1)
    assert rig.group.fault == ""
    assert rig.history[-1].state is OperatingState.IDLE
    assert rig.history[-1].measured.position[LIFT] == pytest.approx(0.16, abs=1e-4)
    moved = (drive.plant.position - (here + away)) / drive.config.counts_per_unit
    assert moved == pytest.approx(0.16 - position, abs=5e-4)
    rig.go(3.0, lift=0.01)
    rig.until(lambda: rig.outcomes)
    assert rig.outcomes[-1].status is GoalStatus.SUCCEEDED


def test_homing_can_be_stopped_and_its_errors_are_told(make: Make) -> None:
    rig = make(only("lift", homing=homing(17)))
    rig.group.home()
    rig.until(lambda: rig.speeds()[LIFT] > 0.02)
    rig.controller.stop()
    rig.until(lambda: rig.speeds().max() == 0, 1.0)
    assert "lift: homing interrupted" in rig.group.fault
    assert not rig.controller.reset()[0]
    assert rig.recover()[0]
    rig.run(0.1)
    assert "not homed" in rig.history[-1].message

    other = make(only("lift", homing=homing(3)))
    other.group.home()
    other.fault()
    assert "lift: homing error" in other.group.fault
    assert "method 3" in other.group.fault
    late = make(only("lift", homing=homing(17, timeout_s=0.5)))
    late.group.home()
    late.fault()
    assert "not finished within 0.5 s" in late.group.fault
    with pytest.raises(DriveError, match="homing is not possible now"):
        late.group.home()


def test_closing_brakes_switches_off_and_leaves(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2)
    moving(rig, 0.06)

    def wait(time_s: float) -> None:
        rig.now_s += time_s
        for drive in rig.drives:
            drive.tick()

    rig.group.close(wait)
    assert rig.speeds().max() == 0
    assert {drive.state for drive in rig.drives} == {State.SWITCH_ON_DISABLED}
    assert rig.bus.bus is None


@pytest.mark.parametrize("wanted", [State.ENABLED, State.QUICK_STOP, State.SWITCH_ON_DISABLED])
@pytest.mark.parametrize("start", list(State))
def test_every_state_leads_to_the_wanted_one(start: State, wanted: State, rig: Rig) -> None:
    """Against the simulated drive's own state machine, which follows the transitions of CiA 402."""
    drive = rig.drives[0]
    drive.state, word = start, 0
    if start in (State.NOT_READY, State.FAULT_REACTION):  # left by the drive itself
        assert cia402.controlword(start, wanted) in (0, 2)
        return
    for _ in range(6):
        before, word = word, cia402.controlword(drive.state, wanted)
        drive.state = drive._transition(word, word & ~before)
    off = {State.FAULT, State.SWITCH_ON_DISABLED, State.READY, State.SWITCHED_ON}
    if wanted is not State.ENABLED and start in off:
        assert drive.state in (State.SWITCH_ON_DISABLED, State.FAULT)
    else:
        assert drive.state is wanted


def test_statuswords_of_the_profile() -> None:
    for word, state in ((0x0250, State.SWITCH_ON_DISABLED), (0x1637, State.ENABLED), (0x0218, State.FAULT)):
        assert cia402.state_of(word) is state
    assert cia402.error_text(0x8611) == "following error (0x8611)"
    assert struct.calcsize(cia402.RPDO1_LAYOUT) == struct.calcsize(cia402.TPDO1_LAYOUT) == 7


def test_counts_and_joint_positions_turn_into_each_other() -> None:
    config = load_drives(CARM.joints)[1]
    assert config.direction == -1
    assert config.counts(0.1) == -config.counts(-0.1) < 0
    assert config.position(config.counts(0.1234)) == pytest.approx(0.1234, abs=1 / config.counts_per_unit)
    assert config.velocity(1000) < 0
    assert replace(config, offset=0.5).position(0) == 0.5
