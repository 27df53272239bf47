# SPDX-License-Identifier: Apache-2.0
"""Faults of CiA 402 drives and of their bus: each stops all, is named, and waits for a deliberate reset."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("canopen", reason="needs the extra can")
from canopen import SdoAbortedError

from carm_control import ErrorCode, GoalStatus, OperatingState
from carm_control.canopen import cia402
from carm_control.canopen.cia402 import DriveError, Object, State
from carm_control.canopen.drive import Axis

from .drive_rig import CARM, CART, LIFT, Rig, homing, moving, only

Make = Callable[..., Rig]


def assert_aborted(rig: Rig, *words: str) -> None:
    outcome = rig.outcomes[-1]
    assert (outcome.status, outcome.code) == (GoalStatus.ABORTED, ErrorCode.PATH_TOLERANCE_VIOLATED)
    for word in words:
        assert word in outcome.message
    assert rig.history[-1].state is OperatingState.FAULT
    assert rig.speeds().max() == 0


def assert_needs_a_deliberate_reset(rig: Rig) -> None:
    rig.run(0.1)
    rest = rig.history[-1].measured.position
    assert "reset" in rig.move(3.0, lift=0.01).message
    rig.run(2.0)
    np.testing.assert_allclose(rig.history[-1].measured.position, rest, atol=1e-5)
    assert rig.recover() == (True, "stop released")
    rig.run(0.5)
    assert rig.history[-1].state is OperatingState.IDLE
    np.testing.assert_allclose(rig.history[-1].measured.position, rest, atol=1e-4)
    ended = len(rig.outcomes)
    assert rig.move(3.0, lift=0.01).code is ErrorCode.SUCCESSFUL
    rig.until(lambda: len(rig.outcomes) > ended)
    assert rig.outcomes[-1].status is GoalStatus.SUCCEEDED


def test_the_quick_stop_takes_as_long_as_its_deceleration_says(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2, lift=0.05)
    moving(rig, 0.06)
    rig.drives[LIFT].fail(0x4310)
    begun_s, speed = rig.now_s, rig.speeds()[CART]
    rig.until(lambda: rig.speeds().max() == 0)
    expected_s = speed / rig.configs[CART].quick_stop
    assert rig.now_s - begun_s == pytest.approx(expected_s, abs=0.035)  # two cycles until it is known, one to see it
    rig.fault()
    assert_aborted(rig, "lift", "drive over-temperature (0x4310)")
    assert rig.drives[CART].state is State.QUICK_STOP
    assert_needs_a_deliberate_reset(rig)


def test_a_fault_that_stays_cannot_be_reset(rig: Rig) -> None:
    rig.drives[LIFT].fail(0x5441)
    rig.fault()
    rig.drives[LIFT]._transition = lambda word, rising: State.FAULT  # type: ignore[method-assign]
    done, message = rig.recover()
    assert not done
    assert "lift: cannot be enabled" in message
    assert rig.history[-1].state is OperatingState.FAULT


def test_a_blocked_motor_is_a_following_error(rig: Rig) -> None:
    rig.drives[CART].plant.jammed = True
    rig.go(4.0, cart_longitudinal=0.2, orbital=0.2)
    rig.fault()
    assert_aborted(rig, "cart_longitudinal", "following error")
    rig.drives[CART].plant.jammed = False
    assert_needs_a_deliberate_reset(rig)


def test_the_driver_sees_a_following_error_that_the_drive_does_not_report(make: Make) -> None:
    rig = make()
    rig.drives[CART].fail = lambda code: None  # type: ignore[method-assign]
    rig.drives[CART].plant.jammed = True
    rig.go(4.0, cart_longitudinal=0.2)
    rig.fault()
    assert_aborted(rig, "cart_longitudinal", "following error 0.01", "window 0.0100")


def test_a_wrong_encoder_direction_is_stopped_and_named(rig: Rig) -> None:
    rig.drives[CART].plant.invert()
    start = rig.drives[CART].plant.position
    rig.go(6.0, cart_longitudinal=0.2)
    rig.fault()
    assert_aborted(rig, "cart_longitudinal", "direction of the encoder")
    runaway = abs(rig.drives[CART].plant.position - start) / rig.configs[CART].counts_per_unit
    assert runaway < 0.06


def test_a_dead_drive_stops_the_others(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2, lift=0.05)
    moving(rig)
    rig.drives[LIFT].cut_power()
    begun_s = rig.now_s
    rig.until(lambda: rig.group.fault)
    assert rig.now_s - begun_s < 0.25
    rig.fault()
    assert_aborted(rig, "lift", "no answer to SYNC")
    assert rig.group.silent
    with pytest.raises(DriveError, match="lift: node 3 does not answer"):
        rig.group.recover()
    rig.drives[LIFT].boot()
    assert_needs_a_deliberate_reset(rig)


def test_a_lost_heartbeat_alone_stops_all(make: Make) -> None:
    rig = make(answer_s=60.0)
    rig.go(6.0, cart_longitudinal=0.2)
    moving(rig)
    rig.drives[LIFT].cut_power()
    begun_s = rig.now_s
    rig.until(lambda: rig.group.fault)
    assert rig.group.fault.startswith("lift: no heartbeat for 0.3")
    assert rig.now_s - begun_s < rig.timing.lifetime_s + 0.02


@pytest.mark.parametrize("stuck", [False, True])
def test_node_guarding_instead_of_the_heartbeat(make: Make, stuck: bool) -> None:
    rig = make(only("lift", node_guarding=True), answer_s=60.0)
    rig.run(1.0)
    assert rig.group.fault == ""
    if stuck:
        rig.side.listeners.append(lambda _: setattr(rig.drives[LIFT], "_toggle", 0))
    else:
        rig.drives[LIFT].cut_power()
    rig.until(lambda: rig.group.fault)
    assert rig.group.fault.startswith("lift: node guarding" if stuck else "lift: no answer to node guarding")


def test_bus_loss_stops_driver_and_drives(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2, tilt=0.5)
    moving(rig)
    rig.bus.cut = rig.side.cut = True
    begun_s = rig.now_s
    rig.until(lambda: rig.speeds().max() == 0)
    assert rig.now_s - begun_s < rig.timing.lifetime_s + 0.4  # the drives miss the master's heartbeat, then brake
    assert {drive.state for drive in rig.drives} <= {State.FAULT, State.FAULT_REACTION}
    rig.fault()
    assert_aborted(rig, "bus lost: no answer to SYNC", "any drive")
    rig.bus.cut = rig.side.cut = False
    assert_needs_a_deliberate_reset(rig)


def test_a_controller_that_is_bus_off_is_bus_loss(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2)
    moving(rig)
    rig.bus.broken = True
    rig.fault()
    assert_aborted(rig, "bus lost", "Transmit buffer full")
    rig.bus.broken = False
    assert_needs_a_deliberate_reset(rig)


def test_drives_stop_when_the_driver_dies(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2, tilt=0.5)
    moving(rig, 0.06)
    begun_s = rig.now_s
    while rig.speeds().max() > 0:
        rig.now_s += rig.timing.period_s
        for drive in rig.drives:
            drive.tick()
        assert rig.now_s - begun_s < rig.timing.lifetime_s + 0.4
    assert {drive._get(Object.ERROR_CODE) for drive in rig.drives} == {cia402.HEARTBEAT_ERROR}


def test_an_incremental_drive_that_restarts_must_be_homed_again(make: Make) -> None:
    rig = make(only("lift", homing=homing(35, position=0.17)))
    rig.group.home()
    rig.until(lambda: rig.history[-1].state is OperatingState.IDLE)
    rig.drives[LIFT].boot()
    rig.fault()
    assert rig.recover()[0]
    rig.run(0.1)
    assert rig.history[-1].state is OperatingState.STARTING
    assert "lift not homed" in rig.history[-1].message


def test_a_drive_that_restarts_is_a_fault(rig: Rig) -> None:
    rig.drives[LIFT].boot()
    rig.fault()
    assert "lift: the drive has restarted" in rig.group.fault
    assert_needs_a_deliberate_reset(rig)


@pytest.mark.parametrize("joint", ["cart_longitudinal", "cart_lateral"])  # the second counts the other way
def test_a_limit_switch_stops_and_lets_go_backwards(rig: Rig, joint: str) -> None:
    index = CARM.joint_names.index(joint)
    drive = rig.drives[index]
    switch = drive.config.counts(CARM.home[index] + 0.05)
    if drive.config.direction > 0:
        drive.plant.high = switch
    else:
        drive.plant.low = switch
    rig.go(4.0, **{joint: 0.1})
    rig.fault()
    assert_aborted(rig, joint, ("positive" if drive.config.direction > 0 else "negative") + " limit switch hit")
    assert abs(drive.config.position(drive.plant.position) - CARM.home[index] - 0.05) < 0.01
    assert rig.recover()[0]
    rig.run(0.2)
    ended = len(rig.outcomes)
    rig.go(3.0, **{joint: 0.02})
    rig.fault()
    assert "limit switch" in rig.outcomes[ended].message
    assert rig.recover()[0]
    rig.run(0.2)
    rig.go(3.0, **{joint: -0.05})
    rig.until(lambda: len(rig.outcomes) > ended + 1)
    assert rig.outcomes[-1].status is GoalStatus.SUCCEEDED


def test_a_missing_drive_or_a_refused_value_is_named(make: Make) -> None:
    rig = make(connect=False)
    rig.drives[LIFT].cut_power()
    with pytest.raises(DriveError, match="lift: node 3 does not answer"):
        rig.group.connect()

    def refuse(index: int, **_: Any) -> None:
        if index == Object.FOLLOWING_ERROR_WINDOW:
            raise SdoAbortedError(0x06090030)

    rig = make(connect=False)
    rig.drives[CART]._node.add_write_callback(refuse)
    with pytest.raises(DriveError, match="cart_longitudinal: node 1 refuses .* for 0x6065"):
        rig.group.connect()


@pytest.mark.parametrize("guarded", [False, True])
def test_slow_configuration_is_not_silence(make: Make, guarded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    configure = Axis.configure

    def slowly(axis: Axis, master_id: int) -> None:
        configure(axis, master_id)
        rig.now_s += 0.4

    monkeypatch.setattr(Axis, "configure", slowly)
    rig = make(only("cart_longitudinal", node_guarding=guarded), connect=False)
    rig.start()
    assert rig.group.fault == ""


BREAK: dict[str, Callable[[Any], object]] = {
    "fault": lambda drive: drive.fail(0x2310),
    "power": lambda drive: drive.cut_power(),
    "restart": lambda drive: drive.boot(),
    "brake": lambda drive: setattr(drive.plant, "jammed", True),
    "encoder": lambda drive: drive.plant.invert(),
}


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(sorted(BREAK)), st.integers(0, 5), st.floats(0.8, 3.0))
def test_whatever_breaks_whenever_all_stop_and_stay(kind: str, index: int, after_s: float) -> None:
    rig = Rig()
    joint = CARM.joint_names[index]
    rig.go(6.0, cart_longitudinal=0.2, cart_lateral=0.15, lift=0.1, wigwag=0.15, tilt=0.8, orbital=0.8)
    rig.run(after_s)
    BREAK[kind](rig.drives[index])
    snapshot = rig.fault(6.0)
    assert_aborted(rig, "drive fault", joint)
    assert "reset" in snapshot.message
    rest = [drive.plant.position for drive in rig.drives]
    rig.run(1.0)
    assert rest == [drive.plant.position for drive in rig.drives]
    assert rig.history[-1].state is OperatingState.FAULT
    rig.close()
