# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from carm_core.errors import ConfigurationError
from carm_core.landmarks import LANDMARKS
from carm_perception.datasets import parallel as engine
from carm_perception.datasets.known_cts import KnownCt, find_cts
from carm_perception.datasets.rendering import xrays
from carm_perception.datasets.rendering.acquisition import (
    FLIPPED,
    MIRRORED,
    ORIENTATIONS,
    TURNED,
    UPRIGHT,
    Sheet,
    draw_capture,
    finish,
)
from carm_perception.datasets.storage import dataset
from carm_perception.datasets.storage.dataset import DatasetSpec, generate
from carm_perception.datasets.storage.shards import StorageError
from carm_perception.datasets.storage.store import ViewStore
from carm_perception.datasets.views import ViewDistribution
from carm_perception.training import commands
from carm_sim.devices import HARDWARE
from carm_sim.devices.catalog import FINDINGS
from carm_sim.patient.ct.files import LANDMARK_FILE, LandmarkFile, ct_checksum, write_landmarks
from carm_sim.patient_loader import chest_ct_path
from carm_sim.physics.detector import DetectorModel

from ..beads import BeadBody, BeadSpec

ROOT = Path(__file__).resolve().parents[3]


def small(split: str = "train", patients: int = 3, **more: Any) -> DatasetSpec:
    return BeadSpec(split, patients, views=3, patients_per_shard=1, format="xray", **more)


def shards(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


@given(
    st.sampled_from(ORIENTATIONS),
    st.tuples(st.integers(0, 30), st.integers(0, 30)),
    st.tuples(st.integers(60, 90), st.integers(60, 90)),
    st.floats(0.7, 1.5),
    st.tuples(st.floats(0.2, 0.8), st.floats(0.2, 0.8)),
)
def test_positions_follow_the_pixels(
    orientation: str, first: tuple[int, int], size: tuple[int, int], scale: float, place: tuple[float, float]
) -> None:
    sheet = Sheet(*first, *size, round(size[0] * scale), round(size[1] * scale), orientation)
    spot = np.array(first) + np.array(place) * size
    row, column = np.mgrid[:128, :128]
    blob = np.exp(-((column - spot[0]) ** 2 + (row - spot[1]) ** 2) / 18).astype(np.float32)
    moved = sheet.apply(blob)
    assert moved.shape == (sheet.rows, sheet.columns)
    rows, columns = np.mgrid[: sheet.rows, : sheet.columns]
    found = np.array([(moved * columns).sum(), (moved * rows).sum()]) / moved.sum()
    np.testing.assert_allclose(found, sheet.pixels(spot[None])[0], atol=0.35)
    upright = replace(sheet, orientation=UPRIGHT)
    center = (np.array([sheet.columns, sheet.rows]) - 1) / 2
    spacing = np.array([size[0] / sheet.columns, size[1] / sheet.rows])
    displacement = (upright.pixels(spot[None])[0] - center) * spacing * (1, -1)
    np.testing.assert_allclose(sheet.displacement_mm(spot[None], 1.0)[0], displacement, atol=1e-9)


def clean(rng: np.random.Generator) -> Any:
    """A capture with everything that moves pixels, and nothing that hides a bead."""
    drawn = draw_capture(rng)
    return replace(
        drawn,
        detector=DetectorModel.ideal(),
        binning=3,
        orientation=str(rng.choice(ORIENTATIONS)),
        linear=False,
        detail=0.0,
        gamma=1.0,
        inverted=False,
        marker=None,
        blur_px=0.0,
        motion_px=(0.0, 0.0),
        noise=0.0,
        coarse=1.0,
        jpeg_quality=0,
        window=replace(drawn.window, bright_percentile=0.0, dark_percentile=100.0, highest_ratio=1e3),
    )


def test_beads_are_seen_where_the_labels_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xrays, "draw_capture", clean)
    monkeypatch.setattr(xrays, "HARDWARE_CHANCE", 0.0)
    rng = np.random.default_rng(4)
    orientations, found = set(), []
    for seed in range(3):
        scan = xrays.draw_scan(rng, BeadBody(seed), "beads")  # type: ignore[arg-type]
        for _ in range(8):
            xray = xrays.draw_xray(rng, scan, ViewDistribution())
            image = xray.image.astype(float)
            orientations.add(xray.capture.orientation)
            for column, row in xray.landmark_px[xray.visible]:
                c, r = round(column), round(row)
                if not (24 < c < image.shape[1] - 25 and 24 < r < image.shape[0] - 25):
                    continue
                around = image[r - 24 : r + 25, c - 24 : c + 25]
                bright = around > (np.median(around) + around.max()) / 2
                found.append(np.linalg.norm(np.argwhere(bright).mean(0) - 24))
    assert orientations == set(ORIENTATIONS)
    assert len(found) > 25
    assert np.percentile(found, 80) < 2.0


