# SPDX-License-Identifier: Apache-2.0
"""One navigation episode in one process: the simulated patient and arm behind the navigator's ports.

Only this module and the patient know where a landmark truly is; the navigator sees what the real graph shows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from carm_agent.navigation.navigator import Navigator
from carm_agent.navigation.task import NavigationGoal, NavigationResult, NavigatorConfig, Policy, Progress
from carm_agent.planning.planner import Planner
from carm_agent.ports import Acquisition, Arm, Clock, Imager
from carm_bringup.benchmarks.navigation.baselines import Baseline, Coarse, Operator
from carm_bringup.benchmarks.navigation.collision_judge import Judge, Surroundings
from carm_bringup.benchmarks.navigation.suites import Starts
from carm_core.errors import GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.localization import Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory
from carm_core.transforms import rotation_about
from carm_perception.evaluation.suites.shifts import SHIFTS, Scene, Shift, expose, prepare
from carm_perception.evaluation.suites.suites import FOURTEEN
from carm_sim.patient.patient import Patient
from carm_sim.xray import Request, XraySystem

EXPOSURE_S = 0.5
"""Time that an exposure costs in an episode, s: request, exposure, readout."""
LOCALIZE_S = 0.5
"""Time that an answer costs in an episode, s. A fixed one, so that figures do not depend on the machine."""

TURN_DEG = 30.0
"""Turn about the patient's long axis after which the distance is measured once more, deg."""

BIPLANE = "biplane"
"""Policy of the agent with the depth from two views."""

_LIMIT_SAMPLE_S = 0.01
_LIMIT_SLACK = 1.0 + 1e-6


@dataclass(frozen=True, eq=False)
class Episode:
    """What an episode starts from.

    Attributes:
        patient: Name of the patient.
        target_id: Landmark to be centered.
        start: Joint positions (6,), m and rad.
        seed: Of the noise.
    """

    patient: str
    target_id: int
    start: NDArray[np.float64]
    seed: int


@dataclass(frozen=True)
class Outcome:
    """How an episode ended.

    Attributes:
        episode: What it started from.
        result: What the navigator says.
        start_distance_mm: True distance of the target from the image center at the start, at isocenter depth, mm.
        distance_mm: The same at the end.
        limit_violations: Trajectories that exceed a joint's limits.
        clearances_m: Smallest true distance to body, table and floor of each trajectory, m; empty if nobody looked.
        latencies_s: Of the localizer, measured on this machine, s.
        turned_mm: How far the target truly is from the image center when the view then turns by ``TURN_DEG`` about
            the isocenter, at isocenter depth, mm: small when the isocenter lies on the landmark in depth as well.
    """

    episode: Episode
    result: NavigationResult
    start_distance_mm: float
    distance_mm: float
    limit_violations: int
    latencies_s: tuple[float, ...]
    clearances_m: tuple[float, ...] = ()
    turned_mm: float = math.nan

    def success(self, within_mm: float) -> bool:
        """Return whether the navigator claims success and the target truly is within a distance of the image center."""
        return self.result.success and self.distance_mm <= within_mm

    @property
    def false_success(self) -> bool:
        """Whether the navigator claims success although the target is more than 30 mm away."""
        return self.result.success and self.distance_mm > 30.0


@dataclass(frozen=True, eq=False)
class Step:
    """One exposure of an episode, for pictures.

    Attributes:
        frame: The image.
        localization: The answer; None before it came.
        truth_mm: True displacement of the target (2,), mm.
        reasoning: What the navigator made of it.
    """

    frame: XrayFrame
    localization: Localization
    truth_mm: NDArray[np.float64]
    reasoning: str


class SimulatedClock(Clock):
    """Time that passes only by what the ports do."""

    def __init__(self) -> None:
        """Start at 0 s."""
        self.time_s = 0.0

    def now_s(self) -> float:
        """Return the simulated time, s."""
        return self.time_s


