# SPDX-License-Identifier: Apache-2.0
"""The agent of an episode: the real navigator, mover and planner behind ports that let virtual time pass."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from carm_agent.errors import (
    ImagingError,
    MotionError,
    NoJointStatesError,
    NotAtRestError,
    RejectedTrajectoryError,
    StoppedError,
)
from carm_agent.navigation.navigator import Navigator
from carm_agent.navigation.task import NavigationGoal
from carm_agent.parameters import AgentParameters
from carm_agent.planning.move import MoveGoal, Mover
from carm_agent.planning.planner import Planner
from carm_agent.ports import Acquisition, Arm, Clock, Imager, Interrupt
from carm_bringup.benchmarks.faults.kernel import Link, Part, World
from carm_bringup.benchmarks.faults.parts import JointStates, SentGoal
from carm_bringup.benchmarks.faults.scenario import Order
from carm_control import (
    Acceptance,
    ErrorCode,
    GoalOutcome,
    GoalStatus,
    JointLimits,
    OperatingState,
    TrajectoryGoal,
    TrajectoryPoint,
)
from carm_control.supervision.joint_states import JointStateCheck
from carm_core.errors import CarmError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_core.transforms import Array

_PLANNING_S = 0.15
_EXPOSURE_S, _ANSWER_S = 0.4, 0.4
_FIELD_MM = 150.0
_STD_MM = 4.0
_FAR_MM = 300.0
_REST = 2e-3
_FRESH_S = 0.5
_LATCHED = (OperatingState.STOPPED, OperatingState.FAULT)
_KEPT = 150
_IMAGE = np.zeros((8, 8), dtype=np.uint8)


class GoneError(BaseException):
    """The agent's process has ended: nothing of it goes on."""


class Device(Part):
    """X-ray system or localizer: answers requests after a time."""

    def __init__(self, world: World, name: str) -> None:
        """Wait for requests; see ``Part``."""
        super().__init__(world, name)

    def serve(self, after_s: float, answer: Callable[[], None]) -> None:
        """Answer a request after a time, s."""
        self.world.at(self.world.now_s + after_s, lambda: self.receive("work", answer, 10))


class Agent(Part):
    """The agent's process. Its task runs in the foreground: while it waits, virtual time passes."""

    def __init__(self, world: World, carm: CArm, beat: Callable[[tuple[bytes, str]], None]) -> None:
        """Begin without a task.

        Args:
            world: With the faults.
            carm: The arm.
            beat: Sends a renewal.
        """
        super().__init__(world, "agent")
        self.carm, self.parameters = carm, AgentParameters()
        self.interrupt = Interrupt()
        self._check = JointStateCheck(JointLimits.of(carm.joints), self.parameters.joint_state_timeout_s)
        self.joints: list[tuple[float, float, Array, Array]] = []
        self.state: tuple[float, OperatingState] = (-math.inf, OperatingState.STARTING)
        self.goals: set[bytes] = set()
        self._beat = beat
        self.every(lambda: 0.1, self._renew)

    def _renew(self) -> None:
        for key in tuple(self.goals):
            self._beat((key, "agent_node"))

    def on_joints(self, message: JointStates) -> None:
        """Take joint states."""
        now_s = self.world.now_s
        if self._check.receive(message.names, message.positions, message.velocities, message.stamp_s, now_s):
            return
        motion, _ = self._check.motion(now_s)
        if motion is not None:
            self.joints.append((message.stamp_s, now_s, motion.position, motion.velocity))
            del self.joints[:-_KEPT]

    def on_state(self, told: tuple[OperatingState, str]) -> None:
        """Take the arm's state."""
        self.state = self.world.now_s, told[0]
        if told[0] in _LATCHED and self.goals:
            self.interrupt.stop(told[1] or "stop was pressed")

    def wait(self, condition: Callable[[], bool], timeout_s: float, *, uninterrupted: bool = False) -> bool:
        """Let time pass until a condition holds; see ``Interrupt.wait_for``.

        Raises:
            GoneError: The process has ended meanwhile.
        """
        world = self.world

        def over() -> bool:
            return self.dead or condition() or (self.interrupt.tripped and not uninterrupted)

        world.run(world.now_s + timeout_s, over)
        while self.frozen and not self.dead:
            world.run(self.frozen_s, lambda: self.dead)
        if self.dead:
            raise GoneError
        if not uninterrupted:
            self.interrupt.check()
        return condition()

    @property
    def joint_states_known(self) -> bool:
        """Whether the last joint states are fresh."""
        if not self.joints or self._check.motion(self.world.now_s)[1]:
            return False
        return self.world.now_s - self.joints[-1][1] <= self.parameters.joint_state_timeout_s

    def joint_positions(self, stamp_s: float | None = None) -> Array:
        """Return the joint positions (6,) now, or nearest to a stamp, m and rad.

        Raises:
            NoJointStatesError: They are unknown.
        """
        if not self.joint_states_known:
            self.wait(lambda: self.joint_states_known, self.parameters.joint_state_timeout_s)
        if not self.joint_states_known:
            raise NoJointStatesError("the joint positions are unknown: no joint_states")
        if stamp_s is None:
            return self.joints[-1][2].copy()
        return min(self.joints, key=lambda known: abs(known[0] - stamp_s))[2].copy()

    def at_rest(self, since_s: float) -> bool:
        """Return whether something that came after a time, s, says that the arm is at rest."""
        told_s, state = self.state
        if self.world.now_s - told_s < _FRESH_S:
            return told_s > since_s and state in (OperatingState.IDLE, *_LATCHED)
        return bool(self.joints) and self.joints[-1][1] > since_s and bool(np.abs(self.joints[-1][3]).max() < _REST)


