# SPDX-License-Identifier: Apache-2.0
"""Managed nodes: configure, activate, deactivate, clean up and shut down, by themselves or by who manages them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.lifecycle import LifecycleNodeMixin, LifecycleState
from rclpy.lifecycle.node import TransitionCallbackReturn

from carm_core.errors import CarmError
from carm_ros.node import OrderlyNode

_LEAVING = ("deactivate", "shutdown")
_LEAVING_IDS = (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_ACTIVE_SHUTDOWN)
_STARTING = (State.TRANSITION_STATE_CONFIGURING, State.TRANSITION_STATE_ACTIVATING)
_POLL_S = 0.05


class InactiveError(CarmError):
    """What was asked for is not done, since the node is not active."""


class ManagedNode(LifecycleNodeMixin, OrderlyNode):
    """A node with the life cycle of ROS 2's managed nodes.

    Subclasses say what happens by ``configure``, ``activate``, ``deactivate`` and ``cleanup``. What
    these raise is logged in one line, and the node stays in the state in which it was.
    """

    def __init__(self, name: str, **node_arguments: Any) -> None:
        """Make the node, unconfigured.

        Args:
            name: Name of the node.
            **node_arguments: Passed to ``rclpy.node.Node``.
        """
        OrderlyNode.__init__(self, name, **node_arguments)
        self.autostart = False
        self._begins_itself = False
        self._leaves = False
        self._changing = threading.Lock()
        LifecycleNodeMixin.__init__(self, callback_group=ReentrantCallbackGroup())
        self._change_by_rclpy = self._service_change_state.callback
        self._service_change_state.callback = self._on_change_state

    @property
    def life_state(self) -> str:
        """State of the life cycle, for example ``"inactive"``."""
        return str(self._state_machine.current_state[1])

    @property
    def active(self) -> bool:
        """Whether the node does its work."""
        return self._state_machine.current_state[0] == State.PRIMARY_STATE_ACTIVE and not self._leaves

    @property
    def starting(self) -> bool:
        """Whether the node is about to become active: what is asked of it can wait."""
        return self._begins_itself or self._state_machine.current_state[0] in _STARTING

    def refusal(self) -> str:
        """See ``OrderlyNode.refusal``."""
        return super().refusal() or ("" if self.active or self.starting else self.why_inactive())

    def why_inactive(self) -> str:
        """Return one line for those who ask a node that is not active."""
        name, state = self.get_fully_qualified_name(), "inactive" if self._leaves else self.life_state
        first = "configure it, then activate it" if state == "unconfigured" else "activate it"
        return f"{name} is {state}: {first} (ros2 lifecycle set {name} ...)"

    # What subclasses do

    def configure(self) -> None:
        """Load what takes time. May block; ``ending`` breaks it off."""

    def activate(self) -> None:
        """Begin to work."""

    async def come_to_rest(self) -> None:
        """Wait until what ``end_goals`` was asked to end has ended."""
        await self.all_goals_ended()

    def deactivate(self) -> None:
        """Work no more; goals have ended already."""

    def cleanup(self) -> None:
        """Give back what ``configure`` took."""

    def state_changed(self) -> None:
        """Called after each transition."""

    # What rclpy calls

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ``rclpy.lifecycle``."""
        return self._do("configure", self.configure)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ``rclpy.lifecycle``."""
        self._leaves = False
        return self._do("activate", self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ``rclpy.lifecycle``."""
        return self._do("deactivate", self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ``rclpy.lifecycle``."""
        return self._do("cleanup", self.cleanup)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ``rclpy.lifecycle``."""
        if state.state_id == State.PRIMARY_STATE_ACTIVE:
            self._do("deactivate", self.deactivate)
        return self._do("shutdown", self.cleanup)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """See ``rclpy.lifecycle``."""
        return TransitionCallbackReturn.SUCCESS

    def _do(self, name: str, work: Any) -> TransitionCallbackReturn:
        try:
            work()
        except Exception as error:  # rclpy would drop it without a word
            if self._begins_itself:
                self.fail(error)
            elif not self.ending.is_set():
                self.get_logger().error(f"{name} failed: {' '.join(str(error).split())}")
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS

    async def _on_change_state(
        self, request: ChangeState.Request, response: ChangeState.Response
    ) -> ChangeState.Response:
        """Refuse what rclpy would let end the node: transitions that the state does not have, and two at once."""
        wanted = request.transition.label or f"transition {request.transition.id}"
        if self._begins_itself or not self._changing.acquire(blocking=False):
            self.get_logger().warning(f"{wanted} refused: another transition is under way")
            return response
        try:
            available = self._state_machine.available_transitions
            by_label = request.transition.label
            if not any(t[1] == by_label if by_label else t[0] == request.transition.id for t in available):
                self.get_logger().warning(f"{wanted} refused: {self.get_fully_qualified_name()} is {self.life_state}")
                return response
            leaving = by_label in _LEAVING if by_label else request.transition.id in _LEAVING_IDS
            if leaving and self.active:
                self._leaves = True
                self.end_goals(f"{self.called} is being deactivated")
                await self.come_to_rest()
            response = self._change_by_rclpy(request, response)
        finally:
            self._leaves = False
            self._changing.release()
            self.state_changed()
        return response

    # By itself

    def started(self) -> None:
        """Configure and activate, on a thread of its own, where the parameter ``autostart`` says so."""
        if self.autostart:
            self._begins_itself = True
            threading.Thread(target=self._begin_by_itself, name="autostart", daemon=True).start()

    def _begin_by_itself(self) -> None:
        try:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS and not self.ending.is_set():
                self.trigger_activate()
        except Exception as error:
            self.fail(error)
        finally:
            self._begins_itself = False
        if not self.ending.is_set():
            self.state_changed()

    def wait_loaded(self, loaded: threading.Event, failure: Callable[[], Exception | None]) -> None:
        """Wait, in ``configure``, for what a thread loads.

        Args:
            loaded: Set when it is loaded.
            failure: Returns what went wrong on the thread, or None.

        Raises:
            InactiveError: The node ends.
            Exception: What went wrong.
        """
        while not loaded.wait(_POLL_S):
            error = failure()
            if error is not None:
                raise error
            if self.ending.is_set():
                raise InactiveError(f"{self.called} is shutting down")

    def destroy_node(self) -> None:
        """See ``rclpy.node.Node``; the state machine holds the node, and others see it until both are gone."""
        self._state_machine.destroy_when_not_in_use()
        super().destroy_node()
