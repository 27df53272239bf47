# SPDX-License-Identifier: Apache-2.0
"""Contents of the chest: diaphragm, mediastinum with heart and vessels, airway, lungs with their vascular trees."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from carm_core.transforms import Array
from carm_sim.phantom.body import BodyPlan
from carm_sim.phantom.grid import Field, Grid, capsule_union, smooth_noise, splat
from carm_sim.phantom.organs.envelope import Envelope
from carm_sim.phantom.skeleton.posture import PosedSkeleton

FAR_MM = 500.0

Span = tuple[float, float]

RIGHT_BRONCHUS_DEG: Span = (14.0, 40.0)
LEFT_BRONCHUS_DEG: Span = (28.0, 54.0)
"""How far the main bronchi lean from straight down. The angle between them is 60 +- 10 degrees in radiographs (Haskin
and Goodman, "Normal tracheal bifurcation angle", AJR 139, 1982), 73 +- 13 in specimens."""


@dataclass(frozen=True)
class Chest:
    """Chest organs as signed distance fields (mm, negative inside) on the envelope's coarse grid.

    Attributes:
        lungs: Both lungs.
        heart: Heart and great vessels (blood).
        veins: Superior vena cava and brachiocephalic vein, where injected contrast agent is densest.
        airway: Air in pharynx, trachea and bronchi.
        diaphragm: Height of the diaphragm above each voxel: positive below the diaphragm.
        hila_mm: Root of the vessels of the right and the left lung, (2, 3).
        landmarks_mm: Carina and hemidiaphragm domes as built.
    """

    lungs: Field
    heart: Field
    veins: Field
    airway: Field
    diaphragm: Field
    hila_mm: Array
    landmarks_mm: dict[int, Array]


def build_chest(plan: BodyPlan, skeleton: PosedSkeleton, envelope: Envelope, rng: np.random.Generator) -> Chest:
    """Build the chest organs.

    Args:
        plan: The body.
        skeleton: Its skeleton, with the aims of carina and domes among its landmarks.
        envelope: Its envelope; the result lives on the same grid.
        rng: Source of randomness.
    """
    grid, marks = envelope.grid, skeleton.landmarks_mm
    unit = plan.frame_scale**0.5
    carina = marks[11].copy()
    carina[1] = envelope.spine(carina[2])[1] - rng.uniform(30, 38) * unit
    domes = {key: _dome_apex(marks[key], envelope) for key in (12, 13)}
    height = _diaphragm_height(plan, domes, envelope, rng)
    diaphragm = (height[:, :, None] - grid.axes()[2]) * np.float32(0.75)
    heart, veins = _field(grid), _field(grid)
    organs, hila = _heart_capsules(plan, carina, domes, envelope, rng)
    capsule_union(veins, grid.origin_mm, grid.spacing_mm, _vein_capsules(carina, organs), 3.0)
    capsule_union(heart, grid.origin_mm, grid.spacing_mm, organs, 14.0)
    mediastinum = heart - np.float32(rng.uniform(1.5, 4.0) + 3.0 * plan.fatness)
    capsule_union(
        mediastinum, grid.origin_mm, grid.spacing_mm, _mediastinal_capsules(plan, carina, envelope, rng), 16.0
    )
    between = np.maximum(-mediastinum, _septum(plan, envelope, min(apex[2] for apex in domes.values()), rng))
    between += np.float32(rng.uniform(1.0, 2.6)) * smooth_noise(grid, float(rng.uniform(16, 30)), rng)
    lungs = np.maximum(np.maximum(envelope.cavity + np.float32(1.0), diaphragm), between)
    airway = _field(grid)
    capsule_union(airway, grid.origin_mm, grid.spacing_mm, _airway_capsules(plan, carina, skeleton, envelope, rng), 2.5)
    return Chest(lungs, heart, veins, airway, diaphragm, hila, {11: carina, **domes})


def _field(grid: Grid) -> Field:
    return np.full(grid.shape, FAR_MM, np.float32)


def _dome_apex(aim: Array, envelope: Envelope) -> Array:
    """Put a dome's apex into the middle of its lung, well inside the chest wall."""
    apex = aim.copy()
    center = envelope.spine(apex[2])
    level = int(np.abs(envelope.chest.z_mm - apex[2]).argmin())
    axis = envelope.chest.axis_mm[level]
    sign = np.sign(apex[0] - center[0])
    wall = envelope.chest.radius_at(apex[2], 0.0 if sign > 0 else np.pi)
    reach = np.clip(abs(apex[0] - axis[0]), 0.42 * wall, 0.80 * wall)
    apex[0] = axis[0] + sign * reach
    apex[1] = axis[1] - 8.0
    return apex


