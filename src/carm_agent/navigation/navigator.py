# SPDX-License-Identifier: Apache-2.0
"""The navigation policy: acquire, localize, decide, move, verify, until the target is in the image center.

Each exposure is shown to the localizer; its answer is weighed against what earlier images of the task say
(``carm_agent.navigation.landmark_filter``). A trusted answer leads to a motion of the isocenter along the display axes,
with the angles
kept, or to success once a further image confirms it. A doubtful one leads first to another exposure, then to a short
cautious motion, then to the end, with a reason. The arm is at rest whenever ``Navigator.run`` returns.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from carm_agent import phrases
from carm_agent.errors import NoJointStatesError, NotAtRestError
from carm_agent.navigation.biplane import Biplane, DepthPlace, in_space, trusted
from carm_agent.navigation.budget import Ending, Ledger, code_of
from carm_agent.navigation.landmark_filter import RADIUS_90_PER_STD, Belief
from carm_agent.navigation.landmark_tracker import Evidence
from carm_agent.navigation.localizer_queries import Questions, placed
from carm_agent.navigation.neighbor_search import Lead, Search, SearchConfig
from carm_agent.navigation.recovery import (
    ASIDE_MM,
    INWARD_MM,
    Doubt,
    History,
    Motion,
    Step,
    doubts_in_a_row,
    look_aside,
    may_search,
    middle_of_trunk,
    next_step,
    ways_from_nowhere,
    ways_towards,
)
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
from carm_core.transforms import Array

_AWAY = {
    Step.GO_ON: "going on",
    Step.GO_BACK: "going back half the way",
    Step.TO_TRUNK: "going to the middle of the trunk",
}


_UPRIGHT_DEG = 1.0
"""A primary angle up to this is none."""
_MOVED_MM, _MOVED_DEG = 5.0, 1.0
"""An arm that is further from where an image was taken has moved since: more than joint states are noisy."""


@dataclass(frozen=True)
class _World:
    """What a task works with; see ``Navigator``."""

    planner: Planner
    imager: Imager
    localizer: Localizer
    arm: Arm
    clock: Clock
    interrupt: Interrupt


class Navigator:
    """Brings a named landmark, or a point of the CT, to the image center."""

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
            planner: Plans the motions.
            imager: Takes the images.
            localizer: Finds landmarks in them.
            arm: moves.
            clock: Times the task.
            interrupt: Ends the task from outside; the ports heed the same one.
            config: Bounds and habits.
        """
        self._world = _World(planner, imager, localizer, arm, clock, interrupt or Interrupt())
        self._config = config or NavigatorConfig()

    def run(self, goal: NavigationGoal, report: Report = lambda progress: None) -> NavigationResult:
        """Run one task to its end.

        Args:
            goal: What to bring where, and at what cost.
            report: Told each step, on this thread.

        Returns:
            How the task ended. Expected failures are results, not exceptions.
        """
        started_s = self._world.clock.now_s()
        try:
            landmark = goal.landmark()
            goal.check()
        except (UnknownNameError, GoalError) as error:
            return NavigationResult(code_of(error), str(error), summary=f"I did not start: {error}.")
        config = replace(
            self._config,
            tolerance_mm=goal.tolerance_mm or self._config.tolerance_mm,
            max_exposures=goal.max_exposures or self._config.max_exposures,
            max_duration_s=goal.max_duration_s or self._config.max_duration_s,
        )
        task = _Task(self._world, config, goal, landmark, report, Ledger(config, self._world.clock, started_s))
        code, message = task.run()
        return task.result(code, message)


