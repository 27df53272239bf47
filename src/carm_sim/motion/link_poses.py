# SPDX-License-Identifier: Apache-2.0
"""Poses of the links of a robot description, as robot_state_publisher computes them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from carm_control.trajectory.spline import Array


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
