# SPDX-License-Identifier: Apache-2.0
"""What the localizer node tells about the registered CT: /tf, diagnostics, points and previews, over DDS."""

from __future__ import annotations

import io
import math
from array import array
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from builtin_interfaces.msg import Time
from carm_interfaces.action import Localize
from carm_interfaces.srv import BoneAxes, FindPoint, PreviewXray
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, TransformStamped
from PIL import Image as Picture
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import CameraInfo, Image, JointState
from shape_msgs.msg import Mesh
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import ImageMarker

from carm_core.anatomy.axes import angle_deg
from carm_core.localization import NEEDS_CT
from carm_core.robot.kinematics import CArm
from carm_core.transforms import RigidTransform
from carm_perception.localizers.ct_contours import CtContours
from carm_perception.nodes.ct import CtDesk
from carm_ros.patient_surface import CT_TOPIC, LATCHED, surface_from_message
from carm_sim.patient.surface import patient_surface
from carm_sim.patient_loader import load_patient
from carm_sim.xray import Exposure, XrayConfig, XraySystem

from .test_localizer_node import NODE, Client

pytestmark = pytest.mark.integration
ARM = CArm.from_config()
CARINA = 11


class Bench(Client):
    """Stands in for the X-ray node, the arm and those who ask."""

    def __init__(self, domain: int) -> None:
        super().__init__(domain)
        self.positions = ARM.home
        self.poses: list[TransformStamped] = []
        self.joints = self.node.create_publisher(JointState, "joint_states", 10)
        self.node.create_timer(0.02, self.tell_joints)
        self.node.create_subscription(TFMessage, "/tf", lambda message: self.poses.extend(message.transforms), 100)
        self.lines: list[ImageMarker] = []
        self.node.create_subscription(ImageMarker, "landmarks/contours", self.lines.append, 2)
        self.skins: list[Mesh] = []
        self.node.create_subscription(Mesh, CT_TOPIC, self.skins.append, LATCHED)
        self.finder = self.node.create_client(FindPoint, "ct/find_point")
        self.bones = self.node.create_client(BoneAxes, "ct/bone_axes")
        self.previewer = self.node.create_client(PreviewXray, "xray/preview")

    def tell_joints(self) -> None:
        message = JointState(name=list(ARM.joint_names), position=list(self.positions), velocity=[0.0] * 6)
        message.header.stamp = self.node.get_clock().now().to_msg()
        self.joints.publish(message)

    def call(self, client: Any, request: Any) -> Any:
        self.until(client.service_is_ready, "service")
        future = client.call_async(request)
        self.until(future.done, "answer")
        return future.result()

    def expose(self, shot: Exposure) -> Any:
        """Publish an exposure; return its stamp."""
        stamp, pixels = self.node.get_clock().now().to_msg(), shot.display
        image = Image(height=pixels.shape[0], width=pixels.shape[1], encoding="mono8", step=pixels.shape[1])
        info = CameraInfo(height=pixels.shape[0], width=pixels.shape[1], k=shot.view.intrinsics.ravel().tolist())
        image.header.stamp = info.header.stamp = stamp
        image.data = array("B", pixels.tobytes())
        self.info.publish(info)
        self.image.publish(image)
        return stamp

    def ct_status(self) -> dict[str, Any]:
        """Return the last status of the CT."""
        statuses = [status for report in self.health for status in report.status if status.name.endswith(": CT")]
        last = statuses[-1] if statuses else DiagnosticStatus()
        return {"level": last.level, "message": last.message} | {pair.key: pair.value for pair in last.values}


@pytest.fixture
def bench(ros_domain: int) -> Iterator[Bench]:
    made = Bench(ros_domain)
    yield made
    made.close()


def test_without_a_ct_the_last_images_tell_how_bones_lie(bench: Bench, spawn: Any) -> None:
    spawn([*NODE, "--ros-args", "-p", "localizer:=regression"])
    body = load_patient("phantom:2")
    system = XraySystem(body, ARM, XrayConfig(binning=6), seed=3)
    true = body.axes_of("trunk").moved(body.transform_lps_to_table)
    bench.positions = ARM.inverse(true.origin_mm / 1000, 0.0, 0.0)[0]
    bench.ready()
    early = bench.call(bench.bones, BoneAxes.Request(bone="trunk"))
    assert not early.success
    assert "ct:=PATH" in early.error_msg
    assert "there was no image yet" in early.error_msg
    for angle in (-10.0, 30.0):
        bench.positions = ARM.inverse(true.origin_mm / 1000, math.radians(angle), 0.0)[0]
        bench.expose(system.expose(bench.positions))
        bench.until(lambda: bench.call(bench.bones, BoneAxes.Request(bone="trunk")).success, "axes of the trunk")
    bone = bench.call(bench.bones, BoneAxes.Request(bone="trunk"))
    turn = bone.pose.orientation
    found = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    assert math.degrees(bone.std) < 7
    assert "landmarks" in bone.method
    for column in range(3):
        assert angle_deg(found[:, column], true.rotation[:, column]) < 3 * math.degrees(bone.std)
    shoulder = bench.call(bench.bones, BoneAxes.Request(bone="left shoulder"))
    assert "needs the patient's CT" in shoulder.error_msg


