# SPDX-License-Identifier: Apache-2.0
"""Which surface stands for the patient: never, without a word, a smaller one than before, nor one of a stranger."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from carm_core.collision.convex_shapes import corners, outside_m
from carm_core.collision.obstacles import Obstacles, Surface
from carm_core.errors import ConfigurationError

_SMALLEST_AREA_M2 = 0.02
_SHORTEST_SIDE_M = 0.1
_PLACE_M = ((-1.5, 1.5), (-1.0, 1.0), (-0.4, 1.2))
"""Where the middle of a patient's surface may be, frame ``table``, m."""
_SAME_M = 1e-4
_LOSS_M = 0.03
"""What the old surface may stick out of the new one without a complaint, m: another sampling, a breath."""
_CONFIRMED = "a restart, or a start with accept_smaller_surface:=true"


@dataclass(frozen=True, eq=False)
class SurfaceDecision:
    """What becomes of a surface that was offered.

    Attributes:
        surface: The one in force from now on; None: still none.
        accepted: The one offered stands for the patient now, alone or with those before.
        message: What people should know, in one line; empty: nothing.
        parts: Digests of the surfaces that it is made of.
    """

    surface: Surface | None
    accepted: bool
    message: str = ""
    parts: frozenset[str] = frozenset()


def check_patient_surface(surface: Surface) -> None:
    """Check that a surface can be a patient's.

    Raises:
        ConfigurationError: It is too small, or nowhere near the table.
    """
    used = surface.vertices_m[surface.triangles]
    sides = np.ptp(used.reshape(-1, 3), axis=0)
    if surface.area_m2 < _SMALLEST_AREA_M2 or min(sides[:2]) < _SHORTEST_SIDE_M:
        size = " x ".join(f"{100 * side:.1f}" for side in sides)
        raise ConfigurationError(
            f"a surface of {1e4 * surface.area_m2:.3g} cm2 within {size} cm is no patient's (too small)"
        )
    areas = np.linalg.norm(np.cross(used[:, 1] - used[:, 0], used[:, 2] - used[:, 0]), axis=1)
    middle = (used.mean(axis=1) * areas[:, None]).sum(axis=0) / areas.sum()
    if any(not low <= value <= high for value, (low, high) in zip(middle, _PLACE_M, strict=True)):
        place = ", ".join(f"{value:.2f}" for value in middle)
        raise ConfigurationError(f"a surface around ({place}) m is no patient's: it is not on the table")


def uncovered_m(old: Surface, new: Surface) -> float:
    """Return how far an old surface sticks out of what a new one leaves, the assumed body included, m; 0: nowhere.

    Raises:
        ConfigurationError: A surface cannot be cut into pieces.
    """
    points = np.concatenate([corners(piece) for piece in old.pieces()])
    return max(0.0, float(outside_m(points, list(Obstacles(new).patient_pieces()), 2 * _LOSS_M).max()))


class PatientSurface:
    """Decides which surface stands for the patient. Not thread-safe."""

    def __init__(self, accept_smaller: bool = False) -> None:
        """Begin without a surface: a body of generous size is assumed then.

        Args:
            accept_smaller: A surface that shows less than the one before takes its place.
        """
        self._accept_smaller = accept_smaller
        self._parts: frozenset[str] = frozenset()
        self.surface: Surface | None = None

    def keep(self, decision: SurfaceDecision) -> None:
        """Put a decision into force."""
        self.surface, self._parts = decision.surface, decision.parts

    def offer(self, surface: Surface, stranger: str = "") -> SurfaceDecision:
        """Decide about a surface; nothing changes before ``keep``.

        Args:
            surface: The one that came.
            stranger: Who may have sent it besides the source that is trusted, or instead of it; empty: nobody.

        Raises:
            ConfigurationError: It cannot be a patient's; the one before stays.
        """
        check_patient_surface(surface)
        old, alone = self.surface, frozenset({_digest(surface)})
        beside = f"it may come from {stranger}: it counts beside the one before" if stranger else ""
        if stranger and old is None:
            return SurfaceDecision(None, False, f"refused: it may come from {stranger}; a large body is assumed")
        if old is not None and alone <= self._parts and (beside or not self._accept_smaller):
            more = "" if self._parts == alone else f"{len(self._parts)} surfaces count until {_CONFIRMED}"
            return SurfaceDecision(old, not (beside or more), beside or more, self._parts)
        if old is None or (self._accept_smaller and not stranger):
            surface.pieces()
            return SurfaceDecision(surface, True, parts=alone)
        lost_m = uncovered_m(old, surface)
        if lost_m <= _SAME_M and not stranger:
            return SurfaceDecision(surface, True, parts=alone)
        both, parts = _union(old, surface), self._parts | alone
        if beside or lost_m <= _LOSS_M:
            return SurfaceDecision(both, not beside, beside, parts)
        lost = f"over {2000 * _LOSS_M:.0f} mm" if not np.isfinite(lost_m) else f"{1000 * lost_m:.0f} mm"
        confirm = "a restart, or a start with accept_smaller_surface:=true"
        return SurfaceDecision(
            both, False, f"it leaves out {lost} of the one before: both count until {confirm}", parts
        )


class NewestSurface(PatientSurface):
    """Takes each surface of the trusted source instead of the one before: what it stands for is known to move."""

    def offer(self, surface: Surface, stranger: str = "") -> SurfaceDecision:
        """See ``PatientSurface.offer``; what may come from a stranger is refused."""
        check_patient_surface(surface)
        if stranger:
            return SurfaceDecision(self.surface, False, f"refused: it may come from {stranger}", self._parts)
        return SurfaceDecision(surface, True, parts=frozenset({_digest(surface)}))


def both_surfaces(patient: Surface | None, registered: Surface | None) -> Surface | None:
    """Return what planning keeps clear of: the patient's surface and the registered CT's skin, as one.

    Args:
        patient: What a surface sensor or the simulator shows; None: a body is assumed.
        registered: Where the CT says that the skin is; it takes nothing away, neither of the one nor of the other.
    """
    if registered is None:
        return patient
    if patient is None:
        start = registered.shown_m[0]
        return Surface(registered.vertices_m, registered.triangles, (start, start))
    return _union(patient, registered)


def _digest(surface: Surface) -> str:
    return Obstacles(surface).version


def _union(old: Surface, new: Surface) -> Surface:
    """Return both surfaces as one, which shows no more of the patient than the old one: it takes nothing away.

    Raises:
        ConfigurationError: There are too many triangles.
    """
    vertices = np.concatenate([old.vertices_m, new.vertices_m])
    triangles = np.concatenate([old.triangles, new.triangles + len(old.vertices_m)])
    return Surface(vertices, triangles, old.shown_m)
