# SPDX-License-Identifier: Apache-2.0
"""The verb ``replay``: a bag's frames through perception and agent, and whether they say the same again."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from carm_agent.phrases import printable
from carm_bringup.recording.bag.provenance import CARM_CONFIG, SESSION, carm_config_record
from carm_bringup.recording.bag.reader import Bag, read_bag
from carm_bringup.recording.errors import BagError
from carm_bringup.recording.replay.comparison import Report
from carm_bringup.recording.replay.frames import IMAGE, RAW, Frames, RecordedFrame, find_frames
from carm_core.cli import results_file
from carm_core.errors import plain_line
from carm_core.localization import Localizer
from carm_core.robot.kinematics import CArm

_NOTES_SHOWN = 12
_UNUSED = ("/tf", "/diagnostics", "/rosout")
STATE = "state"


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay, and how.

    Attributes:
        bag: The bag.
        nodes: ``"perception"``, ``"agent"`` or both.
        rate: Times the bag's own speed; infinite: as fast as possible.
        localizer: Another localizer than the recorded one; empty: the recorded one.
        ct: The patient's CT for ``registered`` and ``fused``; empty: none.
        image_topic: Topic of the images, by its new name; empty: chosen.
        remappings: Topic or namespace in the bag to its new name.
        prefix: Namespace of the graph with its trailing slash.
        json: File for the outcome; None: none.
    """

    bag: Path
    nodes: tuple[str, ...] = ("perception", "agent")
    rate: float = math.inf
    localizer: str = ""
    ct: str = ""
    image_topic: str = ""
    remappings: dict[str, str] = field(default_factory=dict)
    prefix: str = "/carm/"
    json: Path | None = None


class Pace:
    """Lets the time of the bag pass as fast as asked."""

    def __init__(self, rate: float) -> None:
        """Start with the first time that is waited for.

        Args:
            rate: Times the bag's own speed.
        """
        self._rate = rate
        self._begin: tuple[int, float] | None = None

    def wait(self, time_ns: int) -> None:
        """Wait until a time of the bag, ns."""
        if self._begin is None:
            self._begin = (time_ns, time.monotonic())
        bag_ns, here_s = self._begin
        remaining_s = (time_ns - bag_ns) * 1e-9 / self._rate - (time.monotonic() - here_s)
        if remaining_s > 0:
            time.sleep(remaining_s)

    def frames(self, frames: Iterable[RecordedFrame]) -> Iterator[RecordedFrame]:
        """Yield frames at the speed of the recording, with a progress bar."""
        for frame in tqdm(frames, "frames", disable=not sys.stderr.isatty(), leave=False):
            self.wait(frame.sent_ns)
            yield frame


def replay(options: ReplayOptions) -> int:
    """Replay a bag and report the differences.

    Returns:
        Exit code: 0 when all that could be compared is identical, 1 when something differs.

    Raises:
        BagError: There is no bag, or no image in it.
        CarmError: The localizer cannot be loaded.
    """
    results_file.check_file(options.json)
    bag = _read(options)
    frames = find_frames(bag, options.prefix, CArm.from_config(), options.image_topic)
    _introduce(bag, frames)
    reports = list(run(options, bag, frames))
    for report in reports:
        _show(report)
    if options.json is not None:
        results = {report.name: report.result() for report in reports}
        results["bag"] = {"notes": bag.notes + frames.notes, "complete": bag.complete, "duration_s": bag.duration_s}
        results_file.write(options.json, results_file.document(f"carm replay {options.bag}", 0, results))
    return 0 if all(report.identical for report in reports) else 1


def _read(options: ReplayOptions) -> Bag:
    """Read what the replay needs: the raw images only where there are no others."""
    unused = {*_UNUSED, options.prefix + STATE}
    try:
        bag = read_bag(options.bag, options.remappings, {*unused, options.prefix + RAW})
    except BagError:
        return read_bag(options.bag, options.remappings)
    if bag.of(options.prefix + IMAGE) or options.image_topic in bag.types:
        return bag
    return read_bag(options.bag, options.remappings, unused)


def run(options: ReplayOptions, bag: Bag, frames: Frames, localizer: Localizer | None = None) -> Iterator[Report]:
    """Replay each of the nodes.

    Args:
        options: What to replay.
        bag: The bag.
        frames: Its frames.
        localizer: Answers; made as recorded when left out.
    """
    if "perception" in options.nodes:
        from carm_bringup.recording.replay import perception_replay as perception

        settings = perception.recorded_settings(bag, options.localizer, options.ct)
        made = localizer or perception.open_localizer(settings)
        pace = Pace(options.rate)
        yield perception.replay_perception(bag, options.prefix, frames, made, settings, pace.frames)
        if localizer is None:
            made.close()
    if "agent" in options.nodes:
        from carm_bringup.recording.replay.agent_replay import replay_agent

        yield replay_agent(bag, options.prefix, frames, Pace(options.rate).wait)


def _introduce(bag: Bag, frames: Frames) -> None:
    count = sum(len(messages) for messages in bag.messages.values())
    print(f"{bag.path}: {bag.duration_s:.1f} s, {count} messages of {len(bag.messages)} topics are used")
    print(f"{len(frames.frames)} frames of {frames.topic}, {len(frames.positions)} joint states")
    session = bag.records.get(SESSION, {})
    if session:
        origin = f"{session.get('carm', '?')}, commit {session.get('commit') or 'unknown'}"
        print(f"recorded by carm {plain_line(origin)}")
    if CARM_CONFIG in bag.records and bag.records[CARM_CONFIG] != carm_config_record():
        frames.notes.append("recorded with a different carm.yaml")
    notes = list(dict.fromkeys(bag.notes + frames.notes))
    for note in notes[:_NOTES_SHOWN]:
        print(f"note: {plain_line(note)}")
    if len(notes) > _NOTES_SHOWN:
        print(f"note: {len(notes) - _NOTES_SHOWN} more notes")


def _show(report: Report) -> None:
    for text in report.differences:
        print(printable(text))
    for note in report.notes[:_NOTES_SHOWN]:
        print(f"note: {plain_line(note)}")
    what = "frames" if report.name == "perception" else "tasks"
    if not report.compared:
        verdict = "nothing to compare with"
    elif report.identical:
        verdict = f"identical to the recording ({report.compared} compared)"
    else:
        verdict = f"{len(report.differences)} of {report.compared} differ (- recorded, + replayed)"
    print(f"{report.name}: {report.replayed} {what} replayed, {verdict}", flush=True)
