# SPDX-License-Identifier: Apache-2.0
"""What the state node says to a controller that is not ours."""

import time

import pytest
import rclpy
from carm_interfaces.msg import CArmState, MotionPermit
from control_msgs.msg import SpeedScalingFactor
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile

from carm_control.nodes.permits import NEWEST, PERMIT
from carm_control.nodes.state_node import StateNode

pytestmark = pytest.mark.integration
PATIENCE_S = 20.0


def test_the_permitted_speed_reaches_a_controller_that_hears_latched_publishers_only(ros_domain: int) -> None:
    context = rclpy.Context()
    context.init()
    bench = rclpy.create_node("bench", namespace="carm", context=context)
    node = StateNode(context=context, parameter_overrides=[Parameter("supervised", value=True)])
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(bench)
    executor.add_node(node)
    factors: list[SpeedScalingFactor] = []
    states: list[CArmState] = []
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)  # as joint_trajectory_controller
    topic = "joint_trajectory_controller/speed_scaling_input"
    bench.create_subscription(SpeedScalingFactor, topic, factors.append, latched)
    bench.create_subscription(CArmState, "state", states.append, latched)
    permits = bench.create_publisher(MotionPermit, PERMIT, NEWEST)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (factors and states):
            assert time.monotonic() < deadline, "no factor or no state arrived"
            permits.publish(MotionPermit(speed=0.5, reason="the patient is near"))
            executor.spin_once(timeout_sec=0.05)
        assert factors[-1].factor == 0.5
        assert states[-1].state == CArmState.STATE_STARTING
    finally:
        executor.shutdown()
        node.destroy_node()
        bench.destroy_node()
        context.shutdown()
