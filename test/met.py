# SPDX-License-Identifier: Apache-2.0
"""Wait until a server knows a client: DDS drops answers to clients that the server has not discovered yet."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rcl_interfaces.srv import GetParameters

ASK_AGAIN_S = 2.0


def met(
    node: Any, server: str, until: Callable[[Callable[[], Any], str], None], kind: Any = GetParameters, name: str = ""
) -> None:
    """Wait until a process knows every client that ``node`` has made.

    What a participant announces last is known last: an answer to a later client says that the earlier ones are known.

    Args:
        node: The clients' node.
        server: A node of that process.
        until: Spins until a condition holds.
        kind: Of a service of that process that answers an empty request.
        name: Of this service; empty: the node's parameters.
    """
    query = node.create_client(kind, name or f"{server}/get_parameters")
    until(query.service_is_ready, f"service of {server}")
    asked: list[tuple[float, Any]] = []

    def answered() -> bool:
        if not asked or time.monotonic() > asked[-1][0] + ASK_AGAIN_S:
            asked.append((time.monotonic(), query.call_async(kind.Request())))
        return any(answer.done() for _, answer in asked)

    until(answered, f"answer of {server}")
