# SPDX-License-Identifier: Apache-2.0
"""One episode: all parts in one process on a virtual clock, with the faults of its scenario."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from carm_agent.planning.planner import Planner
from carm_bringup.benchmarks.faults.agent import (
    Agent,
    Device,
    GoneError,
    SimulatedArm,
    SimulatedImager,
    SimulatedLocalizer,
    run_order,
)
from carm_bringup.benchmarks.faults.drives import DrivePlant, ModelPlant, Plant
from carm_bringup.benchmarks.faults.garbage import garble
from carm_bringup.benchmarks.faults.history import History
from carm_bringup.benchmarks.faults.kernel import Link, World
from carm_bringup.benchmarks.faults.parts import Client, Core, GoalServer, JointStates, SentGoal
from carm_bringup.benchmarks.faults.scenario import Draw, Fault, Order, Scenario, body, staff
from carm_bringup.benchmarks.faults.scene import Scene
from carm_bringup.benchmarks.faults.supervisor import Supervisor, build_model
from carm_control import JointLimits, OperatingState, Permit, TrajectoryGoal, TrajectoryPoint
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface
from carm_core.robot.kinematics import CArm

QUIET_S = 1.0
"""An episode ends when nothing has been going on for so long, s."""
LONGEST_S = 150.0
PATIENCE_S = 25.0
"""Goals and tasks end at latest so long after the last fault and their own time, s."""
_SLOWED = 4.0
"""So many times as long takes a trajectory beside a person: the supervisor permits a quarter of the speed there."""
_WRONG_EVERY_S = 0.02


@dataclass(frozen=True)
class Open:
    """What did not end.

    Attributes:
        what: A goal or a task.
        since_s: When it began, s.
    """

    what: str
    since_s: float


class Workshop:
    """What episodes share: the arm, scenes and collision models. One per process."""

    def __init__(self) -> None:
        """Load the arm."""
        self.carm = CArm.from_config()
        self.draw = Draw(self.carm)
        self._models: dict[tuple[int, bool], tuple[Surface, CollisionModel, CollisionModel]] = {}

    def scene(self, scenario: Scenario) -> Scene:
        """Return the true surroundings of an episode."""
        return self.draw.scene(scenario)

    def models(self, scenario: Scenario) -> tuple[Surface, CollisionModel, CollisionModel]:
        """Return the patient's true surface, and the models of supervisor and agent."""
        key = scenario.body, scenario.staff
        if key not in self._models:
            surface, people = body(scenario.body).surface(), staff(scenario)
            solids = self.draw.geometry
            own = CollisionModel(self.carm, Obstacles(surface, staff=people), None, solids)
            self._models[key] = surface, build_model(self.carm, surface, people, solids), own
        return self._models[key]


