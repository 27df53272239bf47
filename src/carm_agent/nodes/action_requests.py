# SPDX-License-Identifier: Apache-2.0
"""Requests of action clients from threads other than the executor's.

`rclpy.action.ActionClient` notes a request after it has sent it. Called from another thread than the executor's, it may
see the answer before the note, and then lose the answer, or raise `ValueError: list.remove(x): x not in list` although
the goal runs (ros2/rclpy, issue 1123). On the executor's own thread no answer is taken between the two.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.node import Node
from rclpy.task import Future

from carm_agent.errors import CanceledError


def ask(node: Node, request: Callable[[], Future]) -> Future:
    """Make a request on the executor's thread.

    Args:
        node: Whose executor is meant.
        request: Sends, and returns the future of the answer.

    Returns:
        A future of the answer, or of what ``request`` raises.
    """
    answered = Future()

    def settle(done: Future) -> None:
        error = done.exception()
        if error is not None:
            answered.set_exception(error)
        else:
            answered.set_result(done.result())

    def send() -> None:
        try:
            request().add_done_callback(settle)
        except Exception as error:  # told on the asking thread; the executor goes on
            answered.set_exception(error)

    executor = node.executor
    if executor is None:
        answered.set_exception(CanceledError("the node is shutting down"))
    else:
        executor.create_task(send)
    return answered


def cancel(node: Node, sent: Future) -> None:
    """Cancel a goal as soon as it is known to be accepted.

    Args:
        node: Whose executor is meant.
        sent: Future of the goal handle.
    """

    def taken(done: Future) -> None:
        handle = None if done.exception() is not None else done.result()
        if handle is not None and handle.accepted:
            ask(node, handle.cancel_goal_async)

    sent.add_done_callback(taken)
