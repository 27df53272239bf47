# SPDX-License-Identifier: Apache-2.0
"""What the localizer node tells about the patient's CT: pose on ``/tf``, how it fits, points, lines, previews.

How bones lie is told without a CT as well, by the landmarks in the last images.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from builtin_interfaces.msg import Time
from carm_interfaces.srv import BoneAxes as FindBone
from carm_interfaces.srv import FindPoint, PreviewXray
from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import Point, Pose, Quaternion, TransformStamped
from numpy.typing import NDArray
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from scipy.spatial.transform import Rotation
from shape_msgs.msg import Mesh
from tf2_msgs.msg import TFMessage

from carm_core.anatomy.axes import BoneAxes
from carm_core.errors import CarmError, GoalError, LocalizerError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import NEEDS_CT
from carm_core.plausibility import at_most, numbers
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array, RigidTransform
from carm_perception.nodes.ct_lines import CtLines
from carm_perception.registration.body_belief import BodyBelief, Sighting
from carm_perception.registration.initial_pose import Sighted
from carm_ros.messages import diagnostics
from carm_ros.node import OrderlyNode
from carm_ros.patient_surface import CT_TOPIC, LATCHED, surface_message
from carm_sim.patient.surface import patient_surface

if TYPE_CHECKING:
    from carm_perception.localizers.ct_preview import CtPreview
    from carm_perception.localizers.registered import RegisteredLocalizer
    from carm_perception.registration.registrar import Registration

FRAME, PARENT = "ct", "table"
_LONGEST_NAME = 1000
_MOST_JOINT = 1000.0
_SAME_SKIN_M = 0.005
"""Planning keeps a margin of 20 mm around the skin: shifts below this are not worth a new collision model."""


class CtDesk:
    """Publishes the registered CT's pose and skin, and serves ``ct/find_point``, ``ct/bone_axes`` and ``xray/preview``.

    Attributes:
        localizer: Knows the CT; None: no CT was given, or the localizer is not loaded.
    """

    def __init__(self, node: OrderlyNode, ct: str, frame_prefix: str) -> None:
        """Create the services; ``/tf`` is published only where there is a CT.

        Args:
            node: The localizer node.
            ct: The CT's path; empty: there is none.
            frame_prefix: Prefix of the frames.
        """
        self.localizer: RegisteredLocalizer | None = None
        self._node, self._ct, self._prefix = node, ct, frame_prefix
        self._tf = node.create_publisher(TFMessage, "/tf", 100) if ct else None
        self._skin = node.create_publisher(Mesh, CT_TOPIC, LATCHED) if ct else None
        self._skin_lps: tuple[Array, NDArray[np.int64]] | None = None
        self._skin_m: Array | None = None
        self._told: Registration | None = None
        self._drawn: Registration | None = None
        self._lines = CtLines(node, frame_prefix) if ct else None
        self._preview: CtPreview | None = None
        self._body = BodyBelief()
        group = MutuallyExclusiveCallbackGroup()  # a preview takes a second, of one thread
        node.create_service(FindPoint, "ct/find_point", self._on_find, callback_group=group)
        node.create_service(FindBone, "ct/bone_axes", self._on_bone, callback_group=group)
        node.create_service(PreviewXray, "xray/preview", self._on_preview, callback_group=group)

    def publish(self, stamp: Time) -> None:
        """Publish the pose of a registration that is new and accepted, on the localizer's thread.

        Args:
            stamp: Of the image that was registered.
        """
        registration = self.localizer.registration if self.localizer is not None else None
        if registration is None or registration is self._told or self._tf is None:
            return
        self._told = registration
        if registration.accepted:
            pose = transform(registration.transform_lps_to_table, self._prefix, stamp)
            self._tf.publish(TFMessage(transforms=[pose]))
            self._publish_skin(registration.transform_lps_to_table)

    def prepare(self, localizer: RegisteredLocalizer) -> None:
        """Take a localizer that has loaded the CT."""
        self.localizer = localizer
        if self._lines is not None:
            self._lines.start(localizer.patient.volume)

    def see(self, frame: XrayFrame, localizer: Sighting) -> None:
        """Keep what a localizer sees in an image, on the localizer's thread: it tells how bones lie without a CT."""
        if frame.view is None:
            return
        try:
            self._body.add(frame.stamp_s, Sighted(frame.view, localizer.sighted(frame)))
        except LocalizerError:
            return

    def draw(self, frame: XrayFrame, stamp: Time) -> None:
        """Have the bones of a registration that is new and accepted drawn, on another thread than the caller's.

        Args:
            frame: The image that was registered.
            stamp: Of it.
        """
        registration = self.localizer.registration if self.localizer is not None else None
        if frame.view is None or registration is None or registration is self._drawn or self._lines is None:
            return
        self._drawn = registration
        if registration.accepted:
            self._lines.draw(frame, registration.transform_lps_to_table, stamp)

    def close(self) -> None:
        """End the thread that draws."""
        if self._lines is not None:
            self._lines.close()

    def _publish_skin(self, pose: RigidTransform) -> None:
        """Publish where the CT's skin lies, for planning around it, unless it hardly moved."""
        assert self.localizer is not None
        assert self._skin is not None
        if self._skin_lps is None:
            patient = self.localizer.patient
            found = patient_surface(patient)
            to_lps = patient.transform_lps_to_table.inverse()
            self._skin_lps = to_lps.apply(1000.0 * found.vertices_m), found.triangles
        places_mm, triangles = self._skin_lps
        skin_m = pose.apply(places_mm) / 1000.0
        if self._skin_m is None or float(np.abs(skin_m - self._skin_m).max()) > _SAME_SKIN_M:
            self._skin.publish(surface_message(skin_m, triangles))
            self._skin_m = skin_m

    def forget(self) -> None:
        """Give the CT's memory back."""
        self.close()
        self._body.forget()
        self.localizer = self._told = self._drawn = self._preview = self._skin_lps = self._skin_m = None

    def status(self, stamp: Time, name: str) -> list[DiagnosticStatus]:
        """Return how well the CT fits the last image; nothing where there is no CT.

        Args:
            stamp: Of the report.
            name: Of the node.
        """
        if not self._ct:
            return []
        localizer = self.localizer
        found = localizer.registration if localizer is not None else None
        level, text, values = DiagnosticStatus.OK, "no image yet", {"CT": self._ct}
        if localizer is not None and found is not None:
            text = "registered"
            if not found.accepted:
                level, text = DiagnosticStatus.WARN, found.reason
            error_mm = localizer.in_view_std_mm if found.accepted else math.nan
            values |= {
                "accepted": "yes" if found.accepted else "no",
                "similarity": f"{found.similarity:.3f}",
                "overlap": f"{found.overlap:.2f}",
                "images": str(found.images),
                "standard deviation in view (mm)": f"{error_mm:.2f}",
                "duration (s)": f"{found.duration_s:.2f}",
            }
        status: list[DiagnosticStatus] = diagnostics(stamp, f"{name}: CT", level, text, values).status
        return status

    def _on_find(self, request: Any, response: Any) -> Any:
        if self.localizer is None:
            response.error_code, response.error_msg = FindPoint.Request.ERROR_NO_CT, self._why_no_ct()
            return response
        at_most("name", request.name, _LONGEST_NAME)
        try:
            if request.name:
                response.name, place = self.localizer.find(request.name)
            else:
                place = 1000.0 * np.array([request.point.x, request.point.y, request.point.z])
                self.localizer.check(place)
        except UnknownNameError as error:
            response.error_code, response.error_msg = FindPoint.Request.ERROR_UNKNOWN_NAME, str(error)
            return response
        except GoalError as error:
            response.error_code, response.error_msg = FindPoint.Request.ERROR_OUTSIDE, str(error)
            return response
        response.success = True
        response.point = Point(**dict(zip("xyz", (place / 1000.0).tolist(), strict=True)))
        return response

    def _on_bone(self, request: Any, response: Any) -> Any:
        at_most("bone", request.bone, _LONGEST_NAME)
        try:
            axes = self._bone_of_ct(request.bone)
        except CarmError as reason:
            try:
                axes = self._body.bone(request.bone)
            except CarmError as error:
                response.error_msg = f"{reason}; and without it: {error}"
                return response
        place = Point(**dict(zip("xyz", (axes.origin_mm / 1000.0).tolist(), strict=True)))
        turn = Rotation.from_matrix(axes.rotation).as_quat().tolist()
        response.success, response.std, response.method = True, math.radians(axes.std_deg), axes.method
        response.pose = Pose(position=place, orientation=Quaternion(**dict(zip("xyzw", turn, strict=True))))
        return response

    def _bone_of_ct(self, name: str) -> BoneAxes:
        """Return the axes of a bone by the registered CT, frame ``table``, mm.

        Raises:
            CarmError: There is no CT, it is not registered, or it does not tell them.
        """
        if self.localizer is None:
            raise GoalError(self._why_no_ct())
        registration = self.localizer.registration
        if registration is None or not registration.accepted:
            raise GoalError(_not_registered(registration))
        axes = self.localizer.patient.axes_of(name).moved(registration.transform_lps_to_table)
        return replace(axes, method=f"registered CT; {axes.method}")

    def _on_preview(self, request: Any, response: Any) -> Any:
        import cv2

        registration = self.localizer.registration if self.localizer is not None else None
        if self.localizer is None:
            response.error_code, response.error_msg = PreviewXray.Request.ERROR_NO_CT, self._why_no_ct()
        elif registration is None or not registration.accepted:
            response.error_code = PreviewXray.Request.ERROR_NOT_REGISTERED
            response.error_msg = _not_registered(registration)
        else:
            carm = CArm.from_config()
            try:
                positions = _positions(request, carm)
            except CarmError as error:
                response.error_code, response.error_msg = PreviewXray.Request.ERROR_INVALID_REQUEST, str(error)
                return response
            image = self._previews(carm).image(registration.transform_lps_to_table, positions)
            done, png = cv2.imencode(".png", image)
            response.success, response.png = done, array("B", png.tobytes())
        return response

    def _previews(self, carm: CArm) -> CtPreview:
        from carm_perception.localizers.ct_preview import CtPreview

        assert self.localizer is not None
        if self._preview is None:
            self._preview = CtPreview(self.localizer.patient, carm)
        return self._preview

    def _why_no_ct(self) -> str:
        return "the localizer is still being loaded" if self._ct else NEEDS_CT


