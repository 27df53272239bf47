# SPDX-License-Identifier: Apache-2.0
"""Between the process that moves the arm and its child that serves goals to others.

Others decide what a goal's message contains and how large it is; reading it holds up all threads of a Python process.
So goals are read and checked in a process of their own, and what keeps the arm moving, and stops it, never waits for
them. The child asks, the parent answers; each answer tells how the arm is doing.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any

from carm_control import (
    Acceptance,
    CheckedTrajectory,
    ErrorCode,
    GoalChecker,
    GoalOutcome,
    Snapshot,
    State,
    TrajectoryController,
)
from carm_control.parameters import ControllerParameters

MOST_DELAY_S = 0.5
"""A goal that waited for longer, because a process was held up, is refused."""
_JOIN_S = 0.4


@dataclass(frozen=True)
class Setup:
    """What the child needs to know before it serves.

    Attributes:
        settings: Parameters of the node.
        checker: Checks goals.
        called: Name of the node for people.
    """

    settings: ControllerParameters
    checker: GoalChecker
    called: str


@dataclass(frozen=True)
class Progress:
    """How the arm is doing.

    Attributes:
        snapshot: After the last step; None before the first.
        outcomes: Goals that ended since the last question.
        ending: Whether the parent is shutting down.
    """

    snapshot: Snapshot | None
    outcomes: tuple[GoalOutcome, ...]
    ending: bool


class LinkClosedError(Exception):
    """The other process is gone, or is ending."""


class GoalSide:
    """The child's end: asks one question at a time. May be used from any thread."""

    def __init__(self, connection: Connection) -> None:
        """Use a connection whose other end is a ``MotionSide``."""
        self._connection, self._lock = connection, threading.Lock()

    def setup(self) -> Setup:
        """Wait until the parent is ready.

        Raises:
            LinkClosedError: It did not become so.
        """
        try:
            setup = self._connection.recv()
        except (EOFError, OSError) as error:
            raise LinkClosedError from error
        assert isinstance(setup, Setup)
        return setup

    def check(self, goal: CheckedTrajectory) -> Acceptance:
        """See ``TrajectoryController.check``."""
        return self._ask("check", goal, time.monotonic())  # type: ignore[no-any-return]

    def accept(self, goal: CheckedTrajectory, since_s: float, *, replace: bool = False) -> Acceptance:
        """See ``TrajectoryController.accept``.

        Args:
            goal: The goal.
            since_s: Monotonic time at which it came, s.
            replace: Leave the goal in execution alive.
        """
        return self._ask("accept", goal, since_s, replace)  # type: ignore[no-any-return]

    def cancel(self, goal_id: int) -> bool:
        """See ``TrajectoryController.cancel``."""
        return self._ask("cancel", goal_id)  # type: ignore[no-any-return]

    def hold(self, reason: str, goal_id: int) -> bool:
        """See ``TrajectoryController.hold``."""
        return self._ask("hold", reason, goal_id)  # type: ignore[no-any-return]

    def query(self, ahead_s: float) -> tuple[State, str]:
        """See ``TrajectoryController.query``."""
        return self._ask("query", ahead_s)  # type: ignore[no-any-return]

    def scale_speed(self, factor: float) -> bool:
        """See ``TrajectoryController.scale_speed``."""
        return self._ask("scale_speed", factor)  # type: ignore[no-any-return]

    def progress(self, open_goals: int, served_s: float) -> Progress:
        """Return how the arm is doing.

        Args:
            open_goals: Goals whose results are not sent yet.
            served_s: Monotonic time at which goals and cancels were listened to last, s.
        """
        return self._ask("progress", open_goals, served_s)  # type: ignore[no-any-return]

    def _ask(self, what: str, *words: Any) -> Any:
        try:
            with self._lock:
                self._connection.send((what, words))
                return self._connection.recv()
        except (EOFError, OSError) as error:
            raise LinkClosedError from error


