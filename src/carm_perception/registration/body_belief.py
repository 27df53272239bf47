# SPDX-License-Identifier: Apache-2.0
"""Keeps what was seen in the last images, and tells how a bone lies where there is no CT."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np

from carm_core.anatomy.axes import BoneAxes, MissingAnatomyError, angle_deg, named
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import XrayView
from carm_core.localization import LandmarkEstimate
from carm_perception.registration.average_body import BodyFit, fit_body
from carm_perception.registration.initial_pose import Sighted

KEPT = 3
"""Images that are fitted together."""
_SAME_DEG, _SAME_MM = 5.0, 25.0
"""An image from nearer than this to an earlier one takes its place: it would say the same again."""
_LONGEST_S = 900.0
"""Earlier images are no longer used."""
_MOST_MISFIT = 2.0
"""Root mean square misfit of a fit to several images above which only the last counts: the patient has moved."""
MOST_STD_DEG, MOST_STD_MM = 11.0, 40.0
"""Axes that may be off by more, or lie so far elsewhere, are not told."""


@runtime_checkable
class Sighting(Protocol):
    """A localizer that tells all landmarks that it sees in an image, for what checks by itself whether they fit."""

    def sighted(self, frame: XrayFrame) -> tuple[LandmarkEstimate, ...]:
        """Return where the landmarks are seen, also where the localizer would rather not answer.

        Raises:
            LocalizerError: The image cannot be read.
        """


class BodyBelief:
    """The last images of one patient. Any thread may call."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._seen: list[tuple[float, Sighted]] = []
        self._lock = threading.Lock()

    def add(self, stamp_s: float, seen: Sighted) -> None:
        """Take what was seen in an image.

        Args:
            stamp_s: When it was taken, s.
            seen: View and landmarks.
        """
        with self._lock:
            others = [
                (then_s, other)
                for then_s, other in self._seen
                if 0 <= stamp_s - then_s < _LONGEST_S and not _near(other.view, seen.view)
            ]
            self._seen = [*others, (stamp_s, seen)][-KEPT:]

    def forget(self) -> None:
        """Forget all images."""
        with self._lock:
            self._seen = []

    def bone(self, name: str) -> BoneAxes:
        """Return the axes of a bone, frame ``table``, mm, and by how much they may be off.

        Raises:
            MissingAnatomyError: No image, too few landmarks, a bone that landmarks do not tell, or axes that are too
                uncertain.
        """
        with self._lock:
            seen = [one for _, one in self._seen]
        if not seen:
            raise MissingAnatomyError("there was no image yet")
        fit = _fit(seen)
        axes = fit.bone(name)
        std_deg = max(fit.std_deg(name, axes.rotation[:, column]) for column in (0, 1))
        std_mm = fit.place_std_mm(name)
        if not (std_deg <= MOST_STD_DEG and std_mm <= MOST_STD_MM):
            raise MissingAnatomyError(
                f"how {named(name)} lies is known to {std_deg:.0f}° and {std_mm:.0f} mm only, from {fit.landmarks} "
                "landmarks; an image with more of it in view, or from another side, tells more"
            )
        return replace(axes, std_deg=std_deg)


def _fit(seen: list[Sighted]) -> BodyFit:
    if len(seen) > 1:
        together = fit_body(seen)
        if together.misfit <= _MOST_MISFIT:
            return together
    return fit_body(seen[-1:])


def _near(one: XrayView, other: XrayView) -> bool:
    apart_mm = float(np.linalg.norm(one.isocenter_mm - other.isocenter_mm))
    return apart_mm < _SAME_MM and angle_deg(one.forward, other.forward) < _SAME_DEG
