# SPDX-License-Identifier: Apache-2.0
"""Tools for other agents: the list, arguments, budget, one call at a time; and the protocol around them."""

import json
import socket
import threading
from typing import Any

import anyio
import httpx2
import mcp
import pytest
import uvicorn

from carm_agent.llm.tools import TOOLS
from carm_bringup.mcp.desk import Budget, Desk, GraphHands
from carm_bringup.mcp.server import WithToken, _serve_http, make_server
from carm_perception.serving import connections

CARINA = 11


class Hands(GraphHands):
    """Notes calls; a navigation waits until it is let go."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.go = threading.Event()
        self.began = threading.Event()
        self.png = b"\x89PNG"

    def note(self, *call: Any) -> dict[str, Any]:
        self.calls.append(call)
        return {"moved": True}

    def expose(self) -> dict[str, Any]:
        return self.note("expose")

    def localize(self, target_id: int) -> dict[str, Any]:
        self.note("localize", target_id)
        return {"found": False, "reason": "not sure"}

    def move_view(self, dx_mm: float, dy_mm: float) -> dict[str, Any]:
        return self.note("move_view", dx_mm, dy_mm)

    def set_angles(self, primary_deg: float, secondary_deg: float) -> dict[str, Any]:
        return self.note("set_angles", primary_deg, secondary_deg)

    def show_view(self, view: str) -> dict[str, Any]:
        return self.note("show_view", view)

    def navigate(self, target_id: int) -> dict[str, Any]:
        self.note("navigate", target_id)
        self.began.set()
        assert self.go.wait(10.0)
        return {"arrived": True}

    def status(self) -> dict[str, Any]:
        return {"state": "IDLE"}

    def stop(self, reason: str) -> dict[str, Any]:
        self.note("stop", reason)
        return {"stopped": True}

    def interrupt(self) -> None:
        self.note("interrupt")
        self.go.set()

    def resume(self) -> None: ...


def test_the_list_is_closed_and_of_the_language_models_tools() -> None:
    desk = Desk(Hands())
    assert [offer.name for offer in desk.offers] == [
        *("expose", "localize", "move_view", "set_angles", "show_view", "navigate", "status", "stop")
    ]
    for offer in desk.offers:
        assert offer.schema["additionalProperties"] is False
        assert offer.name in (*TOOLS, "navigate", "status")
    assert [offer.name for offer in desk.offers if not offer.moves] == ["localize", "status"]


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        ("reset", {}, "no tool 'reset'"),
        ("ask", {"question": "may I?"}, "no tool 'ask'"),
        ("move_view", {"dx_mm": 500, "dy_mm": 0}, "500"),
        ("move_view", {"dx_mm": 5}, "dy_mm"),
        ("set_angles", {"primary_deg": float("nan"), "secondary_deg": 0}, "NaN"),
        ("navigate", {"target": 99}, "99"),
        ("navigate", {"target": CARINA, "speed": 2}, "speed"),
    ],
)
def test_what_does_not_fit_is_refused_and_does_nothing(name: str, arguments: dict[str, Any], why: str) -> None:
    hands = Hands()
    outcome = Desk(hands).call(name, arguments)
    assert outcome.failed
    assert why in json.loads(outcome.text)["error"]
    assert not hands.calls


def test_calls_are_carried_out_and_failures_told() -> None:
    hands = Hands()
    desk = Desk(hands)
    assert desk.call("expose", {}).png == hands.png
    assert not desk.call("move_view", {"dx_mm": 10, "dy_mm": -5.5}).failed
    assert desk.call("localize", {"target": CARINA}).failed
    assert hands.calls == [("expose",), ("move_view", 10, -5.5), ("localize", CARINA)]


def test_a_stop_and_the_status_do_not_wait_for_a_call_that_runs_and_others_are_refused() -> None:
    hands = Hands()
    desk = Desk(hands)
    running = threading.Thread(target=desk.call, args=("navigate", {"target": CARINA}))
    running.start()
    assert hands.began.wait(10.0)
    assert "under way" in desk.call("expose", {}).text
    assert desk.call("status", {}).content["state"] == "IDLE"
    assert desk.call("stop", {"reason": "enough"}).content == {"stopped": True}
    assert running.is_alive()
    desk.close()
    running.join(10.0)
    assert not running.is_alive()
    assert hands.calls[-2:] == [("stop", "enough"), ("interrupt",)]


@pytest.mark.parametrize("arguments", [{}, {"reason": ""}, {"reason": 7, "why": "x"}, {"reason": "x" * 5000}])
def test_a_stop_is_heard_whatever_its_arguments_are(arguments: dict[str, Any]) -> None:
    hands = Hands()
    assert not Desk(hands).call("stop", arguments).failed
    assert [call[0] for call in hands.calls] == ["stop"]


def test_only_the_call_that_is_given_up_ends() -> None:
    hands, mine, others = Hands(), threading.Event(), threading.Event()
    desk = Desk(hands)
    running = threading.Thread(target=desk.call, args=("navigate", {"target": CARINA}, mine))
    running.start()
    assert hands.began.wait(10.0)
    assert "under way" in desk.call("expose", {}, others).text
    desk.give_up(others)
    assert running.is_alive()
    desk.give_up(mine)
    running.join(10.0)
    assert not running.is_alive()
    assert "before it began" in desk.call("expose", {}, others).text
    assert hands.calls == [("navigate", CARINA), ("interrupt",)]
    assert not desk.call("expose", {}).failed


def test_the_budget_ends_all_but_stop_and_status() -> None:
    hands = Hands()
    hands.go.set()
    desk = Desk(hands, Budget(calls=5, exposures=4, exposures_per_task=3))
    assert not desk.call("navigate", {"target": CARINA}).failed
    desk.used(2)
    assert "may need 3" in desk.call("navigate", {"target": CARINA}).text
    assert not desk.call("expose", {}).failed
    assert not desk.call("expose", {}).failed
    assert "0 are left" in desk.call("expose", {}).text
    assert desk.call("status", {}).content["left"] == {"calls": 2, "exposures": 0}
    for _ in range(2):
        assert not desk.call("move_view", {"dx_mm": 1, "dy_mm": 0}).failed
    assert "all 5 calls" in desk.call("move_view", {"dx_mm": 1, "dy_mm": 0}).text
    assert not desk.call("stop", {"reason": "done"}).failed


def test_the_sdks_own_client_sees_tools_results_and_images() -> None:
    hands = Hands()

    async def talk() -> None:
        async with mcp.Client(make_server(Desk(hands))) as client:
            listed = {tool.name: tool for tool in (await client.list_tools()).tools}
            assert set(listed) == {offer.name for offer in Desk(hands).offers}
            assert listed["status"].annotations.read_only_hint
            shot = await client.call_tool("expose", {})
            assert [part.type for part in shot.content] == ["text", "image"]
            assert not shot.is_error
            assert (await client.call_tool("localize", {"target": CARINA})).is_error
            assert "no tool" in (await client.call_tool("reset", {})).content[0].text

    anyio.run(talk)
    assert [call[0] for call in hands.calls] == ["expose", "localize"]


def test_a_stop_waits_for_no_thread_that_other_calls_hold() -> None:
    class Slow(Hands):
        def status(self) -> dict[str, Any]:
            assert self.go.wait(10.0)
            return {"state": "IDLE"}

    hands = Slow()

    async def talk() -> None:
        async with mcp.Client(make_server(Desk(hands))) as client, anyio.create_task_group() as group:
            for _ in range(50):  # more than there are threads
                group.start_soon(client.call_tool, "status", {})
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(5.0):
                stopped = await client.call_tool("stop", {"reason": "enough"})
            assert not stopped.is_error
            hands.go.set()

    anyio.run(talk)
    assert hands.calls == [("stop", "enough")]


def test_what_the_client_cancels_ends() -> None:
    hands = Hands()

    async def talk() -> None:
        async with mcp.Client(make_server(Desk(hands))) as client, anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "navigate", {"target": CARINA})
            assert await anyio.to_thread.run_sync(hands.began.wait, 10.0)
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(hands.go.wait, 10.0)

    anyio.run(talk)
    assert hands.calls == [("navigate", CARINA), ("interrupt",)]


def test_what_a_client_began_whose_connection_is_lost_ends() -> None:
    hands = Hands()
    app = WithToken(make_server(Desk(hands)).streamable_http_app(), "right")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    listening = server.config.bind_socket()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    headers = {"Authorization": "Bearer right", "Accept": "application/json, text/event-stream"}
    client = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    aim = {"name": "navigate", "arguments": {"target": CARINA}}
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        with httpx2.Client(base_url=address, trust_env=False, timeout=20.0, headers=headers) as http:
            begin = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": client}
            http.headers["Mcp-Session-Id"] = http.post("/mcp", json=begin).headers["Mcp-Session-Id"]
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": aim}
            with http.stream("POST", "/mcp", json=call):
                assert hands.began.wait(20.0)
                assert not hands.go.is_set()
            assert hands.go.wait(20.0)
    finally:
        server.should_exit = True
        hands.go.set()
        thread.join(20.0)
    assert hands.calls == [("navigate", CARINA), ("interrupt",)]


def test_connections_that_send_nothing_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEADER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]

    async def talk() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(_serve_http, make_server(Desk(Hands())), port)
            with anyio.fail_after(20.0):
                while True:
                    try:
                        stream = await anyio.connect_tcp("127.0.0.1", port)
                        break
                    except OSError:
                        await anyio.sleep(0.05)
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await stream.receive()
            group.cancel_scope.cancel()

    anyio.run(talk)


@pytest.mark.parametrize(("given", "status"), [(b"", 401), (b"Bearer wrong", 401), (b"Bearer right", 200)])
def test_http_needs_the_token(given: bytes, status: int) -> None:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": [(b"authorization", given)] if given else []}
    anyio.run(WithToken(app, "right"), scope, receive, send)
    assert sent[0]["status"] == status
