# SPDX-License-Identifier: Apache-2.0
"""Drives, bus and controller of the drive tests, in one thread and on a clock of their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import can
import numpy as np

from carm_bringup.benchmarks.faults import drives as faults
from carm_control import ControllerParameters, OperatingState, Snapshot, TrajectoryGoal, TrajectoryPoint, follow
from carm_control.canopen.config import Homing, load_drives
from carm_control.canopen.drive import Timing
from carm_control.canopen.drive_group import DriveGroup, Phase
from carm_control.canopen.simulated import simulated_drives
from carm_core.robot.kinematics import CArm

CARM = CArm.from_config()
LIFT = CARM.joint_names.index("lift")
CART = CARM.joint_names.index("cart_longitudinal")
_CHANNELS = itertools.count()


class PumpedNetwork(faults.PumpedNetwork):
    """A bus that can also refuse to send.

    Attributes:
        broken: Sending raises, as with a controller that is bus-off.
    """

    broken = False

    def send_message(self, can_id: int, data: bytes, remote: bool = False) -> None:
        if self.broken:
            raise can.CanOperationError("Transmit buffer full")
        super().send_message(can_id, data, remote)


class Rig:
    """Six simulated drives, the driver and the trajectory controller."""

    def __init__(self, change: Callable[[Any], Any] = lambda c: c, connect: bool = True, **timing: float) -> None:
        self.now_s = 100.0
        self.timing = Timing(**timing)
        networks: list[PumpedNetwork] = []
        channel = f"test-{next(_CHANNELS)}"
        self.bus, self.side = PumpedNetwork(channel, networks), PumpedNetwork(channel, networks)
        self.configs = tuple(change(config) for config in load_drives(CARM.joints))
        self.drives = simulated_drives(self.side, self.configs, CARM, lambda: self.now_s)
        self.group = DriveGroup(self.bus, self.configs, self.timing, lambda: self.now_s)
        self.outcomes: list[Any] = []
        self.history: list[Snapshot] = []
        if connect:
            self.start()

    def start(self) -> None:
        self.group.connect()
        self.controller = follow(CARM, ControllerParameters(), self.group)
        self.until(lambda: self.group.phase is Phase.READY)
        self.cycle()

    def close(self) -> None:
        for network in (self.bus, self.side):
            if network.bus is not None:
                network.bus.shutdown()

    def cycle(self) -> Snapshot:
        """One period of the control loop; the drives' own time runs twice as fine."""
        for _ in range(2):
            self.now_s += self.timing.period_s / 2
            for drive in self.drives:
                drive.tick()
        snapshot = self.controller.step(self.now_s)
        self.outcomes += snapshot.outcomes
        self.history.append(snapshot)
        return snapshot

    def until(self, condition: Callable[[], Any], limit_s: float = 20.0) -> Snapshot:
        end_s = self.now_s + limit_s
        snapshot = self.cycle()
        while not condition():
            assert self.now_s < end_s, f"not within {limit_s} s: {snapshot.state.name} {snapshot.message}"
            snapshot = self.cycle()
        return snapshot

    def run(self, time_s: float) -> None:
        for _ in range(round(time_s / self.timing.period_s)):
            self.cycle()

    def move(self, time_s: float, **joints: float) -> Any:
        """Send a goal relative to where the arm is."""
        here = dict(zip(CARM.joint_names, self.history[-1].desired.position, strict=True))
        positions = tuple(here[name] + step for name, step in joints.items())
        zero = (0.0,) * len(joints)
        goal = TrajectoryGoal(tuple(joints), (TrajectoryPoint(time_s, positions, zero, zero),))
        return self.controller.accept(goal, self.now_s)

    def go(self, time_s: float, **joints: float) -> None:
        """Send a goal that must be accepted."""
        answer = self.move(time_s, **joints)
        assert answer.goal_id is not None, answer

    def speeds(self) -> np.ndarray:
        """True speeds of the motors (J,), m/s or rad/s."""
        return np.array([abs(d.plant.velocity) / d.config.counts_per_unit for d in self.drives])

    def fault(self, limit_s: float = 10.0) -> Snapshot:
        """Run until the goal has ended by a fault."""
        self.until(lambda: self.history[-1].state is OperatingState.FAULT, limit_s)
        return self.until(lambda: self.history[-1].goal_id is None, limit_s)

    def recover(self) -> tuple[bool, str]:
        self.group.recover()
        self.until(lambda: self.group.phase is not Phase.ENABLING)
        return self.controller.reset()


def only(joint: str, **fields: Any) -> Callable[[Any], Any]:
    """Change the configuration of one drive."""
    return lambda config: replace(config, **fields) if config.joint == joint else config


def moving(rig: Rig, speed: float = 0.02) -> None:
    rig.until(lambda: abs(rig.history[-1].measured.velocity[CART]) > speed)


def homing(method: int, **fields: Any) -> Homing:
    return Homing(**({"method": method, "position": 0.0, "fast": 0.03, "slow": 0.01, "acceleration": 0.1} | fields))