class SimulatedArm(Arm):
    """Follows every trajectory exactly, and counts those that exceed a joint's limits."""

    def __init__(
        self, carm: CArm, clock: SimulatedClock, start: NDArray[np.float64], judge: Judge | None = None
    ) -> None:
        """Place the arm at a start.

        Args:
            carm: Kinematics and limits.
            clock: Advanced by each motion.
            start: Joint positions (6,), m and rad.
            judge: Measures how close each trajectory comes to body and table; None: nobody does.
        """
        self._judge = judge
        self.clearances_m: list[float] = []
        self._carm = carm
        self._clock = clock
        self._positions = np.array(start, dtype=np.float64)
        self.limit_violations = 0

    def joint_positions(self) -> NDArray[np.float64]:
        """Return the present joint positions (6,), m and rad."""
        return self._positions.copy()

    def execute(self, trajectory: Trajectory) -> None:
        """Move to the end of a trajectory and advance the clock by its duration."""
        self.limit_violations += exceeds_limits(self._carm, trajectory)
        if self._judge is not None:
            self.clearances_m.append(self._judge.along_m(trajectory))
        self._positions = trajectory.positions[-1].copy()
        self._clock.time_s += trajectory.duration_s


class SimulatedImager(Imager):
    """Exposes the simulated patient."""

    def __init__(self, system: XraySystem, arm: SimulatedArm, clock: SimulatedClock) -> None:
        """Image a patient from the position of the arm.

        Args:
            system: The X-ray system.
            arm: The arm.
            clock: Advanced by each exposure.
        """
        self._system, self._arm, self._clock = system, arm, clock

    def expose(self, field_mm: float = 0.0) -> Acquisition:
        """Take one exposure."""
        self._clock.time_s += EXPOSURE_S
        side_m = field_mm / 1000.0
        exposure = self._system.expose(self._arm.joint_positions(), Request(field_m=(side_m, side_m)))
        return Acquisition(exposure.frame(self._clock.time_s), exposure.dose_area_product_gym2)


class ShiftedImager(Imager):
    """Exposes a patient under a shift of the evaluation's test sets; the field is the shift's own."""

    def __init__(self, scene: Scene, shift: Shift, arm: SimulatedArm, clock: SimulatedClock, seed: int) -> None:
        """Image a scene from the position of the arm.

        Args:
            scene: Patient and X-ray system.
            shift: What is out of the ordinary.
            arm: The arm.
            clock: Advanced by each exposure.
            seed: Of the shift's randomness.
        """
        self._scene, self._shift, self._arm, self._clock = scene, shift, arm, clock
        self._generator = np.random.default_rng([seed, 23])

    def expose(self, field_mm: float = 0.0) -> Acquisition:
        """Take one exposure."""
        self._clock.time_s += EXPOSURE_S
        exposure, display = expose(self._scene, self._shift, self._arm.joint_positions(), self._generator)
        frame = replace(exposure.frame(self._clock.time_s), image=display)
        return Acquisition(frame, exposure.dose_area_product_gym2)


@dataclass(frozen=True, eq=False)
class Room:
    """A patient on the table under the arm, as episodes need it.

    Attributes:
        name: Name of the patient.
        carm: The arm.
        points_mm: Landmarks that can be imaged, id to position (3,) in frame ``table``, mm.
        imager: Makes what takes the images, from the arm, the clock and a seed.
        surroundings: What planner and judge know of the patient's body; None: nothing is in the way.
    """

    name: str
    carm: CArm
    points_mm: dict[int, NDArray[np.float64]]
    imager: Callable[[SimulatedArm, SimulatedClock, int], Imager]
    surroundings: Surroundings | None = None

    @classmethod
    def of(cls, patient: Patient, carm: CArm, ids: Collection[int] = FOURTEEN) -> Room:
        """Put a patient with known landmarks on the table.

        Args:
            patient: The patient.
            carm: The arm.
            ids: Landmarks that episodes are about.
        """

        def imager(arm: SimulatedArm, clock: SimulatedClock, seed: int) -> Imager:
            return SimulatedImager(XraySystem(patient, carm, seed=seed), arm, clock)

        place = patient.transform_lps_to_table.apply
        points = {key: np.asarray(place(p)) for key, p in patient.imaged_landmarks_mm.items() if key in ids}
        return cls(patient.name, carm, points, imager, Surroundings.of(patient, carm))

    @classmethod
    def shifted(cls, name: str, number: int, shift_name: str, carm: CArm, seed: int) -> Room:
        """Put a patient on the table as the shift requires.

        Args:
            name: For ``load_patient``.
            number: Of the patient in its suite.
            shift_name: One of ``carm_perception.evaluation.suites.shifts.SHIFTS``.
            carm: The arm.
            seed: Of the shift and the noise.
        """
        shift = SHIFTS[shift_name]
        scene = prepare(name, number, shift, carm, np.random.default_rng([seed, number, 29]), seed)

        def imager(arm: SimulatedArm, clock: SimulatedClock, own: int) -> Imager:
            return ShiftedImager(scene, shift, arm, clock, own)

        points = {key: scene.points_mm[key] for key in scene.imaged if key in FOURTEEN}
        return cls(scene.name, carm, points, imager, Surroundings.of(scene.system.patient, carm))


