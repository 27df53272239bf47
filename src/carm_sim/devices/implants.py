# SPDX-License-Identifier: Apache-2.0
"""Metal in bone: pedicle screws and rods, hip and shoulder replacements, sternal wires."""

from __future__ import annotations

import numpy as np

from carm_core.transforms import Array
from carm_sim.devices.materials import COBALT_CHROME, POLYETHYLENE, STEEL, TITANIUM
from carm_sim.devices.shapes import circle, smooth, threaded, unit
from carm_sim.devices.site import (
    BACK,
    ELBOWS,
    FEMORAL_HEADS,
    FRONT,
    HUMERAL_HEADS,
    KNEES,
    LEFT,
    LEFT_SIDE,
    T1,
    T12,
    TROCHANTERS,
    UP,
    Site,
)
from carm_sim.drr.solids import Body, Solid, axes_along, box, cylinder, ellipsoid, sphere, tube


def screws_rods(site: Site) -> list[Solid]:
    """Return the pedicle screws on both sides of three to six thoracic vertebrae in a row, joined by two rods."""
    site.mark(T1), site.mark(T12)
    count = int(site.rng.integers(3, 7))
    first = int(site.rng.integers(2, 12 - count))
    solids: list[Solid] = []
    for side in (-1, 1):
        heads = []
        for level in range(first, first + count):
            center, axes = site.spine[level], site.spine_axes(level)
            wide = 13 + 0.5 * level + site.vary(-1, 1)
            entry = center + axes @ np.array([side * (wide + 3.5), -31.0, site.vary(0, 3)])
            tip = center + axes @ np.array([side * site.vary(4, 8), site.vary(6, 10), site.vary(-2, 2)])
            along = unit(tip - entry)
            solids.append(TITANIUM.solid(threaded(entry + 6 * along, tip, 1.9, 3.1, 2.6)))
            saddle = entry - 5 * along
            tulip = cylinder(entry + 6 * along, entry - 11 * along, 6.2)
            slot = box(saddle - 4 * along, (5.6 / 2, 8, 7), axes_along(along, axes[:, 0]) @ _quarter_turn())
            solids.append(TITANIUM.solid(tulip, [slot]))
            solids.append(TITANIUM.solid(cylinder(saddle - 2.5 * along, entry - 11 * along, 4.2)))
            heads.append(saddle)
        heads = [heads[0] + 9 * unit(heads[0] - heads[1]), *heads, heads[-1] + 9 * unit(heads[-1] - heads[-2])]
        solids.append(TITANIUM.solid(tube(smooth(heads, 6.0), 2.75)))
    return solids


def _quarter_turn() -> Array:
    return np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])


def hip_implant(site: Site) -> list[Solid]:
    """Return a total hip replacement on one side: cup with liner and screw, ball, tapered stem in the femur."""
    side = site.side
    center, knee = site.mark(FEMORAL_HEADS[side]), site.mark(KNEES[side])
    trochanter = site.mark(TROCHANTERS[side])
    outward = LEFT if side == LEFT_SIDE else -LEFT
    shaft_top = trochanter - 14 * outward - 8 * UP
    down = unit(knee - shaft_top)
    lean = site.vary(0.62, 0.8)
    pole = unit(-0.62 * outward + lean * UP + site.vary(0.1, 0.4) * BACK)
    radius = site.vary(24, 28)
    rim = box(center - 60 * pole, (60, 60, 60), axes_along(pole))
    cup = TITANIUM.solid(sphere(center, radius), [sphere(center, radius - 3.5), rim])
    liner = POLYETHYLENE.solid(sphere(center, radius - 3.5), [sphere(center, 16.2), rim])
    screw = TITANIUM.solid(
        threaded(center + (radius - 2) * pole, center + (radius + 24) * (unit(pole + 0.5 * UP)), 2, 3.2, 2.6)
    )
    shoulder = shaft_top + 6 * down
    neck = unit(shoulder - center)
    flat = unit(np.cross(down, np.cross(outward, down)))
    stem = [
        cylinder(center + 6 * neck, shoulder, 6.0, 8.5),
        _stem(shoulder - 8 * down, shoulder + 45 * down, 12.5, 8.0, flat),
        _stem(shoulder + 45 * down, shoulder + 125 * down, 8.0, 5.0, flat),
        sphere(shoulder + 125 * down, 5.0),
        sphere(shoulder, 8.5),
        sphere(shoulder - 6 * down + 3 * outward, 8.5),
    ]
    site.within(shoulder + 125 * down)
    head = COBALT_CHROME.solid(sphere(center, 16), [cylinder(center + 3 * neck, center + 20 * neck, 6.3)])
    return [cup, liner, screw, head, TITANIUM.solid(stem)]


def _stem(start: Array, end: Array, radius: float, end_radius: float, wide: Array) -> Body:
    """Return a frustum that is widest along a direction."""
    flat = cylinder(start, end, radius, end_radius, flatten=0.75)
    axes = axes_along(end - start, np.cross(end - start, wide))
    return Body(flat.kind, flat.center_mm, axes, flat.sizes_mm, flat.parameter)


