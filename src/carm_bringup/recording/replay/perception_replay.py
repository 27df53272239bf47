# SPDX-License-Identifier: Apache-2.0
"""Replays the frames of a bag through a localizer and compares its answers with those recorded.

The localizer is made and asked as in the localizer node, in this process: the same functions turn a message into a
frame and an answer into numbers. That leaves out DDS and the node's queue, which may pass frames over, so the result
does not depend on how busy the machine is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from carm_bringup.recording.bag.provenance import MODEL, parameters_of, recorded_parameters
from carm_bringup.recording.bag.reader import Bag, Recorded
from carm_bringup.recording.errors import BagError
from carm_bringup.recording.replay.comparison import Report, difference, same_number
from carm_bringup.recording.replay.frames import Frames, RecordedFrame, stamp_ns
from carm_core.errors import CarmError, quoted
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Protocol, Query
from carm_core.robot.kinematics import CArm
from carm_perception.localizers.registered import asked_point
from carm_perception.localizers.registry import BY_GEOMETRY, NAMES, OPENAI, REGISTERED, make_localizer
from carm_perception.nodes.parameters import LocalizerParameters
from carm_ros.image_messages import display_pixels

_SHOWN = 20
_NOT_FROM_A_BAG = (
    *("ct", "model_folder", "adapter", "server_url", "server_model", "server_api_key_env"),
    *("server_verify_tls", "server_ca_file"),
)
"""A bag may come from anywhere: it names no files, no addresses, and no secrets of this machine's environment."""
_NUMBERS = ("standard_deviation", "radius_90")


def recorded_settings(bag: Bag, localizer: str = "", ct: str = "") -> LocalizerParameters:
    """Return the parameters of the localizer node as recorded, or its defaults.

    Args:
        bag: The bag.
        localizer: Another localizer instead.
        ct: The patient's CT; empty: none.

    Raises:
        BagError: The recorded parameters cannot be used, or name a model, a CT or a server, which a bag may not choose.
    """
    settings = recorded_parameters(bag.records, "localizer_node", LocalizerParameters, _NOT_FROM_A_BAG)
    settings = dataclasses.replace(settings, ct=ct)
    recorded = parameters_of(bag.records, "localizer_node")
    if localizer:
        return dataclasses.replace(settings, localizer=localizer)
    if not ct and (recorded.get("ct") or settings.localizer == REGISTERED):
        raise BagError(
            f"{bag.path} was recorded with a CT of the patient; name it by --ct, or another localizer by --localizer"
        )
    if "localizer" not in recorded:
        named = bag.records.get(MODEL, {}).get("localizer", settings.localizer)
        settings = dataclasses.replace(settings, localizer=named if named in NAMES else settings.localizer)
    if settings.localizer not in set(NAMES) - {OPENAI}:
        raise BagError(
            f"{bag.path} was recorded with localizer {quoted(settings.localizer)}; a bag chooses no model and no"
            " server: name it by --localizer if you want it"
        )
    return settings


def open_localizer(settings: LocalizerParameters) -> Localizer:
    """Create the localizer, as the node does.

    Raises:
        CarmError: It cannot be loaded.
    """
    localizer = make_localizer(settings.localizer, settings.options())
    localizer.warm_up()
    return localizer


def replay_perception(
    bag: Bag,
    prefix: str,
    frames: Frames,
    localizer: Localizer,
    settings: LocalizerParameters,
    pace: Callable[[Iterable[RecordedFrame]], Iterable[RecordedFrame]] = lambda frames: frames,
) -> Report:
    """Ask the localizer the recorded questions, and compare the answers.

    Args:
        bag: The bag.
        prefix: Namespace with its trailing slash.
        frames: Its frames.
        localizer: Answers.
        settings: Parameters of the localizer node.
        pace: Gives the frames in their own time.
    """
    report = Report("perception")
    answers = _recorded_answers(bag, prefix)
    words = bag.of(f"{prefix}clinician")
    report.facts = {"localizer": localizer.name, "model": localizer.model_version, "answers": []}
    models = {m.message.model_version for m in bag.of(f"{prefix}landmarks") if m.message.model_version}
    report.facts["recorded_models"] = sorted(models)
    if models and models != {localizer.model_version}:
        report.notes.append(f"recorded with model {', '.join(sorted(models))}, replayed with {localizer.model_version}")
    missed = 0
    for recorded_frame in pace(frames.frames):
        frame = _frame(recorded_frame, settings, frames)
        if isinstance(frame, str):
            report.notes.append(frame)
            continue
        report.replayed += 1
        recorded = answers.get(recorded_frame.stamp_ns, [])
        if not recorded:
            missed += bool(answers)
            reply = localizer.localize(frame, _free_query(settings))
            report.facts["answers"].append({"stamp_ns": recorded_frame.stamp_ns, "answer": reply.answer})
        for place, answer in enumerate(recorded):
            earlier = recorded[place - 1].message.answer if place else ""
            _compare(report, frame, localizer, answer, (_last_words(words, answer), earlier))
    if missed:
        report.notes.append(f"{missed} frames have no recorded answer: they were skipped, or the answer is lost")
    if not answers:
        report.notes.append("no landmarks were recorded: nothing to compare with")
    return report


