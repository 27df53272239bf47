# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.imaging.projection import Detector
from carm_core.landmarks import ALL_LANDMARKS, LANDMARKS, ROWS
from carm_core.robot.kinematics import CArm
from carm_perception.datasets.storage import dataset
from carm_perception.datasets.storage.dataset import SPLITS, DatasetSpec, generate
from carm_perception.datasets.storage.store import ViewStore, without_missing_limbs
from carm_perception.datasets.views import (
    ROTATION_TABLE_TO_LPS,
    ViewDistribution,
    make_view,
    rotation_optical_to_table,
    sample_view,
)
from carm_perception.networks.landmark_network import SIDE, LandmarkLocalizer, LocalizerSize
from carm_perception.networks.vision_language_model import GRID, MEAN, STD, CompactSize, PresenceHead, normalize
from carm_perception.training.compact.augment import (
    Batch,
    center_crop,
    plain_display,
    random_crop,
    random_display,
    with_bowel,
)
from carm_perception.training.compact.checkpoints import Budget, learning_rate
from carm_perception.training.compact.landmark_stage import localizer_loss
from carm_perception.training.compact.losses import displacement_loss, ordinal_loss, presence_loss
from carm_perception.training.compact.questions import COMMANDS, QuestionPacker
from carm_perception.training.compact.recipe import RecipeOptions, fresh, train_compact
from carm_perception.training.compact.stages import StageOptions, answer_logits, stage_two
from carm_sim.patient.volume import Volume
from carm_sim.phantom import PhantomBody

TINY = CompactSize(stem=8, channels=(8, 8, 16, 16), blocks=(1, 1, 1, 1), hidden=32, layers=1, intermediate=32)
TINY = CompactSize(TINY.stem, TINY.channels, TINY.blocks, 32, 1, 2, 1, 32)
TINY_LOCALIZER = LocalizerSize(TINY.stem, TINY.channels, TINY.blocks, 16, 2, 16, 1, 1, 8, 8)


def test_views_are_those_of_the_arm() -> None:
    carm = CArm.from_config()
    rng = np.random.default_rng(0)
    for _ in range(20):
        primary, secondary = rng.uniform(-25, 25, 2)
        positions = carm.inverse(np.array([0.05, 0.02, 0.1]), *np.radians((primary, secondary)))[0]
        rotation = rotation_optical_to_table(primary, secondary)
        np.testing.assert_allclose(rotation, carm.view(positions).rotation, atol=1e-9)


def test_display_axes_of_a_straight_view_are_left_and_head() -> None:
    view = make_view(np.zeros(3), (0.0, 0.0, 0.0), Detector(64, 64, 4.0), (1020.0, 530.0))
    np.testing.assert_allclose(view.displacement_mm([[10.0, 0, 0], [0, 0, 10.0]]), [[10, 0], [0, 10]], atol=1e-9)
    np.testing.assert_allclose(np.linalg.det(ROTATION_TABLE_TO_LPS), 1.0)


def test_sampled_isocenters_stay_in_the_scan() -> None:
    rng = np.random.default_rng(1)
    marks = {m.id: rng.uniform(-100, 100, 3) for m in LANDMARKS}
    box = np.full(3, -90.0), np.full(3, 90.0)
    for _ in range(100):
        sampled = sample_view(rng, marks, box, Detector(64, 64, 4.0), (1020.0, 530.0))
        assert -90 <= sampled.isocenter_mm[2] <= 90
        np.testing.assert_allclose(sampled.view.isocenter_mm, sampled.isocenter_mm, atol=1e-9)


def test_views_of_whole_bodies_lie_anywhere_along_them() -> None:
    rng = np.random.default_rng(2)
    marks = {m.id: rng.uniform(-100, 100, 3) for m in LANDMARKS}
    box = np.array([-300.0, -200.0, -900.0]), np.array([300.0, 200.0, 300.0])
    place = Detector(64, 64, 4.0), (1020.0, 530.0)
    heights = {
        fraction: [
            sample_view(rng, marks, box, *place, ViewDistribution(anywhere_fraction=fraction)).isocenter_mm[2]
            for _ in range(200)
        ]
        for fraction in (0.0, 1.0)
    }
    assert min(heights[0.0]) > -700
    assert np.histogram(heights[1.0], 4, (-900, 300))[0].min() > 30


