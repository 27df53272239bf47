# SPDX-License-Identifier: Apache-2.0
"""The bench of views: what is counted, and that errors are measured against the true body."""

import math

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from carm_agent.planning.anatomical_views import find_anatomical_view
from carm_agent.planning.planner import Planner
from carm_bringup.benchmarks.views.cases import NO_IMAGE, Case, Scene, run_case
from carm_bringup.benchmarks.views.command import VIEWS, metrics, table
from carm_core.anatomy.axes import BoneAxes
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles
from carm_core.robot.kinematics import CArm
from carm_sim.patient.patient import make_patient
from carm_sim.patient.volume import Volume


def test_figures() -> None:
    cases = [
        Case("true AP of T5", "with CT", "a", 1.0, 2),
        Case("true AP of T5", "with CT", "b", 3.0, 2),
        Case("true AP of T5", "with CT", "c", math.nan, 3, reason="not registered"),
    ]
    own = metrics(cases)["true AP of T5"]
    assert (own["cases"], own["angle_median_deg"], own["exposures_median"]) == (3, 2.0, 2.0)
    assert own["refused"] == pytest.approx(1 / 3)
    assert own["reasons"] == {"not registered": 1}
    assert "33 %" in table("with CT", metrics(cases))


def test_every_view_of_the_bench_exists() -> None:
    assert all(find_anatomical_view(view) for view in VIEWS)


def test_errors_are_measured_in_the_true_bone() -> None:
    hu = np.full((20, 20, 40), -1000, np.int16)
    hu[5:15, 5:15] = 40
    plain = make_patient("block", Volume(hu, np.diag([10.0, 10, 10, 1])), {}, "test")
    turn = Rotation.from_euler("z", 10, degrees=True).as_matrix()
    plain.bones["T5"] = BoneAxes("T5", plain.volume.center_mm, turn)
    arm = CArm.from_config()
    planner = Planner(arm, collision=CollisionModel(arm, Obstacles(assume_patient=False)))
    place = Scene(plain, plain, None, planner)  # type: ignore[arg-type]
    case = run_case(place, "true AP of T5", NO_IMAGE, None, 0)  # type: ignore[arg-type]
    assert case is not None
    assert not case.reason
    assert case.angle_deg == pytest.approx(10.0, abs=0.1)
    assert run_case(place, "inlet", NO_IMAGE, None, 0) is None  # type: ignore[arg-type]
