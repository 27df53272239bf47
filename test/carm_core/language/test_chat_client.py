# SPDX-License-Identifier: Apache-2.0
"""The client of the chat completions API: what it sends, whom it trusts, and when it gives up."""

from __future__ import annotations

import contextlib
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme

from carm_core.errors import ConfigurationError
from carm_core.language.chat_client import ChatClient, ChatError, ChatOptions

REPLY = {"choices": [{"message": {"role": "assistant", "content": "yes"}}]}
PATIENCE_S = 60.0


class Server:
    """Replies as told and keeps the headers that it was sent."""

    def __init__(self, status: int = 200, reply: Any = REPLY, context: ssl.SSLContext | None = None) -> None:
        self.headers: list[dict[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                content = json.dumps(reply).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Retry-After", "60")
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *words: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.http.socket = context.wrap_socket(self.http.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.shutdown()
        self.http.server_close()


@contextlib.contextmanager
def client(**options: Any) -> Iterator[ChatClient]:
    made = ChatClient(ChatOptions(**options), longest_reply=1000)
    yield made
    made.close()


def ask(chat: ChatClient, timeout_s: float = PATIENCE_S) -> str:
    work = chat.complete({"model": "m", "messages": []}, time.monotonic() + timeout_s)
    return chat.submit(work).result(PATIENCE_S)["choices"][0]["message"]["content"]  # type: ignore[no-any-return]


def test_settings_of_the_openai_library_do_not_reach_another_server(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "ADMIN_KEY", "ORG_ID", "PROJECT_ID"):
        monkeypatch.setenv(f"OPENAI_{name}", "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Ward: secret\nAuthorization: Bearer secret")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Server() as server:
        for key in ("", "mine"):
            monkeypatch.setenv("CARM_API_KEY", key)
            with client(url=server.url, retries=0) as chat:
                assert ask(chat) == "yes"
    assert "secret" not in str(server.headers)
    assert not [name for sent in server.headers for name in sent if name.startswith(("x-", "openai-"))]
    assert [sent.get("authorization") for sent in server.headers] == [None, "Bearer mine"]


def test_certificates_are_checked_against_the_file_that_is_given(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with Server(context=context) as server:
        with client(url=server.url, ca_file=str(tmp_path / "ca.pem")) as chat:
            assert ask(chat) == "yes"
        with client(url=server.url, retries=0) as chat, pytest.raises(ChatError, match="cannot be reached.*ertificate"):
            ask(chat)
        assert "is not checked" not in caplog.text
        with client(url=server.url, verify_tls=False) as chat:
            assert ask(chat) == "yes"
        assert "the certificate of 127.0.0.1 is not checked" in caplog.text


@pytest.mark.parametrize(
    ("url", "warned"), [("http://gpu.lan/v1", True), ("https://gpu.lan/v1", False), ("http://localhost/v1", False)]
)
def test_a_key_without_encryption_is_warned_of(
    url: str, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CARM_API_KEY", "mine")
    with client(url=url):
        assert ("unencrypted to gpu.lan" in caplog.text) == warned


def test_a_busy_server_is_named_when_the_time_is_up() -> None:
    with (
        Server(503) as server,
        client(url=server.url, retries=3) as chat,
        pytest.raises(ChatError, match=r"within 1.5 s; its last reply was 503"),
    ):
        ask(chat, 1.5)


@pytest.mark.parametrize("status", [200, 400])
def test_long_replies_are_broken_off_whatever_their_status(status: int) -> None:
    with (
        Server(status, reply="x" * 2000) as server,
        client(url=server.url) as chat,
        pytest.raises(ChatError, match="more than 1000 bytes"),
    ):
        ask(chat)


def test_a_key_that_cannot_be_sent_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARM_API_KEY", "schlüssel")
    with pytest.raises(ConfigurationError, match="printable"):
        ChatClient(ChatOptions())


def test_the_libraries_are_imported_with_the_first_client_only() -> None:
    code = "import sys, carm_agent.llm, carm_perception.localizers.registry; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=PATIENCE_S, capture_output=True, text=True
    ).stdout.split()
    assert "carm_core.language.chat_client" in loaded
    assert not {"openai", "httpx2"} & {*loaded}


def test_what_a_server_says_cannot_command_a_terminal_or_show_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARM_API_KEY", "mine")
    said = {"error": {"message": "\x1b]0;title\x07\x1b[2J" + 480 * "x" + " mine" + 300 * "y"}}
    with (
        Server(401, said) as server,
        client(url=server.url, retries=0) as chat,
        pytest.raises(ChatError, match=r"refuses \(401\)") as refused,
    ):
        ask(chat)
    assert str(refused.value).isprintable()
    assert "mine" not in str(refused.value)
    assert len(str(refused.value)) < 700
