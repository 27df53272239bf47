# SPDX-License-Identifier: Apache-2.0
"""What happens in an episode: who gives which goals, and what goes wrong when. Drawn from a seed, kept as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from carm_bringup.benchmarks.faults.scene import Body, Scene
from carm_core.collision.obstacles import StaffZone
from carm_core.errors import ConfigurationError
from carm_core.robot.kinematics import CArm
from carm_core.robot.shapes import RobotGeometry
from carm_core.transforms import Array

LINKS = ("joint_states", "permit", "goal", "result", "cancel", "stop", "heartbeat", "state", "expose", "localize")
PARTS = ("core", "goal_server", "supervisor", "agent", "console", "xray", "localizer")
"""What can freeze and die. The console stands for every client but the agent."""
LINK_FAULTS = ("drop", "delay", "duplicate", "reorder", "garbage")
PART_FAULTS = ("freeze", "death")
OTHER_FAULTS = (
    "bus_loss",
    "drive_fault",
    "drive_blocked",
    "drive_lagging",
    "encoder_bias",
    "encoder_drift",
    "joint_states_wrong",
    "localizer_wrong",
    "localizer_late",
    "localizer_abstains",
    "surface_tiny",
    "surface_shifted",
    "surface_shrunk",
    "surface_nan",
    "cpu_stall",
    "clock_jump",
    "permit_forged",
    "speed_scaling",
    "stop",
    "cancel",
    "reset",
)
FAULTS = (*LINK_FAULTS, *PART_FAULTS, *OTHER_FAULTS)
DRIVES_ONLY = ("bus_loss", "drive_fault")
"""Faults that only the CiA 402 drives have."""
BODIES = 4
_STAFF = StaffZone((-0.8, -1.5, -0.95), (0.0, -0.80, 0.9))
_FREEZES_S = (0.05, 15.0)
_CLEAR_M = 0.06


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        kind: One of ``FAULTS``.
        target: Link, part or joint; empty where there is none.
        begin_s: When, s.
        duration_s: For how long, s; 0: once, or for good.
        value: How much; what it means depends on the kind.
    """

    kind: str
    target: str = ""
    begin_s: float = 0.0
    duration_s: float = 0.0
    value: float = 0.0

    @property
    def name(self) -> str:
        """Kind and, of links and parts, the target, for tables."""
        return f"{self.kind} {self.target}" if self.target in (*LINKS, *PARTS) else self.kind

    def active(self, now_s: float) -> bool:
        """Return whether it is active at a time, s."""
        return self.begin_s <= now_s < self.begin_s + self.duration_s


@dataclass(frozen=True)
class Order:
    """Something that a client asks for.

    Attributes:
        kind: ``trajectory``, ``topic`` (both sent to the controller), ``move`` or ``navigate`` (both by the agent).
        begin_s: When, s; the agent does one thing after the other.
        client: Who asks, ``console``, ``foreign`` or ``agent``.
        positions: Joint positions on the way and at the end, m and rad.
        times_s: When they are reached, s from the start.
        full: Positions come with velocities and accelerations (zero at the end); otherwise alone.
        landmark: Target of a navigation.
    """

    kind: str
    begin_s: float
    client: str
    positions: tuple[tuple[float, ...], ...] = ()
    times_s: tuple[float, ...] = ()
    full: bool = True
    landmark: int = 0


@dataclass(frozen=True)
class Scenario:
    """An episode.

    Attributes:
        seed: Of the noise.
        body: Number of the patient, 0 to ``BODIES`` - 1.
        staff: Whether somebody stands beside the table.
        drives: ``model``, or ``cia402`` for the simulated CAN drives.
        start: Joint positions, m and rad.
        orders: What is asked for.
        faults: What goes wrong.
    """

    seed: int
    body: int = 0
    staff: bool = False
    drives: str = "model"
    start: tuple[float, ...] = (0.0, 0.0, 0.17, 0.0, 0.0, 0.0)
    orders: tuple[Order, ...] = ()
    faults: tuple[Fault, ...] = field(default=())

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, data: Any) -> Scenario:
        """Read what ``as_dict`` returned.

        Raises:
            ConfigurationError: It is something else.
        """
        try:
            known = dict(data)
            known["start"] = tuple(float(value) for value in known["start"])
            known["orders"] = tuple(_order(dict(one)) for one in known["orders"])
            known["faults"] = tuple(Fault(**one) for one in known["faults"])
            scenario = cls(**known)
        except (TypeError, ValueError, KeyError) as error:
            raise ConfigurationError(f"this is no episode: {type(error).__name__}: {error}") from error
        _check(scenario)
        return scenario


