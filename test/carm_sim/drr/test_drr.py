# SPDX-License-Identifier: Apache-2.0
"""The renderer against an independent one, and against what geometry says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import rotation_about
from carm_sim.drr import Renderer
from carm_sim.drr.reference import march
from carm_sim.drr.shear_warp.renderer import water_equivalent
from carm_sim.drr.shear_warp.slice_stack import cell_groups, slice_axes
from carm_sim.patient.volume import Volume

MU_WATER = 0.02
SDD_MM, SOD_MM = 1020.0, 530.0


def mu_of_hu(hu):
    return MU_WATER * water_equivalent(hu)


def affine(spacing_mm, center_mm=(0, 0, 0), shape=(1, 1, 1), rotation=None):
    """Affine of a grid around a center."""
    out = np.eye(4)
    out[:3, :3] = (np.eye(3) if rotation is None else rotation) @ np.diag(spacing_mm)
    out[:3, 3] = np.asarray(center_mm) - out[:3, :3] @ ((np.array(shape) - 1) / 2)
    return out


def view(
    primary_deg=0.0,
    secondary_deg=0.0,
    *,
    rows=320,
    columns=320,
    pitch_mm=0.9,
    roll_rad=0.0,
    principal=None,
    isocenter=(0, 0, 0),
):
    """A view in LPS: detector in front of (anterior to) the patient at 0/0, raw right is the patient's right."""
    p, s = np.radians((primary_deg, secondary_deg))
    forward = np.array([np.cos(s) * np.sin(p), -np.cos(s) * np.cos(p), np.sin(s)])
    head = np.array([0.0, 0, 1])
    down = -(head - forward * (head @ forward))
    down /= np.linalg.norm(down)
    rotation = np.stack([np.cross(down, forward), down, forward], 1) @ rotation_about("z", roll_rad)
    source = np.asarray(isocenter) - SOD_MM * forward
    return XrayView(source, rotation, Detector(rows, columns, pitch_mm), SDD_MM, SOD_MM, principal)


