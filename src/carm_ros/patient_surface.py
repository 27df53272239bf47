# SPDX-License-Identifier: Apache-2.0
"""The topic ``patient_surface``: bounded before anything is allocated, read without a loop, and from a known node."""

from __future__ import annotations

import queue
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from geometry_msgs.msg import Point
from numpy.typing import NDArray
from rclpy.callback_groups import CallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from shape_msgs.msg import Mesh, MeshTriangle

from carm_core.collision.convex_shapes import giving_way
from carm_core.collision.obstacles import MOST_TRIANGLES, Surface
from carm_core.collision.patient_surface import PatientSurface
from carm_core.errors import CarmError, ConfigurationError

TOPIC = "patient_surface"
CT_TOPIC = "ct/surface"
"""The skin of the patient's CT where it is registered, from the localizer node."""
LOCALIZER_NODE = "localizer_node"
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
XRAY_NODE = "xray_node"
"""The node whose surface is trusted unless another is named."""
ANY = "any"
"""Stands for whatever single node publishes the surface."""
_HEADER = 4
_TRIANGLE = 12
_VERTEX = 24
MOST_BYTES = 32 + MOST_TRIANGLES * (_TRIANGLE + _VERTEX)
_WAITING = 4
_PAUSE_S = 0.5
_LOG_S = 5.0


def surface_from_cdr(data: bytes) -> Surface:
    """Read a serialized ``shape_msgs/Mesh``: a patient's surface in frame ``table``, m.

    Raises:
        ConfigurationError: It is too large, cut short, or no surface.
    """
    if len(data) > MOST_BYTES:
        raise ConfigurationError(
            f"a surface of {len(data) / 1e6:.1f} MB is no patient's (at most {MOST_BYTES / 1e6:.1f})"
        )
    if len(data) < _HEADER + 4 or data[0] != 0 or data[1] not in (0, 1):
        raise ConfigurationError("the surface is no message in CDR")
    order = "<" if data[1] else ">"
    body = memoryview(data)[_HEADER:]
    triangles, place = _table(body, 0, order + "u4", _TRIANGLE, "triangles", 4)
    vertices, _ = _table(body, place, order + "f8", _VERTEX, "vertices", 8)
    return Surface(vertices.astype(np.float64), triangles.astype(np.int64))


def _table(body: memoryview, place: int, kind: str, row: int, name: str, alignment: int) -> tuple[NDArray[Any], int]:
    """Return a sequence of rows of three numbers (N, 3), and where it ends."""
    if len(body) < place + 4:
        raise ConfigurationError(f"the surface is cut short: no {name}")
    (count,) = struct.unpack_from(kind[0] + "I", body, place)
    place += 4
    if count:
        place += -place % alignment
    end = place + count * row
    if end > len(body):
        raise ConfigurationError(f"the surface is cut short: {count} {name} do not fit into {len(body)} bytes")
    return np.frombuffer(body[place:end], dtype=kind).reshape(-1, 3), end


def surface_from_message(message: Any) -> Surface:
    """Return the surface in a ``shape_msgs/Mesh``, of a bag for example, in frame ``table``, m.

    Raises:
        ConfigurationError: The mesh is not one.
    """
    vertices: NDArray[np.float64] = np.array([(p.x, p.y, p.z) for p in message.vertices], dtype=np.float64)
    triangles = np.array([t.vertex_indices for t in message.triangles], dtype=np.int64)
    return Surface(vertices.reshape(-1, 3), triangles.reshape(-1, 3))


def surface_message(vertices_m: NDArray[Any], triangles: NDArray[Any]) -> Mesh:
    """Return a surface as a message: vertices (V, 3), frame ``table``, m, and triangles (T, 3)."""
    return Mesh(
        vertices=[Point(x=x, y=y, z=z) for x, y, z in vertices_m.tolist()],
        triangles=[MeshTriangle(vertex_indices=row) for row in triangles.astype(np.uint32)],
    )


