# SPDX-License-Identifier: Apache-2.0
"""Model of joint drives: first-order lag, noise, a fault that can be switched on."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import ruckig
from numpy.typing import NDArray

from carm_control.trajectory.hardware import Measurement
from carm_control.trajectory.limits import JointLimits
from carm_core.transforms import Array

_FOLLOWS = 1e-6
"""A blocked joint that is no further from its setpoint than this is not astray, m or rad."""

_LEAST_RESERVE = 0.01
"""Part of its velocity limit by which a joint may catch up with a setpoint that runs at the limit."""


class DriveModel:
    """Joint drives that follow their setpoints with a first-order lag, ``tau dx/dt = u - x``.

    The setpoint is taken as linear between two steps and the step is integrated exactly, so the response to
    a ramp does not depend on the step length. A blocked joint does not move at all, whatever it is told; freed away
    from its setpoint it catches up within its limits.
    """

    def __init__(
        self,
        limits: JointLimits,
        positions: Array,
        *,
        time_constant_s: float = 0.0,
        position_noise: Array | None = None,
        velocity_noise: Array | None = None,
        seed: int = 0,
    ) -> None:
        """Start at rest.

        Args:
            limits: The joints, J of them.
            positions: Start position (J,), m or rad.
            time_constant_s: Lag, s; 0 follows at once.
            position_noise: Standard deviation of the measured positions (J,), m or rad; None: none.
            velocity_noise: Standard deviation of the measured velocities (J,), m/s or rad/s; None: none.
            seed: Of the noise.
        """
        self._names, self._limits = limits.names, limits
        self._tau = float(time_constant_s)
        self._command = positions.astype(np.float64).copy()
        self._position = self._command.copy()
        self._velocity = np.zeros_like(self._position)
        self._position_noise = position_noise
        self._velocity_noise = velocity_noise
        self._random = np.random.default_rng(seed)
        self._blocked = np.zeros(len(self._names), dtype=bool)
        self._astray = np.zeros(len(self._names), dtype=bool)
        self._closing = np.zeros(len(self._names))  # acceleration relative to the setpoint while catching up

    @property
    def position(self) -> Array:
        """True position (J,), m or rad."""
        return self._position.copy()

    @property
    def velocity(self) -> Array:
        """True velocity (J,), m/s or rad/s."""
        return self._velocity.copy()

    @property
    def blocked(self) -> tuple[str, ...]:
        """Names of the blocked joints."""
        return tuple(name for name, stuck in zip(self._names, self._blocked, strict=True) if stuck)

    @property
    def fault(self) -> str:
        """Empty: only its distance from the setpoint shows a blocked joint."""
        return ""

    @property
    def unready(self) -> str:
        """Empty: always ready."""
        return ""

    @property
    def autonomous(self) -> bool:
        """False: nothing moves by itself."""
        return False

    @property
    def astray(self) -> NDArray[np.bool_]:
        """Joints (J,) that are blocked away from their setpoints, or catch up with them."""
        return self._astray.copy()

    def interrupt(self) -> None:
        """Nothing to stop."""

    def block(self, joints: Iterable[str]) -> None:
        """Block these joints and free all others.

        Args:
            joints: Names; unknown ones are ignored.
        """
        stuck = set(joints)
        self._blocked = np.array([name in stuck for name in self._names])

    def step(self, command: Array, velocity: Array, dt_s: float) -> None:
        """Advance by one step.

        Args:
            command: Set-points at the end of the step (J,), m or rad.
            velocity: Their velocity at the end of the step (J,), m/s or rad/s.
            dt_s: Length of the step, s; nothing moves when it is 0.
        """
        if dt_s <= 0:
            return
        if self._tau > 0:
            slope = (command - self._command) / dt_s
            lag = slope * self._tau
            decay = np.exp(-dt_s / self._tau)
            position = command - lag + (self._position - self._command + lag) * decay
            speed = (command - position) / self._tau
        else:
            position, speed = command, velocity
        follows = ~self._blocked & ~self._astray
        self._position = np.where(follows, position, self._position)
        self._velocity = np.where(self._blocked, 0.0, np.where(follows, speed, self._velocity))
        for joint in np.flatnonzero(self._astray & ~self._blocked):
            self._catch_up(int(joint), command[joint] - self._tau * velocity[joint], velocity[joint], dt_s)
        self._command = command.copy()
        stuck = np.abs(self._position - command) > _FOLLOWS
        self._astray = np.where(self._blocked, stuck, self._astray)
        self._closing[self._blocked] = 0.0

    def _catch_up(self, joint: int, place: float, speed: float, dt_s: float) -> None:
        """Move a joint towards a place that moves at a speed, time-optimally within its limits.

        Args:
            joint: Column.
            place: Where the setpoint asks it to be at the end of the step, m or rad.
            speed: Of that place, m/s or rad/s.
            dt_s: Length of the step, s.
        """
        top, least = self._limits.velocity[joint], self._limits.velocity[joint] * _LEAST_RESERVE
        request = ruckig.InputParameter(1)
        request.current_position = [self._position[joint] - (place - speed * dt_s)]
        request.current_velocity = [self._velocity[joint] - speed]
        request.current_acceleration = [self._closing[joint]]
        request.max_velocity, request.min_velocity = [max(top - speed, least)], [min(-top - speed, -least)]
        request.max_acceleration = [self._limits.acceleration[joint]]
        request.max_jerk = [self._limits.jerk[joint]]
        way = ruckig.Trajectory(1)
        result = ruckig.Ruckig(1).calculate(request, way)
        if result not in (ruckig.Result.Working, ruckig.Result.Finished):
            raise AssertionError(f"no motion found for {self._names[joint]} to its setpoint: {result}")
        away, closing, acceleration = (values[0] for values in way.at_time(dt_s)[:3])
        arrived = way.duration <= dt_s
        self._astray[joint] = not arrived
        self._position[joint], self._velocity[joint] = place + away, speed + closing
        self._closing[joint] = 0.0 if arrived else acceleration

    def bumpless_command(self) -> Array:
        """Return the setpoints (J,), m or rad, under which the drives would carry on as they move now."""
        return self._position + self._tau * self._velocity

    def realign(self, joints: NDArray[np.bool_]) -> Array:
        """Take ``bumpless_command`` as the present setpoint of some joints, so that none of them jumps.

        Args:
            joints: Mask (J,).

        Returns:
            The setpoints (J,) after it, m or rad.
        """
        self._command = np.where(joints, self.bumpless_command(), self._command)
        self._astray &= ~joints
        self._closing[joints] = 0.0
        return self._command.copy()

    def measure(self) -> Measurement:
        """Read the encoders once."""
        position, velocity = self._position.copy(), self._velocity.copy()
        if self._position_noise is not None:
            position += self._position_noise * self._random.standard_normal(len(position))
        if self._velocity_noise is not None:
            velocity += self._velocity_noise * self._random.standard_normal(len(velocity))
        return Measurement(position, velocity)
