# SPDX-License-Identifier: Apache-2.0
"""Messages to the agent's types and back; meters become millimeters here."""

import array
import math
from typing import Any

from builtin_interfaces.msg import Time
from carm_interfaces.action import Localize, MoveCArm, Navigate
from carm_interfaces.msg import LandmarkArray, PlannedMotion

from carm_agent import phrases
from carm_agent.navigation.task import NavigationGoal, NavigationResult, Progress
from carm_agent.planning.move import MoveGoal, MoveResult
from carm_agent.planning.planner import Plan
from carm_core.errors import GoalError
from carm_core.localization import LandmarkEstimate, Localization, Query
from carm_core.plausibility import at_most, numbers
from carm_core.robot.kinematics import CArm
from carm_ros.message_checks import LARGEST_TEXT
from carm_ros.messages import trajectory_message

_MOST_LANDMARKS = 200
_MOST_JOINTS = 100
_LONGEST_NAME = 1000
_FURTHEST_M = 100.0
_TURN_RAD = 4 * math.pi


def localization_from_result(result: Any, query: Query) -> Localization:
    """Return what a ``Localize`` result says; failures are returned in its ``error``.

    Landmarks in bags that were recorded before landmarks had a depth are read, too.

    Raises:
        ImplausibleError: It is too large. Whether its numbers can be true is weighed against what is known.
    """
    landmarks: LandmarkArray = result.landmarks
    at_most("the localizer's list of landmarks", landmarks.landmarks, _MOST_LANDMARKS)
    at_most("the localizer's answer", landmarks.answer, LARGEST_TEXT)
    code = result.error_code
    error = None
    if code == Localize.Result.ERROR_MALFORMED_ANSWER:
        error = "malformed"
    elif code not in (Localize.Result.ERROR_NONE, Localize.Result.ERROR_ABSTAINED):
        error = "internal"
    estimates = tuple(
        LandmarkEstimate(
            id=int(mark.id),
            displacement_mm=(1000.0 * float(mark.displacement[0]), 1000.0 * float(mark.displacement[1])),
            std_mm=1000.0 * float(mark.standard_deviation),
            radius_90_mm=1000.0 * float(mark.radius_90),
            confidence=float(mark.confidence),
            depth_mm=1000.0 * float(getattr(mark, "depth", math.nan)),
            depth_std_mm=1000.0 * float(getattr(mark, "depth_standard_deviation", 0.0)) or math.nan,
        )
        for mark in landmarks.landmarks
    )
    return Localization(
        localizer=landmarks.localizer,
        model_version=landmarks.model_version,
        query=query,
        answer=landmarks.answer,
        estimates=estimates if error is None else (),
        latency_s=float(landmarks.latency_s),
        abstained=code == Localize.Result.ERROR_ABSTAINED or bool(landmarks.abstained),
        message=result.error_msg or landmarks.message,
        error=error,
    )


def navigation_goal(request: Any) -> NavigationGoal:
    """Return a ``Navigate`` goal in mm.

    Raises:
        ImplausibleError: The name is too long, or the point is none of a body.
        GoalError: A landmark and a point are asked for at once.
    """
    at_most("target_name", request.target_name, _LONGEST_NAME)
    point = None
    if request.at_point:
        if request.target_id:
            raise GoalError("the goal is a landmark or a point of the CT: target_id must be 0 with at_point")
        point = point_in_mm(request.point)
    return NavigationGoal(
        target_id=int(request.target_id),
        target_name=phrases.printable(request.target_name),
        tolerance_mm=1000.0 * float(request.tolerance),
        max_exposures=int(request.max_exposures),
        max_duration_s=float(request.max_duration_s),
        biplane=bool(request.biplane),
        point_mm=point,
    )


def point_in_mm(point: Any) -> tuple[float, float, float]:
    """Return a ``geometry_msgs/Point``, m, in mm.

    Raises:
        ImplausibleError: It is not finite, or outside every room.
    """
    place = (point.x, point.y, point.z)
    x, y, z = (1000.0 * numbers("point", place, -_FURTHEST_M, _FURTHEST_M, "m", count=3)).tolist()
    return x, y, z


def navigation_feedback(progress: Progress) -> Any:
    """Return the feedback of one step, in m."""
    return Navigate.Feedback(
        stage=progress.stage.value,
        reasoning=progress.reasoning,
        exposures=progress.exposures,
        distance=progress.distance_mm / 1000.0,
        uncertainty=progress.radius_90_mm / 1000.0,
    )


