# SPDX-License-Identifier: Apache-2.0
"""Hardware of anesthesia and intensive care: electrodes with cables, and tubes."""

from __future__ import annotations

import numpy as np

from carm_core.transforms import Array
from carm_sim.devices.materials import FOAM, POLYURETHANE, SILVER, STEEL, TISSUE, VINYL
from carm_sim.devices.shapes import beside, cable, drain, smooth, unit
from carm_sim.devices.site import (
    BACK,
    CARINA,
    FRONT,
    HEMIDIAPHRAGMS,
    HUMERAL_HEADS,
    LEFT,
    LEFT_SIDE,
    RIGHT_SIDE,
    SKULL,
    T1,
    T12,
    UP,
    Site,
)
from carm_sim.drr.solids import Solid, axes_along, cylinder, ellipsoid, tube


def ecg(site: Site) -> list[Solid]:
    """Return five electrodes on the chest with snaps, their cables to a yoke, and the trunk cable."""
    right, left = site.mark(HUMERAL_HEADS[RIGHT_SIDE]), site.mark(HUMERAL_HEADS[LEFT_SIDE])
    domes = [site.mark(HEMIDIAPHRAGMS[side]) for side in (RIGHT_SIDE, LEFT_SIDE)]
    middle = site.mark(T1)[0]
    low = min(dome[2] for dome in domes)
    places = np.array(
        [
            (middle + 0.66 * (right[0] - middle), right[2] - 42),
            (middle + 0.66 * (left[0] - middle), left[2] - 42),
            (middle + 0.62 * (right[0] - middle), low - 12),
            (middle + 0.62 * (left[0] - middle), low - 12),
            (middle + 0.12 * (left[0] - middle), low + 62),
        ]
    )
    places += site.rng.uniform(-9, 9, places.shape)
    yoke = np.array([middle + site.vary(10, 45), low - 65 + site.vary(-15, 5)])
    solids: list[Solid] = []
    for n, place in enumerate(places):
        normal = site.front_normal(*place)
        skin = site.front_skin(*place)
        solids += _electrode(skin, normal)
        way = yoke + np.array([2.2 * (n - 2), 0.0]) - place
        shares = np.array([0.0, 0.12, 0.36, 0.62, 0.84, 1.0])
        path = place + shares[:, None] * way
        path[1:4] += site.rng.uniform(-22, 22, (3, 2))
        path[4] += (2.5 * (n - 2), 10)
        line = site.on_front(path, 4.5)
        line[0] = skin + 4.5 * normal
        solids += cable(line, 1.3, 0.42)
    foot = yoke + np.array([site.vary(20, 60), -180.0])
    trunk = site.on_front([yoke, yoke + (foot - yoke) * 0.4 + (site.vary(-15, 15), 0), foot], 6.0)
    axes = axes_along(trunk[2] - trunk[0])
    solids.append(VINYL.solid(ellipsoid(trunk[0], (9, 4, 14), axes)))
    frame = beside(trunk, 1.0)
    return [*solids, *cable(trunk, 2.6, 0.6), *cable(frame, 1.4, 0.4)]


def _electrode(skin: Array, normal: Array) -> list[Solid]:
    """Return the foam, gel, and a snap in the cable's socket."""

    def at(height: float) -> Array:
        return np.asarray(skin + height * normal)

    return [
        FOAM.solid(cylinder(at(0), at(1.5), 20)),
        TISSUE.solid(cylinder(at(0), at(1.2), 9)),
        SILVER.solid(cylinder(at(1.2), at(1.26), 5.0)),
        STEEL.shell(cylinder(at(1.3), at(4.2), 2.0), 0.3),
        STEEL.solid(cylinder(at(1.3), at(1.7), 4.6)),
        STEEL.shell(cylinder(at(1.8), at(4.4), 3.0), 0.35, ends=False),
        VINYL.solid(cylinder(at(1.5), at(6.0), 6.0), [cylinder(at(1.4), at(4.5), 3.0)]),
    ]


def tubes(site: Site) -> list[Solid]:
    """Return an endotracheal tube above the carina, a stomach tube, and a chest drain on one side."""
    return [*_endotracheal(site), *_nasogastric(site), *_chest_drain(site)]


