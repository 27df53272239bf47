# SPDX-License-Identifier: Apache-2.0
"""The interfaces of a navigation task: four small ports and the token that interrupts them.

A port belongs to one task. Its blocking calls return early, by an ``InterruptedTaskError``, when the task's
``Interrupt`` trips; ``Arm.execute`` brings the arm to rest first.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carm_agent.errors import CanceledError, InterruptedTaskError, LostPartError, StoppedError
from carm_core.errors import CarmError
from carm_core.imaging.frame import XrayFrame
from carm_core.robot.trajectory import Trajectory

if TYPE_CHECKING:
    from carm_agent.planning.planner import Plan


class Interrupt:
    """Interrupts a task from any thread, once; a stop outranks everything else."""

    def __init__(self, stood_still_s: Callable[[], float] = lambda: 0.0) -> None:
        """Start untripped.

        Args:
            stood_still_s: Returns how long this process stood still since the task began, s; 0: it did not. A task
                that did ends instead of acting upon what was true before.
        """
        self._condition = threading.Condition()
        self._error: InterruptedTaskError | None = None
        self._stood_still_s = stood_still_s

    def cancel(self, message: str = "canceled") -> None:
        """Ask the task to end, with the arm at rest."""
        self._trip(CanceledError(message))

    def stop(self, message: str = "stop was pressed") -> None:
        """Tell the task that stop is latched."""
        self._trip(StoppedError(message))

    def lose(self, error: CarmError) -> None:
        """Ask the task to end, with the arm at rest, because something that it depends on is gone.

        Args:
            error: What is gone; the task ends with the code of this kind of error.
        """
        self._trip(LostPartError(error))

    def _trip(self, error: InterruptedTaskError) -> None:
        with self._condition:
            if self._error is None or isinstance(error, StoppedError):
                self._error = error
            self._condition.notify_all()

    @property
    def tripped(self) -> bool:
        """Whether the task is to end."""
        if self._error is None and (still_s := self._stood_still_s()):
            self._error = CanceledError(f"this program stood still for {still_s:.1f} s; the task is not resumed")
        return self._error is not None

    def check(self) -> None:
        """Return if the task may go on.

        Raises:
            InterruptedTaskError: It may not; the kind says why.
        """
        if self.tripped:
            assert self._error is not None
            raise self._error

    def notify(self) -> None:
        """Wake ``wait_for`` after data that its predicate reads have changed."""
        with self._condition:
            self._condition.notify_all()

    def wait_for(self, predicate: Callable[[], bool], timeout_s: float, *, uninterrupted: bool = False) -> bool:
        """Wait until ``predicate`` holds.

        Args:
            predicate: Read under a lock, so it must be short and must not wait itself.
            timeout_s: Longest wait, s.
            uninterrupted: Wait on although the task is interrupted (to see the arm come to rest).

        Returns:
            Whether the predicate holds; False after the time-out.

        Raises:
            InterruptedTaskError: The task is to end, unless ``uninterrupted``.
        """
        with self._condition:
            held = self._condition.wait_for(lambda: predicate() or (self.tripped and not uninterrupted), timeout_s)
        if not uninterrupted:
            self.check()
        return held


@dataclass(frozen=True)
class Acquisition:
    """One exposure.

    Attributes:
        frame: The image, in display orientation.
        dose_area_product_gym2: Of this exposure, Gy m^2; NaN when not reported.
    """

    frame: XrayFrame
    dose_area_product_gym2: float = float("nan")


class Imager(ABC):
    """Takes X-ray images."""

    @abstractmethod
    def expose(self, field_mm: float = 0.0) -> Acquisition:
        """Take one exposure at the present arm position.

        Args:
            field_mm: Side of the square field about the image center that is exposed, at isocenter depth, mm; 0: the
                whole detector.

        Raises:
            ImagingError: No image came.
            InterruptedTaskError: The task is to end.
        """


class Arm(ABC):
    """Moves the C-arm."""

    def announce(self, plan: Plan) -> None:  # noqa: B027 (by default nobody is told)
        """Tell those who look what is about to be executed; an arm that nobody watches tells nothing."""

    @abstractmethod
    def joint_positions(self) -> NDArray[np.float64]:
        """Return the present joint positions, shape (J,), m or rad.

        Raises:
            NoJointStatesError: They are unknown.
        """

    @abstractmethod
    def execute(self, trajectory: Trajectory) -> None:
        """Follow a trajectory that starts at the present joint positions; return with the arm at rest at its end.

        Raises:
            NotAtRestError: Nobody says that the arm is at rest, whatever else happened.
            MotionError: The arm did not follow; it is at rest.
            InterruptedTaskError: The task is to end; the arm is at rest.
        """


class Clock(ABC):
    """Tells the time of the task."""

    @abstractmethod
    def now_s(self) -> float:
        """Return the time in s since an arbitrary start."""
