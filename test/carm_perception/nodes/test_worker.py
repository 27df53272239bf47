# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_perception.nodes.worker import LocalizationService, Outcome

PATIENCE_S = 10.0


class Gate(Localizer):
    """Answers only when it is let through; notes whom it was asked by and about what."""

    name = "gate"

    def __init__(self) -> None:
        self.through = threading.Semaphore(0)
        self.begun = threading.Semaphore(0)
        self.seen: list[tuple[float, Query]] = []
        self.threads: set[int] = set()
        self.reply: dict[str, object] = {}
        self.broken_off = threading.Event()

    def cancel(self) -> None:
        self.broken_off.set()

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        self.threads.add(threading.get_ident())
        self.seen.append((frame.stamp_s, query))
        self.begun.release()
        assert self.through.acquire(timeout=PATIENCE_S)
        return Localization("gate", "", query, "[1,2]", latency_s=0.1, **self.reply)  # type: ignore[arg-type]


def frame(stamp_s: float) -> XrayFrame:
    return XrayFrame(np.zeros((16, 16), np.uint8), 1.0, stamp_s)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def published() -> list[float]:
    return []


@pytest.fixture
def service(gate: Gate, published: list[float]) -> Iterator[LocalizationService]:
    made = LocalizationService(lambda: gate, lambda f, reply: published.append(f.stamp_s), frame_timeout_s=0.2)
    made.start()
    assert made.ready.wait(PATIENCE_S)
    yield made
    gate.through.release(100)
    made.close()


def begun(gate: Gate) -> None:
    assert gate.begun.acquire(timeout=PATIENCE_S)


def test_newest_frame_wins(service: LocalizationService, gate: Gate) -> None:
    service.submit(frame(1))
    begun(gate)
    for stamp in (2, 3, 4):
        service.submit(frame(stamp))
    gate.through.release()
    begun(gate)
    assert [stamp for stamp, _ in gate.seen] == [1, 4]
    assert service.statistics.skipped == 2
    assert gate.threads
    assert threading.get_ident() not in gate.threads


def test_question_uses_the_newest_frame_or_the_one_with_its_stamp(service: LocalizationService, gate: Gate) -> None:
    gate.through.release(100)
    for stamp in (1, 2, 3):
        service.submit(frame(stamp))
    newest = service.ask(Query(Protocol.POINTING, 11))
    assert newest.done.wait(PATIENCE_S)
    assert (newest.outcome, newest.frame.stamp_s) == (Outcome.ANSWERED, 3)  # type: ignore[union-attr]
    second = service.ask(Query(Protocol.POINTING, 11), 2)
    assert second.done.wait(PATIENCE_S)
    assert second.frame.stamp_s == 2  # type: ignore[union-attr]


def test_question_waits_for_its_frame_then_gives_up(service: LocalizationService, gate: Gate) -> None:
    gate.through.release(100)
    missing = service.ask(Query(), 5.0)
    assert missing.done.wait(PATIENCE_S)
    assert missing.outcome is Outcome.NO_FRAME
    late = service.ask(Query(Protocol.POINTING, 1), 6.0)
    service.submit(frame(6.0))
    assert late.done.wait(PATIENCE_S)
    assert late.outcome is Outcome.ANSWERED


def test_newer_question_supersedes_one_that_waits(service: LocalizationService, gate: Gate) -> None:
    service.submit(frame(1))
    begun(gate)
    first, second = service.ask(Query(Protocol.POINTING, 1)), service.ask(Query(Protocol.POINTING, 2))
    assert first.done.wait(PATIENCE_S)
    assert first.outcome is Outcome.SUPERSEDED
    gate.through.release(100)
    assert second.done.wait(PATIENCE_S)
    assert second.outcome is Outcome.ANSWERED