def _diaphragm_height(plan: BodyPlan, domes: dict[int, Array], envelope: Envelope, rng: np.random.Generator) -> Field:
    """Return the height of the diaphragm over x and y of the coarse grid, mm."""
    x, y, _ = (axis.reshape(-1) for axis in envelope.grid.axes())
    fall = rng.uniform(42, 75) * (1.1 if plan.style == "validation" else 1.0)
    power = rng.uniform(0.95, 1.35)
    surface = None
    for apex in domes.values():
        level = int(np.abs(envelope.chest.z_mm - apex[2]).argmin())
        axis = envelope.chest.axis_mm[level]
        wall = envelope.chest.radius_at(apex[2], 0.0 if apex[0] > axis[0] else np.pi)
        lateral = np.where(
            (x - apex[0]) * (apex[0] - axis[0]) > 0, max(wall - abs(apex[0] - axis[0]), 30.0) * 1.15, 95.0
        )
        depth = np.where(y > apex[1], 82.0, 105.0) * plan.torso_depth
        square = ((x - apex[0]) / lateral)[:, None] ** 2 + ((y - apex[1]) / depth)[None, :] ** 2
        one = apex[2] - fall * square**power
        surface = one if surface is None else np.maximum(surface, one)
    assert surface is not None
    middle = min(apex[2] for apex in domes.values()) - rng.uniform(4, 14)
    center = envelope.spine(middle)
    ridge = middle - 0.4 * fall * (
        (((x - center[0]) / 90.0) ** 2)[:, None] + (((y - center[1] + 70) / 70.0) ** 2)[None, :]
    )
    return np.asarray(np.maximum(surface, ridge), np.float32)


