# SPDX-License-Identifier: Apache-2.0
"""Rigid transforms. ``transform_a_to_b`` maps coordinates in frame a to coordinates in frame b."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _frozen(values: ArrayLike, shape: tuple[int, ...]) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape:
        raise ValueError(f"expected shape {shape}, got {array.shape}")
    array.setflags(write=False)
    return array


@dataclass(frozen=True, eq=False)
class RigidTransform:
    """An element of SE(3), immutable.

    Attributes:
        rotation: Rotation matrix (3, 3).
        translation: Translation (3,), in the unit of the points that it is applied to.
    """

    rotation: Array = field(default_factory=lambda: np.eye(3))
    translation: Array = field(default_factory=lambda: np.zeros(3))

    def __post_init__(self) -> None:
        """Check and freeze the parts.

        Raises:
            ValueError: A part has the wrong shape, or the rotation is not a proper rotation to 1e-6.
        """
        object.__setattr__(self, "rotation", _frozen(self.rotation, (3, 3)))
        object.__setattr__(self, "translation", _frozen(self.translation, (3,)))
        error = np.abs(self.rotation @ self.rotation.T - np.eye(3)).max()
        if not error < 1e-6 or np.linalg.det(self.rotation) < 0:
            raise ValueError(f"not a rotation matrix: {self.rotation.tolist()}")

    @classmethod
    def identity(cls) -> RigidTransform:
        """Return the identity."""
        return cls()

    @classmethod
    def from_matrix(cls, matrix: ArrayLike) -> RigidTransform:
        """Split a homogeneous matrix (4, 4).

        Raises:
            ValueError: The matrix is not a rigid transform.
        """
        m = np.asarray(matrix, dtype=np.float64)
        if m.shape != (4, 4) or not np.allclose(m[3], (0, 0, 0, 1)):
            raise ValueError("expected a homogeneous matrix (4, 4) with last row 0 0 0 1")
        return cls(m[:3, :3], m[:3, 3])

    @property
    def matrix(self) -> Array:
        """Homogeneous matrix (4, 4)."""
        out = np.eye(4)
        out[:3, :3], out[:3, 3] = self.rotation, self.translation
        return out

    def __matmul__(self, other: RigidTransform) -> RigidTransform:
        """Compose: ``(transform_b_to_c @ transform_a_to_b)`` is ``transform_a_to_c``."""
        return RigidTransform(self.rotation @ other.rotation, self.rotation @ other.translation + self.translation)

    def inverse(self) -> RigidTransform:
        """Return the transform from b to a."""
        return RigidTransform(self.rotation.T, -self.rotation.T @ self.translation)

    def apply(self, points: ArrayLike) -> Array:
        """Map points (..., 3) from a to b."""
        result: Array = np.asarray(points, dtype=np.float64) @ self.rotation.T + self.translation
        return result

    def rotate(self, vectors: ArrayLike) -> Array:
        """Map directions (..., 3) from a to b: rotation only."""
        result: Array = np.asarray(vectors, dtype=np.float64) @ self.rotation.T
        return result


def rotation_about(axis: str, angle_rad: float) -> Array:
    """Return the rotation matrix (3, 3) about a coordinate axis, right-handed.

    Args:
        axis: ``"x"``, ``"y"`` or ``"z"``.
        angle_rad: Angle, rad.
    """
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = c
    matrix[j, i], matrix[i, j] = s, -s
    return matrix