class WallClock(Clock):
    """The time of day, which jumps."""

    def __init__(self, world: World) -> None:
        """Read a world's clock."""
        self._world = world

    def now_s(self) -> float:
        """Return the time of day, s."""
        return self._world.wall_s


class SimulatedArm(Arm):
    """As ``carm_agent.nodes.ros_ports.RosArm``."""

    def __init__(self, agent: Agent, send: Callable[[SentGoal], None], cancel: Callable[[bytes], None]) -> None:
        """Move for the agent.

        Args:
            agent: Whose arm.
            send: Sends a goal.
            cancel: Cancels one.
        """
        self._agent, self._send, self._cancel = agent, send, cancel
        self._count = 0

    def joint_positions(self) -> Array:
        """See ``Arm.joint_positions``."""
        return self._agent.joint_positions()

    def execute(self, trajectory: Trajectory) -> None:
        """See ``Arm.execute``."""
        agent, parameters = self._agent, self._agent.parameters
        agent.wait(lambda: False, _PLANNING_S)
        if agent.state[1] in _LATCHED:
            raise StoppedError("stop is latched; reset first")
        self._count += 1
        key = f"agent_{self._count}".encode()
        answers: list[Acceptance] = []
        ends: list[GoalOutcome] = []
        goal = goal_of(agent.carm, trajectory)
        agent.interrupt.check()
        agent.goals.add(key)
        agent._renew()
        try:
            self._send(SentGoal(key, goal, answers.append, ends.append))
            if not agent.wait(lambda: bool(answers), parameters.server_timeout_s, uninterrupted=True):
                self._cancel(key)
                raise NotAtRestError("the controller did not accept or refuse the trajectory")
            if answers[0].goal_id is None:
                raise RejectedTrajectoryError(f"refused: {answers[0].message}")
            self._follow(key, ends, trajectory.duration_s + parameters.motion_timeout_s)
        finally:
            agent.goals.discard(key)

    def _follow(self, key: bytes, ends: list[GoalOutcome], limit_s: float) -> None:
        agent, parameters = self._agent, self._agent.parameters
        try:
            if not agent.wait(lambda: bool(ends), limit_s):
                raise MotionError("the motion did not end; it was canceled")
        except CarmError:
            self._cancel(key)
            agent.wait(lambda: bool(ends), parameters.rest_timeout_s, uninterrupted=True)
            self._wait_rest()
            raise
        self._wait_rest()
        agent.interrupt.check()
        outcome = ends[0]
        if outcome.status is GoalStatus.SUCCEEDED:
            return
        if outcome.code is ErrorCode.INVALID_GOAL:
            raise RejectedTrajectoryError(outcome.message)
        raise MotionError(f"the trajectory controller gave up: {outcome.message}")

    def _wait_rest(self) -> None:
        agent, now_s = self._agent, self._agent.world.now_s
        if not agent.wait(lambda: agent.at_rest(now_s), agent.parameters.rest_timeout_s, uninterrupted=True):
            raise NotAtRestError("nothing says that the arm came to rest after its motion")


