# SPDX-License-Identifier: Apache-2.0
"""What stands between a task and the arm: a yes to each motion, where this is wanted, and a note of where it began."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from carm_agent.errors import CanceledError
from carm_agent.planning.planner import Plan
from carm_agent.ports import Arm, Interrupt
from carm_core.robot.trajectory import Trajectory


class Consent:
    """A yes or no that a task's thread waits for and that the clinician gives on another one."""

    def __init__(self, ask: Callable[[str], None], timeout_s: float) -> None:
        """Nothing is asked yet.

        Args:
            ask: Puts a question to the clinician; called on the task's thread.
            timeout_s: Without an answer in this time the task ends, s.
        """
        self._ask, self._timeout_s = ask, timeout_s
        self._lock = threading.Lock()
        self._interrupt: Interrupt | None = None
        self._answer: bool | None = None

    @property
    def awaited(self) -> bool:
        """Whether a task waits for an answer."""
        return self._interrupt is not None

    def give(self, yes: bool) -> None:
        """Answer the question that is open, if one is."""
        with self._lock:
            interrupt = self._interrupt
            if interrupt is not None:
                self._answer = yes
        if interrupt is not None:
            interrupt.notify()

    def request(self, question: str, interrupt: Interrupt) -> None:
        """Ask, and return once the answer is yes.

        Args:
            question: To the clinician.
            interrupt: Of the task.

        Raises:
            CanceledError: The answer is no, or there is none in time.
            InterruptedTaskError: The task is to end.
        """
        with self._lock:
            self._interrupt, self._answer = interrupt, None
        try:
            self._ask(question)
            answered = interrupt.wait_for(lambda: self._answer is not None, self._timeout_s)
        finally:
            with self._lock:
                self._interrupt = None
        if not answered:
            raise CanceledError(f"no answer in {self._timeout_s:.0f} s; nothing moved")
        if not self._answer:
            raise CanceledError("the clinician said no")


class ConsentedArm(Arm):
    """An arm that moves only after a yes."""

    def __init__(self, arm: Arm, consent: Consent, interrupt: Interrupt) -> None:
        """Move one arm for one task.

        Args:
            arm: moves.
            consent: asks.
            interrupt: Ends the task.
        """
        self._arm, self._consent, self._interrupt = arm, consent, interrupt
        self._about = ""

    def announce(self, plan: Plan) -> None:
        """See ``Arm.announce``; the question tells the smallest clearance, too."""
        self._arm.announce(plan)
        self._about = ""
        if plan.check is not None:
            self._about = f" The smallest clearance on the way is {1000 * plan.check.closest.distance_m:.0f} mm."

    def joint_positions(self) -> NDArray[np.float64]:
        """See ``Arm.joint_positions``."""
        return self._arm.joint_positions()

    def execute(self, trajectory: Trajectory) -> None:
        """See ``Arm.execute``.

        Raises:
            CanceledError: The clinician did not agree; nothing moved.
        """
        about, self._about = self._about, ""
        self._consent.request(f"May I move now, for {trajectory.duration_s:.1f} s?{about}", self._interrupt)
        self._arm.execute(trajectory)


class NotedArm(Arm):
    """An arm whose position before each motion is noted."""

    def __init__(self, arm: Arm, note: Callable[[NDArray[np.float64]], None]) -> None:
        """Move one arm for one task.

        Args:
            arm: moves.
            note: Told the joint positions (J,), m or rad, from which a motion begins.
        """
        self._arm, self._note = arm, note

    def announce(self, plan: Plan) -> None:
        """See ``Arm.announce``."""
        self._arm.announce(plan)

    def joint_positions(self) -> NDArray[np.float64]:
        """See ``Arm.joint_positions``."""
        return self._arm.joint_positions()

    def execute(self, trajectory: Trajectory) -> None:
        """See ``Arm.execute``."""
        self._note(self._arm.joint_positions())
        self._arm.execute(trajectory)