class Episode:
    """The graph of one episode, and what happens in it."""

    def __init__(self, scenario: Scenario, shop: Workshop) -> None:
        """Start all parts.

        Args:
            scenario: What happens.
            shop: What episodes share.
        """
        self.scenario, self._shop, self.history = scenario, shop, History()
        self.world = World(scenario.seed, scenario.faults, self.history)
        world, carm = self.world, shop.carm
        surface, model, self._agents_model = shop.models(scenario)
        self._surface = surface
        self.plant: Plant
        if scenario.drives == "cia402":
            self.plant = DrivePlant(world, carm)
        else:
            self.plant = ModelPlant(world, carm, np.array(scenario.start))
        self.core = Core(world, carm, self.plant)
        self.agent = Agent(world, carm, self._beat)
        self.clients = [Client(world, "console", True, self._beat), Client(world, "foreign", False, self._beat)]
        self.server = GoalServer(world, self.core, Link(world, "result", self.agent, 10**6))
        self.supervisor = Supervisor(world, carm, JointLimits.of(carm.joints), model, surface)
        self._tasks = [order for order in scenario.orders if order.kind in ("move", "navigate")]
        self._links()
        self.open_task: Open | None = None
        self.results: list[str] = []
        for number, order in enumerate(scenario.orders):
            if order.kind in ("trajectory", "topic"):
                world.at(order.begin_s, lambda order=order, number=number: self._give(order, number))  # type: ignore[misc]
        for fault in scenario.faults:
            self._arm(fault)

    def _links(self) -> None:
        world = self.world
        heartbeat = Link(world, "heartbeat", self.server, 50, garble)
        self._heartbeat = heartbeat
        self._goal = Link(world, "goal", self.server, 10, garble)
        self._topic = Link(world, "goal", self.server, 10, garble)
        self._cancel = Link(world, "cancel", self.server, 10, garble)
        self._stop = Link(world, "stop", self.core, 10)
        self._permit = Link(world, "permit", self.core, 1, garble)
        self._to_supervisor = Link(world, "joint_states", self.supervisor, 10, garble)
        self._to_agent = Link(world, "joint_states", self.agent, 10, garble)
        reference = Link(world, "state", self.supervisor, 1)
        state = Link(world, "state", self.agent, 1)
        core, supervisor = self.core, self.supervisor
        core.publish = self._publish
        core.tell_controller = lambda values: reference.send(values, supervisor.on_controller)
        core.tell_state = lambda told, message: state.send((told, message), self.agent.on_state)
        supervisor.permit_out = lambda permit: self._permit.send(permit, core.on_permit)
        supervisor.stop_out = lambda: self._stop.send("supervisor", core.on_stop)

    def _beat(self, beat: tuple[bytes, str]) -> None:
        self._heartbeat.send(beat, self.server.on_heartbeat)

    def _publish(self, message: JointStates) -> None:
        self._to_supervisor.send(message, self.supervisor.on_joints)
        if self._tasks:
            self._to_agent.send(message, self.agent.on_joints)

    # Orders

    def _give(self, order: Order, number: int) -> None:
        """Send a client's trajectory to the controller."""
        client = self.clients[0 if order.client == "console" else 1]
        if not client.works:
            return
        goal = trajectory_goal(order, self._shop.carm)
        if order.kind == "topic":
            self._topic.send(goal, self.server.on_topic)
            return
        key = f"{client.name}_{number}".encode()
        client.begin(key)
        sent = SentGoal(
            key,
            goal,
            lambda answer: client.receive("result", lambda: client.accepted(key, answer), 10**6),
            lambda outcome: client.receive("result", lambda: client.ended(key, outcome), 10**6),
        )
        self.history.note("sent", key.decode())
        self._goal.send(sent, self.server.on_goal)

    def run(self) -> History:
        """Run the episode to its end."""
        try:
            if self._tasks:
                self._run_agent()
            self._settle()
        finally:
            self.plant.close()
        return self.history

    def _run_agent(self) -> None:
        world, agent = self.world, self.agent
        planner = Planner(self._shop.carm, collision=self._agents_model, detour_s=0.1)
        send = lambda sent: self._goal.send(sent, self.server.on_goal)  # noqa: E731
        arm = SimulatedArm(agent, send, lambda key: self._cancel.send(key, self.server.on_cancel))
        xray, localizer = Device(world, "xray"), Device(world, "localizer")
        out, back = Link(world, "expose", xray), Link(world, "expose", agent)
        imager = SimulatedImager(agent, xray, out, back, self.plant.true)
        asks, told = Link(world, "localize", localizer), Link(world, "localize", agent, garble=garble)
        points = self._shop.scene(self.scenario).body.landmarks_mm()
        finder = SimulatedLocalizer(agent, localizer, asks, told, imager, points)
        for order in self._tasks:
            world.run(order.begin_s)
            self.open_task = Open(order.kind, world.now_s)
            try:
                if agent.frozen:
                    agent.wait(lambda: False, 0.0, uninterrupted=True)
                self.results.append(run_order(order, agent, arm, imager, finder, planner))
            except GoneError:
                self.results.append("the agent ended")
                return
            except Exception as error:
                self.history.note("exception", "agent", 0.0, f"{type(error).__name__}: {error}")
                agent.die()
            finally:
                self.open_task = None
            if world.now_s > LONGEST_S:
                return

    def _settle(self) -> None:
        """Let time pass until nothing goes on any more, or for too long."""
        world = self.world
        last_s = max(
            [order.begin_s + _SLOWED * (order.times_s or (0.0,))[-1] for order in self.scenario.orders]
            + [fault.begin_s + fault.duration_s for fault in self.scenario.faults]
        )
        begin_s = max([order.begin_s for order in self.scenario.orders] + [f.begin_s for f in self.scenario.faults])
        world.run(min(begin_s, LONGEST_S))
        until_s = min(LONGEST_S, max(last_s, world.now_s) + PATIENCE_S)
        calm_s = world.now_s
        while world.now_s < until_s:
            world.run(world.now_s + 0.1)
            if self._busy():
                calm_s = world.now_s
            elif world.now_s - calm_s > QUIET_S:
                return

    def _busy(self) -> bool:
        core, server = self.core, self.server
        if core.dead:
            return False
        if core.frozen:
            return True
        held = bool(server.open) and not server.dead
        return not core.resting or held or (server.frozen and not server.dead)

    # Faults that are neither of a link nor of a part

    def _arm(self, fault: Fault) -> None:
        act = {
            "stop": self._press_stop,
            "reset": lambda fault: self._stop.send("", lambda name: self.core.on_reset()),
            "cancel": self._cancel_all,
            "clock_jump": self._jump,
            "speed_scaling": self._scale,
            "joint_states_wrong": self._lie,
            "permit_forged": self._forge,
            "surface_tiny": self._offer,
            "surface_shifted": self._offer,
            "surface_shrunk": self._offer,
            "surface_nan": self._offer,
        }.get(fault.kind)
        if act is not None:
            self.world.at(fault.begin_s, lambda: act(fault))

    def _press_stop(self, fault: Fault) -> None:
        self.history.note("stop_sent")
        self._stop.send("pressed", self.core.on_stop)
        if fault.value > 0.5:
            after_s = self.world.now_s + fault.duration_s
            self.world.at(after_s, lambda: self._stop.send("", lambda name: self.core.on_reset()))

    def _cancel_all(self, fault: Fault) -> None:
        for key in tuple(self.server.open):
            self._cancel.send(key, self.server.on_cancel)
        if fault.value > 0.5:
            self.agent.receive("cancel", lambda: self.agent.interrupt.cancel(), 1)

    def _jump(self, fault: Fault) -> None:
        sign = 1.0 if fault.value > 0.5 else -1.0
        self.world.wall_offset_s += sign * 10.0 ** (6.0 * fault.value - 1.0)
        self.history.note("clock_jump", "", self.world.wall_offset_s)

    def _scale(self, fault: Fault) -> None:
        factors = [0.0, 0.1, 0.5, 1.0, math.nan, 7.0]
        link = Link(self.world, "goal", self.server)
        link.send(factors[int(fault.value * len(factors)) % len(factors)], self.server.on_scale)
        again_s = self.world.now_s + min(fault.duration_s, 5.0)
        self.world.at(again_s, lambda: link.send(1.0, self.server.on_scale))

    def _lie(self, fault: Fault) -> None:
        """Publish joint states beside the true ones: not finite, of somewhere else, or of long ago."""
        names, random = self._shop.carm.joint_names, self.world.random("second source")
        frozen = self.plant.true()
        kind = int(fault.value * 4)

        def publish() -> None:
            if not fault.active(self.world.now_s):
                return
            place = [np.full(6, np.nan), frozen, frozen + random.normal(0, 0.1, 6), self.plant.true() + 0.02][kind]
            zero = (0.0,) * len(names)
            self._publish(JointStates(names, tuple(place.tolist()), zero, self.world.wall_s))
            self.world.at(self.world.now_s + _WRONG_EVERY_S, publish)

        publish()

    def _forge(self, fault: Fault) -> None:
        """Send permits beside the supervisor's that allow less, or are no numbers."""
        speeds = [0.0, 0.1, math.nan, -1.0]
        speed = speeds[int(fault.value * len(speeds)) % len(speeds)]

        def send() -> None:
            if fault.active(self.world.now_s):
                self._permit.send(Permit(speed, "forged"), self.core.on_permit)
                self.world.at(self.world.now_s + 0.05, send)

        send()

    def _offer(self, fault: Fault) -> None:
        vertices = self._surface.vertices_m.copy()
        triangles = self._surface.triangles
        if fault.kind == "surface_tiny":
            vertices = vertices[triangles[:2].ravel()] * (0.01 if fault.value > 0.5 else 1.0)
            triangles = np.arange(6).reshape(2, 3)
        elif fault.kind == "surface_shifted":
            vertices += np.array([0.3 * fault.value, 0.0, -0.3])
        elif fault.kind == "surface_shrunk":
            vertices *= 0.3 + 0.6 * fault.value
        else:
            vertices[3] = np.nan
        stranger = "/carm/stranger" if fault.value > 0.4 else ""
        offer = (vertices, triangles, stranger)
        self.supervisor.receive("patient_surface", lambda: self.supervisor.on_surface(offer), 1)

    # For the judges

    def unfinished(self) -> list[Open]:
        """Return what did not end although everything that it depends on works."""
        parts: list[Any] = [self.core, self.server]
        if not all(part.works for part in parts):
            return []
        snapshot = self.core.snapshot
        found = [] if snapshot is None or self.core.resting else [Open(f"controller {snapshot.state.name}", 0.0)]
        if snapshot is not None and snapshot.state is OperatingState.MOVING and self.scaled_to_zero():
            return []
        return found + [Open(f"goal {key.decode('ascii', 'replace')}", 0.0) for key in self.server.open]

    def scaled_to_zero(self) -> bool:
        """Return whether a client paused the motion."""
        snapshot = self.core.snapshot
        return snapshot is not None and snapshot.speed_scaling == 0.0


def trajectory_goal(order: Order, carm: CArm) -> TrajectoryGoal:
    """Return an order as a goal for the controller."""
    zero = (0.0,) * len(carm.joint_names)
    points = []
    for number, (row, time_s) in enumerate(zip(order.positions, order.times_s, strict=True)):
        last = number == len(order.positions) - 1
        rates = (zero, zero) if order.full and last else ((), ())
        points.append(TrajectoryPoint(time_s, row, *rates))
    return TrajectoryGoal(carm.joint_names, tuple(points))
