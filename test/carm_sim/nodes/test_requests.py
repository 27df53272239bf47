# SPDX-License-Identifier: Apache-2.0
"""Waiting requests: served in turn, refused all at once or when they are too old, and each answered."""

import threading
import time

import pytest

from carm_core.plausibility import ImplausibleError
from carm_sim.nodes.requests import MOST_WAITING, REFUSED_AT_ONCE, RequestQueue, WaitingRequest
from carm_sim.xray import Request

LIMIT_S = 2.0


class Desk:
    def __init__(self) -> None:
        self.answers: list[tuple[WaitingRequest, Exception]] = []
        self.queue = RequestQueue(LIMIT_S, lambda request, reason: self.answers.append((request, reason)))

    def ask(self, ago_s: float = 0.0) -> WaitingRequest:
        request = WaitingRequest(Request(), time.monotonic() - ago_s)
        self.queue.add(request)
        return request


def test_first_come_first_served_and_only_where_it_is_allowed() -> None:
    desk = Desk()
    first, second = desk.ask(), desk.ask()
    assert desk.queue.take(0.0, lambda: False) is None
    assert desk.queue.take(0.0, lambda: True) is first
    assert desk.queue.take(0.0, lambda: True) is second
    assert desk.queue.take(0.0, lambda: True) is None


def test_who_waits_for_a_request_is_woken() -> None:
    desk = Desk()
    timer = threading.Timer(0.05, desk.ask)
    timer.start()
    assert desk.queue.take(10.0, lambda: True) is not None
    timer.join()


def test_a_stop_refuses_all_and_each_is_answered_a_few_at_a_time() -> None:
    desk = Desk()
    asked = [desk.ask() for _ in range(30)]
    reason = RuntimeError("stop is latched")
    desk.queue.refuse(reason)
    assert len(desk.queue) == 0
    assert len(desk.answers) == REFUSED_AT_ONCE
    while len(desk.answers) < 30:
        before = len(desk.answers)
        desk.queue.refuse_overdue(lambda asked_s: reason)
        assert before < len(desk.answers) <= before + REFUSED_AT_ONCE
    assert [request for request, _ in desk.answers] == asked
    assert {told for _, told in desk.answers} == {reason}


def test_what_waited_too_long_is_refused_and_the_rest_stays() -> None:
    desk = Desk()
    old, fresh = desk.ask(ago_s=LIMIT_S + 0.1), desk.ask()
    desk.queue.refuse_overdue(lambda asked_s: ValueError(f"{time.monotonic() - asked_s:.0f} s"))
    assert [request for request, _ in desk.answers] == [old]
    assert str(desk.answers[0][1]) == "2 s"
    assert desk.queue.take(0.0, lambda: True) is fresh


def test_the_queue_is_bounded() -> None:
    desk = Desk()
    for _ in range(MOST_WAITING):
        desk.ask()
    with pytest.raises(ImplausibleError, match="queue of requests"):
        desk.ask()
