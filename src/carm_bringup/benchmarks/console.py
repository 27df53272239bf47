# SPDX-License-Identifier: Apache-2.0
"""``carm bench console``: how old images and states are when a page has them, and how long a stop takes.

After that the arm moves, and each stop is timed until joint states are slower. The console node's memory is looked at
before pages come, after a tenth of the duration and at the end, so that what it needs once is told from growth.

Motion, X-ray and console node run as real processes; pages are clients of the same two sockets that a browser opens,
so what a browser adds (decoding, drawing) is not in the figures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import psutil

from carm_core.cli import results_file
from carm_core.cli.arguments import number, output_file, whole
from carm_core.errors import CarmError

START_S = 90.0
"""Longest wait for the first image, s."""
ANSWER_S = 5.0
STOP_EVERY_S = 1.0
_ADDRESS = re.compile(r"Console: (http://\S+)")
_NODES = ("motion_node", "xray_node", "console_node")


class ConsoleError(CarmError):
    """The console or its images did not come."""


@dataclass
class Page:
    """What one client has measured.

    Attributes:
        images_ms: Ages of images, from the middle of the exposure.
        states_ms: Ages of states, since the console node made them.
        stops_ms: From a stop until its service has answered.
        failed: Stops without an answer.
    """

    images_ms: list[float] = field(default_factory=list)
    states_ms: list[float] = field(default_factory=list)
    stops_ms: list[float] = field(default_factory=list)
    failed: int = 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--clients", type=whole(1, 8), default=1, metavar="N", help="open pages (1)")
    parser.add_argument("--rate", type=number(0.5, 30), default=15.0, metavar="HZ", help="images per second (15)")
    parser.add_argument("--readout", type=whole(64, 1536), default=1024, metavar="PX", help="side of an image (1024)")
    parser.add_argument("--format", choices=("png", "jpeg"), default="png", help="of the images (png)")
    parser.add_argument("--duration", type=number(2, 3600), default=30.0, metavar="S", help="s (30)")
    parser.add_argument("--patient", default="chest_ct", help="chest_ct, phantom:SEED or a CT (chest_ct)")
    parser.add_argument("--moving-stops", type=whole(0, 100), default=10, help="stops while the arm moves (10)")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: Bad input, or nothing came.
    """
    results_file.check_file(args.json)
    with _graph(args) as (address, process):
        pages = [Page() for _ in range(args.clients)]
        print(f"Console: {address}", flush=True)  # a browser may watch, too
        cookie = _cookie(address)
        _first_image(address, cookie)
        before_mb = process.memory_info().rss / 1e6
        before_s, began_s = sum(process.cpu_times()[:2]), time.monotonic()
        ends_s = began_s + args.duration
        threads = [
            threading.Thread(target=target, args=(address, cookie, page, ends_s, index == 0), daemon=True)
            for index, page in enumerate(pages)
            for target in (_watch_images, _watch_states)
        ]
        for thread in threads:
            thread.start()
        time.sleep(args.duration / 10)
        tenth_mb = process.memory_info().rss / 1e6
        for thread in threads:
            thread.join(args.duration + START_S)
        share = (sum(process.cpu_times()[:2]) - before_s) / (time.monotonic() - began_s)
        figures = figures_of(pages) | {"cpu_share": share, "rss_mb": process.memory_info().rss / 1e6}
        problem: ConsoleError | None = None
        slowed_ms: list[float] = []
        try:
            slowed_ms = _moving_stops(address, cookie, args.moving_stops)
        except ConsoleError as error:  # what has been measured until then is not lost
            problem = error
        figures |= {"rss_start_mb": before_mb, "rss_tenth_mb": tenth_mb}
        if slowed_ms:
            figures |= _percentiles("moving_stops", "slowed", slowed_ms)
    if "slowed_p50_ms" in figures:
        slowed = f"p50 {figures['slowed_p50_ms']:.0f} ms, p99 {figures['slowed_p99_ms']:.0f} ms"
        print(f"{figures['moving_stops']} stops of an arm that moves: decelerates after {slowed}")
    print(
        f"{args.clients} pages, {args.readout} x {args.readout} at {args.rate:g}/s: {figures['images']} images,"
        f" age p50 {figures['image_age_p50_ms']:.0f} ms, p99 {figures['image_age_p99_ms']:.0f} ms;"
        f" state p99 {figures['state_age_p99_ms']:.0f} ms; {figures['stops']} stops,"
        f" answered p50 {figures['stop_p50_ms']:.0f} ms, p99 {figures['stop_p99_ms']:.0f} ms,"
        f" {figures['stops_failed']} failed; {100 * share:.0f} % of a core,"
        f" {figures['rss_mb']:.0f} MB (at first {before_mb:.0f}, after {args.duration / 10:.0f} s {tenth_mb:.0f})"
    )
    if args.json is not None:
        words = [f"--clients {args.clients} --rate {args.rate:g} --readout {args.readout} --format {args.format}"]
        words += [f"--moving-stops {args.moving_stops}"]
        words += [f"--duration {args.duration:g} --patient {args.patient}"]
        command = " ".join(["carm bench console", *words])
        results_file.write(args.json, results_file.document(command, 0, {"console": figures}))
    if problem is not None:
        raise problem
    return 0


