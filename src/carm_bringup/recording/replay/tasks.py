# SPDX-License-Identifier: Apache-2.0
"""The navigation tasks of a bag: what was asked, what the agent said step by step, how it ended."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from carm_agent.navigation.task import Doubt, NavigationGoal
from carm_bringup.recording.bag.reader import Bag, Recorded
from carm_bringup.recording.replay.comparison import Report
from carm_core.data_files import parse_json

TASK, DIALOGUE, FEEDBACK, STATUS = (
    "agent/task",
    "agent/dialogue",
    "navigate/_action/feedback",
    "navigate/_action/status",
)
KIND_REASON, KIND_WARNING, KIND_RESULT = 1, 3, 4
"""Of ``Utterance``."""
_STATUS_CANCELED = 5
_SLACK_NS = 20_000_000


@dataclass(frozen=True, eq=False)
class RecordedTask:
    """One task.

    Attributes:
        goal: What was asked.
        begin_ns: When it was taken on, ns.
        end_ns: When its end was told, ns; the bag's end when it was not.
        feedback: Its steps; empty for tasks that a sentence started, which have no feedback.
        said: Decisions and warnings that were said.
        result: The last words; None when the bag ends before.
        canceled: It was canceled from outside.
    """

    goal: NavigationGoal
    begin_ns: int
    end_ns: int
    feedback: tuple[Recorded, ...]
    said: tuple[Recorded, ...]
    result: Recorded | None
    canceled: bool

    @property
    def reason(self) -> str:
        """Why it ended; empty on success."""
        return "" if self.result is None else str(self.result.message.reason)

    @property
    def summary(self) -> str:
        """The final message."""
        return "" if self.result is None else str(self.result.message.text)

    def step(self, number: int) -> Recorded | None:
        """Return a step of the feedback, from 0; None beyond the last."""
        return self.feedback[number] if 0 <= number < len(self.feedback) else None


def find_tasks(bag: Bag, prefix: str, report: Report) -> list[RecordedTask]:
    """Return the tasks of a bag in order; what is missing is noted.

    Args:
        bag: The bag.
        prefix: Namespace with its trailing slash.
        report: Takes the notes.
    """
    goals = bag.of(prefix + TASK)
    if not goals:
        report.notes.append(f"no {prefix}{TASK} in the bag: no task to replay")
    out = []
    for place, recorded in enumerate(goals):
        limit_ns = goals[place + 1].sent_ns if place + 1 < len(goals) else max(bag.end_ns, recorded.sent_ns) + 1
        try:
            goal = _goal(recorded.message.data)
        except (ValueError, TypeError) as error:
            report.notes.append(f"a task is skipped: its goal cannot be read ({error})")
            continue
        out.append(_task(bag, prefix, goal, recorded.sent_ns, limit_ns))
    return out


def _goal(text: str) -> NavigationGoal:
    content = parse_json(text)
    known = {item.name for item in dataclasses.fields(NavigationGoal)}
    values = {name: value for name, value in content.items() if name in known}
    if values.get("point_mm") is not None:
        x, y, z = map(float, values["point_mm"])
        values["point_mm"] = (x, y, z)
    return NavigationGoal(**values | {"doubt": Doubt(values.get("doubt", Doubt.NONE))})


def _task(bag: Bag, prefix: str, goal: NavigationGoal, begin_ns: int, limit_ns: int) -> RecordedTask:
    def within(topic: str, last_ns: int) -> list[Recorded]:
        return [m for m in bag.of(prefix + topic) if begin_ns - _SLACK_NS <= m.sent_ns <= last_ns]

    said = within(DIALOGUE, limit_ns)
    result = next((m for m in said if m.message.kind == KIND_RESULT and m.sent_ns >= begin_ns), None)
    end_ns = limit_ns if result is None else result.sent_ns
    statuses = [s for m in within(STATUS, end_ns + 10 * _SLACK_NS) for s in m.message.status_list]
    lines = [m for m in within(DIALOGUE, end_ns) if m.message.kind in (KIND_REASON, KIND_WARNING)]
    return RecordedTask(
        goal=goal,
        begin_ns=begin_ns,
        end_ns=end_ns,
        feedback=tuple(within(FEEDBACK, end_ns)),
        said=tuple(m for m in lines if not m.message.in_reply_to),
        result=result,
        canceled=bool(statuses) and _last_of_each(statuses) == _STATUS_CANCELED,
    )


def _last_of_each(statuses: list[Any]) -> int:
    """Return the status of the youngest goal."""
    youngest = max(statuses, key=lambda s: (s.goal_info.stamp.sec, s.goal_info.stamp.nanosec, s.status))
    return int(youngest.status)