def blobs(count: int, seed: int) -> Batch:
    """Stored views with one blob each at the place of the first landmark."""
    rng = torch.Generator().manual_seed(seed)
    marks = torch.randn(count, len(LANDMARKS), 2, generator=rng) * 15
    side, spacing = 176, 1.2
    axis = torch.arange(side) - (side - 1) / 2
    right, down = marks[:, 0, 0] / spacing, -marks[:, 0, 1] / spacing
    distance = (axis[None, None, :] - right[:, None, None]) ** 2 + (axis[None, :, None] - down[:, None, None]) ** 2
    image = torch.exp(-distance / 18)
    return Batch(image, image, marks, torch.full((count,), spacing))


def test_labels_follow_the_random_crop() -> None:
    batch = blobs(24, 3)
    soft, _, marks = random_crop(batch, torch.Generator().manual_seed(0))
    assert float((marks - batch.displacement_mm)[:, 0].abs().max()) > 5
    places = marks[:, 0] * torch.tensor([1.0, -1.0]) / 1.2 * 2 / 128
    there = torch.nn.functional.grid_sample(soft[:, None], places[:, None, None], align_corners=False).flatten()
    assert float(there.min()) > 0.94  # of the blob's 1.0: within 1 pixel, or 1.2 mm, less what interpolation takes


def test_random_display_is_a_repeatable_gray_image() -> None:
    soft, bone, _ = center_crop(blobs(8, 5))
    one, two = (random_display(200 * soft, 20 * bone, torch.Generator().manual_seed(9)) for _ in range(2))
    assert torch.equal(one, two)
    assert one.shape == (8, 128, 128)
    assert float(one.min()) >= 0
    assert float(one.max()) <= 1
    assert not torch.equal(one, random_display(200 * soft, 20 * bone, torch.Generator().manual_seed(10)))
    assert plain_display(200 * soft, 20 * bone).isfinite().all()


