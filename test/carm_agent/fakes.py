# SPDX-License-Identifier: Apache-2.0
"""A world without images: an arm that goes where it is told and localizers of every character."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carm_agent.ports import Acquisition, Arm, Clock, Imager, Interrupt
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.landmarks import IDS
from carm_core.localization import POINT_ID, LandmarkEstimate, Localization, Localizer, Query
from carm_core.robot.kinematics import CArm
from carm_core.robot.trajectory import Trajectory

Hook = Callable[[], None]


class FakeClock(Clock):
    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        return self.time_s


class FakeArm(Arm):
    """Jumps to the end of each trajectory and advances the clock by its duration."""

    def __init__(self, carm: CArm, clock: FakeClock, start: NDArray | None = None) -> None:
        self.carm = carm
        self.clock = clock
        self.positions = np.array(carm.home if start is None else start, dtype=float)
        self.executed: list[Trajectory] = []
        self.at_rest = True
        self.before: Hook = lambda: None

    def joint_positions(self) -> NDArray[np.float64]:
        return self.positions.copy()

    def execute(self, trajectory: Trajectory) -> None:
        assert np.allclose(trajectory.positions[0], self.positions)
        self.before()
        self.positions = trajectory.positions[-1].copy()
        self.clock.time_s += trajectory.duration_s
        self.executed.append(trajectory)


class FakeImager(Imager):
    """Takes gray images of the view in which the arm stands."""

    def __init__(self, arm: FakeArm, dose_gym2: float = 1e-6) -> None:
        self.arm = arm
        self.dose_gym2 = dose_gym2
        self.count = 0
        self.fields_mm: list[float] = []
        self.before: Hook = lambda: None

    def expose(self, field_mm: float = 0.0) -> Acquisition:
        self.before()
        self.count += 1
        self.fields_mm.append(field_mm)
        self.arm.clock.time_s += 0.5
        view = self.arm.carm.view(self.arm.positions)
        image = np.full((8, 8), 128, dtype=np.uint8)
        frame = XrayFrame(image, view.mm_per_px_at_isocenter, self.arm.clock.time_s, 0.0, 0.0, view)
        return Acquisition(frame, self.dose_gym2)


class FakeLocalizer(Localizer):
    """Answers by a function of the true displacement and of how often it was asked."""

    name = "fake"

    def __init__(self, points_mm: dict[int, NDArray], reply: Callable[[NDArray, Query, int], Localization]) -> None:
        self.points_mm = points_mm
        self.reply = reply
        self.count = 0
        self.before: Hook = lambda: None
        self.views: list[XrayView] = []
        self.queries: list[Query] = []

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        self.before()
        assert (query.target_id is None) != (query.point_mm is None)
        assert frame.view is not None
        self.count += 1
        self.views.append(frame.view)
        self.queries.append(query)
        return self.reply(frame.view.displacement_mm(self.points_mm[query.target_id or POINT_ID]), query, self.count)


def answer(query: Query, displacement_mm: NDArray, std_mm: float = 5.0, confidence: float = 0.9) -> Localization:
    x, y = (float(value) for value in displacement_mm)
    estimate = LandmarkEstimate(query.target_id or POINT_ID, (x, y), std_mm, 2.146 * std_mm, confidence)
    return Localization("fake", "", query, "", (estimate,), 0.01)


def right(displacement: NDArray, query: Query, count: int) -> Localization:
    return answer(query, displacement)


def noisy(seed: int, std_mm: float) -> Callable[[NDArray, Query, int], Localization]:
    generator = np.random.default_rng(seed)

    def reply(displacement: NDArray, query: Query, count: int) -> Localization:
        return answer(query, displacement + generator.normal(0.0, std_mm, 2), std_mm)

    return reply


def silent(displacement: NDArray, query: Query, count: int) -> Localization:
    return Localization("fake", "", query, "", abstained=True, message="nothing familiar in the image")


def malformed(displacement: NDArray, query: Query, count: int) -> Localization:
    return Localization("fake", "", query, "[11, 11", error="malformed", message="the answer does not parse")


def hesitant(displacement: NDArray, query: Query, count: int) -> Localization:
    return answer(query, displacement, confidence=0.1)


def about_another(displacement: NDArray, query: Query, count: int) -> Localization:
    assert query.target_id is not None
    localization = answer(query, displacement)
    other = replace(localization.estimates[0], id=query.target_id % 14 + 1)
    return replace(localization, estimates=(other,))


def not_a_number(displacement: NDArray, query: Query, count: int) -> Localization:
    return answer(query, np.array([math.nan, 3.0]))


class World:
    """One task's worth of fakes around a landmark at `point_mm` in frame `table`."""

    def __init__(
        self, reply: Callable[[NDArray, Query, int], Localization], point_mm: tuple[float, float, float]
    ) -> None:
        self.carm = CArm.from_config()
        self.clock = FakeClock()
        self.arm = FakeArm(self.carm, self.clock)
        self.imager = FakeImager(self.arm)
        self.localizer = FakeLocalizer(dict.fromkeys((POINT_ID, *IDS), np.array(point_mm)), reply)
        self.interrupt = Interrupt()

    def true_distance_mm(self, target_id: int = 11) -> float:
        view = self.carm.view(self.arm.positions)
        return float(np.linalg.norm(view.displacement_mm(self.localizer.points_mm[target_id])))