class RecordingLocalizer(Localizer):
    """Passes questions on, and keeps frames, answers and latencies."""

    def __init__(self, localizer: Localizer, clock: SimulatedClock) -> None:
        """Wrap a localizer.

        Args:
            localizer: answers.
            clock: Advanced by each answer.
        """
        self.name, self.model_version = localizer.name, localizer.model_version
        self._localizer, self._clock = localizer, clock
        self.answers: list[tuple[XrayFrame, Localization]] = []

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question."""
        self._clock.time_s += LOCALIZE_S
        localization = self._localizer.localize(frame, query)
        self.answers.append((frame, localization))
        return localization


def exceeds_limits(carm: CArm, trajectory: Trajectory) -> bool:
    """Return whether a trajectory, interpolated as the controller does, exceeds a joint's limits, the jerk's included.

    The jerk is the mean over the time between two samples: trajectories without accelerations have steps in them.
    """
    joints, names = carm.joints, ("lower", "upper", "velocity", "acceleration", "jerk")
    lower, upper, velocity, acceleration, jerk = (np.array([getattr(joint, n) for joint in joints]) for n in names)
    count = max(2, math.ceil(trajectory.duration_s / _LIMIT_SAMPLE_S))
    times_s, before = np.linspace(0.0, trajectory.duration_s, count), np.zeros(len(joints))
    for time_s in times_s:
        position, speed, change = trajectory.sample(float(time_s))
        if (np.abs(change - before) > jerk * times_s[1] * _LIMIT_SLACK + 1e-6).any():
            return True
        before = change
        outside = (position < lower - 1e-9) | (position > upper + 1e-9)
        fast = np.abs(speed) > velocity * _LIMIT_SLACK + 1e-9
        if (outside | fast | (np.abs(change) > acceleration * _LIMIT_SLACK + 1e-6)).any():
            return True
    return False


def run_episode(
    episode: Episode,
    room: Room,
    localizer: Localizer,
    on_step: Callable[[Step], None] | None = None,
    policy: str = Policy.POINTING,
    on_report: Callable[[Progress], None] = lambda progress: None,
    *,
    exact_mm: float = 0.0,
) -> Outcome:
    """Run one episode.

    Args:
        episode: What to start from.
        room: Who lies on the table.
        localizer: Finds the landmarks.
        on_step: Told each exposure with what followed from it, for pictures.
        policy: Of the agent, ``biplane``, or ``coarse`` or ``operator``, which are baselines.
        on_report: Told everything that the navigator says.
        exact_mm: As in ``NavigatorConfig``.
    """
    carm = room.carm
    point = room.points_mm[episode.target_id]
    clock = SimulatedClock()
    around = room.surroundings
    arm = SimulatedArm(carm, clock, episode.start, around.judge if around else None)
    recorder = RecordingLocalizer(localizer, clock)

    def distance_mm() -> float:
        return float(np.linalg.norm(carm.view(arm.joint_positions()).displacement_mm(point)))

    def report(progress: Progress) -> None:
        on_report(progress)
        if on_step is not None and progress.decision and recorder.answers:
            frame, localization = recorder.answers[-1]
            assert frame.view is not None
            on_step(Step(frame, localization, frame.view.displacement_mm(point), progress.reasoning))

    localizer.forget()
    start_distance_mm = distance_mm()
    imager = room.imager(arm, clock, episode.seed)
    planner = Planner(carm, collision=around.model if around else None)
    config = NavigatorConfig(exact_mm=exact_mm)
    navigator = _decider(policy, planner, imager, recorder, arm, clock, point, episode.seed, config)
    result = navigator.run(NavigationGoal(target_id=episode.target_id, biplane=policy == BIPLANE), report)
    latencies = tuple(answer.latency_s for _, answer in recorder.answers)
    return Outcome(
        episode,
        result,
        start_distance_mm,
        distance_mm(),
        arm.limit_violations,
        latencies,
        tuple(arm.clearances_m),
        _turned_mm(carm.view(arm.joint_positions()), point),
    )


def _turned_mm(view: XrayView, point_mm: NDArray[np.float64]) -> float:
    """Return the error after a turn, mm: the view turns as the point turns backward; the worse direction counts."""
    distances = []
    for sign in (-1.0, 1.0):
        turn = rotation_about("x", sign * math.radians(TURN_DEG))
        seen = view.displacement_mm(view.isocenter_mm + turn @ (point_mm - view.isocenter_mm))
        distances.append(float(np.linalg.norm(seen)))
    return max(distances)


def _decider(
    policy: str,
    planner: Planner,
    imager: Imager,
    localizer: Localizer,
    arm: SimulatedArm,
    clock: Clock,
    point_mm: NDArray[np.float64],
    seed: int,
    config: NavigatorConfig,
) -> Navigator | Baseline:
    if policy == "coarse":
        return Coarse(planner, imager, localizer, arm, clock)
    if policy == "operator":
        return Operator(planner, imager, localizer, arm, clock, point_mm, seed)
    asked = Policy.POINTING if policy == BIPLANE else Policy(policy)
    return Navigator(planner, imager, localizer, arm, clock, config=replace(config, policy=asked))


def draw_episodes(
    room: Room, count: int, generator: np.random.Generator, starts: Starts | None = None
) -> list[Episode]:
    """Draw episodes of one patient: random starts, all reachable targets in random order.

    Args:
        room: Who lies on the table.
        count: How many; targets repeat only after all had their turn.
        generator: Source of all that is random.
        starts: Where the arm starts; None: over the upper body.

    Returns:
        The episodes; fewer than ``count`` only if no target is within reach.
    """
    points, carm = room.points_mm, room.carm
    starts = starts or Starts()
    episodes: list[Episode] = []
    turn: list[int] = []
    refused = 0
    while len(episodes) < count and refused < 20 * len(points):
        if not turn:
            turn = [int(key) for key in generator.permutation(sorted(points))]
        target_id = turn.pop()
        start = starts.draw(points, target_id, carm, generator)
        if start is None or not _reachable(carm, start, points[target_id]):
            refused += 1
            continue
        episodes.append(Episode(room.name, target_id, start, int(generator.integers(2**31))))
    return episodes


def _reachable(carm: CArm, start: NDArray[np.float64], point_mm: NDArray[np.float64]) -> bool:
    """Return whether the isocenter can be shifted in the image plane so that a point falls on the image center.

    From a view that the agent leaves for one at 0/0, the image plane of that one counts.
    """
    angles = carm.angles(start)
    if abs(np.degrees(angles[0])) > NavigatorConfig.max_primary_deg:
        try:
            start = carm.inverse(carm.isocenter(start), 0.0, 0.0)[0]
        except GoalError:
            return False
    view = carm.view(start)
    offset = point_mm - view.isocenter_mm
    shift = offset - (offset @ view.forward) * view.forward
    try:
        carm.inverse((view.isocenter_mm + shift) / 1000.0, *carm.angles(start))
    except GoalError:
        return False
    return True
