# SPDX-License-Identifier: Apache-2.0
"""Paths through joint positions and their timing.

A path is a polyline with rounded corners. Its parameter is the time, s, that the slowest joint would need at its
velocity limit; on the lines the only motion is along this parameter, so that the joints' limits become limits of the
parameter, and the time-optimal jerk-limited motion comes from ruckig (Berscheid and Kroeger, "Jerk-limited Real-time
Trajectory Generation with Arbitrary Target States", RSS 2021). A corner is passed at constant speed on a curve whose
derivative turns from one line's to the other's by the smoothstep 3u² - 2u³: acceleration is continuous, jerk bounded.
Lines are cubics in time and corners quartics, so the quintic spline of a trajectory controller reproduces both exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import ruckig
from numpy.typing import NDArray

from carm_core.errors import GoalError
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_core.transforms import Array

_LONGEST_INTERVAL_S = 0.1
_SHORTEST_INTERVAL_S = 1e-4
_TIME_DECIMALS = 9
"""ROS times are whole nanoseconds; states for times that are rounded later have jerks of their own."""
_NO_TRAVEL_S = 1e-6
_CORNER_SHARE = 0.45
"""A corner takes at most this share of the lines that meet there."""
_LONGEST_CORNER_S = 1.5
_STEEPEST = 1.5, 6.0
"""Largest first and second derivative of the smoothstep."""


@dataclass(frozen=True, eq=False)
class _Piece:
    """A line (``after`` is None) or a rounded corner; parameters in s, joint positions in m or rad."""

    begin: float
    length: float
    origin: Array
    before: Array
    after: Array | None = None

    @property
    def end(self) -> float:
        return self.begin + self.length

    def at(self, parameter: float) -> tuple[Array, Array, Array]:
        """Return the position and its first two derivatives by the parameter, each (J,)."""
        tau = parameter - self.begin
        if self.after is None:
            return self.origin + tau * self.before, self.before, np.zeros_like(self.before)
        u, change = tau / self.length, self.after - self.before
        return (
            self.origin + tau * self.before + change * self.length * (u**3 - u**4 / 2),
            self.before + change * (3 * u**2 - 2 * u**3),
            change * 6 * (u - u**2) / self.length,
        )

    @property
    def fastest(self) -> Array:
        """Bound of the first derivative's magnitude (J,)."""
        return np.abs(self.before) if self.after is None else np.maximum(np.abs(self.before), np.abs(self.after))


