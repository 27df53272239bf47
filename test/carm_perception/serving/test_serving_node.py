# SPDX-License-Identifier: Apache-2.0
"""The localizer node with `localizer:=openai` beside `carm serve`, all as processes of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
from carm_interfaces.action import Localize

from ..nodes.test_localizer_node import NODE, Client
from .server import PATIENCE_S, carm_serve

pytestmark = pytest.mark.integration
KEY = "node-key-42"


@pytest.fixture
def client(ros_domain: int) -> Iterator[Client]:
    made = Client(ros_domain)
    yield made
    made.close()


def test_node_asks_a_server_and_says_when_it_is_gone(
    client: Client, spawn: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CARM_API_KEY", KEY)
    with carm_serve(key=KEY) as (server, url):
        options = ["localizer:=openai", f"server_url:={url}", "server_retries:=0", "each_frame:=false"]
        words = [word for option in options for word in ("-p", option)]
        wrong = subprocess.run(
            [*NODE, "--ros-args", *words],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env={**os.environ, "CARM_API_KEY": "other"},
        )
        assert wrong.returncode == 2, wrong.stderr
        assert "the API key is missing or wrong" in wrong.stderr

        node = spawn([*NODE, "--ros-args", *words])
        client.ready()
        stamp = client.show()
        answer = client.ask(target_id=11, stamp=stamp)
        assert answer.error_code == Localize.Result.ERROR_NONE, answer.error_msg
        assert answer.landmarks.localizer == "openai"
        assert [mark.id for mark in answer.landmarks.landmarks] == [11]
        server.kill()
        server.wait(PATIENCE_S)
        lost = client.ask(target_id=10, stamp=stamp)
        assert lost.error_code == Localize.Result.ERROR_INTERNAL
        assert url in lost.error_msg
    node.terminate()
    output, _ = node.communicate(timeout=PATIENCE_S)
    assert node.returncode == 0, output
    assert KEY not in output
