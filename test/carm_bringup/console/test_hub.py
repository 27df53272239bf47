# SPDX-License-Identifier: Apache-2.0
"""Who is connected, who controls, what is sent; without a network."""

import asyncio
import json
import math
from typing import Any

import pytest

from carm_bringup.console.archive import Archive, Picture, media_type
from carm_bringup.console.commands import Command, MessageError, read_command
from carm_bringup.console.gate import Gate, Rate
from carm_bringup.console.hub import HAND_OVER_S, MOST_CLIENTS, SILENT_S, Client, Hub, Outbox
from carm_bringup.console.server import listen
from carm_core.errors import CarmError, ConfigurationError

STOP = '{"type":"stop"}'
LOOP = asyncio.new_event_loop()


class Desk:
    """Notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    def stop(self, who: str) -> None:
        self.asked.append(("stop", who))

    def command(self, command: Command, number: int, who: str) -> None:
        self.asked.append((command.kind, number))

    def left(self, number: int, why: str) -> None:
        self.asked.append(("left", number))


class Time:
    """A clock that is set."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def hub(desk: Desk, time: Time) -> Hub:
    return Hub(desk, dict, time)


def joined(hub: Hub) -> Client:
    client = hub.join("127.0.0.1")
    assert client is not None
    return client


def waiting(outbox: Outbox) -> list[dict[str, Any]]:
    """Take everything that is to be sent now."""

    async def take() -> list[dict[str, Any]]:
        found = []
        while True:
            try:
                text = await asyncio.wait_for(outbox.next(), 0.01)
            except TimeoutError:
                return found
            found.append(json.loads(text or '{"type": "given up"}'))
            if text is None:
                return found

    return LOOP.run_until_complete(take())


def control(client: Client) -> dict[str, Any]:
    return [message for message in waiting(client.outbox) if message["type"] == "control"][-1]


def send(hub: Hub, client: Client, kind: str, **fields: Any) -> bool:
    return hub.receive(client, json.dumps({"type": kind, **fields}))


def test_the_first_page_controls_and_the_others_watch(hub: Hub, desk: Desk) -> None:
    first, second = joined(hub), joined(hub)
    send(hub, first, "expose")
    send(hub, second, "navigate", text="carina")
    assert desk.asked == [("expose", first.number)]
    heard = waiting(second.outbox)
    assert any("watching" in message.get("text", "") for message in heard)
    assert {"asked"} <= {message["type"] for message in heard}  # who exposed is shown to those who watch


def test_who_watches_may_stop(hub: Hub, desk: Desk) -> None:
    joined(hub)
    second = joined(hub)
    hub.receive(second, STOP)
    assert desk.asked == [("stop", second.who)]


def test_a_stop_of_a_page_that_sends_too_much_is_heard_before_it_is_cut_off(hub: Hub, desk: Desk) -> None:
    client = joined(hub)
    while send(hub, client, "ack"):
        pass
    assert not hub.receive(client, STOP)
    assert desk.asked == [("stop", client.who)]


def test_repeated_stops_are_all_obeyed_and_shown_once(hub: Hub, desk: Desk) -> None:
    client = joined(hub)
    for _ in range(5):
        hub.receive(client, STOP)
    hub.receive(client, '{ "type" : "stop" }')
    assert len(desk.asked) == 6
    assert [message["text"] for message in waiting(client.outbox) if message["type"] == "asked"] == ["stop"]


def test_control_is_handed_over_and_what_the_first_had_begun_ends(hub: Hub, desk: Desk) -> None:
    first, second = joined(hub), joined(hub)
    send(hub, second, "take")
    assert control(first)["asker"] == second.who
    send(hub, first, "give")
    assert desk.asked == [("left", first.number)]
    assert not control(first)["you"]
    assert control(second)["you"]


def test_control_can_be_kept(hub: Hub, desk: Desk, time: Time) -> None:
    first, second = joined(hub), joined(hub)
    send(hub, second, "take")
    send(hub, first, "keep")
    time.now_s += HAND_OVER_S + 1
    send(hub, first, "ack")
    hub.set_state({})
    assert control(first)["you"]
    assert desk.asked == []


