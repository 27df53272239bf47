# SPDX-License-Identifier: Apache-2.0
"""One way to run a node, and one way to end it: goals are aborted, their clients hear of it, then the node is gone.

What others send never ends a node: an error about a message, a request or a goal is counted and reported, what came is
dropped or refused, and the node goes on. An error of the node's own (a timer, a thread, a task) ends it in order.
"""

from __future__ import annotations

import _thread
import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.action import ActionServer, GoalResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.executors import (
    Executor,
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
    await_or_execute,
)
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.serialization import deserialize_message
from rclpy.service import Service
from rclpy.signals import SignalHandlerOptions
from rclpy.subscription import Subscription
from rclpy.task import Future

from carm_core.errors import CarmError, plain_line
from carm_core.plausibility import Refusals, at_most
from carm_ros.clock_reader import CLOCK_TOPIC, NeverExecuted, read_beside_executor
from carm_ros.entry import ENDING_SIGNALS
from carm_ros.middleware import prepare_middleware

END_S = 1.9
"""A node's process is gone this long after the first signal, whatever holds it up, s."""
PATIENCE_S = 1.2
"""Of this time, what runs has so much to end by itself, s."""
_DELIVERY_S = 0.1
"""Results that were sent get so much time to arrive, s."""
_DRAIN_S = 0.25
_POLL_S = 0.02
_WATCH_S = 0.1
_LONGEST_REASON = 400
_REASONS = ("message", "error_msg", "reason")
"""Fields of responses that say why a request failed."""


