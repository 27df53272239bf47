# SPDX-License-Identifier: Apache-2.0
"""One drive on the bus: its configuration by SDO, its cyclic data by PDO, and the signs of life it gives."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import can
from canopen import Network, RemoteNode
from canopen.sdo import SdoAbortedError, SdoCommunicationError

from carm_control.canopen import cia402
from carm_control.canopen.cia402 import Control, DriveError, Input, Mode, Object, State, state_of
from carm_control.canopen.config import DriveConfig

OPERATIONAL = 5
"""NMT state in a heartbeat."""
_BOOT_UP = 0
_TOGGLE = 0x80
_UNANSWERED = 3
"""Fewer SYNCs without an answer say nothing: this process may have been held up."""
_SYNC_TYPE = 1
"""PDO transmission type: acts on each SYNC."""


@dataclass(frozen=True)
class Timing:
    """Times of the bus, s.

    Attributes:
        period_s: Of the control loop, and so of SYNC.
        heartbeat_s: Period of heartbeats and of node guarding, drives' and master's.
        lifetime_factor: A drive is lost after this many periods without a sign of life.
        answer_s: A drive is lost after this time without a PDO, s.
    """

    period_s: float = 0.01
    heartbeat_s: float = 0.1
    lifetime_factor: float = 3.0
    answer_s: float = 0.2

    @property
    def lifetime_s(self) -> float:
        """Time without a sign of life after which a drive, or the master, counts as lost, s."""
        return self.heartbeat_s * self.lifetime_factor


@dataclass(frozen=True)
class Feedback:
    """What a drive said last.

    Attributes:
        statusword: 0x6041.
        mode: 0x6061.
        counts: 0x6064.
        counts_s: 0x606C.
        inputs: 0x60FD.
    """

    statusword: int = 0
    mode: int = 0
    counts: int = 0
    counts_s: int = 0
    inputs: int = 0


class Axis:
    """One drive. The receiving thread of the network fills in what it says, the control loop does the rest.

    Attributes:
        config: Its configuration.
        mode: Mode of operation asked for.
        bits: Bits of the controlword beside those of the state machine.
        target: Target position, counts.
        homed: The position means something.
        error_code: Of its last EMCY message; 0 when there is none.
        restarted: It has booted since it was configured.
    """

    def __init__(self, network: Network, config: DriveConfig, timing: Timing, clock: Callable[[], float]) -> None:
        """Join the network; nothing is sent.

        Args:
            network: A connected network.
            config: The drive's configuration.
            timing: Times of the bus.
            clock: Monotonic time, s.
        """
        self.config, self._timing, self._clock, self._network = config, timing, clock, network
        self.mode, self.bits, self.target = Mode.CYCLIC_POSITION, 0, 0
        self.homed = config.homing is None
        self.error_code, self.restarted = 0, True
        self._lock = threading.Lock()
        self._feedback = Feedback()
        self._alive_s = clock()
        self._asked_s, self._unanswered = clock(), 0
        self._guarded_s, self._toggle = clock(), -1
        self._guard_problem = ""
        self._node = RemoteNode(config.node_id, cia402.object_dictionary(config.node_id))
        network.add_node(self._node)
        network.subscribe(0x700 + config.node_id, self._on_sign_of_life)
        self._node.emcy.add_callback(self._on_emergency)

    @property
    def joint(self) -> str:
        """Name of its joint."""
        return self.config.joint

    @property
    def feedback(self) -> Feedback:
        """The last feedback of the drive."""
        return self._feedback

    @property
    def state(self) -> State:
        """The last reported state of the drive."""
        return state_of(self._feedback.statusword)

    @property
    def position(self) -> float:
        """Joint position, m or rad."""
        return self.config.position(self._feedback.counts)

    @property
    def velocity(self) -> float:
        """Joint velocity, m/s or rad/s."""
        return self.config.velocity(self._feedback.counts_s)

    def configure(self, master_id: int) -> None:
        """Write parameters and PDO mapping by SDO, and start the node; nothing moves by that.

        Args:
            master_id: Node whose heartbeat the drive is to watch.

        Raises:
            DriveError: It does not answer or refuses a value.
        """
        node = self._node
        try:
            node.nmt.send_command(0x80)  # pre-operational: PDO mapping may change
            for index, subindex, value in self._parameters(master_id):
                entry = node.sdo[index] if subindex is None else node.sdo[index][subindex]
                try:
                    entry.raw = value
                except SdoAbortedError as error:
                    raise DriveError(
                        self.joint, f"node {self.config.node_id} refuses {value} for 0x{index:04X}: {error}"
                    ) from error
            self._map(node.rpdo[1], cia402.RPDO1_OBJECTS)
            self._map(node.tpdo[1], cia402.TPDO1_OBJECTS, self._on_status)
            self._map(node.tpdo[2], cia402.TPDO2_OBJECTS, self._on_motion)
            counts, statusword = node.sdo[Object.POSITION].raw, node.sdo[Object.STATUSWORD].raw
            with self._lock:
                self._feedback = Feedback(int(statusword), 0, int(counts))
            if self.restarted:
                self.homed, self.restarted = self.config.homing is None, False
            node.nmt.send_command(0x01)
        except SdoCommunicationError as error:
            raise DriveError(self.joint, f"node {self.config.node_id} does not answer on the bus") from error
        except SdoAbortedError as error:
            raise DriveError(self.joint, f"node {self.config.node_id} refuses the PDO mapping: {error}") from error
        except can.CanError as error:
            raise DriveError("", f"bus lost: {error}") from error
        self._alive_s = self._guarded_s = self._clock()
        self._unanswered = 0
        self._guard_problem, self._toggle = "", -1

    def expect_life(self) -> None:
        """Start to count the time without a sign of life."""
        with self._lock:
            self._alive_s = self._guarded_s = self._clock()

    def _parameters(self, master_id: int) -> list[tuple[Object, int | None, int]]:
        c, timing = self.config, self._timing
        milliseconds = round(1000 * timing.heartbeat_s)
        watched = (master_id << 16) | round(1000 * timing.lifetime_s)
        entries: list[tuple[Object, int | None, int]] = [
            (Object.PRODUCER_HEARTBEAT, None, 0 if c.node_guarding else milliseconds),
            (Object.CONSUMER_HEARTBEAT, 1, watched),
            (Object.ABORT_CONNECTION_OPTION, None, cia402.QUICK_STOP_ON_ABORTED_CONNECTION),
            (Object.QUICK_STOP_OPTION, None, cia402.HOLD_AFTER_QUICK_STOP),
            (Object.FAULT_REACTION_OPTION, None, cia402.FAULT_REACTION_QUICK_STOP),
            (Object.FOLLOWING_ERROR_WINDOW, None, c.magnitude(c.following_error)),
            (Object.FOLLOWING_ERROR_TIME, None, round(1000 * c.following_error_time_s)),
            (Object.QUICK_STOP_DECELERATION, None, c.magnitude(c.quick_stop)),
            (Object.PROFILE_VELOCITY, None, c.magnitude(c.speed)),
            (Object.PROFILE_ACCELERATION, None, c.magnitude(c.acceleration)),
            (Object.PROFILE_DECELERATION, None, c.magnitude(c.acceleration)),
            (Object.INTERPOLATION_PERIOD, 1, round(1000 * timing.period_s)),
            (Object.INTERPOLATION_PERIOD, 2, -3),
        ]
        if c.homing is not None:
            entries += [
                (Object.HOMING_METHOD, None, c.homing.method),
                (Object.HOMING_SPEEDS, 1, c.magnitude(c.homing.fast)),
                (Object.HOMING_SPEEDS, 2, c.magnitude(c.homing.slow)),
                (Object.HOMING_ACCELERATION, None, c.magnitude(c.homing.acceleration)),
                (Object.HOME_OFFSET, None, c.counts(c.homing.position)),
            ]
        return entries

    @staticmethod
    def _map(pdo: Any, objects: tuple[Object, ...], received: Callable[[Any], None] | None = None) -> None:
        pdo.cob_id, pdo.enabled, pdo.trans_type = pdo.predefined_cob_id, True, _SYNC_TYPE
        pdo.clear()
        for index in objects:
            pdo.add_variable(int(index))
        pdo.save()
        if received is not None and received not in pdo.callbacks:
            pdo.add_callback(received)

    def send(self, wanted: State, *, reset_fault: bool = False) -> None:
        """Send controlword, mode and target; they act at the next SYNC.

        Args:
            wanted: State to go to.
            reset_fault: Raise the bit for the fault reset when the drive is in fault.

        Raises:
            can.CanError: The bus does not take it.
        """
        state = self.state
        word = cia402.controlword(state, wanted)
        if word & Control.FAULT_RESET and not reset_fault:
            word = 0
        if state is State.ENABLED and wanted is State.ENABLED:
            word |= self.bits
        pdo = self._node.rpdo[1]
        pdo.data = bytearray(struct.pack(cia402.RPDO1_LAYOUT, word, self.mode, self.target))
        pdo.transmit()
        with self._lock:
            if not self._unanswered:
                self._asked_s = self._clock()
            self._unanswered += 1

    def guard(self, now_s: float) -> None:
        """Request a sign of life if node guarding is in use and due.

        Args:
            now_s: Present time, s.
        """
        if self.config.node_guarding and now_s - self._guarded_s >= self._timing.heartbeat_s:
            self._guarded_s = now_s
            self._network.send_message(0x700 + self.config.node_id, b"", remote=True)

    def silence(self, now_s: float) -> str:
        """Describe how long the drive has given no sign of life; empty while it does.

        Args:
            now_s: Present time, s.
        """
        if self._guard_problem:
            return self._guard_problem
        with self._lock:
            alive_s = now_s - self._alive_s
            waiting_s = now_s - self._asked_s if self._unanswered >= _UNANSWERED else 0.0
        if alive_s > self._timing.lifetime_s:
            kind = "answer to node guarding" if self.config.node_guarding else "heartbeat"
            return f"no {kind} for {alive_s:.2f} s"
        if waiting_s > self._timing.answer_s:
            return f"no answer to SYNC for {waiting_s:.2f} s"
        return ""

    def limit_switch(self, direction: float) -> str:
        """Name the limit switch that is hit in a direction of the joint; empty: none.

        Args:
            direction: Its sign is that of the joint's motion; 0: either way.
        """
        inputs, towards = self._feedback.inputs, direction * self.config.direction
        if self.config.negative_switch and inputs & Input.NEGATIVE_LIMIT and towards <= 0:
            return "negative limit switch hit"
        if self.config.positive_switch and inputs & Input.POSITIVE_LIMIT and towards >= 0:
            return "positive limit switch hit"
        return ""

    def stop_node(self) -> None:
        """Send the node back to pre-operational."""
        self._node.nmt.send_command(0x80)

    def _on_status(self, pdo: Any) -> None:
        statusword, mode, counts = struct.unpack_from(cia402.TPDO1_LAYOUT, pdo.data)
        with self._lock:
            f = self._feedback
            self._feedback = Feedback(statusword, mode, counts, f.counts_s, f.inputs)
            self._unanswered = 0

    def _on_motion(self, pdo: Any) -> None:
        counts_s, inputs = struct.unpack_from(cia402.TPDO2_LAYOUT, pdo.data)
        with self._lock:
            f = self._feedback
            self._feedback = Feedback(f.statusword, f.mode, f.counts, counts_s, inputs)

    def _on_sign_of_life(self, can_id: int, data: bytearray, timestamp: float) -> None:
        del can_id, timestamp
        if not data:
            return
        with self._lock:
            self._alive_s = self._clock()
        if data[0] == _BOOT_UP:
            self.restarted = True
        elif self.config.node_guarding:
            toggle = data[0] & _TOGGLE
            if toggle == self._toggle:
                self._guard_problem = "node guarding: the toggle bit does not change"
            self._toggle = toggle

    def _on_emergency(self, emergency: Any) -> None:
        self.error_code = int(emergency.code)