def _order(data: dict[str, Any]) -> Order:
    data["positions"] = tuple(tuple(float(value) for value in row) for row in data["positions"])
    data["times_s"] = tuple(float(value) for value in data["times_s"])
    return Order(**data)


def _check(scenario: Scenario) -> None:
    unknown = [fault.kind for fault in scenario.faults if fault.kind not in FAULTS]
    times = [value for fault in scenario.faults for value in (fault.begin_s, fault.duration_s, fault.value)]
    if unknown:
        raise ConfigurationError(f"unknown fault {unknown[0]!r}; there are {', '.join(FAULTS)}")
    if scenario.drives not in ("model", "cia402") or scenario.body not in range(BODIES) or len(scenario.start) != 6:
        raise ConfigurationError("this is no episode: drives, body or start are not as they can be")
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in (*times, *scenario.start)):
        raise ConfigurationError("this is no episode: a time or a value is no finite number")


def body(number: int) -> Body:
    """Return a patient by number."""
    generator = np.random.default_rng([number, 71])
    top, length, girth = generator.uniform([0.75, 0.92, 0.9], [0.92, 1.04, 1.15])
    return Body(float(top), float(length), float(girth))


def staff(scenario: Scenario) -> tuple[StaffZone, ...]:
    """Return where people stand in an episode."""
    return (_STAFF,) if scenario.staff else ()


def save(file: Path, scenario: Scenario, violations: list[dict[str, Any]]) -> None:
    """Write a trace that ``--replay`` reads.

    Args:
        file: Where to.
        scenario: The episode.
        violations: What the judges say of it.
    """
    file.write_text(json.dumps({"episode": scenario.as_dict(), "violations": violations}, indent=1) + "\n", "utf-8")


def load(file: Path) -> Scenario:
    """Read a trace.

    Raises:
        ConfigurationError: The file cannot be read, or is no trace.
    """
    try:
        data = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"cannot read the trace {file}: {error}") from error
    if not isinstance(data, dict) or "episode" not in data:
        raise ConfigurationError(f"{file} is no trace of carm bench faults")
    return Scenario.from_dict(data["episode"])


