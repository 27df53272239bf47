# SPDX-License-Identifier: Apache-2.0
"""Cases of ``carm bench views``: from a random view near a bone to a standard view of it.

The true axes come from the labels of the body that is imaged, at their full resolution, and from its landmarks.
Perception and planner have the CT's own labels, at the resolution that TotalSegmentator works at, and images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from carm_agent.planning.anatomical_views import RequestedView, find_anatomical_view
from carm_agent.planning.bone_view import BoneViewPlan, ViewRefusedError, plan_bone_view
from carm_agent.planning.planner import Planner
from carm_bringup.benchmarks.registration.cases import seen
from carm_bringup.benchmarks.registration.conditions import CONDITIONS, imaged, preoperative
from carm_core.anatomy.axes import SHOULDERS, VERTEBRAE, BoneAxes, MissingAnatomyError, angle_deg
from carm_core.anatomy.from_landmarks import ID
from carm_core.collision.model import CollisionModel
from carm_core.collision.obstacles import Obstacles, Surface
from carm_core.errors import GoalError
from carm_core.imaging.frame import XrayFrame
from carm_core.localization import LandmarkEstimate, Localizer
from carm_core.robot.kinematics import CArm
from carm_core.transforms import Array
from carm_perception.registration.body_belief import BodyBelief
from carm_perception.registration.initial_pose import SUPINE, Sighted
from carm_perception.registration.model import CtModel
from carm_perception.registration.registrar import Registrar
from carm_sim.patient.bone_axes import bone_axes
from carm_sim.patient.patient import Patient
from carm_sim.patient.segmentation import Segmentation, read_segmentation
from carm_sim.patient.surface import patient_surface
from carm_sim.patient_loader import CHEST_CT, PHANTOM_STYLES, chest_ct_path
from carm_sim.phantom.labels import phantom_labels
from carm_sim.xray import XraySystem

WITH_CT, WITHOUT_CT, NO_LABELS, NO_IMAGE = "with CT", "without CT", "landmarks", "table angles"
MODES = (WITH_CT, WITHOUT_CT, NO_LABELS, NO_IMAGE)
"""The last two make no image and know where the CT lies, for comparison: ``landmarks`` has no axes from labels,
``table angles`` takes the patient to lie straight, as a named view in the table's axes does."""
_TRUE_MM, _LABELED_MM = 1.0, 1.5
"""Voxels of a phantom's labels: for the truth, and beside the CT."""
_BESIDE_MM, _PRIMARY_DEG, _SECONDARY_DEG, _TRIES = 20.0, 35.0, 15.0, 40
_AGAIN_DEG = 1.0
"""A view that is off by more, as far as is known, is corrected."""
_MOST_EXPOSURES = 3
_CERTAIN_DEG = 4.0
"""A bone without a CT that is known this exactly is not imaged again."""
_APART_DEG = 40.0


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        view: As asked for.
        mode: One of ``MODES``.
        patient: Who was imaged.
        angle_deg: Between the beam and the nearest direction that defines the view in the true bone's axes, deg; NaN
            where the view was refused.
        exposures: That were made.
        std_deg: What the estimate without a CT says of its error, deg; NaN otherwise.
        reason: Why it was refused; empty when it was not.
    """

    view: str
    mode: str
    patient: str
    angle_deg: float
    exposures: int
    std_deg: float = math.nan
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Scene:
    """A body on the table, its CT, and the arm.

    Attributes:
        body: Who is imaged, with the true axes of the bones.
        ct: Beside which its own labels' axes are.
        system: Makes the images.
        planner: Knows the body's surface.
    """

    body: Patient
    ct: Patient
    system: XraySystem
    planner: Planner


def scene(name: str, seed: int) -> Scene:
    """Set up a scene.

    Args:
        name: ``chest_ct`` or a phantom.
        seed: Of how the body lies, and of noise.

    Raises:
        PatientError: There is no such patient.
    """
    condition = CONDITIONS["nominal"]
    rng = np.random.default_rng([seed, 7])
    body, ct = imaged(name, condition, rng), preoperative(name, condition, name, seed)
    true, labeled = _bones(name, body)
    body = replace(body, bones=true)
    ct = replace(ct, extra_landmarks_mm=body.extra_landmarks_mm, bones=labeled)
    arm = CArm.from_config()
    mesh = patient_surface(body)
    obstacles = Obstacles(Surface(mesh.vertices_m, mesh.triangles))
    return Scene(
        body,
        ct,
        XraySystem(body, arm, condition.config, seed=seed),
        Planner(arm, collision=CollisionModel(arm, obstacles)),
    )


def _bones(name: str, body: Patient) -> tuple[dict[str, BoneAxes], dict[str, BoneAxes]]:
    """Return the axes of a patient's bones by exact labels, and by coarser ones; of a CT on disk, its file's twice."""
    kind, _, number = name.partition(":")
    marks = body.landmarks_mm | body.extra_landmarks_mm
    if kind in PHANTOM_STYLES:
        labels = [phantom_labels(int(number), PHANTOM_STYLES[kind], size) for size in (_TRUE_MM, _LABELED_MM)]
        return bone_axes(labels[0], marks)[0], bone_axes(labels[1], marks)[0]
    if name != CHEST_CT:
        return body.bones, body.bones
    whole = read_segmentation(chest_ct_path().with_name("mask.nii.gz"))
    halved = whole.transform_voxel_to_lps @ np.diag([2.0, 2.0, 1.0, 1.0])
    centers = {ID[bone]: axes.origin_mm for bone, axes in body.bones.items() if bone in VERTEBRAE}
    return body.bones, bone_axes(Segmentation(whole.labels[::2, ::2], halved, whole.ids), marks | centers)[0]


def run_case(place: Scene, text: str, mode: str, localizer: Localizer, seed: int) -> Case | None:
    """Run one case; None: the mode has no such view, the true axes are not known, or no start near it is clear.

    Args:
        place: The scene.
        text: The view, as ``find_anatomical_view`` takes it.
        mode: One of ``MODES``.
        localizer: Sees landmarks in the images.
        seed: Of the start.
    """
    wanted = find_anatomical_view(text)
    try:
        truth = place.body.axes_of(wanted.bone).moved(place.body.transform_lps_to_table)
    except MissingAnatomyError:
        return None
    if mode == NO_IMAGE and wanted.bone in SHOULDERS:
        return None  # a scapula never has the table's axes
    joints = _start(place, truth, np.random.default_rng([seed, 11]))
    if joints is None:
        return None
    run = {WITH_CT: _with_ct, WITHOUT_CT: _without_ct, NO_LABELS: _by_landmarks, NO_IMAGE: _straight}[mode]
    case = Case(wanted.name, mode, place.body.name, math.nan, 0)
    course = _Course(place, wanted, localizer, joints)
    try:
        std = run(course)
    except ViewRefusedError:
        return replace(case, exposures=course.exposures, reason="out of reach")
    except GoalError as error:
        return replace(case, exposures=course.exposures, reason=str(error))
    beam = _beam(place.planner.carm, course.joints)
    off = min(angle_deg(beam, direction) for direction in wanted.directions(truth, beam))
    return replace(case, angle_deg=off, exposures=course.exposures, std_deg=std)


@dataclass(eq=False)
class _Course:
    """What a case has come to: where the arm is, and how many exposures were made."""

    place: Scene
    wanted: RequestedView
    localizer: Localizer
    joints: Array
    exposures: int = 0

    def expose(self) -> tuple[XrayFrame, tuple[LandmarkEstimate, ...]]:
        """Make an image and look for landmarks in it."""
        self.exposures += 1
        frame = self.place.system.expose(self.joints, CONDITIONS["nominal"].request).frame()
        return frame, seen(self.localizer, frame)

    def plan(self, axes: BoneAxes) -> BoneViewPlan:
        """Plan from here to the view of a bone where it is taken to be."""
        return plan_bone_view(self.place.planner, self.joints, self.wanted, axes)

    def go(self, axes: BoneAxes) -> None:
        """Move to the view of a bone where it is taken to be."""
        self.joints = np.asarray(self.plan(axes).plan.goal)

    def off_deg(self, axes: BoneAxes) -> float:
        """Return by how much the view would be off here if the bone were there, deg."""
        beam = _beam(self.place.planner.carm, self.joints)
        return min(angle_deg(beam, direction) for direction in self.wanted.directions(axes, beam))

    def turn_aside(self) -> None:
        """Look at the same place from another side, if that is within reach."""
        carm = self.place.planner.carm
        primary, secondary = carm.angles(self.joints)
        other = primary - math.copysign(math.radians(_APART_DEG), primary)
        try:
            self.joints = carm.inverse(carm.isocenter(self.joints), other, secondary, seed=self.joints)[0]
        except GoalError:
            return


def _with_ct(course: _Course) -> float:
    """Register the CT, go to the view, register again, and correct what is off."""
    ct = course.place.ct
    bone = ct.axes_of(course.wanted.bone)
    registrar = Registrar(_model(ct))
    try:
        result = registrar.register(*course.expose())
        while not result.accepted and course.exposures < _MOST_EXPOSURES:
            course.turn_aside()
            result = registrar.register(*course.expose())
        if not result.accepted:
            raise GoalError("not registered")
        course.go(bone.moved(result.transform_lps_to_table))
        if course.exposures < _MOST_EXPOSURES:
            again = registrar.register(*course.expose())
            axes = bone.moved(again.transform_lps_to_table)
            if again.accepted and course.off_deg(axes) > _AGAIN_DEG:
                course.go(axes)
    finally:
        registrar.close()
    return math.nan


def _without_ct(course: _Course) -> float:
    """Fit the average body to what is seen, go to the view, and look again until the fit is certain."""
    belief = BodyBelief()
    axes: BoneAxes | None = None
    refusal: GoalError | None = None
    while course.exposures < _MOST_EXPOSURES:
        frame, estimates = course.expose()
        assert frame.view is not None
        belief.add(float(course.exposures), Sighted(frame.view, estimates))
        try:
            axes = belief.bone(course.wanted.bone)
        except MissingAnatomyError as error:
            refusal = error
            if axes is not None or course.exposures == _MOST_EXPOSURES:
                break
            course.turn_aside()
            continue
        if course.exposures > 1 and course.off_deg(axes) < _AGAIN_DEG:
            break
        course.go(axes)
        if axes.std_deg < _CERTAIN_DEG:
            break
    if axes is None:
        assert refusal is not None
        raise refusal
    return axes.std_deg


def _by_landmarks(course: _Course) -> float:
    """Go to the view of a bone that has the axes that landmarks give it, where it is."""
    body = course.place.body
    axes = replace(body, bones={}).axes_of(course.wanted.bone)
    course.go(axes.moved(body.transform_lps_to_table))
    return math.nan


def _straight(course: _Course) -> float:
    """Go to the view of a bone that has the axes of the table, where it is."""
    body = course.place.body
    origin = body.transform_lps_to_table.apply(body.axes_of(course.wanted.bone).origin_mm)
    course.go(BoneAxes(course.wanted.bone, origin, SUPINE))
    return math.nan


_models: dict[int, CtModel] = {}


def _model(ct: Patient) -> CtModel:
    """Return the model of a CT; the last one is kept."""
    if id(ct) not in _models:
        _models.clear()
        _models[id(ct)] = CtModel(ct)
    return _models[id(ct)]


def _beam(arm: CArm, joints: Array) -> Array:
    """Return the unit vector (3,) from source to detector, frame ``table``."""
    return np.asarray(arm.transform_carm_to_table(joints).rotation[:, 2])


def _start(place: Scene, bone: BoneAxes, rng: np.random.Generator) -> Array | None:
    """Return joint positions of a random view near a bone that are clear of everything."""
    model = place.planner.collision
    assert model is not None
    for _ in range(_TRIES):
        center = bone.origin_mm + rng.normal(0, _BESIDE_MM, 3)
        angles = np.radians([rng.uniform(-_PRIMARY_DEG, _PRIMARY_DEG), rng.uniform(-_SECONDARY_DEG, _SECONDARY_DEG)])
        try:
            joints = place.planner.carm.inverse(center / 1000, float(angles[0]), float(angles[1]))[0]
        except GoalError:
            continue
        if model.clearance(joints, named=False).distance_m > model.margins.collision_m:
            return np.asarray(joints)
    return None
