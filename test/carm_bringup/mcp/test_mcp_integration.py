# SPDX-License-Identifier: Apache-2.0
"""``carm mcp`` with the SDK's own client, on a real graph."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import anyio
import httpx2
import mcp
import pytest
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

pytestmark = pytest.mark.integration
GRAPH = {
    "carm_control.nodes.motion_node": ("supervised:=false",),
    "carm_sim.nodes.xray_node": ("patient:=phantom:7", "binning:=6"),
    "carm_perception.entry_points": ("localizer:=oracle", "patient:=phantom:7"),
    "carm_agent.nodes.agent_node": ("wait_for_all:=false",),
}
COMMAND = ["-c", "from carm_bringup.cli.app import main; main()", "mcp"]
PATIENCE_S = 90.0
CARINA = 11

Spawn = Callable[..., "subprocess.Popen[str]"]


async def call(client: Any, name: str, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(name, arguments)
    return {**json.loads(result.content[0].text), "failed": result.is_error, "parts": len(result.content)}


async def until(client: Any, name: str, key: str, **arguments: Any) -> dict[str, Any]:
    """Call again while the graph is not ready."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = await call(client, name, **arguments)
        if found.get(key):
            return found
        assert time.monotonic() < deadline, found
        await anyio.sleep(0.3)


def test_another_agent_sees_moves_navigates_and_stops(spawn: Spawn) -> None:
    """One test, since each start of a graph takes seconds."""
    for module, settings in GRAPH.items():
        words = [word for one in settings for word in ("-p", one)]
        spawn([sys.executable, "-m", module, "--ros-args", "-r", "__ns:=/carm", *words], stderr=subprocess.DEVNULL)

    async def by_streams() -> None:
        server = StdioServerParameters(command=sys.executable, args=COMMAND, env=dict(os.environ))
        async with mcp.Client(server) as client:
            assert "stop" in {tool.name for tool in (await client.list_tools()).tools}
            shot = await until(client, "expose", "taken")
            assert shot["parts"] == 2
            seen = await until(client, "localize", "found", target=CARINA)
            assert seen["landmark"] == "Carina"
            arrived = await until(client, "navigate", "arrived", target=CARINA)
            assert arrived["distance_mm"] <= 10.0
            turned = await call(client, "set_angles", primary_deg=20, secondary_deg=0)
            assert turned["primary_deg"] == pytest.approx(20.0, abs=0.2)
            assert "error" in await call(client, "show_view", view="true lateral of the moon")
            async with anyio.create_task_group() as group:
                group.start_soon(call, client, "set_angles")  # refused: the angles are missing
                ended: dict[str, Any] = {}

                async def move() -> None:
                    ended.update(await call(client, "set_angles", primary_deg=-40, secondary_deg=0))

                group.start_soon(move)
                deadline = time.monotonic() + PATIENCE_S
                while (await call(client, "status"))["state"] != "MOVING":
                    assert time.monotonic() < deadline
                stopped = await call(client, "stop", reason="enough")
                assert stopped["stopped"]
            assert ended["moved"] is False
            assert (await call(client, "status"))["state"] in ("STOPPING", "STOPPED")
            assert "stop" in (await call(client, "move_view", dx_mm=5, dy_mm=0))["reason"]

    anyio.run(by_streams)

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    process = spawn([sys.executable, *COMMAND, "--http", str(port)])
    said = ""
    while "Bearer" not in said:
        assert process.stdout is not None
        said += process.stdout.readline()
        assert process.poll() is None, said
    token = re.search(r"Bearer (\S+)", said)
    assert token is not None
    address = f"http://127.0.0.1:{port}/mcp"

    async def by_http() -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                refused = httpx2.post(address, json={}, trust_env=False)
                break
            except httpx2.ConnectError:
                assert time.monotonic() < deadline
                await anyio.sleep(0.1)
        assert refused.status_code == 401
        headers = {"Authorization": f"Bearer {token[1]}"}
        async with httpx2.AsyncClient(headers=headers, trust_env=False) as http:
            foreign = await http.post(address, json={}, headers={"Origin": "http://evil.example"})
            assert foreign.status_code in (400, 403)
            async with mcp.Client(streamable_http_client(address, http_client=http)) as client:
                assert (await call(client, "status"))["state"] == "STOPPED"

    anyio.run(by_http)
