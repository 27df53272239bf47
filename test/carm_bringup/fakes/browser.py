# SPDX-License-Identifier: Apache-2.0
"""A real browser without a window, driven by the DevTools protocol of Chromium.

As a program it makes the pictures of docs/console.md, of a graph that runs:
``python browser.py ADDRESS console.png console_plan.png``, and with a single file the animation of a navigation:
``python browser.py ADDRESS console.webp``. ``python browser.py ADDRESS --memory SECONDS`` prints what a page holds.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from PIL import Image
from websockets.sync.client import connect

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--remote-debugging-port=0"),
)
_KEYS = {
    "Escape": ("Escape", ""),
    "Space": (" ", " "),
    "Enter": ("Enter", "\r"),
    "Tab": ("Tab", ""),
    "KeyF": ("f", "f"),
    **{f"Arrow{way}": (f"Arrow{way}", "") for way in ("Left", "Right")},
    **{f"Key{letter}": (letter.lower(), letter.lower()) for letter in "BGL"},
}


_FRAME_S = 0.3


class Browser:
    """One page."""

    def __init__(self, folder: Path, size: tuple[int, int] = (1280, 900), options: Sequence[str] = ()) -> None:
        """Start Chromium.

        Args:
            folder: Fresh, for its data.
            size: Width and height of the page, px.
            options: More options of Chromium.
        """
        words = [str(CHROMIUM), *_OPTIONS, *options, f"--user-data-dir={folder}", f"--window-size={size[0]},{size[1]}"]
        self._process = subprocess.Popen([*words, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self._number = 0
        self._closing = ExitStack()
        self._socket = self._closing.enter_context(connect(self._target(folder / "DevToolsActivePort"), max_size=None))
        self.send(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False
        )

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()
        self._process.terminate()
        self._process.wait(10)

    def _target(self, file: Path, timeout_s: float = 30.0) -> str:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            text = file.read_text() if file.exists() else ""
            if text:
                address = f"http://127.0.0.1:{text.split()[0]}/json/list"
                with urllib.request.urlopen(address, timeout=timeout_s) as answer:
                    pages = [one for one in json.load(answer) if one["type"] == "page"]
                if pages:
                    return str(pages[0]["webSocketDebuggerUrl"])
            assert self._process.poll() is None, "Chromium ended"
            time.sleep(0.05)
        raise TimeoutError("Chromium does not answer")

    def send(self, method: str, **parameters: Any) -> Any:
        """Give one command and return its result."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._number:
                assert "error" not in message, message
                return message["result"]

    def open(self, address: str) -> None:
        """Go to an address."""
        self.send("Page.enable")
        self.send("Page.navigate", url=address)

    def run(self, script: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, script: str, timeout_s: float = 20.0) -> None:
        """Wait until an expression in the page is true; one that fails is not."""
        deadline = time.monotonic() + timeout_s
        while True:
            value = self.run(f"(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()")
            if value:
                return
            if time.monotonic() >= deadline:
                raise TimeoutError(f"{script}: not within {timeout_s:g} s; the page says: {self.text()}")
            time.sleep(0.03)

    def text(self) -> str:
        """Return what the page shows as text."""
        return str(self.run("document.body.innerText"))

    def press(self, code: str) -> None:
        """Press and release a key."""
        for down in (True, False):
            self.key(code, down)

    def key(self, code: str, down: bool) -> None:
        """Press a key, or release it."""
        key, text = _KEYS[code]
        kind = "keyDown" if down else "keyUp"
        self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code, text=text if down else "")

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Return left, top, width and height of an element, px."""
        box = f"document.querySelector({json.dumps(selector)}).getBoundingClientRect()"
        left, top, width, height = self.run(f"(b => [b.left, b.top, b.width, b.height])({box})")
        return left, top, width, height

    def drag(self, selector: str, begin: tuple[float, float], end: tuple[float, float]) -> None:
        """Drag within an element, from one share of its width and height to another."""
        left, top, width, height = self.box(selector)
        shares = (("mousePressed", begin), ("mouseMoved", end), ("mouseReleased", end))
        for kind, (x, y) in shares:
            at = {"x": left + x * width, "y": top + y * height, "button": "left", "buttons": 1, "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=kind, **at)

    def mouse(self, selector: str, down: bool) -> None:
        """Press the mouse button on the middle of an element, or release it there."""
        left, top, width, height = self.box(selector)
        at = {"x": left + width / 2, "y": top + height / 2, "button": "left", "buttons": int(down), "clickCount": 1}
        self.send("Input.dispatchMouseEvent", type="mousePressed" if down else "mouseReleased", **at)

    def touch(self, selector: str, down: bool) -> None:
        """Put a finger on the middle of an element, or lift it."""
        left, top, width, height = self.box(selector)
        points = [{"x": left + width / 2, "y": top + height / 2}] if down else []
        self.send("Input.dispatchTouchEvent", type="touchStart" if down else "touchEnd", touchPoints=points)

    def click(self, selector: str, share: tuple[float, float] = (0.5, 0.5)) -> None:
        """Click into an element, at a share of its width and height."""
        left, top, width, height = self.box(selector)
        at = {"x": left + share[0] * width, "y": top + share[1] * height, "button": "left", "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, **at)

    def downloads(self, folder: Path) -> None:
        """Put downloads into a folder."""
        self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def scheme(self, name: str) -> None:
        """Prefer ``dark`` or ``light``."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def memory_mb(self) -> tuple[float, float]:
        """Return what scripts hold after a garbage collection, and the resident memory of all processes, MB."""
        self.send("HeapProfiler.collectGarbage")
        held = self.send("Runtime.getHeapUsage")["usedSize"]
        browser = psutil.Process(self._process.pid)
        resident = sum(process.memory_info().rss for process in (browser, *browser.children(recursive=True)))
        return held / 1e6, resident / 1e6

    def picture(self, file: Path) -> None:
        """Write what is seen as PNG."""
        file.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def seen(self, selector: str) -> bytes:
        """Return what is seen of an element, as PNG."""
        left, top, width, height = self.box(selector)
        clip = {"x": left, "y": top, "width": width, "height": height, "scale": 1}
        return base64.b64decode(self.send("Page.captureScreenshot", format="png", clip=clip)["data"])


