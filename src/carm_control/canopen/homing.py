# SPDX-License-Identifier: Apache-2.0
"""Reference run of one drive: homing mode, then to its parking position in profile position mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from carm_control.canopen.cia402 import Control, DriveError, Mode, Status
from carm_control.canopen.drive import Axis

_SETTLE_CYCLES = 4
"""Cycles after which a bit of the statusword answers to the present controlword."""


def reference_run(axis: Axis, clock: Callable[[], float]) -> Iterator[str]:
    """Run step by step; each step is one cycle of the control loop.

    Args:
        axis: An enabled drive with a homing method.
        clock: Monotonic time, s.

    Yields:
        What it is doing, in a few words.

    Raises:
        DriveError: The drive reports a homing error, does not take the mode, or takes too long.
    """
    homing = axis.config.homing
    if homing is None:
        raise DriveError(axis.joint, "has no homing method")
    deadline_s = clock() + homing.timeout_s
    axis.homed = False
    text = f"homing {axis.joint}"
    for _ in _in_mode(axis, Mode.HOMING, deadline_s, clock):
        yield text
    axis.bits = Control.START_HOMING
    for _ in range(_SETTLE_CYCLES):
        yield text
    attained = Status.HOMING_ATTAINED | Status.TARGET_REACHED
    while axis.feedback.statusword & attained != attained:
        if axis.feedback.statusword & Status.HOMING_ERROR:
            raise DriveError(
                axis.joint,
                f"homing error: the drive did not find its reference, or does not support method {homing.method}",
            )
        _check_time(axis, deadline_s, clock)
        yield text
    axis.bits = 0
    axis.homed = True
    if homing.park is not None:
        yield from _park(axis, homing.park, deadline_s, clock)
    axis.target = axis.feedback.counts
    for _ in _in_mode(axis, Mode.CYCLIC_POSITION, deadline_s, clock):
        yield text


def _park(axis: Axis, position: float, deadline_s: float, clock: Callable[[], float]) -> Iterator[str]:
    """Move to a position, m or rad, in profile position mode."""
    text = f"parking {axis.joint}"
    axis.target = axis.feedback.counts
    for _ in _in_mode(axis, Mode.PROFILE_POSITION, deadline_s, clock):
        yield text
    axis.target = axis.config.counts(position)
    axis.bits = Control.NEW_SET_POINT | Control.AT_ONCE
    while not axis.feedback.statusword & Status.SET_POINT_ACKNOWLEDGED:
        _check_time(axis, deadline_s, clock)
        yield text
    axis.bits = 0
    for _ in range(_SETTLE_CYCLES):
        yield text
    while not axis.feedback.statusword & Status.TARGET_REACHED:
        _check_time(axis, deadline_s, clock)
        yield text


def _in_mode(axis: Axis, mode: Mode, deadline_s: float, clock: Callable[[], float]) -> Iterator[None]:
    axis.mode, axis.bits = mode, 0
    for _ in range(_SETTLE_CYCLES):
        yield
    while axis.feedback.mode != mode:
        _check_time(axis, deadline_s, clock)
        yield


def _check_time(axis: Axis, deadline_s: float, clock: Callable[[], float]) -> None:
    if clock() > deadline_s:
        homing = axis.config.homing
        limit_s = homing.timeout_s if homing else 0.0
        raise DriveError(axis.joint, f"homing not finished within {limit_s:g} s")
