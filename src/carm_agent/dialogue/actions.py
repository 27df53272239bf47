# SPDX-License-Identifier: Apache-2.0
"""What a clinician's words lead to: errands of one or more steps, each checked and carried out like any other goal.

An errand holds no velocities and no limits: words cannot set them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from numpy.typing import ArrayLike

from carm_agent import phrases
from carm_agent.navigation.task import Doubt, NavigationGoal
from carm_agent.planning.anatomical_views import RequestedView
from carm_agent.planning.move import MoveGoal
from carm_core.landmarks import landmark
from carm_core.language.commands import Nudge, Rotate
from carm_core.robot.kinematics import CArm


@dataclass(frozen=True)
class Shift:
    """Move the isocenter over the patient, from wherever it is when the step begins.

    Attributes:
        dx_mm: Towards the patient's left, mm.
        dy_mm: Towards the head, mm.
    """

    dx_mm: float
    dy_mm: float

    def goal(self, carm: CArm, positions: ArrayLike) -> MoveGoal:
        """Return the move from the joint positions (J,), m or rad."""
        x, y, z = carm.isocenter(positions)
        return MoveGoal(is_view=True, isocenter_m=(x + self.dy_mm / 1000.0, y - self.dx_mm / 1000.0, z))


@dataclass(frozen=True)
class Turn:
    """Change the view angles about the isocenter.

    Attributes:
        primary_deg: LAO positive, degrees.
        secondary_deg: Cranial positive, degrees.
        relative: Add to the angles that are there when the step begins.
    """

    primary_deg: float
    secondary_deg: float
    relative: bool = False

    def goal(self, carm: CArm, positions: ArrayLike) -> MoveGoal:
        """Return the move from the joint positions (J,), m or rad."""
        primary, secondary = math.radians(self.primary_deg), math.radians(self.secondary_deg)
        if self.relative:
            now = carm.angles(positions)
            primary, secondary = now[0] + primary, now[1] + secondary
        return MoveGoal(is_view=True, angles_rad=(primary, secondary))


@dataclass(frozen=True)
class Recall:
    """Go to joint positions that were noted.

    Attributes:
        positions: Shape (J,), m or rad.
    """

    positions: tuple[float, ...]

    def goal(self, carm: CArm, positions: ArrayLike) -> MoveGoal:
        """Return the move; where it starts does not matter."""
        del positions
        return MoveGoal(tuple(carm.joint_names), self.positions)


@dataclass(frozen=True)
class Show:
    """Go to a view that is defined in the axes of a bone.

    Attributes:
        name: As ``carm_agent.planning.anatomical_views.find_anatomical_view`` reads it.
    """

    name: str

    def goal(self, carm: CArm, positions: ArrayLike) -> MoveGoal:
        """Return the move; the bone's axes are asked for when it begins."""
        del carm, positions
        return MoveGoal(name=self.name)


Step = NavigationGoal | Shift | Turn | Recall | Show


@dataclass(frozen=True)
class Errand:
    """Steps, one after the other; the first that fails ends the errand.

    Attributes:
        doing: What is being done, as in "I am bringing the carina to the image center".
        steps: To carry out.
        target_id: Landmark that it is about; None when it is about none.
    """

    doing: str
    steps: tuple[Step, ...]
    target_id: int | None = None


def bring(
    target_id: int,
    hint: str = "",
    first: Shift | None = None,
    *,
    in_depth: bool = False,
    doubt: Doubt = Doubt.NONE,
) -> Errand:
    """Bring a landmark to the image center.

    Args:
        target_id: The landmark.
        hint: The clinician's correction, word for word.
        first: Shift towards where it was said to be.
        in_depth: Find it in depth too.
        doubt: What was said about the place where the arm stands.
    """
    doing = f"bringing {phrases.called(landmark(target_id))} to the image center{', in depth too' * in_depth}"
    goal = NavigationGoal(target_id=target_id, hint=hint, biplane=in_depth, doubt=doubt)
    if first is None:
        return Errand(doing, (goal,), target_id)
    return Errand(
        f"{shift(Nudge(round(first.dx_mm), round(first.dy_mm))).doing}, then {doing}", (first, goal), target_id
    )


def bring_point(name: str, point_mm: tuple[float, float, float]) -> Errand:
    """Bring a named point of the patient's CT (3,), LPS, mm, to the image center."""
    goal = NavigationGoal(target_name=name, point_mm=point_mm)
    return Errand(f"bringing {goal.landmark().name} of the CT to the image center", (goal,))


def show(view: RequestedView) -> Errand:
    """Turn to a view of a bone and center it."""
    return Errand(f"turning to the {view.name}", (Show(view.name),))


def shift(nudge: Nudge) -> Errand:
    """Move over the patient."""
    parts = [
        f"{abs(value)} mm towards {words[value < 0]}"
        for value, words in (
            (nudge.dx_mm, ("the patient's left", "the patient's right")),
            (nudge.dy_mm, ("the head", "the feet")),
        )
        if value
    ]
    return Errand(f"moving {' and '.join(parts)}", (Shift(nudge.dx_mm, nudge.dy_mm),))


def turn(rotate: Rotate) -> Errand:
    """Change the view angles."""
    step = Turn(rotate.primary_deg, rotate.secondary_deg, rotate.relative)
    if not rotate.relative:
        return Errand(f"turning to {phrases.angles(rotate.primary_deg, rotate.secondary_deg)}", (step,))
    parts = [
        f"{abs(value)}° towards {words[value < 0]}"
        for value, words in (
            (rotate.primary_deg, ("LAO", "RAO")),
            (rotate.secondary_deg, ("cranial", "caudal")),
        )
        if value
    ]
    return Errand(f"turning {' and '.join(parts)}", (step,))
