# SPDX-License-Identifier: Apache-2.0
"""Replays the navigation tasks of a bag: the navigator decides anew on the recorded images and answers.

The navigator runs in this process, on ports that give it what the recording holds at each point of the task: the next
image, the localizer's answer about it, the joint positions that were known then. The arm does not move: after each
motion the recording goes on. Where the recorded task was ended from outside (a cancel, a stop, a motion that failed)
the replayed one is, too, and its last words are compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_agent.errors import CanceledError, ImagingError, MotionError, NotAtRestError, StoppedError
from carm_agent.navigation.navigator import Navigator
from carm_agent.navigation.task import NavigationResult, Progress
from carm_agent.parameters import AgentParameters
from carm_agent.planning.planner import Planner
from carm_agent.ports import Acquisition, Arm, Clock, Imager, Interrupt
from carm_bringup.recording.bag.provenance import recorded_parameters
from carm_bringup.recording.bag.reader import Bag, Recorded
from carm_bringup.recording.replay.comparison import Report, difference
from carm_bringup.recording.replay.frames import Frames, RecordedFrame, stamp_ns
from carm_bringup.recording.replay.tasks import RecordedTask, find_tasks
from carm_core.collision.obstacles import Obstacles
from carm_core.errors import CarmError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory

_LATCHED = "stop is latched"
_INTERNAL = "I gave up because of an internal error"
_GAP_NS = 200_000_000
_EXPOSURES = re.compile(r"after (\d+) exposure")


class _Recording:
    """Where a replayed task stands in its recording.

    Attributes:
        task: The task.
        frames: Frames and joint states of the bag.
        answers: (Stamp, landmark, when it was sent) to the localizer's answer.
        target: Landmark that is looked for; 0 when it is unknown.
        interrupt: Trips where the recorded task was ended from outside.
        progress: Steps that the replayed task has told so far.
        used: Frames that it has seen.
    """

    def __init__(self, task: RecordedTask, frames: Frames, answers: dict[tuple[int, int, int], Any]) -> None:
        self.task, self.frames, self.answers = task, frames, answers
        self.target = _target(task)
        self.interrupt = Interrupt()
        self.progress: list[Progress] = []
        self.used: list[RecordedFrame] = []

    @property
    def now_ns(self) -> int:
        """Time of the present step of the task, ns."""
        step = self.task.step(len(self.progress) - 1)
        if step is not None:
            return step.sent_ns
        return max(self.task.begin_ns, self.used[-1].stamp_ns if self.used else 0)

    def next_frame(self) -> RecordedFrame | None:
        """Return the frame that the recorded task saw next; None when it saw no more.

        During fluoroscopy frames come by themselves: it is the first one after the step that the target was then
        looked for in.
        """
        task, step = self.task, len(self.progress)
        taken = _EXPOSURES.search(task.summary)
        if taken is not None and len(self.used) >= int(taken[1]):
            return None
        last_ns = self.used[-1].stamp_ns if self.used else 0
        after_ns = max(last_ns, self.now_ns if task.feedback else task.begin_ns)
        coming = [frame for frame in self.frames.frames if after_ns < frame.stamp_ns <= task.end_ns]
        looking, then = task.step(step), task.step(step + 1)
        if looking is not None:
            until_ns = task.end_ns if then is None else then.sent_ns
            asked = {
                s for s, target, sent in self.answers if target == self.target and looking.sent_ns <= sent <= until_ns
            }
            coming = [frame for frame in coming if frame.stamp_ns in asked] or coming
        return coming[0] if coming else None

    def answer(self, target_id: int) -> Any:
        """Return the recorded answer about a landmark in the frame that was seen last; None when there is none."""
        stamp = self.used[-1].stamp_ns
        return next((m for (s, t, _), m in reversed(self.answers.items()) if (s, t) == (stamp, target_id)), None)

    def tell(self, progress: Progress) -> None:
        """Handle a step of the replayed task; end the task where the recorded one was ended."""
        self.progress.append(progress)
        task = self.task
        ended = bool(task.feedback) and len(self.progress) >= len(task.feedback)
        if ended and task.canceled:
            self.interrupt.cancel(task.reason or "canceled")
        elif ended and _was_stopped(task):
            self.interrupt.stop(task.reason)

    def over(self, kind: Callable[[str], CarmError]) -> CarmError:
        """Return the error of a port that has nothing more to give: the recorded end, where there was one."""
        reason = self.task.reason or "the recording ends here"
        if self.task.canceled:
            return CanceledError(reason)
        if _was_stopped(self.task):
            return StoppedError(reason)
        if "make sure that the arm stands still" in self.task.summary:
            return NotAtRestError(reason)
        return kind(reason)


def _target(task: RecordedTask) -> int:
    try:
        return task.goal.landmark().id
    except CarmError:
        return 0


def _was_stopped(task: RecordedTask) -> bool:
    reason = task.reason.lower()
    return "stop" in reason and ("pressed" in reason or "clinician said" in reason or "latched" in reason)


class _Imager(Imager):
    def __init__(self, recording: _Recording, carm: CArm) -> None:
        self._recording, self._carm = recording, carm

    def expose(self, field_mm: float = 0.0) -> Acquisition:
        from carm_ros.messages import frame_from_messages

        recording = self._recording
        recorded = recording.next_frame()
        positions = None if recorded is None else recording.frames.positions_at(recorded.stamp_ns)
        if recorded is None or positions is None:
            raise recording.over(ImagingError)
        recording.used.append(recorded)
        frame = frame_from_messages(recorded.image, recorded.info, self._carm, positions)
        return Acquisition(frame, recorded.dose_area_product_gym2)


class _Answers(Localizer):
    name = "recording"

    def __init__(self, recording: _Recording) -> None:
        self._recording = recording

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        del frame
        from carm_agent.nodes.conversions import localization_from_result

        recording = self._recording
        message = recording.answer(query.target_id or 0)
        if message is None:
            raise recording.over(LocalizerError)
        code = 4 if message.abstained else 0 if len(message.landmarks) else 3
        return localization_from_result(SimpleNamespace(landmarks=message, error_code=code, error_msg=""), query)


class _Arm(Arm):
    def __init__(self, recording: _Recording) -> None:
        self._recording = recording

    def joint_positions(self) -> NDArray[np.float64]:
        recording = self._recording
        coming = recording.task.step(len(recording.progress))
        positions = recording.frames.positions_known_at(coming.sent_ns if coming is not None else recording.now_ns)
        if positions is None:
            raise recording.over(ImagingError)
        return positions.copy()

    def execute(self, trajectory: Trajectory) -> None:
        del trajectory
        recording = self._recording
        if recording.task.feedback and len(recording.progress) >= len(recording.task.feedback):
            raise recording.over(MotionError)


class _Clock(Clock):
    def __init__(self, recording: _Recording) -> None:
        self._recording = recording

    def now_s(self) -> float:
        return self._recording.now_ns * 1e-9


def replay_agent(bag: Bag, prefix: str, frames: Frames, wait: Callable[[int], None] = lambda time_ns: None) -> Report:
    """Decide again and compare with the recorded messages and actions.

    Args:
        bag: The bag.
        prefix: Namespace with its trailing slash.
        frames: Its frames.
        wait: Waits until a time of the bag, ns.
    """
    report = Report("agent")
    report.facts = {"tasks": []}
    parameters = recorded_parameters(bag.records, "agent_node", AgentParameters)
    carm = CArm.from_config()
    if not frames.positions:
        report.notes.append("no joint states: the agent is not replayed")
        return report
    gaps = sum(b - a > _GAP_NS for a, b in pairwise(frames.joint_stamps_ns))
    if gaps:
        report.notes.append(f"{gaps} gaps in the joint states: numbers may differ by the motion of the arm in between")
    answers = {
        (stamp_ns(m.message), int(m.message.target_id), m.sent_ns): m.message for m in bag.of(f"{prefix}landmarks")
    }
    for task in find_tasks(bag, prefix, report):
        name = _name(task)
        if task.result is None:
            report.notes.append(f"{name}: the bag ends before the task; only the recorded part is compared")
        if task.summary.startswith(_INTERNAL):
            report.notes.append(f"{name}: ended by a fault of the node ({task.reason}); the steps before are compared")
        if task.reason.startswith(_LATCHED) and not (task.feedback or task.said):
            report.notes.append(f"{name}: not started, stop was latched")
            continue
        recording = _Recording(task, frames, answers)
        navigator = Navigator(
            _planner(bag, prefix, carm, parameters, task.begin_ns),
            _Imager(recording, carm),
            _Answers(recording),
            _Arm(recording),
            _Clock(recording),
            recording.interrupt,
            parameters.navigator_config(),
        )

        def tell(progress: Progress, recording: _Recording = recording) -> None:
            recording.tell(progress)
            wait(recording.now_ns)

        result = navigator.run(task.goal, tell)
        report.replayed += 1
        report.compared += 1
        report.facts["tasks"].append({"task": name, "summary": result.summary, "steps": len(recording.progress)})
        lines = _compare(report, task, recording.progress, result)
        if lines:
            report.differences.append("\n".join([f"{name}:", *lines]))
    return report


def _planner(bag: Bag, prefix: str, carm: CArm, parameters: AgentParameters, time_ns: int) -> Planner:
    """Return the planner among the surroundings that the node knew at a time."""
    from carm_agent.nodes.environment import make_planner
    from carm_ros.patient_surface import surface_from_message

    planner = make_planner(carm, parameters)
    surface = bag.before(f"{prefix}patient_surface", time_ns)
    if surface is not None and planner.collision is not None:
        staff = planner.collision.obstacles.staff
        planner.set_obstacles(Obstacles(surface_from_message(surface.message), staff=staff))
    return planner


def _name(task: RecordedTask) -> str:
    try:
        return f"navigate to {task.goal.landmark().name}"
    except CarmError:
        return f"navigate to {task.goal.target_name!r}"


def _compare(report: Report, task: RecordedTask, told: list[Progress], result: NavigationResult) -> list[str]:
    if task.feedback:
        recorded = [_line(f.message.feedback.stage, f.message.feedback.reasoning) for f in task.feedback]
        replayed = [_line(progress.stage.value, progress.reasoning) for progress in told]
    else:
        recorded = [_line("said", said.message.text) for said in task.said]
        replayed = [_line("said", progress.reasoning) for progress in told if progress.decision]
    if task.result is None or task.summary.startswith(_INTERNAL):
        return difference(recorded, replayed[: len(recorded)])
    recorded.append(_line("result", task.summary))
    replayed.append(_line("result", result.summary))
    lines = difference(recorded, replayed)
    for step, progress in zip(task.feedback, told, strict=False):
        lines += [] if lines else _number_lines(report, step, progress)
    return lines


def _number_lines(report: Report, step: Recorded, progress: Progress) -> list[str]:
    feedback = step.message.feedback
    pairs = (
        ("distance", 1000 * float(feedback.distance), progress.distance_mm),
        ("uncertainty", 1000 * float(feedback.uncertainty), progress.radius_90_mm),
    )
    lines = [
        f"[{progress.stage.value}] {name}: {old:.2f} mm recorded, {new:.2f} mm replayed"
        for name, old, new in pairs
        if not report.same_length(old, new)
    ]
    if int(feedback.exposures) != progress.exposures:
        lines.append(
            f"[{progress.stage.value}] exposures: {feedback.exposures} recorded, {progress.exposures} replayed"
        )
    return lines


def _line(stage: str, text: str) -> str:
    return f"[{stage}] {text}"
