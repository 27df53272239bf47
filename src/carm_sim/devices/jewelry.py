# SPDX-License-Identifier: Apache-2.0
"""Jewelry: a necklace, earrings, a ring."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from carm_core.transforms import Array
from carm_sim.devices.materials import GOLD, SILVER
from carm_sim.devices.shapes import circle, frames_along, smooth, unit
from carm_sim.devices.site import BACK, ELBOWS, FRONT, LEFT, LEFT_SIDE, SKULL, T1, UP, WRISTS, Site
from carm_sim.drr.solids import Body, Solid, axes_along, box, sphere, tube

_LINK_MM = 3.6


def jewellery(site: Site) -> list[Solid]:
    """Return a necklace with a pendant; earrings if the head is known, a ring if a hand is."""
    solids = _necklace(site)
    if site.has(SKULL):
        solids += _earrings(site)
    if site.has(ELBOWS[LEFT_SIDE], WRISTS[LEFT_SIDE]):
        solids += _ring(site)
    return solids


def _necklace(site: Site) -> list[Solid]:
    """Return the links along a loop on the skin, from the nape down to the chest."""
    center = site.mark(T1) + 22 * FRONT
    drop = site.vary(45, 90)
    angles = np.linspace(-np.pi, np.pi, 41)
    points = []
    for angle in angles:
        front = (1 + np.cos(angle)) / 2
        z = center[2] + 26 - (26 + drop) * front**2.2
        direction = np.sin(angle) * LEFT + np.cos(angle) * FRONT
        if abs(angle) < 1.1:
            x = center[0] + 62 * np.sin(angle)
            points.append(site.front_skin(x, z) + 2 * FRONT)
        else:
            place = center + (70 - 8 * np.abs(np.cos(angle))) * direction
            points.append(site.skin(place - 40 * UP, -UP) + 2 * UP)
    points = list(ndimage.gaussian_filter1d(np.array(points), 1.2, axis=0, mode="wrap"))
    line = _even(smooth(points, 1.0, tame=True), _LINK_MM)
    frames = frames_along(line)
    bodies: list[Body] = []
    for n, (at, frame) in enumerate(zip(line, frames, strict=True)):
        turned = frame[:, [2, 0, 1]] if n % 2 else frame[:, [2, 1, 0]]
        bodies += tube(circle(at, turned, (2.2, 1.3), 8), 0.35)
    metal = GOLD if site.rng.random() < 0.6 else SILVER
    lowest = line[int(line[:, 2].argmin())] - 3 * UP
    pendant = [
        box(lowest - 11 * UP, (1.2, 0.8, 11)),
        box(lowest - 8 * UP, (6.5, 0.8, 1.2)),
        *tube(circle(lowest, np.eye(3)[:, [0, 2, 1]], (1.8, 1.8), 10), 0.4),
    ]
    return [metal.solid(bodies), metal.solid(pendant)]


def _even(line: Array, step_mm: float) -> Array:
    """Return the points at even distances along a polyline."""
    at = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    stops = np.arange(0, at[-1], step_mm)
    return np.stack([np.interp(stops, at, line[:, i]) for i in range(3)], 1)


def _earrings(site: Site) -> list[Solid]:
    skull, radius = site.mark(SKULL), site.vary(6, 13)
    lobe = skull - 52 * UP + 2 * BACK
    solids = []
    for outward in (-LEFT, LEFT):
        at = site.skin(lobe, -outward) + 4 * outward
        axes = np.stack([UP, unit(FRONT + 0.3 * outward), unit(outward)], 1)
        hoop = tube(circle(at - radius * UP, axes, (radius, radius), 24), 0.7)
        solids.append(GOLD.solid([*hoop, sphere(at, 1.5)]))
    return solids


def _ring(site: Site) -> list[Solid]:
    """Build a ring on a finger of the left hand, which continues the forearm."""
    elbow, wrist = site.mark(ELBOWS[LEFT_SIDE]), site.mark(WRISTS[LEFT_SIDE])
    along = unit(wrist - elbow)
    at = wrist + 88 * along
    search = at + np.stack(np.meshgrid(*[np.arange(-25, 26, 5.0)] * 3, indexing="ij"), -1).reshape(-1, 3)
    weight = np.clip(site.patient.volume.sample(search) - 250, 0, None)
    if weight.sum() > 0:
        at = search[int(weight.argmax())]
    band = tube(circle(at, axes_along(along), (9.5, 9.0), 28), 1.0)
    return [GOLD.solid(band)]
