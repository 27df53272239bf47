# SPDX-License-Identifier: Apache-2.0
"""A periodic loop on a thread of its own, without drift, and what else has to happen at lower rates."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

REAL_TIME_PRIORITY = 50
"""Priority of the loop's thread under SCHED_FIFO; the default of ros2_control's controller manager."""
COMPANION_PRIORITY = 40
"""Priority of the process's other threads: the loop waits for the interpreter's lock, which one of them may hold."""
NICENESS = -10
"""Niceness of the process where real-time priority is not allowed."""


def raise_process_priority() -> bool:
    """Raise the priority of this process if the system allows it. Call before threads start: they inherit it.

    Returns:
        Whether the process runs at real-time priority.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    return _at_real_time(COMPANION_PRIORITY)


def _at_real_time(priority: int) -> bool:
    """Give the calling thread a real-time priority; return whether the system allows it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    return True


LONGEST_GAP_WITHOUT_REAL_TIME_S = 0.2
"""What a busy machine's scheduler may hold up a loop at normal priority, without anything being wrong, s."""


def at_real_time() -> bool:
    """Return whether the calling thread runs at real-time priority."""
    return os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR)


class Schedule:
    """Says when something with a lower rate than the loop is due, without drift on average."""

    def __init__(self, rate_hz: float, loop_rate_hz: float) -> None:
        """Set the rates.

        Args:
            rate_hz: How often it should be due, Hz.
            loop_rate_hz: How often ``due`` is called, Hz.
        """
        self._period_s = 1.0 / rate_hz
        self._slack_s = 0.5 / loop_rate_hz
        self._next_s: float | None = None

    def due(self, now_s: float) -> bool:
        """Return whether it is due. After a jump of the clock, either way, the schedule starts anew.

        Args:
            now_s: Present time, s.
        """
        next_s = now_s if self._next_s is None or abs(now_s - self._next_s) > 2 * self._period_s else self._next_s
        if now_s < next_s - self._slack_s:
            self._next_s = next_s
            return False
        self._next_s = next_s + self._period_s
        return True


@dataclass(frozen=True)
class LoopStatistics:
    """Timing of the loop since the last report.

    Attributes:
        cycles: Cycles run.
        missed: Cycles left out because an earlier one took too long.
        latest_s: Largest delay of a cycle behind its time, s.
        longest_s: Longest cycle, s.
    """

    cycles: int = 0
    missed: int = 0
    latest_s: float = 0.0
    longest_s: float = 0.0


class ControlLoop:
    """Calls a function at a fixed rate, at absolute times of the monotonic clock, at real-time priority if allowed.

    Attributes:
        real_time: Whether the loop runs at real-time priority.
    """

    def __init__(self, rate_hz: float, cycle: Callable[[], None], failed: Callable[[Exception], None]) -> None:
        """Prepare; ``start`` starts.

        Args:
            rate_hz: Rate, Hz.
            cycle: What to do in each cycle.
            failed: Called once with the error that ended the loop.
        """
        self._period_s = 1.0 / rate_hz
        self._cycle, self._failed = cycle, failed
        self.real_time = False
        self._closing = threading.Event()
        self._statistics = LoopStatistics()
        self._thread = threading.Thread(target=self._run, name="control_loop", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop after the present cycle and wait for it."""
        self._closing.set()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def report(self) -> LoopStatistics:
        """Return the statistics and start new ones; call from within a cycle."""
        statistics, self._statistics = self._statistics, LoopStatistics()
        return statistics

    def _run(self) -> None:
        self.real_time = _at_real_time(REAL_TIME_PRIORITY)
        due_s = time.monotonic()
        while not self._closing.wait(max(0.0, due_s - time.monotonic())):
            started_s = time.monotonic()
            try:
                self._cycle()
            except Exception as error:  # handed to the owner: a dead loop must not look alive
                self._failed(error)
                return
            ended_s = time.monotonic()
            due_s += self._period_s
            missed = max(0, int((ended_s - due_s) / self._period_s))
            due_s += missed * self._period_s
            s = self._statistics
            self._statistics = LoopStatistics(
                s.cycles + 1,
                s.missed + missed,
                max(s.latest_s, started_s - due_s + (missed + 1) * self._period_s),
                max(s.longest_s, ended_s - started_s),
            )
