# SPDX-License-Identifier: Apache-2.0
"""Generated bodies: determinism, landmarks in their tissue, cache."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from carm_core.errors import PatientError
from carm_core.landmarks import EXTRA_LANDMARKS, LANDMARKS, find_landmark
from carm_sim.patient_loader import load_patient
from carm_sim.phantom import (
    BodyRecord,
    PhantomBody,
    crop_to_ct_field,
    generate_phantom,
    sample_extra_landmarks,
    sample_landmarks,
)
from carm_sim.phantom import cache as phantom_cache

COARSE_MM = 4.0
BONES = (2, 3, 4, 5, 8, 9, 10, 14)


@pytest.fixture(scope="module")
def bodies() -> list[PhantomBody]:
    return [
        generate_phantom(3, COARSE_MM, arms="crossed"),
        generate_phantom(4, COARSE_MM, arms="raised"),
        generate_phantom(5, COARSE_MM, style="validation", arms="along"),
    ]


def spread(body: PhantomBody, key: int, radius_mm: float) -> np.ndarray:  # type: ignore[type-arg]
    """HU in a ball around a landmark."""
    offsets = np.random.default_rng(key).normal(size=(400, 3))
    offsets *= radius_mm * np.random.default_rng(1).random((400, 1)) / np.linalg.norm(offsets, axis=1)[:, None]
    return body.volume.sample(body.landmarks_mm[key] + offsets)


def test_same_seed_same_bytes(bodies: list[PhantomBody]) -> None:
    again = generate_phantom(3, COARSE_MM, arms="crossed")
    np.testing.assert_array_equal(again.volume.hu, bodies[0].volume.hu)
    for key, point in bodies[0].landmarks_mm.items():
        np.testing.assert_array_equal(again.landmarks_mm[key], point)


KNOWN_BODIES = {
    ("standard", 3): (
        (81, 57, 168), 339.742,
        [-900.295, -573.113, -975.799, -871.768, -534.443, -958.291, -858.233, -543.986, -952.283, -986.929,
         -628.471, -810.580, -1000, -771.925, -882.052, -1000, -822.018, -963.299, -1000, -959.412, -999.500,
         -997.441, -974.439, -1000],
    ),
    ("validation", 5): (
        (95, 67, 161), 353.022,
        [-923.092, -523.566, -864.740, -797.433, -535.571, -921.933, -908.334, -557.271, -813.016, -999.810,
         -737.510, -711.804, -1000, -806.325, -742.951, -1000, -784.764, -880.039, -1000, -848.550, -993.598, -1000,
         -973.203, -1000],
    ),
}  # fmt: skip
"""Shape, standard deviation of the HU and means over 8 x 3 blocks in height and depth, at 8 mm."""


@pytest.mark.parametrize(("style", "seed"), KNOWN_BODIES)
def test_bodies_are_those_of_this_version(style: str, seed: int) -> None:
    """Data sets and figures hold for these bodies: whoever changes them raises `GENERATOR_VERSION`."""
    shape, spread, means = KNOWN_BODIES[style, seed]
    hu = generate_phantom(seed, 8.0, style=style).volume.hu.astype(float)
    assert hu.shape == shape
    assert hu.std() == pytest.approx(spread, abs=0.02)
    blocks = [block.mean() for slab in np.array_split(hu, 8, axis=2) for block in np.array_split(slab, 3, axis=1)]
    np.testing.assert_allclose(blocks, means, atol=0.02)


@pytest.mark.parametrize("seed", [3, 4])  # one arm up; arms crossed
def test_the_trunk_is_the_same_wherever_the_arms_lie(seed: int) -> None:
    spacing_mm = 4.0
    drawn, other = generate_phantom(seed, spacing_mm), generate_phantom(seed, spacing_mm, arms="along")
    assert drawn.record.arms != other.record.arms
    low, high = (drawn.anatomical_landmarks_mm[14] + [sign * 60, sign * 40, sign * 60 + 100] for sign in (-1, 1))
    corners = [np.rint(body.volume.voxel_from_lps(np.array([low, high]))).astype(int) for body in (drawn, other)]
    parts = [
        body.volume.hu[tuple(slice(start, stop) for start, stop in corner.T)]
        for body, corner in zip((drawn, other), corners, strict=True)
    ]
    assert parts[0].std() > 100
    np.testing.assert_array_equal(*parts)


def test_threads_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    bodies = []
    for threads in (1, 2):
        monkeypatch.setattr("carm_sim.phantom.grid.numba.config.NUMBA_NUM_THREADS", threads)
        bodies.append(generate_phantom(3, 8.0).volume.hu)
    np.testing.assert_array_equal(*bodies)


def test_seeds_and_styles_differ() -> None:
    carina = [sample_landmarks(seed)[11] - sample_landmarks(seed)[10] for seed in range(5)]
    assert np.ptp(carina, axis=0)[2] > 5
    other = sample_landmarks(0, style="validation")
    assert not np.allclose(other[11] - other[10], carina[0])


def test_unknown_style_or_pose() -> None:
    with pytest.raises(ValueError, match="style"):
        generate_phantom(1, style="nice")
    with pytest.raises(ValueError, match="arm pose"):
        sample_landmarks(1, arms="folded")


def test_every_landmark_is_inside_the_body(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        assert set(body.landmarks_mm) == {mark.id for mark in LANDMARKS}
        margin = body.volume.voxel_from_lps(np.array(list(body.landmarks_mm.values())))
        assert (margin > 3).all()
        assert (margin < np.array(body.volume.shape) - 4).all()


def test_bone_landmarks_are_at_bone(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        for key in BONES:
            assert np.percentile(spread(body, key, 12.0), 90) > 130, f"landmark {key} of seed {body.seed}"


def test_carina_is_where_the_airway_divides(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        carina = body.landmarks_mm[11]
        above = body.volume.sample(carina + np.array([0, 0, 25.0]) + np.random.default_rng(0).normal(0, 5, (200, 3)))
        assert above.min() < -700, "the trachea is above the carina"
        across = np.array([[[x, y, -18.0] for x in np.arange(-34.0, 35.0)] for y in (0.0, 4.0, 8.0, 12.0)])
        plane = body.volume.sample((carina + across).reshape(-1, 3)).reshape(4, -1)
        assert plane[:, :30].min() < -350 < -200 < plane[1, 30:40].max(), "a bronchus on the right, tissue between"
        assert plane[:, 40:].min() < -350, "a bronchus on the left"


def test_domes_are_between_lung_and_abdomen(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        for key in (12, 13):
            dome = body.landmarks_mm[key]
            around = np.array([[x, y, 0.0] for x in (-8, 0, 8) for y in (-8, 0, 8)])
            assert np.median(body.volume.sample(dome + around + [0, 0, 14.0])) < -500
            assert np.median(body.volume.sample(dome + around - [0, 0, 10.0])) > -200
        right, left = body.landmarks_mm[12], body.landmarks_mm[13]
        assert right[0] < left[0]


def test_left_is_left(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        marks = body.anatomical_landmarks_mm
        for right, left in ((2, 3), (4, 5), (6, 7), (12, 13)):
            assert marks[right][0] < marks[left][0]
        assert marks[1][2] > marks[10][2] > marks[11][2] > marks[14][2]
        heart = body.volume.sample(marks[11] + np.array([[side * 45.0, -30.0, -75.0] for side in (-1, 1)]))
        assert heart[1] > heart[0] - 50, "the heart lies more to the left"


def test_extra_landmarks_are_complete_and_at_bone(bodies: list[PhantomBody]) -> None:
    checked = 0
    for body in bodies:
        extra = body.extra_landmarks_mm
        assert set(extra) == {mark.id for mark in EXTRA_LANDMARKS}
        quick = sample_extra_landmarks(body.seed, body.style, {3: "crossed", 4: "raised", 5: "along"}[body.seed])
        for key, point in extra.items():
            np.testing.assert_allclose(quick[key], point, atol=1e-9)
            if bool(body.volume.contains(point - [0, 0, 12.0])):
                around = point + 12.0 * np.random.default_rng(key).uniform(-1, 1, (400, 3))
                assert np.percentile(body.volume.sample(around), 90) > 130, f"landmark {key} of seed {body.seed}"
                checked += 1
    assert checked > 60


def test_vertebrae_follow_each_other(bodies: list[PhantomBody]) -> None:
    names = [f"C{n}" for n in range(3, 8)] + [f"T{n}" for n in range(1, 13)] + [f"L{n}" for n in range(1, 6)]
    for body in bodies:
        points = body.anatomical_landmarks_mm | body.extra_landmarks_mm
        spine = np.array([points[find_landmark(name).id] for name in names])
        steps = np.linalg.norm(np.diff(spine, axis=0), axis=1)
        assert (np.diff(spine[:, 2]) < 0).all()
        assert steps.min() > 9
        assert steps.max() < 48


def test_a_whole_body_reaches_to_the_feet() -> None:
    whole, cut = generate_phantom(8, 6.0, whole_body=True), generate_phantom(8, 6.0)
    for key in (121, 122, 123, 124, 125, 126):
        point = whole.extra_landmarks_mm[key]
        assert bool(whole.volume.contains(point - [0, 0, 60.0]))
        assert np.percentile(whole.volume.sample(point + np.random.default_rng(0).normal(0, 8, (200, 3))), 90) > 130
        np.testing.assert_array_equal(point, cut.extra_landmarks_mm[key])
    assert not bool(cut.volume.contains(cut.extra_landmarks_mm[125]))
    assert whole.record.mass_kg == pytest.approx(cut.record.mass_kg, rel=0.08)


def test_phantom_options(counted: CountedGenerator, tmp_path: Path) -> None:
    load_patient("phantom:6")
    assert load_patient("phantom:6?whole_body").extra_landmarks_mm
    assert counted.calls == 2
    assert len(cache_files(tmp_path)) == 2
    with pytest.raises(PatientError, match="whole_body"):
        load_patient("phantom:6?half_body")


def test_record_agrees_with_the_body(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        record = body.record
        assert BodyRecord.from_dict(json.loads(json.dumps(record.as_dict()))) == record
        assert 1400 < record.stature_mm < 2100
        assert 35 < record.mass_kg < 160
        assert record.bmi_kg_m2 == pytest.approx(record.mass_kg / (record.stature_mm / 1000) ** 2, abs=0.1)
        marks, extra = body.anatomical_landmarks_mm, body.extra_landmarks_mm
        ankle = np.mean([extra[125], extra[126]], axis=0)
        assert np.linalg.norm(marks[1] - ankle) == pytest.approx(record.stature_mm - 150, abs=80)


def test_hounsfield_range(bodies: list[PhantomBody]) -> None:
    for body in bodies:
        hu = body.volume.hu
        assert hu.min() == -1000
        assert 600 < hu.max() <= 3000
        inside = hu[hu > -300]
        assert 0.1 < inside.size / hu.size < 0.7
        assert -120 < np.median(inside) < 80
        border = [hu[0], hu[-1], hu[:, 0], hu[:, -1]]
        assert max(face.max() for face in border) < -500, "air around the body"


def test_crop_keeps_place_and_drops_what_is_outside(bodies: list[PhantomBody]) -> None:
    whole = bodies[1]
    cut = crop_to_ct_field(whole, 1)
    assert cut.volume.hu.size < whole.volume.hu.size
    assert {10, 11, 12, 13, 14} <= set(cut.landmarks_mm)
    assert not {1, 6, 7, 8, 9} & set(cut.landmarks_mm)
    assert set(cut.anatomical_landmarks_mm) == set(whole.anatomical_landmarks_mm)
    points = np.array([cut.landmarks_mm[key] for key in (10, 11, 14)])
    np.testing.assert_allclose(cut.volume.sample(points), whole.volume.sample(points), atol=1e-6)


class CountedGenerator:
    """Counts how often a body is generated."""

    def __init__(self) -> None:
        self.calls = 0
        self.body = generate_phantom(6, 8.0, arms="crossed")

    def __call__(self, seed: int, spacing_mm: float, style: str, whole_body: bool = False) -> PhantomBody:
        self.calls += 1
        return self.body


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CountedGenerator:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    generator = CountedGenerator()
    monkeypatch.setattr(phantom_cache, "generate_phantom", generator)
    return generator


def cache_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_second_load_comes_from_the_cache(counted: CountedGenerator, tmp_path: Path) -> None:
    first, second = load_patient("phantom:6"), load_patient("phantom:6")
    assert counted.calls == 1
    np.testing.assert_array_equal(first.volume.hu, second.volume.hu)
    assert first.landmarks_mm.keys() == second.landmarks_mm.keys()
    np.testing.assert_array_equal(first.landmarks_mm[11], second.landmarks_mm[11])
    np.testing.assert_array_equal(first.extra_landmarks_mm[103], second.extra_landmarks_mm[103])
    assert phantom_cache.cached_phantom(6).record == counted.body.record
    assert [path.suffix for path in cache_files(tmp_path)] == [".npz"]


@pytest.mark.parametrize("damage", [b"", b"rubbish", None])
def test_corrupt_cache_is_regenerated(
    counted: CountedGenerator, tmp_path: Path, damage: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    load_patient("phantom:6")
    (path,) = cache_files(tmp_path)
    path.write_bytes(path.read_bytes()[:2000] if damage is None else damage)
    with caplog.at_level(logging.WARNING):
        load_patient("phantom:6")
    assert counted.calls == 2
    assert "generating the phantom again" in caplog.text
    load_patient("phantom:6")
    assert counted.calls == 2


def test_without_write_permission_it_works_uncached(
    counted: CountedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with caplog.at_level(logging.WARNING):
        assert load_patient("phantom:6").landmarks_known
    assert "not cached" in caplog.text
    assert cache_files(tmp_path) == []
    assert os.environ["XDG_CACHE_HOME"] == str(tmp_path)
