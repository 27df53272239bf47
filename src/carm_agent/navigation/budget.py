# SPDX-License-Identifier: Apache-2.0
"""Budget of a navigation task: used, allowed, and the end of the task."""

import math

from carm_agent import phrases
from carm_agent.errors import CanceledError, ImagingError, LostPartError, MotionError, StoppedError
from carm_agent.navigation.task import NAN, NavigationCode, NavigationResult, NavigatorConfig, Progress, Stage
from carm_agent.planning.planner import Plan
from carm_agent.ports import Acquisition, Clock
from carm_core.errors import CarmError, GoalError, LocalizerError, UnknownNameError
from carm_core.landmarks import Landmark

_CODES: tuple[tuple[type[CarmError], NavigationCode], ...] = (
    (CanceledError, NavigationCode.CANCELED),
    (StoppedError, NavigationCode.STOPPED),
    (ImagingError, NavigationCode.NO_IMAGE),
    (LocalizerError, NavigationCode.LOCALIZER),
    (MotionError, NavigationCode.MOTION),
    (UnknownNameError, NavigationCode.UNKNOWN_TARGET),
    (GoalError, NavigationCode.INVALID_GOAL),
)


def code_of(error: CarmError) -> NavigationCode:
    """Return the code that an error ends a task with."""
    if isinstance(error, LostPartError):
        return code_of(error.cause)
    return next((code for kind, code in _CODES if isinstance(error, kind)), NavigationCode.INTERNAL)


ASK = ' Where shall I look? Say "no, further up", down, left or right, and I go on from there.'
"""What the agent asks when it does not know where to look."""


class Ending(Exception):
    """Ends a task from within the policy; never leaves it."""

    def __init__(self, code: NavigationCode, message: str) -> None:
        """Store how and why the task ends."""
        super().__init__(message)
        self.code = code


class Ledger:
    """Counts what one task costs.

    Attributes:
        exposures: So far.
        steps: Motions so far.
        distance_mm: Last distance of the target from the image center, mm; NaN when not seen yet.
        radius_mm: 90 % radius of that, mm; NaN when unknown.
        verified: Whether an image was judged since the last motion.
        at_rest: Whether the arm is known to stand still.
    """

    def __init__(self, config: NavigatorConfig, clock: Clock, started_s: float) -> None:
        """Start with an unused budget.

        Args:
            config: Bounds of the task.
            clock: Times the task.
            started_s: When it began, by that clock, s.
        """
        self._config, self._clock, self._started_s = config, clock, started_s
        self._dose_gym2 = 0.0
        self._path_m = 0.0
        self.exposures = 0
        self.steps = 0
        self.distance_mm = NAN
        self.radius_mm = NAN
        self.verified = True
        self.at_rest = True

    @property
    def elapsed_s(self) -> float:
        """Time since the task began, s."""
        return self._clock.now_s() - self._started_s

    def check_exposure(self) -> None:
        """Refuse another exposure if no exposure or no time is left.

        Raises:
            Ending: The budget is used up.
        """
        end = "" if self.verified else "; the last motion is not verified"
        if self.exposures >= self._config.max_exposures:
            raise Ending(NavigationCode.BUDGET, f"all {self._config.max_exposures} exposures are used up{end}")
        if self.elapsed_s >= self._config.max_duration_s:
            raise Ending(NavigationCode.BUDGET, f"the time of {self._config.max_duration_s:.0f} s is used up{end}")

    @property
    def motions_left(self) -> int:
        """Motions that the budget still holds."""
        return self._config.max_steps - self.steps

    def check_step(self) -> None:
        """Refuse another motion if none is left.

        Raises:
            Ending: The budget is used up.
        """
        if self.motions_left <= 0:
            raise Ending(NavigationCode.BUDGET, f"all {self._config.max_steps} motions are used up")

    def check_motion(self, plan: Plan) -> None:
        """Refuse a motion that would take too long.

        Raises:
            Ending: The time is too short.
        """
        if not self._in_time(plan):
            raise Ending(
                NavigationCode.BUDGET,
                f"a motion of {plan.duration_s:.0f} s would exceed the time of {self._config.max_duration_s:.0f} s",
            )

    def allows(self, plan: Plan) -> bool:
        """Return whether a motion is within the budget."""
        return self.motions_left > 0 and self._in_time(plan)

    def _in_time(self, plan: Plan) -> bool:
        return self.elapsed_s + plan.duration_s <= self._config.max_duration_s

    def exposed(self, acquisition: Acquisition) -> None:
        """Count an exposure."""
        self.exposures += 1
        self.verified = True
        if math.isfinite(acquisition.dose_area_product_gym2):
            self._dose_gym2 += acquisition.dose_area_product_gym2

    def moved(self, path_m: float, *, whole: bool = True) -> None:
        """Count a motion.

        Args:
            path_m: Path of the isocenter, m.
            whole: Whether it came to its end.
        """
        self._path_m += path_m
        self.steps += whole

    def progress(self, stage: Stage, line: str, *, decision: bool, warning: bool) -> Progress:
        """Return what there is to report."""
        return Progress(stage, line, self.exposures, self.distance_mm, self.radius_mm, decision or warning, warning)

    def result(self, landmark: Landmark, code: NavigationCode, message: str, addition: str = "") -> NavigationResult:
        """Summarize the task.

        Args:
            landmark: The target.
            code: How it ended.
            message: Why, when it failed.
            addition: A sentence on a success.
        """
        cost = f"{self.exposures} exposure{'s' if self.exposures != 1 else ''}"
        name = phrases.called(landmark, start=True)
        if code is NavigationCode.NONE:
            summary = (
                f"{name} is {self.distance_mm:.0f} mm from the image center (±{self.radius_mm:.0f} mm), confirmed by a"
                f" further image, after {cost}.{addition}"
            )
        else:
            seen = ""
            if math.isfinite(self.distance_mm):
                seen = f" It was last seen {self.distance_mm:.0f} mm from the image center."
            reason = f"{message[:1].upper()}{message[1:].rstrip('.')}"
            arm = "the arm is at rest" if self.at_rest else "make sure that the arm stands still"
            ask = ASK if code is NavigationCode.LOST_CONFIDENCE and self.at_rest else ""
            summary = f"{reason}. {name} is not confirmed in the center; {arm}, after {cost}.{seen}{ask}"
        return NavigationResult(
            error_code=code,
            error_msg=message,
            final_distance_m=self.distance_mm / 1000.0,
            exposures=self.exposures,
            dose_area_product_gym2=self._dose_gym2,
            path_length_m=self._path_m,
            duration_s=self.elapsed_s,
            steps=self.steps,
            summary=summary,
        )
