# SPDX-License-Identifier: Apache-2.0
"""Suites and policies of the navigation bench: patients, starts and decision makers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError, GoalError
from carm_core.robot.kinematics import CArm
from carm_perception.evaluation.suites.suites import FOURTEEN, SHIFT_PREFIX, SHIFTS, WHOLE_SETS
from carm_perception.evaluation.suites.suites import suite as evaluation_suite
from carm_perception.localizers import registry
from carm_perception.localizers.registry import LocalizerOptions

if TYPE_CHECKING:
    from carm_core.localization import Localizer

Points = dict[int, NDArray[np.float64]]
"""Landmark id to its position (3,) in frame ``table``, mm."""

FIRST_PHANTOM_SEED = 950_000
"""First seed of the phantoms; nothing is trained, calibrated or tuned on phantoms from here on."""

T1, T12 = 10, 14


@dataclass(frozen=True)
class Starts:
    """Where episodes start.

    Attributes:
        across_mm: Starts lie within this distance of the body's middle plane, mm.
        margin_mm: And between this far below T12 and above T1, mm.
        depth_mm: The isocenter's height is the landmarks' mean height give or take this, mm.
        primary_deg: Least and largest size of the primary angle, deg; both signs.
        secondary_deg: Largest size of the secondary angle, deg.
        apart_mm: The start lies near a landmark at least this far from the target, mm; 0: anywhere over the upper body.
        local_height: That landmark's height counts instead of the mean.
    """

    across_mm: float = 100.0
    margin_mm: float = 60.0
    depth_mm: float = 30.0
    primary_deg: tuple[float, float] = (0.0, 10.0)
    secondary_deg: float = 10.0
    apart_mm: float = 0.0
    local_height: bool = False

    def draw(
        self, points: Points, target_id: int, carm: CArm, generator: np.random.Generator
    ) -> NDArray[np.float64] | None:
        """Draw a start.

        Args:
            points: The patient's landmarks.
            target_id: Landmark to be centered.
            carm: The arm.
            generator: Source of all that is random.

        Returns:
            Joint positions (6,), m and rad; None when the draw is out of reach.
        """
        isocenter_mm = self._apart(points, target_id, generator) if self.apart_mm else self._over(points, generator)
        if isocenter_mm is None:
            return None
        low, high = self.primary_deg
        primary = generator.uniform(-high, high)
        if low > 0:
            primary = generator.choice((-1.0, 1.0)) * generator.uniform(low, high)
        secondary = generator.uniform(-self.secondary_deg, self.secondary_deg)
        try:
            return carm.inverse(isocenter_mm / 1000.0, float(np.radians(primary)), float(np.radians(secondary)))[0]
        except GoalError:
            return None

    def _height(self, points: Points, generator: np.random.Generator) -> float:
        mean = float(np.mean([point[2] for point in points.values()]))
        return mean + float(generator.uniform(-self.depth_mm, self.depth_mm))

    def _over(self, points: Points, generator: np.random.Generator) -> NDArray[np.float64]:
        every = np.array(list(points.values()))
        high = points[T1][0] if T1 in points else every[:, 0].max()
        low = points[T12][0] if T12 in points else every[:, 0].min()
        along = generator.uniform(low - self.margin_mm, high + self.margin_mm)
        across = generator.uniform(-self.across_mm, self.across_mm)
        return np.array([along, across, self._height(points, generator)])

    def _apart(self, points: Points, target_id: int, generator: np.random.Generator) -> NDArray[np.float64] | None:
        target = points[target_id]
        far = [key for key, point in points.items() if np.linalg.norm(point[:2] - target[:2]) >= self.apart_mm]
        if not far:
            return None
        near = points[int(generator.choice(sorted(far)))]
        along, across = near[:2] + generator.normal(0.0, 30.0, 2)
        return np.array([along, across, self._height({0: near} if self.local_height else points, generator)])


@dataclass(frozen=True)
class NavigationSuite:
    """A seeded set of episodes.

    Attributes:
        name: Name in reports.
        patients: Default number of patients.
        episodes: Default number of episodes.
        description: One line.
        starts: Where the arm starts.
        patient: Name of a patient, with ``{seed}`` where the seed of a phantom goes.
        shift: Name of what differs from the images that the models were trained on; empty: nothing.
        ct: The patient's CT, where it is known; another body than in the CT is then imaged.
        ids: Landmarks that are targets.
    """

    name: str
    patients: int
    episodes: int
    description: str
    starts: Starts = Starts()
    patient: str = "phantom:{seed}"
    shift: str = ""
    ct: str = ""
    ids: tuple[int, ...] = FOURTEEN

    def names(self, count: int) -> list[str]:
        """Return the names of the first ``count`` patients."""
        if "{seed}" not in self.patient:
            return [self.patient]
        if self.shift in SHIFTS_OF_BODIES:
            return list(evaluation_suite(SHIFT_PREFIX + self.shift, count).patients)
        seeds = [FIRST_PHANTOM_SEED + index for index in range(count)]
        return [self.patient.format(seed=seed, kind="phantom" + "-living" * (seed % 2)) for seed in seeds]


_FAR = Starts(apart_mm=250.0)
_NEAR_ANOTHER = Starts(apart_mm=100.0, local_height=True)
_WHOLE = "{kind}:{seed}?whole_body"
_LATERAL = Starts(primary_deg=(60.0, 90.0))

SHIFTS_OF_BODIES = ("habitus", "arms")
"""Shifts that choose the bodies."""

SUITES: dict[str, NavigationSuite] = {
    suite.name: suite
    for suite in (
        NavigationSuite("upper-body", 50, 700, "unseen phantoms, starts over the upper body, all reachable targets"),
        NavigationSuite("cross-body", 50, 350, "the same, starts at a landmark at least 250 mm from the target", _FAR),
        NavigationSuite("lateral-start", 50, 350, "the same, starts in a lateral view (60 to 90 deg)", _LATERAL),
        *(NavigationSuite(f"shift-{key}", 20, 140, text, shift=key) for key, text in SHIFTS.items()),
        *(
            NavigationSuite(name, 20, 280, f"unseen whole bodies: {what}", _NEAR_ANOTHER, _WHOLE, ids=ids)
            for name, (what, ids) in WHOLE_SETS.items()
        ),
        NavigationSuite("chest-ct", 1, 200, "the real chest CT with the landmarks that it covers", patient="chest_ct"),
    )
}

ALIASES = {"phantoms": "upper-body", "chest_ct": "chest-ct"}
"""Earlier names of suites."""


def suite(name: str) -> NavigationSuite:
    """Return a suite by name.

    Raises:
        ConfigurationError: There is none.
    """
    found = SUITES.get(ALIASES.get(name, name))
    if found is None:
        raise ConfigurationError(f"unknown suite {name!r}; there are {', '.join(SUITES)}")
    return replace(found, name=name)


@dataclass(frozen=True)
class Contender:
    """Who decides in an episode.

    Attributes:
        localizer: Name of the localizer it asks.
        policy: What it asks and how it acts: a policy of the agent, or a baseline of the bench.
        description: One line.
        knows_ct: Whether the localizer is given the patient's CT.
    """

    localizer: str
    policy: str
    description: str
    knows_ct: bool = False


POLICIES: dict[str, Contender] = {
    "default": Contender("fused", "pointing", "language model, checked by the deep-learning localizer"),
    "registered": Contender("fused", "pointing", "the default, which also knows the CT (--ct)", knows_ct=True),
    "pointing": Contender("compact", "pointing", "the language model alone, by displacements in mm"),
    "xml": Contender("compact", "xml", "the language model alone, by directions and extents"),
    "biplane": Contender(
        "fused", "biplane", "the default with two more views, which put the isocenter on the landmark"
    ),
    "regression": Contender("regression", "pointing", "the deep-learning localizer alone"),
    "oracle": Contender("oracle", "pointing", "true landmarks: upper bound of the control"),
    "coarse": Contender("compact", "coarse", "baseline: one step per answer in its direction, without memory"),
    "operator": Contender("oracle", "operator", "baseline: trial and error, as a person at the console works"),
}


def make_localizer(name: str, patient: str, seed: int, options: LocalizerOptions | None = None) -> Localizer:
    """Return a localizer by name; ``oracle`` knows the patient's true landmarks.

    Raises:
        CarmError: There is none of this name, or it cannot be loaded.
    """
    return registry.make_localizer(name, replace(options or LocalizerOptions(), patient=patient, seed=seed, threads=1))