class Draw:
    """Draws episodes. One per process: it keeps the scenes."""

    def __init__(self, carm: CArm) -> None:
        """Prepare for an arm."""
        self.carm = carm
        self.geometry = RobotGeometry.from_config()
        self._scenes: dict[tuple[int, bool], Scene] = {}
        joints = carm.joints
        self._low = np.array([joint.lower for joint in joints])
        self._high = np.array([joint.upper for joint in joints])
        self._velocity = np.array([joint.velocity for joint in joints])
        self._acceleration = np.array([joint.acceleration for joint in joints])
        self._jerk = np.array([joint.jerk for joint in joints])

    def scene(self, scenario: Scenario) -> Scene:
        """Return who and what truly is there in an episode."""
        key = scenario.body, scenario.staff
        if key not in self._scenes:
            self._scenes[key] = Scene(self.carm, body(scenario.body), staff(scenario), self.geometry)
        return self._scenes[key]

    def episode(self, seed: int, number: int) -> Scenario:
        """Draw an episode.

        Args:
            seed: Of the campaign.
            number: Of the episode.
        """
        random = np.random.default_rng([seed, number, 17])
        kind = random.random()
        scenario = Scenario(
            seed=int(random.integers(2**31)),
            body=int(random.integers(BODIES)),
            staff=bool(random.random() < 0.3),
            drives="cia402" if random.random() < 0.04 else "model",
        )
        start = self.carm.home if scenario.drives == "cia402" else self._clear(scenario, random)
        scenario = replace(scenario, start=tuple(start.tolist()))
        if scenario.drives == "cia402" or kind < 0.6:
            orders = self._trajectories(scenario, start, random)
        elif kind < 0.87:
            orders = self._moves(scenario, random)
        else:
            orders = (Order("navigate", 0.5, "agent", landmark=int(random.choice([2, 3, 10, 11, 14]))),)
        if random.random() < 0.2:
            orders += self._foreign(scenario, start, random, float(random.uniform(0.5, 4.0)))
        scenario = replace(scenario, orders=orders)
        count = int(random.choice([1, 1, 1, 2, 2, 3, 4]))
        return replace(scenario, faults=tuple(self.fault(scenario, random) for _ in range(count)))

    def _any(self, random: np.random.Generator) -> Array:
        return np.asarray(self._low + (self._high - self._low) * random.random(6))

    def _clear(self, scenario: Scenario, random: np.random.Generator) -> Array:
        """Return a start that is clear of everything, perhaps near."""
        scene = self.scene(scenario)
        for _ in range(40):
            place = self.carm.home + random.normal(0.0, 0.25, 6) * (self._high - self._low)
            place = np.clip(place, self._low + 0.01, self._high - 0.01)
            if scene.clearance(place)[0] > _CLEAR_M:
                return np.asarray(place)
        return np.asarray(self.carm.home)

    def shortest_s(self, travel: Array) -> float:
        """Return how long a motion from rest to rest by a quintic takes at the limits, s."""
        way = np.abs(travel)
        by_limit = [
            1.875 * way / self._velocity,
            np.sqrt(5.7735 * way / self._acceleration),
            np.cbrt(60 * way / self._jerk),
        ]
        return max(0.2, float(np.max(by_limit)))

    def _trajectory(
        self, start: Array, goal: Array, begin_s: float, client: str, random: np.random.Generator, kind: str
    ) -> Order:
        pace = float(random.choice([1.02, 1.1, 1.5, 2.5, 0.6], p=[0.4, 0.3, 0.15, 0.1, 0.05]))
        rows, times = [goal], [pace * self.shortest_s(goal - start)]
        if random.random() < 0.3:
            rows, times = [start + 0.5 * (goal - start), goal], [0.5 * times[0], times[0]]
        if random.random() < 0.2:
            times = [0.7 * time_s for time_s in times]
        places = tuple(tuple(row.tolist()) for row in rows)
        return Order(kind, begin_s, client, places, tuple(times), full=len(rows) == 1 and random.random() < 0.8)

    def _trajectories(self, scenario: Scenario, start: Array, random: np.random.Generator) -> tuple[Order, ...]:
        """Draw trajectories for the controller: some into the patient, most of them not."""
        orders: list[Order] = []
        begin_s, here = 0.5, start
        for _ in range(int(random.choice([1, 1, 1, 2, 3]))):
            client = "console" if random.random() < 0.5 else "foreign"
            kind = "topic" if client == "foreign" and random.random() < 0.2 else "trajectory"
            goal = here + random.normal(0.0, 0.2, 6) * (self._high - self._low) * (random.random(6) < 0.6)
            goal = np.clip(goal, self._low, self._high) if random.random() < 0.9 else self._any(random)
            order = self._trajectory(here, goal, begin_s, client, random, kind)
            orders.append(order)
            overlap = random.random() < 0.3
            begin_s += order.times_s[-1] * (float(random.uniform(0.1, 0.9)) if overlap else 1.0) + 0.4
            here = here + (0.0 if overlap else 1.0) * (goal - here)
        return tuple(orders)

    def _foreign(
        self, scenario: Scenario, start: Array, random: np.random.Generator, begin_s: float
    ) -> tuple[Order, ...]:
        """Draw a goal that leads into something."""
        scene = self.scene(scenario)
        for _ in range(12):
            goal = self._any(random)
            if scene.clearance(goal)[0] <= 0:
                return (self._trajectory(start, goal, begin_s, "foreign", random, "trajectory"),)
        return ()

    def _moves(self, scenario: Scenario, random: np.random.Generator) -> tuple[Order, ...]:
        orders = []
        for number in range(int(random.choice([1, 1, 2]))):
            goal = tuple(self._clear(scenario, random).tolist())
            orders.append(Order("move", 0.5 + number, "agent", (goal,), (0.0,)))
        return tuple(orders)

    def fault(self, scenario: Scenario, random: np.random.Generator) -> Fault:
        """Draw a fault, in one of the phases of one of the orders.

        Args:
            scenario: Without it.
            random: Source of randomness.
        """
        order = scenario.orders[int(random.integers(len(scenario.orders)))]
        length_s = order.times_s[-1] if order.times_s and order.times_s[-1] else 6.0
        phase = float(random.choice([-0.1, 0.02, 0.15, 0.5, 0.9, 1.05]))
        begin_s = max(0.0, order.begin_s + length_s * phase + float(random.uniform(-0.2, 0.5)))
        family = random.random()
        if family < 0.3:
            kind, target = str(random.choice(LINK_FAULTS)), str(random.choice(LINKS))
        elif family < 0.55:
            kind, target = str(random.choice(PART_FAULTS, p=[0.75, 0.25])), str(random.choice(PARTS))
        else:
            known = tuple(kind for kind in OTHER_FAULTS if kind not in DRIVES_ONLY)
            if scenario.drives == "cia402" and random.random() < 0.5:
                known = DRIVES_ONLY
            kind, target = str(random.choice(known)), ""
        if kind.startswith(("drive_", "encoder_")):
            target = str(random.choice(self.carm.joint_names))
        low, high = np.log(_FREEZES_S)
        duration_s = float(np.exp(random.uniform(low, high)))
        return Fault(kind, target, round(begin_s, 3), round(duration_s, 3), round(float(random.random()), 4))
