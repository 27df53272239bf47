# SPDX-License-Identifier: Apache-2.0
"""Markers lie where the X-rays go; the viewers' layouts name topics that exist."""

import json

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from carm_bringup.graph import description as graph
from carm_bringup.nodes.scene import averaged, detector_points, isocenter_points
from carm_core.paths import share_dir
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import link_poses
from carm_ros import messages as ros_messages

CARM = CArm.from_config()
POSITIONS = np.array([0.1, -0.05, 0.2, 0.1, 0.4, -0.3])
VIEW = CARM.view(POSITIONS, 3)
POSES = link_poses(CARM, POSITIONS)
points = st.tuples(*[st.floats(-0.1, 0.1)] * 3)


@given(points)
def test_a_pixel_lies_where_its_ray_meets_the_detector(offset: tuple[float, float, float]) -> None:
    point_mm = VIEW.isocenter_mm + 1000 * np.array(offset)
    pitch_m = VIEW.source_detector_mm / VIEW.focal_px / 1000
    pixel = VIEW.pixel_display(point_mm)
    placed = POSES["detector"].apply(detector_points(pixel, VIEW.detector.columns, VIEW.detector.rows, pitch_m))[0]
    ray = (point_mm - VIEW.source_mm) / 1000
    depth = VIEW.source_detector_mm / 1000 / (ray @ VIEW.forward)
    assert placed == pytest.approx(VIEW.source_mm / 1000 + depth * ray, abs=1e-6)


@given(st.tuples(st.floats(-0.1, 0.1), st.floats(-0.1, 0.1)))
def test_a_landmark_lies_on_its_ray_at_isocenter_depth(displacement: tuple[float, float]) -> None:
    placed_mm = 1000 * POSES["isocenter"].apply(isocenter_points([displacement]))[0]
    assert VIEW.displacement_mm(placed_mm) / 1000 == pytest.approx(displacement, abs=1e-9)
    assert (placed_mm - VIEW.source_mm) @ VIEW.forward == pytest.approx(VIEW.source_isocenter_mm)


def test_no_landmarks_no_points() -> None:
    assert isocenter_points([]).shape == (0, 3)


@pytest.mark.parametrize(("shape", "side"), [((512, 512), 96), ((100, 60), 96), ((97, 97), 96), ((4, 4), 8)])
def test_averaging_keeps_the_brightness(shape: tuple[int, int], side: int) -> None:
    image = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    small = averaged(image, side)
    assert max(small.shape) <= side
    assert small.mean() == pytest.approx(image.mean(), abs=3)


def layout_topics() -> dict[str, set[str]]:
    rviz = yaml.safe_load((share_dir() / "rviz" / "carm.rviz").read_text(encoding="utf-8"))
    displays = rviz["Visualization Manager"]["Displays"]
    shown = {d[key]["Value"] for d in displays for key in ("Topic", "Description Topic") if key in d}
    foxglove = json.loads((share_dir() / "rviz" / "carm.foxglove.json").read_text(encoding="utf-8"))
    panels = foxglove["configById"]
    topics = set(panels["3D!carm"]["topics"]) | {panels["Image!xray"]["imageMode"]["imageTopic"]}
    return {"rviz": shown, "foxglove": topics}


@pytest.mark.parametrize("viewer", ["rviz", "foxglove"])
def test_layouts_show_what_the_graph_publishes(viewer: str) -> None:
    assert layout_topics()[viewer] == {f"/carm/{topic}" for topic in graph.VIEWED}


def test_panels_of_the_layout_are_configured() -> None:
    layout = json.loads((share_dir() / "rviz" / "carm.foxglove.json").read_text(encoding="utf-8"))

    def panels(node: object) -> set[str]:
        if isinstance(node, str):
            return {node}
        assert isinstance(node, dict)
        return panels(node["first"]) | panels(node["second"])

    assert panels(layout["layout"]) == set(layout["configById"])


def test_the_viewer_follows_the_namespace() -> None:
    assert graph.viewer_remappings(graph.resolve([])) == []
    pairs = dict(graph.viewer_remappings(graph.resolve(["namespace:=lab/left"])))
    assert pairs["/carm/scene/xray"] == "/lab/left/scene/xray"


def test_rviz_brings_the_scene_which_is_not_vital() -> None:
    scene = graph.nodes(graph.resolve(["rviz:=true"]))[-1]
    assert scene.name == "scene_node"
    assert not scene.vital
    assert all(spec.name != "scene_node" for spec in graph.nodes(graph.resolve([])))


def test_headers_carry_the_frame_prefix() -> None:
    import rclpy
    from builtin_interfaces.msg import Time
    from carm_interfaces.msg import Landmark, LandmarkArray
    from geometry_msgs.msg import Point
    from rclpy.parameter import Parameter
    from rclpy.serialization import serialize_message
    from shape_msgs.msg import Mesh, MeshTriangle

    from carm_bringup.nodes.scene_node import SceneNode
    from carm_perception.nodes import messages as localizer_messages
    from carm_sim.nodes import xray_messages

    context = rclpy.Context()
    context.init()
    node = SceneNode(context=context, parameter_overrides=[Parameter("frame_prefix", value="left_arm/")])
    frames: list[str] = []
    node._patient.publish = lambda message: frames.append(message.header.frame_id)
    node._landmarks.publish = lambda message: frames.extend(m.header.frame_id for m in message.markers[1:])
    surface = Mesh(vertices=[Point(x=0.2 * i, y=0.3 * (i % 2), z=0.1 * (i // 2)) for i in range(4)])
    surface.triangles = [
        MeshTriangle(vertex_indices=list(face)) for face in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))
    ]
    node._on_surface(serialize_message(surface))
    node._on_landmarks(LandmarkArray(landmarks=[Landmark(id=11)]))
    node.destroy_node()
    context.shutdown()
    assert set(frames) == {"left_arm/table", "left_arm/isocenter"}
    pixels = np.zeros((2, 2, 3), np.uint8)
    assert localizer_messages.rgb_image(Time(), pixels, "left_arm/").header.frame_id == "left_arm/xray_optical"
    shot = xray_messages.exposure_header(Time(), "left_arm/")
    assert ros_messages.image(pixels[..., 0], shot).header.frame_id == "left_arm/xray_optical"
