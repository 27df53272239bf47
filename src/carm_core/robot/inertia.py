# SPDX-License-Identifier: Apache-2.0
"""Masses, inertias and efforts of the robot description, from ``config/carm.yaml``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from carm_core.data_files import read_yaml
from carm_core.errors import ConfigurationError
from carm_core.paths import config_file
from carm_core.robot.kinematics import JOINT_NAMES, LINKS
from carm_core.robot.shapes import RobotGeometry, Shape
from carm_core.transforms import Array

CUBE_M = 0.1
"""Side of the cube that stands for a link without shapes, m."""


@dataclass(frozen=True, eq=False)
class Inertia:
    """Inertia of a link.

    Attributes:
        mass_kg: Mass, kg.
        center_m: Center of mass (3,) in the link's frame, m.
        tensor: Inertia tensor (3, 3) about the center of mass, axes of the link's frame, kg m².
    """

    mass_kg: float
    center_m: Array
    tensor: Array


@dataclass(frozen=True, eq=False)
class Dynamics:
    """What a physics engine needs besides the geometry. Build it with ``from_config``.

    Attributes:
        masses_kg: Link -> mass, kg.
        efforts: Joint -> largest force or torque, N or N m.
    """

    masses_kg: Mapping[str, float]
    efforts: Mapping[str, float]

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> Dynamics:
        """Read ``masses_kg`` and ``efforts`` of ``config/carm.yaml``.

        Args:
            path: Another file of the same form; None: the one that ships with the project.

        Raises:
            ConfigurationError: The file is missing or malformed.
        """
        file = Path(path) if path is not None else config_file("carm.yaml")
        try:
            data = read_yaml(file)
            dynamics = cls(
                {str(link): float(mass) for link, mass in data["masses_kg"].items()},
                {str(joint): float(effort) for joint, effort in data["efforts"].items()},
            )
            dynamics._check()
        except (OSError, KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ConfigurationError(f"{file}: {type(error).__name__}: {error}") from error
        return dynamics

    def _check(self) -> None:
        for name, given, wanted in (("masses_kg", self.masses_kg, LINKS), ("efforts", self.efforts, JOINT_NAMES)):
            if set(given) != set(wanted):
                raise ValueError(f"{name} must name {', '.join(wanted)}")
            bad = [key for key, value in given.items() if not (math.isfinite(value) and value > 0)]
            if bad:
                raise ValueError(f"{name}: {bad[0]} = {given[bad[0]]} is not positive")

    def inertia(self, link: str, geometry: RobotGeometry) -> Inertia:
        """Spread a link's mass evenly over its shapes.

        Args:
            link: One of ``~carm_core.robot.shapes.LINKS``.
            geometry: The shapes.
        """
        mass = self.masses_kg[link]
        shapes = geometry.of_link(link)
        if not shapes:
            return Inertia(mass, np.zeros(3), np.eye(3) * mass * CUBE_M**2 / 6)
        volumes = np.array([_volume(shape) for shape in shapes])
        masses = mass * volumes / volumes.sum()
        places = np.array([shape.transform_shape_to_link.translation for shape in shapes])
        center = masses @ places / mass
        tensor = np.zeros((3, 3))
        for share, place, shape in zip(masses, places, shapes, strict=True):
            turn = shape.transform_shape_to_link.rotation
            offset = place - center
            steiner = float(offset @ offset) * np.eye(3) - np.outer(offset, offset)  # parallel axis theorem
            tensor += turn @ np.diag(_unit_inertia(shape)) @ turn.T * share + steiner * share
        return Inertia(mass, center, tensor)


def _volume(shape: Shape) -> float:
    if shape.kind == "box":
        return float(np.prod(shape.size_m))
    radius, length = shape.size_m
    return math.pi * radius**2 * length


def _unit_inertia(shape: Shape) -> Array:
    """Return the principal moments (3,) of a homogeneous solid of 1 kg about its center, m²."""
    if shape.kind == "box":
        x, y, z = (length**2 for length in shape.size_m)
        return np.array([y + z, x + z, x + y]) / 12
    radius, length = shape.size_m
    across = (3 * radius**2 + length**2) / 12
    return np.array([across, across, radius**2 / 2])
