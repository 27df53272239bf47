# SPDX-License-Identifier: Apache-2.0
"""Exposures of the console: single ones, fluoroscopy while a page holds the switch, and the collimated field of both.

All of it runs on a thread of its own, so that nothing else that the console does delays the end of the beam.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from carm_interfaces.srv import Expose
from rclpy.clock import Clock, ClockType
from std_srvs.srv import Trigger

from carm_bringup.console.commands import Command
from carm_bringup.console.switch import HOLD_S, Switch
from carm_core.errors import CarmError
from carm_ros.node import OrderlyNode
from carm_ros.side_node import SideNode

_LOOK_S = 0.05
_RENEW_S = 0.15
_LOST_S = 0.5
"""An answer that does not come for so long is not waited for, s."""


class Beam:
    """Asks the X-ray system for exposures.

    Attributes:
        field_mm: Width and height of the field at isocenter depth, mm; 0, 0: the whole detector.
    """

    def __init__(
        self,
        node: OrderlyNode,
        tell: Callable[[dict[str, Any]], None],
        tell_one: Callable[[int, dict[str, Any]], None],
    ) -> None:
        """Make the clients.

        Args:
            node: The console node.
            tell: Sends a message to all pages.
            tell_one: Sends a message to one page, by its number.
        """
        self._node, self._tell, self._tell_one = node, tell, tell_one
        self._side = SideNode(node, "beam")
        clients = {"xray/expose": Expose, "xray/fluoroscopy": Expose, "xray/fluoroscopy_end": Trigger}
        self._expose, self._renew, self._end = (
            self._side.node.create_client(kind, node.resolve_service_name(name)) for name, kind in clients.items()
        )
        self._switch = Switch()
        self._renewed_s = -math.inf
        self._pending: Any = None
        self.field_mm = (0.0, 0.0)
        self._side.node.create_timer(_LOOK_S, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self) -> None:
        """Begin to work."""
        self._side.start()

    def close(self) -> None:
        """End the thread; the X-ray system ends fluoroscopy by itself, as nobody renews it."""
        self._side.close()

    def shown(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        return {"field_mm": list(self.field_mm), "beam": self._switch.owner}

    # From any thread

    def obey(self, command: Command, number: int, who: str) -> None:
        """Carry out ``expose``, ``field``, ``beam``, ``hold`` or ``release``.

        Args:
            command: What.
            number: Number of the page.
            who: The page, for people.
        """
        if command.kind == "hold":  # counts from now, not from when the thread comes to it
            self._switch.hold(number)
        else:
            self._side.do(partial(self._obey, command, number, who))

    def end(self, why: str, number: int = 0) -> None:
        """End fluoroscopy.

        Args:
            why: One line; empty where the page itself has let go.
            number: Of the page whose fluoroscopy ends; 0: of whoever holds the switch.
        """
        self._side.do(partial(self._let_go, why, number))

    # On the thread

    def _obey(self, command: Command, number: int, who: str) -> None:
        try:
            match command.kind:
                case "beam":
                    self._press(number, who)
                case "release":
                    self._let_go("", number)
                case "field":
                    self.field_mm = command.field_mm
                case _:
                    self._expose_once()
        except CarmError as error:
            self._tell_one(number, {"type": "notice", "text": str(error)[:400]})

    def _request(self) -> Expose.Request:
        width, height = self.field_mm
        return Expose.Request(field=[width / 1000.0, height / 1000.0])

    def _expose_once(self) -> None:
        if not self._expose.service_is_ready():
            raise CarmError("exposure: no node serves it")
        self._expose.call_async(self._request()).add_done_callback(self._exposed)

    def _exposed(self, future: Any) -> None:
        answer = future.result()
        text = f"exposure: {answer.error_msg or 'done'}"
        self._tell({"type": "result", "ok": bool(answer.success), "text": text[:400]})

    def _press(self, number: int, who: str) -> None:
        if not self._renew.service_is_ready():
            raise CarmError("fluoroscopy: no node serves xray/fluoroscopy")
        fresh = self._switch.owner == 0
        self._switch.press(number, who)
        if fresh:
            self._node.get_logger().info(f"fluoroscopy by {who}")
            self._tell({"type": "asked", "who": who, "text": "fluoroscopy"})
            self._renewed_s = -math.inf
        self._look()

    def _look(self) -> None:
        """Renew while the switch is held, and end when the page that held it is silent."""
        now_s = time.monotonic()
        if self._pending is not None and now_s - self._renewed_s > _LOST_S:
            self._renew.remove_pending_request(self._pending)
            self._pending = None
        if not self._switch.owner:
            return
        if self._switch.lapsed:
            self._let_go(f"the page that held the switch was silent for {HOLD_S:g} s")
        elif self._pending is None and now_s - self._renewed_s >= _RENEW_S:
            self._renewed_s = now_s
            self._pending = self._renew.call_async(self._request())
            self._pending.add_done_callback(self._renewed)

    def _renewed(self, future: Any) -> None:
        if future is self._pending:
            self._pending = None
        answer = future.result()
        if answer is None:  # nobody waits for it any more
            return
        if not self._switch.owner:  # let go while this was under way
            self._send_end()
        elif not answer.success:
            self._let_go(answer.error_msg or "the X-ray system refused")

    def _let_go(self, why: str, number: int = 0) -> None:
        owner, who = self._switch.owner, self._switch.who
        if not owner or number not in (0, owner):
            return
        self._switch.release()
        if self._pending is None:  # else its answer is followed by the end: so nothing overtakes
            self._send_end()
        self._node.get_logger().info(f"fluoroscopy by {who} has ended{f': {why}' if why else ''}")
        self._tell({"type": "result", "ok": not why, "text": f"fluoroscopy: {why or 'released'}"[:400]})

    def _send_end(self) -> None:
        if self._end.service_is_ready():
            self._end.call_async(Trigger.Request())
