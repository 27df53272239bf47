# SPDX-License-Identifier: Apache-2.0
"""The solid parts of the machine and the table, from ``config/carm.yaml``: boxes and cylinders fixed to links.

Collision checks, the robot description and pictures all read them here. Links are those of the robot description
(``carm_core.robot.urdf``); ``link_poses`` says where they are.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial.transform import Rotation

from carm_core.data_files import read_yaml
from carm_core.errors import ConfigurationError
from carm_core.paths import config_file
from carm_core.robot.kinematics import LINKS, STATIC_LINKS, CArm
from carm_core.transforms import Array, RigidTransform, rotation_about

RIGID_GROUP = ("isocenter", "xray_source", "detector")
"""Links that are fixed to each other: the C with what it carries."""


@dataclass(frozen=True, eq=False)
class Shape:
    """One convex solid, fixed to a link.

    Attributes:
        name: Part of the machine, as in ``config/carm.yaml``; the pieces of an arc share it.
        piece: Number among the solids of this part, from 0.
        link: Link that carries it.
        kind: ``"box"`` or ``"cylinder"``.
        size_m: Box: full lengths along x, y, z. Cylinder: radius, length along z. m.
        transform_shape_to_link: Where it sits; its own frame is at its center, m.
    """

    name: str
    piece: int
    link: str
    kind: str
    size_m: tuple[float, ...]
    transform_shape_to_link: RigidTransform

    @property
    def id(self) -> str:
        """A name that no other shape has, for example ``c_arc_3``; the part's own name if it is one solid."""
        return self.name if self.piece < 0 else f"{self.name}_{self.piece}"

    @property
    def half_extent_m(self) -> Array:
        """Half the lengths (3,) of the box around it, in its own frame, m."""
        if self.kind == "box":
            return np.array(self.size_m) / 2
        radius, length = self.size_m
        return np.array([radius, radius, length / 2])

    @property
    def corners_m(self) -> Array:
        """Corners (8, 3) of the box around it, in the link's frame, m."""
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T
        return self.transform_shape_to_link.apply(signs * self.half_extent_m)

    @property
    def rpy_rad(self) -> tuple[float, float, float]:
        """Fixed-axis roll, pitch, yaw of the shape in its link, as URDF and SDF want them, rad."""
        r = self.transform_shape_to_link.rotation
        return (
            math.atan2(r[2, 1], r[2, 2]),
            math.asin(max(-1.0, min(1.0, -r[2, 0]))),
            math.atan2(r[1, 0], r[0, 0]),
        )


