# SPDX-License-Identifier: Apache-2.0
"""Send a message from one DDS participant to another and time it."""

from __future__ import annotations

import os
import time

TIMEOUT_S = 10.0


def round_trip() -> float:
    """Return the time from the start of discovery until a message and its answer have arrived, s.

    Raises:
        SystemExit: Nothing arrived in time.
    """
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from std_msgs.msg import String

    contexts = [Context(), Context()]
    for context in contexts:
        rclpy.init(context=context)
    nodes = [rclpy.create_node(f"doctor_{n}_{os.getpid()}", context=c) for n, c in zip("ab", contexts, strict=True)]
    executors = [SingleThreadedExecutor(context=context) for context in contexts]
    for executor, node in zip(executors, nodes, strict=True):
        executor.add_node(node)
    name = f"doctor_{os.getpid()}"
    answers: list[str] = []
    ask = nodes[0].create_publisher(String, f"{name}/ask", 1)
    answer = nodes[1].create_publisher(String, f"{name}/answer", 1)
    nodes[1].create_subscription(String, f"{name}/ask", answer.publish, 1)
    nodes[0].create_subscription(String, f"{name}/answer", lambda message: answers.append(message.data), 1)
    start = time.monotonic()
    try:
        while not answers:
            if time.monotonic() - start > TIMEOUT_S:
                raise SystemExit(f"no message came back within {TIMEOUT_S:g} s")
            ask.publish(String(data="ask"))
            for executor in executors:
                executor.spin_once(timeout_sec=0.01)
        return time.monotonic() - start
    finally:
        for context in contexts:
            context.try_shutdown()


def main() -> None:
    """Print how the round trip went."""
    seconds = round_trip()
    domain = os.environ.get("ROS_DOMAIN_ID", "0")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET")
    middleware = os.environ.get("RMW_IMPLEMENTATION", "default middleware")
    print(f"message there and back in {1000 * seconds:.0f} ms ({middleware}, domain {domain}, {reach})")


if __name__ == "__main__":
    main()
