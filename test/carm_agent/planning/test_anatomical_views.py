# SPDX-License-Identifier: Apache-2.0
"""Views in the axes of bones: their names, their directions, plans to them."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from carm_agent.planning.anatomical_views import ANATOMICAL_VIEWS, find_anatomical_view, listed_views
from carm_agent.planning.bone_view import ViewRefusedError, plan_bone_view
from carm_agent.planning.planner import Planner
from carm_core.anatomy.axes import BoneAxes, angle_deg
from carm_core.errors import GoalError, UnknownNameError
from carm_core.robot.kinematics import CArm

SUPINE = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
UP = np.array([0.0, 0.0, 1.0])
LEFT, HEAD = np.array([0.0, -1.0, 0.0]), np.array([1.0, 0.0, 0.0])


def lying(bone: str, *turn_deg: float) -> BoneAxes:
    """A bone of a supine patient, turned about the table's axes."""
    turn = Rotation.from_euler("xyz", turn_deg or (0, 0, 0), degrees=True).as_matrix()
    return BoneAxes(bone, np.array([0.0, 0.0, 120.0]), turn @ SUPINE)


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("true lateral of T12", "true lateral of T12"),
        ("show me a true lateral of the twelfth thoracic vertebra", "true lateral of T12"),
        ("End plates of L3 parallel", "end plates parallel of L3"),
        ("endplates L3", "end plates parallel of L3"),
        ("right lateral of T5", "true right lateral of T5"),
        ("true AP of th12", "true AP of T12"),
        ("inlet", "inlet of the pelvis"),
        ("true outlet view of the pelvis", "outlet of the pelvis"),
        ("obturator oblique of the right hip", "obturator oblique of the right hip"),
        ("left iliac oblique", "iliac oblique of the left hip"),
        ("Grashey of the left shoulder", "Grashey of the left shoulder"),
        ("true AP of the right shoulder", "Grashey of the right shoulder"),
        ("scapular Y, left", "scapular Y of the left shoulder"),
        ("Scottie dog of L4, left", "left oblique of L4"),
        ("true lateral of the trunk", "true lateral of the trunk"),
    ],
)
def test_views_are_found(said: str, meant: str) -> None:
    assert find_anatomical_view(said).name == meant


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("true lateral", "of which bone"),
        ("true lateral of the knee", "no bone with views"),
        ("end plates parallel of the pelvis", "C3 to L5, not of pelvis"),
        ("inlet of L3", "not of L3"),
        ("obturator oblique", "left or right hip"),
        ("Grashey", "left or right shoulder"),
        ("scottie dog of L4", "left or right oblique"),
        ("Grashey of the left right shoulder", "both sides"),
        ("oblique of T5 left", "L1 to L5"),
    ],
)
def test_what_is_missing_is_asked_for(said: str, told: str) -> None:
    with pytest.raises(GoalError, match=told):
        find_anatomical_view(said)


def test_other_views_are_no_views_of_bones() -> None:
    with pytest.raises(UnknownNameError, match="true lateral"):
        find_anatomical_view("spider")


def test_a_name_and_a_bone_belong_to_one_view() -> None:
    taken = [(name, bone) for v in ANATOMICAL_VIEWS for name in (v.name.lower(), *v.synonyms) for bone in v.bones]
    assert len(taken) == len(set(taken))
    assert all(view.source and view.description for view in ANATOMICAL_VIEWS)


@pytest.mark.parametrize(
    ("said", "direction"),
    [
        ("true AP of T5", UP),
        ("true left lateral of T5", LEFT),
        ("true right lateral of T5", -LEFT),
        ("inlet", np.cos(np.pi / 6) * UP + 0.5 * HEAD),
        ("obturator oblique of the right hip", (UP - LEFT) / np.sqrt(2)),
        ("obturator oblique of the left hip", (UP + LEFT) / np.sqrt(2)),
        ("iliac oblique of the right hip", (UP + LEFT) / np.sqrt(2)),
        ("left oblique of L3", (UP - LEFT) / np.sqrt(2)),
        ("right oblique of L3", (UP + LEFT) / np.sqrt(2)),
    ],
)
def test_directions_of_a_patient_who_lies_straight(said: str, direction: np.ndarray) -> None:
    wanted = find_anatomical_view(said)
    assert np.allclose(wanted.directions(lying(wanted.bone), UP)[0], direction)


def test_end_plates_are_lines_from_where_the_arm_is() -> None:
    wanted, axes = find_anatomical_view("end plates of L3"), lying("L3", 5, 20, 0)
    present = np.array([0.3, -0.5, 0.8]) / np.linalg.norm([0.3, -0.5, 0.8])
    (direction,) = wanted.directions(axes, present)
    assert direction @ axes.head == pytest.approx(0, abs=1e-9)
    assert angle_deg(direction, present) == pytest.approx(abs(90 - angle_deg(present, axes.head)))


def test_the_arm_gets_there() -> None:
    planner = Planner(CArm.from_config())
    wanted, axes = find_anatomical_view("true lateral of T12"), lying("T12", 4, -6, 5)
    found = plan_bone_view(planner, planner.carm.home, wanted, axes)
    beam = planner.carm.transform_carm_to_table(found.plan.goal).rotation[:, 2]
    assert angle_deg(beam, axes.left) < 0.01
    assert np.allclose(1000 * planner.carm.isocenter(found.plan.goal), axes.origin_mm)


def test_what_is_out_of_reach_is_refused_with_the_nearest() -> None:
    planner = Planner(CArm.from_config())
    wanted, axes = find_anatomical_view("true right lateral of T12"), lying("T12")
    with pytest.raises(ViewRefusedError, match=r"cannot be reached.*the nearest that can be reached is RAO") as caught:
        plan_bone_view(planner, planner.carm.home, wanted, axes)
    nearest = caught.value.nearest_deg
    assert nearest is not None
    primary, secondary = np.radians(nearest)
    planner.to_view(planner.carm.home, axes.origin_mm / 1000, (float(primary), float(secondary)))
    assert angle_deg(lying("T12").direction(*nearest), -LEFT) == pytest.approx(caught.value.off_deg, abs=0.1)


def test_listed_views_are_asked_for_by_their_names() -> None:
    listed = listed_views()
    assert {"inlet of the pelvis", "obturator oblique of the left hip", "true AP of the trunk"} <= {
        v.name for v in listed
    }
    assert all(find_anatomical_view(view.name) == view for view in listed)
