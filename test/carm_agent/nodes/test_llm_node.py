# SPDX-License-Identifier: Apache-2.0
"""The larger language model in the running graph: its tools move the arm, the clinician's stop comes first."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from carm_interfaces.msg import CArmState, Utterance

from .test_agent_node import AGENT, MOTION, NEAR, ROOM, Client, Spawn

pytestmark = pytest.mark.integration

SERVER = Path(__file__).parents[1] / "scripted_server.py"
Start = Callable[[str], Client]


@pytest.fixture
def start(spawn: Spawn, tmp_path: Path) -> Iterator[Start]:
    """Starts the graph with a scripted model as head; without a script, nobody listens at its address."""
    clients: list[Client] = []

    def begin(script: str) -> Client:
        port = "9"
        if script:
            server = spawn([sys.executable, SERVER, script])
            assert server.stdout is not None
            port = server.stdout.readline().strip()
        spawn(MOTION)
        spawn([sys.executable, ROOM, "right", "0.05", *(str(value) for value in NEAR)])
        options = (f"head_url:=http://127.0.0.1:{port}/v1", f"head_transcripts:={tmp_path}", "server_timeout_s:=15.0")
        spawn([*AGENT, *(word for option in options for word in ("-p", option))])
        clients.append(Client())
        return clients[-1].ready()

    yield begin
    for client in clients:
        client.close()


def result_text(client: Client) -> str:
    client.until(lambda: any(u.kind == Utterance.KIND_RESULT for u in client.said), 40.0, "result")
    return str(next(u.text for u in client.said if u.kind == Utterance.KIND_RESULT))


def test_a_model_navigates_by_tools_and_leaves_a_transcript(start: Start, tmp_path: Path) -> None:
    client = start("good")
    assert "working on" in client.say("show me where the airways part").text
    assert result_text(client) == "The carina is centered."
    assert client.speed() < 5e-3
    (transcript,) = tmp_path.glob("head-*.jsonl")
    events = [json.loads(line) for line in transcript.read_text(encoding="utf-8").splitlines()]
    assert events[-1]["success"] is True
    assert any("move_view" in json.dumps(event) for event in events)


@pytest.mark.serial
def test_stop_and_answers_pass_a_session_by(start: Start) -> None:
    client = start("asking")
    client.say("bring up an elbow")
    client.until(lambda: any(u.text == "Left or right?" for u in client.said), what="question")
    assert client.say("the left one").text == "I pass that on."
    assert result_text(client) == "You said the left one."
    client.say("bring up an elbow, please")
    client.until(lambda: sum(u.text == "Left or right?" for u in client.said) == 2, what="question")
    started = time.monotonic()
    assert "Stopping" in client.say("stop").text
    client.until(lambda: client.state is not None and client.state.state == CArmState.STATE_STOPPED)
    assert time.monotonic() - started < 1.0


def test_without_its_server_the_agent_goes_on_by_itself(start: Start) -> None:
    client = start("")
    client.say("move 2 cm up")
    client.until(lambda: any("go on without" in u.text for u in client.said), 20.0, "fallback")
    assert "Done" in result_text(client)
