# SPDX-License-Identifier: Apache-2.0
"""The robot description against the kinematics, the limits and physics; the files derived from it are up to date."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import trimesh
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.paths import config_file
from carm_core.robot.inertia import Dynamics
from carm_core.robot.kinematics import LINKS, ROTATION_OPTICAL_TO_CARM, CArm
from carm_core.robot.shapes import RobotGeometry
from carm_core.robot.urdf import PLUGINS, Variant, urdf, xacro

ROOT = Path(__file__).resolve().parents[3]
CARM = CArm.from_config()
GEOMETRY = RobotGeometry.from_config()
DYNAMICS = Dynamics.from_config()
LOWER = np.array([joint.lower for joint in CARM.joints])
UPPER = np.array([joint.upper for joint in CARM.joints])
VARIANTS = (
    Variant(),
    Variant("mock"),
    Variant("gazebo", "file:///meshes", "/controllers.yaml", "lab"),
    Variant("my_lab/MyHardware"),
    Variant("gazebo", "file:///meshes", "/controllers.yaml", "lab", "left_arm/"),
)
positions = st.lists(st.floats(0.0, 1.0), min_size=6, max_size=6).map(lambda s: LOWER + np.array(s) * (UPPER - LOWER))


@pytest.fixture(scope="module")
def make_robot() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_robot", ROOT / "scripts/make_robot.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=30, deadline=None)
@given(positions)
def test_forward_kinematics_are_those_of_the_core(q: NDArray) -> None:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromXML(urdf(CARM))
    data = model.createData()
    pin.framesForwardKinematics(model, data, q)

    def frame(name: str) -> tuple[NDArray, NDArray]:
        found = data.oMf[model.getFrameId(name)]
        return found.rotation, found.translation

    pose = CARM.transform_carm_to_table(q)
    rotation, translation = frame("isocenter")
    assert rotation == pytest.approx(pose.rotation, abs=1e-9)
    assert translation == pytest.approx(pose.translation, abs=1e-9)
    view = CARM.view(q)
    rotation, translation = frame("xray_optical")
    assert rotation == pytest.approx(pose.rotation @ ROTATION_OPTICAL_TO_CARM, abs=1e-9)
    assert 1000 * translation == pytest.approx(view.source_mm, abs=1e-6)
    _, detector = frame("detector")
    assert np.linalg.norm(detector - translation) == pytest.approx(CARM.source_detector_m)
    _, base = frame("carm_base")
    assert base == pytest.approx([0, 0, -CARM.table_height_m])


def test_limits_are_those_of_the_core() -> None:
    pin = pytest.importorskip("pinocchio")
    model = pin.buildModelFromXML(urdf(CARM))
    assert tuple(list(model.names)[1:]) == CARM.joint_names
    assert model.lowerPositionLimit == pytest.approx(LOWER)
    assert model.upperPositionLimit == pytest.approx(UPPER)
    assert model.velocityLimit == pytest.approx([joint.velocity for joint in CARM.joints])
    assert model.effortLimit == pytest.approx([DYNAMICS.efforts[joint.name] for joint in CARM.joints])


@pytest.mark.parametrize("link", LINKS)
def test_inertias_are_those_of_bodies(link: str) -> None:
    inertia = DYNAMICS.inertia(link, GEOMETRY)
    moments = np.linalg.eigvalsh(inertia.tensor)
    assert inertia.tensor == pytest.approx(inertia.tensor.T)
    assert moments[0] > 0
    assert moments[0] + moments[1] > moments[2]  # triangle inequality: a body has mass on both sides of each plane
    corners = np.vstack([shape.corners_m for shape in GEOMETRY.of_link(link)] or [np.array([[-1.0] * 3, [1.0] * 3])])
    assert (inertia.center_m >= corners.min(axis=0)).all()
    assert (inertia.center_m <= corners.max(axis=0)).all()


@pytest.mark.parametrize("link", [link for link in LINKS if GEOMETRY.of_link(link) and link != "isocenter"])
def test_inertias_agree_with_the_meshes(link: str) -> None:
    """The sum over shapes against trimesh's integral over surfaces."""
    parts = []
    for shape in GEOMETRY.of_link(link):
        part = trimesh.creation.box(shape.size_m) if shape.kind == "box" else trimesh.creation.cylinder(*shape.size_m)
        part.apply_transform(shape.transform_shape_to_link.matrix)
        parts.append(part)
    body = trimesh.util.concatenate(parts)
    inertia = DYNAMICS.inertia(link, GEOMETRY)
    body.density = inertia.mass_kg / body.volume
    assert inertia.center_m == pytest.approx(body.center_mass, abs=1e-9)
    assert inertia.tensor == pytest.approx(body.moment_inertia, abs=1e-6 * inertia.mass_kg)


