# SPDX-License-Identifier: Apache-2.0
"""CiA 402 drives on a virtual CAN bus: tracking, homing, stops and every fault, on a clock of their own."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("canopen", reason="needs the extra can")
from canopen import SdoAbortedError

from carm_sim.drives import cia402
from carm_sim.drives.cia402 import DriveError, Object, State
from carm_sim.drives.config import Homing, load_drives
from carm_sim.drives.group import Phase
from carm_sim.motion import ErrorCode, GoalStatus, OperatingState

from .drive_rig import CARM, Rig, only

LIFT = CARM.joint_names.index("lift")
CART = CARM.joint_names.index("cart_longitudinal")
Make = Callable[..., Rig]


@pytest.fixture
def make() -> Iterator[Make]:
    rigs: list[Rig] = []

    def build(*arguments: Any, **options: Any) -> Rig:
        rigs.append(Rig(*arguments, **options))
        return rigs[-1]

    yield build
    for rig in rigs:
        rig.close()


@pytest.fixture
def rig(make: Make) -> Rig:
    return make()


def moving(rig: Rig, speed: float = 0.02) -> None:
    rig.until(lambda: abs(rig.history[-1].measured.velocity[CART]) > speed)


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


def test_stop_decelerates_latches_and_holds(rig: Rig) -> None:
    rig.go(4.0, cart_longitudinal=0.2)
    moving(rig)
    rig.controller.stop()
    rig.until(lambda: rig.history[-1].state is OperatingState.STOPPED)
    assert rig.outcomes[-1].status is GoalStatus.ABORTED
    assert rig.group.fault == ""
    assert all(drive.state is State.ENABLED for drive in rig.drives)
    assert rig.controller.reset()[0]


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
    assert rig.now_s - begun_s < 0.15
    rig.fault()
    assert_aborted(rig, "lift", "no answer to SYNC")
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


def homing(method: int, **fields: Any) -> Homing:
    return Homing(**({"method": method, "position": 0.0, "fast": 0.03, "slow": 0.01, "acceleration": 0.1} | fields))


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
    assert "lift: homing error (method 3)" in other.group.fault
    late = make(only("lift", homing=homing(17, timeout_s=0.5)))
    late.group.home()
    late.fault()
    assert "not finished within 0.5 s" in late.group.fault
    with pytest.raises(DriveError, match="homing is not possible now"):
        late.group.home()


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
