# SPDX-License-Identifier: Apache-2.0
"""Push to talk: the grammar and the agent's rules know the same sentences; a stop comes before everything else."""

import asyncio
import io
import json
import random
import re
import struct
import wave
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from websockets.sync.client import ClientConnection, connect

from carm_agent.dialogue.stop_words import is_stop
from carm_bringup.console.commands import Command
from carm_bringup.console.server import Server
from carm_bringup.console.speech import worker
from carm_bringup.console.speech.decoder import Heard, why_not
from carm_bringup.console.speech.recognizer import Recognizer, SpeechError
from carm_bringup.console.speech.vocabulary import STOPS, grammar, makes_sense, spoken, target_names, written

needs_recognizer = pytest.mark.skipif(bool(why_not()), reason=why_not())
DATA = Path(__file__).resolve().parents[2] / "data" / "speech"
FAKE = """
import io, sys, time
from carm_bringup.console.speech import worker
from carm_bringup.console.speech.decoder import Heard

class Decoder:
    def hear(self, samples):
        text = samples[:40].decode(errors="replace").strip("\\0")
        if text == "crash":
            raise SystemExit(1)
        return Heard("" if text == "noise" else text, text, 0.0)

worker.serve(sys.stdin.buffer, sys.stdout, Decoder())
"""


def stop_wav() -> bytes:
    with wave.open(str(DATA / "stop.wav")) as file:
        return file.readframes(file.getnframes())


def sentences(count: int) -> Iterator[str]:
    """Sentences that the grammar accepts, drawn at random."""
    rules = dict(re.findall(r"^(?:public )?<(\w+)> = (.*);$", grammar(), re.MULTILINE))
    draw = random.Random(0)

    def some(text: str) -> str:
        """One choice out of ``a | b``, each a sequence of words, <rules>, [options] and (groups)."""
        parts, depth, start = [], 0, 0
        for place, character in enumerate(text):
            depth += (character in "([") - (character in ")]")
            if character == "|" and not depth:
                parts.append(text[start:place])
                start = place + 1
        parts.append(text[start:])
        chosen, out, place = draw.choice(parts).strip(), [], 0
        while place < len(chosen):
            if chosen[place] in "([":
                end, level = place, 0
                while True:
                    level += (chosen[end] in "([") - (chosen[end] in ")]")
                    if not level:
                        break
                    end += 1
                if chosen[place] == "(" or draw.random() < 0.5:
                    out.append(some(chosen[place + 1 : end]))
                place = end + 1
                continue
            token = re.compile(r"<(\w+)>|[^\s<(\[]+|\s+").match(chosen, place)
            assert token is not None
            out.append(some(rules[token[1]]) if token[1] else token[0].strip())
            place = token.end()
        return " ".join(" ".join(out).split())

    for _ in range(count):
        yield some(rules["said"])


def test_the_agents_rules_know_what_can_be_said() -> None:
    strange = [text for text in map(written, sentences(300)) if not is_stop(text) and not makes_sense(text)]
    assert len(strange) <= 6, strange  # such as "LAO 20 LAO 30"


@pytest.mark.parametrize("text", STOPS)
def test_every_stop_of_the_grammar_is_one(text: str) -> None:
    assert is_stop(text)


def test_names_are_written_as_the_rules_know_them() -> None:
    assert written("show me t twelve") == "show me T12"
    assert written("lao thirty") == "LAO thirty"
    assert spoken("T12") == "t twelve"
    assert {"carina", "humeral head", "t twelve", "acromioclavicular joint"} <= set(target_names())
    assert not makes_sense("navigate to the left c")


def test_a_stop_is_told_while_somebody_still_speaks() -> None:
    class Decoder:
        def hear(self, samples: bytes) -> Heard:
            return Heard("stop", "stop", 0.0) if len(samples) >= 32000 else Heard("", "show", 0.9)

    part = struct.pack(">I", 3200) + bytes(3200)
    out = io.StringIO()
    worker.serve(io.BytesIO(part * 12 + struct.pack(">I", 0)), out, Decoder())
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {"stop": True},
        {"text": "stop", "guess": "stop", "stop": True},
    ]


@needs_recognizer
def test_synthesized_speech_is_understood_and_silence_is_not() -> None:
    from carm_bringup.console.speech.decoder import SpeechDecoder

    decoder = SpeechDecoder()
    assert decoder.hear(stop_wav()).is_stop
    assert decoder.hear(bytes(32000)).text == decoder.hear(b"").text == decoder.hear(b"\1").text == ""


class Desk:
    def __init__(self) -> None:
        self.stops: list[str] = []

    def stop(self, who: str) -> None:
        self.stops.append(who)

    def command(self, command: Command, number: int, who: str) -> None: ...

    def left(self, number: int, why: str) -> None: ...


@pytest.fixture
def speaking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Desk, ClientConnection]]:
    """A server whose recognizer hears the text that is sent as samples, and the socket of a page."""
    (tmp_path / "fake_worker.py").write_text(FAKE)
    source = str(Path(worker.__file__).resolve().parents[3])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{source}")
    monkeypatch.setattr("carm_bringup.console.speech.recognizer.why_not", lambda: "")
    monkeypatch.setattr("carm_bringup.console.server.Recognizer", lambda: Recognizer("fake_worker"))
    desk = Desk()
    server = Server(desk, {"views": [], "landmarks": []})
    base = server.address.partition("/?")[0]
    cookie = httpx2.get(server.address, trust_env=False).headers["set-cookie"].partition(";")[0]
    try:
        with connect(
            f"{base.replace('http', 'ws')}/speech", additional_headers={"Origin": base, "Cookie": cookie}, proxy=None
        ) as socket:
            yield desk, socket
    finally:
        server.close()


def said(socket: ClientConnection, text: str) -> dict[str, object]:
    socket.send(text.encode())
    socket.send("end")
    return dict(json.loads(socket.recv(timeout=30.0)))


def test_what_was_said_comes_back_and_a_stop_reaches_the_desk(speaking: tuple[Desk, ClientConnection]) -> None:
    desk, socket = speaking
    assert said(socket, "show me the carina") == {
        "text": "show me the carina",
        "guess": "show me the carina",
        "stop": False,
    }
    assert said(socket, "noise")["text"] == ""
    assert desk.stops == []
    assert said(socket, "stop now")["stop"]
    assert desk.stops == ["operator (127.0.0.1)"]


def test_a_recognizer_that_ends_is_told(speaking: tuple[Desk, ClientConnection]) -> None:
    assert "recognizer" in str(said(speaking[1], "crash")["error"])


def test_a_recording_that_is_too_long_is_cut(speaking: tuple[Desk, ClientConnection]) -> None:
    _, socket = speaking
    socket.send(b"carina" + bytes(3000))
    for _ in range(40):
        socket.send(bytes(4000))
    socket.send("end")
    assert json.loads(socket.recv(timeout=30.0))["text"] == "carina"


def test_who_begins_to_speak_and_never_ends_does_not_keep_others_from_it(
    speaking: tuple[Desk, ClientConnection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("carm_bringup.console.speech.pages._LONGEST_S", 0.2)
    socket = speaking[1]
    socket.send(b"carina")
    assert "may take 10 s" in json.loads(socket.recv(timeout=30.0))["error"]


def test_without_a_recognizer_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carm_bringup.console.speech.recognizer.why_not", lambda: "pip install pocketsphinx")

    async def speak() -> None:
        async with Recognizer().recording(lambda: None):
            raise AssertionError("nothing can be recorded")

    with pytest.raises(SpeechError, match="pip install pocketsphinx"):
        asyncio.run(speak())
