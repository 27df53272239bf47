# SPDX-License-Identifier: Apache-2.0
"""What one task asks the localizer, image by image."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from carm_agent import phrases
from carm_agent.navigation.task import Doubt, NavigationGoal, Policy
from carm_agent.ports import Interrupt
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.landmarks import Landmark
from carm_core.localization import LandmarkEstimate, Localization, Localizer, Protocol, Query

DENIED_MM = 30.0
"""A target that the clinician says is not at a place is not within this distance of it, mm."""


class Questions:
    """Asks about the target and its neighbors."""

    def __init__(
        self,
        localizer: Localizer,
        interrupt: Interrupt,
        goal: NavigationGoal,
        landmark: Landmark,
        policy: Policy,
        say: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            localizer: answers.
            interrupt: Ends the task from outside.
            goal: With the clinician's words.
            landmark: The target.
            policy: What the localizer is asked for.
            say: Tells the clinician what is looked for.
        """
        self._localizer, self._interrupt, self._landmark, self._say = localizer, interrupt, landmark, say
        self._doubted, self._denied = goal.doubt is not Doubt.NONE, goal.doubt is Doubt.DENIED
        self._denied_mm: NDArray[np.float64] | None = None
        protocol = Protocol.NAVIGATION if policy is Policy.XML and goal.point_mm is None else Protocol.POINTING
        self._query = Query(protocol, landmark.id or None, goal.hint, point_mm=goal.point_mm)

    def target(self, frame: XrayFrame) -> Localization:
        """Ask where the target is; after a correction, first with the clinician's words about the earlier answer."""
        self._interrupt.check()
        if self._doubted:
            self._doubted = False
            second = self._second_look(frame)
            if second is not None:
                return second
        self._say(f"Looking for {phrases.called(self._landmark)} in the image.")
        localization = self._localizer.localize(frame, self._query)
        self._interrupt.check()
        return localization

    def other(self, frame: XrayFrame, landmark_id: int) -> LandmarkEstimate | None:
        """Ask where another landmark is; None if the answer has no finite position."""
        self._interrupt.check()
        return placed(self._localizer.localize(frame, replace(self._query, target_id=landmark_id)), landmark_id)

    def is_denied(self, view: XrayView, estimate: LandmarkEstimate) -> bool:
        """Return whether an answer is the place where the clinician says that the target is not: the first center.

        Args:
            view: The view that it was seen in.
            estimate: finite.
        """
        if not self._denied:
            return False
        if self._denied_mm is None:
            self._denied_mm = view.isocenter_mm
        apart = np.asarray(estimate.displacement_mm) - view.displacement_mm(self._denied_mm)
        return float(np.linalg.norm(apart)) <= DENIED_MM

    def _second_look(self, frame: XrayFrame) -> Localization | None:
        """Reconsider the earlier answer (protocol 4); None when that does not say where the target is."""
        self._say(f"Looking again for {phrases.called(self._landmark)}, with your words in mind.")
        query = Query(Protocol.REEVALUATION, self._landmark.id, self._query.hint, f"[{self._landmark.id}]")
        second = self._localizer.localize(frame, query)
        self._interrupt.check()
        return second if second.ok and placed(second, self._landmark.id) is not None else None


def placed(localization: Localization, landmark_id: int) -> LandmarkEstimate | None:
    """Return what an answer says about a landmark, if that has a finite place."""
    found = localization.estimate(landmark_id)
    return found if found is not None and np.isfinite(found.displacement_mm).all() else None
