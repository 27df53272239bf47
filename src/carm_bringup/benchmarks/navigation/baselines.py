# SPDX-License-Identifier: Apache-2.0
"""Baselines of the navigation bench: coarse direction steps, and an operator who searches by trial and error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from carm_agent.navigation.task import NavigationCode, NavigationGoal, NavigationResult, Progress, Report, Stage
from carm_agent.navigation.view_shift import plan_shift
from carm_agent.planning.planner import Planner
from carm_agent.ports import Acquisition, Arm, Clock, Imager
from carm_core.errors import GoalError
from carm_core.landmarks import landmark
from carm_core.localization import Localizer, Protocol, Query


class Baseline:
    """Takes an image, makes a step, until it is content or its exposures are used up."""

    def __init__(self, planner: Planner, imager: Imager, localizer: Localizer, arm: Arm, clock: Clock) -> None:
        """Connect the baseline to the ports, like the navigator.

        Args:
            planner: Plans the motions.
            imager: Takes the images.
            localizer: Finds landmarks in them.
            arm: moves.
            clock: Times the task.
        """
        self._planner, self._imager, self._localizer = planner, imager, localizer
        self._arm, self._clock = arm, clock
        self.max_exposures = 15

    def step_mm(self, acquisition: Acquisition, goal: NavigationGoal) -> NDArray[np.float64] | None:
        """Return the displacement to move by (2,), right and up, mm; None: the target is in the center."""
        raise NotImplementedError

    def run(self, goal: NavigationGoal, report: Report = lambda progress: None) -> NavigationResult:
        """Run one task to its end.

        Args:
            goal: What to bring where.
            report: Told each step.
        """
        started_s, dose, path_m = self._clock.now_s(), 0.0, 0.0
        code, exposures, steps = NavigationCode.BUDGET, 0, 0
        while exposures < self.max_exposures:
            acquisition = self._imager.expose()
            exposures += 1
            dose += acquisition.dose_area_product_gym2
            step = self.step_mm(acquisition, goal)
            name = landmark(goal.target_id).name
            if step is None:
                report(Progress(Stage.VERIFYING, f"{name} is assumed to be in the center.", exposures, decision=True))
                code = NavigationCode.NONE
                break
            line = f"{name}: a step of {step[0]:z.0f} mm to the right and {step[1]:z.0f} mm up."
            report(Progress(Stage.MOVING, line, exposures, decision=True))
            assert acquisition.frame.view is not None
            try:
                start = self._arm.joint_positions()
                shift = plan_shift(self._planner, start, acquisition.frame.view, step, math.inf)
            except GoalError:
                code = NavigationCode.UNREACHABLE
                break
            self._arm.execute(shift.plan.trajectory)
            path_m += shift.plan.isocenter_path_m
            steps += 1
        return NavigationResult(
            code,
            "" if code is NavigationCode.NONE else code.name.lower(),
            exposures=exposures,
            dose_area_product_gym2=dose,
            path_length_m=path_m,
            duration_s=self._clock.now_s() - started_s,
            steps=steps,
        )


class Coarse(Baseline):
    """One step per answer of the navigation protocol, as far as its words typically mean; no memory, no check."""

    def step_mm(self, acquisition: Acquisition, goal: NavigationGoal) -> NDArray[np.float64] | None:
        """Follow the answer; an unusable one gives a zero step, so that the next image is used."""
        answer = self._localizer.localize(acquisition.frame, Query(Protocol.NAVIGATION, goal.target_id))
        estimate = answer.estimate(goal.target_id) if answer.ok else None
        if estimate is None:
            return np.zeros(2)
        step = np.asarray(estimate.displacement_mm, dtype=np.float64)
        return step if step.any() else None


OUT_OF_VIEW = (0.5, 35.0)
"""Spread of an operator's guess at what is out of view: of the logarithm of the distance; of the direction, deg."""
IN_VIEW = (0.15, 8.0)
"""Spread of an operator's move towards what is in view: per distance; in addition, mm."""
EYE_MM = 5.0
"""Spread of an operator's judgement of whether the target is in the center, mm."""
CONTENT_MM = 12.0
"""An operator is content when the target seems to be this near, mm."""


class Operator(Baseline):
    """A person at the console, who knows every landmark when it is in view and guesses where it is otherwise.

    A model with assumed spreads (``OUT_OF_VIEW``, ``IN_VIEW``), not a measured person. It reads the truth.
    """

    def __init__(
        self,
        planner: Planner,
        imager: Imager,
        localizer: Localizer,
        arm: Arm,
        clock: Clock,
        point_mm: NDArray[np.float64],
        seed: int,
    ) -> None:
        """Connect the operator to the ports.

        Args:
            planner: Plans the motions.
            imager: Takes the images.
            localizer: Not asked.
            arm: moves.
            clock: Times the task.
            point_mm: True position of the target (3,), frame ``table``.
            seed: Of the errors.
        """
        super().__init__(planner, imager, localizer, arm, clock)
        self._point_mm, self._generator = point_mm, np.random.default_rng([seed, 17])

    def step_mm(self, acquisition: Acquisition, goal: NavigationGoal) -> NDArray[np.float64] | None:
        """Move towards the target, or to where it may be."""
        view = acquisition.frame.view
        assert view is not None
        truth = np.asarray(view.displacement_mm(self._point_mm), dtype=np.float64)
        half_mm = 0.5 * view.detector.rows * view.mm_per_px_at_isocenter
        draw = self._generator
        if (np.abs(truth) > half_mm).any():
            factor, angle = math.exp(draw.normal(0, OUT_OF_VIEW[0])), math.radians(draw.normal(0, OUT_OF_VIEW[1]))
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            return np.asarray(turn @ truth * factor, dtype=np.float64)
        if np.linalg.norm(truth + draw.normal(0, EYE_MM, 2)) <= CONTENT_MM:
            return None
        spread = math.hypot(IN_VIEW[0] * float(np.linalg.norm(truth)), IN_VIEW[1])
        return np.asarray(truth + draw.normal(0, spread, 2), dtype=np.float64)
