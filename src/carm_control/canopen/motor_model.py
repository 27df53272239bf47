# SPDX-License-Identifier: Apache-2.0
"""Motor, load and switches of a simulated drive, in encoder counts."""

from __future__ import annotations

import math
from dataclasses import dataclass

from carm_control.canopen.cia402 import Input

_MAX_STEP_S = 0.002
_GAIN = 60.0
"""Of the position loop, 1/s."""


@dataclass
class Plant:
    """A motor with its load, which a speed command moves within an acceleration.

    Attributes:
        position: True position, counts.
        low: Place of the negative limit switch, counts.
        high: Place of the positive limit switch, counts.
        speed_limit: counts/s.
        acceleration_limit: counts/s².
        velocity: True speed, counts/s.
        zero: What the encoder reads at true position 0, counts.
        inverted: Fault: the encoder counts the other way.
        jammed: Fault: nothing moves.
    """

    position: float
    low: float
    high: float
    speed_limit: float
    acceleration_limit: float
    velocity: float = 0.0
    zero: float = 0.0
    inverted: bool = False
    jammed: bool = False

    def invert(self) -> None:
        """Swap the tracks of the encoder where the motor stands."""
        measured = self.measured
        self.inverted = not self.inverted
        self.zero += measured - self.measured

    @property
    def measured(self) -> float:
        """Encoder position, counts."""
        return self.zero + (-self.position if self.inverted else self.position)

    @property
    def measured_velocity(self) -> float:
        """Encoder velocity, counts/s."""
        return -self.velocity if self.inverted else self.velocity

    @property
    def inputs(self) -> int:
        """Digital inputs, as 0x60FD."""
        negative = Input.NEGATIVE_LIMIT if self.position <= self.low else 0
        return negative | (Input.POSITIVE_LIMIT if self.position >= self.high else 0)

    def brake(self) -> None:
        """Engage the brake."""
        self.velocity = 0.0

    def track(self, target: float, feed: float, dt_s: float, acceleration: float | None = None) -> None:
        """Let the position loop follow a target.

        Args:
            target: Counts, where the encoder should be at the end of the step.
            feed: Its speed, counts/s.
            dt_s: Length of the step, s.
            acceleration: Limit, counts/s²; None: that of the motor.
        """
        steps = max(1, math.ceil(dt_s / _MAX_STEP_S))
        step_s = dt_s / steps
        for n in range(1, steps + 1):
            there = target - feed * step_s * (steps - n)
            error = there - self.measured
            limit = self.acceleration_limit if acceleration is None else acceleration
            braking = math.copysign(math.sqrt(2 * limit * abs(error)), error)
            speed = feed + (_GAIN * error if abs(_GAIN * error) < abs(braking) else braking)
            self.drive(speed, limit, step_s)

    def drive(self, speed: float, acceleration: float, dt_s: float) -> None:
        """Change the speed towards a value, counts/s, with an acceleration, counts/s², for a step, s."""
        speed = min(max(speed, -self.speed_limit), self.speed_limit)
        change = acceleration * dt_s
        before = self.velocity
        self.velocity += min(max(speed - before, -change), change)
        if self.jammed:
            self.velocity = 0.0
            return
        self.position += self.velocity * dt_s
