# SPDX-License-Identifier: Apache-2.0
"""The verbs ``record`` and ``replay``."""

from __future__ import annotations

import argparse
import math
import re
import time
from pathlib import Path

from carm_core.cli.arguments import number, output_file, output_folder
from carm_core.errors import ConfigurationError


def add_record_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``carm record``."""
    parser.add_argument("-o", "--output", type=output_folder, help="folder of the bag (recordings/DATE_TIME)")
    parser.add_argument(
        "--dicom", type=output_folder, metavar="DIR", help="also write exposures and a dose report as DICOM"
    )
    parser.add_argument("--include", type=_pattern, default="", metavar="REGEX", help="record these topics too")
    parser.add_argument("--exclude", type=_pattern, default="", metavar="REGEX", help="do not record these topics")
    parser.add_argument("--duration", type=number(0, 1e9), default=0.0, metavar="S", help="stop after this time, s")


def run_record(options: argparse.Namespace) -> int:
    """Record a running graph until Ctrl-C."""
    folder = options.output or Path("recordings") / time.strftime("%Y-%m-%d_%H-%M-%S")
    if folder.exists():
        raise ConfigurationError(f"{folder} exists already; choose another folder with --output")
    if options.dicom is not None and options.dicom.exists() and not options.dicom.is_dir():
        raise ConfigurationError(f"{options.dicom} is not a folder")
    from carm_bringup.nodes.recorder_node import RecorderOptions, record

    namespace = "/" + options.namespace.strip("/")
    return record(RecorderOptions(folder, namespace, options.include, options.exclude, options.duration, options.dicom))


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression ({error})") from error
    return text


def add_replay_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``carm replay``."""
    parser.add_argument(
        "bag", type=Path, metavar="BAG", help="folder of a bag, or a bag file: mcap, SQLite (.db3) or ROS 1"
    )
    parser.add_argument("--node", choices=("perception", "agent"), help="replay only this node")
    parser.add_argument("--rate", type=_rate, default=1.0, help="speed relative to the recording, or max (1)")
    parser.add_argument("--localizer", default="", help="use this localizer (the recorded one)")
    parser.add_argument(
        "--ct", default="", metavar="PATH", help="the patient's CT, for localizer registered or fused, as in ct:="
    )
    parser.add_argument(
        "--image-topic", default="", metavar="TOPIC", help="topic of the images, if there are several candidates"
    )
    parser.add_argument(
        "--remap",
        action="append",
        default=[],
        type=_remapping,
        metavar="FROM:=TO",
        help="rename a topic or a namespace: /lab/:=/carm/",
    )
    parser.add_argument("--json", type=output_file(), metavar="FILE", help="write the result to a file")


def run_replay(options: argparse.Namespace) -> int:
    """Replay a bag; return 0 when all is identical, 1 when something differs."""
    from carm_bringup.recording.replay.replay import ReplayOptions, replay

    return replay(
        ReplayOptions(
            bag=options.bag,
            nodes=(options.node,) if options.node else ("perception", "agent"),
            rate=options.rate,
            localizer=options.localizer,
            ct=options.ct,
            image_topic=options.image_topic,
            remappings=dict(options.remap),
            prefix=f"/{options.namespace.strip('/')}/",
            json=options.json,
        )
    )


def _rate(text: str) -> float:
    if text == "max":
        return math.inf
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number, nor max")
    return value


def _remapping(text: str) -> tuple[str, str]:
    source, separator, target = text.partition(":=")
    if not separator or not source.startswith("/") or not target.startswith("/"):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form /from:=/to")
    return source, target