def test_a_registered_ct_is_told_asked_for_and_previewed(bench: Bench, spawn: Any) -> None:
    spawn([*NODE, "--ros-args", "-p", "localizer:=registered", "-p", "ct:=chest_ct", "-p", "frame_prefix:=left/"])
    chest = load_patient("chest_ct")
    system = XraySystem(chest, ARM, XrayConfig(binning=6), seed=3)
    bench.positions = ARM.inverse((chest.landmarks_table_mm[CARINA] + (-40, 30, 20)) / 1000, math.radians(15), 0.0)[0]
    shot = system.expose(bench.positions)
    bench.ready()
    preview = PreviewXray.Request(joint_names=list(ARM.joint_names), positions=list(bench.positions))
    early = bench.call(bench.previewer, preview)
    assert (early.success, early.error_code) == (False, PreviewXray.Request.ERROR_NOT_REGISTERED)
    assert "there was no image yet" in bench.call(bench.bones, BoneAxes.Request(bone="T12")).error_msg

    stamp = bench.expose(shot)
    bench.until(lambda: bench.poses, "pose of the CT")
    (pose,) = bench.poses
    assert (pose.header.stamp, pose.header.frame_id, pose.child_frame_id) == (stamp, "left/table", "left/ct")
    turn, to = pose.transform.rotation, pose.transform.translation
    found = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w])
    place = chest.landmarks_mm[CARINA] + (10.0, -30.0, -25.0)
    there = chest.transform_lps_to_table.apply(place)
    shift = np.array([to.x, to.y, to.z])
    np.testing.assert_allclose(1000 * (found.apply(place / 1000) + shift), there, atol=3.0)
    bench.until(lambda: bench.ct_status().get("accepted") == "yes", "diagnostics of the CT")
    status = bench.ct_status()
    assert (status["level"], status["message"], status["images"]) == (DiagnosticStatus.OK, "registered", "1")
    assert float(status["similarity"]) > 0.8
    assert 0.0 < float(status["standard deviation in view (mm)"]) < 2.0

    bench.until(lambda: bench.skins, "skin of the CT")
    skin = surface_from_message(bench.skins[-1])
    true_skin = patient_surface(chest)
    np.testing.assert_allclose(skin.vertices_m, true_skin.vertices_m, atol=0.005)
    np.testing.assert_array_equal(skin.triangles, true_skin.triangles)

    bench.until(lambda: bench.lines, "contours of the CT")
    assert (bench.lines[0].header.stamp, bench.lines[0].type) == (stamp, ImageMarker.LINE_LIST)
    drawn = np.array([(end.x, end.y) for end in bench.lines[0].points])
    assert len(drawn) > 200
    true_lines = np.vstack(CtContours(chest.volume).lines(shot.view, chest.transform_lps_to_table))
    off = np.linalg.norm(drawn[:, None] - true_lines, axis=2).min(axis=1)
    moved = np.linalg.norm(drawn[:, None] + (6.0, 6.0) - true_lines, axis=2).min(axis=1)
    assert np.median(off) < 0.5 * np.median(moved)

    point = Point(**dict(zip("xyz", (place / 1000).tolist(), strict=True)))
    answer = bench.ask(at_point=True, point=point, stamp=stamp)
    assert answer.error_code == Localize.Result.ERROR_NONE, answer.error_msg
    (mark,) = answer.landmarks.landmarks
    assert (mark.id, mark.name) == (0, "Point of the CT")
    np.testing.assert_allclose(1000 * mark.displacement, shot.view.displacement_mm(there), atol=1.0)
    assert abs(1000 * mark.depth - (there - shot.view.isocenter_mm) @ shot.view.forward) < 3.0
    assert 0.001 < mark.depth_standard_deviation < 0.005
    both = bench.ask(at_point=True, point=point, target_id=CARINA)
    assert both.error_code == Localize.Result.ERROR_INVALID_GOAL

    assert bench.call(bench.finder, FindPoint.Request(point=point)).success
    named = bench.call(bench.finder, FindPoint.Request(name="Vertebrae T9"))
    assert (named.success, named.name) == (True, "vertebrae_T9")
    np.testing.assert_allclose(
        (named.point.x, named.point.y, named.point.z), chest.points_mm["vertebrae_T9"] / 1000, atol=1e-9
    )
    unknown = bench.call(bench.finder, FindPoint.Request(name="vertebrae_X9"))
    assert (unknown.success, unknown.error_code) == (False, FindPoint.Request.ERROR_UNKNOWN_NAME)
    outside = bench.call(bench.finder, FindPoint.Request(point=Point(x=math.nan)))
    assert (outside.success, outside.error_code) == (False, FindPoint.Request.ERROR_OUTSIDE)

    bone = bench.call(bench.bones, BoneAxes.Request(bone="T12"))
    assert bone.success, bone.error_msg
    true = chest.axes_of("T12").moved(chest.transform_lps_to_table)
    turn, to = bone.pose.orientation, bone.pose.position
    turned = Rotation.from_quat([turn.x, turn.y, turn.z, turn.w]).as_matrix()
    assert np.degrees(np.arccos(np.clip((np.trace(turned.T @ true.rotation) - 1) / 2, -1, 1))) < 1.5
    np.testing.assert_allclose(1000 * np.array([to.x, to.y, to.z]), true.origin_mm, atol=5.0)
    pelvis = bench.call(bench.bones, BoneAxes.Request(bone="pelvis"))
    assert not pelvis.success
    assert "Pubic symphysis" in pelvis.error_msg

    shown = bench.call(bench.previewer, preview)
    assert shown.success, shown.error_msg
    picture = np.asarray(Picture.open(io.BytesIO(bytes(shown.png))))
    assert picture.dtype == np.uint8
    small = np.asarray(Picture.fromarray(picture).resize(shot.display.shape[::-1], Picture.Resampling.BOX))
    assert np.corrcoef(small.ravel(), shot.display.ravel())[0, 1] > 0.98
    preview.joint_names[0] = "elbow"
    wrong = bench.call(bench.previewer, preview)
    assert (wrong.success, wrong.error_code) == (False, PreviewXray.Request.ERROR_INVALID_REQUEST)


