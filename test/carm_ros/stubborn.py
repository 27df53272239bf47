# SPDX-License-Identifier: Apache-2.0
"""A node for tests: ``python stubborn.py goal|close|callback|fail`` says what does not end by itself."""

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

    def close(self) -> None:
        if WHAT == "close":
            time.sleep(60)


if __name__ == "__main__":
    leave(run_node("stubborn", Stubborn, threads=4))
