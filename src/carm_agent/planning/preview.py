# SPDX-License-Identifier: Apache-2.0
"""Preview of a plan before it is executed: clearance over time, final view, a picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from carm_agent.planning.planner import Plan
from carm_agent.planning.standard_views import described
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import box_points
from carm_core.robot.kinematics import LINKS
from carm_core.transforms import Array

Picture = NDArray[np.uint8]
Projection = Callable[[Array], NDArray[np.int32]]
_PANEL = 420
_PLOT = 190
_SPAN_M = 2.9
_MARGIN = 46
_WHITE, _INK, _FAINT = (255, 255, 255), (60, 50, 40), (205, 200, 196)
_PATIENT, _TABLE, _STAFF, _MACHINE, _START = (
    (150, 190, 235),
    (150, 140, 130),
    (140, 160, 230),
    (170, 110, 40),
    (200, 195, 190),
)
_PATH, _ALARM, _CAUTION = (40, 130, 30), (40, 40, 220), (30, 160, 240)
_PANELS = (
    ("from the feet", (1, 2), (-1.0, 1.0), 0.0),
    ("from the patient's left", (0, 2), (1.0, 1.0), 0.0),
    ("from above", (0, 1), (1.0, 1.0), 0.35),
)
"""Title, axes of frame `table` to the right and up, their signs, and what is at the panel's center along the latter."""


@dataclass(frozen=True, eq=False)
class Preview:
    """What a plan would do.

    Attributes:
        clearances_m: Smallest distance at each point of the trajectory (N,), m.
        primary_rad: Final primary angle, LAO positive, rad.
        secondary_rad: Final secondary angle, cranial positive, rad.
        isocenter_m: Final isocenter (3,), frame ``table``, m.
        picture: (rows, columns, 3), BGR.
    """

    clearances_m: Array
    primary_rad: float
    secondary_rad: float
    isocenter_m: Array
    picture: Picture

    @property
    def png(self) -> bytes:
        """The picture as a PNG file."""
        return bytes(cv2.imencode(".png", self.picture)[1])


def preview(model: CollisionModel, plan: Plan) -> Preview:
    """Compute what a plan would do.

    Args:
        model: The machine among obstacles.
        plan: To be shown.
    """
    trajectory = plan.trajectory
    clearances = np.array([model.clearance(q, named=False).distance_m for q in trajectory.positions])
    primary, secondary = model.carm.angles(plan.goal)
    picture = np.vstack([_scenes(model, plan), _plot(model, plan, clearances)])
    return Preview(clearances, primary, secondary, model.carm.isocenter(plan.goal), picture)


def _scenes(model: CollisionModel, plan: Plan) -> Picture:
    isocenters = np.array([model.carm.isocenter(q) for q in plan.trajectory.positions])
    panels = []
    for title, axes, signs, center in _PANELS:
        panel = np.full((_PANEL, _PANEL, 3), 255, np.uint8)

        def pixels(
            points: Array, axes: tuple[int, int] = axes, signs: tuple[float, float] = signs, center: float = center
        ) -> NDArray[np.int32]:
            across = (points[:, list(axes)] - [0.0, center]) * signs
            return np.asarray(np.round(_PANEL / 2 + across * [1, -1] * _PANEL / _SPAN_M), dtype=np.int32)

        if axes[1] == 2:
            floor = pixels(np.array([[0.0, 0.0, -model.carm.table_height_m]]))[0, 1]
            cv2.line(panel, (0, int(floor)), (_PANEL, int(floor)), _INK, 1, cv2.LINE_AA)
        for shape in model.geometry.of_link("table"):
            _fill(panel, pixels(shape.corners_m), _TABLE, 1.0)
        for zone in model.obstacles.staff:
            _fill(panel, pixels(box_points(zone.low_m, zone.high_m)), _STAFF, 0.5)
        for points in model.obstacles.patient_pieces():
            _fill(panel, pixels(points), _PATIENT, 1.0)
        for positions, color, opacity in ((plan.start, _START, 0.45), (plan.goal, _MACHINE, 0.6)):
            _draw_machine(panel, model, positions, pixels, color, opacity)
        cv2.polylines(panel, [pixels(isocenters)], False, _PATH, 2, cv2.LINE_AA)
        cv2.circle(panel, tuple(int(v) for v in pixels(isocenters[-1:])[0]), 4, _PATH, -1, cv2.LINE_AA)
        _text(panel, title, (10, 20))
        panels.append(panel)
    return np.hstack(panels)