def test_bowel_lies_in_front_of_abdomens_only() -> None:
    count = 40
    soft, spacing = torch.full((count, 128, 128), 200.0), torch.full((count,), 1.2)
    marks = torch.full((count, len(ALL_LANDMARKS), 2), torch.nan)
    for key, place in ((12, (-60.0, 140.0)), (13, (60.0, 140.0)), (120, (0.0, -40.0))):
        marks[:, ROWS[key]] = torch.tensor(place)
    marks[:10] += 600.0  # far away
    marks[10:20, ROWS[12]] = torch.nan  # not known
    one, two = (with_bowel(soft, marks, spacing, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(one[:20], soft[:20])
    changed = (one[20:] != 200.0).any((1, 2))
    assert 5 < int(changed.sum()) < 20
    assert float(one.min()) >= 0
    assert float(one.min()) < 180 < 200 < float(one.max())  # gas and stool


def test_ordinal_loss_prefers_near_misses() -> None:
    ids = torch.arange(801) + 5
    losses = []
    for guess in (0, 3, 10, 50):
        logits = torch.zeros(1, 810)
        logits[0, 5 + 400 + guess] = 12.0
        losses.append(float(ordinal_loss(logits, torch.tensor([0.2]), ids, 2.5)))
    assert losses == sorted(losses)
    beyond = ordinal_loss(torch.zeros(1, 810), torch.tensor([900.0]), ids, 2.5)
    assert beyond.isfinite().all()


def test_presence_loss_finds_the_cell_of_a_landmark() -> None:
    truth = torch.full((1, 14, 2), float("nan"))
    truth[0, 0] = torch.tensor([60.0, 30.0])
    truth[0, 1] = torch.tensor([900.0, 0.0])
    spacing = torch.tensor([1.2])
    logits = torch.zeros(1, 14, 257, requires_grad=True)
    for _ in range(200):
        (gradient,) = torch.autograd.grad(presence_loss(logits, truth, spacing), logits)
        logits = (logits - 5 * gradient).detach().requires_grad_()
    row, column = divmod(int(logits[0, 0].argmax()), 16)
    assert column == int((60 / 1.2 + 64) // 8)
    assert row == int((-30 / 1.2 + 64) // 8)
    assert int(logits[0, 1].argmax()) == 256
    assert not logits[0, 2:].any()


def test_every_parameter_is_trained(tmp_path: Path) -> None:
    compact, tokenizer = fresh(TINY, 0)
    stage = stage_two(compact, tokenizer, StageOptions(), tmp_path)
    trained = {id(p) for group in stage.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in compact.parameters()}


def test_presence_cells_lie_in_the_field_of_their_token() -> None:
    head = PresenceHead(8)
    tokens = torch.zeros(1, GRID * GRID, 8)
    changed = tokens.clone()
    changed[0, GRID + 2] = torch.randn(8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        cells = (head(changed) - head(tokens))[0, :, :-1].abs().sum(0).view(16, 16)
    rows, columns = torch.nonzero(cells > 1e-6, as_tuple=True)
    assert (int(rows.min()), int(rows.max())) == (4, 7)
    assert (int(columns.min()), int(columns.max())) == (8, 11)


def test_localizer_starts_with_the_models_tower_on_one_channel() -> None:
    compact, _ = fresh(TINY, 0)
    localizer = LandmarkLocalizer(TINY_LOCALIZER)
    localizer.start_from(compact.model.model.vision_tower)
    gray = torch.rand(2, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = compact.model.model.vision_tower.eval()(normalize(gray)).last_hidden_state
        found = localizer.tower.eval()((gray[:, None] - MEAN) / STD)[-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_localizer_learns_where_one_image_has_its_landmarks() -> None:
    torch.manual_seed(0)
    localizer = LandmarkLocalizer(TINY_LOCALIZER)
    gray = torch.rand(2, 128, 128)
    marks = torch.linspace(-60, 60, 96).view(1, 48, 2).repeat(2, 1, 1) * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    optimizer = torch.optim.AdamW(localizer.parameters(), 4e-3)
    losses = []
    for _ in range(100):
        loss, _ = localizer_loss(localizer, gray, marks, torch.full((2,), 1.21), 0.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 3
    mean, log_scale, logits = localizer(gray)
    assert mean.shape == log_scale.shape == (2, 48, 2)
    assert logits.shape == (2, 48, SIDE * SIDE + 1)
    likeliest = logits[0, 0].argmax().item()
    place = np.array([32 * (0.5 + 58.7 / 154.8), 32 * (0.5 - 60 / 154.8)])
    assert np.abs(np.array(divmod(likeliest, SIDE)) + 0.5 - place).max() < 1.2


def test_landmarks_of_missing_limbs_are_forgotten() -> None:
    image = np.zeros((1, 176, 176), np.uint8)
    image[0, :, 88:] = 50
    marks = np.zeros((1, 14, 2), np.float32)
    marks[0, 7] = -40.0, 10.0
    marks[0, 8] = 40.0, 10.0
    marks[0, 5] = -900.0, 0.0
    marks[0, 9] = -40.0, 0.0
    known = without_missing_limbs(marks, image, np.full(1, 1.2, np.float32))
    assert np.isnan(known[0, 7]).all()
    np.testing.assert_array_equal(np.delete(known[0], 7, 0), np.delete(marks[0], 7, 0))


def test_displacement_loss_ignores_unknown_landmarks() -> None:
    truth = torch.full((2, 14, 2), float("nan"))
    truth[:, 0] = 50.0
    right = torch.zeros(2, 14, 2)
    right[:, 0] = 0.5
    other = right.clone()
    other[:, 1:] = 99.0
    scale = torch.zeros(2, 14, 2)
    assert displacement_loss(right, scale, truth) == displacement_loss(other, scale, truth)
    assert displacement_loss(right, scale, truth) < displacement_loss(right + 0.1, scale, truth)


def test_packed_questions_are_answered_as_single_ones() -> None:
    compact, tokenizer = fresh(TINY, 0)
    compact.eval()
    packer = QuestionPacker(tokenizer, pointing=3)
    marks = np.random.default_rng(0).uniform(-300, 300, (2, 14, 2))
    tokens = compact.tokens(torch.rand(2, 128, 128))
    packed = packer.pack_all(marks)
    with torch.no_grad():
        together = answer_logits(compact.model, tokens, packed)
        answer = packed.labels[0, :8]
        last = 7 + 13 * 8  # the question about landmark 14
        prompt = tokenizer.encode("Point to 14: T12.<|assistant|>", add_special_tokens=False)
        ids = torch.tensor([[*packer.prefix, *prompt, *packed.labels[0, last - 7 : last].tolist()]])
        embedded = compact.model.get_input_embeddings()(ids)
        embedded[:, 1 : 1 + tokens.shape[1]] = tokens[:1]
        alone = compact.model(inputs_embeds=embedded).logits[0, -8:]
    assert len(answer) == 8
    torch.testing.assert_close(together[0, last - 7 : last + 1], alone, atol=1e-4, rtol=1e-3)


def test_packed_sentences_are_read_as_single_ones() -> None:
    compact, tokenizer = fresh(TINY, 0)
    compact.eval()
    packed = QuestionPacker(tokenizer).pack_commands(2, np.random.default_rng(0))
    assert packed.weights.sum() > 2 * COMMANDS
    with torch.no_grad():
        together = answer_logits(compact.model, None, packed)
        for row in range(2):
            first = packed.positions[row, 0]
            alone = compact.model(input_ids=packed.input_ids[row : row + 1, : first + 1]).logits[0, -1]
            torch.testing.assert_close(together[row, 0], alone, atol=1e-4, rtol=1e-4)


def test_schedule() -> None:
    time_s = [0.0]
    budget = Budget(100.0, spent=20.0, clock=lambda: time_s[0])
    assert budget.progress == pytest.approx(0.2)
    time_s[0] = 90.0
    assert budget.over
    rates = [learning_rate(p) for p in np.linspace(0, 1, 50)]
    assert max(rates) <= 1.01
    assert rates[-1] == pytest.approx(0.01)


@pytest.fixture
def bodies(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """A stand-in for the generator of phantoms: a box with beads, made at once."""
    made: list[tuple[int, str]] = []

    def body(
        seed: int, spacing_mm: float = 2.0, style: str = "standard", arms: str | None = None, whole_body: bool = False
    ) -> Any:
        made.append((seed, style))
        rng = np.random.default_rng(seed)
        hu: NDArray[np.int16] = np.full((60, 30, 80), -1000, np.int16)
        hu[5:55, 4:26, 2:78] = 20
        index = {m.id: rng.integers((10, 6, 6), (50, 24, 74)) for m in LANDMARKS}
        for i, j, k in index.values():
            hu[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2] = 1500
        affine = np.diag([6.0, 6.0, 6.0, 1.0])
        volume = Volume(hu, affine)
        marks = {key: volume.lps_from_voxel(value.astype(float)) for key, value in index.items()}

        class Body:
            pass

        out = Body()
        out.volume, out.landmarks_mm, out.extra_landmarks_mm = volume, marks, {}  # type: ignore[attr-defined]
        return out

    monkeypatch.setattr("carm_sim.phantom.generate_phantom", body)
    return made


def small(split: str, patients: int) -> DatasetSpec:
    return DatasetSpec(split, patients, views=4, patients_per_shard=2)


def test_data_set_is_resumable_and_split_by_patient(tmp_path: Path, bodies: list[tuple[int, str]]) -> None:
    assert generate(tmp_path, small("train", 3), workers=1, progress=False) == 2
    assert generate(tmp_path, small("train", 3), workers=1, progress=False) == 0
    shard = sorted(tmp_path.glob("train-*.parquet"))[0]
    before = shard.read_bytes()
    shard.unlink()
    assert generate(tmp_path, small("train", 3), workers=1, progress=False) == 1
    assert shard.read_bytes() == before
    generate(tmp_path, small("validation", 2), workers=1, progress=False)
    styles = dict(bodies)
    assert sorted(styles.values()) == ["living"] * 3 + ["validation"] * 2
    assert not list(tmp_path.glob("*.part"))
    assert "data_files" in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "train.json").read_text(encoding="utf-8"))["patients"] == 3


def test_rows_hold_view_image_and_truth(tmp_path: Path, bodies: list[tuple[int, str]]) -> None:
    generate(tmp_path, small("train", 2), workers=1, progress=False)
    table = pq.read_table(next(tmp_path.glob("train-*.parquet")))
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    assert set(features) == set(table.column_names)
    row = table.to_pylist()[0]
    assert row["image"]["bytes"][:4] == b"\x89PNG"
    view = make_view(
        np.array(row["isocenter_mm"]),
        (row["primary_deg"], row["secondary_deg"], row["roll_deg"]),
        Detector(64, 64, 4.0),
        (1020.0, 530.0),
    )
    truth = np.array(row["displacement_mm"]).reshape(48, 2)
    np.testing.assert_allclose(view.displacement_mm(np.array(row["landmark_mm"]).reshape(48, 3)), truth, atol=0.05)
    store = ViewStore()
    assert store.refresh(tmp_path, "train") == 8
    assert store.refresh(tmp_path, "train") == 0
    arrays = store.arrays(np.arange(8))
    assert arrays["soft"].shape == (8, 176, 176)
    assert arrays["soft"].max() > 50


def test_unwritable_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write"):
        generate(tmp_path / "file" / "set", small("train", 1), workers=1, progress=False)
    with pytest.raises(ConfigurationError, match="unknown split"):
        small("holdout", 1)
    with pytest.raises(ConfigurationError, match="at least 1"):
        DatasetSpec("train", patients=0)


def test_splits_cannot_share_a_seed() -> None:
    starts = sorted(first for _, first in SPLITS.values())
    assert min(np.diff(starts)) >= dataset.MAXIMUM_PATIENTS


def test_recipe_runs_resumes_and_exports(tmp_path: Path, bodies: list[tuple[int, str]]) -> None:
    generate(tmp_path / "data", small("train", 2), workers=1, progress=False)
    generate(tmp_path / "data", small("validation", 1), workers=1, progress=False)
    stage = StageOptions(seconds=600, steps=2, batch=4, evaluate_every_s=0.0, bf16=False)
    options = RecipeOptions(
        tmp_path / "data", tmp_path / "work", tmp_path / "model", stage, stage, stage, TINY, TINY_LOCALIZER, threads=1
    )
    assert train_compact(options, progress=False) == tmp_path / "model"
    lines = [json.loads(line) for line in (tmp_path / "work" / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {line["stage"] for line in lines} == {"tower", "language", "localizer"}
    assert all(np.isfinite(line["loss"]) for line in lines)
    first = (tmp_path / "model" / "model.safetensors").read_bytes()
    train_compact(options, progress=False)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == first

    from carm_perception.networks.loaded_model import LoadedModel

    loaded = LoadedModel(tmp_path / "model")
    assert len(loaded.version) == 12
    reading = loaded.read(XrayFrame(np.full((128, 128), 90, np.uint8), 1.21, 0.0))
    assert np.isfinite(reading.displacement_mm).all()
    assert reading.displacement_mm.shape == (48, 2)
    more = replace(
        options, work=tmp_path / "more", output=tmp_path / "next", start=tmp_path / "work" / "language.safetensors"
    )
    train_compact(more, progress=False)
    assert not (tmp_path / "more" / "tower.safetensors").exists()
    assert (tmp_path / "more" / "localizer.safetensors").exists()
    assert (tmp_path / "next" / "model.safetensors").read_bytes() != first
    with pytest.raises(ConfigurationError, match="no checkpoint"):
        train_compact(replace(more, start=tmp_path / "nothing.safetensors"), progress=False)
    (tmp_path / "work" / "tower.safetensors").write_bytes(b"damaged")
    with pytest.raises(ConfigurationError, match="damaged"):
        train_compact(options, progress=False)
    with pytest.raises(ConfigurationError, match="no train views"):
        train_compact(RecipeOptions(tmp_path, tmp_path / "w", tmp_path / "m"), progress=False)


def test_phantom_bodies_have_what_the_data_set_needs() -> None:
    assert {"volume", "landmarks_mm"} <= set(PhantomBody.__dataclass_fields__)
