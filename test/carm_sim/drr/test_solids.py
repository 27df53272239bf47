# SPDX-License-Identifier: Apache-2.0
"""Analytic solids: closed forms, unions, regions, threads, and the same shapes in voxels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import RigidTransform, rotation_about
from carm_sim.drr import Renderer
from carm_sim.drr.scene import Scene
from carm_sim.drr.solids import (
    Material,
    Solid,
    SolidSet,
    axes_along,
    box,
    capsule,
    cylinder,
    ellipsoid,
    sphere,
    tube,
)
from carm_sim.patient.volume import Volume

DETECTOR = Detector(61, 81, 3.0)
AXES = axes_along((0.3, -0.5, 0.8))


def view_from(primary=0.0, secondary=0.0, detector=DETECTOR, shift=(0.0, 0.0, 0.0)):
    """A C-arm view of the origin of LPS: forward is anterior at 0/0."""
    forward = np.array([np.sin(primary) * np.cos(secondary), -np.cos(primary) * np.cos(secondary), np.sin(secondary)])
    down = np.array([0.0, 0, -1]) + forward * forward[2]
    down /= np.linalg.norm(down)
    rotation = np.stack([np.cross(down, forward), down, forward], 1)
    return XrayView(np.asarray(shift) - 530 * forward, rotation, detector, 1020.0, 530.0)


def image(solids, view, material=0, region=None, **options):
    left, top, right, bottom = region or (0, 0, view.detector.columns, view.detector.rows)
    out = np.zeros((3, bottom - top, right - left), np.float32)
    SolidSet(tuple(solids), **options).material_integrals(view, region, out)
    for other in set(range(3)) - {material}:
        assert not out[other].any()
    return out[material]


def of(bodies, **options):
    return [Solid.of(bodies, Material.WATER, **options)]


def pixel_points(view):
    columns, rows = np.meshgrid(np.arange(view.detector.columns), np.arange(view.detector.rows))
    pitch = view.detector.pitch_mm
    return (
        view.detector_center_mm
        + (columns - view.center_px[0])[..., None] * pitch * view.right
        + (rows - view.center_px[1])[..., None] * pitch * view.down
    )


def sampled(inside, view, step_mm=0.05):
    """Path lengths by stepping along each ray within 120 mm of the isocenter."""
    ends = pixel_points(view)
    length = np.linalg.norm(ends - view.source_mm, axis=-1)
    unit = (ends - view.source_mm) / length[..., None]
    total = np.zeros(length.shape)
    for t in np.arange(410, 650, step_mm):
        total += inside(view.source_mm + t * unit) * step_mm
    return total


def test_sphere_has_its_chords():
    view, center, radius = view_from(0.4, -0.2), np.array([12.0, -7, 5]), 30.0
    rays = pixel_points(view) - view.source_mm
    rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
    offset = center - view.source_mm
    distance2 = offset @ offset - (rays @ offset) ** 2
    expected = 2 * np.sqrt(np.maximum(radius**2 - distance2, 0))
    np.testing.assert_allclose(image(of(sphere(center, radius)), view), expected, atol=2e-4)


def test_box_across_its_diagonal():
    half = np.array([20.0, 20, 20])
    view = view_from(np.pi / 4, np.arctan(1 / np.sqrt(2)))
    middle = image(of(box((0, 0, 0), half)), view)[30, 40]
    assert middle == pytest.approx(2 * np.linalg.norm(half), abs=1e-3)
    assert image(of(box((0, 0, 0), half)), view_from())[30, 40] == pytest.approx(40, abs=1e-4)


@pytest.mark.parametrize("tilt", [0.0, 0.3, 0.8])
def test_tilted_cylinder(tilt):
    direction = np.array([np.sin(tilt), 0, np.cos(tilt)])
    turned = np.array([0.0, np.sin(tilt), np.cos(tilt)])
    across = image(of(cylinder(-80 * direction, 80 * direction, 10)), view_from())
    along = image(of(cylinder(-80 * turned, 80 * turned, 10)), view_from())
    assert across[30, 40] == pytest.approx(20, abs=1e-3)
    assert along[30, 40] == pytest.approx(20 / np.cos(tilt), abs=1e-3)


def test_end_on_cylinder_is_as_long_as_it_is():
    assert image(of(cylinder((0, -35, 0), (0, 35, 0), 8)), view_from())[30, 40] == pytest.approx(70, abs=1e-3)


SHAPES = {
    "frustum": (
        cylinder(-30 * AXES[:, 2], 30 * AXES[:, 2], 25, 5),
        lambda p: (np.abs(p[2]) < 30) & (np.hypot(p[0], p[1]) < 15 - p[2] / 3),
    ),
    "flat cylinder": (
        cylinder(-30 * AXES[:, 2], 30 * AXES[:, 2], 25, flatten=0.4),
        lambda p: (np.abs(p[2]) < 30) & (np.hypot(p[0], p[1] / 0.4) < 25),
    ),
    "capsule": (
        capsule(-30 * AXES[:, 2], 30 * AXES[:, 2], 12),
        lambda p: np.sqrt(p[0] ** 2 + p[1] ** 2 + np.maximum(np.abs(p[2]) - 30, 0) ** 2) < 12,
    ),
    "ellipsoid": (
        ellipsoid((0, 0, 0), (30, 12, 20), AXES),
        lambda p: (p[0] / 30) ** 2 + (p[1] / 12) ** 2 + (p[2] / 20) ** 2 < 1,
    ),
    "box": (
        box((0, 0, 0), (30, 12, 20), AXES),
        lambda p: (np.abs(p[0]) < 30) & (np.abs(p[1]) < 12) & (np.abs(p[2]) < 20),
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_against_steps_along_the_rays(name):
    body, inside = SHAPES[name]
    view = view_from(0.5, 0.3, Detector(16, 21, 12.0))
    expected = sampled(lambda points: inside(np.moveaxis(points @ AXES, -1, 0)), view)
    np.testing.assert_allclose(image(of(body), view), expected, atol=0.12)
    assert expected.max() > 15


def test_joints_of_a_tube_count_once():
    view = view_from()
    straight = [(-40, 0, 0), (40, 0, 0)]
    divided = np.stack([np.linspace(-40, 40, 33), np.zeros(33), np.zeros(33)], 1)
    np.testing.assert_allclose(image(of(tube(divided, 6)), view), image(of(capsule(*straight, 6)), view), atol=1e-4)
    bent = tube([(-40, 0, 0), (0, 0, 0), (0, -40, 0)], 6)
    points = of(bent)
    assert image(points, view)[30, 40] == pytest.approx(46 + 6, abs=1e-3)


def test_pipe_has_two_walls_and_an_open_inside():
    pipe = [Solid.shell(tube([(0, 0, -60), (0, 0, 0), (0, 0, 60)], 10), 2, Material.WATER)]
    profile = image(pipe, view_from(detector=Detector(3, 801, 0.1)))[1]
    assert profile[400] == pytest.approx(4, abs=1e-3)
    assert profile.max() == pytest.approx(2 * np.sqrt(100 - 64), rel=0.02)


def test_open_cylinder_and_shells():
    ring = [Solid.shell(cylinder((0, -5, 0), (0, 5, 0), 10), 2, Material.WATER, ends=False)]
    closed = [Solid.shell(cylinder((0, -5, 0), (0, 5, 0), 10), 2, Material.WATER)]
    assert image(ring, view_from())[30, 40] == 0
    assert image(closed, view_from())[30, 40] == pytest.approx(4, abs=1e-3)
    skull = [Solid.shell(ellipsoid((0, 0, 0), (60, 80, 70)), 6, Material.WATER)]
    assert image(skull, view_from())[30, 40] == pytest.approx(12, abs=1e-3)


def test_holes_are_taken_out_once():
    bodies = sphere((0, 0, 0), 30)
    holes = (sphere((0, -5, 0), 10), sphere((0, 5, 0), 10), sphere((0, 100, 0), 10))
    assert image(of(bodies, holes=holes), view_from())[30, 40] == pytest.approx(60 - 30, abs=1e-3)


def test_materials_and_factors_add_up():
    steel = Solid.of(sphere((0, 0, 0), 5), Material.METAL, 2.7)
    displaced = Solid.of(sphere((0, 0, 0), 5), Material.WATER, -1.0)
    out = np.ones((3, 61, 81), np.float32)
    SolidSet((steel, displaced)).material_integrals(view_from(), None, out)
    assert out[2, 30, 40] == pytest.approx(1 + 27, abs=1e-3)
    assert out[0, 30, 40] == pytest.approx(1 - 10, abs=1e-3)
    assert (out[1] == 1).all()
    assert out[2, 0, 0] == 1


def clutter():
    rng = np.random.default_rng(3)
    points = np.cumsum(rng.normal(0, 6, (60, 3)), 0)
    return (
        Solid.shell(tube(points, 2.5), 0.8, Material.WATER, 1.1),
        Solid.of(box((20, 10, -15), (15, 8, 4), AXES), Material.WATER),
        Solid.of(cylinder((-60, 0, 10), (-30, 20, 30), 9, 3), Material.WATER, 2.0),
    )


@pytest.mark.parametrize("samples", [1, 2])
def test_region_is_a_crop_and_threads_do_not_matter(samples):
    view = view_from(0.7, 0.2)
    whole = image(clutter(), view, samples=samples)
    part = image(clutter(), view, region=(17, 9, 60, 44), samples=samples)
    np.testing.assert_array_equal(part, whole[9:44, 17:60])
    for threads in (2, 5):
        np.testing.assert_array_equal(image(clutter(), view, threads=threads, samples=samples), whole)
    assert whole.max() > 10


@pytest.mark.parametrize(("primary", "secondary"), [(0.0, 0.0), (0.7, 0.3), (np.pi / 2, 0.0)])
def test_a_box_alone_is_the_same_as_one_among_others(primary, secondary):
    """The short way that a box takes alone and the way of all bodies give the same bytes."""
    plate = box((10, -5, 3), (90, 40, 6), AXES)
    view = view_from(primary, secondary)
    alone = image(of(plate), view)
    hidden = box((10, -5, 3), (9, 4, 0.6), AXES)
    np.testing.assert_array_equal(image(of([plate, hidden, hidden]), view), alone)
    assert alone.max() > 12
    part = image(of(plate), view, region=(17, 9, 60, 44))
    np.testing.assert_array_equal(part, alone[9:44, 17:60])


def test_a_plate_seen_edge_on_along_its_faces():
    """Rays of the middle column run within the plane of symmetry, parallel to faces."""
    profile = image(of(box((0, 0, 0), (6, 50, 50))), view_from())
    assert profile[30, 40] == pytest.approx(100, abs=1e-3)
    assert np.isfinite(profile).all()


def test_more_samples_keep_the_mean_of_what_is_thin():
    wire = of(tube([(-70, 0, -31), (70, 10, 33)], 0.4))
    fine = view_from(detector=Detector(61 * 12, 81 * 12, 0.25))
    expected = image(wire, fine).mean()
    assert image(wire, view_from(), samples=6).mean() == pytest.approx(expected, rel=0.01)


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(*[st.floats(-60, 60)] * 3),
    st.tuples(*[st.floats(-60, 60)] * 3),
    st.floats(0.5, 25),
    st.floats(-3.1, 3.1),
    st.floats(-1.4, 1.4),
)
def test_boxes_hold_what_is_seen(start, end, radius, primary, secondary):
    """A moved scene under a moved view looks the same, though every bounding box differs."""
    end = np.asarray(end) + 1e-3
    bodies = [capsule(start, end, radius), cylinder(start, end, radius, radius / 2), box(end, (radius, 5, 2), AXES)]
    move = RigidTransform(rotation_about("x", primary) @ rotation_about("z", 0.4), np.array([3.0, -4, 5]))
    solids, view = SolidSet(tuple(of(bodies))), view_from(primary, secondary, Detector(31, 41, 6.0))
    here, there = (np.zeros((3, 31, 41), np.float32) for _ in range(2))
    solids.material_integrals(view, None, here)
    solids.transformed(move).material_integrals(view.transformed(move), None, there)
    edge = np.abs(here - there) > 0.02
    assert edge.mean() < 0.01


def test_voxels_of_the_same_shape():
    shape, spacing = (80, 80, 80), 1.5
    affine = np.diag([spacing] * 3 + [1.0])
    affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing
    grid = np.stack(np.meshgrid(*[np.arange(n) * spacing + affine[0, 3] for n in shape], indexing="ij"), -1)
    local = grid @ AXES
    solid = (np.linalg.norm(local / [30, 18, 24], axis=-1) < 1) | (np.abs(local - [0, 0, 30]) < [15, 10, 20]).all(-1)
    volume = Volume(np.where(solid, 0, -1000).astype(np.int16), affine)
    view = view_from(0.4, 0.2)
    voxels = Renderer(volume, threads=1).line_integrals(view)
    exact = image(of([ellipsoid((0, 0, 0), (30, 18, 24), AXES), box(30 * AXES[:, 2], (15, 10, 20), AXES)]), view)
    assert np.abs(voxels - exact).mean() < 0.02 * exact[exact > 0].mean()
    assert voxels.sum() == pytest.approx(exact.sum(), rel=0.01)


def test_what_is_behind_the_source_or_the_detector_is_not_seen():
    view = view_from()
    assert not image(of([sphere((0, 560, 0), 20), sphere((0, -520, 0), 20)]), view).any()
    around = image(of(sphere(view.source_mm, 50)), view)
    np.testing.assert_allclose(around, 50, atol=1e-3)


def test_scene_takes_a_set():
    view = view_from()
    paths = Scene([SolidSet(clutter())]).material_integrals(view)
    np.testing.assert_array_equal(paths[0], image(clutter(), view))
    empty = np.zeros((3, 61, 81), np.float32)
    SolidSet().material_integrals(view, None, empty)
    assert not empty.any()
    assert len(SolidSet(clutter()) + SolidSet(clutter())) == 6


def test_bad_solids_are_refused():
    with pytest.raises(ConfigurationError, match="finite and positive"):
        sphere((0, 0, 0), 0)
    with pytest.raises(ConfigurationError, match="two points"):
        tube([(0, 0, 0)], 1)
    with pytest.raises(ConfigurationError, match="needs a body"):
        Solid.of([], Material.WATER)
    with pytest.raises(ConfigurationError, match="finite and positive"):
        Solid.shell(sphere((0, 0, 0), 3), 4, Material.WATER)
    with pytest.raises(ConfigurationError, match="float32"):
        SolidSet().material_integrals(view_from(), None, np.zeros((2, 61, 81), np.float32))
    with pytest.raises(ConfigurationError, match="samples"):
        SolidSet(samples=0)