class Film:
    """Frames of a page, each with the time until the next."""

    def __init__(self, page: Browser) -> None:
        """Begin."""
        self._page = page
        self._frames: list[Image.Image] = []
        self._taken_s: list[float] = []

    def take(self) -> None:
        """Add a frame; not so often that the graph is held up on a small machine."""
        if self._taken_s:
            time.sleep(max(0.0, self._taken_s[-1] + _FRAME_S - time.monotonic()))
        self._taken_s.append(time.monotonic())
        data = base64.b64decode(self._page.send("Page.captureScreenshot", format="png")["data"])
        self._frames.append(Image.open(io.BytesIO(data)).convert("RGB"))

    def until(self, script: str, timeout_s: float = 60.0) -> None:
        """Add frames until an expression in the page is true."""
        deadline = time.monotonic() + timeout_s
        while not self._page.run(f"(() => {{ try {{ return Boolean({script}) }} catch {{ return false }} }})()"):
            assert time.monotonic() < deadline, self._page.text()
            self.take()

    def rest(self, for_s: float) -> None:
        """Add frames for some time."""
        end_s = time.monotonic() + for_s
        while time.monotonic() < end_s:
            self.take()

    def write(self, file: Path, longest_s: float) -> None:
        """Write an animated WebP; stretches in which nothing changes are shortened."""
        ends_s = [*self._taken_s[1:], self._taken_s[-1] + 2.0]
        kept: list[tuple[Image.Image, float]] = []
        for frame, taken_s, end_s in zip(self._frames, self._taken_s, ends_s, strict=True):
            if kept and kept[-1][0].tobytes() == frame.tobytes():
                kept[-1] = frame, min(longest_s, kept[-1][1] + end_s - taken_s)
            else:
                kept.append((frame, end_s - taken_s))
        first, *others = (frame for frame, _ in kept)
        times_ms = [max(20, round(1000 * shown_s)) for _, shown_s in kept]
        first.save(file, save_all=True, append_images=others, duration=times_ms, loop=0, quality=60, method=4)


