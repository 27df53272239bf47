# SPDX-License-Identifier: Apache-2.0
"""The navigation policy: acquire, localize, decide, move, verify, until the target is in the image center.

Each exposure is shown to the localizer; its answer is weighed against what earlier images of the task say
(`carm_agent.belief`). A trusted answer leads to a motion of the isocenter along the display axes, with the angles
kept, or to success once a further image confirms it. A doubtful one leads first to another exposure, then to a short
cautious motion, then to the end, with a reason. The arm is at rest whenever `Navigator.run` returns.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carm_agent import phrases
from carm_agent.belief import RADIUS_90_PER_STD
from carm_agent.errors import (
    CanceledError,
    ImagingError,
    MotionError,
    NoJointStatesError,
    NotAtRestError,
    StoppedError,
)
from carm_agent.evidence import Evidence
from carm_agent.planner import Plan, Planner
from carm_agent.ports import Arm, Clock, Imager, Interrupt
from carm_agent.reach import plan_shift
from carm_agent.search import Search, SearchConfig
from carm_agent.task import (
    NAN,
    NavigationCode,
    NavigationGoal,
    NavigationResult,
    NavigatorConfig,
    Policy,
    Progress,
    Report,
    Stage,
)
from carm_core.errors import CarmError, GoalError, LocalizerError, UnknownNameError
from carm_core.frame import XrayFrame
from carm_core.geometry import XrayView
from carm_core.landmarks import Landmark
from carm_core.landmarks import landmark as find_by_id
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query

_CODES: tuple[tuple[type[CarmError], NavigationCode], ...] = (
    (CanceledError, NavigationCode.CANCELED),
    (StoppedError, NavigationCode.STOPPED),
    (ImagingError, NavigationCode.NO_IMAGE),
    (LocalizerError, NavigationCode.LOCALIZER),
    (MotionError, NavigationCode.MOTION),
    (UnknownNameError, NavigationCode.UNKNOWN_TARGET),
    (GoalError, NavigationCode.INVALID_GOAL),
)


class _Ending(Exception):
    """Ends the task from within; never leaves this module."""

    def __init__(self, code: NavigationCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Navigator:
    """Brings a named landmark to the image center."""

    def __init__(
        self,
        planner: Planner,
        imager: Imager,
        localizer: Localizer,
        arm: Arm,
        clock: Clock,
        interrupt: Interrupt | None = None,
        config: NavigatorConfig | None = None,
    ) -> None:
        """Wire the policy to the world.

        Args:
            planner: plans the motions.
            imager: takes the images.
            localizer: finds landmarks in them.
            arm: moves.
            clock: times the task.
            interrupt: ends the task from outside; the ports heed the same one.
            config: bounds and habits.
        """
        self._planner = planner
        self._imager = imager
        self._localizer = localizer
        self._arm = arm
        self._clock = clock
        self._interrupt = interrupt or Interrupt()
        self._config = config or NavigatorConfig()

    def run(self, goal: NavigationGoal, report: Report = lambda progress: None) -> NavigationResult:
        """Run one task to its end.

        Args:
            goal: what to bring where, and at what cost.
            report: told each step, on this thread.

        Returns:
            How the task ended. Expected failures are results, not exceptions.
        """
        started_s = self._clock.now_s()
        try:
            landmark = goal.landmark()
            goal.check()
        except (UnknownNameError, GoalError) as error:
            return NavigationResult(_code(error), str(error), summary=f"I did not start: {error}.")
        task = _Task(self, goal, landmark, report, started_s)
        code, message = task.run()
        return task.result(code, message)


class _Task:
    """The state of one run of the policy."""

    def __init__(
        self, navigator: Navigator, goal: NavigationGoal, landmark: Landmark, report: Report, started_s: float
    ) -> None:
        config = navigator._config
        self._config = replace(
            config,
            tolerance_mm=goal.tolerance_mm or config.tolerance_mm,
            max_exposures=goal.max_exposures or config.max_exposures,
            max_duration_s=goal.max_duration_s or config.max_duration_s,
        )
        self._planner, self._arm, self._clock = navigator._planner, navigator._arm, navigator._clock
        self._imager, self._localizer = navigator._imager, navigator._localizer
        self._interrupt = navigator._interrupt
        protocol = Protocol.NAVIGATION if config.policy is Policy.XML else Protocol.POINTING
        self._query = Query(protocol, landmark.id, goal.hint)
        self._landmark = landmark
        self._tell = report
        self._started_s = started_s
        self._evidence = Evidence(self._config)
        self._search = Search(
            landmark.id,
            SearchConfig(
                min_confidence=config.min_confidence,
                max_displacement_mm=config.max_displacement_mm,
            ),
        )
        self._doubts = 0
        self._failures = 0
        self._verifying = False
        self._unverified = False
        self._at_rest = True
        self._distance_mm = NAN
        self._radius_mm = NAN
        self._exposures = 0
        self._steps = 0
        self._dose = 0.0
        self._path_m = 0.0

    def run(self) -> tuple[NavigationCode, str]:
        """Loop until the task ends."""
        try:
            self._leave_unknown_angles()
            while True:
                frame, view = self._acquire()
                localization = self._localize(frame)
                if self._decide(frame, view, localization):
                    return NavigationCode.NONE, ""
        except _Ending as ending:
            return ending.code, str(ending)
        except CarmError as error:
            self._at_rest = not isinstance(error, NotAtRestError)
            return _code(error), str(error)

    def result(self, code: NavigationCode, message: str) -> NavigationResult:
        """Sum the task up."""
        cost = f"{self._exposures} exposure{'s' if self._exposures != 1 else ''}"
        if code is NavigationCode.NONE:
            summary = (
                f"{phrases.called(self._landmark, start=True)} is {self._distance_mm:.0f} mm from the image center"
                f" (±{self._radius_mm:.0f} mm), confirmed by a further image, after {cost}."
            )
        else:
            seen = f" It was last seen {self._distance_mm:.0f} mm from the image center." if self._seen else ""
            reason = f"{message[:1].upper()}{message[1:].rstrip('.')}"
            arm = "the arm is at rest" if self._at_rest else "make sure that the arm stands still"
            summary = f"{reason}. {phrases.called(self._landmark, start=True)} is not confirmed in the center;"
            summary += f" {arm}, after {cost}.{seen}"
        return NavigationResult(
            error_code=code,
            error_msg=message,
            final_distance_m=self._distance_mm / 1000.0,
            exposures=self._exposures,
            dose_area_product_gym2=self._dose,
            path_length_m=self._path_m,
            duration_s=self._clock.now_s() - self._started_s,
            steps=self._steps,
            summary=summary,
        )

    @property
    def _seen(self) -> bool:
        return math.isfinite(self._distance_mm)

    def _leave_unknown_angles(self) -> None:
        """Turn to 0/0 about the isocenter when the present view is of a kind that localizers were not trained on."""
        try:
            start = self._arm.joint_positions()
        except NoJointStatesError:  # the image says where the arm is; a motion would be refused
            return
        primary, secondary = np.degrees(self._planner.carm.angles(start))
        if abs(primary) <= self._config.max_primary_deg and abs(secondary) <= self._config.max_secondary_deg:
            return
        now = f"The view is at {phrases.angles(float(primary), float(secondary))}"
        try:
            plan = self._planner.to_view(start, None, (0.0, 0.0))
        except GoalError as error:
            self._say(Stage.DECIDING, f"{now}; 0/0 is out of reach ({phrases.refusal(error)}).", warning=True)
            return
        self._carry_out(plan, f"{now}; turning to AP first, where landmarks are known best.")

    def _acquire(self) -> tuple[XrayFrame, XrayView]:
        self._interrupt.check()
        self._check_budget()
        stage = Stage.VERIFYING if self._verifying else Stage.ACQUIRING
        self._say(stage, "Taking an X-ray image to verify." if self._verifying else "Taking an X-ray image.")
        acquisition = self._imager.expose(self._field_mm())
        self._exposures += 1
        if math.isfinite(acquisition.dose_area_product_gym2):
            self._dose += acquisition.dose_area_product_gym2
        frame = acquisition.frame
        view = frame.view if frame.view is not None else self._planner.carm.view(self._arm.joint_positions())
        return frame, view

    def _field_mm(self) -> float:
        """Return the side of the field that the next image needs, mm; 0: the whole detector."""
        belief, margin = self._evidence.belief, self._config.collimation_margin_mm
        if belief is None or margin <= 0 or not self._verifying or self._doubts or self._failures:
            return 0.0
        view = self._planner.carm.view(self._arm.joint_positions())
        reach = float(np.abs(belief.offset_mm(view)).max()) + belief.radius_90_mm(view) + margin
        whole = min(view.detector.rows, view.detector.columns) * view.mm_per_px_at_isocenter
        side = max(2 * reach, self._config.least_field_mm)
        return side if side < whole else 0.0

    def _check_budget(self) -> None:
        end = "; the last motion is not verified" if self._unverified else ""
        if self._exposures >= self._config.max_exposures:
            raise _Ending(NavigationCode.BUDGET, f"all {self._config.max_exposures} exposures are used up{end}")
        if self._elapsed_s() >= self._config.max_duration_s:
            raise _Ending(NavigationCode.BUDGET, f"the time of {self._config.max_duration_s:.0f} s is used up{end}")

    def _elapsed_s(self) -> float:
        return self._clock.now_s() - self._started_s

    def _localize(self, frame: XrayFrame) -> Localization:
        self._interrupt.check()
        self._say(Stage.LOCALIZING, f"Looking for {phrases.called(self._landmark)} in the image.")
        localization = self._localizer.localize(frame, self._query)
        self._interrupt.check()
        return localization

    def _decide(self, frame: XrayFrame, view: XrayView, localization: Localization) -> bool:
        """Act on one answer; return whether the target is centered and confirmed."""
        estimate = localization.estimate(self._landmark.id) if localization.ok else None
        if not localization.abstained and (estimate is None or not np.isfinite(estimate.displacement_mm).all()):
            self._fail(localization)
            return False
        self._failures = 0
        if estimate is None:
            reason = f"the localizer abstains ({localization.message or 'not sure enough'})"
            if not self._follow(frame, view, None, reason):
                self._doubt(view, None, reason)
            return False
        self._distance_mm = math.hypot(*estimate.displacement_mm)
        self._radius_mm = RADIUS_90_PER_STD * self._evidence.std_mm(estimate)
        reason = self._evidence.weigh(view, estimate)
        if reason:
            if not self._follow(frame, view, estimate, reason):
                self._doubt(view, estimate, reason)
            return False
        return self._approach(frame, view, estimate)

    def _follow(self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate | None, reason: str) -> bool:
        """Look for a target that was never surely seen by way of its neighbors; return whether there is a way."""
        belief = self._evidence.belief
        if belief is not None and belief.radius_90_mm(view) <= self._config.max_radius_mm:
            return False

        def ask(landmark_id: int) -> LandmarkEstimate | None:
            self._interrupt.check()
            found = self._localizer.localize(frame, replace(self._query, target_id=landmark_id)).estimate(landmark_id)
            return found if found is not None and np.isfinite(found.displacement_mm).all() else None

        lead = self._search.lead(estimate, ask)
        if lead is None:
            return False
        self._evidence = Evidence(self._config)
        name, guide = phrases.called(self._landmark), phrases.called(find_by_id(lead.guide_id))
        where = phrases.displacement(view, lead.offset_mm)
        if lead.sure:
            how = f"{guide} leads there and is {where} of the image center; going there first"
        else:
            how = f"trying {where}, where {guide if lead.guide_id != self._landmark.id else 'it'} seems to be"
        step = lead.offset_mm * min(1.0, self._config.max_step_mm / float(np.linalg.norm(lead.offset_mm)))
        self._move(view, step, float(np.linalg.norm(step)), f"Not sure about {name}: {reason}; {how}.")
        return True

    def _fail(self, localization: Localization) -> None:
        """Put up with one unusable answer; the second in a row ends the task."""
        self._failures += 1
        why = localization.message or localization.error or "it says nothing about the target"
        if self._failures > 1:
            raise _Ending(NavigationCode.LOCALIZER, f"the localizer failed twice in a row: {why}")
        self._say(Stage.DECIDING, f"The localizer gave no usable answer ({why}); trying once more.", warning=True)

    def _doubt(self, view: XrayView, estimate: LandmarkEstimate | None, reason: str) -> None:
        """Look again, then move a little, then give up."""
        self._doubts += 1
        name = phrases.called(self._landmark)
        if self._doubts >= self._config.max_doubts:
            raise _Ending(NavigationCode.LOST_CONFIDENCE, f"I am not sure where {name} is: {reason}")
        if self._doubts == 1:
            self._say(
                Stage.DECIDING,
                f"Not sure about {name}: {reason}; taking another exposure.",
                decision=True,
                warning=True,
            )
            return
        towards = self._evidence.belief.offset_mm(view) if self._evidence.belief is not None else None
        if towards is None and estimate is not None and math.hypot(*estimate.displacement_mm) < 1e3:
            towards = np.asarray(estimate.displacement_mm)
        if towards is None:
            raise _Ending(NavigationCode.LOST_CONFIDENCE, f"I am not sure where {name} is: {reason}")
        distance = float(np.linalg.norm(towards))
        step = towards * min(0.5, self._config.cautious_step_mm / max(distance, 1e-9))
        self._move(
            view,
            step,
            self._config.tolerance_mm,
            f"Still not sure about {name}: {reason}; moving a cautious"
            f" {phrases.displacement(view, step) or '0 mm'} for a better look.",
            warning=True,
        )

    def _approach(self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate) -> bool:
        """Confirm, or move towards where the target is believed to be."""
        assert self._evidence.belief is not None
        offset = self._evidence.belief.offset_mm(view)
        radius = self._evidence.belief.radius_90_mm(view)
        self._distance_mm, self._radius_mm = float(np.linalg.norm(offset)), radius
        where = phrases.whereabouts(self._landmark, view, offset, radius)
        if self._distance_mm <= self._config.tolerance_mm:
            if radius > self._config.max_radius_mm:
                reason = f"it seems to be in the center, but only to ±{radius:.0f} mm"
                if not self._follow(frame, view, estimate, reason):
                    self._doubt(view, None, reason)
                return False
            self._doubts = 0
            if self._evidence.agreeing >= 2:
                self._say(Stage.VERIFYING, f"{where}, as earlier images said; done.", decision=True)
                return True
            self._verifying = True
            self._say(Stage.DECIDING, f"{where}, within tolerance; one more exposure to verify.", decision=True)
            return False
        self._doubts = 0
        fraction = self._fraction(view, self._distance_mm, radius)
        how = "moving there" if fraction > 0.99 else f"moving {100 * fraction:.0f} % of the way for a better look"
        self._move(view, fraction * offset, radius, f"{where}; {how}.")
        return False

    def _fraction(self, view: XrayView, distance: float, radius: float) -> float:
        """Return the share of the way to cover: all, unless the target might then be out of view or it is far."""
        detector = view.detector
        half_view = 0.5 * min(detector.rows, detector.columns) * view.mm_per_px_at_isocenter
        excess = max(0.0, radius - half_view)
        share = max(self._config.min_step_fraction, distance / (distance + excess))
        return min(share, self._config.max_step_mm / distance)

    def _move(
        self,
        view: XrayView,
        step_mm: NDArray[np.float64],
        slack_mm: float,
        reasoning: str,
        *,
        warning: bool = False,
    ) -> None:
        if self._steps >= self._config.max_steps:
            raise _Ending(NavigationCode.BUDGET, f"all {self._config.max_steps} motions are used up")
        plan, addition = self._reachable_plan(view, step_mm, max(self._config.tolerance_mm, slack_mm))
        self._carry_out(plan, reasoning + addition, warning=warning or bool(addition))
        self._unverified = self._verifying = True

    def _carry_out(self, plan: Plan, reasoning: str, *, warning: bool = False) -> None:
        if self._elapsed_s() + plan.duration_s > self._config.max_duration_s:
            raise _Ending(
                NavigationCode.BUDGET,
                f"a motion of {plan.duration_s:.0f} s would exceed the time of {self._config.max_duration_s:.0f} s",
            )
        self._interrupt.check()
        self._say(Stage.MOVING, reasoning, decision=True, warning=warning)
        try:
            self._arm.execute(plan.trajectory)
        except CarmError:
            self._path_m += self._traveled_m(plan)
            raise
        self._path_m += plan.isocenter_path_m
        self._steps += 1

    def _traveled_m(self, plan: Plan) -> float:
        """Return how far the isocenter came on a motion that was broken off, m."""
        carm = self._planner.carm
        try:
            return float(np.linalg.norm(carm.isocenter(self._arm.joint_positions()) - carm.isocenter(plan.start)))
        except CarmError:
            return 0.0

    def _reachable_plan(self, view: XrayView, step_mm: NDArray[np.float64], slack_mm: float) -> tuple[Plan, str]:
        """Plan a step, and say what it lacks."""
        try:
            shift = plan_shift(self._planner, self._arm.joint_positions(), view, step_mm, slack_mm)
        except GoalError as error:
            name = phrases.called(self._landmark)
            raise _Ending(NavigationCode.UNREACHABLE, f"{name} cannot be centered: {phrases.refusal(error)}") from error
        if shift.refused is None:
            return shift.plan, ""
        why = phrases.refusal(shift.refused)
        return shift.plan, f" The last {shift.lacking_mm:.0f} mm are out of reach ({why}); going as far as possible."

    def _say(self, stage: Stage, line: str, *, decision: bool = False, warning: bool = False) -> None:
        self._tell(
            Progress(stage, line, self._exposures, self._distance_mm, self._radius_mm, decision or warning, warning)
        )


def _code(error: CarmError) -> NavigationCode:
    return next((code for kind, code in _CODES if isinstance(error, kind)), NavigationCode.INTERNAL)
