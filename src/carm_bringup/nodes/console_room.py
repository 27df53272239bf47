# SPDX-License-Identifier: Apache-2.0
"""The room in 3D, as the page draws it: where each link is, the patient's surface, staff zones, path, clearance.

All of it in frame ``table``, m.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.srv import GetParameters
from rclpy.clock import Clock, ClockType
from rclpy.serialization import deserialize_message
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from visualization_msgs.msg import Marker

from carm_bringup.console.archive import Archive, Picture
from carm_control.nodes.clearance_line import LIFETIME_S, LINE_COLORS
from carm_core.collision.clearance import Verdict
from carm_core.collision.obstacles import Surface, staff_zones
from carm_core.paths import share_dir
from carm_core.robot.joint_check import JointStateCheck
from carm_core.robot.kinematics import LINKS, CArm
from carm_core.robot.urdf import COLORS
from carm_core.transforms import Array
from carm_ros.message_checks import LARGEST_STATE, joint_state
from carm_ros.node import OrderlyNode
from carm_ros.patient_surface import ANY, SurfaceListener

LIBRARY = ("three.module.js", "three.core.js")
"""Files of three.js; the first loads the second."""
_LIBRARY_FOLDER = "web/node_modules/three/build"
_BINARY = "application/octet-stream"
_STL = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
_STL_HEADER = 84
_ASK_S = 3.0
_LOST_S = 1.0
_PATH_POINTS = 48
_GHOSTS = 4
_MOST_ZONES = 16
_SAME_LINE_M = 1e-3
_MOVED = 5e-4
"""Joints that have moved less, m or rad, are where they were: pages draw nothing anew for what encoders tremble."""


def mesh_file(vertices_m: NDArray[Any], triangles: NDArray[Any]) -> bytes:
    """Return a mesh as the page reads it: number of vertices (4 bytes), vertices as float32, triangles as uint32.

    Args:
        vertices_m: (V, 3).
        triangles: (T, 3) indices of vertices.
    """
    count = np.array([len(vertices_m)], "<u4").tobytes()
    return count + np.asarray(vertices_m, "<f4").tobytes() + np.asarray(triangles, "<u4").tobytes()


def stl_mesh(file: Path) -> bytes:
    """Return a binary STL file as the page reads it; each triangle keeps corners of its own, so edges stay sharp."""
    corners = np.frombuffer(file.read_bytes()[_STL_HEADER:], _STL)["corners"].reshape(-1, 3)
    return mesh_file(corners, np.arange(len(corners)))


def rounded(values: Array) -> list[Any]:
    """Return numbers for a message: 0.1 mm is enough."""
    return (np.round(values, 4) + 0.0).tolist()  # type: ignore[no-any-return]


class Room:
    """What is in the room. All of it runs on the node's executor, but ``_on_surface``."""

    def __init__(self, node: OrderlyNode, carm: CArm, parts: Archive) -> None:
        """Read the meshes, subscribe to the patient's surface.

        Args:
            node: The console node.
            carm: The C-arm.
            parts: Takes the files that pages fetch.
        """
        self._node, self._carm, self._parts = node, carm, parts
        self._check = JointStateCheck(carm.joints)
        self._joints = b""
        self._positions = carm.home
        self._poses: list[Any] | None = None
        self._zones: list[Any] = []
        self._line: Marker | None = None
        self._line_s = 0.0
        self._line_shown: tuple[Any, float, dict[str, Any]] | None = None
        self._surfaces = 0
        self._asked_s = 0.0
        self._pending: Any = None
        self.description = self._described()
        self._listener = SurfaceListener(node, ANY, self._on_surface)
        node.create_subscription(Marker, "clearance/line", self._on_line, 1, largest=LARGEST_STATE)
        self._parameters = node.create_client(GetParameters, "supervisor_node/get_parameters")
        node.create_timer(1.0, self._ask_for_zones, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _described(self) -> dict[str, Any]:
        """Return what does not change, and keep the files that it names."""
        share, links = share_dir(), []
        for link in LINKS:
            mesh = share / "meshes" / f"{link}.stl"
            if mesh.is_file():
                self._parts.add(Picture(link, _BINARY, stl_mesh(mesh)))
            color = [float(value) for value in COLORS.get(link, "1 1 1 1").split()[:3]]
            links.append({"name": link, "color": color, "mesh": mesh.is_file()})
        library = [share / _LIBRARY_FOLDER / name for name in LIBRARY]
        there = all(file.is_file() for file in library)
        for file in library if there else ():
            self._parts.add(Picture(file.name, "text/javascript", file.read_bytes()))
        panel = self._carm.detector
        return {
            "library": there,
            "links": links,
            "source_isocenter": self._carm.source_isocenter_m,
            "source_detector": self._carm.source_detector_m,
            "detector": [panel.columns * panel.pitch_mm / 1000.0, panel.rows * panel.pitch_mm / 1000.0],
            "floor": -self._carm.table_height_m,
        }

    def shown(self, joints: bytes) -> dict[str, Any]:
        """Return what a page is told with each state.

        Args:
            joints: The newest joint states as they came.
        """
        if joints and joints != self._joints and len(joints) <= LARGEST_STATE:
            self._joints = joints
            try:
                read = joint_state(deserialize_message(joints, JointState), self._check, time.monotonic())
            except Exception as error:  # rclpy raises what the middleware raises
                self._node.refuse("joint_states", error)
                read = None
            if read is not None and (self._poses is None or np.abs(read[0] - self._positions).max() > _MOVED):
                self._positions, self._poses = read[0], self._poses_at(read[0])
        return {"links": self._poses, "zones": self._zones, "patient": self._surfaces, "clearance": self._clearance()}

    def _on_line(self, message: Marker) -> None:
        self._line, self._line_s = message, time.monotonic()

    def _clearance(self) -> dict[str, Any] | None:
        """Return the smallest clearance as a line; None without a fresh one.

        While nothing moves, it stays as it is: between faces that are parallel, its ends jump.
        """
        line = self._line
        fresh = line is not None and time.monotonic() - self._line_s < LIFETIME_S
        if line is None or not fresh or line.action != Marker.ADD or len(line.points) != 2:
            self._line_shown = None
            return None
        ends = np.array([[point.x, point.y, point.z] for point in line.points])
        length = float(np.linalg.norm(ends[0] - ends[1]))
        if not np.isfinite(ends).all():
            return None
        last = self._line_shown
        if last is None or last[0] is not self._poses or abs(last[1] - length) > _SAME_LINE_M:
            clear = np.allclose([line.color.r, line.color.g, line.color.b], LINE_COLORS[Verdict.CLEAR], atol=0.01)
            color = [round(value, 2) for value in (line.color.r, line.color.g, line.color.b)]
            shown = {"line": rounded(ends.ravel()), "mm": round(1000 * length), "color": color, "near": not clear}
            last = self._line_shown = self._poses, length, shown
        return last[2]

    def _poses_at(self, positions: Array) -> list[Any]:
        """Return origin and quaternion (x, y, z, w) of each link."""
        rotations, origins = self._carm.link_frames(positions)
        return rounded(np.hstack([origins, Rotation.from_matrix(rotations).as_quat()]))

    def ghost(self, trajectory: Any) -> dict[str, Any] | None:
        """Return the path of a plan: where the isocenter goes, and the machine on the way and at the end.

        Args:
            trajectory: ``trajectory_msgs/JointTrajectory``.
        """
        names, points = list(trajectory.joint_names), trajectory.points
        if not points or any(name not in names for name in self._carm.joint_names):
            return None
        order = [names.index(name) for name in self._carm.joint_names]
        path = np.array([point.positions for point in points])[:, order]
        if not np.isfinite(path).all():
            return None
        some = path[np.unique(np.linspace(0, len(path) - 1, _PATH_POINTS).round().astype(int))]
        machine = path[np.unique(np.linspace(0, len(path) - 1, _GHOSTS + 1).round().astype(int))[1:]]
        center, source, detector = (LINKS.index(name) for name in ("isocenter", "xray_source", "detector"))
        frames = np.array([self._carm.link_frames(positions)[1] for positions in some])
        return {
            "paths": [rounded(frames[:, link]) for link in (center, source, detector)],
            "machine": [self._poses_at(positions) for positions in machine],
        }

    def _on_surface(self, surface: Surface) -> None:
        self._parts.add(Picture("patient", _BINARY, mesh_file(surface.vertices_m, surface.triangles)))
        self._surfaces += 1

    def _ask_for_zones(self) -> None:
        now_s = time.monotonic()
        if self._pending is not None and now_s - self._asked_s > _LOST_S:
            self._parameters.remove_pending_request(self._pending)
            self._pending = None
        if self._pending is not None or now_s - self._asked_s < _ASK_S or not self._parameters.service_is_ready():
            return
        self._asked_s = now_s
        self._pending = self._parameters.call_async(GetParameters.Request(names=["staff_zones"]))
        self._pending.add_done_callback(self._on_zones)

    def _on_zones(self, future: Any) -> None:
        self._pending = None
        answer = future.result()
        if answer is not None and answer.values:
            zones = staff_zones(answer.values[0].string_value)[:_MOST_ZONES]
            self._zones = [[*zone.low_m, *zone.high_m] for zone in zones]
