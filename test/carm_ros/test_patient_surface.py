# SPDX-License-Identifier: Apache-2.0
"""``shape_msgs/Mesh`` read from its bytes."""

import struct
import time

import numpy as np
import pytest

from carm_core.errors import ConfigurationError

pytest.importorskip("rclpy", reason="needs ROS 2")
from geometry_msgs.msg import Point
from hypothesis import given
from hypothesis import strategies as st
from rclpy.serialization import serialize_message
from shape_msgs.msg import Mesh, MeshTriangle

from carm_ros.patient_surface import MOST_BYTES, surface_from_cdr, surface_from_message


def mesh(vertices: np.ndarray, triangles: np.ndarray) -> Mesh:
    return Mesh(
        vertices=[Point(x=x, y=y, z=z) for x, y, z in vertices.tolist()],
        triangles=[MeshTriangle(vertex_indices=row) for row in triangles.astype(np.uint32)],
    )


@pytest.mark.parametrize("count", [1, 2, 3, 4, 57])
def test_bytes_and_message_say_the_same(count: int) -> None:
    rng = np.random.default_rng(count)
    message = mesh(rng.uniform(-1.0, 1.0, (count + 2, 3)), rng.integers(0, count + 2, (count, 3)))
    data = serialize_message(message)
    for surface in (surface_from_cdr(data), surface_from_message(message)):
        np.testing.assert_array_equal(surface.vertices_m, [[p.x, p.y, p.z] for p in message.vertices])
        np.testing.assert_array_equal(surface.triangles, [t.vertex_indices for t in message.triangles])
    swapped = bytes([0, 0, 0, 0]) + struct.pack(">I3I", 1, 0, 1, 2)
    swapped += struct.pack(">I", 3) + bytes(-(len(swapped)) % 8) + struct.pack(">9d", *range(9))
    with pytest.raises(ConfigurationError, match="within 5 m"):
        surface_from_cdr(swapped)


@pytest.mark.parametrize(
    "data",
    [
        serialize_message(Mesh()),
        serialize_message(mesh(np.full((3, 3), np.nan), np.array([[0, 1, 2]]))),
        serialize_message(mesh(np.full((3, 3), 1e9), np.array([[0, 1, 2]]))),
        serialize_message(mesh(np.eye(3), np.array([[0, 1, 3]]))),
        serialize_message(mesh(np.eye(3), np.array([[0, 1, 2]])))[:-8],
        b"\x00\x01\x00\x00" + b"\xff" * 8,
        b"\x00\x07\x00\x00" + bytes(8),
    ],
)
def test_what_is_no_surface_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ConfigurationError) as raised:
        surface_from_cdr(data)
    assert "\n" not in str(raised.value)


@given(st.binary(max_size=200), st.integers(0, 2**32 - 1))
def test_no_bytes_bring_it_down(tail: bytes, count: int) -> None:
    for data in (tail, b"\x00\x01\x00\x00" + struct.pack("<I", count) + tail):
        with pytest.raises(ConfigurationError):
            surface_from_cdr(data)


def test_a_million_triangles_are_refused_unread() -> None:
    data = b"\x00\x01\x00\x00" + struct.pack("<I", 10**6) + bytes(12 * 10**6)
    begin_s = time.perf_counter()
    with pytest.raises(ConfigurationError, match="MB"):
        surface_from_cdr(data)
    assert time.perf_counter() - begin_s < 0.1
    assert len(data) > MOST_BYTES
