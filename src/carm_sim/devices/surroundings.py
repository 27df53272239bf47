# SPDX-License-Identifier: Apache-2.0
"""Objects around the patient: the table, and the surgeon's hand."""

from __future__ import annotations

import numpy as np

from carm_core.transforms import Array
from carm_sim.devices.materials import ALUMINUM, CARBON_FIBER, CORTEX, EPOXY, FOAM, SPONGIOSA, STEEL, TISSUE
from carm_sim.devices.shapes import unit
from carm_sim.devices.site import CARINA, FRONT, HEMIDIAPHRAGMS, HUMERAL_HEADS, LEFT, T1, UP, Site
from carm_sim.drr.solids import Body, Solid, SolidSet, axes_along, box, capsule, cylinder, ellipsoid

TABLE_HALF_LENGTH_MM, TABLE_HALF_WIDTH_MM = 1000.0, 260.0
MATTRESS_MM, PLATE_MM, SKIN_MM, EDGE_MM = 50.0, 38.0, 1.6, 9.0


def table(site: Site) -> list[Solid]:
    """Return the mattress, carbon fiber plate with a foam core and thicker edges, and steel rails on its sides.

    Laid out in the table frame, where the patient's back rests on z = 0: the mattress is below that.
    """
    length, width = TABLE_HALF_LENGTH_MM, TABLE_HALF_WIDTH_MM
    middle = -MATTRESS_MM - PLATE_MM / 2
    half = PLATE_MM / 2
    soft = (MATTRESS_MM + PLATE_MM) / 2
    solids = [
        FOAM.solid(box((0, 0, -soft), (length - 15, width - 12, soft - SKIN_MM))),
        EPOXY.solid(box((0, 0, -0.5), (length - 15, width - 12, 0.4))),
    ]
    for z in (middle + half - SKIN_MM / 2, middle - half + SKIN_MM / 2):
        solids.append(CARBON_FIBER.solid(box((0, 0, z), (length, width, SKIN_MM / 2))))
    rim = half - SKIN_MM
    edges = [box((x * (length - EDGE_MM / 2), 0, middle), (EDGE_MM / 2, width - EDGE_MM, rim)) for x in (-1, 1)]
    edges += [box((0, y * (width - EDGE_MM / 2), middle), (length, EDGE_MM / 2, rim)) for y in (-1, 1)]
    solids += [CARBON_FIBER.solid(edge) for edge in edges]
    for side in (-1, 1):
        y = side * (width + 22)
        solids.append(STEEL.solid(box((-0.1 * length, y, middle), (0.85 * length, 5, 12.5))))
        posts = [cylinder((x, y, middle), (x, side * width, middle), 7) for x in np.linspace(-0.9, 0.7, 7) * length]
        solids.append(STEEL.solid(posts))
        solids.append(ALUMINUM.solid(box((-0.1 * length, side * (width - 4), middle), (0.85 * length, 3, 12))))
    placed = SolidSet(tuple(solids)).transformed(site.patient.transform_lps_to_table.inverse())
    return list(placed.solids)


_METACARPALS = ((-30, 40, 42), (-16, 62, 66), (0, 66, 62), (14, 60, 55), (27, 52, 50))
"""Base across, mm; far end along the hand, mm; length, mm: thumb to little finger."""
_PHALANGES = ((34, 26), (42, 26, 19), (46, 30, 20), (43, 28, 20), (34, 20, 18))


def surgeon_hand(site: Site) -> list[Solid]:
    """Return a hand and a forearm, somewhat bent, that come from the side over the chest, well above the skin."""
    top, low = site.mark(T1)[2], site.mark(CARINA)[2]
    if site.has(*HEMIDIAPHRAGMS):
        low = min(site.mark(i)[2] for i in HEMIDIAPHRAGMS)
    from_left = LEFT if site.side else -LEFT
    reach = (
        abs(site.mark(HUMERAL_HEADS[site.side])[0] - site.mark(T1)[0]) if site.has(HUMERAL_HEADS[site.side]) else 140
    )
    x = site.mark(T1)[0] + site.vary(-0.15, 0.4) * reach * from_left[0]
    z = site.vary(low, 0.3 * low + 0.7 * top)
    skin = min((site.front_skin(x + dx, z)[1] for dx in (-60, 0, 60, 120)), default=0.0)
    knuckles = np.array([x, skin - site.vary(45, 90), z])
    turn = site.vary(-0.6, 0.6)
    along = unit(-from_left + turn * UP + 0.12 * -FRONT)
    across = unit(np.cross(FRONT, along)) * (1 if site.rng.random() < 0.5 else -1)
    palm = unit(-FRONT - ((-FRONT) @ along) * along)
    frame = np.stack([across, along, palm], 1)
    bones, flesh = _hand(frame, knuckles - 66 * along, site)
    shafts = [body for body in bones if body[1]]
    shell = CORTEX.solid([body for body, _ in bones], [_marrow(body) for body, _ in shafts])
    marrow = SPONGIOSA.solid([_marrow(body) for body, _ in shafts])
    return [
        TISSUE.solid(flesh, [body for body, _ in bones]),
        shell,
        marrow,
        TISSUE.solid([_marrow(b) for b, _ in shafts]),
    ]


