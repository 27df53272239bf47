# SPDX-License-Identifier: Apache-2.0
"""The processes of the graph that an arm moves by, each around the real logic of its node."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from carm_bringup.benchmarks.faults.drives import Plant
from carm_bringup.benchmarks.faults.kernel import Link, Part, World
from carm_control import (
    Acceptance,
    CheckedTrajectory,
    ControllerParameters,
    ErrorCode,
    GoalOutcome,
    GoalRefusedError,
    GoalStatus,
    OperatingState,
    Permit,
    Snapshot,
    TrajectoryGoal,
    follow,
)
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_ros.heartbeat import HeartbeatMonitor

PERIOD_S = 0.01
_JITTER_S = 0.0006
DEAF_S = 1.0
"""As ``carm_control.nodes.trajectory_node``: the arm holds when the goal server was not heard for this long, s."""
_CYCLE_S = 0.05
HELD_UP_S = 0.5
"""As ``carm_control.nodes.goal_link``: older goals are refused, s."""
_BUSY_S, _QUIET_S = 0.02, 0.1
_STATE_S = 0.1
_STALL_EVERY_S = 0.15
_LONGEST_STALL_S = 0.3
_RESTING = (OperatingState.IDLE, OperatingState.STOPPED, OperatingState.FAULT)


@dataclass(frozen=True)
class JointStates:
    """A ``sensor_msgs/JointState``.

    Attributes:
        names: Joints.
        positions: M or rad.
        velocities: M/s or rad/s.
        stamp_s: Time of day, s.
    """

    names: tuple[str, ...]
    positions: tuple[float, ...]
    velocities: tuple[float, ...]
    stamp_s: float


@dataclass(frozen=True)
class SentGoal:
    """A goal on its way to the goal server.

    Attributes:
        key: UUID of the goal.
        goal: What is asked for.
        accepted: Told whether it is accepted, in the client's process.
        ended: Told how it ended, in the client's process.
    """

    key: bytes
    goal: TrajectoryGoal
    accepted: Callable[[Acceptance], None]
    ended: Callable[[GoalOutcome], None]


class Core(Part):
    """The process that moves the arm; see ``carm_control.nodes.trajectory_node``."""

    def __init__(self, world: World, carm: CArm, plant: Plant) -> None:
        """Start the control loop.

        Args:
            world: With the faults.
            carm: The arm.
            plant: Its drives.
        """
        super().__init__(world, "core")
        self.plant = plant
        self.controller = follow(carm, ControllerParameters(supervised=True), plant.drives)
        self.snapshot: Snapshot | None = None
        self.outcomes: list[GoalOutcome] = []
        self.heard_s, self._last_heard_s, self._deaf_s, self._cycled_s = 0.0, -1.0, 0.0, 0.0
        self.publish: Callable[[JointStates], None] = lambda message: None
        self.tell_controller: Callable[[Array], None] = lambda reference: None
        self.tell_state: Callable[[OperatingState, str], None] = lambda state, message: None
        self._ticks, self._told = 0, (OperatingState.STARTING, -math.inf)
        self._random = world.random("control loop")
        self._names = self.controller.limits.names
        self._stepped_s = -1.0
        self.every(self._period_s, self._cycle)

    @property
    def resting(self) -> bool:
        """Whether the arm rests and nothing is in execution."""
        snapshot = self.snapshot
        return snapshot is not None and snapshot.state in _RESTING and snapshot.goal_id is None

    def _period_s(self) -> float:
        stall = self.world.active("cpu_stall")
        if stall is not None and self._random.random() < PERIOD_S / _STALL_EVERY_S:
            return float(PERIOD_S + self._random.uniform(0.0, _LONGEST_STALL_S * stall.value))
        late = float(abs(self._random.normal(0.0, _JITTER_S)))
        return max(0.002, PERIOD_S - (self.world.now_s + 1e-9) % PERIOD_S + late)

    def _cycle(self) -> None:
        world, now_s = self.world, self.world.now_s
        snapshot = self.controller.step(now_s)
        passed = 0.0 if self._stepped_s < 0 else now_s - self._stepped_s
        self._stepped_s = now_s
        world.history.cycle(now_s, passed, snapshot)
        world.history.sample(now_s, self.plant.true())
        self._watch_goal_server(now_s)
        self.snapshot = snapshot
        self.outcomes += snapshot.outcomes
        for outcome in snapshot.outcomes:
            world.history.note("ended", str(outcome.goal_id), 0.0, f"{outcome.status.value}: {outcome.message}")
        self._ticks += 1
        if self._ticks % 2 == 0 and not getattr(self.plant.drives, "silent", False):
            measured = snapshot.measured
            message = JointStates(
                self._names, tuple(measured.position.tolist()), tuple(measured.velocity.tolist()), world.wall_s
            )
            self.publish(message)
            if self._ticks % 4 == 0:
                self.tell_controller(snapshot.desired.position)
        if snapshot.state is not self._told[0] or now_s - self._told[1] >= _STATE_S:
            self._told = snapshot.state, now_s
            self.tell_state(snapshot.state, snapshot.message)

    def _watch_goal_server(self, now_s: float) -> None:
        passed, self._cycled_s = now_s - self._cycled_s, now_s
        self._deaf_s = 0.0 if self.heard_s != self._last_heard_s else self._deaf_s + min(passed, _CYCLE_S)
        self._last_heard_s = self.heard_s
        if self._deaf_s > DEAF_S:
            self.controller.hold(f"goals are not served for {self._deaf_s:.1f} s: a cancel would not be heard")

    def on_stop(self, name: str) -> None:
        """Serve ``stop``."""
        self.world.history.note("stop", name)
        self.controller.stop()

    def on_reset(self) -> None:
        """Serve ``reset``."""
        released, _ = self.controller.reset()
        if released:
            self.world.history.note("reset")

    def on_permit(self, permit: Permit) -> None:
        """Take a permit."""
        if self.controller.permits.renew(permit, self.world.now_s):
            self.world.history.note("permit", "", permit.speed, permit.reason)

    def on_link_lost(self) -> None:
        """Stop: nobody serves goals any more."""
        self.controller.stop("the process that serves goals ended")
        self.world.history.note("stop", "goal server lost")

    def ask(self, question: Callable[[float], Any], answer: Callable[[Any], None]) -> None:
        """Answer the goal server, now or once this process is awake.

        Args:
            question: Called with the present time, s.
            answer: Called with what it returned.
        """

        def serve() -> None:
            self.heard_s = self.world.now_s
            answer(question(self.world.now_s))

        self.receive("goal link", serve, 10**6)


class _Subscriber:
    """What ``HeartbeatMonitor`` needs of a node."""

    def create_subscription(self, *words: Any, **options: Any) -> None:
        """Take the subscription and do nothing with it."""


@dataclass
class _Open:
    sent: SentGoal
    answer: Acceptance
    outcome: GoalOutcome | None = None


class GoalServer(Part):
    """The process that reads goals; see ``carm_control.nodes.goal_server``."""

    def __init__(self, world: World, core: Core, reply: Link) -> None:
        """Serve.

        Args:
            world: With the faults.
            core: Moves the arm.
            reply: Back to the clients.
        """
        super().__init__(world, "goal_server")
        self._core, self._reply = core, reply
        self.checker = core.controller.checker
        self.open: dict[bytes, _Open] = {}
        self._waiting: list[Any]
        self._beat_s, self._trust_s, self._asking = math.inf, 0.0, False
        self.heartbeats = HeartbeatMonitor(_Subscriber(), ControllerParameters.heartbeat_timeout_s)
        self._canceled: set[bytes] = set()
        self.every(lambda: _BUSY_S if self.open else _QUIET_S, self._beat)

    def die(self) -> None:
        """End; the core hears of it at once."""
        if not self.dead:
            super().die()
            self._core.receive("goal link", self._core.on_link_lost, 10**6)

    def _was_held_up(self) -> bool:
        now_s = self.world.now_s
        return now_s < self._trust_s or (not self._asking and now_s - self._beat_s > HELD_UP_S)

    def _beat(self) -> None:
        now_s = self.world.now_s
        if self._asking:
            return
        if now_s - self._beat_s > HELD_UP_S:
            self._trust_s = now_s + HELD_UP_S
        self._asking = True
        self._core.ask(self._progress, lambda outcomes: self.do(lambda: self._beaten(outcomes, now_s)))

    def _progress(self, now_s: float) -> list[GoalOutcome]:
        outcomes, self._core.outcomes = self._core.outcomes, []
        return outcomes

    def _beaten(self, outcomes: list[GoalOutcome], asked_s: float) -> None:
        self._beat_s, self._asking = self.world.now_s, False
        for outcome in outcomes:
            for key, one in tuple(self.open.items()):
                if one.answer.goal_id == outcome.goal_id:
                    del self.open[key]
                    self._reply.send(outcome, one.sent.ended)
        for key, one in tuple(self.open.items()):
            silence = self.heartbeats.missing(key, asked_s)
            number = one.answer.goal_id
            if silence and number is not None:
                self._core.ask(partial(self._hold, silence, number), lambda held: None)

    def _hold(self, reason: str, number: int, now_s: float) -> bool:
        return self._core.controller.hold(reason, number)

    def on_goal(self, sent: SentGoal) -> None:
        """Check a goal and hand it on."""
        since_s = self.world.now_s
        if self._was_held_up():
            self._refuse(sent, "it waited while this process was held up")
            return
        try:
            checked = self.checker.check(sent.goal, since_s, self.world.wall_s)
        except GoalRefusedError as refusal:
            self._refuse(sent, str(refusal))
            return
        self._core.ask(
            lambda now_s: self._hand_over(checked, since_s, now_s, replace=False),
            lambda answer: self.do(lambda: self._taken(sent, answer)),
        )

    def on_topic(self, goal: TrajectoryGoal) -> None:
        """Follow a trajectory that came by topic."""
        since_s = self.world.now_s
        if self._was_held_up():
            return
        try:
            checked = self.checker.check(goal, since_s, self.world.wall_s)
        except GoalRefusedError:
            return
        self._core.ask(lambda now_s: self._hand_over(checked, since_s, now_s, replace=True), lambda answer: None)

    def _hand_over(self, checked: CheckedTrajectory, since_s: float, now_s: float, *, replace: bool) -> Acceptance:
        if now_s - since_s > HELD_UP_S:
            return Acceptance(ErrorCode.INVALID_GOAL, "the goal waited while the controller was held up")
        answer = self._core.controller.accept(checked, now_s, replace=replace)
        if answer.goal_id is not None:
            self.world.history.note("accepted", str(answer.goal_id))
        return answer

    def _taken(self, sent: SentGoal, answer: Acceptance) -> None:
        if answer.goal_id is not None:
            self.world.history.note("given", str(answer.goal_id), 0.0, sent.key.decode("ascii", "replace"))
            self.open[sent.key] = _Open(sent, answer)
        self._reply.send(answer, sent.accepted)

    def _refuse(self, sent: SentGoal, reason: str) -> None:
        self._reply.send(Acceptance(ErrorCode.INVALID_GOAL, reason), sent.accepted)

    def on_cancel(self, key: bytes) -> None:
        """Cancel a goal."""
        one = self.open.get(key)
        if one is None or one.answer.goal_id is None:
            return
        number = one.answer.goal_id

        def cancel(now_s: float) -> bool:
            canceled = self._core.controller.cancel(number)
            if canceled:
                self.world.history.note("cancel", str(number))
            return canceled

        self._core.ask(cancel, lambda canceled: None)

    def on_heartbeat(self, beat: tuple[bytes, str]) -> None:
        """Note that a goal is renewed."""
        self.heartbeats.heard(beat[0], beat[1], self.world.now_s)
        self.world.history.note("heard", beat[0].decode("ascii", "replace"))

    def on_scale(self, factor: float) -> None:
        """Scale the speed."""
        self._core.ask(lambda now_s: self._core.controller.scale_speed(factor), lambda done: None)


@dataclass
class Client(Part):
    """A client of the controller that waits for nobody: a console that renews its goals, or a foreign one."""

    world: World
    name: str
    renews: bool
    beat: Callable[[tuple[bytes, str]], None]
    goals: dict[bytes, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin to renew."""
        Part.__init__(self, self.world, "console")
        if self.renews:
            self.every(lambda: 0.1, self._renew)

    def begin(self, key: bytes) -> None:
        """Note that a goal is open, and renew it from now on."""
        self.goals[key] = "sent"
        if self.renews:
            self.beat((key, self.name))

    def _renew(self) -> None:
        for key, state in self.goals.items():
            if state in ("sent", "accepted"):
                self.beat((key, self.name))

    def accepted(self, key: bytes, answer: Acceptance) -> None:
        """Take the answer to a goal."""
        if isinstance(answer, Acceptance):
            self.goals[key] = "accepted" if answer.goal_id is not None else "refused"

    def ended(self, key: bytes, outcome: GoalOutcome) -> None:
        """Take the end of a goal."""
        self.goals[key] = outcome.status.value if isinstance(outcome.status, GoalStatus) else "ended"
