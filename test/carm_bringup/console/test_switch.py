# SPDX-License-Identifier: Apache-2.0
"""The switch of fluoroscopy, held by a page; and what pages may send about beam, field and saved positions."""

import json
from typing import Any

import pytest

from carm_bringup.console.commands import Command, MessageError, read_command
from carm_bringup.console.hub import Client, Hub
from carm_bringup.console.switch import HOLD_S, Switch, SwitchError


class Time:
    now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def switch(time: Time) -> Switch:
    return Switch(time)


def test_it_is_held_as_long_as_its_page_says_so(switch: Switch, time: Time) -> None:
    switch.press(1, "operator 1")
    for _ in range(10):
        time.now_s += 0.4
        switch.hold(1)
        assert (switch.owner, switch.lapsed) == (1, False)
    time.now_s += HOLD_S + 0.01
    assert switch.lapsed
    switch.hold(1)  # too late
    assert switch.lapsed
    switch.release()
    assert (switch.owner, switch.lapsed) == (0, False)


def test_another_page_neither_holds_nor_presses_it(switch: Switch, time: Time) -> None:
    switch.press(1, "operator 1")
    with pytest.raises(SwitchError, match="operator 1 holds"):
        switch.press(2, "operator 2")
    time.now_s += 0.4
    switch.hold(2)
    time.now_s += 0.2
    assert switch.lapsed


def test_who_renews_after_the_end_does_not_press_anew(switch: Switch) -> None:
    switch.press(1, "operator 1")
    switch.release()
    switch.hold(1)
    assert switch.owner == 0


class Desk:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def stop(self, who: str) -> None:
        self.asked.append("stop")

    def command(self, command: Command, number: int, who: str) -> None:
        self.asked.append(command.kind)

    def left(self, number: int, why: str) -> None:
        self.asked.append("left")


def test_only_who_controls_holds_it_and_renewals_are_no_dialogue() -> None:
    desk = Desk()
    hub = Hub(desk, dict)
    first, second = (client for client in (hub.join("127.0.0.1"), hub.join("127.0.0.1")) if client is not None)

    def send(client: Client, kind: str) -> None:
        hub.receive(client, json.dumps({"type": kind}))

    for kind in ("beam", "hold", "release", "moving", "let_go"):
        send(second, kind)
    assert desk.asked == []
    for kind in ("beam", "hold", "hold", "release", "moving", "let_go"):
        send(first, kind)
    assert desk.asked == ["beam", "hold", "hold", "release", "moving", "let_go"]
    late = hub.join("127.0.0.1")
    assert late is not None
    assert [json.loads(text)["type"] for text in late.outbox._events] == ["hello", "control"]
    hub.leave(first)
    assert desk.asked[-1] == "left"


@pytest.mark.parametrize(
    ("message", "command", "line"),
    [
        ({"type": "field", "size": [80, 60.5]}, Command("field", field_mm=(80.0, 60.5)), "collimate to 80 x 60 mm"),
        ({"type": "field", "size": [0, 0]}, Command("field"), "open the whole field"),
        ({"type": "save", "text": " left\tcoronary "}, Command("save", "left coronary"), "save 'left coronary'"),
        ({"type": "forget", "text": "a"}, Command("forget", "a"), "forget 'a'"),
        ({"type": "beam"}, Command("beam"), "beam"),
        ({"type": "moving"}, Command("moving"), "moving"),
        ({"type": "run", "text": "9761d1"}, Command("run", "9761d1"), "run the plan"),
    ],
)
def test_messages_become_commands(message: dict[str, Any], command: Command, line: str) -> None:
    read = read_command(json.dumps(message))
    assert (read.kind, read.text, read.field_mm) == (command.kind, command.text, command.field_mm)
    assert read.line == line


@pytest.mark.parametrize(
    "message",
    [
        *(
            {"type": "field", "size": size}
            for size in ([80], [80, 0], [0, 80], [5, 80], [80, 2000], [True, 80], "a", None)
        ),
        {"type": "save", "text": "a" * 61},
        {"type": "save", "text": " "},
        {"type": "forget"},
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(message: dict[str, Any]) -> None:
    with pytest.raises(MessageError) as refused:
        read_command(json.dumps(message))
    assert "\n" not in str(refused.value)


def test_a_field_that_is_no_number_is_refused() -> None:
    with pytest.raises(MessageError):
        read_command('{"type":"field","size":[NaN,80]}')