def test_displacements_are_those_of_the_patient_however_the_image_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("carm_perception.datasets.rendering.acquisition.ORIENTATION_CHANCES", (0.25,) * 4)
    rng = np.random.default_rng(6)
    scan = xrays.draw_scan(rng, BeadBody(1), "beads")  # type: ignore[arg-type]
    seen = set()
    for _ in range(20):
        xray = xrays.draw_xray(rng, scan, ViewDistribution())
        orientation = xray.capture.orientation
        center = (np.array(xray.image.shape[::-1]) - 1) / 2
        shown = (xray.landmark_px - center) * xray.mm_per_px * (1, -1)
        signs = {UPRIGHT: (1, 1), MIRRORED: (-1, 1), TURNED: (-1, -1), FLIPPED: (1, -1)}[orientation]
        seen.add(orientation)
        np.testing.assert_allclose(shown * signs, xray.displacement_mm, rtol=0.01, atol=0.5)
        inside = np.nan_to_num(np.abs(xray.displacement_mm), nan=1e9) * 2 <= np.array(xray.image.shape[::-1]) * 2000
        assert inside[xray.visible].all()
        left, top, right, bottom = xray.field_px
        assert -0.5 <= left < right <= xray.image.shape[1] - 0.5
        assert -0.5 <= top < bottom <= xray.image.shape[0] - 0.5
    assert seen == set(ORIENTATIONS)


def test_a_view_is_repeatable_and_the_seed_matters() -> None:
    def image(seed: int) -> Any:
        rng = np.random.default_rng(seed)
        return xrays.draw_xray(rng, xrays.draw_scan(rng, BeadBody(0), "beads"), ViewDistribution())  # type: ignore[arg-type]

    one, two, other = image(1), image(1), image(2)
    np.testing.assert_array_equal(one.image, two.image)
    assert one.image.shape != other.image.shape or not np.array_equal(one.image, other.image)


def test_images_are_quantized_with_the_noise_and_the_file_that_were_drawn() -> None:
    rng = np.random.default_rng(0)
    plain = replace(draw_capture(rng), noise=0.0, jpeg_quality=0)
    gray = np.tile(np.linspace(0, 1, 64, dtype=np.float32), (64, 1))
    np.testing.assert_array_equal(finish(gray, plain, rng), np.rint(gray * 255))
    assert np.std(finish(gray, replace(plain, noise=0.03), rng) - gray * 255) == pytest.approx(7.65, rel=0.15)
    assert not np.array_equal(finish(gray, replace(plain, jpeg_quality=25), rng), finish(gray, plain, rng))


def test_hardware_that_is_drawn_exists() -> None:
    assert set(xrays.HARDWARE) <= set(HARDWARE) | set(FINDINGS)


def test_hugging_face_datasets_reads_both_formats_of_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", True)
    for split in ("train", "validation"):
        generate(tmp_path, small(split, 1), workers=1, progress=False)
    generate(tmp_path, BeadSpec("train", 1, views=2, patients_per_shard=1), workers=1, progress=False)
    loaded = datasets.load_dataset(str(tmp_path), "xray", cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 3, "validation": 3}
    row = loaded["train"][0]
    assert row["image"].mode == "L"
    assert row["patient"] == "phantom:100000"
    assert len(row["displacement_mm"]) == len(row["landmark_px"]) == 2 * len(LANDMARKS)
    assert len(row["landmark_mm"]) == 3 * len(LANDMARKS)
    assert isinstance(row["visible"][0], bool)
    assert loaded["validation"][0]["patient"] == "phantom-validation:500000"
    integrals = datasets.load_dataset(str(tmp_path), "integrals", cache_dir=str(tmp_path / "cache"))
    assert integrals["train"][1]["bone"].size == (176, 176)


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
import pyarrow.parquet as pq
from beads import BeadSpec
from carm_perception.datasets.storage.dataset import generate
write, calls = pq.write_table, []
def dying(table, path, **more):
    calls.append(path)
    write(table, path, **more)
    if len(calls) == 2:
        os.truncate(path, 999)
        os.kill(os.getpid(), signal.SIGKILL)