class OrderlyNode(Node):
    """A node that ``run_node`` can run and end.

    Attributes:
        failure: What made the node end by itself; None when nothing did.
        ending: Set when the end has begun, by a signal or by ``fail``. No goal is accepted from then on.
        refusals: Counts what was not used of what others sent.
    """

    def __init__(self, name: str, **node_arguments: Any) -> None:
        """Make the node.

        Args:
            name: Name of the node.
            **node_arguments: Passed to ``rclpy.node.Node``.
        """
        self.refusals = Refusals()
        super().__init__(name, **node_arguments)
        self.failure: Exception | None = None
        self.ending = threading.Event()
        self._goals: set[bytes] = set()
        self.add_on_set_parameters_callback(_refuse_another_clock)
        self._all_ended: list[Future] = []
        self._action_servers: list[ActionServer] = []

    def fail(self, error: Exception) -> None:
        """End the node because of an error; the first one counts."""
        if self.failure is None and not self.ending.is_set():
            self.failure = error
        self.ending.set()

    def refuse(self, source: str, error: Exception) -> None:
        """Count what came in and was not used; report the first, and then one every few seconds.

        Args:
            source: The topic, service or action.
            error: Why; another error than a ``CarmError`` is a fault of this program, and is reported as such.
        """
        if not self.refusals.note(source):
            return
        foreseen = isinstance(error, CarmError)
        reason = plain_line(str(error if foreseen else f"{type(error).__name__}: {error}"), _LONGEST_REASON)
        count = self.refusals.count(source)
        line = f"{source}: refused, {reason}" + (f" ({count} so far)" if count > 1 else "")
        if foreseen:
            self.get_logger().warning(line)
        else:
            self.get_logger().error(line)

    def create_subscription(
        self,
        msg_type: Any,
        topic: str,
        callback: Callable[..., Any],
        qos_profile: Any,
        *,
        largest: int | None = None,
        **options: Any,
    ) -> Subscription:
        """As ``rclpy.node.Node.create_subscription``; an error in the callback refuses the message.

        Args:
            msg_type: Type of the messages.
            topic: Name of the topic.
            callback: Told each message.
            qos_profile: Quality of service, or the depth of the queue.
            largest: Messages of more bytes are refused before they are unpacked; None: no limit.
            **options: Passed to ``rclpy``.
        """
        receive = self.checked(msg_type, topic, callback, largest)
        if topic == CLOCK_TOPIC:  # of rclpy's time source
            clock = super().create_subscription(
                msg_type, topic, receive, qos_profile, callback_group=NeverExecuted(), **options
            )
            read_beside_executor(clock)
            return clock
        if largest is not None:
            options["raw"] = True
        return super().create_subscription(msg_type, topic, receive, qos_profile, **options)

    def checked(
        self, msg_type: Any, topic: str, callback: Callable[..., Any], largest: int | None = None
    ) -> Callable[..., None]:
        """Return a callback that unpacks a message if ``largest`` is given, and refuses it on an error.

        Args:
            msg_type: Type of the messages.
            topic: Where they come from, for the report.
            callback: Told each message.
            largest: Messages of more bytes are refused before they are unpacked; None: they come unpacked.
        """

        @functools.wraps(callback)
        def receive(message: Any, *info: Any) -> None:
            try:
                if largest is not None:
                    at_most("the message", message, largest)
                    message = deserialize_message(message, msg_type)
                callback(message, *info)
            except Exception as error:
                self.refuse(topic, error)

        return receive

    def create_service(self, srv_type: Any, srv_name: str, callback: Callable[..., Any], **options: Any) -> Service:
        """As ``rclpy.node.Node.create_service``; an error in the callback refuses the request.

        The answer is then that of ``srv_type`` with its defaults and, where it has a field for it, the reason.

        Args:
            srv_type: Type of the service.
            srv_name: Its name.
            callback: Function or coroutine that answers a request.
            **options: Passed to ``rclpy``.
        """

        async def answer(request: Any, response: Any) -> Any:
            try:
                return await await_or_execute(callback, request, response)
            except Exception as error:
                self.refuse(srv_name, error)
                refused = srv_type.Response()
                for name in _REASONS:
                    if hasattr(refused, name):
                        setattr(refused, name, " ".join(str(error).split())[:_LONGEST_REASON])
                return refused

        return super().create_service(srv_type, srv_name, answer, **options)

    def serve_action(
        self,
        kind: Any,
        name: str,
        execute: Callable[[ServerGoalHandle], Any],
        *,
        goal_callback: Callable[[Any], GoalResponse] = lambda goal: GoalResponse.ACCEPT,
        **options: Any,
    ) -> ActionServer:
        """Make an action server whose open goals are known, and which rejects goals when the node does not accept any.

        Args:
            kind: Type of the action.
            name: Name of the action.
            execute: Function or coroutine that brings a goal to its end and returns the result.
            goal_callback: Accepts or rejects a goal.
            **options: Passed to ``rclpy.action.ActionServer``.
        """

        def admit(goal: Any) -> GoalResponse:
            reason = self.refusal()
            if reason:
                self.get_logger().warning(f"{name}: goal rejected, {reason}")
                return GoalResponse.REJECT
            try:
                return goal_callback(goal)
            except Exception as error:
                self.refuse(name, error)
                return GoalResponse.REJECT

        async def tracked(handle: ServerGoalHandle) -> Any:
            key = bytes(handle.goal_id.uuid)
            self._goals.add(key)
            try:
                return await await_or_execute(execute, handle)
            except Exception as error:  # rclpy would print a traceback
                self.get_logger().error(f"{name} failed: {type(error).__name__}: {error}")
                if handle.is_active:
                    handle.abort()
                return kind.Result()
            finally:
                self._goals.discard(key)
                if not self._goals:
                    waiting, self._all_ended = self._all_ended, []
                    for future in waiting:
                        future.set_result(None)

        server = ActionServer(self, kind, name, tracked, goal_callback=admit, **options)
        self._action_servers.append(server)
        return server

    def destroy_node(self) -> None:
        """As ``rclpy.node.Node.destroy_node``, with the action servers.

        One that is left keeps the process's DDS participant: others would take this node to be there for 20 s more.
        """
        for server in self._action_servers:
            server.destroy()
        super().destroy_node()

    def refusal(self) -> str:
        """Return why no goal is accepted now; empty when goals are."""
        return f"{self.called} is shutting down" if self.ending.is_set() else ""

    @property
    def called(self) -> str:
        """Name for people, for example "the agent node"."""
        return f"the {self.get_name().replace('_', ' ')}"

    async def all_goals_ended(self) -> None:
        """Wait, in a coroutine of the executor, until no goal is open."""
        if self._goals:
            ended = Future(executor=self.executor)
            self._all_ended.append(ended)
            await ended

    def started(self) -> None:
        """Called once when the executor spins."""

    def end_goals(self, reason: str) -> None:
        """Ask what runs to end, and whatever moves to come to rest; returns at once.

        Args:
            reason: One line, for the clients.
        """

    def has_ended(self) -> bool:
        """Return whether nothing runs: no goal is open and nothing moves."""
        return not self._goals

    def give_up(self) -> None:
        """End the goals that did not end in time; returns at once."""

    def close(self) -> None:
        """Release threads and devices; the executor does not run any more."""


