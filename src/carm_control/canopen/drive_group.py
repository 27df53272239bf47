# SPDX-License-Identifier: Apache-2.0
"""All drives of the arm: what the trajectory controller moves, and what stops everything when one drive fails.

``DriveGroup.step`` runs in the control loop: it judges what the drives said last, sends each its controlword
and setpoint, and then SYNC, at which all act and answer. Other methods may be called from any thread.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import Enum

import can
import numpy as np
from canopen import Network
from numpy.typing import NDArray

from carm_control.canopen.cia402 import DriveError, Mode, State, error_text
from carm_control.canopen.config import DriveConfig
from carm_control.canopen.drive import OPERATIONAL, Axis, Timing
from carm_control.canopen.homing import reference_run
from carm_control.trajectory.hardware import Measurement
from carm_core.transforms import Array

MASTER_ID = 127
"""CANopen node of this driver."""
ENABLE_TIMEOUT_S = 3.0
"""Longest time from the reset of a fault, or the start, until all drives are enabled."""
_DELAY_CYCLES = 3
"""A position that is judged answers a setpoint of so many cycles ago, at most."""
_HELD_UP = 3.0
"""A control loop that is late by so many periods has been held up."""
_CLOSE_CYCLES = 300


class Phase(Enum):
    """What the drives are doing as a group."""

    ENABLING = "enabling the drives"
    READY = "ready"
    REFERENCE = "homing"
    FAULT = "drive fault"
    DISABLED = "drives are off"


class DriveGroup:
    """CiA 402 drives, one per joint; satisfies ``carm_control.trajectory.hardware.Drives``."""

    def __init__(
        self, network: Network, configs: Sequence[DriveConfig], timing: Timing, clock: Callable[[], float]
    ) -> None:
        """Join the network; ``connect`` starts.

        Args:
            network: A connected network.
            configs: One drive per joint, in the order of the joints.
            timing: Times of the bus.
            clock: Monotonic time, s.
        """
        self._network, self._timing, self._clock = network, timing, clock
        self.axes = tuple(Axis(network, config, timing, clock) for config in configs)
        self._lock = threading.RLock()
        self._phase = Phase.DISABLED
        self._since_s = clock()
        self._fault: DriveError | None = None
        self._routine: Iterator[str] | None = None
        self._doing = ""
        self._running: Axis | None = None
        self._sent: deque[list[int]] = deque(maxlen=_DELAY_CYCLES)
        self._moved_from: list[int] = []
        self._heartbeat_s = -np.inf
        self._cycles = self._trusted = 0
        self._last_s = clock()

    @property
    def position(self) -> Array:
        """Joint positions (J,), m or rad."""
        return np.array([axis.position for axis in self.axes])

    @property
    def velocity(self) -> Array:
        """Joint velocities (J,), m/s or rad/s."""
        return np.array([axis.velocity for axis in self.axes])

    @property
    def phase(self) -> Phase:
        """What the drives are doing."""
        return self._phase

    @property
    def fault(self) -> str:
        """The fault that stopped the drives, joint first; empty: none."""
        return str(self._fault) if self._fault is not None else ""

    @property
    def silent(self) -> bool:
        """Whether a drive does not answer, so that its position is unknown."""
        return self._cycles >= self._trusted and any(axis.silence(self._clock()) for axis in self.axes)

    @property
    def unready(self) -> str:
        """Why goals cannot be executed now; empty if they can."""
        if self._phase is not Phase.READY:
            return self._doing or self._phase.value
        missing = [axis.joint for axis in self.axes if not axis.homed]
        return f"{', '.join(missing)} not homed: call the service home (carm home)" if missing else ""

    @property
    def autonomous(self) -> bool:
        """Whether the drives ignore setpoints at present."""
        return self._phase is not Phase.READY

    def connect(self) -> None:
        """Configure all drives by SDO, and begin to enable them in ``step``.

        Raises:
            DriveError: A drive does not answer or refuses a value, or the bus is lost.
        """
        for axis in self.axes:
            axis.configure(MASTER_ID)
        self._begin(Phase.ENABLING)

    def step(self, command: Array, velocity: Array, dt_s: float) -> None:
        """Run one cycle: check, send, SYNC.

        Args:
            command: Set-points (J,), m or rad.
            velocity: Their velocity (J,), m/s or rad/s.
            dt_s: Not used; the drives have their own time.
        """
        del dt_s
        with self._lock:
            now_s = self._clock()
            self._cycles += 1
            if now_s - self._last_s > _HELD_UP * self._timing.period_s:
                self._trusted = self._cycles + _DELAY_CYCLES
            self._last_s = now_s
            self._judge(now_s, velocity)
            self._aim(command)
            try:
                self._send(now_s)
            except (can.CanError, OSError) as error:
                self._fail(DriveError("", f"bus lost: {' '.join(str(error).split())}"))

    def measure(self) -> Measurement:
        """Return what the encoders said last."""
        return Measurement(self.position, self.velocity)

    @property
    def astray(self) -> NDArray[np.bool_]:
        """None (J,): a joint that leaves its setpoint is a fault."""
        return np.zeros(len(self.axes), dtype=bool)

    def bumpless_command(self) -> Array:
        """Return the measured positions (J,), m or rad."""
        return self.position

    def realign(self, joints: NDArray[np.bool_]) -> Array:
        """Return the measured positions (J,) as the setpoints to go on from.

        Args:
            joints: Not used.
        """
        del joints
        return self.position

    def block(self, joints: Iterable[str]) -> None:
        """Refuse: the fault injection of the simulated motion node has no counterpart here."""
        if tuple(joints):
            raise DriveError("", "drives on a bus cannot be blocked by a parameter")

    def interrupt(self) -> None:
        """Interrupt autonomous motion of the drives (homing): quick stop, as after a fault."""
        with self._lock:
            if self._phase is Phase.REFERENCE:
                joint = self._running.joint if self._running else ""
                self._fail(DriveError(joint, "homing interrupted by a stop"))

    def recover(self) -> None:
        """Start to reset faults and to enable the drives again; ``phase`` gives the result.

        Raises:
            DriveError: A drive that has restarted cannot be configured.
        """
        if self._phase is not Phase.FAULT:
            return
        for axis in self.axes:
            if axis.restarted or axis.silence(self._clock()):
                axis.configure(MASTER_ID)
        with self._lock:
            for axis in self.axes:
                axis.error_code, axis.mode, axis.bits = 0, Mode.CYCLIC_POSITION, 0
            self._begin(Phase.ENABLING)

    def home(self) -> None:
        """Start homing of all joints that need it, one after the other; ``phase`` gives the result.

        Raises:
            DriveError: The drives are not ready.
        """
        with self._lock:
            if self._phase is not Phase.READY:
                raise DriveError("", f"homing is not possible now: {self.fault or self.unready}")
            self._begin(Phase.REFERENCE)
            self._routine = self._reference_runs()

    def close(self, wait: Callable[[float], object]) -> None:
        """Stop all drives by quick stop, switch them off and leave the bus.

        Args:
            wait: Waits for a time, s.
        """
        with self._lock:
            self._phase, self._routine = Phase.FAULT, None
        try:
            for _ in range(_CLOSE_CYCLES):
                self.step(self.position, self.velocity, 0.0)
                wait(self._timing.period_s)
                if not np.any([axis.feedback.counts_s for axis in self.axes]):
                    break
            with self._lock:
                self._phase = Phase.DISABLED
            for _ in range(_DELAY_CYCLES):
                self.step(self.position, self.velocity, 0.0)
                wait(self._timing.period_s)
            for axis in self.axes:
                axis.stop_node()
        except (can.CanError, OSError):  # the drives watch the master's heartbeat: they stop by themselves
            pass
        finally:
            self._network.disconnect()

    def _begin(self, phase: Phase) -> None:
        self._phase, self._since_s, self._doing = phase, self._clock(), ""
        self._routine, self._running = None, None
        self._sent.clear()
        self._moved_from = [axis.feedback.counts for axis in self.axes]
        if phase is Phase.ENABLING:
            for axis in self.axes:  # while the others were configured nobody asked them
                axis.expect_life()

    def _fail(self, error: DriveError) -> None:
        if self._phase in (Phase.FAULT, Phase.DISABLED):
            return
        self._begin(Phase.FAULT)
        self._fault = error
        for axis in self.axes:
            axis.mode, axis.bits = Mode.CYCLIC_POSITION, 0

    def _judge(self, now_s: float, velocity: Array) -> None:
        if self._phase in (Phase.FAULT, Phase.DISABLED):
            return
        error = self._silence(now_s)
        if error is None and self._phase is Phase.ENABLING:
            self._await_enabled(now_s)
            return
        if error is None:
            error = next((e for e in map(self._trouble, self.axes, velocity) if e is not None), None)
        if error is not None:
            self._fail(error)
        elif self._routine is not None:
            self._go_on()

    def _await_enabled(self, now_s: float) -> None:
        late = [axis for axis in self.axes if axis.state is not State.ENABLED]
        if not late:
            self._fault = None
            self._begin(Phase.READY)
        elif now_s - self._since_s > ENABLE_TIMEOUT_S:
            axis = late[0]
            reason = error_text(axis.error_code) if axis.state is State.FAULT else f"is {axis.state.value.lower()}"
            self._fail(DriveError(axis.joint, f"cannot be enabled: {reason}"))

    def _silence(self, now_s: float) -> DriveError | None:
        """Name the drive that does not answer; after a delay of this process, read waiting frames first."""
        if self._cycles < self._trusted:
            return None
        silent = [(axis, text) for axis in self.axes if (text := axis.silence(now_s))]
        if len(silent) == len(self.axes) > 1:
            return DriveError("", f"bus lost: {silent[0][1]} from any drive")
        return DriveError(silent[0][0].joint, silent[0][1]) if silent else None

    def _trouble(self, axis: Axis, velocity: float) -> DriveError | None:
        """Describe the fault of an enabled drive."""
        if axis.restarted:
            return DriveError(axis.joint, "the drive has restarted")
        if axis.state in (State.FAULT, State.FAULT_REACTION):
            return DriveError(axis.joint, error_text(axis.error_code) + self._reversed(axis))
        if axis.state is not State.ENABLED:
            return DriveError(
                axis.joint, f"the drive left the state operation enabled on its own: {axis.state.value.lower()}"
            )
        if axis is self._running:
            return None
        if velocity and (switch := axis.limit_switch(velocity)):
            return DriveError(axis.joint, switch)
        return self._following_error(axis)

    def _following_error(self, axis: Axis) -> DriveError | None:
        """Check the position against the nearest of the setpoints that it may follow."""
        if self._phase is not Phase.READY or len(self._sent) < _DELAY_CYCLES:
            return None
        index = self.axes.index(axis)
        distance = min(abs(sent[index] - axis.feedback.counts) for sent in self._sent)
        window = axis.config.magnitude(axis.config.following_error)
        if distance <= window:
            return None
        away = distance / axis.config.counts_per_unit
        text = f"following error {away:.4f} {axis.config.unit}, window {axis.config.following_error:.4f}"
        return DriveError(axis.joint, text + self._reversed(axis))

    def _reversed(self, axis: Axis) -> str:
        """Add a hint when the position has moved away from where it was told to go."""
        index = self.axes.index(axis)
        if not self._sent:
            return ""
        start = self._moved_from[index]
        told, moved = self._sent[-1][index] - start, axis.feedback.counts - start
        if told * moved < 0 and abs(moved) > axis.config.magnitude(axis.config.following_error) / 4:
            return "; the position moves away from its setpoint: check the direction of the encoder"
        return ""

    def _aim(self, command: Array) -> None:
        for axis, position in zip(self.axes, command, strict=True):
            if self._phase is Phase.READY:
                axis.target = axis.config.counts(float(position))
            elif axis is not self._running:
                resting = self._phase is Phase.REFERENCE
                axis.target = axis.target if resting else axis.feedback.counts
        if self._phase is Phase.READY:
            targets = [axis.target for axis in self.axes]
            if self._sent and targets == self._sent[-1]:
                self._moved_from = [axis.feedback.counts for axis in self.axes]
            self._sent.append(targets)

    def _send(self, now_s: float) -> None:
        wanted = {Phase.FAULT: State.QUICK_STOP, Phase.DISABLED: State.SWITCH_ON_DISABLED}.get(
            self._phase, State.ENABLED
        )
        if now_s - self._heartbeat_s >= self._timing.heartbeat_s / 2:
            self._heartbeat_s = now_s
            self._network.send_message(0x700 + MASTER_ID, bytes([OPERATIONAL]))
        for axis in self.axes:
            axis.guard(now_s)
            axis.send(wanted, reset_fault=self._phase is Phase.ENABLING and self._cycles % 2 == 0)
        self._network.sync.transmit()

    def _reference_runs(self) -> Iterator[str]:
        for axis in self.axes:
            if axis.config.homing is None:
                continue
            self._running = axis
            yield from reference_run(axis, self._clock)
            self._running = None

    def _go_on(self) -> None:
        assert self._routine is not None
        try:
            self._doing = next(self._routine)
        except StopIteration:
            self._begin(Phase.READY)
        except DriveError as error:
            self._fail(error)
