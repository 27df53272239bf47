# SPDX-License-Identifier: Apache-2.0
"""A hidden node beside another, with an executor and a thread of its own: what it hears waits for nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node

from carm_ros.node import OrderlyNode

_JOIN_S = 0.5


class SideNode:
    """A node's companion for messages that are urgent, or so many that they would hold up the rest.

    Attributes:
        node: The hidden node; names resolve as the owner's, remappings included, only by ``name_of``.
    """

    def __init__(self, owner: OrderlyNode, purpose: str) -> None:
        """Make the node; it hears nothing before ``start``.

        Args:
            owner: The node beside which it stands.
            purpose: Ends its name and its thread's.
        """
        self._owner, self._purpose = owner, purpose
        self.node = Node(
            f"_{owner.get_name()}_{purpose}",  # a leading underscore: hidden from lists of nodes
            namespace=owner.get_namespace(),
            context=owner.context,
            use_global_arguments=False,
            start_parameter_services=False,
            enable_rosout=False,
        )
        self.name_of: Callable[[str], str] = owner.resolve_topic_name
        self._executor = SingleThreadedExecutor(context=owner.context)
        self._executor.add_node(self.node)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._spin, name=purpose, daemon=True)

    def subscribe(self, msg_type: Any, topic: str, callback: Callable[[Any], None], depth: int, largest: int) -> None:
        """Hear a topic of the owner's, on this node's thread; what is wrong with a message is reported as the owner's.

        Args:
            msg_type: Type of the messages.
            topic: Name of the topic, as the owner would give it.
            callback: Told each message.
            depth: Depth of the queue.
            largest: Messages of more bytes are refused before they are unpacked.
        """
        receive = self._owner.checked(msg_type, topic, callback, largest)
        self.node.create_subscription(msg_type, self.name_of(topic), receive, depth, raw=True)

    def do(self, work: Callable[[], None]) -> None:
        """Do something on this node's thread, from any other; its errors are reported as the owner's."""

        def guarded() -> None:
            try:
                work()
            except Exception as error:
                self._owner.refuse(self._purpose, error)

        self._executor.create_task(guarded)

    def start(self) -> None:
        """Begin to hear."""
        self._thread.start()

    def close(self) -> None:
        """End the thread and the node."""
        if self._closing.is_set():
            return
        self._closing.set()
        if self._thread.is_alive():
            self._executor.create_task(lambda: None)  # wakes it
            self._thread.join(_JOIN_S)
        self._executor.shutdown(0.0)
        self.node.destroy_node()

    def _spin(self) -> None:
        while not self._closing.is_set():
            try:
                self._executor.spin_once()
            except ExternalShutdownException:
                return
            except Exception as error:  # no message may end the thread that hears all others
                self._owner.refuse(self._purpose, error)
