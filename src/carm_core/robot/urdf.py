# SPDX-License-Identifier: Apache-2.0
"""The robot description (URDF and xacro), written from the same ``config/carm.yaml`` as the kinematics."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass

from carm_core.robot.inertia import Dynamics, Inertia
from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.shapes import RobotGeometry, Shape

MESHES = "package://carm_bringup/meshes"
"""Where the meshes are unless said otherwise; ``scripts/make_robot.py`` makes them."""
NO_HARDWARE = "none"
PLUGINS = {"mock": "mock_components/GenericSystem", "gazebo": "gz_ros2_control/GazeboSimSystem"}
"""Short names of ros2_control's hardware plugins."""
XACRO_NAMESPACE = "http://www.ros.org/wiki/xacro"
COLORS = {
    "table": "0.25 0.27 0.30 1",
    "cart_lateral_link": "0.86 0.88 0.90 1",
    "lift_link": "0.70 0.73 0.76 1",
    "wigwag_link": "0.86 0.88 0.90 1",
    "tilt_link": "0.30 0.42 0.52 1",
    "isocenter": "0.93 0.94 0.95 1",
    "xray_source": "0.30 0.42 0.52 1",
    "detector": "0.22 0.24 0.27 1",
}
"""Link with shapes -> color, red, green, blue, alpha."""

_Vector = tuple[float, float, float]
_ORIGIN: _Vector = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Variant:
    """What differs between uses of one robot description.

    Attributes:
        hardware: ``none``, a key of ``PLUGINS``, or the name of a ros2_control hardware plugin.
        meshes: URI of the folder with the meshes.
        controllers: Gazebo: path of the controllers' parameter file.
        namespace: Gazebo: namespace of the controllers.
        frame_prefix: Stands before the name of each link but ``world``, such as ``left_arm/``.
    """

    hardware: str = NO_HARDWARE
    meshes: str = MESHES
    controllers: str = ""
    namespace: str = "carm"
    frame_prefix: str = ""


def urdf(carm: CArm, variant: Variant | None = None, geometry: RobotGeometry | None = None) -> str:
    """Describe the C-arm as URDF; lengths in m, angles in rad, masses in kg.

    The links include the frames ``table``, ``carm_base``, ``isocenter``, ``xray_source``, ``detector`` and
    ``xray_optical``; for Gazebo also ``world``, on the floor below the table's center, and a table
    without solids, which the world has.

    Args:
        carm: The C-arm.
        variant: What it is for; None: only links and joints.
        geometry: The solids; None: those of the shipped configuration.

    Returns:
        The XML text.

    Raises:
        ConfigurationError: The shipped configuration is malformed.
    """
    variant = variant or Variant()
    gazebo = variant.hardware == "gazebo"
    robot = _robot(carm, geometry or RobotGeometry.from_config(), variant.meshes)
    if gazebo:
        _stand_on_floor(robot, carm)
        for tag in ("visual", "collision"):
            table = robot.find("link[@name='table']")
            assert table is not None
            for part in table.findall(tag):
                table.remove(part)
    if variant.hardware != NO_HARDWARE:
        robot.append(_ros2_control(carm, PLUGINS.get(variant.hardware, variant.hardware)))
    if gazebo:
        robot.append(_gazebo_plugin(variant.controllers, variant.namespace))
    _rename_links(robot, variant.frame_prefix)
    return _text_of(robot)


