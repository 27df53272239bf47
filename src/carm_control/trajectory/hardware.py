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
        """The fault that stopped the drives, in one line that names the joint; empty: none."""

    @property
    def unready(self) -> str:
        """Why goals cannot be executed now, in one line; empty if they can."""

    @property
    def autonomous(self) -> bool:
        """Whether the drives move or rest autonomously; setpoints must follow them."""

    @property
    def astray(self) -> NDArray[np.bool_]:
        """Joints (J,) that do not follow their setpoints; motion continues from their actual positions."""

    def bumpless_command(self) -> Array:
        """Return the setpoints (J,), m or rad, under which the joints would go on as they move now."""

    def block(self, joints: Iterable[str]) -> None:
        """Block these joints and free all others, where that can be simulated."""

    def interrupt(self) -> None:
        """Interrupt autonomous motion of the drives."""

    def step(self, command: Array, velocity: Array, dt_s: float) -> None:
        """Advance by one step: setpoints (J,), m or rad, their velocities (J,), and the step's length, s."""

    def realign(self, joints: NDArray[np.bool_]) -> Array:
        """Set the setpoints of a mask (J,) of joints to their actual positions; return all setpoints (J,), m or rad."""

    def measure(self) -> Measurement:
        """Read the encoders once."""