pq.write_table = dying
spec = BeadSpec("train", 3, views=3, patients_per_shard=1, format="xray")
generate(Path(sys.argv[1]), spec, workers=1, progress=False)
"""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run([sys.executable, "-c", script, killed], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(shards(killed)) == 1
    assert len(list(killed.glob("*.part"))) == 1
    assert generate(killed, small(), workers=1, progress=False) == 2
    assert not list(killed.glob("*.part"))
    assert generate(whole, small(), workers=1, progress=False) == 3
    assert shards(killed) == shards(whole)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    generate(tmp_path, small(patients=1), workers=1, progress=False)
    before = shards(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        with pytest.raises(StorageError, match="finished shards are kept") as caught:
            generate(tmp_path, small(), workers=1, progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert shards(tmp_path) == before
    assert not list(tmp_path.glob("*.part"))
    assert generate(tmp_path, small(), workers=1, progress=False) == 2


def test_unknown_format_and_engine_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="unknown format 'dicom'; there are integrals, xray"):
        DatasetSpec(format="dicom")
    with pytest.raises(ConfigurationError, match="unknown engine"):
        generate(tmp_path, small(patients=1), progress=False, engine="slurm")


def test_workers_of_this_machine_do_all_tasks() -> None:
    assert sorted(engine.run("local", math.factorial, [3, 1, 4], 2)) == [1, 6, 24]
    assert engine.available_cores() >= 1


def test_workers_end_with_the_one_who_asked() -> None:
    results = engine.run("local", time.sleep, [0.0, 3600.0], 2)
    next(iter(results))
    processes = multiprocessing.active_children()
    results.close()  # type: ignore[attr-defined]
    assert processes
    # The pool's own thread joins them too, and only one of two joins learns that a process has ended.
    for process in processes:
        assert connection.wait([process.sentinel], timeout=30)


@pytest.mark.integration
def test_ray_makes_the_same_shards(tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        ray.cloudpickle.register_pickle_by_value(sys.modules[BeadSpec.__module__])
        assert generate(tmp_path / "ray", small(patients=2), progress=False, engine="ray") == 2
        with pytest.raises(StorageError, match="cannot write"):
            list(engine.run("ray", dataset.write_shard, [dataset.Shard(tmp_path / "no" / "x", [1], small())], 1))
    finally:
        ray.shutdown()
    generate(tmp_path / "local", small(patients=2), workers=1, progress=False)
    assert shards(tmp_path / "ray") == shards(tmp_path / "local")


def test_sizes_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[DatasetSpec] = []

    def note(folder: Path, spec: DatasetSpec, workers: int, engine: str) -> int:
        made.append(spec)
        return len(spec.shards())

    monkeypatch.setattr("carm_perception.datasets.storage.dataset.generate", note)
    import argparse

    parser = argparse.ArgumentParser()
    commands.add_dataset_arguments(parser)
    assert commands.run_dataset(parser.parse_args(["--output", str(tmp_path)])) == 0
    assert [spec.patients * spec.views for spec in made] == [51_200, 10_240]
    assert {spec.format for spec in made} == {"xray"}
    assert "640 patients x 80 views" in capsys.readouterr().out
    formats = {*commands.DATASET_SIZES, *(f"body-part-{name}" for name in commands.DATASET_SIZES)}
    assert formats == set(dataset.FORMATS)
    made.clear()
    assert commands.run_dataset(parser.parse_args(["--task", "body-part", "--output", str(tmp_path)])) == 0
    assert [(spec.format, spec.patients, spec.views) for spec in made] == [
        ("body-part-xray", 110, 80),
        ("body-part-xray", 7, 80),
    ]


def test_rows_name_their_patient_and_view(tmp_path: Path) -> None:
    generate(tmp_path, small(patients=1), workers=1, progress=False)
    table = pq.read_table(next(tmp_path.glob("xray-train-*.parquet")))
    assert table.column_names == list(xrays.FIELDS)
    row = table.to_pylist()[0]
    assert row["image"]["bytes"][:4] == b"\x89PNG"
    assert row["seed"] == 100_000
    assert json.loads((tmp_path / "xray-train.json").read_text(encoding="utf-8"))["format"] == "xray"


def test_a_shard_that_promises_far_more_than_its_size_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from carm_perception.datasets.storage.shards import open_shard

    path = tmp_path / "train-000.parquet"
    pq.write_table(pa.table({"image": [b"x"] * 2_000_000}), path, compression="zstd")
    with pytest.raises(ConfigurationError, match="promise 2000000 images"):
        open_shard(path)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigurationError, match="cannot read shard"):
        open_shard(path)


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x75\x30\0\0\x75\x30\x08\0\0\0\0" + bytes(4)]
)
def test_an_image_of_a_shard_is_checked_before_it_is_decoded(content: bytes) -> None:
    from carm_perception.datasets.storage.shards import decoded

    with pytest.raises(ConfigurationError, match="cannot read shard a"):
        decoded(content, Path("a"))


def lab_ct(folder: Path, number: int = 0) -> KnownCt:
    """Write a CT with landmarks as a lab has it."""
    import nibabel

    body = BeadBody(number)
    folder.mkdir(parents=True)
    path = folder / "ct.nii.gz"
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ body.volume.transform_voxel_to_lps
    nibabel.save(nibabel.Nifti1Image(body.volume.hu, affine), path)
    checksum = ct_checksum(path)
    write_landmarks(LandmarkFile(checksum, body.landmarks_mm, {}, "beads"), folder / LANDMARK_FILE)
    return KnownCt(str(path), checksum)


def test_cts_of_a_folder_are_found_and_split_by_what_they_hold(tmp_path: Path) -> None:
    made = [lab_ct(tmp_path / name / f"patient{number}", number % 2) for number, name in enumerate(("a", "a", "b"))]
    found = find_cts([str(tmp_path / "a"), made[0].path, str(tmp_path / "b")])
    assert [ct.checksum for ct in found] == [made[0].checksum, made[1].checksum]  # the third is the first again
    assert made[0].split == made[2].split
    assert "patient" not in found[0].name
    splits = [KnownCt("", f"{number:08x}{'0' * 56}").split for number in range(0, 2**32, 2**22)]
    shares = [splits.count(split) / len(splits) for split in dataset.SPLITS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_cts_that_may_not_be_trained_on_are_one_line(tmp_path: Path) -> None:
    ct = lab_ct(tmp_path / "ct")
    (tmp_path / "ct" / LANDMARK_FILE).unlink()
    with pytest.raises(ConfigurationError, match=f"carm patient landmarks {ct.path}"):
        find_cts([ct.path])
    for same in ("chest_ct", str(chest_ct_path())):
        with pytest.raises(ConfigurationError, match="never trained on"):
            find_cts([same])
    with pytest.raises(ConfigurationError, match="path of a CT"):
        find_cts(["phantom:7"])
    other = next(split for split in dataset.SPLITS if split != ct.split)
    with pytest.raises(ConfigurationError, match="belongs to split"):
        DatasetSpec(other, cts=(ct,))


@pytest.mark.parametrize("kind", ["xray", "integrals"])
def test_views_of_cts_are_beside_those_of_phantoms(kind: str, tmp_path: Path) -> None:
    ct = lab_ct(tmp_path / "ct")
    spec = BeadSpec(ct.split, 1, views=2, patients_per_shard=1, format=kind, cts=(ct,), ct_views=3)
    assert generate(tmp_path / "data", spec, workers=1, progress=False) == 2
    assert generate(tmp_path / "data", spec, workers=1, progress=False) == 0
    (shard,) = (tmp_path / "data").glob("*-ct-*.parquet")
    assert shard.name.startswith(spec.prefix)
    rows = pq.read_table(shard).to_pylist()
    assert len(rows) == 3
    assert {(row["patient"], row["split"]) for row in rows} == {(ct.name, ct.split)}
    assert np.isfinite(np.array([row["displacement_mm"] for row in rows])).any()
    card = (tmp_path / "data" / "README.md").read_text(encoding="utf-8")
    assert "CTs of real patients" in card
    assert "No image of a real person" not in card
    if kind == "integrals":
        assert ViewStore().refresh(tmp_path / "data", ct.split) == 5


def test_the_command_takes_cts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import argparse

    ct, made = lab_ct(tmp_path / "ct"), []
    monkeypatch.setattr("carm_perception.datasets.storage.dataset.generate", lambda *a, **_: made.append(a[1]) or 0)
    parser = argparse.ArgumentParser()
    commands.add_dataset_arguments(parser)
    words = ["--output", str(tmp_path), "--ct", ct.path, "--patients", "100", "--split", ct.split]
    phantoms = 8000 if ct.split == "train" else 1600
    for more, views in (([], min(1000, phantoms // 4)), (["--ct-share", "0.5"], phantoms)):
        assert commands.run_dataset(parser.parse_args([*words, *more])) == 0
        assert (made[-1].cts, made[-1].ct_views) == ((ct,), views)
    with pytest.raises(ConfigurationError, match="--ct-share needs CTs"):
        commands.run_dataset(parser.parse_args(["--output", str(tmp_path), "--ct-share", "0.5"]))
