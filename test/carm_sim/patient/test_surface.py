# SPDX-License-Identifier: Apache-2.0
"""The surface encloses the body, and little more."""

import numpy as np
import pytest

from carm_core.errors import PatientError
from carm_sim.patient.patient import make_patient
from carm_sim.patient.surface import patient_surface
from carm_sim.patient.volume import AIR_HU, Volume


def body(table: bool = False) -> Volume:
    """An elliptic body with lungs and an arm beside it, 300 mm long; on request on a scanner's table."""
    x, y, _ = np.meshgrid(np.arange(-200, 200, 4), np.arange(-140, 180, 4), np.arange(0, 300, 5), indexing="ij")
    hu = np.full(x.shape, AIR_HU, np.int16)
    hu[(x / 140.0) ** 2 + (y / 100.0) ** 2 < 1] = 40
    hu[((np.abs(x) - 60) / 40.0) ** 2 + (y / 60.0) ** 2 < 1] = -850
    hu[((x - 175) / 20.0) ** 2 + (y / 25.0) ** 2 < 1] = 30
    if table:
        hu[(y > 120) & (y < 150)] = 0
    affine = np.diag([4.0, 4.0, 5.0, 1.0])
    affine[:3, 3] = (-200, -140, 0)
    return Volume(hu, affine)


@pytest.mark.parametrize("mirrored", [False, True])
def test_surface_encloses_the_body_closely_and_faces_outwards(mirrored: bool) -> None:
    volume = body()
    if mirrored:
        flip = volume.transform_voxel_to_lps @ np.array(
            [[-1.0, 0, 0, volume.shape[0] - 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
        )
        volume = Volume(np.ascontiguousarray(volume.hu[::-1]), flip)
    patient = make_patient("body", volume, None, "test")
    mesh = patient_surface(patient)
    index = np.argwhere(volume.hu > 0)
    points = patient.transform_lps_to_table.apply(volume.lps_from_voxel(index.astype(float))) / 1000.0
    low, high = mesh.vertices_m.min(axis=0), mesh.vertices_m.max(axis=0)
    assert (low <= points.min(axis=0) + 0.001).all()
    assert (high >= points.max(axis=0) - 0.001).all()
    assert (low >= points.min(axis=0) - 0.025).all()
    assert (high <= points.max(axis=0) + 0.025).all()
    a, b, c = mesh.vertices_m[mesh.triangles].transpose(1, 0, 2)
    volume_m3 = float((np.cross(a, b) * c).sum() / 6)
    solid_m3 = 0.3 * np.pi * (0.14 * 0.10 + 0.02 * 0.025)
    assert solid_m3 < volume_m3 < 1.6 * solid_m3


def test_every_edge_is_shared_so_that_the_surface_is_closed() -> None:
    mesh = patient_surface(make_patient("body", body(), None, "test"))
    edges = np.concatenate([mesh.triangles[:, [0, 1]], mesh.triangles[:, [1, 2]], mesh.triangles[:, [2, 0]]])
    forwards = {}
    for a, b in edges.tolist():
        forwards[a, b] = forwards.get((a, b), 0) + 1
    assert all(forwards.get((b, a), 0) == count for (a, b), count in forwards.items())


def test_scanner_table_is_no_part_of_the_body() -> None:
    mesh = patient_surface(make_patient("body", body(table=True), None, "test"))
    assert mesh.vertices_m[:, 2].min() > -0.02
    assert mesh.vertices_m[:, 1].max() - mesh.vertices_m[:, 1].min() < 0.37


def test_nothing_but_air_is_refused() -> None:
    hu = np.full((20, 20, 20), AIR_HU, np.int16)
    with pytest.raises(PatientError):
        patient_surface(make_patient("air", Volume(hu, np.eye(4)), None, "test"))
