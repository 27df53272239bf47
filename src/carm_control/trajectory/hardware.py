# SPDX-License-Identifier: Apache-2.0
"""What the controller needs of drives, and their model: first-order lag, noise, a fault that can be switched on.

A joint that was blocked and is freed away from its setpoint catches up within its limits of velocity, acceleration
and jerk; only then it follows with its lag again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array


class Measurement(NamedTuple):
    """What the encoders say: position (J,), m or rad; velocity (J,), m/s or rad/s."""

    position: Array
    velocity: Array


class Drives(Protocol):
    """What moves the joints, J of them: a model, or drives on a bus."""

    @property
    def position(self) -> Array:
        """Present position (J,), m or rad."""

    @property
    def velocity(self) -> Array:
        """Present velocity (J,), m/s or rad/s."""

    @property
    def fault(self) -> str:
        """What has stopped the drives, in one line that names the joint; empty: nothing has."""

    @property
    def unready(self) -> str:
        """Why goals cannot be followed now, in one line; empty: they can."""

    @property
    def autonomous(self) -> bool:
        """The drives move, or rest, by themselves now; setpoints are to follow them."""

    @property
    def astray(self) -> NDArray[np.bool_]:
        """Which joints (J,) do not follow their setpoints now: motion goes on from where those are."""

    def bumpless_command(self) -> Array:
        """Return the setpoints (J,), m or rad, under which the joints would go on as they move now."""

    def block(self, joints: Iterable[str]) -> None:
        """Block these joints and free all others, where that can be simulated."""

    def interrupt(self) -> None:
        """Stop what the drives do by themselves."""

    def step(self, command: Array, velocity: Array, dt_s: float) -> None:
        """Move on by one step: setpoints (J,), m or rad, their velocities (J,), and the step's length, s."""

    def realign(self, joints: NDArray[np.bool_]) -> Array:
        """Take up joints of a mask (J,) where they are; return the setpoints (J,), m or rad, to go on from."""

    def measure(self) -> Measurement:
        """Read the encoders once."""
