# SPDX-License-Identifier: Apache-2.0
"""Goal, limits, progress and result of a navigation task."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from carm_core.errors import GoalError
from carm_core.landmarks import Landmark, find_landmark, landmark
from carm_core.localization import POINT_ID

NAN = float("nan")
EXACT_WITH_CT_MM = 10.0
"""``NavigatorConfig.exact_mm`` where the patient's CT is known."""


class NavigationCode(IntEnum):
    """How a task ended; values as in ``Navigate.action``."""

    NONE = 0
    UNKNOWN_TARGET = 1
    INVALID_GOAL = 2
    NO_IMAGE = 3
    LOCALIZER = 4
    LOST_CONFIDENCE = 5
    UNREACHABLE = 6
    MOTION = 7
    BUDGET = 8
    CANCELED = 9
    STOPPED = 10
    BUSY = 11
    INTERNAL = 12
    NOT_READY = 13


class Policy(StrEnum):
    """What the localizer is asked for, and so what drives the motions."""

    POINTING = "pointing"
    """Displacements in mm (protocol 5): of the language model, the deep-learning localizer or both, as launched."""
    XML = "xml"
    """Directions and extents with reasons (protocol 3), each taken for the distance that it typically means."""


class Stage(StrEnum):
    """What the task is doing; values as in ``Navigate.action``."""

    ACQUIRING = "acquiring"
    LOCALIZING = "localizing"
    DECIDING = "deciding"
    MOVING = "moving"
    VERIFYING = "verifying"


class Doubt(StrEnum):
    """What the clinician thinks of the landmark's being in the image center."""

    NONE = "none"
    LOOK_AGAIN = "look_again"
    """It may be or not; the localizer reconsiders its answer with the hint first (protocol 4)."""
    DENIED = "denied"
    """It is not; the localizer reconsiders, too."""


@dataclass(frozen=True)
class NavigationGoal:
    """Bring a landmark, or a point of the patient's CT, to the image center.

    Attributes:
        target_id: Landmark id; 0 to use ``target_name``.
        target_name: Name or synonym; ignored when ``target_id`` is set; of a point what people call it, if anything.
        tolerance_mm: Success within this distance at isocenter depth, mm; 0 for the default.
        max_exposures: 0 for the default.
        max_duration_s: S; 0 for the default.
        hint: What the clinician added, in plain words; passed on to the localizer.
        doubt: What the clinician says about the place where the arm stands.
        biplane: Find the landmark in depth as well, by two more views unless the localizer knows the depth, and put the
            isocenter on it, so that it stays in the image center when the angles change.
        point_mm: Point of the CT instead of a landmark, LPS, mm; None: a landmark.
    """

    target_id: int = 0
    target_name: str = ""
    tolerance_mm: float = 0.0
    max_exposures: int = 0
    max_duration_s: float = 0.0
    hint: str = ""
    doubt: Doubt = Doubt.NONE
    biplane: bool = False
    point_mm: tuple[float, float, float] | None = None

    def landmark(self) -> Landmark:
        """Return the landmark that is asked for; a point of the CT is one without synonyms.

        Raises:
            UnknownNameError: There is none; the error suggests the nearest name.
        """
        if self.point_mm is not None:
            place = ", ".join(f"{value:z.0f}" for value in self.point_mm)
            return Landmark(POINT_ID, self.target_name.replace("_", " ") or f"point ({place}) mm of the CT")
        if self.target_id:
            return landmark(self.target_id)
        return find_landmark(self.target_name)

    def check(self) -> None:
        """Check the numbers.

        Raises:
            GoalError: One is negative or not finite.
        """
        for name, most in (("tolerance_mm", 1000.0), ("max_exposures", 1000), ("max_duration_s", 86_400.0)):
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise GoalError(f"{name} is {value}; it must be from 0 (the default) to {most:g}")


