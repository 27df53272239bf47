# SPDX-License-Identifier: Apache-2.0
"""The saved positions, which the agent keeps (service ``save_position``), as the console shows them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from carm_interfaces.srv import SavePosition
from rclpy.clock import Clock, ClockType

from carm_bringup.console.commands import Command
from carm_core.errors import CarmError
from carm_ros.node import OrderlyNode

_LOOK_S = 5.0
"""Others save positions too (`carm view --save`): the list is asked for again after so long, s."""
_LOST_S = 2.0
_MOST_SHOWN = 200


class Positions:
    """Asks the agent. All of it runs on the node's executor."""

    def __init__(
        self, node: OrderlyNode, tell: Callable[[dict[str, Any]], None], show: Callable[[list[str]], None]
    ) -> None:
        """Make the client.

        Args:
            node: The console node.
            tell: Sends a message to all pages.
            show: Told the names of all saved positions when they have changed.
        """
        self._tell, self._show = tell, show
        self._client = node.create_client(SavePosition, "save_position")
        self._asked_s = 0.0
        self._pending: Any = None
        self._names: list[str] | None = None
        node.create_timer(1.0, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def obey(self, command: Command) -> None:
        """Carry out ``save`` or ``forget``.

        Raises:
            CarmError: The agent is not there.
        """
        if not self._client.service_is_ready():
            raise CarmError("saved positions: the agent is not there")
        request = SavePosition.Request(name=command.text, forget=command.kind == "forget")
        what = f"{command.kind} position {command.text!r}"
        self._client.call_async(request).add_done_callback(partial(self._answered, what))

    def _look(self) -> None:
        now_s = time.monotonic()
        if self._pending is not None and now_s - self._asked_s > _LOST_S:
            self._client.remove_pending_request(self._pending)
            self._pending = None
        due = now_s - self._asked_s > (1.0 if self._names is None else _LOOK_S)
        if self._pending is None and due and self._client.service_is_ready():
            self._asked_s = now_s
            self._pending = self._client.call_async(SavePosition.Request())
            self._pending.add_done_callback(partial(self._answered, ""))

    def _answered(self, what: str, future: Any) -> None:
        if future is self._pending:
            self._pending = None
        answer = future.result()
        if answer is None:  # nobody waits for it any more
            return
        ok = answer.error_code == SavePosition.Response.ERROR_NONE
        if what:
            self._tell({"type": "result", "ok": ok, "text": f"{what}: {answer.error_msg or 'done'}"[:400]})
        names = [name[:80] for name in answer.names[:_MOST_SHOWN]]
        if names != self._names:
            self._names = names
            self._show(names)
