# SPDX-License-Identifier: Apache-2.0
"""Cardiac hardware: pacemaker, angiography catheter, guide wire."""

from __future__ import annotations

import numpy as np

from carm_core.transforms import Array
from carm_sim.devices.materials import CONDUCTOR, EPOXY, NITINOL, PLATINUM, SILICONE, STEEL, STRIPE, TITANIUM, Substance
from carm_sim.devices.shapes import frames_along, rounded_plate, smooth, unit
from carm_sim.devices.site import CARINA, FRONT, HEMIDIAPHRAGMS, HUMERAL_HEADS, LEFT, LEFT_SIDE, T1, T12, UP, Site
from carm_sim.drr.solids import Body, Material, Solid, box, capsule, cylinder, tube

_BATTERY = Substance(Material.METAL, 0.9)
_CIRCUIT = Substance(Material.METAL, 0.8)


def pacemaker(site: Site) -> list[Solid]:
    """Return a pacemaker's can under the left collarbone, with leads to the right atrium and the right ventricle."""
    head, spine_top = site.mark(HUMERAL_HEADS[LEFT_SIDE]), site.mark(T1)
    site.mark(CARINA), site.mark(HEMIDIAPHRAGMS[LEFT_SIDE]), site.mark(T12)
    x = spine_top[0] + site.vary(0.56, 0.66) * (head[0] - spine_top[0])
    z = min(spine_top[2], head[2]) - site.vary(48, 62)
    normal = site.front_normal(x, z)
    turn = site.vary(-0.35, 0.35)
    up = unit(UP + turn * LEFT)
    up = unit(up - (up @ normal) * normal)
    axes = np.stack([np.cross(up, normal), up, normal], 1)
    center = site.front_skin(x, z) - 12 * normal
    ports = [center + axes @ np.array([-14.0, 26 + 5.5 * n, 0]) for n in range(2)]
    return [*_can(center, axes, ports), *_leads(site, center, axes, ports)]


def _can(center: Array, axes: Array, ports: list[Array]) -> list[Solid]:
    """Return the titanium case, battery, circuit, and the connector block with its set screws."""

    def at(x: float, y: float, z: float = 0.0) -> Array:
        return np.asarray(center + axes @ np.array([x, y, z]))

    case = rounded_plate(center, axes, (24, 21), 6.6, 13)
    inside = rounded_plate(center, axes, (23.5, 20.5), 5.8, 12.5)
    battery = rounded_plate(at(-3, -8.5), axes, (19, 10), 4.8, 7)
    board = rounded_plate(at(1, 10), axes, (18, 8), 1.2, 2)
    chips = [box(at(x, y, 1), (w, h, 0.9), axes) for x, y, w, h in ((-8, 11, 5, 4), (3, 8, 3, 3), (10, 12, 4, 2.5))]
    header = rounded_plate(at(-1, 27), axes, (19, 7.5), 6.2, 5)
    blocks: list[Body] = []
    for port in ports:
        for reach, half in ((4.0, 1.5), (14.0, 1.5)):
            spot = port + axes[:, 0] * reach
            blocks += [box(spot, (half, 1.6, 1.8), axes)]
        blocks.append(cylinder(port + axes[:, 0] * 4, port + axes[:, 0] * 4 + axes[:, 1] * 3.4, 0.9))
        blocks.append(cylinder(port - axes[:, 0] * 6, port + axes[:, 0] * 17, 0.6))
    return [
        TITANIUM.solid(case, inside),
        _BATTERY.solid(battery),
        _CIRCUIT.solid([*board, *chips]),
        EPOXY.solid(header),
        STEEL.solid(blocks),
    ]


def _leads(site: Site, center: Array, axes: Array, ports: list[Array]) -> list[Solid]:
    carina, dome = site.mark(CARINA), site.mark(HEMIDIAPHRAGMS[LEFT_SIDE])
    drop = carina[2] - dome[2]
    vein = [
        site.in_chest(0.62 * (center[0] - carina[0]), 0.62, -(0.80 * (site.mark(T1)[2] - carina[2]))),
        site.in_chest(12, 0.55, -38),
        site.in_chest(-20, 0.42, -16),
        site.in_chest(-27, 0.38, 0.28 * drop),
    ]
    apex = site.in_chest(np.clip(0.58 * (dome[0] - carina[0]), 38, 62), 0.74, 0.90 * drop)
    ventricle = [site.in_chest(-26, 0.46, 0.62 * drop), site.in_chest(-6, 0.58, 0.86 * drop), apex]
    atrium = [
        site.in_chest(-31, 0.46, 0.55 * drop),
        site.in_chest(-28, 0.66, 0.66 * drop),
        site.in_chest(-20, 0.80, 0.50 * drop),
    ]
    solids = []
    for n, (port, way) in enumerate(zip(ports, (ventricle, atrium), strict=True)):
        slip = np.array([0.0, 0, 3.0 * n])
        loop = [port - 4 * axes[:, 0], port - (12 + 3 * n) * axes[:, 0] - 3 * axes[:, 2], *_turn(center, axes, n)]
        line = smooth([*loop, *(v + slip for v in vein), *way], 3.0)
        solids += _lead(line, "tined")
    return solids


