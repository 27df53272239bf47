# SPDX-License-Identifier: Apache-2.0
"""Which body parts a field shows, and the generated radiographs."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from carm_core.body_parts import BODY_PARTS, label_text, part_names
from carm_core.imaging.projection import Detector, XrayView
from carm_core.transforms import Array
from carm_perception.datasets.body_parts.exams import draw_exam, label_of
from carm_perception.datasets.body_parts.regions import TRUNK, Region, overlap, rectangle_around, regions
from carm_perception.datasets.body_parts.subjects import Subject, cut_out, draw_object_exam, draw_objects, make_subject
from carm_perception.datasets.body_parts.xrays import Imager
from carm_perception.datasets.storage.dataset import BODY_PART_INTEGRALS, DatasetSpec, generate
from carm_perception.protocols.parsing import parse_body_parts
from carm_sim.phantom.body import plan_body
from carm_sim.phantom.skeleton.posture import PosedSkeleton, pose_skeleton

SEED = 830952
"""Of a body whose arms do not lie across the trunk."""


@pytest.fixture(scope="module")
def skeleton() -> PosedSkeleton:
    return pose_skeleton(plan_body(SEED, arms="along"), lower_legs=True)


@pytest.fixture(scope="module")
def everything(skeleton: PosedSkeleton) -> list[Region]:
    return regions(skeleton)


@pytest.fixture(scope="module")
def subject() -> Subject:
    return make_subject(SEED, spacing_mm=5.0)


def view_of(center: Array, across: Array, up: Array, size_mm: tuple[float, float]) -> XrayView:
    """Return a view whose field has a size at its center, seen from the front of a region."""
    right, down = -across, -up
    forward = np.cross(right, down)
    detector = Detector(round(size_mm[1] / 2), round(size_mm[0] / 2), 2 * 1200 / 1100)
    return XrayView(center - 1100 * forward, np.stack([right, down, forward], axis=1), detector, 1200.0, 1100.0)


@pytest.mark.parametrize("name", [name for name in BODY_PARTS if name != "Others"])
def test_a_field_around_a_region_shows_its_part(everything: list[Region], name: str) -> None:
    for region in everything:
        if region.names == name:
            axes = np.stack([region.across, region.up], axis=1)
            left, top, right, bottom = rectangle_around((region.points_mm - region.center_mm) @ axes)
            view = view_of(region.center_mm, region.across, region.up, (right - left, bottom - top))
            assert part_names(label_of(view, everything, region.limb)) == name


def test_neighbors_in_one_field_are_both_named(everything: list[Region]) -> None:
    for names in ("Wrist and Hand", "Hip and Thigh", "Knee and Lower Leg", "Skull and Cervical Spine"):
        found = [region for region in everything if region.names == names]
        assert len(found) == (0 if names.startswith("Hip") else 1 if names.startswith("Skull") else 2)
        for region in found:
            axes = np.stack([region.across, region.up], axis=1)
            left, top, right, bottom = rectangle_around((region.points_mm - region.center_mm) @ axes)
            view = view_of(region.center_mm, region.across, region.up, (right - left, bottom - top))
            assert label_of(view, everything, region.limb) == tuple(sorted(region.part_ids))


def test_the_sinuses_are_seen_from_the_front_only(everything: list[Region]) -> None:
    face = next(region for region in everything if region.names == "Sinus")
    left, top, right, bottom = rectangle_around((face.points_mm - face.center_mm)[:, [0, 2]])
    for angle, name in ((0, "Sinus"), (25, "Sinus"), (60, "Skull"), (90, "Skull")):
        cosine, sine = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        across = np.array([cosine, sine, 0.0])
        view = view_of(face.center_mm, across, face.up, (right - left, bottom - top))
        assert part_names(label_of(view, everything, TRUNK)) == name


def test_the_upper_arm_and_empty_fields_are_others(everything: list[Region]) -> None:
    arm = next(region for region in everything if region.names == "Others")
    view = view_of(arm.center_mm, arm.across, arm.up, (120.0, 220.0))
    assert part_names(label_of(view, everything, arm.limb)) == "Others"
    away = view_of(np.array([2000.0, 0, 0]), arm.across, arm.up, (200.0, 200.0))
    assert part_names(label_of(away, everything, TRUNK)) == "Others"


def test_overlap() -> None:
    assert overlap((0, 0, 2, 2), (0, 0, 2, 2)) == (1, 1)
    assert overlap((0, 0, 2, 2), (1, 0, 5, 2)) == (2 / 10, 0.5)
    assert overlap((0, 0, 1, 1), (2, 2, 3, 3)) == (0, 0)


def test_a_limb_alone_holds_its_bones_and_no_others(subject: Subject, skeleton: PosedSkeleton) -> None:
    leg, body = subject.volumes["r_leg"], subject.volumes[TRUNK]
    assert np.prod(leg.shape) < 0.5 * np.prod(body.shape)

    def hu(volume: object, point: Array) -> int:
        index = np.rint(volume.voxel_from_lps(point)).astype(int)  # type: ignore[attr-defined]
        return int(volume.hu[tuple(index)])  # type: ignore[attr-defined]

    knee = skeleton.extra_mm[123]
    assert hu(leg, knee) == hu(body, knee) > 0
    volume = cut_out(body, skeleton, "l_leg")
    assert (volume.hu > 100).sum() == pytest.approx((leg.hu > 100).sum(), rel=0.15)
    assert not volume.contains(knee) or hu(volume, knee) == -1000


def test_exams_keep_to_detector_sizes_and_limbs(subject: Subject) -> None:
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(200):
        exam = draw_exam(rng, subject.regions, 100)
        detector = exam.view.detector
        assert max(detector.rows, detector.columns) * detector.pitch_mm < 431
        assert 980 <= exam.view.source_detector_mm <= 1800
        assert exam.limb in subject.volumes
        seen |= set(exam.part_ids)
    assert len(seen) >= 20


def test_radiographs_show_something_and_are_reproducible(subject: Subject) -> None:
    one, again = (Imager(np.random.default_rng(3), subject) for _ in range(2))
    for _ in range(4):
        first, second = one.take(), again.take()
        assert np.array_equal(first.image, second.image)
        assert first.image.std() > 3
        assert first.exam.part_ids == second.exam.part_ids


def test_objects_have_no_part() -> None:
    rng = np.random.default_rng(2)
    assert draw_object_exam(rng, 60).part_ids == (BODY_PARTS.index("Others"),)
    assert {draw_objects(rng).hu.dtype for _ in range(3)} == {np.dtype(np.int16)}


def test_a_data_set_of_body_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subject: Subject) -> None:
    from carm_perception.datasets.body_parts import integrals

    monkeypatch.setattr(integrals, "make_subject", lambda *_: subject)
    spec = DatasetSpec("test", 1, 3, 1, format=BODY_PART_INTEGRALS)
    assert generate(tmp_path, spec, 1, progress=False) == 1
    (shard,) = tmp_path.glob("body-part-integrals-test-960000-960000-3.parquet")
    rows = pq.read_table(shard).to_pylist()
    assert len(rows) == 3
    for row in rows:
        answer = parse_body_parts(row["label"])
        assert label_text(answer.part_ids) == row["label"]
    assert "body-part-integrals" in (tmp_path / "README.md").read_text()
    assert generate(tmp_path, spec, 1, progress=False) == 0