def test_questions_about_one_frame_wait_together_and_are_answered_as_a_batch(
    service: LocalizationService, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[list[Query]] = []

    def batch(frame: XrayFrame, queries: Sequence[Query]) -> list[Localization]:
        batches.append(list(queries))
        return [gate.localize(frame, query) for query in queries]

    service.submit(frame(1))
    begun(gate)
    monkeypatch.setattr(gate, "localize_batch", batch)
    one, two, three = (Query(Protocol.POINTING, target) for target in (1, 2, 3))
    tickets = [service.ask(query, 1.0) for query in (one, two, one, three)]
    service.cancel(tickets[3])
    gate.through.release(100)
    assert all(ticket.done.wait(PATIENCE_S) for ticket in tickets)
    assert [ticket.outcome for ticket in tickets] == [Outcome.ANSWERED] * 3 + [Outcome.CANCELED]
    assert batches == [[one, two]]
    assert [ticket.reply.query for ticket in tickets[:3]] == [one, two, one]  # type: ignore[union-attr]


def test_question_about_another_frame_supersedes_those_that_wait(service: LocalizationService, gate: Gate) -> None:
    service.submit(frame(1))
    begun(gate)
    service.submit(frame(2))
    early = [service.ask(Query(Protocol.POINTING, target), 1.0) for target in (1, 2)]
    late = service.ask(Query(Protocol.POINTING, 1), 2.0)
    assert all(ticket.done.wait(PATIENCE_S) for ticket in early)
    assert {ticket.outcome for ticket in early} == {Outcome.SUPERSEDED}
    gate.through.release(100)
    assert late.done.wait(PATIENCE_S)
    assert late.outcome is Outcome.ANSWERED


def test_running_question_is_broken_off_where_the_localizer_can(service: LocalizationService, gate: Gate) -> None:
    gate.reply = {"error": "internal", "message": "canceled"}
    service.submit(frame(1))
    begun(gate)
    ticket, other = (service.ask(Query(Protocol.POINTING, target), 1.0) for target in (1, 2))
    gate.through.release()
    begun(gate)
    service.cancel(ticket)
    assert not gate.broken_off.is_set()
    service.cancel(other)
    assert gate.broken_off.is_set()
    gate.through.release()
    begun(gate)
    gate.reply = {}
    gate.through.release(100)
    again = service.ask(Query(Protocol.POINTING, 1), 1.0)
    assert again.done.wait(PATIENCE_S)
    assert again.outcome is Outcome.ANSWERED


def test_canceled_question_ends_at_once_and_its_answer_is_dropped(
    service: LocalizationService, gate: Gate, published: list[float]
) -> None:
    service.submit(frame(1))
    begun(gate)
    gate.through.release()
    ticket = service.ask(Query(Protocol.POINTING, 1))
    begun(gate)
    service.cancel(ticket)
    assert ticket.done.is_set()
    assert ticket.outcome is Outcome.CANCELED
    gate.through.release(100)
    service.submit(frame(2))
    begun(gate)
    assert published.count(1) == 1


def test_same_question_about_the_same_frame_is_answered_once(service: LocalizationService, gate: Gate) -> None:
    gate.through.release(100)
    service.submit(frame(1))
    begun(gate)
    ticket = service.ask(Query(Protocol.LOCALIZATION))
    assert ticket.done.wait(PATIENCE_S)
    assert len(gate.seen) == 1


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        ({"error": "malformed", "message": "no list"}, Outcome.MALFORMED),
        ({"error": "internal", "message": "broken"}, Outcome.INTERNAL),
        ({"abstained": True, "message": "not sure"}, Outcome.ABSTAINED),
    ],
)
def test_failures_keep_their_kind(
    service: LocalizationService, gate: Gate, reply: dict[str, object], outcome: Outcome
) -> None:
    gate.reply = reply
    gate.through.release(100)
    service.submit(frame(1))
    ticket = service.ask(Query(Protocol.POINTING, 1))
    assert ticket.done.wait(PATIENCE_S)
    assert (ticket.outcome, ticket.message) == (outcome, reply["message"])


@pytest.mark.parametrize("error", [ValueError("odd\npicture"), RecursionError("too deep"), ZeroDivisionError()])
def test_a_localizer_that_fails_at_one_image_answers_about_the_next(
    service: LocalizationService, gate: Gate, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(frame: XrayFrame, query: Query) -> Localization:
        raise error

    gate.through.release(100)
    with monkeypatch.context() as patch:
        patch.setattr(gate, "localize", fail)
        service.submit(frame(1))
        ticket = service.ask(Query(Protocol.POINTING, 1), 1)
        assert ticket.done.wait(PATIENCE_S)
    assert ticket.outcome is Outcome.INTERNAL
    assert ticket.message.startswith(type(error).__name__)
    assert "\n" not in ticket.message
    assert service.statistics.problem == ticket.message
    service.submit(frame(2))
    ticket = service.ask(Query(Protocol.POINTING, 1), 2)
    assert ticket.done.wait(PATIENCE_S)
    assert ticket.outcome is Outcome.ANSWERED
    assert service.failure is None


def test_an_answer_that_cannot_be_published_does_not_end_the_worker(gate: Gate) -> None:
    def publish(frame: XrayFrame, reply: Localization) -> None:
        raise KeyError(99)

    gate.through.release(100)
    service = LocalizationService(lambda: gate, publish)
    service.start()
    for stamp in (1, 2):
        service.submit(frame(stamp))
        ticket = service.ask(Query(Protocol.POINTING, 1), stamp)
        assert ticket.done.wait(PATIENCE_S)
        assert ticket.outcome is Outcome.ANSWERED
    service.close()


def test_localizer_that_cannot_be_made_is_told_to_the_owner() -> None:
    def make() -> Localizer:
        raise ValueError("no weights")

    service = LocalizationService(make, lambda f, reply: None)
    ticket = service.ask(Query())
    service.start()
    assert ticket.done.wait(PATIENCE_S)
    assert ticket.outcome is Outcome.INTERNAL
    assert str(service.failure) == "no weights"


def test_command_needs_no_frame_and_takes_no_questions_place(
    service: LocalizationService, gate: Gate, published: list[float]
) -> None:
    waiting = service.ask(Query(Protocol.POINTING, 11), 5.0)
    earlier = service.ask(Query(Protocol.COMMAND, hint="up"))
    begun(gate)
    command = service.ask(Query(Protocol.COMMAND, hint="left"))
    newest = service.ask(Query(Protocol.COMMAND, hint="right"))
    gate.through.release(100)
    for ticket in (earlier, newest, command):
        assert ticket.done.wait(PATIENCE_S)
    assert (earlier.outcome, command.outcome, newest.outcome) == (
        Outcome.ANSWERED,
        Outcome.SUPERSEDED,
        Outcome.ANSWERED,
    )
    assert waiting.outcome in (None, Outcome.NO_FRAME)
    assert published == []
    assert service.statistics.problem == ""
