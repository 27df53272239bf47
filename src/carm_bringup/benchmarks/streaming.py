# SPDX-License-Identifier: Apache-2.0
"""``carm bench stream``: fluoroscopy end to end, real processes over DDS; the localizer runs for its own topic only."""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from carm_core.cli import results_file
from carm_core.cli.arguments import number, output_file, seed, whole
from carm_core.errors import CarmError
from carm_core.robot.kinematics import CArm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from carm_bringup.nodes.stream_probe import Arrival

BINNINGS = (1, 2, 3, 4, 6)
CASES = ((2, 0), (1, 1024), (1, 0))
"""Binning and readout in pixels where neither is given."""
WARM_UP_IMAGES = 15
"""Left out of the figures, of short runs a third: the first images find cold caches."""
FEWEST_IMAGES = 6
PATIENCE_S = 60.0
LANDMARKS = "landmarks"
LANDMARK_CASES = ((3, 0),)
"""The same for landmarks: the images that the graph shows by default."""
TOPICS = {"image": "xray/image", "image_raw": "xray/image_raw", LANDMARKS: "landmarks"}


class StreamError(CarmError):
    """No images came."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--rate", type=number(0.5, 30), default=15.0, metavar="HZ", help="fluoroscopy, images per second (15)"
    )
    parser.add_argument(
        "--binning",
        type=int,
        choices=BINNINGS,
        action="append",
        help="of the 1536 x 1536 detector; repeat for several (2, 1 with its central 1024 pixels, 1)",
    )
    parser.add_argument(
        "--readout",
        type=whole(0, 65535),
        default=0,
        metavar="PX",
        help="central square of the binned detector that is read out, such as 1024 with --binning 1 (0: all of it)",
    )
    parser.add_argument(
        "--topic",
        choices=sorted(TOPICS),
        default="image",
        help="topic to measure: an image, or the landmarks, which also starts the localizer (image)",
    )
    parser.add_argument("--duration", type=number(1, 3600), default=30.0, metavar="S", help="per binning, s (30)")
    parser.add_argument("--patient", default="chest_ct", help="chest_ct, phantom:SEED or a CT (chest_ct)")
    parser.add_argument("--seed", type=seed, default=0, help="of the noise (0)")
    parser.add_argument("--quick", action="store_true", help="4 s per binning")
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write all figures to FILE")


def run(args: argparse.Namespace) -> int:
    """Run the bench.

    Returns:
        Exit code 0.

    Raises:
        CarmError: Bad input, or no images came.
    """
    results_file.check_file(args.json)
    results = {}
    detector_px = CArm.from_config().detector.rows
    cases = [(binning, args.readout) for binning in dict.fromkeys(args.binning or (2, 1))]
    if not args.binning and not args.readout:
        cases = [*(LANDMARK_CASES if args.topic == LANDMARKS else CASES)]
    for binning, readout in cases:
        started_s, arrivals = _stream(binning, readout, args)
        arrivals = [one if one.rows else replace(one, rows=readout or detector_px // binning) for one in arrivals]
        metrics = figures_of(arrivals, args.rate) | {"first_image_s": arrivals[0].received_s - started_s}
        results[str(metrics["size_px"])] = metrics
        what = "landmarks of images" if args.topic == LANDMARKS else "images"
        print(
            f"{metrics['size_px']} x {metrics['size_px']}: {metrics['fps']:.2f} {what}/s, jitter p99"
            f" {metrics['jitter_p99_ms']:.1f} ms, latency p99 {metrics['latency_p99_ms']:.1f} ms"
            f" ({metrics['n']} images, the first {metrics['first_image_s']:.2f} s after the nodes' start)",
            flush=True,
        )
    if args.json is not None:
        results_file.write(args.json, results_file.document(command_line(args), args.seed, results))
    return 0


def figures_of(arrivals: Sequence[Arrival], rate_hz: float) -> dict[str, Any]:
    """Return the figures of a stream, the first images left out.

    Args:
        arrivals: Images in order.
        rate_hz: Rate that was asked for.

    Returns:
        ``n``, ``size_px``, ``fps``; ``jitter_p99_ms``: difference between the interval of two arrivals and the period;
        ``latency_p50_ms``, ``latency_p99_ms``: from the middle of the exposure to the arrival.

    Raises:
        StreamError: There are too few images.
    """
    import numpy as np

    if len(arrivals) < FEWEST_IMAGES:
        raise StreamError(f"only {len(arrivals)} images arrived; {FEWEST_IMAGES} are needed")
    kept = arrivals[min(WARM_UP_IMAGES, len(arrivals) // 3) :]
    received = np.array([one.received_s for one in kept])
    latency_ms = 1e3 * (received - np.array([one.stamp_s for one in kept]))
    intervals_s = np.diff(received)
    return {
        "n": len(kept),
        "size_px": kept[0].rows,
        "fps": float(len(intervals_s) / intervals_s.sum()),
        "jitter_p99_ms": float(np.percentile(np.abs(1e3 * (intervals_s - 1 / rate_hz)), 99)),
        "latency_p50_ms": float(np.percentile(latency_ms, 50)),
        "latency_p99_ms": float(np.percentile(latency_ms, 99)),
    }


def _stream(binning: int, readout: int, args: argparse.Namespace) -> tuple[float, list[Arrival]]:
    """Start motion and X-ray node in a domain of their own, listen, end them: when they started, and the images."""
    from tqdm import tqdm

    from carm_bringup.graph import description as graph
    from carm_bringup.graph import domain_lock, launcher
    from carm_bringup.nodes.stream_probe import listen

    os.environ.update(domain_lock.own_domain())
    values = graph.resolve([f"patient:={args.patient}", f"rate:={args.rate}"])
    commands = []
    landmarks = args.topic == LANDMARKS
    names = ["motion_node", "xray_node"] + ["localizer_node"] * landmarks
    for spec in graph.NODES:
        if spec.name in names:
            command = launcher.node_command(spec, values)
            if spec.name == "xray_node":
                extra = (f"binning:={binning}", f"seed:={args.seed}", f"readout_px:={readout}")
                words = (word for pair in extra for word in ("-p", pair))
                command = replace(command, words=(*command.words, *words))
            commands.append(command)
    gc.freeze()
    said: list[str] = []
    supervisor = launcher.Supervisor(said.append, color=False)
    duration_s = 4.0 if args.quick else args.duration
    started_s = time.time()
    try:
        supervisor.start(commands)
        with tqdm(total=int(duration_s * args.rate), desc=f"binning {binning}", unit="image", file=sys.stderr) as bar:
            topic = f"{graph.namespace(values)}/{TOPICS[args.topic]}"
            arrivals = listen(topic, landmarks, duration_s, PATIENCE_S, lambda count: bar.update(count - bar.n))
    finally:
        supervisor.stop()
    if not arrivals:
        raise StreamError(f"no image within {PATIENCE_S:.0f} s: {said[-1] if said else 'the nodes printed nothing'}")
    return started_s, arrivals


def command_line(args: argparse.Namespace) -> str:
    """Return the command line that gives these figures."""
    words = ["carm bench stream", *(f"--binning {binning}" for binning in args.binning or ())]
    words += [f"--readout {args.readout}"] if args.readout else []
    words += [f"--rate {args.rate:g}", f"--topic {args.topic}", f"--patient {args.patient}", f"--seed {args.seed}"]
    return " ".join([*words, "--quick" if args.quick else f"--duration {args.duration:g}"])