class JointPath:
    """A polyline in joint space with rounded corners."""

    def __init__(self, carm: CArm, waypoints: Sequence[Array]) -> None:
        """Build the path.

        Args:
            carm: The arm, with its velocity limits.
            waypoints: Joint positions (6,), m and rad; the first is the start, the last the goal; the corners between
                are rounded off.
        """
        self.carm = carm
        self.waypoints = [np.array(point, dtype=np.float64) for point in waypoints]
        self._velocity = np.array([joint.velocity for joint in carm.joints])
        self.pieces = self._lay()
        self.length_s = self.pieces[-1].end if self.pieces else 0.0

    def _lay(self) -> list[_Piece]:
        lines = []
        for first, second in pairwise(self.waypoints):
            length = float((np.abs(second - first) / self._velocity).max())
            if length > _NO_TRAVEL_S:
                lines.append((first, (second - first) / length, length))
        pieces: list[_Piece] = []
        begin, trimmed = 0.0, 0.0
        for index, (origin, direction, length) in enumerate(lines):
            corner = 0.0
            if index + 1 < len(lines):
                corner = min(_LONGEST_CORNER_S, _CORNER_SHARE * min(length, lines[index + 1][2]))
            straight = length - trimmed - corner
            pieces.append(_Piece(begin, straight, origin + trimmed * direction, direction))
            begin += straight
            if corner:
                turn = origin + (length - corner) * direction
                pieces.append(_Piece(begin, 2 * corner, turn, direction, lines[index + 1][1]))
                begin += 2 * corner
            trimmed = corner
        return pieces

    @property
    def knots(self) -> list[float]:
        """Progress values, 0 to 1, at which lines and corners begin and end."""
        if not self.pieces:
            return [0.0, 1.0]
        return [0.0, *(min(1.0, piece.end / self.length_s) for piece in self.pieces[:-1]), 1.0]

    def position(self, progress: float) -> Array:
        """Return the joint positions (6,), m and rad, at a progress from 0 to 1."""
        if progress <= 0.0 or not self.pieces:
            return self.waypoints[0]
        if progress >= 1.0:
            return self.waypoints[-1]
        parameter = progress * self.length_s
        piece = next(piece for piece in self.pieces if parameter <= piece.end or piece is self.pieces[-1])
        return piece.at(parameter)[0]

    def travel(self, low: float, high: float) -> Array:
        """Bound the distance (6,), m or rad, that each joint covers between two progresses from 0 to 1."""
        total = np.zeros(len(self._velocity))
        for piece in self.pieces:
            shared = min(high * self.length_s, piece.end) - max(low * self.length_s, piece.begin)
            if shared > 0:
                total += shared * piece.fastest
        return total

    def timed(self, scaling: float) -> Trajectory:
        """Return the fastest motion along the path from rest to rest within the joints' limits.

        Args:
            scaling: Share of the velocity limits, 0 to 1.

        Raises:
            GoalError: No timing was found.
        """
        names = tuple(self.carm.joint_names)
        if not self.pieces:
            rest = np.zeros((2, len(names)))
            ends = np.vstack([self.waypoints[0], self.waypoints[-1]])
            return Trajectory(names, np.array([0.0, _LONGEST_INTERVAL_S]), ends, rest, rest)
        speeds = [self._corner_speed(piece, scaling) for piece in self.pieces]
        lines = self._timed_lines(speeds, scaling)
        times, positions, velocities, accelerations = [np.zeros(1)], [], [], []
        start_s = 0.0
        for number, piece in enumerate(self.pieces):
            if piece.after is None:
                moments, progress, speed, slope = lines[number]
            else:
                duration = piece.length / speeds[number]
                moments = _subdivided(np.array([0.0, duration]))
                progress, speed = moments * speeds[number], np.full(len(moments), speeds[number])
                slope = np.zeros(len(moments))
            states = [piece.at(piece.begin + float(along)) for along in progress]
            point, first, second = (np.array(column) for column in zip(*states, strict=True))
            kept = slice(0 if number == 0 else 1, None)
            positions.append(point[kept])
            velocities.append((first * speed[:, None])[kept])
            accelerations.append((second * speed[:, None] ** 2 + first * slope[:, None])[kept])
            times.append(start_s + moments[1:])
            start_s += float(moments[-1])
        moments, speeds_at, slopes_at = np.concatenate(times), np.concatenate(velocities), np.concatenate(accelerations)
        whole = np.round(moments, _TIME_DECIMALS)
        shift = (whole - moments)[:, None]
        joined = np.concatenate(positions) + speeds_at * shift
        joined[0], joined[-1] = self.waypoints[0], self.waypoints[-1]
        return Trajectory(names, whole, joined, speeds_at + slopes_at * shift, slopes_at)

    def _corner_speed(self, piece: _Piece, scaling: float) -> float:
        """Return the speed at which a corner keeps the joints' accelerations and jerks; of a line, the velocity's."""
        if piece.after is None:
            return scaling
        change = np.maximum(np.abs(piece.after - piece.before), 1e-12)
        accelerations = np.array([joint.acceleration for joint in self.carm.joints])
        jerks = np.array([joint.jerk for joint in self.carm.joints])
        by_acceleration = np.sqrt(accelerations * piece.length / (_STEEPEST[0] * change)).min()
        by_jerk = np.cbrt(jerks * piece.length**2 / (_STEEPEST[1] * change)).min()
        return float(min(scaling, by_acceleration, by_jerk))

    def _timed_lines(self, speeds: list[float], scaling: float) -> dict[int, tuple[Array, Array, Array, Array]]:
        """Compute the timing of the lines between the corners; slow down a corner that is too fast for its lines."""
        numbers = [number for number, piece in enumerate(self.pieces) if piece.after is None]
        done: dict[int, tuple[Array, Array, Array, Array]] = {}
        for _ in range(_ATTEMPTS):
            slowed = False
            for number in numbers:
                before = speeds[number - 1] if number else 0.0
                after = speeds[number + 1] if number + 1 < len(self.pieces) else 0.0
                timed = self._timed_line(self.pieces[number], before, after, scaling)
                if timed is None:
                    faster = number - 1 if before >= after else number + 1
                    speeds[faster] *= _SLOWED
                    slowed = True
                else:
                    done[number] = timed
            if not slowed:
                return done
        raise GoalError(f"no time parametrization for a path of {len(self.pieces)} pieces")

    def _timed_line(
        self, piece: _Piece, before: float, after: float, scaling: float
    ) -> tuple[Array, Array, Array, Array] | None:
        moving = np.abs(piece.before) > _NO_TRAVEL_S
        acceleration = _tightest([joint.acceleration for joint in self.carm.joints], piece.before, moving)
        jerk = _tightest([joint.jerk for joint in self.carm.joints], piece.before, moving)
        return timed_line(piece.length, (before, after), scaling, acceleration, jerk)