def _mouth(site: Site, tame: float) -> list[Array]:
    """Return the way from the throat out of the mouth; straight up where the patient ends at the neck."""
    top = site.mark(T1)
    if not site.has(SKULL):
        return [top + 60 * UP + (34 + tame) * FRONT, top + 120 * UP + (40 + tame) * FRONT]
    skull = site.mark(SKULL)
    throat = np.array([skull[0], skull[1] - 18, skull[2] - 82])
    lips = site.skin((skull[0], skull[1], skull[2] - 74), BACK)
    return [throat + 0.4 * tame * FRONT, lips + 25 * BACK, lips + 30 * FRONT, lips + 75 * FRONT + 25 * UP]


def _endotracheal(site: Site) -> list[Solid]:
    airway = site.airway
    above = site.vary(25, 60)
    lower = airway[airway[:, 2] > airway[0, 2] + above]
    if len(lower) < 2:
        lower = site.mark(CARINA) + (above + np.array([[0.0], [25.0]])) * UP + 4 * FRONT
    line = smooth([*lower[::3], *_mouth(site, 14)], 5.0, tame=True)
    cuff_at, along = line[7], unit(line[9] - line[5])
    cuff = ellipsoid(cuff_at, (8.5, 8.5, 15), axes_along(along))
    return [*drain(line, 5.0, 1.3), POLYURETHANE.shell(cuff, 0.3)]


def _nasogastric(site: Site) -> list[Solid]:
    site.mark(T12)
    spine, dome = site.spine, site.mark(HEMIDIAPHRAGMS[LEFT_SIDE])
    gullet = [spine[n] + 25 * FRONT + x * LEFT for n, x in ((0, 4), (2, 5), (4, 6), (6, 5), (8, 9))]
    hiatus = spine[9] + 42 * FRONT + 16 * LEFT
    stomach = [
        np.array([0.5 * (dome[0] + spine[10, 0]), dome[1] - 6, dome[2] - 48]),
        dome + np.array([-14.0, -18, -84]),
    ]
    line = smooth([*stomach[::-1], hiatus, *gullet[::-1], *_mouth(site, -2)], 5.0, tame=True)
    return drain(line, 2.4, 0.8, 0.35)


def _chest_drain(site: Site) -> list[Solid]:
    """Build a tube from the side of the chest, between ribs, to near the apex; its line breaks at the last eye."""
    side = site.side
    outward = LEFT if side == LEFT_SIDE else -LEFT
    carina, dome = site.mark(CARINA), site.mark(HEMIDIAPHRAGMS[side])
    spine = site.spine
    z = carina[2] - site.vary(38, 58)
    wall = _chest_wall(site, np.array([carina[0], carina[1] - 10, z]), outward)
    x = abs(dome[0] - carina[0])
    tip = np.array([carina[0], spine[2, 1] - 14, spine[2, 2] - 8]) + 0.62 * x * outward
    inner = np.array([wall[0], wall[1] - 4, z + 45]) - 22 * outward
    outside = [wall + 60 * outward - 30 * UP + 12 * FRONT, wall + 130 * outward - 110 * UP + 30 * FRONT]
    line = smooth(
        [tip, 0.5 * (tip + inner) + 9 * outward, inner, wall - 6 * outward + 8 * UP, wall + 6 * outward, *outside], 5.0
    )
    radius, wall_mm = 4.5, 1.4
    stripe = beside(line, radius - wall_mm / 2, 0.6)
    eye = len(line) // 3
    marks = [*tube(stripe[: eye + 1], 0.6), *tube(stripe[eye + 3 :], 0.6)]
    pipe, metal = drain(line, radius, wall_mm)
    return [pipe, Solid.of(marks, metal.material, metal.factor)]


def _chest_wall(site: Site, inside: Array, outward: Array) -> Array:
    """Return the outer border of the lung's side (3,): the last air on the way out."""
    points = inside + np.arange(0, 240.0)[:, None] * outward
    air = site.patient.volume.sample(points) < -500
    lung = np.flatnonzero(air & (np.arange(240) < 170))
    runs = np.split(lung, np.flatnonzero(np.diff(lung) > 12) + 1)
    longest = max(runs, key=len)
    return np.asarray(points[longest[-1]] if len(longest) else inside + 120 * outward, np.float64)
