# SPDX-License-Identifier: Apache-2.0
"""Several volumes and solids in one scene."""

from __future__ import annotations

import numpy as np
import pytest

from carm_core.errors import ConfigurationError
from carm_core.imaging.projection import Detector, XrayView
from carm_sim.drr import Renderer
from carm_sim.drr.scene import MATERIALS, Scene
from carm_sim.patient.volume import Volume

DETECTOR = Detector(48, 64, 2.0)
WEIGHTS = (0.02, 0.05, 0.2)


class Plate:
    """A solid that covers a part of the detector with one thickness of metal."""

    def material_integrals(self, view_lps, region, out):
        left, top, _, _ = region
        out[2, max(0, 10 - top) :, max(0, 20 - left) :] += 3.0


def block(center_mm, hu=0, size=20):
    """A cube of one HU in air; spacing 2 mm."""
    voxels = np.full((size + 4,) * 3, -1000, np.int16)
    voxels[2:-2, 2:-2, 2:-2] = hu
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = np.asarray(center_mm) - (size + 3)
    return Volume(voxels, affine)


def water(hu):
    return np.where(hu < -950, 0.0, np.minimum(1 + hu / 1000, 1.0))


def bone(hu):
    return np.maximum(hu, 0) / 1000


@pytest.fixture(scope="module")
def view():
    forward = np.array([0.0, -1, 0])
    down = np.array([0.0, 0, -1])
    rotation = np.stack([np.cross(down, forward), down, forward], 1)
    return XrayView(-530 * forward, rotation, DETECTOR, 1020.0, 530.0)


@pytest.fixture(scope="module")
def renderers():
    return Renderer(block((0, 0, 0), 500), [water, bone]), Renderer(block((15, 40, -10)), water)


def test_parts_add_up_by_material(view, renderers):
    patient, cushion = renderers
    paths = Scene([patient, Plate(), cushion]).material_integrals(view)
    first, second = patient.material_integrals(view), cushion.material_integrals(view)
    assert paths.shape == (len(MATERIALS), 48, 64)
    np.testing.assert_allclose(paths[0], first[0] + second[0], atol=1e-3)
    np.testing.assert_array_equal(paths[1], first[1])
    np.testing.assert_array_equal(paths[2, 10:, 20:], 3.0)
    assert not paths[2, :10].any()
    assert first[1].max() == pytest.approx(0.5 * 40, rel=0.05)


def test_line_integrals_weigh_the_materials(view, renderers):
    region = (5, 3, 60, 40)
    scene = Scene([*renderers, Plate()])
    paths = scene.material_integrals(view, region)
    expected = np.tensordot(WEIGHTS, paths, 1)
    np.testing.assert_allclose(scene.line_integrals(view, region, WEIGHTS), expected, rtol=1e-5, atol=1e-6)
    alone = Scene([renderers[0]])
    expected = np.tensordot(WEIGHTS, alone.material_integrals(view, region), 1)
    np.testing.assert_allclose(alone.line_integrals(view, region, WEIGHTS), expected, rtol=1e-3, atol=1e-4)


def test_a_region_is_the_same_part_of_the_whole(view, renderers):
    scene = Scene([*renderers, Plate()])
    whole = scene.material_integrals(view)
    part = scene.material_integrals(view, (8, 6, 50, 44))
    assert np.abs(part - whole[:, 6:44, 8:50]).mean() < 5e-3 * whole.mean()


def test_results_go_where_they_are_wanted(view, renderers):
    scene = Scene([*renderers, Plate()])
    paths, integrals = np.full((3, 48, 64), np.nan, np.float32), np.full((48, 64), np.nan, np.float32)
    assert scene.material_integrals(view, out=paths) is paths
    assert scene.line_integrals(view, None, WEIGHTS, out=integrals) is integrals
    np.testing.assert_array_equal(paths, scene.material_integrals(view))
    np.testing.assert_array_equal(integrals, scene.line_integrals(view, None, WEIGHTS))


def test_solids_alone_are_a_scene(view):
    scene = Scene([Plate()])
    assert scene.material_integrals(view)[2].max() == 3.0
    assert scene.hit_fraction(view) == 1.0


def test_hits_count_the_patient_only(view, renderers):
    assert Scene([renderers[0], Plate()]).hit_fraction(view) == renderers[0].hit_fraction(view) < 1


def test_bad_input_is_refused(view, renderers):
    with pytest.raises(ConfigurationError, match="at least one"):
        Scene([])
    scene = Scene(renderers)
    with pytest.raises(ConfigurationError, match="3 materials, got 2"):
        scene.line_integrals(view, None, (1.0, 2.0))
    with pytest.raises(ConfigurationError, match="outside the detector"):
        scene.material_integrals(view, (0, 0, 65, 10))
    with pytest.raises(ConfigurationError, match="out must be"):
        scene.material_integrals(view, out=np.empty((2, 48, 64), np.float32))
