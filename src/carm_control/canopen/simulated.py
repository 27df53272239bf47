# SPDX-License-Identifier: Apache-2.0
"""Simulated CiA 402 drives: CANopen nodes that a driver cannot tell from real ones, faults included."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import can
from canopen import LocalNode, Network

from carm_control.canopen import cia402
from carm_control.canopen.can_bus import open_network
from carm_control.canopen.cia402 import Control, Input, Mode, Object, State, Status
from carm_control.canopen.config import DriveConfig
from carm_control.canopen.drive import OPERATIONAL
from carm_control.canopen.motor_model import Plant
from carm_core.robot.kinematics import CArm

_STATUS = {
    State.NOT_READY: 0x00,
    State.SWITCH_ON_DISABLED: 0x40,
    State.READY: 0x21,
    State.SWITCHED_ON: 0x23,
    State.ENABLED: 0x27,
    State.QUICK_STOP: 0x07,
    State.FAULT_REACTION: 0x0F,
    State.FAULT: 0x08,
}
_TICK_S = 0.01
_HELD_UP_S = 0.05
_SWITCH_BEYOND = 0.02  # m or rad
_AT_REST = 1.0  # counts/s
_IN_POSITION = 5.0  # counts
_SPEED_RESERVE, _ACCELERATION_RESERVE = 1.5, 4.0
_HOME_NEGATIVE, _HOME_POSITIVE, _HOME_HERE = 17, 18, (35, 37)


class SimulatedDrive:
    """One drive with its motor.

    Attributes:
        plant: The motor, to look at or to break.
        powered: Without power it neither listens nor speaks, and its brake holds.
        state: State of the drive.
    """

    def __init__(self, network: Network, config: DriveConfig, plant: Plant, clock: Callable[[], float]) -> None:
        """Join a network and boot.

        Args:
            network: A connected network.
            config: What the drive is set to (only its node and its direction matter).
            plant: Its motor.
            clock: Monotonic time, s.
        """
        self.config, self.plant, self._clock, self._network = config, plant, clock, network
        self._lock = threading.RLock()
        self.powered, self.state = True, State.SWITCH_ON_DISABLED
        self._node = LocalNode(config.node_id, cia402.object_dictionary(config.node_id))
        self._node.add_write_callback(self._on_write)
        self._node.add_read_callback(self._on_read)
        network.add_node(self._node)
        network.subscribe(0, self._on_network_command)
        network.subscribe(0x80, self._on_sync)
        self._last_s = self._said_s = self._heard_s = clock()
        self._master = 0
        self._word = 0
        self._previous_target = self._goal = plant.measured
        self._target_s = self._error_s = clock()
        self._mode_bits = 0
        self._homing: Iterator[None] | None = None
        self._toggle = 0
        self.boot()

    def boot(self) -> None:
        """Boot after power-on: all configuration is lost."""
        self.powered, self.state = True, State.SWITCH_ON_DISABLED
        if not self._node.has_network():
            self._node.associate_network(self._network)
        self._node.data_store.clear()
        self._master, self._word = 0, 0
        self._last_s = self._said_s = self._heard_s = self._clock()
        self._node.nmt.send_command(0x82)
        self._node.nmt.stop_heartbeat()
        if self._node.nmt.state != "PRE-OPERATIONAL":
            self._node.nmt.send_command(0x80)
        self._network.send_message(0x700 + self.config.node_id, b"\x00")

    def cut_power(self) -> None:
        """Stop to answer; the brake holds."""
        self.powered, self.state = False, State.NOT_READY
        self._node.remove_network()
        self.plant.brake()

    def fail(self, code: int) -> None:
        """Report a fault and react to it with a quick stop.

        Args:
            code: Error code, 0x603F.
        """
        if self.state in (State.FAULT, State.FAULT_REACTION):
            return
        self._put(Object.ERROR_CODE, code)
        moving = self.state in (State.ENABLED, State.QUICK_STOP)
        self.state = State.FAULT_REACTION if moving else State.FAULT
        self._node.emcy.send(code, 0x01)

    def tick(self) -> None:
        """Move on to the present time. The bus may call from one thread, the clock from another."""
        with self._lock:
            self._tick()

    def _tick(self) -> None:
        now_s = self._clock()
        dt_s, self._last_s = max(0.0, now_s - self._last_s), now_s
        if not self.powered:
            return
        if dt_s > _HELD_UP_S:  # this process was held up: frames wait to be read
            self._heard_s += dt_s
            self._error_s += dt_s
        period_s = self._get(Object.PRODUCER_HEARTBEAT) / 1000
        if period_s and now_s - self._said_s >= period_s:
            self._said_s = now_s
            state = OPERATIONAL if self._operational else 0x7F
            self._network.send_message(0x700 + self.config.node_id, bytes([state]))
        watched = self._get(Object.CONSUMER_HEARTBEAT, 1)
        abandoned = watched and now_s - self._heard_s > (watched & 0xFFFF) / 1000
        if abandoned and self._operational and self.state is State.ENABLED:
            self.fail(cia402.HEARTBEAT_ERROR)
        if dt_s > 0:
            self._move(now_s, dt_s)

    @property
    def _operational(self) -> bool:
        return bool(self._node.nmt.state == "OPERATIONAL")

    def _move(self, now_s: float, dt_s: float) -> None:
        plant = self.plant
        if self.state is State.ENABLED:
            mode = self._get(Object.MODE)
            if mode == Mode.CYCLIC_POSITION:
                self._follow(now_s, dt_s)
            elif mode == Mode.PROFILE_POSITION:
                self._profile(dt_s)
            elif mode == Mode.HOMING and self._homing is not None:
                self._home_s = dt_s
                if next(self._homing, self) is self:
                    self._homing = None
            else:
                plant.track(plant.measured, 0.0, dt_s)
        elif self.state in (State.QUICK_STOP, State.FAULT_REACTION):
            plant.drive(0.0, self._get(Object.QUICK_STOP_DECELERATION), dt_s)
            if self.state is State.FAULT_REACTION and abs(plant.velocity) < _AT_REST:
                self.state = State.FAULT
        else:
            plant.brake()

    def _follow(self, now_s: float, dt_s: float) -> None:
        """Interpolate linearly from the previous target to the present one, in one interpolation period."""
        period_s = self._get(Object.INTERPOLATION_PERIOD, 1) * 10.0 ** self._get(Object.INTERPOLATION_PERIOD, 2)
        slope = (self._goal - self._previous_target) / period_s
        passed_s = now_s - self._target_s
        if passed_s >= period_s - 1e-9:
            there, feed = self._goal, slope if passed_s < 1.5 * period_s else 0.0
        else:
            there, feed = self._previous_target + slope * passed_s, slope
        self.plant.track(there, feed, dt_s)
        window = self._get(Object.FOLLOWING_ERROR_WINDOW)
        if abs(there - self.plant.measured) <= window:
            self._error_s = now_s
        elif now_s - self._error_s > self._get(Object.FOLLOWING_ERROR_TIME) / 1000:
            self.fail(cia402.FOLLOWING_ERROR)

    def _profile(self, dt_s: float) -> None:
        """Trapezoidal motion to the goal."""
        plant, acceleration = self.plant, self._get(Object.PROFILE_ACCELERATION)
        error = self._goal - plant.measured
        speed = min(self._get(Object.PROFILE_VELOCITY), (2 * acceleration * abs(error)) ** 0.5, abs(error) / dt_s)
        plant.drive(speed if error > 0 else -speed, 4 * acceleration, dt_s)
        reached = abs(error) <= _IN_POSITION
        self._mode_bits = self._mode_bits & ~Status.TARGET_REACHED | (Status.TARGET_REACHED if reached else 0)

    def _home(self) -> Iterator[None]:
        """Simulate homing with methods 17, 18, 35 and 37 of CiA 402."""
        method, place = self._get(Object.HOMING_METHOD), self.plant.measured
        if method in (_HOME_NEGATIVE, _HOME_POSITIVE):
            sign = -1 if method == _HOME_NEGATIVE else 1
            switch = Input.NEGATIVE_LIMIT if sign < 0 else Input.POSITIVE_LIMIT
            while not self.plant.inputs & switch:
                self._run(sign * self._get(Object.HOMING_SPEEDS, 1))
                yield
            while self.plant.inputs & switch:
                self._run(-sign * self._get(Object.HOMING_SPEEDS, 2))
                yield
            place = self.plant.measured
            while abs(self.plant.velocity) > _AT_REST:
                self._run(0)
                yield
        elif method not in _HOME_HERE:
            self._mode_bits = Status.HOMING_ERROR
            return
        self.plant.zero += self._get(Object.HOME_OFFSET) - place
        self._previous_target = self._goal = self.plant.measured
        self._mode_bits = Status.HOMING_ATTAINED | Status.TARGET_REACHED

    def _run(self, speed: float) -> None:
        self.plant.drive(speed, self._get(Object.HOMING_ACCELERATION), self._home_s)

    def _on_read(self, index: int, subindex: int, od: Any) -> int | None:
        del subindex, od
        if index == Object.POSITION:
            return round(self.plant.measured)
        return _STATUS[self.state] | self._mode_bits if index == Object.STATUSWORD else None

    def _on_write(self, index: int, subindex: int, od: Any, data: bytes) -> None:
        del subindex, od
        if index == Object.PRODUCER_HEARTBEAT:
            self._node.nmt.stop_heartbeat()  # the time of the simulation sends it, not a thread
        elif index == Object.CONSUMER_HEARTBEAT:
            if self._master:
                self._network.unsubscribe(0x700 + self._master, self._on_master)
            self._master = data[2] & 0x7F
            self._heard_s = self._clock()
            if self._master:
                self._network.subscribe(0x700 + self._master, self._on_master)

    def _on_master(self, can_id: int, data: bytearray, timestamp: float) -> None:
        del can_id, data, timestamp
        if self.powered:
            self._heard_s = self._clock()

    def _on_network_command(self, can_id: int, data: bytearray, timestamp: float) -> None:
        del can_id, timestamp
        if self.powered and data[1] in (0, self.config.node_id) and self._operational:
            self._heard_s = self._clock()
            self._node.rpdo.read()
            self._node.tpdo.read()

    def guard(self, message: can.Message) -> None:
        """Answer node guarding: a remote frame is answered with the state and a toggling bit."""
        if self.powered and message.is_remote_frame and message.arbitration_id == 0x700 + self.config.node_id:
            state = OPERATIONAL if self._operational else 0x7F
            self._network.send_message(message.arbitration_id, bytes([state | self._toggle]))
            self._toggle ^= 0x80

    def _on_sync(self, can_id: int, data: bytearray, timestamp: float) -> None:
        del can_id, data, timestamp
        with self._lock:
            if self.powered and self._operational:
                self._synchronize()

    def _synchronize(self) -> None:
        """Simulate up to now, process received frames, answer."""
        self._tick()
        for pdo in self._node.rpdo.values():
            if pdo.enabled and pdo.is_received:
                for variable in pdo.map:
                    self._node.set_data(variable.index, variable.subindex, bytes(variable.get_data()))
                pdo.is_received = False
                self._obey(self._get(Object.CONTROLWORD))
        self._report()

    def _report(self) -> None:
        node, plant = self._node, self.plant
        self._put(Object.MODE_DISPLAY, self._get(Object.MODE))
        self._put(Object.VELOCITY, round(plant.measured_velocity))
        self._put(Object.DIGITAL_INPUTS, plant.inputs)
        for pdo in node.tpdo.values():
            if pdo.enabled:
                for variable in pdo.map:
                    variable.set_data(node.get_data(variable.index, variable.subindex))
                pdo.transmit()

    def _obey(self, word: int) -> None:
        """Process a controlword: transitions of the state machine, then the bits of the mode."""
        rising, self._word = word & ~self._word, word
        before = self.state
        self.state = self._transition(word, rising)
        target = float(self._get(Object.TARGET_POSITION))
        mode = self._get(Object.MODE)
        if self.state is not State.ENABLED:
            self._goal = self._previous_target = self.plant.measured
            self._mode_bits, self._homing = 0, None
            return
        if mode == Mode.CYCLIC_POSITION:
            fresh = before is not State.ENABLED or self._homing is not None
            self._previous_target = self.plant.measured if fresh else self._goal
            self._goal, self._target_s, self._mode_bits = target, self._clock(), 0
            if before is not State.ENABLED:
                self._error_s = self._clock()
        elif mode == Mode.HOMING:
            if rising & Control.START_HOMING:
                self._mode_bits, self._homing = 0, self._home()
        elif mode == Mode.PROFILE_POSITION:
            acknowledged = self._mode_bits & Status.SET_POINT_ACKNOWLEDGED
            if word & Control.NEW_SET_POINT and not acknowledged:
                self._goal, self._mode_bits = target, int(Status.SET_POINT_ACKNOWLEDGED)
            elif not word & Control.NEW_SET_POINT:
                self._mode_bits &= ~Status.SET_POINT_ACKNOWLEDGED

    def _transition(self, word: int, rising: int) -> State:
        state = self.state
        if state in (State.FAULT_REACTION, State.NOT_READY):
            return state
        if state is State.FAULT:
            if not rising & Control.FAULT_RESET:
                return state
            self._put(Object.ERROR_CODE, 0)
            self._node.emcy.reset()
            return State.SWITCH_ON_DISABLED
        if not word & 0x02:
            return State.SWITCH_ON_DISABLED
        if not word & 0x04:
            stoppable = state in (State.ENABLED, State.QUICK_STOP)
            return State.QUICK_STOP if stoppable else State.SWITCH_ON_DISABLED
        wanted = {0x06: State.READY, 0x07: State.SWITCHED_ON, 0x0F: State.ENABLED}.get(word & 0x0F)
        allowed = {
            State.SWITCH_ON_DISABLED: (State.READY,),
            State.READY: (State.SWITCHED_ON,),
            State.SWITCHED_ON: (State.READY, State.ENABLED),
            State.ENABLED: (State.READY, State.SWITCHED_ON),
            State.QUICK_STOP: (State.ENABLED,),
        }.get(state, ())
        return wanted if wanted is not None and wanted in allowed else state

    def _get(self, index: Object, subindex: int = 0) -> int:
        variable = self._node.object_dictionary[index]
        variable = variable[subindex] if subindex else variable
        stored = self._node.data_store.get(index, {}).get(subindex)
        return int(variable.default if stored is None else variable.decode_raw(stored))

    def _put(self, index: Object, value: int) -> None:
        variable = self._node.object_dictionary[index]
        self._node.data_store.setdefault(index, {})[0] = variable.encode_raw(value)


def simulated_drives(
    network: Network, configs: Sequence[DriveConfig], carm: CArm, clock: Callable[[], float]
) -> tuple[SimulatedDrive, ...]:
    """Put drives on a network whose listeners are not running yet; the arm stands at its home position.

    Args:
        network: Of the drives.
        configs: One per joint.
        carm: The C-arm; its limit switches are a little outside its limits.
        clock: Monotonic time, s.
    """
    drives = []
    for config, joint, position in zip(configs, carm.joints, carm.home, strict=True):
        low, high = sorted((config.counts(joint.lower - _SWITCH_BEYOND), config.counts(joint.upper + _SWITCH_BEYOND)))
        fast = _SPEED_RESERVE * config.magnitude(joint.velocity)
        plant = Plant(config.counts(float(position)), low, high, fast, fast * _ACCELERATION_RESERVE)
        drive = SimulatedDrive(network, config, plant, clock)
        network.listeners.append(drive.guard)
        drives.append(drive)
    return tuple(drives)


class Simulation:
    """Simulated drives on a bus, in real time, on threads of their own."""

    def __init__(self, bus: str, bitrate: int, configs: Sequence[DriveConfig], carm: CArm) -> None:
        """Open the bus a second time and start.

        Args:
            bus: Name of the bus, see ``carm_control.canopen.can_bus.bus_arguments``.
            bitrate: bit/s.
            configs: One per joint.
            carm: The C-arm.

        Raises:
            CarmError: The bus cannot be opened.
        """
        self._network = open_network(
            bus, bitrate, lambda network: self._populate(simulated_drives(network, configs, carm, time.monotonic))
        )
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="simulated_drives", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and leave the bus."""
        self._ended.set()
        self._thread.join()
        self._network.disconnect()

    def _populate(self, drives: tuple[SimulatedDrive, ...]) -> None:
        self.drives = drives

    def _run(self) -> None:
        while not self._ended.wait(_TICK_S):
            for drive in self.drives:
                drive.tick()