def _refuse_another_clock(parameters: Sequence[Parameter]) -> SetParametersResult:
    """Refuse to change the clock of a node that runs: what it waits for would never come, or come at once."""
    if any(parameter.name == "use_sim_time" for parameter in parameters):
        return SetParametersResult(successful=False, reason="use_sim_time cannot change while the node runs")
    return SetParametersResult(successful=True)


class _Request(threading.local):
    """The service request that this thread begins to answer."""

    sent_ns = 0


_request = _Request()


def request_age_s() -> float:
    """Return how long ago the request was sent that a service's callback begins to answer, s.

    To be called in the callback, before it waits for anything. By the system clocks of both machines; 0 where the
    middleware does not tell.
    """
    return max(0.0, 1e-9 * (time.time_ns() - _request.sent_ns)) if _request.sent_ns else 0.0


class _Stamped(Executor):
    """Keeps when a service request was sent; rclpy takes it from the middleware, and does not pass it on."""

    def _take_service(self, srv: Any) -> Any:
        try:
            with srv.handle:
                request, header = srv.handle.service_take_request(srv.srv_type.Request)
        except InvalidHandle:  # the service has just been destroyed
            return None

        async def execute() -> None:
            if header is None:
                return
            _request.sent_ns = header.source_timestamp
            response = await await_or_execute(srv.callback, request, srv.srv_type.Response())
            srv.send_response(response, header)

        return execute


class _Single(_Stamped, SingleThreadedExecutor):
    """Executor of one thread."""