def xacro(carm: CArm, geometry: RobotGeometry | None = None) -> str:
    """Describe the C-arm as xacro, with an argument for each attribute of a ``Variant``.

    Args:
        carm: The C-arm.
        geometry: The solids; None: those of the shipped configuration.

    Returns:
        The XML text; processed with the arguments of a variant it is ``urdf`` of that variant.
    """
    ET.register_namespace("xacro", XACRO_NAMESPACE)
    robot = _robot(carm, geometry or RobotGeometry.from_config(), "$(arg meshes)")
    usual = Variant()
    head: list[ET.Element] = []
    for name in ("hardware", "meshes", "controllers", "namespace", "frame_prefix"):
        head.append(ET.Element(_xacro("arg"), name=name, default=getattr(usual, name)))
    head.append(ET.Element(_xacro("property"), name="hardware", value="$(arg hardware)"))
    table = robot.find("link[@name='table']")
    assert table is not None
    unless_gazebo = ET.SubElement(table, _xacro("unless"), value="${hardware == 'gazebo'}")
    for tag in ("visual", "collision"):
        for part in table.findall(tag):
            table.remove(part)
            unless_gazebo.append(part)
    for index, element in enumerate(head):
        robot.insert(index, element)
    standing = ET.SubElement(robot, _xacro("if"), value="${hardware == 'gazebo'}")
    _stand_on_floor(standing, carm)
    for name, plugin in (*PLUGINS.items(), ("", "${hardware}")):
        condition = f"hardware == {name!r}" if name else f"hardware not in {(NO_HARDWARE, *PLUGINS)!r}"
        choice = ET.SubElement(robot, _xacro("if"), value=f"${{{condition}}}")
        choice.append(_ros2_control(carm, plugin))
    gazebo = ET.SubElement(robot, _xacro("if"), value="${hardware == 'gazebo'}")
    gazebo.append(_gazebo_plugin("$(arg controllers)", "$(arg namespace)"))
    _rename_links(robot, "$(arg frame_prefix)")
    return _text_of(robot)


def _rename_links(robot: ET.Element, prefix: str) -> None:
    """Put a prefix before the names of links, also where joints refer to them; Gazebo knows ``world`` by its name."""
    for element in robot.iter():
        attribute = {"link": "name", "parent": "link", "child": "link"}.get(element.tag)
        if attribute and element.get(attribute) not in (None, "world"):
            element.set(attribute, f"{prefix}{element.get(attribute)}")


def _robot(carm: CArm, geometry: RobotGeometry, meshes: str) -> ET.Element:
    """Return links and joints."""
    robot = ET.Element("robot", name="carm")
    dynamics = Dynamics.from_config()
    for link in LINKS:
        _link(robot, link, geometry.of_link(link), dynamics.inertia(link, geometry), meshes)
    ET.SubElement(robot, "link", name="xray_optical")
    reach = carm.column_to_isocenter_m
    column = carm.table_height_m + carm.isocenter_height_m
    _fixed(robot, "table", "carm_base", (0, 0, -carm.table_height_m))
    links = ("carm_base", "cart_longitudinal_link", "cart_lateral_link", "lift_link", "wigwag_link", "tilt_link")
    origins: tuple[_Vector, ...] = (_ORIGIN, (0, reach, 0), (0, 0, column), _ORIGIN, (0, -reach, 0), _ORIGIN)
    axes = ("1 0 0", "0 1 0", "0 0 1", "0 0 1", "0 1 0", "1 0 0")
    children = (*links[1:], "isocenter")
    for joint, parent, child, origin, axis in zip(carm.joints, links, children, origins, axes, strict=True):
        element = _joint(robot, joint.name, joint.kind, parent, child, origin)
        ET.SubElement(element, "axis", xyz=axis)
        limits = {"lower": joint.lower, "upper": joint.upper, "velocity": joint.velocity}
        limits["effort"] = dynamics.efforts[joint.name]
        ET.SubElement(element, "limit", {name: repr(value) for name, value in limits.items()})
    _fixed(robot, "isocenter", "xray_source", (0, 0, -carm.source_isocenter_m))
    _fixed(robot, "isocenter", "detector", (0, 0, carm.source_detector_m - carm.source_isocenter_m))
    _fixed(robot, "xray_source", "xray_optical", _ORIGIN, (0, 0, math.pi / 2))
    return robot


