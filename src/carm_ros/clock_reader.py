# SPDX-License-Identifier: Apache-2.0
"""Read ``/clock`` beside the executor.

A simulator publishes it up to a thousand times a second, and each message would have rclpy's executor build its wait
set anew: most of a core in a node with many entities. A thread looks at it now and then instead.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from rclpy._rclpy_pybind11 import InvalidHandle, RCLError
from rclpy.callback_groups import CallbackGroup
from rclpy.subscription import Subscription

CLOCK_TOPIC = "/clock"
_PERIOD_S = 0.005


class NeverExecuted(CallbackGroup):
    """A callback group of what the executor leaves alone."""

    def can_execute(self, entity: Any) -> bool:
        """Return False, for every entity."""
        return False

    def beginning_execution(self, entity: Any) -> bool:
        """Return False, for every entity."""
        return False

    def ending_execution(self, entity: Any) -> None:
        """Do nothing."""


def read_beside_executor(subscription: Subscription) -> None:
    """Start a thread that hands the newest message to the callback, until the subscription is destroyed.

    Args:
        subscription: In a group ``NeverExecuted``.
    """
    threading.Thread(target=_read, args=(subscription,), name="clock", daemon=True).start()


def _read(subscription: Subscription) -> None:
    while True:
        newest = None
        try:
            with subscription.handle:
                while taken := subscription.handle.take_message(subscription.msg_type, False):
                    newest = taken[0]
            if newest is not None:
                subscription.callback(newest)
        except (InvalidHandle, RCLError):  # the node or its context is gone
            return
        del newest
        time.sleep(_PERIOD_S)
