# SPDX-License-Identifier: Apache-2.0
"""A node for tests: ``python stubborn.py WHAT`` does not end by itself, or not in order.

WHAT is goal, close, callback, fail, thread or late_thread.
"""

import sys
import threading
import time

from carm_interfaces.action import Localize
from rclpy.task import Future
from std_srvs.srv import Trigger

from carm_core.errors import CarmError
from carm_ros.entry import leave
from carm_ros.node import OrderlyNode, run_node

WHAT = sys.argv.pop(1)


class Stubborn(OrderlyNode):
    def __init__(self) -> None:
        super().__init__("stubborn")
        self.given_up: list[Future] = []
        self.serve_action(Localize, "localize", self.execute)
        self.create_service(Trigger, "hang", self.hang)
        self.create_timer(0.05, self.tick)

    def started(self) -> None:
        if WHAT in ("thread", "late_thread"):
            threading.Thread(target=self.work, daemon=True).start()

    async def execute(self, handle):
        given_up = Future(executor=self.executor)
        self.given_up.append(given_up)
        await given_up
        handle.abort()
        return Localize.Result(error_code=Localize.Result.ERROR_INTERNAL, error_msg="given up")

    def give_up(self) -> None:
        for future in self.given_up:
            self.executor.create_task(future.set_result, None)

    def hang(self, _, response):
        print("hanging", flush=True)
        threading.Event().wait()
        return response

    def tick(self) -> None:
        if WHAT == "fail":
            raise CarmError("the tick failed")

    def work(self) -> None:
        if WHAT == "late_thread":
            print("working", flush=True)
            self.ending.wait()
        raise CarmError("the thread failed")

    def close(self) -> None:
        if WHAT == "close":
            time.sleep(60)


if __name__ == "__main__":
    leave(run_node("stubborn", Stubborn, threads=4))