def publishers(node: Node, topic: str) -> list[str]:
    """Return the full names of the nodes that publish a topic, one per publisher."""
    found = node.get_publishers_info_by_topic(node.resolve_topic_name(topic))
    return sorted(f"{info.node_namespace.rstrip('/')}/{info.node_name}" for info in found)


class SurfaceListener:
    """Listens to a topic of surfaces and says which is in force; reads and cuts on a thread of its own."""

    def __init__(
        self,
        node: Node,
        source: str,
        take: Callable[[Surface], None],
        *,
        topic: str = TOPIC,
        store: PatientSurface | None = None,
        group: CallbackGroup | None = None,
    ) -> None:
        """Subscribe.

        Args:
            node: The node that listens.
            source: Node whose surface is trusted, relative to the namespace of ``node``, or ``ANY``.
            take: Called on the thread with the surface in force; what it raises refuses the surface.
            topic: Where they come.
            store: Decides which counts; None: a ``PatientSurface``.
            group: Callback group of the subscription.
        """
        self._node, self._source, self._take, self._group = node, source, take, group
        self._topic, self._store = topic, store or PatientSurface()
        self._waiting: queue.Queue[bytes] = queue.Queue(_WAITING)
        self._received = 0
        self._done = 0
        self._strange = False
        self.problem = ""
        """Why the surface that came last does not stand alone for the patient; empty when it does."""
        self._subscribe()
        node.create_timer(1.0, self._look_again, clock=Clock(clock_type=ClockType.STEADY_TIME), callback_group=group)
        threading.Thread(target=self._work, name="surface", daemon=True).start()

    @property
    def heard(self) -> bool:
        """Whether the surface that came last is taken over, or refused."""
        return 0 < self._received == self._done

    def _subscribe(self) -> None:
        self._subscription = self._node.create_subscription(
            Mesh, self._topic, self._on_surface, LATCHED, callback_group=self._group, raw=True
        )

    def _on_surface(self, data: bytes) -> None:
        try:
            if len(data) <= MOST_BYTES:
                self._waiting.put_nowait(data)
                self._received += 1
            else:
                self._say(f"refused: {len(data) / 1e6:.1f} MB are no patient's (at most {MOST_BYTES / 1e6:.1f})")
        except queue.Full:
            self._say("one more left out: they come faster than they can be read")

    def _stranger(self) -> str:
        """Return who, besides the source, may have sent what came; empty when nobody."""
        names = publishers(self._node, self._topic)
        space = self._node.get_namespace().rstrip("/")
        trusted = self._source if self._source.startswith("/") else f"{space}/{self._source}"
        if len(names) == 1 and (self._source == ANY or names[0] == trusted):
            return ""
        return f"{', '.join(names) or 'a node that is gone'} (surface_source is {self._source})"

    def _look_again(self) -> None:
        """Once the source is alone, ask it again: what came beside a stranger was not taken over."""
        if self._strange and not self._stranger():
            self._strange = False
            self._node.destroy_subscription(self._subscription)
            self._subscribe()

    def _work(self) -> None:
        pause = threading.Event()
        while True:
            data = self._waiting.get()
            try:
                with giving_way():
                    self._judge(data)
            except CarmError as error:
                self._say(f"refused: {error}")
            self._done += 1
            pause.wait(_PAUSE_S)

    def _judge(self, data: bytes) -> None:
        surface = surface_from_cdr(data)
        stranger = self._stranger()
        self._strange = self._strange or bool(stranger)
        decision = self._store.offer(surface, stranger)
        if decision.surface is not None and decision.surface is not self._store.surface:
            self._take(decision.surface)
            self._store.keep(decision)
        if decision.message:
            self._say(decision.message)
        else:
            self.problem = ""
            self._node.get_logger().info(f"{self._topic}: {len(surface.triangles)} triangles taken over")

    def _say(self, problem: str) -> None:
        """Keep a problem and log it, not more often than every few seconds."""
        self.problem = f"{self._topic}: {problem}"
        self._node.get_logger().warning(self.problem, throttle_duration_sec=_LOG_S)