class _Task:
    """The state of one run of the policy."""

    def __init__(
        self,
        world: _World,
        config: NavigatorConfig,
        goal: NavigationGoal,
        landmark: Landmark,
        report: Report,
        ledger: Ledger,
    ) -> None:
        self._planner, self._arm = world.planner, world.arm
        self._imager, self._interrupt = world.imager, world.interrupt
        self._config, self._landmark, self._tell, self._ledger = config, landmark, report, ledger
        self._questions = Questions(
            world.localizer,
            world.interrupt,
            goal,
            landmark,
            config.policy,
            lambda line: self._say(Stage.LOCALIZING, line),
        )
        self._evidence = Evidence(config)
        search = SearchConfig(min_confidence=config.min_confidence, max_displacement_mm=config.max_displacement_mm)
        self._search = Search(landmark.id, search)
        self._history: History = ()
        self._last = Motion()
        self._failures = 0
        self._verifying = False
        self._biplane = goal.biplane
        self._added = ""
        self._in_space: Belief | None = None

    def run(self) -> tuple[NavigationCode, str]:
        """Loop until the task ends."""
        try:
            self._leave_unknown_angles()
            self._center()
            if self._biplane and self._center_in_depth():
                self._center()
            return NavigationCode.NONE, ""
        except Ending as ending:
            return ending.code, str(ending)
        except CarmError as error:
            self._ledger.at_rest = not isinstance(error, NotAtRestError)
            return code_of(error), str(error)

    def result(self, code: NavigationCode, message: str) -> NavigationResult:
        """Sum the task up."""
        return self._ledger.result(self._landmark, code, message, self._added)

    def _center(self) -> None:
        """Loop until the target is centered and confirmed."""
        while True:
            frame, view = self._acquire()
            answer = self._questions.target(frame)
            if not self._has_moved_since(view) and self._decide(frame, view, answer):
                return

    def _has_moved_since(self, view: XrayView) -> bool:
        """Return whether the arm has moved since an image: what was seen in it is then dropped, and this is said."""
        present = self._planner.carm.view(self._arm.joint_positions())
        away_mm = float(np.linalg.norm(present.isocenter_mm - view.isocenter_mm))
        turned = (np.trace(present.rotation.T @ view.rotation) - 1) / 2
        turned_deg = math.degrees(math.acos(min(1.0, max(-1.0, float(turned)))))
        if away_mm <= _MOVED_MM and turned_deg <= _MOVED_DEG:
            return False
        how = f"by {away_mm:.0f} mm and {turned_deg:.0f}°"
        line = f"The arm has moved since the image was taken, {how}; what it shows is dropped."
        self._say(Stage.DECIDING, line, decision=True, warning=True)
        return True

    def _center_in_depth(self) -> bool:
        """Put the isocenter on the target's place in space; return whether the arm moved.

        A localizer that knows the patient's CT tells the place; for others, two views do.
        """
        biplane = self._biplane_here()
        if self._in_space is not None:
            isocenter_mm = 1000.0 * self._planner.carm.isocenter(self._arm.joint_positions())
            if np.linalg.norm(self._in_space.mean_mm - isocenter_mm) <= self._config.tolerance_mm:
                self._added = biplane.told(self._in_space)
                return False
            self._put_isocenter(biplane.known(self._arm.joint_positions(), self._in_space))
            return True
        sightings = []
        for primary in biplane.primaries_deg:
            self._carry_out(*biplane.view(self._arm.joint_positions(), primary))
            sightings.append(self._sighting(biplane.view_name(primary)))
        self._put_isocenter(biplane.place(self._arm.joint_positions(), sightings))
        return True

    def _biplane_here(self) -> Biplane:
        return Biplane(self._planner, self._config, self._landmark, self._arm.joint_positions())

    def _put_isocenter(self, place: DepthPlace, where: str = "") -> None:
        self._carry_out(place.plan, where + place.reasoning)
        self._added = place.told
        self._evidence = Evidence(self._config, place.belief)
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

    def _to_ap(self, start: Array) -> Plan:
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
        if not self._verifying or doubts_in_a_row(self._history) or self._failures:
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
        else:
            self._history += (Step.RECOGNIZE,)
            self._ledger.distance_mm = math.hypot(*estimate.displacement_mm)
            self._ledger.radius_mm = RADIUS_90_PER_STD * self._evidence.std_mm(estimate)
            if self._questions.is_denied(view, estimate):
                reason = "it seems to be where you say that it is not"
            else:
                reason = self._evidence.weigh(view, estimate)
            if not reason:
                std_mm = self._evidence.std_mm(estimate)
                self._in_space = in_space(view, estimate, std_mm, self._config.known_depth_mm)
                return self._approach(frame, view, estimate)
        self._recover(frame, view, estimate, reason)
        return False

    def _next(self, ways: dict[Step, Array], *, acceptable: bool = False) -> Step:
        step = next_step(Doubt(ways, acceptable, self._config.max_doubts), self._history)
        self._history += (step,)
        return step

    def _recover(self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate | None, reason: str) -> None:
        """Do what is left to do about an image that leaves open where the target is."""
        name = phrases.called(self._landmark)
        lead, ways = self._ways(frame, view, estimate)
        towards = ways_towards(self._evidence, view, estimate)
        step = self._next(ways | towards)
        if step in _AWAY and not self._go_away(view, step, ways[step], f"Not sure about {name}: {reason}"):
            step = self._next(towards)
        if step is Step.FOLLOW and lead is not None:
            self._follow(view, lead, f"Not sure about {name}: {reason}")
        elif step is Step.EXPOSE:
            line = f"Not sure about {name}: {reason}; taking another exposure."
            self._say(Stage.DECIDING, line, decision=True, warning=True)
        elif step is Step.CREEP:
            self._creep(view, towards[step], f"Still not sure about {name}: {reason}")
        elif step is Step.GIVE_UP:
            raise Ending(NavigationCode.LOST_CONFIDENCE, f"I am not sure where {name} is: {reason}")

    def _ways(
        self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate | None
    ) -> tuple[Lead | None, dict[Step, Array]]:
        """Return the ways to elsewhere: by a neighbor, or away from where nothing is recognized."""
        if self._evidence.is_placed(view):
            return None, {}
        if may_search(self._history):
            lead = self._search.lead(estimate, lambda other: self._questions.other(frame, other))
            if lead is not None:
                return lead, {Step.FOLLOW: lead.offset_mm}
        if estimate is not None:
            return None, {}
        trunk_mm = middle_of_trunk(self._planner, view)
        return None, ways_from_nowhere(self._landmark.id, self._last, trunk_mm, self._config.max_step_mm)

    def _follow(self, view: XrayView, lead: Lead, why: str) -> None:
        """Look for a target that was never surely seen by way of its neighbors."""
        self._evidence = Evidence(self._config)
        guide, where = phrases.called(find_by_id(lead.guide_id)), phrases.displacement(view, lead.offset_mm)
        if lead.sure:
            how = f"{guide} leads there and is {where} of the image center; going there first"
        else:
            how = f"trying {where}, where {guide if lead.guide_id != self._landmark.id else 'it'} seems to be"
        step = lead.offset_mm * min(1.0, self._config.max_step_mm / float(np.linalg.norm(lead.offset_mm)))
        self._move(view, step, float(np.linalg.norm(step)), f"{why}; {how}.")

    def _go_away(self, view: XrayView, step: Step, way_mm: Array, why: str) -> bool:
        """Go away from where nothing is recognized; return whether that is possible."""
        line = f"{why}; {_AWAY[step]}, {phrases.displacement(view, way_mm)}."
        try:
            self._move(view, way_mm, float(np.linalg.norm(way_mm)), line)
        except Ending as ending:
            if ending.code is not NavigationCode.UNREACHABLE:
                raise
            return False
        if step is not Step.GO_ON:  # what was believed has led astray
            self._evidence = Evidence(self._config)
        return True

    def _look_closer(self, view: XrayView, offset_mm: Array, reason: str) -> bool:
        """Look at a target that is nearly sure from aside, then from another angle; return whether that was done."""
        why = f"Not sure about {phrases.called(self._landmark)}: {reason}"
        ways = {Step.ASIDE: look_aside(offset_mm, self._last)}
        if self._ledger.motions_left >= 2:
            ways[Step.TURN] = np.zeros(2)
            ways |= self._way_to_trunk(view)
        step = self._next(ways, acceptable=True)
        if step is Step.TO_TRUNK:
            self._move(view, ways[step], ASIDE_MM, f"{why}; looking where the CT shows more of the body.")
            return True
        if step is Step.ASIDE:
            self._move(view, ways[step], ASIDE_MM, f"{why}; looking from aside.")
        return step is Step.ASIDE or (step is Step.TURN and self._turn(why))

    def _sure_mm(self, estimate: LandmarkEstimate) -> float:
        """Return the radius above which a target in the center is looked at from elsewhere, mm.

        With a CT, an answer without a depth is one without the CT, and other images may bring it in; one with a depth
        is as sure as it gets.
        """
        if not self._config.exact_mm:
            return self._config.sure_mm
        return self._config.max_radius_mm if math.isfinite(estimate.depth_mm) else self._config.exact_mm

    def _way_to_trunk(self, view: XrayView) -> dict[Step, Array]:
        """Return the way towards the trunk, where a CT that is known fits best; nothing without one."""
        trunk_mm = middle_of_trunk(self._planner, view) if self._config.exact_mm else None
        away_mm = 0.0 if trunk_mm is None else float(np.linalg.norm(trunk_mm))
        if trunk_mm is None or away_mm < ASIDE_MM:
            return {}
        return {Step.TO_TRUNK: trunk_mm * min(1.0, INWARD_MM / away_mm)}

    def _turn(self, why: str) -> bool:
        """Look from another angle and turn back; return whether that is possible."""
        start = self._arm.joint_positions()
        angles = self._planner.carm.angles(start)
        primary = float(np.degrees(angles[0]))
        away = -1.0 if primary > _UPRIGHT_DEG else 1.0  # where the arm stands upright, noise does not choose the side
        turned = primary + away * self._config.turn_deg
        try:
            there = self._planner.to_view(start, None, (math.radians(turned), angles[1]))
        except GoalError:
            return False
        view_name = phrases.angles(turned, float(np.degrees(angles[1])))
        self._carry_out(there, f"{why}; looking from another angle, {view_name}.")
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
        """Tolerate one unusable answer; the second in a row ends the task."""
        self._failures += 1
        why = localization.message or localization.error or "it says nothing about the target"
        if self._failures > 1:
            raise Ending(NavigationCode.LOCALIZER, f"the localizer failed twice in a row: {why}")
        self._say(Stage.DECIDING, f"The localizer gave no usable answer ({why}); trying once more.", warning=True)

    def _creep(self, view: XrayView, towards_mm: Array, why: str) -> None:
        """Move cautiously towards where the target seems to be."""
        step = towards_mm * min(0.5, self._config.cautious_step_mm / max(float(np.linalg.norm(towards_mm)), 1e-9))
        way = phrases.displacement(view, step) or "0 mm"
        line = f"{why}; moving a cautious {way} for a better look."
        self._move(view, step, self._config.tolerance_mm, line, warning=True)

    def _approach(self, frame: XrayFrame, view: XrayView, estimate: LandmarkEstimate) -> bool:
        """Confirm, or move towards where the target is believed to be."""
        assert self._evidence.belief is not None
        offset = self._evidence.belief.offset_mm(view)
        radius = self._evidence.belief.radius_90_mm(view)
        self._ledger.distance_mm, self._ledger.radius_mm = float(np.linalg.norm(offset)), radius
        where = phrases.whereabouts(self._landmark, view, offset, radius)
        if self._move_exactly(view, estimate, where):
            return True
        if self._ledger.distance_mm <= self._config.tolerance_mm:
            reason = f"it seems to be in the center, but only to ±{radius:.0f} mm"
            vague = self._sure_mm(estimate) < radius <= self._config.nearly_mm
            if vague and self._look_closer(view, offset, reason):
                return False
            if radius > self._config.max_radius_mm:
                self._recover(frame, view, estimate, reason)
                return False
            self._history += (Step.APPROACH,)
            if self._evidence.agreeing >= 2:
                self._say(Stage.VERIFYING, f"{where}, as earlier images said; done.", decision=True)
                return True
            self._verifying = True
            self._say(Stage.DECIDING, f"{where}, within tolerance; one more exposure to verify.", decision=True)
            return False
        self._history += (Step.APPROACH,)
        fraction = share_of_the_way(view, self._ledger.distance_mm, radius, self._config)
        if self._biplane and self._in_space is not None and fraction > 0.99 and not self._has_moved_since(view):
            self._ledger.check_step()
            self._put_isocenter(self._biplane_here().known(self._arm.joint_positions(), self._in_space), f"{where}. ")
            self._evidence.agreeing = 1
            return False
        how = "moving there" if fraction > 0.99 else f"moving {100 * fraction:.0f} % of the way for a better look"
        self._move(view, fraction * offset, radius, f"{where}; {how}.")
        return False

    def _move_exactly(self, view: XrayView, estimate: LandmarkEstimate, where: str) -> bool:
        """Cover the rest of the way where answers are exact and agree; return whether no further image is due.

        An answer is exact where its radius says so. The rest is worth a motion when it is longer than the answer's
        standard deviation, and needs no image when the target is sure to lie within tolerance afterwards, whatever its
        depth.
        """
        belief, rest_mm = self._evidence.belief, np.asarray(estimate.displacement_mm)
        distance_mm = float(np.linalg.norm(rest_mm))
        after = replace(view, source_mm=view.source_mm + rest_mm @ np.array(view.display_axes))
        if (
            belief is None
            or self._evidence.agreeing < 2
            or not estimate.radius_90_mm <= min(self._config.exact_mm, RADIUS_90_PER_STD * distance_mm)
            or belief.radius_90_mm(after) > self._config.tolerance_mm
        ):
            return False
        try:
            plan = plan_shift(self._planner, self._arm.joint_positions(), view, rest_mm, 0.0).plan
        except GoalError:
            return False
        if not self._ledger.allows(plan):
            return False
        self._carry_out(plan, f"{where}, as earlier images said; moving the last {distance_mm:.0f} mm, then done.")
        self._ledger.distance_mm, self._ledger.radius_mm = (
            float(np.linalg.norm(belief.offset_mm(after))),
            belief.radius_90_mm(after),
        )
        self._added += f" The last {distance_mm:.0f} mm were moved after that image."
        return True

    def _move(
        self,
        view: XrayView,
        step_mm: Array,
        slack_mm: float,
        reasoning: str,
        *,
        warning: bool = False,
    ) -> None:
        if self._has_moved_since(view):
            return
        self._ledger.check_step()
        start, slack_mm = self._arm.joint_positions(), max(self._config.tolerance_mm, slack_mm)
        try:
            shift = plan_shift(self._planner, start, view, step_mm, slack_mm)
        except GoalError as error:
            line = f"{phrases.called(self._landmark)} cannot be centered: {phrases.refusal(error)}"
            raise Ending(NavigationCode.UNREACHABLE, line) from error
        self._carry_out(shift.plan, reasoning + shift.told, warning=warning or bool(shift.told))
        self._ledger.verified, self._verifying = False, True
        self._last = self._last.then(step_mm)

    def _carry_out(self, plan: Plan, reasoning: str, *, warning: bool = False) -> None:
        self._ledger.check_motion(plan)
        self._interrupt.check()
        self._say(Stage.MOVING, reasoning, decision=True, warning=warning)
        self._arm.announce(plan)
        try:
            self._arm.execute(plan.trajectory)
        except CarmError:
            self._ledger.moved(traveled_m(self._planner.carm, self._arm, plan), whole=False)
            raise
        self._ledger.moved(plan.isocenter_path_m)

    def _say(self, stage: Stage, line: str, *, decision: bool = False, warning: bool = False) -> None:
        self._tell(self._ledger.progress(stage, line, decision=decision, warning=warning))