def _heart_capsules(
    plan: BodyPlan, carina: Array, domes: dict[int, Array], envelope: Envelope, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Return the heart chambers and great vessels as capsules (N, 8), and the roots of the lung vessels (2, 3)."""
    size = plan.frame_scale**0.6 * plan.traits.heart * rng.normal(1.0, 0.10 if plan.style == "standard" else 0.15)
    unfolded = plan.traits.aorta - 0.3
    floor = 0.5 * (domes[12][2] + domes[13][2]) - 12.0
    middle = envelope.spine(floor + 40)
    chest_front = envelope.chest.radius_at(floor + 40, 1.5 * np.pi)
    center = np.array([middle[0], middle[1] - max(0.48 * (chest_front + 58), 55.0), max(floor + 40 * size, floor + 34)])
    turn = rng.uniform(-0.15, 0.45)
    apex = center + size * np.array([58 * np.cos(turn), -24, -30 - 40 * np.sin(turn) * 0.6])
    base = center + size * np.array([8, 2, 14])
    spine_low, spine_top = envelope.spine(floor - 60), envelope.spine(carina[2])
    above = rng.uniform(12, 36)  # the middle of the arch over the carina, mm
    arch_top = np.array([carina[0] + rng.uniform(6, 16), carina[1] + 4, carina[2] + above])
    radius = rng.uniform(10.5, 15.5) + 3.0 * unfolded
    ascending = np.array([carina[0] - rng.uniform(8, 16) - 7 * unfolded, carina[1] - 24, carina[2] - 4])
    descending = np.array([spine_top[0] + rng.uniform(16, 26) + 10 * unfolded, spine_top[1] - 14, carina[2] - 4])
    arch_top += unfolded * np.array([6.0, 0.0, 8.0])
    hiatus = np.array([spine_low[0] + 14, spine_low[1] - 16, floor - 60])
    bend = 0.5 * (descending + hiatus) + np.array([12 * max(unfolded, 0.0), 4.0, 0.0])
    hilum = np.array([
        [carina[0] - rng.uniform(36, 46), carina[1] + 2, carina[2] - rng.uniform(22, 34)],
        [carina[0] + rng.uniform(38, 48), carina[1] + 6, carina[2] - rng.uniform(12, 26)],
    ])  # fmt: skip
    trunk = carina + np.array([14.0, -20.0, -26.0])
    entry = center + size * np.array([-26.0, 4.0, 22.0])
    pieces = [
        (base, apex, 43 * size, 27 * size),
        (center + size * np.array([-14, -14, -4]), apex + size * np.array([-26, -6, 2]), 37 * size, 30 * size),
        (center + size * np.array([-24, 6, 4]), center + size * np.array([-20, 4, -16]), 31 * size, 29 * size),
        (center + size * np.array([-10, 26, 16]), center + size * np.array([18, 26, 14]), 26 * size, 26 * size),
        (base, ascending, 22 * size, radius), (ascending, arch_top, radius, radius),
        (arch_top, descending, radius, radius * 0.9),
        (descending, bend, radius * 0.88, radius * 0.84),
        (bend, hiatus, radius * 0.84, radius * 0.8),
        (entry, carina + np.array([-20.0, -16.0, 10.0]), 13.0, 10.5),
        (carina + np.array([-20.0, -16.0, 10.0]), carina + np.array([-22.0, -14.0, 52.0]), 10.5, 9.0),
        (carina + np.array([-18.0, -20.0, 40.0]), carina + np.array([34.0, -18.0, 54.0]), 7.0, 7.0),
        (arch_top, carina + np.array([26.0, 4.0, 64.0]), 7.5, 6.0),
        (arch_top, carina + np.array([-16.0, -6.0, 60.0]), 8.0, 6.5),
        (center + size * np.array([6, -14, 24]), trunk, 20 * size, 15.0),
        (trunk, hilum[0], 13.0, 9.5), (trunk, hilum[1], 13.0, 10.0),
        (hilum[0], hilum[0] + np.array([-14.0, 10.0, -34.0]), 8.5, 5.0),
        (hilum[0], hilum[0] + np.array([-16.0, 0.0, 24.0]), 6.5, 4.0),
        (hilum[1], hilum[1] + np.array([12.0, 14.0, -34.0]), 8.5, 5.0),
        (hilum[1], hilum[1] + np.array([14.0, 0.0, 22.0]), 6.5, 4.0),
    ]  # fmt: skip
    return np.array([[*start, *end, first, last] for start, end, first, last in pieces]), hilum


def _vein_capsules(carina: Array, organs: Array) -> Array:
    """Return the superior vena cava from the right atrium up, and both brachiocephalic veins, (N, 8)."""
    top, confluence = carina + np.array([-22.0, -14.0, 52.0]), carina + np.array([-20.0, -16.0, 10.0])
    entry = organs[np.argmin(np.abs(organs[:, 3:6] - confluence).sum(1)), :3]
    pieces = [
        (entry, confluence, 10.0, 9.0), (confluence, top, 9.0, 7.5),
        (carina + np.array([-18.0, -20.0, 40.0]), carina + np.array([34.0, -18.0, 54.0]), 6.0, 6.0),
        (top, top + np.array([-48.0, 2.0, 22.0]), 6.5, 5.5),
    ]  # fmt: skip
    return np.array([[*start, *end, first, last] for start, end, first, last in pieces])


def _mediastinal_capsules(plan: BodyPlan, carina: Array, envelope: Envelope, rng: np.random.Generator) -> Array:
    """Return the spine column, esophagus, paratracheal and thymic tissue, (N, 8)."""
    unit, spine = plan.frame_scale**0.5, envelope.spine
    levels = np.linspace(carina[2] - 230, envelope.top_of_chest_mm + 30, 9)
    capsules = []
    for low, high in itertools.pairwise(levels):
        first, last = spine(low), spine(high)
        capsules.append([first[0], first[1] + 4, low, last[0], last[1] + 4, high, 22 * unit, 21 * unit])
        capsules.append([first[0] + 3, first[1] - 26 * unit, low, last[0] + 3, last[1] - 26 * unit, high, 11.0, 11.0])
    width = rng.uniform(14, 20) + 5 * plan.fatness
    top = np.array([*(spine(envelope.top_of_chest_mm) - np.array([0, 34 * unit])), envelope.top_of_chest_mm + 30])
    capsules.append([*(carina + np.array([0, -4.0, -8.0])), *top, width, width + 3])
    capsules.append([*(carina + np.array([4, -34.0, -40.0])), *(top + np.array([0, -14, -40])), width * 0.8, width])
    return np.array(capsules)


def _septum(plan: BodyPlan, envelope: Envelope, floor_mm: float, rng: np.random.Generator) -> Field:
    """Tissue between the lungs, as a field that is positive inside it: a sheet that widens above the diaphragm."""
    x, _, z = envelope.grid.axes()
    spine_x = np.interp(z.ravel(), envelope.spine.z_mm, envelope.spine.xy_mm[:, 0])[None, None, :]
    half = rng.uniform(3.5, 8.0) + 4.0 * plan.fatness
    wide = rng.uniform(24, 34) * plan.frame_scale**0.5
    near_floor = 1 / (1 + np.exp(np.clip((z - floor_mm - rng.uniform(5, 22)) / 11.0, -30, 30)))
    lean = rng.normal(0, 4) * (1 - near_floor)
    return np.asarray(half + (wide - half) * near_floor - np.abs(x - spine_x - lean), np.float32)


def _airway_capsules(
    plan: BodyPlan, carina: Array, skeleton: PosedSkeleton, envelope: Envelope, rng: np.random.Generator
) -> Array:
    """Return the pharynx, larynx, trachea, main and lobar bronchi as capsules (N, 8)."""
    unit = plan.frame_scale**0.5
    cervical = skeleton.bones["hat_cervical"].vertices
    bottom, top = cervical[:, 2].min(), cervical[:, 2].max()

    def neck(share: float, forward: float) -> Array:
        level = bottom + share * (top - bottom)
        near = cervical[np.abs(cervical[:, 2] - level) < 10]
        return np.array([near[:, 0].mean(), near[:, 1].min() - forward, level])

    radius = rng.uniform(7.0, 10.0) * unit * (0.92 if plan.female else 1.0)
    t1 = skeleton.landmarks_mm[10]
    inlet = np.array([0.5 * (t1[0] + carina[0]), envelope.spine(t1[2])[1] - rng.uniform(28, 36) * unit, t1[2] - 4])
    larynx, pharynx, palate = (
        neck(0.3, rng.uniform(14, 20)),
        neck(0.6, rng.uniform(8, 13)),
        neck(0.98, rng.uniform(12, 18)),
    )
    nose = palate + np.array([0, -45.0, 8.0])
    middle = 0.5 * (inlet + carina) + np.array([rng.normal(0, 2.5), rng.normal(2, 2), 0])
    to_right = unit * _bronchus(-1, RIGHT_BRONCHUS_DEG, (24, 34), (2, 8), rng)
    to_left = unit * _bronchus(1, LEFT_BRONCHUS_DEG, (42, 54), (6, 14), rng)
    right, left = carina + to_right, carina + to_left
    spread = float(to_left[0] / np.linalg.norm(to_left) - to_right[0] / np.linalg.norm(to_right))
    start = 1.1 * radius / spread  # steep bronchi part later than others: at the carina
    intermediate = right + unit * np.array([-rng.uniform(8, 16), 6.0, -rng.uniform(24, 34)])
    lower = left + unit * np.array([rng.uniform(6, 14), 10.0, -rng.uniform(24, 36)])
    pieces = [
        (nose, palate, 9.0, 8.0), (palate, pharynx, 8.0, 8.0), (pharynx, larynx, 9.0, 6.0),
        (larynx, inlet, 8.0 * unit, radius),
        (inlet, middle, radius, radius), (middle, carina + np.array([0, 0, radius]), radius, radius * 0.98),
        (carina + np.array([-radius * 0.45, 0, start]), right, radius * 0.82, radius * 0.76),
        (carina + np.array([radius * 0.45, 0, start]), left, radius * 0.74, radius * 0.66),
        (right, right + unit * np.array([-20.0, 4.0, 8.0]), radius * 0.55, radius * 0.4),
        (right, intermediate, radius * 0.68, radius * 0.6),
        (intermediate, intermediate + np.array([-8.0, 10.0, -24.0]), radius * 0.5, 2.5),
        (left, left + unit * np.array([14.0, -8.0, 12.0]), radius * 0.5, radius * 0.36),
        (left, lower, radius * 0.56, radius * 0.48),
        (lower, lower + np.array([6.0, 10.0, -22.0]), radius * 0.42, 2.2),
    ]  # fmt: skip
    return np.array([[*start, *end, first, last] for start, end, first, last in pieces])


def _bronchus(side: int, angle_deg: Span, length_mm: Span, back_mm: Span, rng: np.random.Generator) -> Array:
    """Return the way from the carina to the end of a main bronchus (3,), mm; ``side`` is 1 on the left, -1 right."""
    angle, back, length = np.radians(rng.uniform(*angle_deg)), rng.uniform(*back_mm), rng.uniform(*length_mm)
    return np.array([side * length * np.sin(angle), back, -length * np.cos(angle)])


def vessel_mass(grid: Grid, lungs: Field, hila_mm: Array, rng: np.random.Generator, count: int) -> Field:
    """Share of each voxel that is lung vessel: a branching tree from each hilum to random points of its lung.

    Args:
        grid: The grid of ``lungs``.
        lungs: Signed distance of the lungs on that grid.
        hila_mm: Roots, (2, 3): right, left.
        rng: Source of randomness.
        count: Number of end points in each lung.
    """
    mass = np.zeros(grid.shape, np.float32)
    inside = np.argwhere(lungs[::3, ::3, ::3] < -2.0) * 3
    if len(inside) < 50:
        return mass
    positions = grid.origin_mm + inside * grid.spacing_mm
    divide = hila_mm[:, 0].mean()
    for side, hilum in zip((-1, 1), hila_mm, strict=True):
        own = positions[np.sign(positions[:, 0] - divide) == side]
        if len(own) < 20:
            continue
        ends = own[rng.choice(len(own), min(count, len(own)), replace=False)]
        ends = ends + rng.uniform(-1.5, 1.5, ends.shape) * grid.spacing_mm
        points, weights = _tree_points(hilum, ends, rng, grid.spacing_mm)
        splat(mass, grid.index_of(points), weights / grid.spacing_mm**3)
    return np.minimum(mass, 1)


def _tree_points(
    root: Array, ends: Array, rng: np.random.Generator, spacing: float
) -> tuple[Array, NDArray[np.float64]]:
    """Return the points (N, 3) along a vascular tree and the blood volume (N,) in mm^3 that each stands for."""
    order = np.argsort(np.linalg.norm(ends - root, axis=1) * rng.uniform(0.8, 1.2, len(ends)))
    nodes = np.concatenate([root[None], ends[order]])
    reach = np.zeros(len(nodes))
    parent = np.zeros(len(nodes), int)
    for n in range(1, len(nodes)):
        step = np.linalg.norm(nodes[:n] - nodes[n], axis=1)
        parent[n] = int((step * 1.6 + 0.55 * reach[:n]).argmin())
        reach[n] = reach[parent[n]] + step[parent[n]]
    leaves = np.ones(len(nodes))
    for n in range(len(nodes) - 1, 0, -1):
        leaves[parent[n]] += leaves[n]
    radius = np.minimum(0.70 * leaves ** (1 / 2.6), 5.0) * rng.uniform(0.85, 1.3)
    points, weights = [], []
    for n in range(1, len(nodes)):
        start, end = nodes[parent[n]], nodes[n]
        length = float(np.linalg.norm(end - start))
        number = max(2, int(length / (0.5 * spacing)))
        share = (np.arange(number) + 0.5) / number
        bow = rng.normal(0, 0.06 * length, 3)
        line = start + share[:, None] * (end - start) + np.sin(np.pi * share)[:, None] * bow
        thick = radius[n] * (1.15 - 0.3 * share)
        if radius[n] > 0.6 * spacing:
            around = rng.normal(0, 0.45, (number * 4, 3)) * np.repeat(thick, 4)[:, None]
            points.append(np.repeat(line, 4, axis=0) + around)
            weights.append(np.repeat(np.pi * thick**2 * length / number, 4) / 4)
        else:
            points.append(line)
            weights.append(np.pi * thick**2 * length / number)
    return np.concatenate(points), np.concatenate(weights)