def _turn(center: Array, axes: Array, n: int) -> list[Array]:
    """Return the slack behind the can: once around its rim, from the connector's mouth."""
    angles = np.deg2rad(np.array([165, 215, 265, 315, 5, 50]))
    rim = np.stack([np.cos(angles) * (29 + 3 * n), np.sin(angles) * (26 + 3 * n), np.full(6, -4.0 - n)], 1)
    return list(center + rim @ axes.T)


def _lead(line: Array, kind: str) -> list[Solid]:
    """Return a bipolar pacing lead along a polyline: insulation, coil, ring and tip electrode, tines."""
    end, along = line[-1], unit(line[-1] - line[-2])
    ring = line[-5:-3] if len(line) > 6 else line[-2:]
    coil = tube(line[:-1], 0.75)
    electrode = [cylinder(end, end + 2.2 * along, 1.05), *tube(ring, 1.25)]
    axes = frames_along(line)[-1]
    tines = [
        capsule(end - 1.5 * along, end - 5 * along + 3.2 * (np.cos(a) * axes[:, 0] + np.sin(a) * axes[:, 1]), 0.45)
        for a in np.arange(4) * np.pi / 2
    ]
    shade = Substance(Material.METAL, 0.62 * CONDUCTOR.factor)
    return [
        SILICONE.solid(tube(line, 1.15), coil),
        Solid.shell(coil, 0.35, shade.material, shade.factor),
        PLATINUM.solid(electrode),
        SILICONE.solid(tines) if kind == "tined" else SILICONE.solid(tube(line[-3:], 1.2)),
    ]


def aorta(site: Site) -> Array:
    """Return the middle of the aorta (N, 3) from below the diaphragm up, over the arch and down to its root."""
    spine = site.spine
    below = site.spine_at(max(spine[11, 2] - 90, site.box_mm[0][2] + 5))
    stops = [below + 8 * LEFT + 34 * FRONT]
    stops += [spine[n] + (10 + 1.2 * (11 - n)) * LEFT + 30 * FRONT for n in (11, 9, 7)]
    stops += [
        site.in_chest(24, 0.02, 8),
        site.in_chest(20, 0.18, -24),
        site.in_chest(2, 0.42, -32),
        site.in_chest(-16, 0.60, -8),
        site.in_chest(-8, 0.60, 28),
        site.in_chest(6, 0.55, 48),
    ]
    return smooth(stops, 4.0)


def catheter(site: Site) -> list[Solid]:
    """Return a pigtail catheter for angiography, from the groin through the aorta to its root."""
    line = aorta(site) + site.jitter((2, 2, 0))
    end, along = line[-1], unit(line[-1] - line[-3])
    side = unit(np.cross(along, FRONT))
    angle = np.linspace(0, 2 * np.pi * 1.15, 26)[1:]
    radius = np.linspace(9.0, 6.0, len(angle))
    pigtail = end + radius[:, None] * (np.sin(angle)[:, None] * along + (1 - np.cos(angle))[:, None] * side)
    return [STRIPE.shell(tube(np.concatenate([line, pigtail]), 0.9), 0.35)]


def guide_wire(site: Site) -> list[Solid]:
    """Return a guide wire from the groin up the inferior vena cava and through the right atrium, with a J tip."""
    spine = site.spine
    below = site.spine_at(max(spine[11, 2] - 90, site.box_mm[0][2] + 5))
    stops = [below + 20 * -LEFT + 30 * FRONT, spine[11] - 22 * LEFT + 34 * FRONT, spine[9] - 24 * LEFT + 44 * FRONT]
    stops += [site.in_chest(-26, 0.40, 62), site.in_chest(-25, 0.38, 20), site.in_chest(-22, 0.40, -18)]
    line = smooth(np.array(stops) + site.jitter((2, 2, 0)), 4.0)
    end, along = line[-1], unit(line[-1] - line[-3])
    side = unit(np.cross(along, FRONT))
    angle = np.linspace(0, 1.15 * np.pi, 16)[1:]
    hook = end + 3.5 * (np.sin(angle)[:, None] * along + (1 - np.cos(angle))[:, None] * side)
    whole = np.concatenate([line, hook])
    soft = len(whole) - len(hook) - 8
    return [NITINOL.solid(tube(whole[: soft + 1], 0.44)), PLATINUM.solid(tube(whole[soft:], 0.22))]
