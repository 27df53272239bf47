# SPDX-License-Identifier: Apache-2.0
"""Timed joint trajectories and their interpolation.

Between two points the interpolation is what ros2_controllers' joint_trajectory_controller uses: linear when the points
carry positions only, cubic with velocities, quintic with velocities and accelerations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carm_core.transforms import Array


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Joint positions over time.

    Attributes:
        joint_names: Names (J).
        times_s: Strictly increasing times from the start (N,), s.
        positions: (N, J), m or rad.
        velocities: (N, J), m/s or rad/s; None when not given.
        accelerations: (N, J), m/s² or rad/s²; None when not given.
    """

    joint_names: tuple[str, ...]
    times_s: Array
    positions: Array
    velocities: Array | None = None
    accelerations: Array | None = None

    def __post_init__(self) -> None:
        """Check shapes, times and numbers.

        Raises:
            ValueError: Shapes disagree, times do not increase, or a number is not finite.
        """
        times = np.asarray(self.times_s, dtype=np.float64)
        shape = (len(times), len(self.joint_names))
        if times.ndim != 1 or len(times) == 0:
            raise ValueError("a trajectory needs at least one point")
        if not np.isfinite(times).all() or times[0] < 0 or (np.diff(times) <= 0).any():
            raise ValueError("times must be finite, not negative and strictly increasing")
        object.__setattr__(self, "times_s", times)
        for name in ("positions", "velocities", "accelerations"):
            values = getattr(self, name)
            if values is None:
                continue
            array = np.asarray(values, dtype=np.float64)
            if array.shape != shape:
                raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"{name} must be finite")
            object.__setattr__(self, name, array)

    @property
    def duration_s(self) -> float:
        """Time of the last point, s."""
        return float(self.times_s[-1])

    def sample(self, time_s: float) -> tuple[Array, Array, Array]:
        """Interpolate.

        Args:
            time_s: Time from the start, s; held at the first and the last point outside.

        Returns:
            Position, velocity, acceleration, each (J,).
        """
        t = self.times_s
        zero = np.zeros(len(self.joint_names))
        if time_s >= t[-1] or len(t) == 1:
            return self.positions[-1].copy(), zero, zero.copy()
        if time_s < t[0]:
            return self.positions[0].copy(), zero, zero.copy()
        k = int(np.searchsorted(t, time_s, side="right")) - 1
        coefficients = self._segment(k)
        tau = time_s - t[k]
        powers = tau ** np.arange(len(coefficients))
        n = np.arange(len(coefficients))
        position = powers @ coefficients
        velocity = (n[1:] * powers[:-1]) @ coefficients[1:]
        acceleration = (n[2:] * n[1:-1] * powers[:-2]) @ coefficients[2:] if len(n) > 2 else zero
        return position, velocity, acceleration

    def _segment(self, k: int) -> Array:
        """Return the polynomial coefficients (degree + 1, J) of segment k, lowest power first."""
        h = self.times_s[k + 1] - self.times_s[k]
        p0, p1 = self.positions[k], self.positions[k + 1]
        if self.velocities is None:
            return np.array([p0, (p1 - p0) / h])
        v0, v1 = self.velocities[k], self.velocities[k + 1]
        if self.accelerations is None:
            return np.array([p0, v0, (3 * (p1 - p0) / h - 2 * v0 - v1) / h, (2 * (p0 - p1) / h + v0 + v1) / h**2])
        a0, a1 = self.accelerations[k], self.accelerations[k + 1]
        d = p1 - p0
        return np.array(
            [
                p0,
                v0,
                a0 / 2,
                (20 * d - (8 * v1 + 12 * v0) * h - (3 * a0 - a1) * h**2) / (2 * h**3),
                (-30 * d + (14 * v1 + 16 * v0) * h + (3 * a0 - 2 * a1) * h**2) / (2 * h**4),
                (12 * d - 6 * (v1 + v0) * h - (a0 - a1) * h**2) / (2 * h**5),
            ]
        )