def test_who_does_not_answer_a_request_for_control_hands_over(hub: Hub, desk: Desk, time: Time) -> None:
    first, second = joined(hub), joined(hub)
    send(hub, second, "take")
    time.now_s += HAND_OVER_S + 0.1
    hub.set_state({})
    assert control(second)["you"]
    assert ("left", first.number) in desk.asked


def test_who_leaves_loses_control_and_what_it_has_begun(hub: Hub, desk: Desk) -> None:
    first, second = joined(hub), joined(hub)
    hub.leave(first)
    assert desk.asked == [("left", first.number)]
    assert control(second)["holder"] == ""
    send(hub, second, "take")
    assert control(second)["you"]


def test_who_watches_and_leaves_ends_nothing(hub: Hub, desk: Desk) -> None:
    joined(hub)
    hub.leave(joined(hub))
    assert desk.asked == []


def test_a_page_that_controls_and_falls_silent_ends_its_motion_once(hub: Hub, desk: Desk, time: Time) -> None:
    client = joined(hub)
    time.now_s += SILENT_S + 0.1
    hub.set_state({})
    hub.set_state({})
    assert desk.asked == [("left", client.number)]
    send(hub, client, "ack")
    hub.set_state({})
    assert len(desk.asked) == 1


def test_what_a_silent_page_begins_ends_too(hub: Hub, desk: Desk, time: Time) -> None:
    """Its commands count, so their end must not hang on an acknowledgment that never comes."""
    client = joined(hub)
    for _ in range(2):
        time.now_s += SILENT_S + 0.1
        hub.set_state({})
        send(hub, client, "navigate", text="carina")
    time.now_s += SILENT_S + 0.1
    hub.set_state({})
    left, asked = ("left", client.number), ("navigate", client.number)
    assert desk.asked == [left, asked, left, asked, left]


def test_a_page_that_may_not_be_here_any_more_can_stop_and_nothing_else(hub: Hub, desk: Desk) -> None:
    client = joined(hub)
    for message in ('{"type":"expose"}', '{"type":"ack"}', STOP):
        assert not hub.receive(client, message, lambda: False)
    assert desk.asked == [("stop", client.who)]


def test_a_page_that_comes_later_is_told_the_dialogue(hub: Hub) -> None:
    hub.tell({"type": "said", "text": "Taking an X-ray image."})
    hub.tell({"type": "landmarks", "image": "1", "marks": []})
    hub.tell({"type": "stop", "ok": True, "text": ""})
    assert [m["type"] for m in waiting(joined(hub).outbox)] == ["hello", "said", "landmarks", "control"]


def test_there_is_an_end_to_the_number_of_pages(hub: Hub) -> None:
    for _ in range(MOST_CLIENTS):
        joined(hub)
        assert hub.watch_images() is not None
    assert hub.join("127.0.0.1") is None
    assert hub.watch_images() is None


def test_of_states_and_images_only_the_newest_waits() -> None:
    outbox = Outbox()
    for number in range(100):
        outbox.replace(json.dumps({"type": "state", "n": number}))
    outbox.put('{"type":"said"}')
    assert waiting(outbox) == [{"type": "said"}, {"type": "state", "n": 99}]


def test_a_page_that_takes_no_messages_is_given_up() -> None:
    outbox = Outbox()
    for _ in range(10_000):
        outbox.put('{"type":"said"}')
    assert waiting(outbox) == [{"type": "given up"}]


@pytest.mark.parametrize(
    ("message", "command"),
    [
        ({"type": "say", "text": " two\n cm to  the left "}, Command("say", "two cm to the left")),
        ({"type": "navigate", "text": "carina"}, Command("navigate", "carina")),
        ({"type": "point", "image": "7", "pixel": [1, 2.5]}, Command("point", image="7", pixel=(1.0, 2.5))),
    ],
)
def test_messages_become_commands(message: dict[str, Any], command: Command) -> None:
    read = read_command(json.dumps(message))
    assert (read.kind, read.text, read.image) == (command.kind, command.text, command.image)
    assert read.pixel == command.pixel or all(map(math.isnan, read.pixel))