@dataclass(frozen=True)
class NavigatorConfig:
    """Bounds and habits of the navigation policy.

    Attributes:
        tolerance_mm: Success within this distance of the image center, mm.
        max_exposures: Of one task.
        max_duration_s: Of one task, s.
        max_steps: Motions of one task.
        max_doubts: Consecutive doubtful answers after which the task ends.
        min_confidence: Answers that state less are doubtful; 0 to 1.
        exact_mm: Answers that state a 90 % radius up to this are exact: a last motion on them needs no image, mm; 0:
            none is.
        max_radius_mm: Success needs a 90 % radius below this, mm.
        sure_mm: Above this radius, a look from aside and one from another angle come before success is claimed, mm.
            Where answers can be exact: above ``exact_mm`` without, above ``max_radius_mm`` with the CT in the answer.
        nearly_mm: Up to this radius, they come before a search, mm.
        turn_deg: Between the angle of that look and the task's.
        default_std_mm: Assumed standard deviation of an answer that states none, mm.
        min_std_mm: No answer is believed to be better than this, mm.
        relative_std: Added standard deviation per distance from the center.
        depth_std_mm: Spread of the landmarks' depth around the isocenter, mm.
        drift_std_mm: By which a belief grows less sure from exposure to exposure, mm.
        drift_per_motion: By which it does so in addition, per distance that the isocenter has moved: what is seen
            from afar is no further proof of what is seen from near.
        max_surprise: Answers further from what was expected, in standard deviations, are doubtful.
        max_displacement_mm: No body is larger: answers beyond are doubtful, mm.
        cautious_step_mm: Longest motion on a doubtful answer, mm.
        max_step_mm: Longest motion, mm.
        min_step_fraction: An uncertain long motion covers at least this share of the way.
        policy: What the localizer is asked for.
        max_primary_deg: Views with a larger primary angle are left for one at 0/0 first: localizers do not know them.
        max_secondary_deg: The same for the secondary angle.
        max_depth_mm: Success in depth needs a 90 % interval of the depth below this in either direction, mm.
        known_depth_mm: A localizer that states the depth to this standard deviation spares the two views, mm.
        biplane_primary_deg: The largest primary angle of the views that show the depth.
        collimation_margin_mm: An image that only has to confirm where the target is shows no more than the place
            where it is believed to be, its 90 % radius and this around it, mm; 0: always the whole detector.
        least_field_mm: But at least a field of this side, mm.
    """

    tolerance_mm: float = 10.0
    max_exposures: int = 15
    max_duration_s: float = 180.0
    max_steps: int = 12
    max_doubts: int = 3
    min_confidence: float = 0.3
    exact_mm: float = 0.0
    max_radius_mm: float = 28.0
    sure_mm: float = 15.0
    nearly_mm: float = 45.0
    turn_deg: float = 18.0
    default_std_mm: float = 20.0
    min_std_mm: float = 3.0
    relative_std: float = 0.05
    depth_std_mm: float = 60.0
    drift_std_mm: float = 8.0
    drift_per_motion: float = 0.25
    max_surprise: float = 4.0
    max_displacement_mm: float = 1500.0
    cautious_step_mm: float = 60.0
    max_step_mm: float = 400.0
    min_step_fraction: float = 0.7
    policy: Policy = Policy.POINTING
    max_primary_deg: float = 30.0
    max_secondary_deg: float = 25.0
    max_depth_mm: float = 50.0
    known_depth_mm: float = 5.0
    biplane_primary_deg: float = 25.0
    collimation_margin_mm: float = 40.0
    least_field_mm: float = 100.0


@dataclass(frozen=True)
class Progress:
    """One step of a task.

    Attributes:
        stage: What the task is doing.
        reasoning: One line: what was seen, what follows.
        exposures: So far.
        distance_mm: Last measured distance of the target, mm; NaN when not seen yet.
        radius_90_mm: Of the last localization, mm; NaN when unknown.
        decision: Whether the line says something new to the clinician, beyond the stage.
        warning: Whether something is not as it should be.
    """

    stage: Stage
    reasoning: str
    exposures: int
    distance_mm: float = NAN
    radius_90_mm: float = NAN
    decision: bool = False
    warning: bool = False


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class NavigationResult:
    """How a task ended; the arm is at rest.

    Attributes:
        error_code: why.
        error_msg: One line; empty on success.
        final_distance_m: Last measured distance of the target from the image center, m; NaN when never seen.
        exposures: Of this task.
        dose_area_product_gym2: Of this task, Gy m^2.
        path_length_m: Of the isocenter, m.
        duration_s: s.
        steps: motions.
        summary: One or two sentences for the clinician.
    """

    error_code: NavigationCode
    error_msg: str
    final_distance_m: float = NAN
    exposures: int = 0
    dose_area_product_gym2: float = 0.0
    path_length_m: float = 0.0
    duration_s: float = 0.0
    steps: int = 0
    summary: str = ""

    @property
    def success(self) -> bool:
        """Whether the task claims to have centered the target."""
        return self.error_code == NavigationCode.NONE