def figures_of(pages: Sequence[Page]) -> dict[str, Any]:
    """Return counts and percentiles over all pages.

    Raises:
        ConsoleError: Nothing was measured of one kind.
    """
    figures: dict[str, Any] = {"stops_failed": sum(page.failed for page in pages)}
    for name, key, kind in (("images", "image_age", "images_ms"), ("states", "state_age", "states_ms")):
        figures |= _percentiles(name, key, [value for page in pages for value in getattr(page, kind)])
    return figures | _percentiles("stops", "stop", [value for page in pages for value in page.stops_ms])


def _percentiles(name: str, key: str, values: Sequence[float]) -> dict[str, Any]:
    if not values:
        raise ConsoleError(f"no {name} came")
    p50, p99 = (float(np.percentile(values, share)) for share in (50, 99))
    return {name: len(values), f"{key}_p50_ms": p50, f"{key}_p99_ms": p99}


@contextmanager
def _graph(args: argparse.Namespace) -> Iterator[tuple[str, psutil.Process]]:
    """Run the nodes in a domain of their own: the console's address, and its process.

    The X-ray node does not hear ``state``: a stop would end its images, and stops are to be measured beside them.
    """
    from carm_bringup.graph import description as graph
    from carm_bringup.graph import domain_lock, launcher

    os.environ.update(domain_lock.own_domain())
    values = graph.resolve([f"patient:={args.patient}", f"rate:={args.rate}"])
    extra = {
        "motion_node": ("-p", "supervised:=false"),
        "xray_node": (
            *("-p", "binning:=1", "-p", f"readout_px:={args.readout}", "-p", f"compressed_format:={args.format}"),
            *("-r", "state:=unheard"),
        ),
    }
    commands = [launcher.node_command(spec, values) for spec in graph.nodes(values) if spec.name in _NODES]
    commands = [replace(one, words=(*one.words, *extra.get(one.name, ()))) for one in commands]
    said: list[str] = []
    supervisor = launcher.Supervisor(said.append, color=False)
    try:
        supervisor.start(commands)
        until_s = time.monotonic() + START_S
        while not (found := next(filter(None, map(_ADDRESS.search, said)), None)):
            if time.monotonic() > until_s:
                raise ConsoleError(f"no console within {START_S:g} s: {said[-1] if said else 'nothing was printed'}")
            time.sleep(0.1)
        yield found[1], psutil.Process(supervisor.pids()["console_node"])
    finally:
        supervisor.stop()


def _cookie(address: str) -> str:
    import httpx2

    answer = httpx2.get(address, trust_env=False)
    return str(answer.headers["set-cookie"]).partition(";")[0]


@contextmanager
def _socket(address: str, cookie: str, path: str) -> Iterator[Any]:
    from websockets.sync.client import connect

    origin = address.partition("/?")[0]
    headers: Mapping[str, str] = {"Origin": origin, "Cookie": cookie}
    address = origin.replace("http", "ws", 1) + path
    with connect(address, additional_headers=headers, proxy=None, max_size=None, max_queue=None) as socket:
        yield socket