def shoulder_implant(site: Site) -> list[Solid]:
    """A shoulder replacement on one side: half a ball on a stem in the humerus, and a cup with pegs in the scapula."""
    side = site.side
    head = site.mark(HUMERAL_HEADS[side])
    site.within(head + 24 * UP)
    down = unit(site.mark(ELBOWS[side]) - head) if site.has(ELBOWS[side]) else _shaft(site, head)
    inward = unit((-LEFT if side == LEFT_SIDE else LEFT) + 0.25 * BACK)
    inward = unit(inward - (inward @ down) * down)
    pole = unit(0.75 * inward - 0.66 * down)
    radius = site.vary(22, 25)
    rim = box(head - 58 * pole, (60, 60, 60), axes_along(pole))
    ball = COBALT_CHROME.shell(sphere(head, radius), 4.5)
    cap = COBALT_CHROME.solid(ball.bodies, [*ball.holes, rim])
    plate = COBALT_CHROME.solid(cylinder(head + 2 * pole, head + 5 * pole, radius - 1.5))
    elbow_side = head + 18 * down - 7 * inward
    stem = [
        cylinder(head + 2 * pole, elbow_side, 6.0, 8.0),
        cylinder(elbow_side - 8 * down, elbow_side + 38 * down, 9.5, 6.0),
        cylinder(elbow_side + 38 * down, elbow_side + 95 * down, 6.0, 4.2),
        sphere(elbow_side + 95 * down, 4.2),
    ]
    socket = head + (radius + 4) * inward
    liner = POLYETHYLENE.solid(ellipsoid(socket, (3, 13, 16), np.stack([inward, np.cross(down, inward), down], 1)))
    pegs = [
        TITANIUM.solid(threaded(socket + 2 * inward + at * down, socket + 20 * inward + 1.3 * at * down, 1.4, 2.3, 2.0))
        for at in (-8.0, 8.0)
    ]
    return [cap, plate, TITANIUM.solid(stem), liner, *pegs]


def _shaft(site: Site, head: Array) -> Array:
    """Return the direction of the humerus's shaft: where most bone lies at 45 to 65 mm from the head."""
    outward = LEFT if head[0] > site.mark(T1)[0] else -LEFT
    azimuth, polar = np.meshgrid(np.linspace(0, 2 * np.pi, 48, endpoint=False), np.linspace(0.1, 2.2, 22))
    side_axis = np.cross(UP, outward)
    directions = (
        np.cos(polar)[..., None] * -UP
        + (np.sin(polar) * np.cos(azimuth))[..., None] * outward
        + (np.sin(polar) * np.sin(azimuth))[..., None] * side_axis
    )
    directions = directions[directions @ outward > -0.2]
    radii = np.arange(35, 66, 5.0)
    hu = np.clip(site.patient.volume.sample(head + directions[:, None] * radii[:, None]), -200, 900)
    near = directions @ directions.T > np.cos(0.12)
    score = (near @ hu.mean(1)) / near.sum(1)
    return unit(directions[int(score.argmax())])


def sternal_wires(site: Site) -> list[Solid]:
    """Return five to seven steel wires around the sternum, each with its ends twisted in front of it."""
    line = site.sternum
    count = int(site.rng.integers(5, 8))
    solids = []
    for share in np.linspace(0.06, 0.94, count):
        index = share * (len(line) - 1)
        front = np.array([np.interp(index, np.arange(len(line)), line[:, i]) for i in range(3)])
        tangent = unit(line[min(int(index) + 1, len(line) - 1)] - line[max(int(index) - 1, 0)])
        up = -tangent if tangent[2] < 0 else tangent
        forward = unit(np.cross(LEFT, up))
        forward = forward if forward @ FRONT > 0 else -forward
        width = np.interp(share, [0, 0.25, 1.0], [19, 12, 13]) + site.vary(-1.5, 1.5)
        tilt = site.vary(-0.16, 0.16)
        side = unit(LEFT + tilt * up)
        center = front - 6.5 * forward + site.jitter((1.5, 0, 1.5))
        loop = circle(center, np.stack([side, -forward, up], 1), (width, 8.0), 40)
        shape = 1 + 0.05 * np.sin(np.linspace(0, 6 * np.pi, len(loop)) + site.vary(0, 6))
        loop = center + (loop - center) * shape[:, None]
        loop[:, 2] += 2.0 * np.sin(np.linspace(0, 2 * np.pi, len(loop)) + site.vary(0, 6))
        nearest = int((loop @ forward).argmax()) + int(site.rng.integers(-3, 4))
        start = loop[nearest % len(loop)] + 0.3 * forward
        end = start + unit(site.vary(-0.9, 0.9) * side + site.vary(-0.9, 0.9) * up + 0.25 * forward) * site.vary(9, 12)
        solids.append(STEEL.solid([*tube(loop, 0.45), *_twist(start, end, 0.45)]))
    return solids


def _twist(start: Array, end: Array, radius: float, turn_mm: float = 2.8) -> list[Body]:
    """Return two strands twisted around each other."""
    axes = axes_along(end - start)
    length = float(np.linalg.norm(end - start))
    share = np.linspace(0, 1, max(8, int(length / turn_mm * 10)))
    bodies: list[Body] = []
    for phase in (0.0, np.pi):
        angle = 2 * np.pi * share * length / turn_mm + phase
        around = radius * 1.25 * np.stack([np.cos(angle), np.sin(angle)], 1) @ axes[:, :2].T
        bodies += tube(start + share[:, None] * (end - start) + around, radius)
    return bodies
