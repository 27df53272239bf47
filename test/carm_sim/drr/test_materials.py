# SPDX-License-Identifier: Apache-2.0
"""Several materials in one pass, what a frame allocates and computes, and reads by permutation."""

from __future__ import annotations

import numba as nb
import numpy as np
import pytest

from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import rotation_about
from carm_sim.drr import Renderer
from carm_sim.drr.shear_warp.simd import LANES, SLACK, load_ints, store, take
from carm_sim.patient.volume import Volume


def soft(hu):
    return np.where(hu < -950, 0.0, np.minimum(1 + hu / 1000, 1.0))


def bone(hu):
    return np.where(hu < 2500, np.maximum(hu, 0) / 1000, 0.0)


def metal(hu):
    return np.where(hu < 2500, 0.0, 1.0)


MATERIALS = [soft, bone, metal]


def view(roll_rad=0.0, rows=200, columns=240, secondary_rad=0.0, pitch_mm=0.8):
    rotation = np.array([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]]).T
    rotation = rotation_about("x", secondary_rad) @ rotation @ rotation_about("z", roll_rad)
    return XrayView(-530 * rotation[:, 2], rotation, Detector(rows, columns, pitch_mm), 1020.0, 530.0)


@pytest.fixture(scope="module")
def body():
    """Water, a shell of bone, and a small bead of metal."""
    x, y, z = np.meshgrid(*[np.linspace(-1, 1, n) for n in (90, 80, 60)], indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    hu = np.where(radius < 0.9, 20, -1000)
    hu[(radius > 0.5) & (radius < 0.6)] = 900
    hu[60:64, 40:45, 30:33] = 3000
    affine = np.diag([1.2, 1.3, 2.0, 1.0])
    affine[:3, 3] = -(np.array(hu.shape) - 1) / 2 * (1.2, 1.3, 2.0)
    return Volume(hu.astype(np.int16), affine)


@pytest.mark.parametrize("roll", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("storage", ["int16", "float32"])
def test_all_materials_at_once_are_each_alone(body, roll, storage):
    where = view(roll, secondary_rad=0.3)
    together = Renderer(body, MATERIALS, threads=1, storage=storage).material_integrals(where)
    for image, mapping in zip(together, MATERIALS, strict=True):
        alone = Renderer(body, mapping, threads=1, storage=storage).line_integrals(where)
        np.testing.assert_allclose(image, alone, rtol=1e-5, atol=1e-4)
    assert together[2].max() == pytest.approx(5 * 1.3, rel=0.3)
    assert (together[2] > 0.01).mean() < 0.05


def test_a_material_that_does_not_occur_is_nothing_and_takes_no_memory(body):
    plain = Volume(np.minimum(body.hu, 900), body.transform_voxel_to_lps)
    renderer = Renderer(plain, MATERIALS, threads=1)
    assert not renderer.material_integrals(view())[2].any()
    assert sorted(renderer._stacks[1]) == [0, 1]


def test_a_material_takes_the_memory_of_the_part_where_it_occurs(body):
    renderer = Renderer(body, MATERIALS, threads=1)
    renderer.prepare()
    sizes = [[stacks[m].flat.nbytes for m in range(3)] for stacks in renderer._stacks.values()]
    assert all(size[2] < 0.02 * size[0] for size in sizes)
    held = body.hu.nbytes + sum(map(sum, sizes))
    assert held < 3 * 4 * body.hu.size


def test_adding_adds(body):
    renderer = Renderer(body, MATERIALS, threads=1)
    once = renderer.material_integrals(view(0.2))
    twice = once.copy()
    assert renderer.material_integrals(view(0.2), out=twice, add=True) is twice
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-6)


def test_frames_reuse_the_same_memory(body):
    renderer = Renderer(body, MATERIALS, threads=1)
    out = np.empty((3, 200, 240), np.float32)
    renderer.material_integrals(view(), out=out)
    kept = {name: array.ctypes.data for name, array in renderer._buffers._shared.items()}
    for _ in range(3):
        assert renderer.material_integrals(view(), out=out) is out
    assert kept == {name: array.ctypes.data for name, array in renderer._buffers._shared.items()}


def test_a_collimated_field_costs_its_share(body):
    whole, part = (Renderer(body, MATERIALS, threads=1) for _ in range(2))
    whole.material_integrals(view())
    part.material_integrals(view(), region=(90, 70, 150, 130))
    sizes = [r._buffers._shared["images"].size for r in (whole, part)]
    assert sizes[1] < 0.25 * sizes[0]


@pytest.mark.parametrize("seed", range(20))
def test_a_detector_turned_by_a_right_angle_sees_the_same_rays(body, seed):
    rng = np.random.default_rng(seed)
    roll, tilt = rng.uniform(-3, 3), rng.uniform(-1.2, 1.2)
    renderer = Renderer(body, MATERIALS[:2], threads=1)
    quarter = renderer.material_integrals(view(roll, 200, 200, tilt))
    turned = renderer.material_integrals(view(roll + np.pi / 2, 200, 200, tilt))
    back = np.rot90(turned, 1, (1, 2))
    assert min(np.abs(back - quarter).mean(), np.abs(np.rot90(turned, -1, (1, 2)) - quarter).mean()) < 1e-3 * max(
        quarter.mean(), 1.0
    )


@nb.njit
def _taken(source, start, index, span, out):
    store(out, 0, take(source, start, load_ints(index, 0), span))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
@pytest.mark.parametrize("reach", [1, LANES - 1, LANES, 2 * LANES - 1, 2 * LANES, 5 * LANES])
def test_taking_neighbors_is_indexing(dtype, reach):
    rng = np.random.default_rng(reach)
    source = rng.integers(0, 60_000, 200 + SLACK).astype(dtype)
    index = np.sort(rng.integers(0, reach + 1, LANES)).astype(np.int32)
    out = np.empty(LANES, np.float32)
    _taken(source, 17, index, int(index[-1]), out)
    np.testing.assert_array_equal(out, source[17 + index].astype(np.float32))