def _moving_stops(address: str, cookie: str, count: int) -> list[float]:
    """Return the times from a page's stop until joint states are slower, ms; the arm moves evenly at each stop.

    Raises:
        ConsoleError: The arm does not move, or does not decelerate.
    """
    if not count:
        return []
    from carm_bringup.nodes.stop_probe import StopProbe, wait_for

    slowed_ms: list[float] = []
    probe = StopProbe()
    try:
        with _socket(address, cookie, "/control") as socket:
            _take_control(socket)
            for _ in range(count):
                socket.send('{"type":"reset"}')
                if not wait_for(lambda: _drained(socket) and probe.cruising, START_S):
                    raise ConsoleError("the arm does not move")
                asked_s = time.time()
                socket.send('{"type":"stop"}')
                if not wait_for(lambda since_s=asked_s: probe.slowed_after(since_s) is not None, ANSWER_S):  # type: ignore[misc]
                    raise ConsoleError(f"the arm does not decelerate within {ANSWER_S:g} s")
                slowed_ms.append(1e3 * ((probe.slowed_after(asked_s) or asked_s) - asked_s))
                _read_until_stopped(socket)
    finally:
        probe.close()
    return slowed_ms


def _take_control(socket: Any) -> None:
    """Ask for control, which another page may have, and wait for it; only who controls may reset a stop."""
    socket.send('{"type":"take"}')
    until_s = time.monotonic() + START_S
    while time.monotonic() < until_s:
        message = json.loads(socket.recv(timeout=START_S))
        if message["type"] == "state":
            socket.send('{"type":"ack"}')
        if message["type"] == "control" and message["you"]:
            return
    raise ConsoleError("another page keeps control")


def _drained(socket: Any) -> bool:
    """Take what a page is sent, and acknowledge it."""
    with suppress(TimeoutError):
        while True:
            if json.loads(socket.recv(timeout=0))["type"] == "state":
                socket.send('{"type":"ack"}')
    return True


def _read_until_stopped(socket: Any) -> None:
    until_s = time.monotonic() + ANSWER_S
    while time.monotonic() < until_s:
        message = json.loads(socket.recv(timeout=ANSWER_S))
        if message["type"] == "state":
            socket.send('{"type":"ack"}')
            if message["mode"] == "stopped":
                return
    raise ConsoleError("the arm does not stop")


def _first_image(address: str, cookie: str) -> None:
    with _socket(address, cookie, "/images") as socket:
        try:
            socket.recv(timeout=START_S)
        except TimeoutError:
            raise ConsoleError(f"no image within {START_S:g} s") from None


def _watch_images(address: str, cookie: str, page: Page, ends_s: float, stops: bool) -> None:
    del stops
    with _socket(address, cookie, "/images") as socket, suppress(TimeoutError):
        socket.recv(timeout=ANSWER_S)  # the newest from before
        while time.monotonic() < ends_s:
            frame = socket.recv(timeout=ANSWER_S)
            (length,) = struct.unpack_from(">I", frame)
            stamp_ns = int(json.loads(frame[4 : 4 + length])["id"])
            page.images_ms.append(1e3 * time.time() - 1e-6 * stamp_ns)


def _watch_states(address: str, cookie: str, page: Page, ends_s: float, stops: bool) -> None:
    """Acknowledge states; the page that ``stops`` presses STOP once a second, and resets."""
    asked_s = 0.0
    next_s = time.monotonic() + STOP_EVERY_S
    with _socket(address, cookie, "/control") as socket, suppress(TimeoutError):
        while time.monotonic() < ends_s:
            message = json.loads(socket.recv(timeout=ANSWER_S))
            now_s = time.monotonic()
            if message["type"] == "state":
                page.states_ms.append(1e3 * (time.time() - message["time"]))
                socket.send('{"type":"ack"}')
            elif message["type"] == "stop" and stops and asked_s:
                page.stops_ms.append(1e3 * (now_s - asked_s))
                page.failed += not message["ok"]
                asked_s = 0.0
                socket.send('{"type":"reset"}')
            if stops and now_s >= next_s:
                page.failed += bool(asked_s)
                next_s, asked_s = now_s + STOP_EVERY_S, time.monotonic()
                socket.send('{"type":"stop"}')