def navigation_result(result: NavigationResult) -> Any:
    """Return the result message of a task."""
    return Navigate.Result(
        error_code=int(result.error_code),
        error_msg=result.error_msg,
        final_distance=result.final_distance_m,
        exposures=result.exposures,
        dose_area_product_gym2=result.dose_area_product_gym2,
        path_length=result.path_length_m,
        duration_s=result.duration_s,
        summary=result.summary,
    )


def move_goal(request: Any) -> MoveGoal:
    """Return a ``MoveCArm`` goal.

    Raises:
        GoalError: The goal type is unknown or the velocity scaling is not a number.
        ImplausibleError: A number is that of no C-arm, or a list or a text is too long.
    """
    for what, items, most in (
        ("joint_names", request.joint_names, _MOST_JOINTS),
        ("positions", request.positions, _MOST_JOINTS),
        ("name", request.name, _LONGEST_NAME),
        ("plan_id", request.plan_id, _LONGEST_NAME),
    ):
        at_most(what, items, most)
    if math.isnan(request.velocity_scaling):
        raise GoalError("velocity_scaling is NaN")
    scaling = request.velocity_scaling or None
    if request.goal_type == MoveCArm.Goal.GOAL_JOINTS:
        return MoveGoal(
            tuple(request.joint_names),
            tuple(request.positions),
            velocity_scaling=scaling,
            plan_only=request.plan_only,
        )
    if request.goal_type == MoveCArm.Goal.GOAL_NAMED:
        if not request.name.strip():
            raise GoalError("a named goal needs a name")
        return MoveGoal(name=request.name, velocity_scaling=scaling, plan_only=request.plan_only)
    if request.goal_type == MoveCArm.Goal.GOAL_PLAN:
        if not request.plan_id or request.plan_only:
            raise GoalError("a plan is run by its id, without plan_only")
        return MoveGoal(plan_id=request.plan_id)
    if request.goal_type != MoveCArm.Goal.GOAL_VIEW:
        raise GoalError(f"goal_type is {request.goal_type}; it must be 0 (joints), 1 (view), 2 (name) or 3 (plan)")
    point = request.isocenter
    if not request.keep_isocenter:
        numbers("isocenter", (point.x, point.y, point.z), -_FURTHEST_M, _FURTHEST_M, "m", count=3)
    if not request.keep_angles:
        numbers("angles", (request.primary_angle, request.secondary_angle), -_TURN_RAD, _TURN_RAD, "rad", count=2)
    return MoveGoal(
        is_view=True,
        isocenter_m=None if request.keep_isocenter else (point.x, point.y, point.z),
        angles_rad=None if request.keep_angles else (request.primary_angle, request.secondary_angle),
        velocity_scaling=scaling,
        plan_only=request.plan_only,
    )


def planned_motion(plan: Plan, stamp: Time) -> PlannedMotion:
    """Return the message about a plan that is about to run.

    Args:
        plan: The plan.
        stamp: Time of the announcement.
    """
    message = PlannedMotion(duration_s=plan.duration_s, warning=plan.warning, min_clearance=_clearance_m(plan))
    message.header.stamp = stamp
    message.trajectory = trajectory_message(plan.trajectory)
    return message


def _clearance_m(plan: Plan) -> float:
    return math.nan if plan.check is None else float(plan.check.closest.distance_m)


def move_result(result: MoveResult, carm: CArm | None = None) -> Any:
    """Return the result message of a move; the final view is there when ``carm`` is given."""
    message = MoveCArm.Result(error_code=int(result.error_code), error_msg=result.error_msg)
    message.plan_id, message.min_clearance = result.plan_id, math.nan
    if result.preview is not None:
        message.clearances = result.preview.clearances_m.tolist()
        message.preview_png = array.array("B", result.preview.png)
    if result.plan is not None:
        message.warning = result.plan.warning
        message.min_clearance = _clearance_m(result.plan)
        if carm is not None:
            message.final_primary_angle, message.final_secondary_angle = carm.angles(result.plan.goal)
            point = message.final_isocenter
            point.x, point.y, point.z = (float(value) for value in carm.isocenter(result.plan.goal))
        message.trajectory = trajectory_message(result.plan.trajectory)
        message.duration_s = result.plan.duration_s
        message.final_positions = result.plan.goal.tolist()
    return message