def _recorded_answers(bag: Bag, prefix: str) -> dict[int, list[Recorded]]:
    """Return stamp to its answers; an answer that was published twice counts once."""
    out: dict[int, list[Recorded]] = {}
    for recorded in bag.of(f"{prefix}landmarks"):
        answers = out.setdefault(stamp_ns(recorded.message), [])
        if not any(_lines(recorded.message) == _lines(known.message) for known in answers):
            answers.append(recorded)
    return out


def _frame(recorded: RecordedFrame, settings: LocalizerParameters, frames: Frames) -> XrayFrame | str:
    try:
        pixels = display_pixels(recorded.image)
    except CarmError as error:
        return str(error)
    focal_px = float(recorded.info.k[0])
    if not focal_px > 0 or recorded.info.width != pixels.shape[1]:
        return f"camera info (fx {focal_px}, {recorded.info.width} px wide) does not fit the image"
    frame = XrayFrame(pixels, 1000 * settings.source_isocenter_m / focal_px, recorded.stamp_ns * 1e-9)
    positions = frames.positions_at(recorded.stamp_ns)
    if (settings.localizer not in BY_GEOMETRY and not settings.ct) or positions is None:
        return frame
    carm = CArm.from_config()
    try:
        view = carm.view_of_image(positions, pixels.shape[1], pixels.shape[0], focal_px)
    except CarmError as error:
        return str(error)
    primary, secondary = carm.angles(positions)
    return dataclasses.replace(frame, view=view, primary_rad=primary, secondary_rad=secondary)


def _free_query(settings: LocalizerParameters) -> Query:
    """Return what the node asks about a frame that nobody asks about."""
    return Query(Protocol.POINTING if settings.localizer in NAMES else Protocol.LOCALIZATION)


def _last_words(words: list[Recorded], answer: Recorded) -> str:
    """Return what the clinician had said last: the hint of a question that the agent asked, perhaps."""
    said = [word for word in words if word.sent_ns < answer.sent_ns]
    return str(said[-1].message.data) if said else ""


def _compare(
    report: Report, frame: XrayFrame, localizer: Localizer, recorded: Recorded, context: tuple[str, str]
) -> None:
    """Ask again, without and with the clinician's sentence; a re-evaluation refers to the previous answer."""
    hint, earlier = context
    message = recorded.message
    try:
        protocol = Protocol(message.protocol)
    except ValueError:
        report.notes.append(f"unknown protocol {message.protocol!r}")
        return
    report.compared += 1
    lines: list[str] = []
    for words in dict.fromkeys(("", hint)):
        correction = earlier if protocol is Protocol.REEVALUATION else ""
        query = Query(protocol, message.target_id or None, words, correction, asked_point(message.answer))
        reply = localizer.localize(frame, query)
        found = _differences(report, frame, message, reply)
        if not found:
            return
        lines = lines or found
    if len(report.differences) < _SHOWN:
        stamp = f"{recorded.message.header.stamp.sec}.{recorded.message.header.stamp.nanosec:09d}"
        report.differences.append("\n".join([f"frame {stamp}, {message.protocol}:", *lines]))
    else:
        report.notes = [*[n for n in report.notes if not n.startswith("more differ")], "more differences are not shown"]


def _differences(report: Report, frame: XrayFrame, message: Any, reply: Localization) -> list[str]:
    from carm_perception.nodes.messages import landmark_message

    replayed = [landmark_message(estimate, frame) for estimate in reply.estimates]
    same_ids = [mark.id for mark in message.landmarks] == [mark.id for mark in replayed]
    marks = (
        [_same_mark(report, old, new) for old, new in zip(message.landmarks, replayed, strict=True)]
        if same_ids
        else [False]
    )
    same = all(marks) and message.answer == reply.answer and bool(message.abstained) == reply.abstained
    return [] if same else difference(_lines(message), _reply_lines(reply, replayed)) or ["numbers differ"]


def _same_mark(report: Report, old: Any, new: Any) -> bool:
    right, up = (
        report.same_length(1000 * float(a), 1000 * float(b))
        for a, b in zip(old.displacement, new.displacement, strict=True)
    )
    return (
        right
        and up
        and all(same_number(float(getattr(old, name)), float(np.float32(getattr(new, name)))) for name in _NUMBERS)
        and same_number(float(old.confidence), float(np.float32(new.confidence)))
    )


def _lines(message: Any) -> list[str]:
    head = message.answer or ("abstained: " if message.abstained else "failed: ") + message.message
    return [head, *map(_mark_line, message.landmarks)]


def _reply_lines(reply: Localization, marks: list[Any]) -> list[str]:
    head = reply.answer or ("abstained: " if reply.abstained else "failed: ") + reply.message
    return [head, *map(_mark_line, marks)]


def _mark_line(mark: Any) -> str:
    right, up = (1000 * float(value) for value in mark.displacement)
    return (
        f"{mark.name}: {right:z.2f} mm right, {up:z.2f} mm up, ±{1000 * float(mark.standard_deviation):.2f} mm,"
        f" 90 % within {1000 * float(mark.radius_90):.2f} mm, {100 * float(mark.confidence):.1f} % sure"
    )
