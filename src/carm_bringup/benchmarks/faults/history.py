# SPDX-License-Identifier: Apache-2.0
"""What happened in an episode, as the judges need it: true joint positions, commands, and events."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from carm_control import Snapshot
from carm_core.transforms import Array


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        time_s: When, s.
        kind: What, for example ``stop``.
        name: To whom or what.
        value: A number; what it means depends on the kind.
        text: In words.
    """

    time_s: float
    kind: str
    name: str = ""
    value: float = 0.0
    text: str = ""


@dataclass
class History:
    """Record of an episode.

    Attributes:
        events: In order.
        times_s: Of the samples, s.
        true: True joint positions (J,) at these times, m or rad.
        cycles: Of the control loop: time, time since the one before, s; commanded positions (J,), m or rad; state.
        setpoints: As published: time, s; positions, velocities and accelerations (J,), in m or rad and s.
        now_s: Present time, s.
    """

    events: list[Event] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)
    true: list[Array] = field(default_factory=list)
    cycles: list[tuple[float, float, Array, str]] = field(default_factory=list)
    setpoints: list[tuple[float, Array, Array, Array]] = field(default_factory=list)
    now_s: float = 0.0

    def cycle(self, time_s: float, passed_s: float, snapshot: Snapshot) -> None:
        """Keep a cycle of the control loop.

        Args:
            time_s: When, s.
            passed_s: Since the cycle before, s.
            snapshot: After it.
        """
        self.cycles.append((time_s, passed_s, np.array(snapshot.desired.position), snapshot.state.name))

    def note(self, kind: str, name: str = "", value: float = 0.0, text: str = "", time_s: float | None = None) -> None:
        """Note an event, now unless a time, s, is given."""
        self.events.append(Event(self.now_s if time_s is None else time_s, kind, name, value, text))

    def sample(self, time_s: float, true: Array) -> None:
        """Keep the true joint positions (J,), m or rad, at a time, s."""
        if self.times_s and time_s <= self.times_s[-1]:
            return
        self.times_s.append(time_s)
        self.true.append(np.array(true, dtype=np.float64))

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of some kinds, in order."""
        return sorted((event for event in self.events if event.kind in kinds), key=lambda event: event.time_s)