class SimulatedImager(Imager):
    """As ``carm_agent.nodes.ros_ports.RosImager``, with images that show nothing: only their geometry counts."""

    def __init__(self, agent: Agent, xray: Device, out: Link, back: Link, truth: Callable[[], Array]) -> None:
        """Expose for the agent.

        Args:
            agent: Who asks.
            xray: Who exposes.
            out: To the X-ray system.
            back: To the agent.
            truth: Returns the true joint positions (6,), m and rad.
        """
        self._agent, self._xray, self._out, self._back, self._truth = agent, xray, out, back, truth
        self.views: dict[float, XrayView] = {}

    def expose(self, field_mm: float = 0.0) -> Acquisition:
        """See ``Imager.expose``."""
        agent, world = self._agent, self._agent.world
        came: list[float] = []

        def exposed() -> None:
            stamp_s = world.wall_s
            self.views[stamp_s] = agent.carm.view(self._truth())
            world.history.note("exposure")
            self._back.send(stamp_s, came.append)

        self._out.send(field_mm, lambda field: self._xray.serve(_EXPOSURE_S, exposed))
        if not agent.wait(lambda: bool(came), agent.parameters.image_timeout_s):
            raise ImagingError("no X-ray image came")
        positions = agent.joint_positions(came[0])
        view = agent.carm.view(positions)
        primary, secondary = agent.carm.angles(positions)
        return Acquisition(XrayFrame(_IMAGE, view.mm_per_px_at_isocenter, came[0], primary, secondary, view), 1e-6)


class SimulatedLocalizer(Localizer):
    """Tells where a landmark truly is, but for an error; or, with a fault, something else."""

    name = "simulated"

    def __init__(
        self, agent: Agent, device: Device, out: Link, back: Link, imager: SimulatedImager, points_mm: dict[int, Array]
    ) -> None:
        """Answer the agent.

        Args:
            agent: Who asks.
            device: Who answers.
            out: To the localizer.
            back: To the agent.
            imager: Knows where the arm truly was.
            points_mm: Landmarks, id to position (3,) in frame ``table``, mm.
        """
        self._agent, self._device, self._out, self._back = agent, device, out, back
        self._imager, self._points_mm = imager, points_mm
        self._random = agent.world.random("localizer")

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """See ``Localizer.localize``."""
        agent, came = self._agent, list[Localization]()
        late = agent.world.active("localizer_late")
        after_s = _ANSWER_S + (0.0 if late is None else 10.0 * late.value)

        def answered() -> None:
            self._back.send(self._answer(frame, query), came.append)

        self._out.send(query, lambda asked: self._device.serve(after_s, answered))
        if not agent.wait(lambda: bool(came), agent.parameters.localizer_timeout_s):
            raise LocalizerError("the localizer did not answer in time")
        return came[0]

    def _answer(self, frame: XrayFrame, query: Query) -> Localization:
        world, target = self._agent.world, query.target_id or 0
        view, point = self._imager.views.get(frame.stamp_s), self._points_mm.get(target)
        wrong = world.active("localizer_wrong")
        if view is None or point is None or world.active("localizer_abstains") is not None:
            return Localization(self.name, "", query, "", abstained=True, message="not sure enough")
        place = view.displacement_mm(point)
        if np.abs(place).max() > _FIELD_MM and wrong is None:
            return Localization(self.name, "", query, "", abstained=True, message="not in the image")
        place = place + self._random.normal(0.0, _STD_MM, 2)
        if wrong is not None:
            place = self._random.uniform(-_FAR_MM, _FAR_MM, 2) * wrong.value
        found = LandmarkEstimate(target, (float(place[0]), float(place[1])), _STD_MM, 2.15 * _STD_MM, 0.9)
        return Localization(self.name, "", query, "<answer>", (found,), latency_s=_ANSWER_S)


def goal_of(carm: CArm, trajectory: Trajectory) -> TrajectoryGoal:
    """Return a trajectory as a goal for the controller."""
    velocities, accelerations = trajectory.velocities, trajectory.accelerations
    assert velocities is not None
    assert accelerations is not None
    rows = zip(trajectory.times_s, trajectory.positions, velocities, accelerations, strict=True)
    points = tuple(
        TrajectoryPoint(float(t), tuple(q.tolist()), tuple(v.tolist()), tuple(a.tolist())) for t, q, v, a in rows
    )
    return TrajectoryGoal(carm.joint_names, points)


def run_order(
    order: Order, agent: Agent, arm: SimulatedArm, imager: Imager, localizer: Localizer, planner: Planner
) -> str:
    """Run one task of the agent to its end; return how it ended, in one line.

    Raises:
        GoneError: The agent's process ended.
    """
    agent.interrupt = Interrupt()
    if order.kind == "move":
        target = dict(zip(agent.carm.joint_names, order.positions[0], strict=True))
        result = Mover(planner, arm).run(MoveGoal(tuple(target), tuple(target.values())))
        return f"{result.error_code.name}: {result.error_msg}"
    clock = WallClock(agent.world)
    navigator = Navigator(planner, imager, localizer, arm, clock, agent.interrupt)
    found = navigator.run(NavigationGoal(target_id=order.landmark))
    return f"{found.error_code.name}: {found.error_msg}"
