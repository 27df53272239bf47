# SPDX-License-Identifier: Apache-2.0
"""Checks what comes in from others, once, where it comes in: finite, in range, of bounded size, changing plausibly.

A check returns the value, or raises ``ImplausibleError`` with a line that names the quantity, the value and the
bounds. Nodes use it through ``carm_ros.node.OrderlyNode``, which drops, counts and reports what is refused.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Sequence, Sized

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import CarmError

REPORT_EVERY_S = 5.0
"""What one source sends in vain is reported at most this often, s."""


class ImplausibleError(CarmError):
    """What came in cannot be true, or is too large; it is not used."""


def number(name: str, value: float, lower: float, upper: float, unit: str = "", *, unknown: bool = False) -> float:
    """Return a number that is finite and in a range.

    Args:
        name: Of the quantity, for the message.
        value: What came in.
        lower: Smallest plausible value.
        upper: Largest plausible value.
        unit: Of all three.
        unknown: Whether NaN stands for "not known" and is passed on.

    Raises:
        ImplausibleError: It is not.
    """
    value = float(value)
    if unknown and math.isnan(value):
        return value
    if not lower <= value <= upper:
        raise ImplausibleError(f"{name} = {value:.6g} is outside [{lower:.6g}, {upper:.6g}]{unit and ' ' + unit}")
    return value


def numbers(
    name: str, values: Iterable[float], lower: float, upper: float, unit: str = "", *, count: int | None = None
) -> NDArray[np.float64]:
    """Return numbers (count,) that are all finite and in a range.

    Args:
        name: Of the quantity, for the message.
        values: What came in; an array of numbers or a sequence.
        lower: Smallest plausible value.
        upper: Largest plausible value.
        unit: Of all.
        count: How many there must be; None: any number.

    Raises:
        ImplausibleError: They are not.
    """
    array = np.asarray(values, dtype=np.float64)
    if count is not None and array.shape != (count,):
        raise ImplausibleError(f"{name} has {array.size} values, not {count}")
    bad = array[~((array >= lower) & (array <= upper))]
    if bad.size:
        number(name, bad[0], lower, upper, unit)
    return array


def at_most(name: str, items: Sized, most: int) -> None:
    """Refuse a sequence, an array or a text that is too long.

    Args:
        name: Of the quantity, for the message.
        items: What came in.
        most: The largest size.

    Raises:
        ImplausibleError: It is longer.
    """
    if len(items) > most:
        kind = "characters" if isinstance(items, str) else "bytes" if isinstance(items, bytes) else "entries"
        raise ImplausibleError(f"{name} has {len(items)} {kind}; at most {most} are taken")


class Refusals:
    """Counts what was refused, by source, and says when a line about it is due; safe to use from several threads."""

    def __init__(self) -> None:
        """Start with none."""
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def note(self, source: str) -> bool:
        """Count one; return whether it is to be reported: the first, then one every ``REPORT_EVERY_S``.

        Args:
            source: A topic, service or action.
        """
        now_s = time.monotonic()
        with self._lock:
            self._counts[source] = self._counts.get(source, 0) + 1
            due = now_s - self._told.get(source, -math.inf) >= REPORT_EVERY_S
            if due:
                self._told[source] = now_s
            return due

    def count(self, source: str) -> int:
        """Return how many a source has sent in vain."""
        with self._lock:
            return self._counts.get(source, 0)

    def values(self) -> dict[str, str]:
        """Return the counts for the diagnostics."""
        with self._lock:
            return {f"refused from {source}": str(count) for source, count in sorted(self._counts.items())}


class FreezeWatch:
    """Notices that this process stood still: suspended, or without the processor for long.

    Who waits for something that came in while the process stood still does not know how old it is. A thread of its own
    renews a time stamp; whoever asks sees a gap as soon as the process runs again, before that thread does.
    """

    def __init__(self, bound_s: float, beat_s: float = 0.05) -> None:
        """Begin to watch.

        Args:
            bound_s: A gap longer than this counts, s.
            beat_s: Period of the time stamp, s.
        """
        self._bound_s, self._beat_s = bound_s, beat_s
        self._lock = threading.Lock()
        self._beat_at_s = time.monotonic()
        self._gap = (-math.inf, -math.inf)
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="freeze watch", daemon=True).start()

    def _run(self) -> None:
        while not self._closed.wait(self._beat_s):
            self.last_gap()

    def last_gap(self) -> tuple[float, float]:
        """Return when the last gap began and ended, monotonic, s; minus infinity where there was none."""
        with self._lock:
            now_s = time.monotonic()
            if now_s - self._beat_at_s > self._bound_s:
                self._gap = (self._beat_at_s, now_s)
            self._beat_at_s = now_s
            return self._gap

    def stood_still_s(self, since_s: float) -> float:
        """Return how long the process stood still in a gap that ended after a moment, s; 0 where there was none.

        Args:
            since_s: The moment, monotonic, s.
        """
        began_s, ended_s = self.last_gap()
        return ended_s - began_s if ended_s > since_s else 0.0

    def close(self) -> None:
        """End the thread."""
        self._closed.set()


def named_once(name: str, names: Sequence[str]) -> dict[str, int]:
    """Return the place of each name in a list.

    Args:
        name: Of the list, for the message.
        names: What came in.

    Raises:
        ImplausibleError: A name is there twice.
    """
    places = {each: place for place, each in enumerate(names)}
    if len(places) < len(names):
        twice = next(each for place, each in enumerate(names) if places[each] != place)
        raise ImplausibleError(f"{name} lists {twice[:40]!r} twice")
    return places
