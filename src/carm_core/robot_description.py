# SPDX-License-Identifier: Apache-2.0
"""The robot description (URDF), written from the same :class:`~carm_core.kinematics.CArm` as the kinematics."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET

from carm_core.kinematics import CArm

_Vector = tuple[float, float, float]


def urdf(carm: CArm) -> str:
    """Describe the C-arm as URDF; lengths in m, angles in rad.

    The links include the frames ``table``, ``carm_base``, ``isocenter``, ``xray_source``, ``detector`` and
    ``xray_optical``.

    Args:
        carm: The C-arm.

    Returns:
        The XML text.
    """
    robot = ET.Element("robot", name="carm")
    reach = carm.column_to_isocenter_m
    detector_m = carm.detector.pitch_mm * carm.detector.rows / 1000
    rest = carm.source_detector_m - carm.source_isocenter_m
    _link(robot, "table", box=(2.0, 0.5, 0.04), origin=(0, 0, -0.02))
    _fixed(robot, "table", "carm_base", (0, 0, -carm.table_height_m))
    _link(robot, "carm_base")
    parents = (
        "carm_base",
        "cart_longitudinal_link",
        "cart_lateral_link",
        "lift_link",
        "wigwag_link",
        "tilt_link",
    )
    links = (*parents[1:], "isocenter")
    column = carm.table_height_m + carm.isocenter_height_m
    origins: tuple[_Vector, ...] = (
        (0, 0, 0),
        (0, reach, 0),
        (0, 0, column),
        (0, 0, 0),
        (0, -reach, 0),
        (0, 0, 0),
    )
    axes = ("1 0 0", "0 1 0", "0 0 1", "0 0 1", "0 1 0", "1 0 0")
    for joint, parent, child, origin, axis in zip(carm.joints, parents, links, origins, axes, strict=True):
        _link(robot, child)
        element = ET.SubElement(robot, "joint", name=joint.name, type=joint.kind)
        ET.SubElement(element, "parent", link=parent)
        ET.SubElement(element, "child", link=child)
        ET.SubElement(element, "origin", xyz=_text(origin), rpy="0 0 0")
        ET.SubElement(element, "axis", xyz=axis)
        ET.SubElement(
            element,
            "limit",
            lower=repr(joint.lower),
            upper=repr(joint.upper),
            velocity=repr(joint.velocity),
            effort="1000",
        )
    _link(robot, "xray_source", box=(0.2, 0.2, 0.2))
    _fixed(robot, "isocenter", "xray_source", (0, 0, -carm.source_isocenter_m))
    _link(robot, "detector", box=(detector_m, detector_m, 0.06), origin=(0, 0, 0.03))
    _fixed(robot, "isocenter", "detector", (0, 0, rest))
    _link(robot, "xray_optical")
    _fixed(robot, "xray_source", "xray_optical", (0, 0, 0), (0, 0, math.pi / 2))
    ET.indent(robot)
    return '<?xml version="1.0"?>\n' + ET.tostring(robot, encoding="unicode") + "\n"


def _text(vector: _Vector) -> str:
    return " ".join(repr(float(v)) for v in vector)


def _link(robot: ET.Element, name: str, box: _Vector | None = None, origin: _Vector = (0, 0, 0)) -> None:
    link = ET.SubElement(robot, "link", name=name)
    if box is None:
        return
    for kind in ("visual", "collision"):
        part = ET.SubElement(link, kind)
        ET.SubElement(part, "origin", xyz=_text(origin), rpy="0 0 0")
        ET.SubElement(ET.SubElement(part, "geometry"), "box", size=_text(box))


def _fixed(robot: ET.Element, parent: str, child: str, xyz: _Vector, rpy: _Vector = (0, 0, 0)) -> None:
    joint = ET.SubElement(robot, "joint", name=f"{parent}_to_{child}", type="fixed")
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    ET.SubElement(joint, "origin", xyz=_text(xyz), rpy=_text(rpy))
