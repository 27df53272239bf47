# SPDX-License-Identifier: Apache-2.0
"""The Model Context Protocol around a desk: over the standard streams, or HTTP on this machine with a token."""

from __future__ import annotations

import argparse
import base64
import hmac
import os
import secrets
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio

from carm_bringup.mcp.desk import STOP, Budget, Desk
from carm_core.cli.arguments import whole
from carm_core.errors import ConfigurationError

if TYPE_CHECKING:
    from mcp.server.lowlevel import Server
    from starlette.types import ASGIApp

TOKEN_VARIABLE = "CARM_MCP_TOKEN"
INSTRUCTIONS = (
    "Tools of an X-ray C-arm over a supine patient. Left and right are the patient's. Every motion is planned, checked"
    " and supervised, and may be refused or wait for a person's yes. X-rays are dose: use few. `stop` is always heard."
)
_LONGEST_BODY = 64 * 1024
_SESSIONS = 4
_LOOK_S = 0.2
_STOPS = 8
"""Threads that serve stops alone."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    budget = Budget()
    parser.add_argument(
        "--http", type=whole(1, 65_535), metavar="PORT", help="serve 127.0.0.1:PORT/mcp instead of the standard streams"
    )
    parser.add_argument(
        "--max-calls", type=whole(1, 100_000), default=budget.calls, metavar="N", help=f"calls ({budget.calls})"
    )
    parser.add_argument(
        "--max-exposures",
        type=whole(1, 10_000),
        default=budget.exposures,
        metavar="N",
        help=f"X-ray images, those of navigations included ({budget.exposures})",
    )


def run(options: argparse.Namespace) -> int:
    """Serve until the other side ends, or Ctrl-C; return exit code 0.

    Raises:
        CarmError: The package ``mcp`` is missing, or there is no graph.
    """
    try:
        import mcp.server.lowlevel  # noqa: F401
    except ImportError as error:
        raise ConfigurationError("carm mcp needs the package mcp: pip install 'carm_bringup[mcp]'") from error
    from carm_bringup.nodes.mcp_hands import RosHands

    out, sys.stdout = sys.stdout, sys.stderr  # the protocol has the standard output for itself
    budget = Budget(options.max_calls, options.max_exposures)
    with RosHands(options.namespace, budget.exposures_per_task) as hands:
        desk = Desk(hands, budget)
        hands.on_exposures = desk.used
        server = make_server(desk)
        try:
            if options.http:
                anyio.run(_serve_http, server, options.http)
            else:
                anyio.run(_serve_streams, server, out)
        except KeyboardInterrupt:
            pass
        finally:
            desk.close()
            sys.stdout = out
    return 0


def make_server(desk: Desk) -> Server[Any]:
    """Return a server of the desk's tools."""
    from mcp.server.lowlevel import Server
    from mcp.types import CallToolResult, ImageContent, ListToolsResult, TextContent, Tool, ToolAnnotations

    tools = [
        Tool(
            name=offer.name,
            description=offer.description,
            input_schema=offer.schema,
            annotations=ToolAnnotations(read_only_hint=not offer.moves, open_world_hint=False),
        )
        for offer in desk.offers
    ]

    stops = anyio.CapacityLimiter(_STOPS)

    async def on_list(context: Any, params: Any) -> ListToolsResult:
        del context, params
        return ListToolsResult(tools=tools)

    async def on_call(context: Any, params: Any) -> CallToolResult:
        given_up = threading.Event()
        try:
            async with anyio.create_task_group() as group:
                if context.request is not None:
                    group.start_soon(_give_up_alone, context.request, partial(desk.give_up, given_up))
                outcome = await anyio.to_thread.run_sync(
                    partial(desk.call, params.name, dict(params.arguments or {}), given_up),
                    abandon_on_cancel=True,
                    limiter=stops if params.name == STOP else None,  # a stop waits for no thread that others hold
                )
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():  # by the client, or with its session
            desk.give_up(given_up)
            raise
        content: list[Any] = [TextContent(type="text", text=outcome.text)]
        if outcome.png:
            data = base64.b64encode(outcome.png).decode()
            content.append(ImageContent(type="image", data=data, mime_type="image/png"))
        return CallToolResult(content=content, is_error=outcome.failed)

    return Server("carm", instructions=INSTRUCTIONS, on_list_tools=on_list, on_call_tool=on_call)


async def _give_up_alone(request: Any, give_up: Callable[[], None]) -> None:
    """Give a call up when the connection that waits for its answer is gone."""
    while not await request.is_disconnected():
        await anyio.sleep(_LOOK_S)
    give_up()


async def _serve_streams(server: Server[Any], out: Any) -> None:
    from mcp.server.stdio import stdio_server

    async with stdio_server(stdout=anyio.wrap_file(out)) as (read, write):
        await server.run(read, write, server.create_initialization_options())


async def _serve_http(server: Server[Any], port: int) -> None:
    import uvicorn

    from carm_perception.serving.connections import BoundedProtocol

    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(32)
    app = WithToken(server.streamable_http_app(max_request_body_size=_LONGEST_BODY, max_sessions=_SESSIONS), token)
    print(f"http://127.0.0.1:{port}/mcp", flush=True)
    if not os.environ.get(TOKEN_VARIABLE):
        print(f"Authorization: Bearer {token}", flush=True)
    settings = uvicorn.Config(
        app, host="127.0.0.1", port=port, http=BoundedProtocol, ws="none", log_level="warning", access_log=False
    )
    await uvicorn.Server(settings).serve()


class WithToken:
    """Lets requests through that carry the token; compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        """Guard an application.

        Args:
            app: To guard.
            token: That requests must carry.
        """
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
                return
        await self._app(scope, receive, send)
