# SPDX-License-Identifier: Apache-2.0
"""What the agent counts for its diagnostics: rates, latencies, and what came in vain."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any

from carm_interfaces.action import Localize


@dataclass
class Latency:
    """How long something took.

    Attributes:
        count: How often it was done.
        last_s: The last time, s; NaN before.
        longest_s: The longest time so far, s; NaN before.
    """

    count: int = 0
    last_s: float = math.nan
    longest_s: float = math.nan
    _begin_s: float = math.nan

    def __enter__(self) -> None:
        """Begin; one at a time."""
        self._begin_s = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Count what has come to its end; what failed does not count."""
        if kind is None:
            self.count += 1
            self.last_s = time.monotonic() - self._begin_s
            self.longest_s = max(self.longest_s, self.last_s) if self.count > 1 else self.last_s

    @property
    def text(self) -> str:
        """Last and longest, in ms."""
        return f"{1e3 * self.last_s:.0f}, longest {1e3 * self.longest_s:.0f}" if self.count else "none yet"


@dataclass
class Counters:
    """Counts since the node's start; fed by the executor's and the tasks' threads, an int or a float at a time.

    Attributes:
        joint_states: Messages with all joints.
        incomplete: Messages without some of them.
        images: Images received.
        exposures: From the request until image and camera info are there.
        answers: From the question until the localizer's answer.
        late_answers: Answers that came after the question was given up, or about another image.
        refused: Trajectories that the controller did not take.
        trajectories: Trajectories sent.
    """

    joint_states: int = 0
    incomplete: int = 0
    images: int = 0
    exposures: Latency = field(default_factory=Latency)
    answers: Latency = field(default_factory=Latency)
    late_answers: int = 0
    trajectories: int = 0
    refused: int = 0
    _before: tuple[float, int, int] = field(default_factory=lambda: (time.monotonic(), 0, 0))

    def given_up(self, answered: Any) -> None:
        """Watch for the answer to a question that nobody waits for anymore.

        Args:
            answered: Future of the localizer's result.
        """
        answered.add_done_callback(self._too_late)

    def _too_late(self, answered: Any) -> None:
        outcome = answered.result()
        if outcome is not None and outcome.result.error_code == Localize.Result.ERROR_NONE:
            self.late_answers += 1

    def values(self) -> dict[str, str]:
        """Return what to show; rates are those since the last call."""
        now_s, (then_s, joint_states, images) = time.monotonic(), self._before
        self._before = (now_s, self.joint_states, self.images)
        period_s = max(now_s - then_s, 1e-3)
        return {
            "joint states (Hz)": f"{(self.joint_states - joint_states) / period_s:.1f}",
            "joint states without all joints": str(self.incomplete),
            "images (Hz)": f"{(self.images - images) / period_s:.1f}",
            "images": str(self.images),
            "images passed over": str(self.images - self.exposures.count),
            "exposures": str(self.exposures.count),
            "exposure to image (ms)": self.exposures.text,
            "localizer answers": str(self.answers.count),
            "localizer latency (ms)": self.answers.text,
            "late answers dropped": str(self.late_answers),
            "trajectories": str(self.trajectories),
            "trajectories refused": str(self.refused),
        }
