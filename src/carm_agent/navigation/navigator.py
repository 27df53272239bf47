# SPDX-License-Identifier: Apache-2.0
"""The navigation policy: acquire, localize, decide, move, verify, until the target is in the image center.

Each exposure is shown to the localizer; its answer is weighed against what earlier images of the task say
(`carm_agent.navigation.landmark_filter`). A trusted answer leads to a motion of the isocenter along the display axes,
with the angles
kept, or to success once a further image confirms it. A doubtful one leads first to another exposure, then to a short
cautious motion, then to the end, with a reason. The arm is at rest whenever `Navigator.run` returns.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carm_agent import phrases
from carm_agent.errors import NoJointStatesError, NotAtRestError
from carm_agent.navigation.biplane import biplane_primaries_deg, fixed, trusted
from carm_agent.navigation.budget import Ending, Ledger, code_of
from carm_agent.navigation.landmark_filter import RADIUS_90_PER_STD, Belief
from carm_agent.navigation.landmark_tracker import Evidence
from carm_agent.navigation.localizer_queries import Questions, placed
from carm_agent.navigation.neighbor_search import Search, SearchConfig
from carm_agent.navigation.task import NavigationCode, NavigationGoal, NavigationResult, NavigatorConfig, Report, Stage
from carm_agent.navigation.view_shift import plan_shift, share_of_the_way, traveled_m
from carm_agent.planning.planner import Plan, Planner
from carm_agent.ports import Arm, Clock, Imager, Interrupt
from carm_core.errors import CarmError, GoalError, UnknownNameError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.imaging.triangulation import Sighting
from carm_core.landmarks import Landmark
from carm_core.landmarks import landmark as find_by_id
from carm_core.localization import LandmarkEstimate, Localization, Localizer


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
            return NavigationResult(code_of(error), str(error), summary=f"I did not start: {error}.")
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
        self._planner, self._arm = navigator._planner, navigator._arm
        self._imager, self._interrupt = navigator._imager, navigator._interrupt
        self._landmark, self._tell = landmark, report
        self._questions = Questions(
            navigator._localizer,
            navigator._interrupt,
            goal,
            landmark,
            config.policy,
            lambda line: self._say(Stage.LOCALIZING, line),
        )
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
        self._biplane = goal.biplane
        self._depth = ""
        self._ledger = Ledger(self._config, navigator._clock, started_s)

    def run(self) -> tuple[NavigationCode, str]:
        """Loop until the task ends."""
        try:
            self._leave_unknown_angles()
            self._center()
            if self._biplane:
                self._center_in_depth()
                self._center()
            return NavigationCode.NONE, ""
        except Ending as ending:
            return ending.code, str(ending)
        except CarmError as error:
            self._ledger.at_rest = not isinstance(error, NotAtRestError)
            return code_of(error), str(error)

    def result(self, code: NavigationCode, message: str) -> NavigationResult:
        """Sum the task up."""
        return self._ledger.result(self._landmark, code, message, self._depth)

    def _center(self) -> None:
        """Loop until the target is centered and confirmed."""
        while True:
            frame, view = self._acquire()
            if self._decide(frame, view, self._questions.target(frame)):
                return

    def _center_in_depth(self) -> None:
        """Turn to two views, and put the isocenter on the place in space that both show."""
        start = self._arm.joint_positions()
        angles = self._planner.carm.angles(start)
        name, secondary = phrases.called(self._landmark), float(np.degrees(angles[1]))
        sightings = []
        for primary in biplane_primaries_deg(float(np.degrees(angles[0])), self._config.biplane_primary_deg):
            now = self._arm.joint_positions()
            view_name = phrases.angles(primary, secondary)
            try:
                plan = self._planner.to_view(now, None, (math.radians(primary), angles[1]))
            except GoalError as error:
                reason = f"the depth of {name} needs {view_name}: {phrases.refusal(error)}"
                raise Ending(NavigationCode.UNREACHABLE, reason) from error
            self._carry_out(plan, f"Turning about the isocenter to {view_name}, to see the depth of {name}.")
            sightings.append(self._sighting(view_name))
        try:
            place, depth_mm = fixed(sightings, self._config.max_depth_mm)
            plan = self._planner.to_view(self._arm.joint_positions(), place.point_mm / 1000.0, angles)
        except GoalError as error:
            reason = f"the depth of {name} is not found: {phrases.refusal(error)}"
            raise Ending(NavigationCode.LOST_CONFIDENCE, reason) from error
        shift_mm = place.point_mm - 1000.0 * self._planner.carm.isocenter(start)
        self._depth = f" Two views fix its depth to ±{depth_mm:.0f} mm."
        line = (
            f"Two views {place.angle_deg:.0f}° apart show {name} {np.linalg.norm(shift_mm):.0f} mm from the isocenter"
        )
        self._carry_out(plan, f"{line}; putting the isocenter there.")
        self._evidence = Evidence(self._config, Belief(place.point_mm, place.covariance_mm2))
        self._ledger.verified, self._verifying = False, True

    def _sighting(self, view_name: str) -> Sighting:
        """Look at the target from where the arm is; twice, if need be."""
        reason = ""
        for _ in range(2):
            frame, view = self._acquire()
            found, reason = trusted(self._questions.target(frame), self._landmark.id, self._config.min_confidence)
            if found is not None:
                return Sighting(view, found.displacement_mm, self._evidence.std_mm(found))
        name = phrases.called(self._landmark)
        raise Ending(NavigationCode.LOST_CONFIDENCE, f"I am not sure where {name} is at {view_name}: {reason}")

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
            plan = self._to_ap(start)
        except GoalError as error:
            self._say(Stage.DECIDING, f"{now}; 0/0 is out of reach ({phrases.refusal(error)}).", warning=True)
            return
        self._carry_out(plan, f"{now}; turning to AP first, where landmarks are known best.")

    def _to_ap(self, start: NDArray[np.float64]) -> Plan:
        """Plan the way to 0/0: about the isocenter, or, where something is in the way of that, around it."""
        try:
            return self._planner.to_view(start, None, (0.0, 0.0))
        except GoalError:
            return self._planner.to_view(start, self._planner.carm.isocenter(start), (0.0, 0.0))

    def _acquire(self) -> tuple[XrayFrame, XrayView]:
        self._interrupt.check()
        self._ledger.check_exposure()
        stage = Stage.VERIFYING if self._verifying else Stage.ACQUIRING
        self._say(stage, "Taking an X-ray image to verify." if self._verifying else "Taking an X-ray image.")
        acquisition = self._imager.expose(self._field_mm())
        self._ledger.exposed(acquisition)
        frame = acquisition.frame
        view = frame.view if frame.view is not None else self._planner.carm.view(self._arm.joint_positions())
        return frame, view

    def _field_mm(self) -> float:
        """Return the side of the field that the next image needs, mm; 0: the whole detector."""
        if not self._verifying or self._doubts or self._failures:
            return 0.0
        return self._evidence.field_mm(self._planner.carm.view(self._arm.joint_positions()))

    def _decide(self, frame: XrayFrame, view: XrayView, localization: Localization) -> bool:
        """Act on one answer; return whether the target is centered and confirmed."""
        estimate = placed(localization, self._landmark.id) if localization.ok else None
        if not localization.abstained and estimate is None:
            self._fail(localization)
            return False
        self._failures = 0
        if estimate is None:
            reason = f"the localizer abstains ({localization.message or 'not sure enough'})"
            if not self._follow(frame, view, None, reason) and not self._go_elsewhere(view, reason):
                self._doubt(view, None, reason)
            return False
        self._search.recognized()
        self._ledger.distance_mm = math.hypot(*estimate.displacement_mm)
        self._ledger.radius_mm = RADIUS_90_PER_STD * self._evidence.std_mm(estimate)
        if self._questions.is_denied(view, estimate):
            reason = "it seems to be where you say that it is not"
        else:
            reason = self._evidence.weigh(view, estimate)
        if reason:
            if not self._follow(frame, view, estimate, reason):
                self._doubt(view, estimate, reason)
            return False
        return self._approach(frame, view, estimate)

    def _follow(self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate | None, reason: str) -> bool:
        """Look for a target that was never surely seen by way of its neighbors; return whether there is a way."""
        if self._is_placed(view):
            return False
        lead = self._search.lead(estimate, lambda other: self._questions.other(frame, other))
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

    def _is_placed(self, view: XrayView) -> bool:
        """Whether earlier images say well where the target is: then another image is due, not another place."""
        belief = self._evidence.belief
        return belief is not None and belief.radius_90_mm(view) <= self._config.max_radius_mm

    def _go_elsewhere(self, view: XrayView, reason: str) -> bool:
        """Move from where nothing is recognized: on along a limb, half the way back, or to the middle of the trunk.

        Returns:
            Whether that may help.
        """
        if self._is_placed(view):
            return False
        on = self._search.go_on()
        how, step = "going on", on
        if step is None:
            how, step = "going back half the way", self._search.back()
        if step is None:
            how, step = "going to the middle of the trunk", self._to_trunk(view)
        if step is None:
            return False
        where = phrases.displacement(view, step)
        line = f"Not sure about {phrases.called(self._landmark)}: {reason}; {how}, {where}."
        try:
            self._move(view, step, float(np.linalg.norm(step)), line)
        except Ending as ending:
            if ending.code is not NavigationCode.UNREACHABLE:
                raise
            return False
        if on is None:  # what was believed has led astray
            self._evidence = Evidence(self._config)
        return True

    def _to_trunk(self, view: XrayView) -> NDArray[np.float64] | None:
        """Return the step to the middle of the trunk (2,), mm, as the patient's surface says; None without one."""
        model = self._planner.collision
        surface = model.obstacles.surface if model is not None else None
        if surface is None:
            return None
        middle = np.array([*(1000.0 * surface.trunk_m), view.isocenter_mm[2]])
        step = self._search.to_trunk(np.asarray(view.displacement_mm(middle)))
        return None if step is None else step * min(1.0, self._config.max_step_mm / float(np.linalg.norm(step)))

    def _look_again(self, view: XrayView, offset_mm: NDArray[np.float64], reason: str) -> bool:
        """Look at a target that is nearly sure from aside, then from another angle; return whether that was done."""
        name = phrases.called(self._landmark)
        aside = self._search.aside()
        if aside is not None:
            line = f"Not sure about {name}: {reason}; looking from aside."
            self._move(view, offset_mm + aside, float(np.linalg.norm(aside)), line)
            return True
        if self._ledger.motions_left < 2 or not self._search.turn():
            return False
        start = self._arm.joint_positions()
        angles = self._planner.carm.angles(start)
        primary = float(np.degrees(angles[0]))
        turned = primary - math.copysign(self._config.turn_deg, primary)
        try:
            there = self._planner.to_view(start, None, (math.radians(turned), angles[1]))
        except GoalError:
            return False
        view_name = phrases.angles(turned, float(np.degrees(angles[1])))
        self._carry_out(there, f"Not sure about {name}: {reason}; looking from another angle, {view_name}.")
        frame, aslant = self._acquire()
        seen = self._questions.target(frame)
        estimate = placed(seen, self._landmark.id) if seen.ok else None
        if estimate is not None:
            self._evidence.weigh(aslant, estimate)
        back = self._planner.to_view(self._arm.joint_positions(), None, angles)
        self._carry_out(back, "Turning back to where this task looks from.")
        self._ledger.verified, self._verifying = False, True
        return True

    def _fail(self, localization: Localization) -> None:
        """Put up with one unusable answer; the second in a row ends the task."""
        self._failures += 1
        why = localization.message or localization.error or "it says nothing about the target"
        if self._failures > 1:
            raise Ending(NavigationCode.LOCALIZER, f"the localizer failed twice in a row: {why}")
        self._say(Stage.DECIDING, f"The localizer gave no usable answer ({why}); trying once more.", warning=True)

    def _doubt(self, view: XrayView, estimate: LandmarkEstimate | None, reason: str) -> None:
        """Look again, then move a little, then give up."""
        self._doubts += 1
        name = phrases.called(self._landmark)
        if self._doubts >= self._config.max_doubts:
            raise Ending(NavigationCode.LOST_CONFIDENCE, f"I am not sure where {name} is: {reason}")
        if self._doubts == 1:
            line = f"Not sure about {name}: {reason}; taking another exposure."
            self._say(Stage.DECIDING, line, decision=True, warning=True)
            return
        towards = self._evidence.belief.offset_mm(view) if self._evidence.belief is not None else None
        if towards is None and estimate is not None and math.hypot(*estimate.displacement_mm) < 1e3:
            towards = np.asarray(estimate.displacement_mm)
        if towards is None:
            raise Ending(NavigationCode.LOST_CONFIDENCE, f"I am not sure where {name} is: {reason}")
        distance = float(np.linalg.norm(towards))
        step = towards * min(0.5, self._config.cautious_step_mm / max(distance, 1e-9))
        way = phrases.displacement(view, step) or "0 mm"
        line = f"Still not sure about {name}: {reason}; moving a cautious {way} for a better look."
        self._move(view, step, self._config.tolerance_mm, line, warning=True)

    def _approach(self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate) -> bool:
        """Confirm, or move towards where the target is believed to be."""
        assert self._evidence.belief is not None
        offset = self._evidence.belief.offset_mm(view)
        radius = self._evidence.belief.radius_90_mm(view)
        self._ledger.distance_mm, self._ledger.radius_mm = float(np.linalg.norm(offset)), radius
        where = phrases.whereabouts(self._landmark, view, offset, radius)
        if self._ledger.distance_mm <= self._config.tolerance_mm:
            reason = f"it seems to be in the center, but only to ±{radius:.0f} mm"
            vague = self._config.sure_mm < radius <= self._config.nearly_mm
            if vague and self._look_again(view, offset, reason):
                return False
            if radius > self._config.max_radius_mm:
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
        fraction = share_of_the_way(view, self._ledger.distance_mm, radius, self._config)
        how = "moving there" if fraction > 0.99 else f"moving {100 * fraction:.0f} % of the way for a better look"
        self._move(view, fraction * offset, radius, f"{where}; {how}.")
        return False

    def _move(
        self,
        view: XrayView,
        step_mm: NDArray[np.float64],
        slack_mm: float,
        reasoning: str,
        *,
        warning: bool = False,
    ) -> None:
        self._ledger.check_step()
        start, slack_mm = self._arm.joint_positions(), max(self._config.tolerance_mm, slack_mm)
        try:
            shift = plan_shift(self._planner, start, view, step_mm, slack_mm)
        except GoalError as error:
            line = f"{phrases.called(self._landmark)} cannot be centered: {phrases.refusal(error)}"
            raise Ending(NavigationCode.UNREACHABLE, line) from error
        self._carry_out(shift.plan, reasoning + shift.told, warning=warning or bool(shift.told))
        self._ledger.verified, self._verifying = False, True
        self._search.moved(step_mm)

    def _carry_out(self, plan: Plan, reasoning: str, *, warning: bool = False) -> None:
        self._ledger.check_motion(plan)
        self._interrupt.check()
        self._say(Stage.MOVING, reasoning, decision=True, warning=warning)
        try:
            self._arm.execute(plan.trajectory)
        except CarmError:
            self._ledger.moved(traveled_m(self._planner.carm, self._arm, plan), whole=False)
            raise
        self._ledger.moved(plan.isocenter_path_m)

    def _say(self, stage: Stage, line: str, *, decision: bool = False, warning: bool = False) -> None:
        self._tell(self._ledger.progress(stage, line, decision=decision, warning=warning))
