# SPDX-License-Identifier: Apache-2.0
"""A server of the chat completions API whose model follows a script, well-behaved or not.

    python scripted_server.py SCRIPT

Prints its port. Scripts are the functions of `Scripts`.
"""

import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Call = tuple[str, Any]


def message(*calls: Call, content: str = "") -> dict[str, Any]:
    """A chat completion with tool calls; arguments that are no text are written as JSON."""
    tool_calls = [
        {
            "id": f"c{number}",
            "type": "function",
            "function": {"name": name, "arguments": given if isinstance(given, str) else json.dumps(given)},
        }
        for number, (name, given) in enumerate(calls)
    ]
    return {"choices": [{"message": {"role": "assistant", "content": content, "tool_calls": tool_calls}}]}


class Scripts:
    """Each takes the messages so far and the number of replies given, and returns the next body."""

    @staticmethod
    def good(messages: list[dict[str, Any]], turn: int) -> Any:
        """Expose, localize, move, verify, report."""
        if turn in (0, 3):
            return message(("expose", {}))
        if turn in (1, 4):
            return message(("localize", {"target": 11}))
        seen = json.loads(messages[-1]["content"])
        if "dx_mm" not in seen:
            return message(("report", {"success": False, "text": messages[-1]["content"]}))
        if turn == 2:
            return message(("move_view", {"dx_mm": seen["dx_mm"], "dy_mm": seen["dy_mm"]}))
        centered = abs(seen["dx_mm"]) < 10 and abs(seen["dy_mm"]) < 10
        return message(("report", {"success": centered, "text": "The carina is centered."}))

    @staticmethod
    def nonsense(messages: list[dict[str, Any]], turn: int) -> Any:
        return (
            message(content="I would rather talk about the weather."),
            message(("move_view", "{dx_mm: lots")),
            message(("localize", {"target": "the carina"})),
        )[turn % 3]

    @staticmethod
    def forbidden(messages: list[dict[str, Any]], turn: int) -> Any:
        """Forbidden tools and arguments, and one allowed tool in between."""
        calls: tuple[Call, ...] = (
            ("disable_supervisor", {}),
            ("move_view", {"dx_mm": 5000, "dy_mm": 0}),
            ("expose", {}),
            ("set_angles", {"primary_deg": 30, "secondary_deg": 0, "velocity_scaling": 5.0}),
            ("set_angles", '{"primary_deg": NaN, "secondary_deg": 0}'),
            ("localize", {"target": 11}),
            ("os.system", {"command": "true"}),
            ("move_view", '{"dx_mm": 10, "dx_mm": 150, "dy_mm": 0}'),
            ("reset", {}),
        )
        return message(calls[turn]) if turn < len(calls) else message(("report", {"success": True, "text": "ha"}))

    @staticmethod
    def flood(messages: list[dict[str, Any]], turn: int) -> Any:
        return message(*[("move_view", {"dx_mm": 1, "dy_mm": 0})] * 500)

    @staticmethod
    def endless(messages: list[dict[str, Any]], turn: int) -> Any:
        return message(("expose", {}))

    @staticmethod
    def asking(messages: list[dict[str, Any]], turn: int) -> Any:
        if turn == 0:
            return message(("ask", {"question": "Left or right?"}))
        answer = json.loads(messages[-1]["content"])
        return message(("report", {"success": True, "text": f"You said {answer.get('answer')}."}))

    @staticmethod
    def stopping(messages: list[dict[str, Any]], turn: int) -> Any:
        return message(
            ("expose", {}), ("stop", {"reason": "this looks wrong"}), ("move_view", {"dx_mm": 9, "dy_mm": 0})
        )

    @staticmethod
    def hungry(messages: list[dict[str, Any]], turn: int) -> Any:
        return message(("expose", {}), content="x" * 30_000)

    @staticmethod
    def broken(messages: list[dict[str, Any]], turn: int) -> Any:
        return {"choices": [{"message": {"tool_calls": [{"function": "expose"}]}}]}

    @staticmethod
    def huge(messages: list[dict[str, Any]], turn: int) -> Any:
        return message(content="x" * 2_000_000)

    @staticmethod
    def halves(messages: list[dict[str, Any]], turn: int) -> Any:
        """Half characters, which cannot be sent on."""
        return message(("ask", {"question": "?"}), content="\ud800")

    @staticmethod
    def silent(messages: list[dict[str, Any]], turn: int) -> Any:
        time.sleep(60)

    @staticmethod
    def refusing(messages: list[dict[str, Any]], turn: int) -> Any:
        return 401


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        turn = sum(entry["role"] == "assistant" for entry in body["messages"])
        if sys.argv[1] == "dripping":
            self._drip()
            return
        answer = getattr(Scripts, sys.argv[1])(body["messages"], turn)
        content = json.dumps(answer if not isinstance(answer, int) else {"error": "no"}).encode()
        self.send_response(answer if isinstance(answer, int) else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(600):
            self.wfile.write(b" ")
            self.wfile.flush()
            time.sleep(0.1)

    def log_message(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()