@dataclass(frozen=True, eq=False)
class RobotGeometry:
    """All solids of the machine and the table. Build it with ``from_config``.

    Attributes:
        shapes: In the order of ``LINKS``.
        ignored_pairs: Pairs of part names that are not checked against each other.
    """

    shapes: tuple[Shape, ...]
    ignored_pairs: frozenset[frozenset[str]] = field(default_factory=frozenset)

    @classmethod
    def from_config(cls, path: str | Path | None = None) -> RobotGeometry:
        """Read the shapes of ``config/carm.yaml``.

        Args:
            path: Another file of the same form; None: the one that ships with the project.

        Raises:
            ConfigurationError: The file is missing or malformed.
        """
        file = Path(path) if path is not None else config_file("carm.yaml")
        try:
            data = read_yaml(file)
            return cls._from_dict(data)
        except (OSError, LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
            raise ConfigurationError(f"{file}: {type(error).__name__}: {error}") from error

    @classmethod
    def _from_dict(cls, data: dict[str, Any]) -> RobotGeometry:
        specs = data["shapes"]
        unknown = set(specs) - set(LINKS)
        if unknown:
            raise ValueError(f"shapes: unknown link {min(unknown)!r}; links are {', '.join(LINKS)}")
        shapes = tuple(shape for link in LINKS for spec in specs.get(link, ()) for shape in _shapes(link, spec))
        parts = {shape.name for shape in shapes}
        if len({shape.id for shape in shapes}) != len(shapes):
            raise ValueError("shapes: two parts have the same name")
        pairs = frozenset(frozenset(pair) for pair in data.get("ignored_pairs", ()))
        for pair in pairs:
            if len(pair) != 2 or not pair <= parts:
                raise ValueError(f"ignored_pairs: {sorted(pair)} is not a pair of parts")
        return cls(shapes, pairs)

    def of_link(self, link: str) -> tuple[Shape, ...]:
        """Return the shapes that a link carries."""
        return tuple(shape for shape in self.shapes if shape.link == link)

    @property
    def moving(self) -> tuple[Shape, ...]:
        """The shapes that some joint moves."""
        return tuple(shape for shape in self.shapes if shape.link not in STATIC_LINKS)

    @property
    def static(self) -> tuple[Shape, ...]:
        """The shapes that no joint moves."""
        return tuple(shape for shape in self.shapes if shape.link in STATIC_LINKS)

    def self_pairs(self) -> Iterator[tuple[Shape, Shape]]:
        """Yield the pairs of moving shapes that could meet: of links that move to each other, and not ignored."""
        moving = self.moving
        for index, first in enumerate(moving):
            for second in moving[index + 1 :]:
                together = first.link == second.link or {first.link, second.link} <= set(RIGID_GROUP)
                if not together and frozenset((first.name, second.name)) not in self.ignored_pairs:
                    yield first, second


def link_poses(carm: CArm, positions: ArrayLike) -> dict[str, RigidTransform]:
    """Return ``transform_link_to_table`` of every link that can carry shapes, m.

    Args:
        carm: The arm.
        positions: (6,), m and rad.
    """
    rotations, origins = carm.link_frames(positions)
    return {
        link: RigidTransform(rotation, origin) for link, rotation, origin in zip(LINKS, rotations, origins, strict=True)
    }


def _shapes(link: str, spec: dict[str, Any]) -> Iterator[Shape]:
    name = str(spec["name"])
    kinds = [kind for kind in ("box_m", "cylinder_m", "arc") if kind in spec]
    if len(kinds) != 1:
        raise ValueError(f"shape {name}: give one of box_m, cylinder_m, arc")
    if kinds[0] == "arc":
        yield from _arc(name, link, **{key: float(value) for key, value in spec["arc"].items()})
        return
    size = tuple(float(value) for value in spec[kinds[0]])
    if len(size) != {"box_m": 3, "cylinder_m": 2}[kinds[0]] or min(size) <= 0:
        raise ValueError(f"shape {name}: {kinds[0]} is {list(size)}")
    place = RigidTransform(translation=np.array([float(value) for value in spec["at_m"]]))
    yield Shape(name, -1, link, kinds[0].removesuffix("_m"), size, place)


def _arc(
    name: str,
    link: str,
    *,
    inner_m: float,
    outer_m: float,
    width_m: float,
    from_deg: float,
    to_deg: float,
    pieces: float,
) -> Iterator[Shape]:
    """Enclose a part of a ring in boxes: x along its axis, y radial, z along it."""
    count = int(pieces)
    if not (0 < inner_m < outer_m and width_m > 0 and from_deg < to_deg and count >= 1):
        raise ValueError(f"shape {name}: the radii, width, angles or number of pieces do not form an arc")
    half = math.radians(to_deg - from_deg) / count / 2
    low, high = inner_m * math.cos(half), outer_m
    size = (width_m, high - low, 2 * outer_m * math.sin(half))
    for piece in range(count):
        turn = rotation_about("x", math.radians(from_deg) + (2 * piece + 1) * half)
        yield Shape(name, piece, link, "box", size, RigidTransform(turn, turn @ np.array([0.0, (low + high) / 2, 0.0])))


@dataclass(frozen=True, eq=False)
class LinkPose:
    """Pose of a link in its parent link.

    Attributes:
        parent: Parent link.
        child: Link.
        translation_m: (3,), m.
        quaternion: (x, y, z, w).
    """

    parent: str
    child: str
    translation_m: Array
    quaternion: Array


@dataclass(frozen=True, eq=False)
class _UrdfJoint:
    name: str
    kind: str
    parent: str
    child: str
    origin_m: Array
    orientation: Rotation
    axis: Array

    def pose(self, position: float) -> LinkPose:
        translation, rotation = self.origin_m, self.orientation
        if self.kind == "prismatic":
            translation = translation + rotation.apply(self.axis * position)
        elif self.kind == "revolute":
            rotation = rotation * Rotation.from_rotvec(self.axis * position)
        return LinkPose(self.parent, self.child, translation, rotation.as_quat())


class LinkPoses:
    """Poses of all links for given joint positions.

    Attributes:
        fixed: Poses of the links behind fixed joints, for ``/tf_static``.
    """

    def __init__(self, urdf: str) -> None:
        """Read a robot description.

        Args:
            urdf: XML text with fixed, prismatic and revolute joints.
        """
        joints = [_read(element) for element in ET.fromstring(urdf).iter("joint")]
        self.fixed = tuple(joint.pose(0.0) for joint in joints if joint.kind == "fixed")
        self._moved = [joint for joint in joints if joint.kind != "fixed"]

    def moved(self, positions: Mapping[str, float]) -> list[LinkPose]:
        """Return the poses of the links behind joints that move, for ``/tf``.

        Args:
            positions: Joint name -> m or rad.
        """
        return [joint.pose(positions.get(joint.name, 0.0)) for joint in self._moved]


def _read(element: ET.Element) -> _UrdfJoint:
    def vector(tag: str, attribute: str, default: str) -> Array:
        child = element.find(tag)
        text = default if child is None else child.get(attribute, default)
        return np.array([float(word) for word in text.split()])

    def link(tag: str) -> str:
        child = element.find(tag)
        return "" if child is None else child.get("link", "")

    return _UrdfJoint(
        element.get("name", ""),
        element.get("type", "fixed"),
        link("parent"),
        link("child"),
        vector("origin", "xyz", "0 0 0"),
        Rotation.from_euler("xyz", vector("origin", "rpy", "0 0 0")),
        vector("axis", "xyz", "1 0 0"),
    )