class MotionSide:
    """The parent's end: answers on a thread of its own.

    Attributes:
        open_goals: Goals whose results the child has not sent yet.
        heard_s: Monotonic time at which the child listened to goals and cancels last, s.
    """

    def __init__(self, connection: Connection, child: int) -> None:
        """Take the end that ``fork_goal_side`` returned.

        Args:
            connection: To the child.
            child: Its process id.
        """
        self._connection, self._child = connection, child
        self.open_goals, self.heard_s = 0, time.monotonic()
        self._snapshot: Callable[[], Snapshot | None] = lambda: None
        self._ending: Callable[[], bool] = lambda: False
        self._report: Callable[[GoalOutcome], None] = lambda outcome: None
        self._outcomes: list[GoalOutcome] = []
        self._lock = threading.Lock()
        self._closed = False

    def begin(
        self,
        controller: TrajectoryController,
        setup: Setup,
        snapshot: Callable[[], Snapshot | None],
        ending: Callable[[], bool],
        report: Callable[[GoalOutcome], None],
        lost: Callable[[], None],
    ) -> None:
        """Tell the child to serve, and answer from now on.

        Args:
            controller: Follows the goals.
            setup: For the child.
            snapshot: Returns the state after the last step.
            ending: Returns whether this process is shutting down.
            report: Told how each goal ended, on the thread that answers.
            lost: Called when the child is gone without having been asked to end.
        """
        self._snapshot, self._ending, self._report = snapshot, ending, report
        self._connection.send(setup)
        words = (controller, lost)
        threading.Thread(target=self._answer_all, args=words, name="goal_link", daemon=True).start()

    def put(self, outcome: GoalOutcome) -> None:
        """Keep the end of a goal for the child; returns at once."""
        with self._lock:
            self._outcomes.append(outcome)

    def close(self) -> None:
        """Let the child end, and wait for it."""
        self._closed = True
        self._connection.close()
        until_s = time.monotonic() + _JOIN_S
        try:
            while os.waitpid(self._child, os.WNOHANG) == (0, 0) and time.monotonic() < until_s:
                time.sleep(0.01)
        except ChildProcessError:
            pass

    def _answer_all(self, controller: TrajectoryController, lost: Callable[[], None]) -> None:
        try:
            while True:
                what, words = self._connection.recv()
                self._connection.send(self._answer(controller, what, words))
        except (EOFError, OSError, TypeError):  # a connection that is closed while it waits has no handle
            if not self._closed:
                lost()

    def _answer(self, controller: TrajectoryController, what: str, words: tuple[Any, ...]) -> Any:
        now_s = time.monotonic()
        if what == "progress":
            self.open_goals, self.heard_s = words
            with self._lock:
                outcomes, self._outcomes = tuple(self._outcomes), []
            for outcome in outcomes:
                self._report(outcome)
            return Progress(self._snapshot(), outcomes, self._ending())
        if what == "check":
            return controller.check(words[0], now_s)
        if what == "accept":
            goal, since_s, replace_goal = words
            if now_s - since_s > MOST_DELAY_S:
                reason = f"the goal waited for {now_s - since_s:.1f} s while the arm's controller was held up"
                return Acceptance(ErrorCode.INVALID_GOAL, f"{reason}; send it again")
            return controller.accept(goal, now_s, replace=replace_goal)
        return getattr(controller, what)(*words)


def fork_goal_side(serve: Callable[[GoalSide], None]) -> MotionSide:
    """Start the child; call before threads start and before ROS is initialized.

    Args:
        serve: What the child does; its process ends with it.
    """
    ours, theirs = Pipe()
    child = os.fork()
    if child:
        theirs.close()
        return MotionSide(ours, child)
    ours.close()
    code = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when the child ends: after the arm rests
            signal.signal(number, signal.SIG_IGN)
        serve(GoalSide(theirs))
        code = 0
    finally:
        os._exit(code)