def _draw_machine(
    panel: Picture, model: CollisionModel, positions: Array, pixels: Projection, color: tuple[int, ...], opacity: float
) -> None:
    rotations, origins = model.carm.link_frames(positions)
    for shape in model.geometry.moving:
        link = LINKS.index(shape.link)
        _fill(panel, pixels(shape.corners_m @ rotations[link].T + origins[link]), color, opacity)


def _fill(panel: Picture, points: NDArray[np.int32], color: tuple[int, ...], opacity: float) -> None:
    """Fill the hull of points with a color, in part, and outline it."""
    hull = cv2.convexHull(points)
    x, y, width, height = cv2.boundingRect(hull)
    x0, y0, x1, y1 = max(0, x), max(0, y), min(_PANEL, x + width), min(_PANEL, y + height)
    if x0 >= x1 or y0 >= y1:
        return
    region = panel[y0:y1, x0:x1]
    filled = region.copy()
    cv2.fillConvexPoly(filled, hull - [x0, y0], color, cv2.LINE_AA)
    panel[y0:y1, x0:x1] = cv2.addWeighted(filled, opacity, region, 1.0 - opacity, 0.0)


def _plot(model: CollisionModel, plan: Plan, clearances: Array) -> Picture:
    """Draw the clearance over time."""
    width = _PANEL * len(_PANELS)
    plot = np.full((_PLOT, width, 3), 255, np.uint8)
    left, right, top, bottom = _MARGIN + 10, width - 20, 44, _PLOT - 30
    times = plan.trajectory.times_s
    highest = max(0.1, float(np.ceil(clearances.max() * 10.0) / 10.0))

    def place(time_s: float, distance_m: float) -> tuple[int, int]:
        share = max(-0.05, min(1.0, distance_m / highest))
        return round(left + (right - left) * time_s / times[-1]), round(bottom - (bottom - top) * share)

    for level in np.linspace(0.0, highest, 3):
        cv2.line(plot, place(0.0, level), place(times[-1], level), _FAINT, 1)
        _text(plot, f"{1000 * level:.0f} mm", (4, place(0.0, level)[1] + 4), 0.36)
    for level, color in ((model.margins.warning_m, _CAUTION), (model.margins.collision_m, _ALARM)):
        cv2.line(plot, place(0.0, level), place(times[-1], level), color, 1)
    curve = np.array([place(t, d) for t, d in zip(times, clearances, strict=True)], np.int32)
    cv2.polylines(plot, [curve], False, _MACHINE, 2, cv2.LINE_AA)
    for time_s in np.linspace(0.0, times[-1], 5):
        _text(plot, f"{time_s:.1f} s", (place(time_s, 0.0)[0] - 14, _PLOT - 10), 0.36)
    primary, secondary = np.degrees(model.carm.angles(plan.goal))
    x, y, z = 1000 * model.carm.isocenter(plan.goal)
    closest = "" if plan.check is None else f"closest {1000 * plan.check.closest.distance_m:z.0f} mm:"
    if plan.check is not None:
        closest += f" {plan.check.closest.part} to {plan.check.closest.obstacle}"
    way = "straight" if not plan.corners else f"around, {plan.corners} corners"
    _text(
        plot,
        f"{described(primary, secondary)}, isocenter {x:z.0f} {y:z.0f} {z:z.0f} mm, {plan.duration_s:.1f} s,"
        f" {way}; {closest}; {plan.verdict}",
        (left, 24),
        0.48,
    )
    return plot


def _text(picture: Picture, words: str, at: tuple[int, int], size: float = 0.45) -> None:
    cv2.putText(picture, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, _INK, 1, cv2.LINE_AA)