class _Pool(_Stamped, MultiThreadedExecutor):
    """Executor of several threads whose end waits for them.

    The ``shutdown`` of rclpy 7.1 does not wait: it destroys what callbacks still use, and their exceptions are printed
    as "never retrieved".
    """

    def drain(self, timeout_s: float) -> None:
        """Wait for the callbacks that run; no other begins."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        until_s = time.monotonic() + timeout_s
        for thread in list(self._executor._threads):
            thread.join(max(0.0, until_s - time.monotonic()))
        for task in self._futures:
            task.exception()  # what a callback raised while the node ended is nobody's concern


class _Signals:
    """Notes the first signal that asks for the end; from then on the process has ``END_S`` left."""

    def __init__(self, name: str, end_s: float, heeded: bool) -> None:
        self.seen = False
        self.closed = False
        self.over = False
        self.code = 0
        self._name, self._end_s = name, end_s
        for number in (
            ENDING_SIGNALS if heeded else ()
        ):  # Ctrl-C below `ros2 launch` comes twice: the second changes nothing
            signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        """Takes no lock: it may have interrupted the one who holds it."""
        if not self.seen:
            self.seen = True
            self.limit()

    def limit(self) -> None:
        """End the process by force when it has not ended by itself in time."""
        _thread.start_new_thread(self._force, ())

    def _force(self) -> None:
        time.sleep(self._end_s)
        if self.over:
            return
        if not self.closed:  # else nothing is left but to tell the middleware
            os.write(2, f"{self._name}: still busy after {self._end_s:g} s; ended by force\n".encode())
        os._exit(self.code)


def run_node(
    name: str,
    make_node: Callable[[], OrderlyNode],
    arguments: list[str] | None = None,
    *,
    threads: int = 1,
    images: bool = False,
    bad_input: tuple[type[CarmError], ...] = (CarmError,),
    end_s: float = END_S,
    heed_signals: bool = True,
) -> int:
    """Run a node until SIGINT, SIGTERM or its own failure, and end it in order.

    Args:
        name: What its complaints begin with.
        make_node: Makes the node.
        arguments: ROS arguments; None: those of the process.
        threads: Threads of the executor.
        images: Whether the node publishes images.
        bad_input: Errors for which the input is to blame.
        end_s: The process is gone this long after the signal, s.
        heed_signals: False for a process that another one ends: signals stay as they are.

    Returns:
        Exit code: 0 after a signal, 2 for bad input, 1 when the node failed.
    """
    signals = _Signals(name, end_s, heed_signals)
    try:
        prepare_middleware(images)
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
        node = make_node()
    except Exception as error:  # rclpy raises several unrelated types for bad arguments
        rclpy.try_shutdown()
        return _complain(name, error, bad_input)
    threading.excepthook = functools.partial(_thread_died, node)
    executor = _Single() if threads == 1 else _Pool(threads)
    executor.add_node(node)
    halt = threading.Event()
    spinner = threading.Thread(target=_spin, args=(executor, node, halt), name="executor", daemon=True)
    spinner.start()
    node.started()
    while not signals.seen and not node.ending.wait(_WATCH_S):
        pass
    if not signals.seen:
        signals.code = 1
        signals.limit()
    _end(node, time.monotonic() + PATIENCE_S)
    halt.set()
    executor.create_task(lambda: None)  # wakes the spinner
    spinner.join(_DRAIN_S)
    if isinstance(executor, _Pool):
        executor.drain(_DRAIN_S)
    node.close()
    signals.closed = True
    node.destroy_node()
    rclpy.try_shutdown()
    signals.over = True
    return 0 if node.failure is None else _complain(name, node.failure, bad_input)


def _end(node: OrderlyNode, until_s: float) -> None:
    """Let what runs end, then what was said arrive; the executor still spins."""
    node.ending.set()
    node.end_goals(f"{node.called} is shutting down")
    ended_s: float | None = None
    while (now_s := time.monotonic()) < until_s and (ended_s is None or now_s - ended_s < _DELIVERY_S):
        ended_s = (ended_s or now_s) if node.has_ended() else None
        time.sleep(_POLL_S)
    if ended_s is None:
        node.give_up()
        time.sleep(_DELIVERY_S)


def _spin(executor: Executor, node: OrderlyNode, halt: threading.Event) -> None:
    while not halt.is_set():
        try:
            executor.spin_once()
        except ExternalShutdownException:
            node.ending.set()
            return
        except Exception as error:  # the node's own error ends it instead of leaving it half alive
            node.fail(error)


def _thread_died(node: OrderlyNode, died: threading.ExceptHookArgs) -> None:
    """End the node with a thread of its own; what a thread raises while the node ends is nobody's concern."""
    if isinstance(died.exc_value, Exception):
        node.fail(died.exc_value)


def _complain(name: str, error: Exception, bad_input: tuple[type[CarmError], ...]) -> int:
    ros = "rcl" in type(error).__module__
    kind = "" if ros or isinstance(error, CarmError) else f"{type(error).__name__}: "
    print(f"{name}: {kind}{plain_line(str(error))}", file=sys.stderr)
    return 2 if ros or isinstance(error, bad_input) else 1