def test_a_refused_ct_is_a_warning_and_not_on_tf() -> None:
    """The node itself would need seconds to search for a patient in an image of nobody."""
    sent: list[Any] = []
    node: Any = SimpleNamespace(
        create_publisher=lambda *_: SimpleNamespace(publish=sent.append), create_service=lambda *_, **__: None
    )
    desk = CtDesk(node, "my_ct.nii.gz", "")
    (loading,) = desk.status(Time(), "/carm/localizer_node")
    assert (loading.level, loading.message) == (DiagnosticStatus.OK, "no image yet")
    pose = RigidTransform(np.eye(3), np.array([100.0, 0.0, -20.0]))
    found: Any = SimpleNamespace(
        accepted=False,
        reason="the CT does not fit the image (similarity 0.40, at least 0.75)",
        similarity=0.4,
        overlap=1.0,
        images=1,
        duration_s=2.0,
        transform_lps_to_table=pose,
    )
    localizer: Any = SimpleNamespace(registration=found, in_view_std_mm=0.4, patient=load_patient("chest_ct"))
    desk.localizer = localizer
    desk.publish(Time(sec=7))
    (refused,) = desk.status(Time(), "/carm/localizer_node")
    values = {pair.key: pair.value for pair in refused.values}
    assert (refused.name, refused.level, refused.message) == (
        "/carm/localizer_node: CT",
        DiagnosticStatus.WARN,
        found.reason,
    )
    assert (values["accepted"], values["similarity"]) == ("no", "0.400")
    assert values["standard deviation in view (mm)"] == "nan"
    assert not sent
    localizer.registration = SimpleNamespace(**{**vars(found), "accepted": True})
    desk.publish(Time(sec=8))
    desk.publish(Time(sec=8))
    message, skin = sent
    assert isinstance(skin, Mesh)
    assert message.transforms[0].header.stamp == Time(sec=8)
    assert message.transforms[0].transform.translation.x == 0.1


def test_without_a_ct_points_and_previews_are_refused_in_one_line(bench: Bench, spawn: Any) -> None:
    spawn([*NODE, "--ros-args", "-p", "localizer:=regression"])
    bench.ready()
    for answer in (
        bench.call(bench.finder, FindPoint.Request(name="vertebrae_T9")),
        bench.call(bench.previewer, PreviewXray.Request()),
    ):
        assert (answer.success, answer.error_msg) == (False, NEEDS_CT)
    stamp = bench.show()
    answer = bench.ask(at_point=True, stamp=stamp)
    assert (answer.error_code, answer.error_msg) == (Localize.Result.ERROR_ABSTAINED, NEEDS_CT)
    assert bench.ct_status()["message"] == ""
