# SPDX-License-Identifier: Apache-2.0
"""Virtual time, parts that freeze and die, and links between them that lose, delay and garble what they carry."""

from __future__ import annotations

import heapq
import itertools
import traceback
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from carm_bringup.benchmarks.faults.history import History
from carm_bringup.benchmarks.faults.scenario import Fault

Action = Callable[[], None]
_LATENCY_S = (0.0003, 0.003)


class World:
    """The clock and what is due on it."""

    def __init__(self, seed: int, faults: Sequence[Fault], history: History) -> None:
        """Start at 0 s.

        Args:
            seed: Of all that is random.
            faults: Of the episode.
            history: Told what happens.
        """
        self.seed, self.faults, self.history = seed, tuple(faults), history
        self.now_s = 0.0
        self.wall_offset_s = 0.0
        self._queue: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()

    @property
    def wall_s(self) -> float:
        """Time of day, s: it may jump."""
        return 1.7e9 + self.now_s + self.wall_offset_s

    def random(self, name: str) -> np.random.Generator:
        """Return a source of randomness of its own for a name."""
        return np.random.default_rng([self.seed, zlib.crc32(name.encode())])

    def at(self, time_s: float, action: Action) -> None:
        """Do something at a time, s."""
        heapq.heappush(self._queue, (max(time_s, self.now_s), next(self._numbers), action))

    def step(self, until_s: float) -> bool:
        """Do what is due next, unless that is later than a time, s; return whether something was done."""
        if not self._queue or self._queue[0][0] > until_s:
            self._set(until_s)
            return False
        time_s, _, action = heapq.heappop(self._queue)
        self._set(time_s)
        action()
        return True

    def _set(self, time_s: float) -> None:
        self.now_s = self.history.now_s = max(self.now_s, time_s)

    def run(self, until_s: float, condition: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass.

        Args:
            until_s: Until this time, s.
            condition: Or until this holds.

        Returns:
            Whether the condition holds.
        """
        while not condition():
            if not self.step(until_s):
                return condition()
        return True

    def active(self, kind: str, target: str = "") -> Fault | None:
        """Return the fault of a kind that is active now; None without."""
        found = (f for f in self.faults if f.kind == kind and f.target == target and f.active(self.now_s))
        return next(found, None)


class Part:
    """A process: it works unless it is frozen or dead.

    Attributes:
        name: Of the part.
        dead: Whether it has ended.
        frozen_s: It is frozen until this time, s.
    """

    def __init__(self, world: World, name: str) -> None:
        """Live in a world."""
        self.world, self.name = world, name
        self.dead = False
        self.frozen_s = 0.0
        self._waiting: list[tuple[str, Action]] = []
        for fault in world.faults:
            if fault.target == name and fault.kind == "freeze":
                world.at(fault.begin_s, lambda fault=fault: self.freeze(fault.duration_s))  # type: ignore[misc]
            elif fault.target == name and fault.kind == "death":
                world.at(fault.begin_s, self.die)

    @property
    def frozen(self) -> bool:
        """Whether it is frozen now."""
        return self.world.now_s < self.frozen_s

    @property
    def works(self) -> bool:
        """Whether it is neither frozen nor dead."""
        return not self.dead and not self.frozen

    def freeze(self, duration_s: float) -> None:
        """Freeze it, as SIGSTOP does, and wake it after a time, s."""
        if self.dead:
            return
        end_s = self.world.now_s + duration_s
        self.world.history.note("frozen", self.name, end_s)
        if end_s > self.frozen_s:
            self.frozen_s = end_s
            self.world.at(end_s, self._thaw)

    def die(self) -> None:
        """End it, as SIGKILL does."""
        if not self.dead:
            self.dead = True
            self._waiting.clear()
            self.world.history.note("dead", self.name)

    def _thaw(self) -> None:
        if self.frozen:
            return
        waiting, self._waiting = self._waiting, []
        for _, action in waiting:
            self.do(action)

    def receive(self, topic: str, action: Action, depth: int) -> None:
        """Handle what came, now or once it is awake; of a topic only the newest wait.

        Args:
            topic: Where it came.
            action: Handles it.
            depth: How many wait.
        """
        if self.dead:
            return
        if not self.frozen:
            self.do(action)
            return
        same = [entry for entry in self._waiting if entry[0] == topic]
        if len(same) >= depth:
            self._waiting.remove(same[0])
        self._waiting.append((topic, action))

    def do(self, action: Action) -> None:
        """Do something; an exception that escapes ends the part."""
        if self.dead:
            return
        try:
            action()
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            words = f"{type(error).__name__}: {error} ({last.name})"
            self.world.history.note("exception", self.name, 0.0, words)
            self.die()

    def every(self, period_s: Callable[[], float], action: Action, begin_s: float = 0.0) -> None:
        """Do something again and again; what falls into a freeze is done once, at its end."""

        def due() -> None:
            if self.dead:
                return
            if self.frozen:
                self.world.at(self.frozen_s, due)
                return
            self.do(action)
            self.world.at(self.world.now_s + period_s(), due)

        self.world.at(begin_s, due)


class Link:
    """A way for messages of one kind to one part."""

    def __init__(self, world: World, name: str, to: Part, depth: int = 10, garble: Callable[..., Any] | None = None):
        """Connect.

        Args:
            world: With the faults of the link.
            name: Of the link, one of ``LINKS``.
            to: Who receives.
            depth: How many messages wait for a frozen receiver.
            garble: Makes nonsense of a message, with a source of randomness.
        """
        self._world, self.name, self._to, self._depth, self._garble = world, name, to, depth, garble
        self._random = world.random(f"{name}->{to.name}")
        self._last_s = 0.0

    def send(self, message: Any, handle: Callable[[Any], None]) -> None:
        """Send a message.

        Args:
            message: What.
            handle: What the receiver does with it.
        """
        world, random = self._world, self._random
        drop, garbage = world.active("drop", self.name), world.active("garbage", self.name)
        if drop is not None and random.random() < 0.3 + 0.7 * drop.value:
            return
        if garbage is not None and self._garble is not None and random.random() < 0.5:
            message = self._garble(message, random)
        delay_s = float(random.uniform(*_LATENCY_S))
        delay = world.active("delay", self.name)
        if delay is not None:
            delay_s += 3.0 * delay.value**2
        arrive_s = world.now_s + delay_s
        if world.active("reorder", self.name) is not None:
            arrive_s += float(random.uniform(0.0, 0.3))
        else:
            arrive_s = max(arrive_s, self._last_s)
            self._last_s = arrive_s
        copies = 2 if world.active("duplicate", self.name) is not None else 1
        for copy in range(copies):
            late_s = arrive_s + copy * float(random.uniform(0.0, 0.5))
            self._world.at(late_s, lambda: self._to.receive(self.name, lambda: handle(message), self._depth))