def _link(robot: ET.Element, name: str, shapes: tuple[Shape, ...], inertia: Inertia, meshes: str) -> None:
    link = ET.SubElement(robot, "link", name=name)
    body = ET.SubElement(link, "inertial")
    ET.SubElement(body, "origin", xyz=_text(inertia.center_m), rpy="0.0 0.0 0.0")
    ET.SubElement(body, "mass", value=repr(inertia.mass_kg))
    places = {"ixx": (0, 0), "ixy": (0, 1), "ixz": (0, 2), "iyy": (1, 1), "iyz": (1, 2), "izz": (2, 2)}
    ET.SubElement(body, "inertia", {key: _number(inertia.tensor[place]) for key, place in places.items()})
    if not shapes:
        return
    visual = ET.SubElement(link, "visual")
    ET.SubElement(ET.SubElement(visual, "geometry"), "mesh", filename=f"{meshes}/{name}.stl")
    ET.SubElement(ET.SubElement(visual, "material", name=name), "color", rgba=COLORS[name])
    for shape in shapes:
        part = ET.SubElement(link, "collision", name=shape.id)
        ET.SubElement(part, "origin", xyz=_text(shape.transform_shape_to_link.translation), rpy=_text(shape.rpy_rad))
        solid = ET.SubElement(part, "geometry")
        if shape.kind == "box":
            ET.SubElement(solid, "box", size=_text(shape.size_m))
        else:
            ET.SubElement(solid, "cylinder", radius=_number(shape.size_m[0]), length=_number(shape.size_m[1]))


def _stand_on_floor(parent: ET.Element, carm: CArm) -> None:
    ET.SubElement(parent, "link", name="world")
    _fixed(parent, "world", "table", (0, 0, carm.table_height_m))


def _ros2_control(carm: CArm, plugin: str) -> ET.Element:
    """Return what ros2_control's resource manager reads: position commands, position and velocity states."""
    system = ET.Element("ros2_control", name="carm", type="system")
    hardware = ET.SubElement(system, "hardware")
    ET.SubElement(hardware, "plugin").text = plugin
    if plugin == PLUGINS["mock"]:
        ET.SubElement(hardware, "param", name="calculate_dynamics").text = "true"
    for joint, start in zip(carm.joints, carm.home, strict=True):
        element = ET.SubElement(system, "joint", name=joint.name)
        command = ET.SubElement(element, "command_interface", name="position")
        ET.SubElement(command, "param", name="min").text = repr(joint.lower)
        ET.SubElement(command, "param", name="max").text = repr(joint.upper)
        position = ET.SubElement(element, "state_interface", name="position")
        ET.SubElement(position, "param", name="initial_value").text = _number(start)
        velocity = ET.SubElement(element, "state_interface", name="velocity")
        ET.SubElement(velocity, "param", name="initial_value").text = "0.0"
    return system


def _gazebo_plugin(controllers: str, namespace: str) -> ET.Element:
    gazebo = ET.Element("gazebo")
    name = "gz_ros2_control::GazeboSimROS2ControlPlugin"
    plugin = ET.SubElement(gazebo, "plugin", filename="gz_ros2_control-system", name=name)
    ET.SubElement(plugin, "parameters").text = controllers
    ET.SubElement(ET.SubElement(plugin, "ros"), "namespace").text = namespace
    return gazebo


def _joint(
    robot: ET.Element, name: str, kind: str, parent: str, child: str, xyz: _Vector, rpy: _Vector = _ORIGIN
) -> ET.Element:
    joint = ET.SubElement(robot, "joint", name=name, type=kind)
    ET.SubElement(joint, "parent", link=parent)
    ET.SubElement(joint, "child", link=child)
    ET.SubElement(joint, "origin", xyz=_text(xyz), rpy=_text(rpy))
    return joint


def _fixed(robot: ET.Element, parent: str, child: str, xyz: _Vector, rpy: _Vector = _ORIGIN) -> None:
    _joint(robot, f"{parent}_to_{child}", "fixed", parent, child, xyz, rpy)


def _xacro(tag: str) -> str:
    return f"{{{XACRO_NAMESPACE}}}{tag}"


def _number(value: float) -> str:
    return repr(round(float(value), 12) + 0.0)


def _text(vector: Iterable[float]) -> str:
    return " ".join(_number(v) for v in vector)


def _text_of(robot: ET.Element) -> str:
    ET.indent(robot)
    return '<?xml version="1.0"?>\n' + ET.tostring(robot, encoding="unicode") + "\n"
