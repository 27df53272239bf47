# SPDX-License-Identifier: Apache-2.0
"""Labels of generated bodies, and what the rules for labels make of them."""

import numpy as np
import pytest

from carm_core.anatomy.axes import angle_deg
from carm_core.anatomy.from_landmarks import ID
from carm_sim.patient.bone_axes import vertebra_axes
from carm_sim.patient.segmentation import Segmentation, promontory
from carm_sim.patient.volume import Volume
from carm_sim.phantom import sample_extra_landmarks
from carm_sim.phantom.body import plan_body
from carm_sim.phantom.labels import phantom_labels, structure_of
from carm_sim.phantom.skeleton.posture import pose_skeleton
from carm_sim.phantom.skeleton.skeleton import skeleton_model

SEED, VOXEL_MM = 5, 2.0


@pytest.fixture(scope="module")
def labels() -> Segmentation:
    return phantom_labels(SEED, spacing_mm=VOXEL_MM)


@pytest.mark.parametrize("name", ["T6", "L2"])
def test_a_vertebras_left_is_that_of_its_mesh(labels: Segmentation, name: str) -> None:
    bones = pose_skeleton(plan_body(SEED, "standard", None)).bones
    mesh = next(one for one in bones if structure_of(one) == f"vertebrae_{name}")
    neutral = skeleton_model().mesh_points(mesh)
    affine = np.linalg.lstsq(np.c_[neutral, np.ones(len(neutral))], bones[mesh].vertices, rcond=None)[0]
    left = affine[0] / np.linalg.norm(affine[0])  # where the symmetric model's left has come to
    points = labels.lps(labels.mask(f"vertebrae_{name}").voxels.astype(float))
    center = sample_extra_landmarks(SEED)[ID[name]]
    axes = vertebra_axes(name, points, center, np.array([0.0, 0.0, 1.0]), VOXEL_MM)
    across = left - (left @ axes.head) * axes.head
    assert angle_deg(axes.left, across / np.linalg.norm(across)) < 3.0


def test_the_promontory_is_found_in_the_labels(labels: Segmentation) -> None:
    nothing = Volume(np.full((2, 2, 2), -1000, np.int16), np.eye(4))
    truth = sample_extra_landmarks(SEED)[ID["Sacral promontory"]]
    found = promontory(labels, nothing)
    assert np.linalg.norm((found - truth)[1:]) < 8.0
    assert abs(found[0] - truth[0]) < 15.0  # the model's own landmark is a vertex of a coarse mesh, beside the midline