@pytest.mark.parametrize(
    "message",
    [
        *("", "[]", "7", "null", "{", '{"type":"sudo"}', '{"type":["stop"]}', '{"type":"say"}', "[" * 3000),
        *('{"type":"say","text":""}', '{"type":"say","text":7}', '{"type":"navigate","text":"a\\u0000b"}'),
        json.dumps({"type": "say", "text": "a" * 501}),
        *('{"type":"point","image":"1","pixel":[1]}', '{"type":"point","image":"1","pixel":[1,NaN]}'),
        *('{"type":"point","image":"1","pixel":[1,9e9]}', '{"type":"point","image":"1","pixel":[true,1]}'),
    ],
)
def test_what_the_page_does_not_send_is_refused_in_one_line(message: str) -> None:
    with pytest.raises(CarmError) as refused:
        read_command(message)
    assert "\n" not in str(refused.value)


def test_a_refused_message_is_told_and_the_page_stays(hub: Hub, desk: Desk) -> None:
    client = joined(hub)
    assert hub.receive(client, '{"type":"sudo"}')
    assert "unknown message type" in waiting(client.outbox)[-1]["text"]
    assert not hub.receive(client, " " * 5000)
    assert desk.asked == []
    with pytest.raises(MessageError):
        read_command('{"type":"sudo"}')


def headers(gate: Gate, **other: str) -> dict[str, str]:
    return {"host": "127.0.0.1:8090", "origin": "http://127.0.0.1:8090", **other}


def test_the_gate_wants_cookie_host_and_origin() -> None:
    gate = Gate("127.0.0.1", 8090)
    cookies = {gate.cookie: gate.session}
    assert gate.admits_socket(headers(gate), cookies)
    assert not gate.admits_socket(headers(gate), {})
    assert not gate.admits_socket(headers(gate), {gate.cookie: gate.session[:-1]})
    assert not gate.admits_socket(headers(gate, origin="http://127.0.0.1:8091"), cookies)
    assert not gate.admits_socket({"host": "127.0.0.1:8090"}, cookies)
    rebound = headers(gate, host="evil.example:8090", origin="http://evil.example:8090")
    assert not gate.admits_socket(rebound, cookies)
    assert not gate.admits(rebound, cookies)


def test_wrong_tokens_are_told_and_keep_nobody_out_who_has_the_right_one(time: Time) -> None:
    gate = Gate("127.0.0.1", 8090, time)
    right = gate.address.partition("token=")[2]
    assert gate.knows_token(right)
    for _ in range(20):
        assert not gate.knows_token("guess")
    assert gate.closed
    assert gate.knows_token(right)
    time.now_s += 61
    assert not gate.closed


def test_tokens_differ() -> None:
    assert Gate("127.0.0.1", 1).address != Gate("127.0.0.1", 1).address


def test_a_rate_admits_so_many_in_a_period(time: Time) -> None:
    rate = Rate(2, 1.0, time)
    assert [rate.admits() for _ in range(3)] == [True, True, False]
    time.now_s += 1.0
    assert rate.admits()


def test_a_port_in_use_is_told_and_without_a_wish_another_is_taken() -> None:
    with listen("127.0.0.1", 0) as one, listen("127.0.0.1", 0) as other:
        port = one.getsockname()[1]
        assert other.getsockname()[1] != port
        with pytest.raises(ConfigurationError, match="in use"):
            listen("127.0.0.1", port)


def test_the_archive_is_bounded_in_number_and_bytes() -> None:
    archive = Archive(3, 100)
    for number in range(5):
        archive.add(Picture(str(number), "image/png", b"x" * 30))
    assert [picture.key for picture in archive.all()] == ["2", "3", "4"]
    archive.add(Picture("large", "image/png", b"x" * 200))
    assert [picture.key for picture in archive.all()] == ["large"]
    assert archive.get("4") is None


def test_only_pictures_are_pictures() -> None:
    assert media_type(b"\x89PNG\r\n\x1a\n...") == "image/png"
    assert media_type(b"\xff\xd8\xff\xe0") == "image/jpeg"
    assert media_type(b"<svg onload=alert(1)>") == ""
