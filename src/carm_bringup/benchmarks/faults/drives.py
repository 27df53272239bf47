# SPDX-License-Identifier: Apache-2.0
"""The drives of an episode: the simulator's model, or the simulated CiA 402 drives on a bus without threads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol

import can
import numpy as np
from canopen import Network

from carm_bringup.benchmarks.faults.kernel import World
from carm_bringup.benchmarks.faults.scenario import Fault
from carm_control import DriveModel, Drives, JointLimits, Measurement, MotionParameters
from carm_control.canopen.config import load_drives
from carm_control.canopen.drive import Timing
from carm_control.canopen.drive_group import DriveGroup
from carm_control.canopen.simulated import simulated_drives
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array

_TICK_S = 0.005
_SLOWEST_S = 0.3
_BIAS_M, _BIAS_RAD = 0.05, 0.10
_UNSEEN_M, _UNSEEN_RAD = 0.004, 0.004
_OVERCURRENT = 0x2310
_channels = itertools.count()


class Plant(Protocol):
    """What moves, as it truly is."""

    @property
    def drives(self) -> Drives:
        """The controller's side of it."""

    def true(self) -> Array:
        """Return the true joint positions (J,), m or rad."""

    def close(self) -> None:
        """Free what it holds."""


class FaultyDrives(DriveModel):
    """The simulator's drives, with encoders that lie and drives that lag."""

    def __init__(self, world: World, carm: CArm, start: Array) -> None:
        """Start at rest.

        Args:
            world: With the faults.
            carm: The arm.
            start: Joint positions (6,), m and rad.
        """
        limits, p = JointLimits.of(carm.joints), MotionParameters()
        super().__init__(
            limits,
            start,
            time_constant_s=p.drive_time_constant_s,
            position_noise=limits.by_unit(p.encoder_noise_m, p.encoder_noise_rad),
            velocity_noise=limits.by_unit(p.velocity_noise_m_s, p.velocity_noise_rad_s),
            seed=world.seed % 2**31,
        )
        self._world = world
        self._largest = limits.by_unit(_BIAS_M, _BIAS_RAD)
        self._unseen = limits.by_unit(_UNSEEN_M, _UNSEEN_RAD)
        for fault in world.faults:
            joint = fault.target
            if fault.kind == "drive_blocked":
                world.at(fault.begin_s, lambda joint=joint: self._block(joint))  # type: ignore[misc]
                world.at(fault.begin_s + fault.duration_s, lambda joint=joint: self._free(joint))  # type: ignore[misc]
            elif fault.kind == "drive_lagging":
                world.at(fault.begin_s, lambda fault=fault: self._lag(fault))  # type: ignore[misc]

    def _block(self, joint: str) -> None:
        self.block([joint])
        self._world.history.note("blocked", joint)

    def _free(self, joint: str) -> None:
        self.block([])
        self._world.history.note("freed", joint)

    def _lag(self, fault: Fault) -> None:
        usual_s, self._tau = self._tau, 0.03 + fault.value * (_SLOWEST_S - 0.03)
        self._world.history.note("lagging", fault.target, fault.duration_s)
        self._world.at(self._world.now_s + fault.duration_s, lambda: setattr(self, "_tau", usual_s))

    def measure(self) -> Measurement:
        """Read the encoders once; a bias that the controller cannot see stays within what margins cover."""
        position, velocity = super().measure()
        for fault in self._world.faults:
            if fault.kind not in ("encoder_bias", "encoder_drift") or fault.begin_s > self._world.now_s:
                continue
            joint = self._names.index(fault.target)
            large = fault.value > 0.5
            error = (self._largest if large else self._unseen)[joint] * (1 if fault.value * 4 % 2 < 1 else -1)
            if fault.kind == "encoder_drift":
                error *= min(1.0, (self._world.now_s - fault.begin_s) / max(fault.duration_s, 0.5))
            position[joint] += error
        return Measurement(position, velocity)

    def true(self) -> Array:
        """Return the true joint positions (J,), m or rad."""
        return self.position


class ModelPlant:
    """The simulator's drives."""

    def __init__(self, world: World, carm: CArm, start: Array) -> None:
        """Start at rest; see ``FaultyDrives``."""
        self.drives: FaultyDrives = FaultyDrives(world, carm, start)

    def true(self) -> Array:
        """Return the true joint positions (J,), m or rad."""
        return self.drives.true()

    def close(self) -> None:
        """Nothing to free."""


class PumpedNetwork(Network):
    """A CAN bus that delivers every frame before sending returns.

    Attributes:
        cut: The cable is cut: nothing is delivered.
    """

    def __init__(self, channel: str, networks: list[PumpedNetwork]) -> None:
        """Join the bus.

        Args:
            channel: Name of the bus.
            networks: All that are on it.
        """
        super().__init__(can.Bus(interface="virtual", channel=channel))
        self.networks, self.cut = networks, False
        networks.append(self)

    def send_message(self, can_id: int, data: bytes, remote: bool = False) -> None:
        """Send a frame, and deliver it."""
        if self.cut:
            return
        super().send_message(can_id, data, remote)
        while any(network.deliver() for network in self.networks):
            pass

    def deliver(self) -> bool:
        """Hand one frame to the listeners; return whether there was one."""
        message = self.bus.recv(0)
        if message is None:
            return False
        if not self.cut:
            for listener in self.listeners:
                listener(message)
        return True


class DrivePlant:
    """Simulated CiA 402 drives; they have a time of their own, and go on while the control loop is frozen."""

    def __init__(self, world: World, carm: CArm) -> None:
        """Put the drives on a bus, with the arm at home, and configure them.

        Args:
            world: With the faults.
            carm: The arm.
        """
        networks: list[PumpedNetwork] = []
        channel = f"faults-{next(_channels)}"
        self._bus, self._side = PumpedNetwork(channel, networks), PumpedNetwork(channel, networks)
        self._configs = tuple(load_drives(carm.joints))
        self._nodes = simulated_drives(self._side, self._configs, carm, lambda: world.now_s)
        self.drives = DriveGroup(self._bus, self._configs, Timing(), lambda: world.now_s)
        self.drives.connect()
        self._world = world
        world.at(_TICK_S, self._tick)
        for fault in world.faults:
            if fault.kind == "bus_loss":
                world.at(fault.begin_s, lambda: self._cut(True))
                world.at(fault.begin_s + fault.duration_s, lambda: self._cut(False))
            elif fault.kind == "drive_fault":
                world.at(fault.begin_s, lambda fault=fault: self._fail(fault))  # type: ignore[misc]

    def _tick(self) -> None:
        for node in self._nodes:
            node.tick()
        self._world.history.sample(self._world.now_s, self.true())
        self._world.at(self._world.now_s + _TICK_S, self._tick)

    def _cut(self, cut: bool) -> None:
        self._world.history.note("bus_cut" if cut else "bus_back")
        for network in (self._bus, self._side):
            network.cut = cut

    def _fail(self, fault: Fault) -> None:
        self._nodes[int(fault.value * len(self._nodes)) % len(self._nodes)].fail(_OVERCURRENT)

    def true(self) -> Array:
        """Return the true joint positions (J,), m or rad."""
        nodes: Sequence[object] = self._nodes
        return np.array([node.config.position(node.plant.measured) for node in nodes])  # type: ignore[attr-defined]

    def close(self) -> None:
        """Leave the bus."""
        for network in (self._bus, self._side):
            if network.bus is not None:
                network.bus.shutdown()