def body(shape, spacing_mm, seed=0):
    """A body of water with bones, cavities and texture, in air that touches every face of the grid."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    x, y, z = np.meshgrid(*axes, indexing="ij")
    size = np.array(shape) * spacing_mm / 2
    hu = np.full(shape, -1000.0)
    inside = (x / size[0]) ** 2 + (y / size[1]) ** 2 + (z / size[2]) ** 2 < 0.9
    hu[inside] = 40 + 20 * rng.standard_normal(inside.sum())
    for value in (900, -850, 1500, 300, -850, 1200):
        center = (rng.random(3) - 0.5) * size
        radius = (0.08 + 0.2 * rng.random(3)) * size
        ball = sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), center, radius, strict=True)) < 1
        hu[ball & inside] = value
    return hu.astype(np.int16)


OBLIQUE = rotation_about("x", 0.3) @ rotation_about("y", -0.2) @ rotation_about("z", 0.5)
MIRROR = np.diag([-1.0, 1, 1])
GRIDS = {
    "isotropic": ((90, 80, 100), (1.5, 1.5, 1.5), None),
    "anisotropic": ((160, 150, 50), (0.8, 0.8, 2.5), None),
    "thick first axis": ((48, 130, 120), (2.5, 1.0, 1.1), None),
    "oblique": ((120, 130, 60), (1.0, 0.9, 2.0), OBLIQUE),
    "mirrored": ((100, 90, 70), (1.2, 1.2, 2.0), MIRROR),
}
VIEWS = {
    "AP": {},
    "PA": {"primary_deg": 180.0},
    "lateral": {"primary_deg": 90.0},
    "LAO30 CRAN20": {"primary_deg": 30.0, "secondary_deg": 20.0},
    "RAO45 CAUD25": {"primary_deg": -45.0, "secondary_deg": -25.0},
    "CRAN60": {"secondary_deg": 60.0},
    "along the body": {"secondary_deg": 85.0},
    "rolled": {"primary_deg": 10.0, "roll_rad": 0.7},
    "off center": {"principal": (70.0, 240.0)},
    "wide": {"rows": 130, "columns": 400},
}


@pytest.fixture(scope="module")
def scenes():
    """Renderer, attenuation and affine of each grid."""
    out = {}
    for name, (shape, spacing, rotation) in GRIDS.items():
        volume = Volume(body(shape, spacing), affine(spacing, (5, -8, 3), shape, rotation))
        out[name] = (
            Renderer(volume, mu_of_hu),
            mu_of_hu(volume.hu.astype(float)).astype(np.float32),
            volume.transform_voxel_to_lps,
        )
    return out


@pytest.mark.parametrize("look", VIEWS)
@pytest.mark.parametrize("grid", GRIDS)
def test_line_integrals_agree_with_ray_marching(scenes, grid, look):
    renderer, mu, transform = scenes[grid]
    where = view(**VIEWS[look])
    rng = np.random.default_rng(1)
    pixels = np.stack([rng.integers(0, where.detector.columns, 700), rng.integers(0, where.detector.rows, 700)], 1)
    expected = march(mu, transform, where, pixels.astype(float), 0.25)
    got = renderer.line_integrals(where)[pixels[:, 1], pixels[:, 0]]
    assert got.shape == expected.shape
    assert expected.mean() > 0.2
    assert np.abs(got - expected).mean() <= 1e-3 * expected.mean()


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.4), (0.4, 0.4, 0.75)], ids=["thin slices", "fine in plane"])
@pytest.mark.parametrize("look", ["AP", "lateral", "LAO30 CRAN20", "CRAN60"])
def test_fine_voxels_are_averaged_where_a_scanner_blurs_more_than_that(spacing, look):
    shape = tuple(int(100 / s) + 1 for s in spacing)
    blurred = gaussian_filter(body(shape, spacing).astype(np.float32), [0.7 / s for s in spacing])
    hu = (blurred + np.random.default_rng(2).normal(0, 10, shape)).astype(np.int16)
    volume = Volume(hu, affine(spacing, (5, -8, 3), shape, None))
    renderer, where = Renderer(volume, mu_of_hu), view(**VIEWS[look])
    pixels = np.random.default_rng(1).integers(0, min(where.detector.columns, where.detector.rows), (700, 2))
    mu = mu_of_hu(hu.astype(float)).astype(np.float32)
    expected = march(mu, volume.transform_voxel_to_lps, where, pixels.astype(float), 0.2)
    got = renderer.line_integrals(where)[pixels[:, 1], pixels[:, 0]]
    assert np.abs(got - expected).mean() <= 1e-3 * expected.mean()
    axes = [slice_axes(axis, np.array(spacing)) for axis in range(3)]
    assert any(cell_groups(hu, mu_of_hu(np.arange(-32768, 32768.0)), a, np.array(spacing)) != (1, 1) for a in axes)


def test_details_as_fine_as_the_voxels_are_kept():
    shape, spacing = (60, 60, 120), (0.7, 0.7, 0.4)
    hu = np.where(np.arange(shape[2]) % 2, 1000, 0) * np.ones(shape)
    groups = cell_groups(hu.astype(np.int16), mu_of_hu(np.arange(-32768, 32768.0)), (1, 0, 2), np.array(spacing))
    assert groups == (1, 1)


@settings(max_examples=15)
@given(
    primary=st.floats(-180, 180),
    secondary=st.floats(-80, 80),
    roll=st.floats(-3.1, 3.1),
    voxel=st.integers(0, 2),
)
def test_a_voxel_integrates_to_its_mass(primary, secondary, roll, voxel):
    shape, spacing = (9, 11, 7), (2.0, 1.5, 3.0)
    hu = np.full(shape, -1000, np.int16)
    index = ((4, 5, 3), (0, 5, 3), (8, 10, 6))[voxel]  # a corner of the grid too
    hu[index] = 1000
    transform = affine(spacing, shape=shape)
    transform[:3, 3] -= transform[:3, :3] @ index + transform[:3, 3]  # the voxel sits in the isocenter
    where = view(primary, secondary, rows=160, columns=160, pitch_mm=0.15, roll_rad=roll)
    image = Renderer(Volume(hu, transform), mu_of_hu, finest_pitch=0.2).line_integrals(where)
    mass = float(image.sum(dtype=np.float64)) * where.mm_per_px_at_isocenter**2
    assert mass == pytest.approx(2 * MU_WATER * np.prod(spacing), rel=1e-2)


@settings(max_examples=15)
@given(
    primary=st.floats(-180, 180),
    secondary=st.floats(-80, 80),
    column=st.floats(20, 60),
    row=st.floats(20, 60),
)
def test_the_isocenter_falls_on_the_principal_point(primary, secondary, column, row):
    hu = np.full((9, 9, 9), -1000, np.int16)
    hu[4, 4, 4] = 1000
    where = view(
        primary,
        secondary,
        rows=80,
        columns=80,
        pitch_mm=0.4,
        principal=(column, row),
        isocenter=(30, -20, 400),
    )
    volume = Volume(hu, affine((1, 1, 1), (30, -20, 400), hu.shape))
    image = Renderer(volume, mu_of_hu).line_integrals(where).astype(float)
    rows, columns = np.indices(image.shape)
    assert (columns * image).sum() / image.sum() == pytest.approx(column, abs=0.05)
    assert (rows * image).sum() / image.sum() == pytest.approx(row, abs=0.05)


def test_two_beads_are_magnified_by_source_detector_over_source_object():
    hu = np.full((121, 121, 9), -1000, np.int16)
    depths = {30: 30.0, 90: -30.0}  # voxel index along posterior -> mm in front of the isocenter
    for index in depths:
        hu[20, index, 4] = hu[100, index, 4] = 2000
    where = view(rows=60, columns=400, pitch_mm=0.6)
    renderer = Renderer(Volume(hu, affine((1, 1, 1), shape=hu.shape)), mu_of_hu)
    for index, front in depths.items():
        only = np.full_like(hu, -1000)
        only[:, index] = hu[:, index]
        image = Renderer(Volume(only, affine((1, 1, 1), shape=hu.shape)), mu_of_hu).line_integrals(where).sum(0)
        columns = np.arange(len(image))
        halves = [image * (columns < 199.5), image * (columns > 199.5)]
        left, right = ((columns * half).sum() / half.sum() for half in halves)
        assert (right - left) * 0.6 == pytest.approx(80 * SDD_MM / (SOD_MM + front), rel=1e-3)
    assert renderer.line_integrals(where).sum() > 0


def test_a_region_is_the_same_part_of_the_whole(scenes):
    renderer = scenes["anisotropic"][0]
    where = view(25, 15)
    whole = renderer.line_integrals(where)
    part = renderer.line_integrals(where, region=(30, 60, 210, 183))
    assert part.shape == (123, 180)
    assert np.abs(part - whole[60:183, 30:210]).mean() < 1e-3 * whole.mean()


def test_threads_do_not_change_a_bit(scenes):
    volume = scenes["oblique"][0].volume
    one, three = (Renderer(volume, mu_of_hu, threads=threads).line_integrals(view(20, 10)) for threads in (1, 3))
    assert one.tobytes() == three.tobytes()


def test_integer_storage_and_material_pairs_agree_with_floats(scenes):
    renderer = scenes["isotropic"][0]
    where = view(40, -10)
    expected = renderer.line_integrals(where)
    small = Renderer(renderer.volume, mu_of_hu, storage="int16").line_integrals(where)
    pair = Renderer(
        renderer.volume, [lambda hu: water_equivalent(np.minimum(hu, 0)), lambda hu: np.maximum(hu, 0) / 1000]
    )
    mixed = pair.line_integrals(where, weights=(MU_WATER, MU_WATER))
    parts = pair.material_integrals(where)
    assert np.abs(small - expected).max() < 2e-4 * expected.max()
    assert np.abs(mixed - expected).max() < 2e-4 * expected.max()
    np.testing.assert_allclose(MU_WATER * parts.sum(0), mixed, rtol=1e-4, atol=1e-5)


def test_a_new_mapping_acts_as_a_new_renderer(scenes):
    volume = scenes["isotropic"][0].volume
    renderer = Renderer(volume, mu_of_hu)
    renderer.line_integrals(view())
    table = 3 * mu_of_hu(np.arange(-32768, 32768))
    renderer.remap(np.maximum(table, 0))
    fresh = Renderer(volume, lambda hu: np.maximum(3 * mu_of_hu(hu), 0))
    assert renderer.line_integrals(view()).tobytes() == fresh.line_integrals(view()).tobytes()


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_any_memory_order_gives_the_same_image(scenes, order):
    volume = scenes["anisotropic"][0].volume
    hu = np.repeat(volume.hu, 2, 1)[:, ::2] if order == "strided" else np.array(volume.hu, order=order)
    hu.setflags(write=False)
    image = Renderer(Volume(hu, volume.transform_voxel_to_lps), mu_of_hu).line_integrals(view(30))
    assert image.tobytes() == scenes["anisotropic"][0].line_integrals(view(30)).tobytes()


def test_hit_fraction_counts_the_rays_that_meet_the_grid():
    hu = np.zeros((100, 100, 100), np.int16)
    renderer = Renderer(Volume(hu, affine((4, 4, 4), shape=hu.shape)), mu_of_hu)
    half = 200.0 * SOD_MM / (SOD_MM - 200)  # seen at the face near the source
    assert renderer.hit_fraction(view()) == 1.0
    assert renderer.hit_fraction(view(isocenter=(half + 400, 0, 0))) == 0.0
    assert renderer.hit_fraction(view(isocenter=(0, 0, 200))) == pytest.approx(0.5, abs=0.1)
    missed = renderer.line_integrals(view(isocenter=(half + 400, 0, 0)))
    assert not missed.any()


def test_bad_input_is_refused_with_its_values(scenes):
    renderer = scenes["isotropic"][0]
    with pytest.raises(ConfigurationError, match="outside the detector of 320 x 320"):
        renderer.line_integrals(view(), region=(0, 0, 321, 10))
    with pytest.raises(ConfigurationError, match="empty"):
        renderer.line_integrals(view(), region=(5, 5, 5, 10))
    with pytest.raises(ConfigurationError, match="1 materials"):
        renderer.line_integrals(view(), weights=(1.0, 2.0))
    with pytest.raises(ConfigurationError, match="out must be"):
        renderer.line_integrals(view(), out=np.empty((3, 3), np.float32))
    with pytest.raises(ConfigurationError, match="not negative"):
        Renderer(renderer.volume, lambda hu: hu)
    with pytest.raises(ConfigurationError, match="65536"):
        Renderer(renderer.volume, np.ones(12))
    with pytest.raises(ConfigurationError, match="too wide"):
        renderer.line_integrals(view(rows=9, columns=9, pitch_mm=1e9))
