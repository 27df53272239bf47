# SPDX-License-Identifier: Apache-2.0
"""`carm serve` as a process, with TLS and a key, asked by the localizer `openai` and by hand."""

from __future__ import annotations

import base64
import io
import re
import signal
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import trustme
from PIL import Image

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Protocol, Query
from carm_core.robot.kinematics import CArm
from carm_perception.localizers.compact import CompactLocalizer
from carm_perception.localizers.openai.localizer import OpenAiLocalizer
from carm_perception.localizers.openai.options import ServerOptions
from carm_sim.patient_loader import load_patient
from carm_sim.xray import XraySystem

from .server import carm_serve

KEY = "test-key-4711"
SENTENCES = {Protocol.COMMAND: "go to the left elbow", Protocol.REEVALUATION: "no, that is the other side"}


@dataclass(frozen=True)
class Running:
    url: str
    ca_file: str

    def options(self, **more: Any) -> ServerOptions:
        return ServerOptions(**{"url": self.url, "ca_file": self.ca_file, "timeout_s": 60.0, **more})

    def post(self, body: Any, key: str = KEY, path: str = "chat/completions") -> httpx2.Response:
        return httpx2.post(
            f"{self.url}/{path}",
            content=body if isinstance(body, bytes) else None,
            json=None if isinstance(body, bytes) else body,
            headers={"Authorization": f"Bearer {key}"},
            verify=ssl.create_default_context(cafile=self.ca_file),
            timeout=60,
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    mine = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    mine.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    mine.private_key_pem.write_to_path(str(folder / "key.pem"))
    files = ["--tls-cert", str(folder / "cert.pem"), "--tls-key", str(folder / "key.pem")]
    with carm_serve(*files, "--max-image-px", "512", "--max-request-mb", "1", key=KEY) as (process, url):
        yield Running(url, str(folder / "ca.pem"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert KEY not in process.stderr.read()


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARM_API_KEY", KEY)


def frame() -> XrayFrame:
    shade = np.add.outer(np.arange(300), np.arange(280)) % 256
    return XrayFrame(shade.astype(np.uint8), 0.7, 0.0)


def image_part(image: Any = None, kind: str = "png", content: bytes | None = None) -> dict[str, Any]:
    buffer = io.BytesIO()
    (image or Image.new("L", (128, 128), 128)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue() if content is None else content).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{text}"}}


def chat(*parts: dict[str, Any], **more: Any) -> dict[str, Any]:
    content = [*parts] or [image_part(), {"type": "text", "text": "Two closest ids?"}]
    return {"model": "carm-compact", "messages": [{"role": "user", "content": content}], **more}


def xray() -> XrayFrame:
    """A straight view near the carina of a phantom."""
    patient = load_patient("phantom:970001")
    system = XraySystem(patient, CArm.from_config(), seed=1)
    place = patient.landmarks_table_mm[11] + np.array([25.0, -20.0, 0.0])
    return system.expose(system.carm.inverse(place / 1000, 0.0, 0.0)[0]).frame(0.0)


@pytest.mark.usefixtures("key")
def test_answers_are_those_of_the_model_in_process(running: Running) -> None:
    """To a millimeter: the server may compute several questions at once, which rounds in another order."""
    here = CompactLocalizer(maximum_risk=0.0)  # the server speaks for the model alone, whose words cannot abstain
    there = OpenAiLocalizer(running.options())
    there.warm_up()
    image = xray()
    queries = [Query(p, 11, SENTENCES.get(p, ""), "[2,3]") for p in here.protocols]
    for query in (*queries, Query(Protocol.LOCALIZATION), Query(Protocol.POINTING)):
        mine, other = here.localize(image, query), there.localize(image, query)
        assert (other.ok, other.query) == (mine.ok, query) == (True, query), other.message
        assert re.sub(r"\d+", "", other.answer) == re.sub(r"\d+", "", mine.answer)
        assert [e.id for e in other.estimates] == [e.id for e in mine.estimates]
        for one, two in zip(mine.estimates, other.estimates, strict=True):
            assert two.displacement_mm == pytest.approx(one.displacement_mm, abs=1.0, nan_ok=True)
    there.close()


@pytest.mark.usefixtures("key")
def test_compact_model_keeps_to_a_regular_expression(running: Running) -> None:
    body = chat(structured_outputs={"regex": r"\[(?:3|5),(?:2|4)\]"})
    answer = running.post(body).json()["choices"][0]["message"]["content"]
    assert re.fullmatch(r"\[(?:3|5),(?:2|4)\]", answer)


def test_wrong_key_is_refused_and_never_shown(
    running: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CARM_API_KEY", "wrong-key-0815")
    localizer = OpenAiLocalizer(running.options())
    with caplog.at_level("DEBUG"), pytest.raises(ConfigurationError, match="401.*key is missing or wrong") as caught:
        localizer.warm_up()
    reply = localizer.localize(frame(), Query())
    localizer.close()
    assert reply.error == "internal"
    assert "0815" not in caplog.text + str(caught.value) + reply.message
    assert running.post(chat(), key="other").status_code == 401


@pytest.mark.usefixtures("key")
def test_certificate_is_checked(running: Running) -> None:
    doubtful = OpenAiLocalizer(running.options(ca_file="", retries=0))
    reply = doubtful.localize(frame(), Query())
    assert reply.error == "internal"
    assert "certificate" in reply.message.lower()
    trusting = OpenAiLocalizer(running.options(ca_file="", verify_tls=False))
    assert trusting.localize(frame(), Query()).ok
    for localizer in (doubtful, trusting):
        localizer.close()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "JSON object"),
        (b"x" * (2**20 + 1), 413, "exceeds 1048576 bytes"),
        ({}, 400, "messages must be a list"),
        ({**chat(), "model": "gpt-4o"}, 404, "'gpt-4o' does not exist"),
        (chat(stream=True), 400, "stream is not supported"),
        (chat(n=2), 400, "n is not supported"),
        (chat(max_tokens=0), 400, "max_tokens must be"),
        (b"[" * 100_000, 400, "no JSON"),
        (chat(frequency_penalty=1.5), 400, "frequency_penalty is not supported"),
        (chat(temperature="hot"), 400, "temperature must be"),
        (chat(stop=[""]), 400, "stop must be"),
        (chat(response_format={"type": "xml"}), 400, "response_format"),
        (chat(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), 400, "not under a JSON schema"),
        (chat(structured_outputs={"regex": "(unclosed"}), 400, "grammar"),
        (chat({"type": "text", "text": "a"}, {"type": "text", "text": "b"}), 400, "one text"),
        (chat(image_part(Image.new("L", (513, 20))), {"type": "text", "text": "a"}), 400, "513 x 20 px"),
        (chat(image_part(Image.new("L", (8, 8))), {"type": "text", "text": "a"}), 400, "at least 16 px"),
        (chat(image_part(content=b"no image"), {"type": "text", "text": "a"}), 400, "cannot be read"),
        (chat(image_part(kind="svg+xml"), {"type": "text", "text": "a"}), 400, "data URLs only"),
        (chat({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}), 400, "data URLs only"),
        (chat({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}), 400, "data URLs only"),
    ],
)
def test_bad_requests_are_refused_in_the_form_of_the_api(
    running: Running, body: Any, status: int, message: str
) -> None:
    response = running.post(body)
    error = response.json()["error"]
    assert response.status_code == status
    assert message in error["message"]
    assert set(error) == {"message", "type", "param", "code"}


def test_rest_of_the_api(running: Running) -> None:
    trust = ssl.create_default_context(cafile=running.ca_file)
    health = httpx2.get(running.url.replace("/v1", "/health"), verify=trust)
    assert health.json() == {"status": "ok", "model": "carm-compact", "waiting": 0}
    models = httpx2.get(f"{running.url}/models", verify=trust, headers={"Authorization": f"Bearer {KEY}"}).json()
    assert [model["id"] for model in models["data"]] == ["carm-compact"]
    assert httpx2.get(f"{running.url}/models", verify=trust).status_code == 401
    one = f"{running.url}/models/carm-compact"
    assert httpx2.get(one, verify=trust, headers={"Authorization": f"Bearer {KEY}"}).json() == models["data"][0]
    assert httpx2.get(f"{one}2", verify=trust, headers={"Authorization": f"Bearer {KEY}"}).status_code == 404
    assert running.post(chat(), path="nothing").json()["error"]["message"].startswith("POST /v1/nothing")
    done = running.post(chat(stop=",")).json()
    assert done["choices"][0]["finish_reason"] == "stop"
    assert done["choices"][0]["message"]["content"].startswith("[")
    assert "," not in done["choices"][0]["message"]["content"]
    assert done["usage"]["total_tokens"] == done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"]
    system = {"role": "developer", "content": "Be brief."}
    told = chat(max_tokens=10**9, top_p=0.0, temperature=0.7, seed=5)
    told["messages"].insert(0, system)
    words = [running.post(told).json()["choices"][0]["message"]["content"] for _ in range(2)]
    assert words[0] == words[1]
    assert running.post(chat(max_tokens=1)).json()["choices"][0]["finish_reason"] == "length"


def test_bad_options_are_one_line(tmp_path: Path) -> None:
    from carm_bringup.cli.app import run

    (tmp_path / "cert.pem").write_text("nothing")
    both = ["--tls-cert", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "cert.pem")]
    for words in (both[:2], ["--tls-cert", "a", "--tls-key", "b"], both, ["--model", "compct"]):
        assert run(["serve", "--port", "0", *words]) == 2
    assert run(["serve", "--port", "0", "--weights", str(tmp_path)]) == 2