def _marrow(shaft: Body) -> Body:
    wall = min(1.6, 0.36 * float(shaft.sizes_mm.min()))
    return shaft.shrunk(wall)


def _hand(frame: Array, wrist: Array, site: Site) -> tuple[list[tuple[Body, bool]], list[Body]]:
    """Bones, each with whether it is hollow, and soft tissue; axes of the frame: across, along, to the palm."""

    def at(x: float, y: float, z: float = 0.0) -> Array:
        return np.asarray(wrist + frame @ np.array([x, y, z]))

    bones: list[tuple[Body, bool]] = []
    flesh: list[Body] = []
    for finger, ((base, end, length), parts) in enumerate(zip(_METACARPALS, _PHALANGES, strict=True)):
        thumb = finger == 0
        splay = -0.75 + site.vary(-0.15, 0.15) if thumb else 0.09 * (finger - 2) + site.vary(-0.05, 0.05)
        heading = np.array([np.sin(splay), np.cos(splay), 0.0])
        start = np.array([0.55 * base, end - length, 0.0]) if thumb else np.array([0.62 * base, end - length + 6, 0.0])
        stop = start + length * heading
        radius = 4.4 if thumb else 4.2
        bones += _long_bone(at(*start), at(*stop), radius)
        flesh.append(capsule(at(*start), at(*stop), 15 if thumb else 11.5))
        bend = site.vary(0.1, 0.35)
        for n, part in enumerate(parts):
            lean = bend * (n + 1)
            first = stop + 2.4 * np.array([heading[0] * np.cos(lean), heading[1] * np.cos(lean), np.sin(lean)])
            step = np.array([heading[0] * np.cos(lean), heading[1] * np.cos(lean), np.sin(lean)])
            stop = first + part * step
            bones += _long_bone(at(*first), at(*stop), (4.0, 3.4, 2.7)[n] if not thumb else (4.3, 3.3)[n])
            flesh.append(
                capsule(
                    at(*first),
                    at(*(stop + (4 * step if n == len(parts) - 1 else 0))),
                    (9.2, 8.2, 7.4)[n] if not thumb else (10.5, 9)[n],
                )
            )
    for row, (count, y) in enumerate(((4, 8.0), (4, -3.0))):
        for n in range(count):
            x = (n - 1.5) * (9.8 - 1.2 * row)
            size = np.array([5.4, 5.8, 6.0]) * site.vary(0.85, 1.12)
            bones.append((ellipsoid(at(x, y + site.vary(-1, 1), 0), size, frame), True))
    palm = [capsule(at(-13 + 9 * n, 2), at(-14 + 9.5 * n, 58), 12.5) for n in range(4)]
    arm = [
        cylinder(at(-9, -12), at(-19, -230), 12.5, 17),
        cylinder(at(11, -12), at(17, -230), 12.5, 17),
        cylinder(at(0, 0), at(0, -230), 17, 28, flatten=0.8),
    ]
    bones += _long_bone(at(-8, -12), at(-15, -235), 6.2, 10.5) + _long_bone(at(15, -12), at(15, -235), 4.9, 6.2)
    return bones, [*flesh, *palm, *arm]


def _long_bone(start: Array, end: Array, radius: float, end_radius: float = 0.0) -> list[tuple[Body, bool]]:
    """Return a waisted shaft with broader ends."""
    along = end - start
    near = end_radius or 1.3 * radius
    shaft = 0.82 * radius
    ends = [
        (cylinder(start, start + 0.28 * along, near, shaft), True),
        (cylinder(end - 0.28 * along, end, shaft, 1.12 * radius), True),
    ]
    caps = [
        (ellipsoid(start, (near, near, 0.5 * near), axes_along(along)), True),
        (ellipsoid(end, (1.12 * radius,) * 3), True),
    ]
    return [(cylinder(start + 0.2 * along, end - 0.2 * along, shaft), True), *ends, *caps]
