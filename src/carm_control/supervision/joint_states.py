# SPDX-License-Identifier: Apache-2.0
"""Joint states that can be believed: complete, finite, within limits, as fast as the joints are, from one source."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from carm_control.trajectory.limits import JointLimits
from carm_core.transforms import Array

_SLACK_M, _SLACK_RAD = 0.02, 0.05
"""How far outside its limits a joint may be, m and rad."""
_FASTER = 1.5
"""A joint may be this much faster than its limit."""
_JITTER_S = 0.06
"""How much time may be missing between the arrivals of two joint states, s."""
_OFF_M, _OFF_RAD = 0.003, 0.006
"""How far positions may differ from where the velocities lead, m and rad: what two sources may differ by."""
_ALARMS = 3
_ALARM_S = 1.0
"""So many doubtful joint states within this time are no accident, s."""
_KEPT_S = 0.2
_LEAST_SPAN_S = 0.035
"""Velocities and accelerations are differences over at least this time, s."""
_STILL = 0.05
"""Accelerations below this share of their limit are noise."""


@dataclass(frozen=True, eq=False)
class Motion:
    """Where the joints are and how they move.

    Attributes:
        position: (J,), m or rad.
        velocity: (J,), m/s or rad/s.
        acceleration: (J,), m/s² or rad/s².
        stamp_s: Time stamp, s.
        arrival_s: Monotonic time, s.
    """

    position: Array
    velocity: Array
    acceleration: Array
    stamp_s: float
    arrival_s: float


class JointStateCheck:
    """Believes joint states, or says why not. Times are monotonic, s, except stamps."""

    def __init__(self, limits: JointLimits, timeout_s: float) -> None:
        """Begin without joint states.

        Args:
            limits: Of the joints, J of them.
            timeout_s: Older joint states are unknown, s.
        """
        self._limits = limits
        self.timeout_s = timeout_s
        self._slack = limits.by_unit(_SLACK_M, _SLACK_RAD)
        self._off = limits.by_unit(_OFF_M, _OFF_RAD)
        self._believed: deque[Motion] = deque(maxlen=64)
        self._doubts: deque[tuple[float, str]] = deque(maxlen=_ALARMS)
        self.received = 0
        self.refused = 0

    def receive(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        stamp_s: float,
        now_s: float,
    ) -> str:
        """Take a joint state.

        Args:
            names: Joints, in any order; others than those of the arm are passed over.
            positions: M or rad.
            velocities: M/s or rad/s; empty: from the positions.
            stamp_s: Its time stamp, s; 0: it has none.
            now_s: When it came.

        Returns:
            Why it is not believed; empty when it is, or when it is one that came twice.
        """
        self.received += 1
        doubt, motion = self._read(names, positions, velocities, stamp_s or now_s, now_s)
        if motion is not None and not doubt:
            doubt = self._change(motion)
        if doubt:
            self.refused += 1
            self._doubts.append((now_s, doubt))
        elif motion is not None:
            self._believed.append(motion)
        return doubt

    def _read(
        self,
        names: Sequence[str],
        positions: Sequence[float],
        velocities: Sequence[float],
        stamp_s: float,
        now_s: float,
    ) -> tuple[str, Motion | None]:
        wanted, places = self._limits.names, {name: place for place, name in enumerate(names)}
        lacking = [name for name in wanted if places.get(name, len(positions)) >= len(positions)]
        if lacking:
            return f"joint states without {lacking[0]}", None
        order = [places[name] for name in wanted]
        if velocities and len(velocities) <= max(order):
            return "joint states with fewer velocities than positions", None
        q = np.array([positions[place] for place in order], dtype=np.float64)
        v = np.array([velocities[place] for place in order], dtype=np.float64) if velocities else None
        values = q if v is None else np.concatenate([q, v])
        if not (np.isfinite(values).all() and math.isfinite(stamp_s)):
            return "joint states that are not finite", None
        outside = (q < self._limits.lower - self._slack) | (q > self._limits.upper + self._slack)
        if outside.any():
            joint = int(outside.argmax())
            return f"{wanted[joint]} = {q[joint]:.4g} {self._limits.units[joint]}, outside its limits", None
        fast = np.zeros(len(q), dtype=bool) if v is None else np.abs(v) > _FASTER * self._limits.velocity
        if v is not None and fast.any():
            joint = int(fast.argmax())
            return f"{wanted[joint]} at {v[joint]:.4g} {self._limits.units[joint]}/s, beyond its limit", None
        last = self._fresh(now_s)
        if last is not None and stamp_s == last.stamp_s and np.array_equal(q, last.position):
            return "", None
        velocity = self._slope(q, stamp_s, now_s) if v is None else v
        return "", Motion(q, velocity, self._acceleration(velocity, stamp_s, now_s), stamp_s, now_s)

    def _fresh(self, now_s: float) -> Motion | None:
        last = self._believed[-1] if self._believed else None
        return last if last is not None and now_s - last.arrival_s <= self.timeout_s else None

    def _earlier(self, stamp_s: float, now_s: float) -> Motion | None:
        """Return the newest joint state that is old enough for a difference."""
        for motion in reversed(self._believed):
            if now_s - motion.arrival_s > _KEPT_S + _LEAST_SPAN_S:
                return None
            if stamp_s - motion.stamp_s >= _LEAST_SPAN_S:
                return motion
        return None

    def _slope(self, position: Array, stamp_s: float, now_s: float) -> Array:
        earlier = self._earlier(stamp_s, now_s)
        if earlier is None:
            return np.zeros_like(position)
        return np.asarray((position - earlier.position) / (stamp_s - earlier.stamp_s))

    def _acceleration(self, velocity: Array, stamp_s: float, now_s: float) -> Array:
        earlier, limit = self._earlier(stamp_s, now_s), self._limits.acceleration
        if earlier is None:
            return np.zeros_like(velocity)
        value = np.clip((velocity - earlier.velocity) / (stamp_s - earlier.stamp_s), -limit, limit)
        return np.where(np.abs(value) < _STILL * limit, 0.0, value)

    def _change(self, motion: Motion) -> str:
        """Return why a joint state cannot follow the last one that was believed; empty when it can."""
        last = self._fresh(motion.arrival_s)
        if last is None:
            return ""
        if motion.stamp_s <= last.stamp_s:
            return f"a joint state that is {last.stamp_s - motion.stamp_s:.3f} s older than the one before"
        elapsed_s = motion.arrival_s - last.arrival_s
        change = np.abs(motion.position - last.position)
        farthest = _FASTER * self._limits.velocity * (elapsed_s + _JITTER_S) + self._off
        if (change > farthest).any():
            joint = int((change / farthest).argmax())
            return (
                f"{self._limits.names[joint]} jumps by {change[joint]:.4g} {self._limits.units[joint]}"
                f" in {1000 * elapsed_s:.0f} ms"
            )
        step_s = min(motion.stamp_s - last.stamp_s, elapsed_s + _JITTER_S)
        led = (motion.velocity + last.velocity) / 2 * step_s
        blur = 0.3 * step_s * np.maximum(np.abs(motion.velocity), np.abs(last.velocity))
        if (np.abs(motion.position - last.position - led) > self._off + blur).any():
            return "positions that do not follow from the velocities: as if of two sources"
        return ""

    def motion(self, now_s: float) -> tuple[Motion | None, str]:
        """Return the joints' motion, and why it is not known, in one line; empty when it is.

        Args:
            now_s: Monotonic time, s.
        """
        last = self._fresh(now_s)
        if len(self._doubts) == _ALARMS and now_s - self._doubts[0][0] <= _ALARM_S:
            return last, self._doubts[-1][1]
        if last is not None:
            return last, ""
        if self._believed:
            return None, f"no valid joint states for {now_s - self._believed[-1].arrival_s:.1f} s"
        return None, "no valid joint states so far"
