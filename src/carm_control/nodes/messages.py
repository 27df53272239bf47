# SPDX-License-Identifier: Apache-2.0
"""Between ROS messages and the types of ``carm_control``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from builtin_interfaces.msg import Time
from carm_interfaces.msg import CArmState
from control_msgs.action import FollowJointTrajectory
from control_msgs.msg import JointTolerance as JointToleranceMessage
from control_msgs.msg import JointTrajectoryControllerState
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import Point, TransformStamped
from sensor_msgs.msg import JointState
from tf2_msgs.msg import TFMessage
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from carm_control import (
    MAX_POINTS,
    Acceptance,
    ErrorCode,
    GoalOutcome,
    GoalRefusedError,
    JointLimits,
    JointTolerance,
    Snapshot,
    TrajectoryGoal,
    TrajectoryPoint,
)
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import LinkPose
from carm_ros.messages import diagnostics, duration_message, seconds


def trajectory_goal(message: JointTrajectory) -> TrajectoryGoal:
    """Read a trajectory; only its length is judged here, before anything is made of it.

    Raises:
        GoalRefusedError: It has too many points.
    """
    if len(message.points) > MAX_POINTS:
        reason = f"the trajectory has {len(message.points)} points; at most {MAX_POINTS} are accepted"
        raise GoalRefusedError(ErrorCode.INVALID_GOAL, reason)
    points = tuple(
        TrajectoryPoint(
            seconds(p.time_from_start),
            tuple(p.positions),
            tuple(p.velocities),
            tuple(p.accelerations),
            tuple(p.effort),
        )
        for p in message.points
    )
    return TrajectoryGoal(tuple(message.joint_names), points, seconds(message.header.stamp))


def action_goal(message: FollowJointTrajectory.Goal) -> TrajectoryGoal:
    """Read the goal of an action; only its length is judged here.

    Raises:
        GoalRefusedError: It is too long, or asks for planar or floating joints, which the C-arm has not.
    """
    multi = message.multi_dof_trajectory
    if multi.joint_names or multi.points or message.component_path_tolerance or message.component_goal_tolerance:
        raise GoalRefusedError(ErrorCode.INVALID_JOINTS, "the C-arm has no joints with several degrees of freedom")
    goal = trajectory_goal(message.trajectory)
    return TrajectoryGoal(
        goal.joint_names,
        goal.points,
        goal.stamp_s,
        _tolerances(message.path_tolerance),
        _tolerances(message.goal_tolerance),
        seconds(message.goal_time_tolerance),
    )


def _tolerances(messages: Iterable[JointToleranceMessage]) -> tuple[JointTolerance, ...]:
    return tuple(JointTolerance(m.name, m.position, m.velocity, m.acceleration) for m in messages)


def action_result(end: Acceptance | GoalOutcome) -> FollowJointTrajectory.Result:
    """Build the result of a goal, or the reason for its refusal."""
    return FollowJointTrajectory.Result(error_code=int(end.code), error_string=end.message)


def action_feedback(names: Sequence[str], snapshot: Snapshot, stamp: Time) -> FollowJointTrajectory.Feedback:
    """Build the feedback: desired positions, actual positions, and their difference (desired minus actual)."""
    message = FollowJointTrajectory.Feedback(joint_names=list(names))
    message.header.stamp = stamp
    message.desired, message.actual, message.error = _points(snapshot)
    return message


def controller_state(names: Sequence[str], snapshot: Snapshot, stamp: Time) -> JointTrajectoryControllerState:
    """Build the controller state: desired, actual, difference and command."""
    message = JointTrajectoryControllerState(joint_names=list(names), speed_scaling_factor=snapshot.speed_scaling)
    message.header.stamp = stamp
    message.reference, message.feedback, message.error = _points(snapshot)
    message.output = JointTrajectoryPoint(positions=message.reference.positions)
    return message


def _points(snapshot: Snapshot) -> tuple[JointTrajectoryPoint, JointTrajectoryPoint, JointTrajectoryPoint]:
    """Return the desired state, measured state, and desired minus measured."""
    desired, measured = snapshot.desired, snapshot.measured
    return (
        JointTrajectoryPoint(
            positions=desired.position.tolist(),
            velocities=desired.velocity.tolist(),
            accelerations=desired.acceleration.tolist(),
            time_from_start=duration_message(snapshot.trajectory_s),
        ),
        JointTrajectoryPoint(
            positions=measured.position.tolist(),
            velocities=measured.velocity.tolist(),
            time_from_start=duration_message(snapshot.elapsed_s),
        ),
        JointTrajectoryPoint(
            positions=(desired.position - measured.position).tolist(),
            velocities=(desired.velocity - measured.velocity).tolist(),
        ),
    )


def joint_state(names: Sequence[str], snapshot: Snapshot, stamp: Time) -> JointState:
    """Build the joint state from the encoders."""
    measured = snapshot.measured
    message = JointState(name=list(names), position=measured.position.tolist(), velocity=measured.velocity.tolist())
    message.header.stamp = stamp
    return message


def operating_state(
    carm: CArm,
    limits: JointLimits,
    snapshot: Snapshot,
    stamp: Time,
    clearance_m: float = math.nan,
    frame_prefix: str = "",
) -> CArmState:
    """Build the operating state: state of the arm, isocenter, and the clearance from the supervisor, m."""
    position = snapshot.measured.position
    primary, secondary = carm.angles(position)
    x, y, z = (float(value) for value in carm.isocenter(position))
    message = CArmState(
        state=int(snapshot.state),
        message=snapshot.message,
        primary_angle=primary,
        secondary_angle=secondary,
        isocenter=Point(x=x, y=y, z=z),
        clearance=clearance_m,
        limits_hit=list(limits.reached(position)),
    )
    message.header.stamp = stamp
    message.header.frame_id = f"{frame_prefix}table"
    return message


def transforms(poses: Iterable[LinkPose], stamp: Time) -> TFMessage:
    """Report poses of links."""
    message = TFMessage()
    for pose in poses:
        transform = TransformStamped(child_frame_id=pose.child)
        transform.header.stamp = stamp
        transform.header.frame_id = pose.parent
        to, turn = transform.transform.translation, transform.transform.rotation
        to.x, to.y, to.z = (float(value) for value in pose.translation_m)
        turn.x, turn.y, turn.z, turn.w = (float(value) for value in pose.quaternion)
        message.transforms.append(transform)
    return message


def health(name: str, problem: str, values: Mapping[str, str], stamp: Time) -> DiagnosticArray:
    """Report the health of a component: a warning with its problem, or ``"ok"`` where that is empty."""
    level = DiagnosticStatus.WARN if problem else DiagnosticStatus.OK
    return diagnostics(stamp, name, level, problem or "ok", values)
