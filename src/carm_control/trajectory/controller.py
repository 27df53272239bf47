# SPDX-License-Identifier: Apache-2.0
"""Stand-in for ros2_controllers' joint_trajectory_controller, its drives included; free of ROS.

What it shares with the original: interpolation, partial goals, path and goal tolerances with ``goal_time``,
hold on violation, preemption by a newer goal, speed scaling. What is stricter: goals are checked against the
joints' limits at and between the points; preemption starts from the commanded motion
(``interpolate_from_desired_state``), or from where a joint is that does not follow; every stop decelerates within
the limits of acceleration and jerk; and ``stop`` latches until ``reset``. A goal's outcome after cancel, stop or
violation is reported when the arm rests. A fault of the drives latches too: the drives brake by themselves, the
setpoints follow them, and the goal is aborted. ``docs/motion_controller.md`` lists the differences.

A step that comes late in a motion, because the process or the machine was held up, is a fault: the arm decelerates
from where it is and the stop latches; time that was slept through is never made up for.

All methods may be called from any thread; ``TrajectoryController.step`` from one. Times are monotonic.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from carm_control.trajectory.blending import Course
from carm_control.trajectory.deceleration import StopProfile
from carm_control.trajectory.following import Following, in_trajectory_time, starting_rate
from carm_control.trajectory.goal import (
    Acceptance,
    ErrorCode,
    GoalOutcome,
    GoalRefusedError,
    GoalStatus,
    TrajectoryGoal,
)
from carm_control.trajectory.goal_checker import CheckedTrajectory, ControllerSettings, GoalChecker
from carm_control.trajectory.hardware import Drives, Measurement
from carm_control.trajectory.limits import JointLimits
from carm_control.trajectory.permit import Permit, PermitWatch
from carm_control.trajectory.snapshot import OperatingState, Snapshot
from carm_control.trajectory.spline import State
from carm_control.trajectory.tolerances import Tolerances, Violation, violated
from carm_core.robot.controller_log import NO_MOTION_NOW
from carm_core.robot.kinematics import Joint


@dataclass(frozen=True, eq=False)
class _Goal:
    goal_id: int
    tolerances: Tolerances


@dataclass(frozen=True, eq=False)
class _Present:
    origin: State
    rate: float | None
    speed_scaling: float

    def rests_at(self, origin: State) -> bool:
        """Return whether the arm was at rest here."""
        return self.rate is None and np.array_equal(self.origin.position, origin.position)


class TrajectoryController:
    """Follows trajectories with drives, simulated or real."""

    def __init__(self, joints: Sequence[Joint], drive: Drives, settings: ControllerSettings) -> None:
        """Start at rest where the drives are.

        Args:
            joints: The joints, J of them.
            drive: Their drives.
            settings: Tolerances and rules.
        """
        self.limits = JointLimits.of(joints)
        self.checker = GoalChecker(self.limits, settings)
        self.permits = PermitWatch(settings.permit_timeout_s)
        self._drive, self._settings = drive, settings
        self._lock = threading.RLock()
        self._state = OperatingState.STARTING
        self._message = ""
        self._command = State.at_rest(drive.position)
        self._motion: Following | StopProfile | None = None
        self._goal: _Goal | None = None
        self._ending: GoalOutcome | None = None
        self._outcomes: list[GoalOutcome] = []
        self._goals = 0
        self._elapsed_s = 0.0
        self._speed_scaling = 1.0
        self._last_s: float | None = None
        self._stepped = False
        self._latch_reason = ""
        self._latched = False

    def check(self, goal: TrajectoryGoal | CheckedTrajectory, now_s: float) -> Acceptance:
        """Check a goal as ``accept`` does, without executing it.

        Args:
            goal: As it came in, or as ``checker`` returned it.
            now_s: Present time, s.
        """
        try:
            self._lay(self._checked(goal, now_s), now_s)
        except GoalRefusedError as refusal:
            return Acceptance(refusal.code, str(refusal))
        return Acceptance(ErrorCode.SUCCESSFUL)

    def accept(self, goal: TrajectoryGoal | CheckedTrajectory, now_s: float, *, replace: bool = False) -> Acceptance:
        """Follow a trajectory from now on; a goal in execution is aborted.

        Args:
            goal: As it came in, or as ``checker`` returned it.
            now_s: Present time, s.
            replace: Leave the goal in execution alive, with its tolerances: this trajectory takes the place of its own.

        Returns:
            The goal's number, or why it is refused; a refused goal changes nothing.
        """
        try:
            checked = self._checked(goal, now_s)
            course, present, (motion, note) = self._lay(checked, now_s)
            with self._lock:
                self._refuse_when_held(now_s)
                if self._motion is not None or not present.rests_at(self._origin()):
                    motion, note = self._plan(course, self._present())
                self._drive.realign(self._drive.astray)
                if not (replace and self._goal is not None and self._ending is None):
                    self._preempt()
                    self._goals += 1
                    self._goal = _Goal(self._goals, checked.tolerances)
                assert self._goal is not None
                self._begin(motion, OperatingState.MOVING, f"following a trajectory of {motion.duration_s:.2f} s{note}")
                return Acceptance(ErrorCode.SUCCESSFUL, "", self._goal.goal_id)
        except GoalRefusedError as refusal:
            return Acceptance(refusal.code, str(refusal))

    def cancel(self, goal_id: int) -> bool:
        """Decelerate to rest and report the goal as canceled.

        Returns:
            False when this goal is not in execution, or is ending already.
        """
        with self._lock:
            if self._goal is None or self._goal.goal_id != goal_id or self._ending is not None:
                return False
            self._end_goal(GoalStatus.CANCELED, ErrorCode.SUCCESSFUL, "canceled; the arm decelerated to rest")
            self._decelerate("canceled")
            return True

    def hold(self, reason: str, goal_id: int | None = None) -> bool:
        """Decelerate to rest and abort the goal; nothing latches, and nothing moves again before another goal.

        Args:
            reason: One line, for the client and the state.
            goal_id: Only if this goal is in execution; None: whichever is.

        Returns:
            False when nothing is in execution, or is ending already.
        """
        with self._lock:
            if self._goal is None or self._ending is not None or goal_id not in (None, self._goal.goal_id):
                return False
            self._end_goal(GoalStatus.ABORTED, ErrorCode.INVALID_GOAL, f"{reason}; the arm decelerated to rest")
            self._decelerate(reason)
            return True

    def stop(self, reason: str = "stop requested") -> None:
        """Stop category 1: decelerate to rest, from the next step on, and stay there until ``reset``.

        Args:
            reason: One line, shown in the state.
        """
        with self._lock:
            if self._latched:
                return
            self._drive.interrupt()
            self._latched, self._latch_reason = True, reason
            self._message = reason
            if self._goal is not None and self._ending is None:
                self._end_goal(GoalStatus.ABORTED, ErrorCode.INVALID_GOAL, f"{reason}; the arm is at rest")
            if self._state is not OperatingState.STOPPING:
                self._decelerate(reason)

    def reset(self) -> tuple[bool, str]:
        """Release a latched stop. This causes no motion.

        Returns:
            Whether the arm is ready for goals, and a line that says why or why not.
        """
        with self._lock:
            if self._drive.fault:
                return False, f"drive fault: {self._drive.fault}"
            if not self._latched:
                return True, "stop was not latched"
            if self._state not in (OperatingState.STOPPED, OperatingState.FAULT) or self._goal is not None:
                return False, "the arm is still decelerating; reset again when it is at rest"
            self._latched = False
            self._state, self._message = OperatingState.IDLE, ""
            return True, "stop released"

    def scale_speed(self, factor: float) -> bool:
        """Scale the speed of the present trajectory and of all later ones.

        Args:
            factor: 1: as planned; 0: pause. More would break the limits that a goal was checked against.

        Returns:
            False, and nothing changes, when the factor is not a number from 0 to 1.
        """
        if not 0.0 <= factor <= 1.0:
            return False
        with self._lock:
            self._speed_scaling = float(factor)
        return True

    def query(self, ahead_s: float) -> tuple[State, str]:
        """Return the past or future command at a time.

        Args:
            ahead_s: Time from now, s; negative: the past.

        Returns:
            The state of all joints, and an empty line; or the nearest that is known, and why it is not the one.
        """
        with self._lock:
            motion = self._motion
            if self._latched or not isinstance(motion, Following):
                reason = f"stop is latched ({self._latch_reason})" if self._latched else "no trajectory is active"
                return State.at_rest(self._drive.position), reason
            state, time_s = motion.at(ahead_s)
            if time_s < 0:
                return state, f"the trajectory began {-time_s:.3f} s after that time"
            if time_s > motion.duration_s:
                return state, f"the trajectory ends {time_s - motion.duration_s:.3f} s before that time"
            return state, ""

    def block_joints(self, joints: Iterable[str]) -> None:
        """Inject a fault: these joints' drives do not move; all others do.

        Args:
            joints: Names; empty: all drives are free.
        """
        with self._lock:
            self._drive.block(joints)

    def step(self, now_s: float) -> Snapshot:
        """Advance to a time.

        Args:
            now_s: Time, s. When it runs backwards or by more than ``max_step_s``, the motion goes on by 0 or
                by ``max_step_s``: the arm never jumps after a pause.
        """
        with self._lock:
            passed = 0.0 if self._last_s is None else now_s - self._last_s
            dt = min(max(passed, 0.0), self._settings.max_step_s)
            self._last_s = now_s
            permit = self._permit(now_s)
            if self._state is OperatingState.MOVING:
                if self._stepped and passed > self._settings.longest_gap_s:
                    self._catch_gap(passed)
                elif permit.speed <= 0:
                    self.hold(permit.reason)
            self._elapsed_s += dt
            if self._state in (OperatingState.STARTING, OperatingState.IDLE):
                self._message = self._drive.unready
                self._state = OperatingState.STARTING if self._message else OperatingState.IDLE
            if isinstance(self._motion, Following):
                self._motion.advance(dt, min(self._speed_scaling, self._motion.permitted(permit.speed)))
                self._command = self._motion.sample()
            elif self._motion is not None:
                self._command = self._motion.sample(self._elapsed_s)
            elif self._drive.autonomous:
                self._command = State.at_rest(self._drive.position)
            desired, elapsed_s = self._command, self._elapsed_s
            trajectory_s, rate = elapsed_s, self._speed_scaling
            if isinstance(self._motion, Following):
                trajectory_s, rate = self._motion.trajectory_s, self._motion.rate
            goal_id = self._goal.goal_id if self._goal else None
            self._drive.step(desired.position, desired.velocity, dt)
            measured = self._drive.measure()
            if self._state is OperatingState.FAULT:
                self._come_to_rest(measured)
            elif self._drive.fault:
                self._fail(self._drive.fault)
            elif self._state is OperatingState.MOVING:
                self._supervise(measured)
            elif self._state is OperatingState.STOPPING:
                self._settle(measured)
            self._stepped = self._state is OperatingState.MOVING
            outcomes, self._outcomes = tuple(self._outcomes), []
            message = self._message
            if self._state is OperatingState.MOVING and self._speed_scaling < 1:
                message += f", slowed to {100 * self._speed_scaling:.3g} % of its speed"
            elif self._state is OperatingState.MOVING and permit.speed < 1:
                message += f", at most {100 * permit.speed:.0f} % of the joints' velocities: {permit.reason}"
            return Snapshot(
                now_s, self._state, message, desired, measured, goal_id, elapsed_s, outcomes, trajectory_s, rate
            )

    def _checked(self, goal: TrajectoryGoal | CheckedTrajectory, now_s: float) -> CheckedTrajectory:
        return goal if isinstance(goal, CheckedTrajectory) else self.checker.check(goal, now_s)

    def _lay(self, checked: CheckedTrajectory, now_s: float) -> tuple[Course, _Present, tuple[Following, str]]:
        """Plan from the present motion, without holding up the control loop: what takes time is done here."""
        with self._lock:
            self._refuse_when_held(now_s)
            present = self._present()
        goal = checked.at(now_s)
        course = Course(goal, present.origin.position[list(goal.indices)], checked.rules)
        return course, present, self._plan(course, present)

    def _refuse_when_held(self, now_s: float) -> None:
        if self._latched:
            raise GoalRefusedError(ErrorCode.INVALID_GOAL, f"stop is latched ({self._latch_reason}); reset releases it")
        if self._drive.unready:
            raise GoalRefusedError(ErrorCode.INVALID_GOAL, f"not ready: {self._drive.unready}")
        permit = self._permit(now_s)
        if permit.speed <= 0:
            raise GoalRefusedError(ErrorCode.INVALID_GOAL, f"{NO_MOTION_NOW}: {permit.reason}")

    def _permit(self, now_s: float) -> Permit:
        return self.permits.judge(now_s, waiting=True) if self._settings.permit_timeout_s else Permit(1.0)

    def _present(self) -> _Present:
        """Return how the arm is commanded now; call with the lock held."""
        rate = self._motion.rate if isinstance(self._motion, Following) else None
        return _Present(self._origin(), rate, self._speed_scaling)

    def _plan(self, course: Course, present: _Present) -> tuple[Following, str]:
        """Join a goal to the present motion; return the motion, and how it differs from the goal's trajectory."""
        goal = course.goal
        indices = list(goal.indices)
        others = [i for i in range(len(self.limits.names)) if i not in indices]
        rate = starting_rate(present.origin, self.limits, present.rate, present.speed_scaling)
        spline, note = course.enter(in_trajectory_time(_select(present.origin, indices), rate))
        stop = StopProfile(self.limits.select(others), _select(present.origin, others))
        tolerance = self._settings.limit_tolerance
        return Following(spline, indices, others, stop, goal.limits, rate, tolerance), note

    def _origin(self) -> State:
        """Return the commanded state; of joints that do not follow it, where they are and how they move."""
        astray, command = self._drive.astray, self._command
        return State(
            np.where(astray, self._drive.bumpless_command(), command.position),
            np.where(astray, self._drive.velocity, command.velocity),
            np.where(astray, 0.0, command.acceleration),
        )

    def _begin(self, motion: Following | StopProfile, state: OperatingState, message: str) -> None:
        self._motion, self._elapsed_s = motion, 0.0
        self._state, self._message = state, message

    def _decelerate(self, reason: str) -> None:
        self._command = self._origin()
        self._drive.realign(self._drive.astray)
        self._begin(StopProfile(self.limits, self._command), OperatingState.STOPPING, reason)

    def _catch_gap(self, gap_s: float) -> None:
        """Latch a stop after a gap of the control loop: decelerate from where the joints are and how they move."""
        reason = f"the control loop was held up for {gap_s:.2f} s (at most {self._settings.longest_gap_s:.2f} s)"
        everywhere = np.ones(len(self.limits.names), dtype=bool)
        velocity = self._drive.velocity
        self._command = State(self._drive.realign(everywhere), velocity, np.zeros_like(velocity))
        self.stop(reason)

    def _end_goal(self, status: GoalStatus, code: ErrorCode, message: str) -> None:
        """Decide how the goal ends; the result is sent when the arm is at rest."""
        assert self._goal is not None
        self._ending = GoalOutcome(self._goal.goal_id, status, code, message)

    def _preempt(self) -> None:
        if self._goal is not None and self._ending is None:
            self._end_goal(GoalStatus.ABORTED, ErrorCode.INVALID_GOAL, "preempted by a newer goal")
        self._tell_outcome()

    def _tell_outcome(self) -> None:
        if self._ending is not None:
            self._outcomes.append(self._ending)
        self._goal, self._ending = None, None

    def _supervise(self, measured: Measurement) -> None:
        assert self._goal is not None
        assert isinstance(self._motion, Following)
        tolerances, late_s = self._goal.tolerances, self._motion.late_s
        position_error = self._command.position - measured.position
        velocity_error = self._command.velocity - measured.velocity
        if late_s < 0:
            bad = Violation.of(position_error, velocity_error, tolerances.path_position, tolerances.path_velocity)
            if bad is not None:
                self._violate(
                    ErrorCode.PATH_TOLERANCE_VIOLATED, bad, f"path tolerance violated: {bad.text(self.limits)}"
                )
            return
        bad = Violation.of(position_error, velocity_error, tolerances.goal_position, tolerances.goal_velocity)
        if bad is None:
            self._end_goal(GoalStatus.SUCCEEDED, ErrorCode.SUCCESSFUL, "goal reached")
            self._rest()
        elif 0 < tolerances.goal_time_s < late_s:
            late = f"{late_s:.2f} s after the end (at most {tolerances.goal_time_s:.2f} s)"
            reason = f"goal tolerance violated: {bad.text(self.limits)}, {late}"
            self._violate(ErrorCode.GOAL_TOLERANCE_VIOLATED, bad, reason)

    def _violate(self, code: ErrorCode, violation: Violation, reason: str) -> None:
        """Decelerate from where the joints at fault really are, and abort."""
        bad = violation.joints
        position, velocity, acceleration = (values.copy() for values in self._command)
        velocity[bad] = self._drive.velocity[bad]
        position[bad] = self._drive.realign(bad)[bad]
        acceleration[bad] = 0.0
        self._command = State(position, velocity, acceleration)
        self._end_goal(GoalStatus.ABORTED, code, reason)
        self._decelerate(reason)

    def _fail(self, fault: str) -> None:
        """Latch a fault; the drives are braking already."""
        reason = f"drive fault: {fault}"
        self._latched, self._latch_reason = True, reason
        if self._goal is not None:
            self._end_goal(GoalStatus.ABORTED, ErrorCode.PATH_TOLERANCE_VIOLATED, reason)
        self._motion, self._elapsed_s = None, 0.0
        self._state, self._message = OperatingState.FAULT, f"{reason}; reset releases it"

    def _come_to_rest(self, measured: Measurement) -> None:
        """Send the result of a goal that a fault ended once the arm is at rest, or if its state is unknown."""
        still = not self._moves(measured)
        if still or self._elapsed_s > self._settings.rest_timeout_s:
            self._tell_outcome()

    def _settle(self, measured: Measurement) -> None:
        assert self._motion is not None
        late_s = self._elapsed_s - self._motion.duration_s
        if late_s < 0:
            return
        still = not self._moves(measured)
        if still or late_s > self._settings.rest_timeout_s:
            self._rest()

    def _moves(self, measured: Measurement) -> bool:
        return bool(violated(measured.velocity, self._settings.tolerances.goal_velocity).any())

    def _rest(self) -> None:
        """Hold the command; a joint at another position stays there, and does not move when it is freed."""
        self._tell_outcome()
        self._motion = None
        stuck = self._drive.astray & (self._drive.velocity == 0)
        held = self._drive.realign(stuck) if stuck.any() else self._command.position
        self._command = State.at_rest(np.where(stuck, held, self._command.position))
        if self._latched:
            self._state = OperatingState.STOPPED
            self._message = f"stop is latched ({self._latch_reason}); reset releases it"
        else:
            self._state, self._message = OperatingState.IDLE, ""


def _select(state: State, indices: Sequence[int]) -> State:
    rows = list(indices)
    return State(*(values[rows] for values in state))