_ATTEMPTS = 60
_SLOWED = 0.8


def _tightest(limits: Sequence[float], direction: Array, moving: NDArray[np.bool_]) -> float:
    return float((np.asarray(limits)[moving] / np.abs(direction[moving])).min())


def timed_line(
    length: float, speeds: tuple[float, float], velocity: float, acceleration: float, jerk: float
) -> tuple[Array, Array, Array, Array] | None:
    """Return the time-optimal motion from 0 to ``length``, at the given speeds and no acceleration at its ends.

    The samples contain every instant at which the jerk changes: between two of them the motion is a cubic in time,
    which the quintic Hermite spline of a trajectory controller reproduces exactly, so that no limit is overshot.

    Args:
        length: Way, in any unit.
        speeds: At the start and at the end, units/s.
        velocity: Limit, units/s.
        acceleration: Limit, units/s².
        jerk: Limit, units/s³.

    Returns:
        Times, s, positions, velocities and accelerations, each (N,); None if the way is too short for the speeds.

    Raises:
        GoalError: Ruckig finds no motion.
    """
    problem = ruckig.InputParameter(1)
    problem.target_position = [length]
    problem.current_velocity, problem.target_velocity = [speeds[0]], [speeds[1]]
    problem.max_velocity, problem.max_acceleration, problem.max_jerk = [velocity], [acceleration], [jerk]
    solution = ruckig.Trajectory(1)
    outcome = ruckig.Ruckig(1).calculate(problem, solution)
    if outcome not in (ruckig.Result.Working, ruckig.Result.Finished):
        raise GoalError(
            f"no time parametrization ({outcome}) for travel {length}, limits {velocity}, {acceleration}, {jerk}"
        )
    switches = np.concatenate([[0.0], np.cumsum(solution.profiles[0][0].t), [solution.duration]])
    times = _subdivided(_separated(np.clip(switches, 0.0, solution.duration)))
    states = np.array([np.ravel(solution.at_time(time)) for time in times])
    slack = 1e-9 + 1e-6 * velocity
    if states[:, 1].min() < -slack or states[:, 0].max() > length + slack:
        return None
    return times, states[:, 0], states[:, 1], states[:, 2]


def _separated(times: Array) -> Array:
    """Drop instants that coincide with their predecessor; the first and the last stay."""
    end = times[-1]
    kept = [times[0]]
    for time in times[1:]:
        if time - kept[-1] > _SHORTEST_INTERVAL_S and end - time > _SHORTEST_INTERVAL_S:
            kept.append(time)
    return np.array([*kept, end])


def _subdivided(times: Array) -> Array:
    pieces = [
        np.linspace(begin, end, max(1, int(np.ceil((end - begin) / _LONGEST_INTERVAL_S))), endpoint=False)
        for begin, end in pairwise(times)
    ]
    return np.concatenate([*pieces, times[-1:]])