def _not_registered(registration: Registration | None) -> str:
    why = "there was no image yet" if registration is None else registration.reason
    return f"the CT is not registered: {why}"


def transform(transform_lps_to_table: RigidTransform, frame_prefix: str, stamp: Time) -> TransformStamped:
    """Return the pose of frame ``ct``, whose axes are the CT's LPS axes, in frame ``table``.

    Args:
        transform_lps_to_table: Pose, mm.
        frame_prefix: Prefix of both frames.
        stamp: Of the image.
    """
    message = TransformStamped(child_frame_id=frame_prefix + FRAME)
    message.header.stamp, message.header.frame_id = stamp, frame_prefix + PARENT
    to, turn = message.transform.translation, message.transform.rotation
    to.x, to.y, to.z = (transform_lps_to_table.translation / 1000.0).tolist()
    turn.x, turn.y, turn.z, turn.w = Rotation.from_matrix(transform_lps_to_table.rotation).as_quat().tolist()
    return message


def _positions(request: Any, carm: CArm) -> list[float]:
    """Return the joint positions (J,) of a request in the arm's order, m or rad.

    Raises:
        CarmError: A joint is missing or unknown, or a position is not a plausible number.
    """
    names = carm.joint_names
    at_most("joint_names", request.joint_names, len(names))
    given = numbers("positions", request.positions, -_MOST_JOINT, _MOST_JOINT, count=len(names))
    if sorted(request.joint_names) != sorted(names):
        raise GoalError(f"a preview needs the positions of the joints {', '.join(names)}")
    places = dict(zip(request.joint_names, given.tolist(), strict=True))
    return [places[name] for name in names]