def film_of_a_navigation(address: str, file: Path) -> None:
    """Center the carina in the console of a running graph, then look from another side.

    Args:
        address: Of the console, with the token.
        file: Animated WebP to be written.
    """
    idle = "document.getElementById('task').hidden"
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as scratch, Browser(Path(scratch), (1180, 738)) as page:
        page.scheme("dark")
        page.open(address)
        page.wait("!document.getElementById('navigate').disabled")
        page.run("document.getElementById('room').hidden && document.getElementById('show-room').click()")
        page.wait(
            "document.getElementById('room').dataset.drawn > 0 && document.querySelector('#overlay circle')", 60.0
        )
        page.run("document.getElementById('landmark').value = 'Carina'")
        film = Film(page)
        film.rest(1.0)
        page.click("#navigate")
        film.rest(1.5)
        page.click("#confirm-yes")
        film.until(f"!{idle}")
        film.until(idle)
        film.rest(1.5)
        page.run("[...document.querySelectorAll('#views button')].find(b => b.textContent === 'LAO 30').click()")
        film.until("document.getElementById('confirm-picture').naturalWidth > 0")
        film.rest(2.0)
        page.click("#confirm-yes")
        film.until(f"!{idle}")
        film.until(idle)
        page.click("#expose")
        film.rest(2.0)
        film.write(file, 0.7)


def memory_of_a_page(address: str, for_s: float) -> None:
    """Print what a page of the console holds at first and at last.

    Args:
        address: Of the console, with the token.
        for_s: How long it is open, s.
    """
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as scratch, Browser(Path(scratch), (1280, 800)) as page:
        page.open(address)
        page.wait("document.body.dataset.image", 60.0)
        begin_s = time.monotonic()
        for share in (0.1, 0.5, 1.0):
            while time.monotonic() - begin_s < share * for_s:
                page.run("document.body.dataset.image")
                time.sleep(1.0)
            held_mb, resident_mb = page.memory_mb()
            print(
                f"after {share * for_s:.0f} s: scripts hold {held_mb:.1f} MB, browser {resident_mb:.0f} MB", flush=True
            )


def pictures_of_the_console(address: str, file: Path, plan: Path) -> None:
    """Center the carina in the console of a running graph, plan a view, and write what it shows then.

    Args:
        address: Of the console, with the token.
        file: PNG to be written when the carina is in the center.
        plan: PNG to be written while a plan waits; the field is collimated then.
    """
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as scratch, Browser(Path(scratch), (1440, 900)) as page:
        page.scheme("dark")
        page.open(address)
        page.wait("!document.getElementById('navigate').disabled")
        page.wait("document.getElementById('room').dataset.drawn > 0", 60.0)
        page.run("document.getElementById('landmark').value = 'Carina'")
        page.click("#navigate")
        page.click("#confirm-yes")
        page.wait("!document.getElementById('task').hidden")
        page.wait("document.getElementById('task').hidden && document.querySelector('#overlay circle')", 120.0)
        page.picture(file)
        page.click("#collimate")
        page.drag("#layers", (0.6, 0.6), (0.85, 0.8))
        page.wait("document.querySelector('#field .edges')")
        page.run("document.getElementById('view').value = 'spider'")
        page.click("#plan")
        page.wait("document.getElementById('confirm-picture').naturalWidth > 0", 60.0)
        page.wait("document.getElementById('room').dataset.drawn === document.getElementById('room').dataset.wanted")
        page.picture(plan)


if __name__ == "__main__":
    at, *files = sys.argv[1:]
    if files[0] == "--memory":
        memory_of_a_page(at, float(files[1]))
    elif len(files) == 1:
        film_of_a_navigation(at, Path(files[0]))
    else:
        pictures_of_the_console(at, *map(Path, files))
