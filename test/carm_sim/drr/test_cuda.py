# SPDX-License-Identifier: Apache-2.0
"""nanodrr behind the renderer's seam: its geometry on the CPU, its images on a GPU."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import rotation_about
from carm_sim.drr import Renderer
from carm_sim.drr.cuda import NanodrrRenderer, camera, cuda_available, make_renderer
from carm_sim.patient.volume import Volume

needs_nanodrr = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("nanodrr", "torchio", "roma", "jaxtyping")),
    reason="nanodrr is not installed: pip install '.[gpu]'",
)


def view(principal=None, rows=24, columns=32, pitch_mm=5.0):
    rotation = np.array([[1.0, 0, 0], [0, 0, -1], [0, -1, 0]]).T @ rotation_about("z", 0.3) @ rotation_about("x", 0.2)
    rotation[:, 0] *= np.sign(np.linalg.det(rotation))
    return XrayView(-530 * rotation[:, 2], rotation, Detector(rows, columns, pitch_mm), 1020.0, 530.0, principal)


def volume():
    rng = np.random.default_rng(0)
    hu = np.full((30, 26, 22), -1000, np.int16)
    hu[3:-3, 3:-3, 3:-3] = np.kron(rng.integers(-100, 900, (6, 5, 4)), np.ones((4, 4, 4)))
    affine = np.diag([1.5, 2.0, 2.5, 1.0])
    affine[:3, 3] = -(np.array(hu.shape) - 1) / 2 * (1.5, 2.0, 2.5)
    return Volume(hu, affine)


def mappings():
    return [lambda hu: np.maximum(1 + np.minimum(hu, 0) / 1000, 0), lambda hu: np.maximum(hu, 0) / 1000]


def test_the_camera_sees_points_where_the_view_does():
    where = view((10.0, 15.0))
    inverse_k, transform = camera(where, (4, 2, 30, 20))
    point = np.array([12.0, -30, 25])
    local = np.linalg.inv(transform) @ [*point, 1]
    pixel = np.linalg.inv(inverse_k) @ (local[:3] / local[2])
    np.testing.assert_allclose(pixel[:2] - 0.5 + (4, 2), where.pixel_raw(point), atol=1e-9)


@needs_nanodrr
@pytest.mark.parametrize("principal", [None, (10.0, 15.0)])
@pytest.mark.parametrize("region", [None, (4, 3, 30, 20)])
def test_both_renderers_agree(principal, region):
    where = view(principal)
    expected = Renderer(volume(), mappings(), threads=1).material_integrals(where, region)
    got = NanodrrRenderer(volume(), mappings(), device="cpu").material_integrals(where, region)
    assert got.shape == expected.shape
    assert expected.mean() > 1
    assert np.abs(got - expected).mean() < 5e-3 * expected.mean()


@needs_nanodrr
@pytest.mark.skipif(not cuda_available(), reason="needs nanodrr and an NVIDIA GPU")
def test_the_gpu_is_chosen_and_agrees_with_the_cpu():
    where = view(rows=256, columns=256, pitch_mm=0.5)
    renderer = make_renderer(volume(), mappings())
    assert isinstance(renderer, NanodrrRenderer)
    expected = Renderer(volume(), mappings()).material_integrals(where)
    assert np.abs(renderer.material_integrals(where) - expected).mean() < 5e-3 * expected.mean()


def test_without_a_gpu_the_cpu_renders():
    if not cuda_available():
        assert type(make_renderer(volume())) is Renderer