def test_drives_can_carry_the_arm() -> None:
    carried = sum(DYNAMICS.masses_kg[link] for link in LINKS[LINKS.index("lift_link") :])
    assert DYNAMICS.efforts["lift"] > 2 * 9.81 * carried


def test_collision_shapes_are_those_of_the_geometry() -> None:
    robot = ET.fromstring(urdf(CARM))
    names = [part.get("name") for part in robot.iter("collision")]
    assert names == [shape.id for shape in GEOMETRY.shapes]


def test_committed_files_are_up_to_date(make_robot: ModuleType, tmp_path: Path) -> None:
    """If it fails: run scripts/make_robot.py."""
    assert (ROOT / "urdf/carm.urdf.xacro").read_text(encoding="utf-8") == xacro(CARM)
    made = make_robot.meshes()
    assert {path.stem for path in (ROOT / "meshes").iterdir()} == set(made)
    for link, mesh in made.items():
        file = ROOT / "meshes" / f"{link}.stl"
        assert file.stat().st_size < 64_000
        known = trimesh.load_mesh(file)
        assert known.is_watertight
        assert known.bounds == pytest.approx(mesh.bounds, abs=1e-5)
        assert known.volume == pytest.approx(mesh.volume, rel=1e-4)


def test_meshes_lie_within_the_collision_shapes(make_robot: ModuleType) -> None:
    for link, mesh in make_robot.meshes().items():
        inside = np.zeros(len(mesh.vertices), dtype=bool)
        for shape in GEOMETRY.of_link(link):
            local = shape.transform_shape_to_link.inverse().apply(mesh.vertices)
            inside |= (np.abs(local) <= shape.half_extent_m + 1e-6).all(axis=1)
        assert inside.all(), link


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.hardware)
def test_xacro_makes_the_same_description(variant: Variant) -> None:
    processor = pytest.importorskip("xacro")
    mappings = {
        name: getattr(variant, name) for name in ("hardware", "meshes", "controllers", "namespace", "frame_prefix")
    }
    document = processor.process_file(str(ROOT / "urdf/carm.urdf.xacro"), mappings=mappings)

    def elements(text: str) -> list[str]:
        root = ET.fromstring(text)
        for element in root.iter():
            element.text, element.tail = (element.text or "").strip(), ""
        return sorted(ET.canonicalize(ET.tostring(child, encoding="unicode")) for child in root)

    assert elements(document.toxml()) == elements(urdf(CARM, variant))


@pytest.mark.parametrize(("hardware", "plugin"), [*PLUGINS.items(), ("my_lab/MyHardware", "my_lab/MyHardware")])
def test_ros2_control_names_every_joint(hardware: str, plugin: str) -> None:
    system = ET.fromstring(urdf(CARM, Variant(hardware))).find("ros2_control")
    assert system is not None
    assert system.findtext("hardware/plugin") == plugin
    assert [joint.get("name") for joint in system.findall("joint")] == list(CARM.joint_names)
    for joint, home in zip(system.findall("joint"), CARM.home, strict=True):
        start = joint.findtext("state_interface[@name='position']/param[@name='initial_value']")
        assert float(start or "nan") == pytest.approx(home)


def test_the_table_is_in_gazebos_world_not_in_its_robot() -> None:
    robot = ET.fromstring(urdf(CARM, Variant("gazebo")))
    assert robot.findall("link[@name='table']/collision") == []
    assert robot.find("joint[@name='world_to_table']") is not None


@pytest.mark.parametrize(
    ("old", "new"), [("isocenter: 40.0", "isocenter: -1.0"), ("lift: 5000.0, ", ""), ("masses_kg:", "masses:")]
)
def test_malformed_dynamics_are_refused(tmp_path: Path, old: str, new: str) -> None:
    text = config_file("carm.yaml").read_text(encoding="utf-8")
    assert old in text
    file = tmp_path / "carm.yaml"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigurationError, match="carm.yaml"):
        Dynamics.from_config(file)
