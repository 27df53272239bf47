# SPDX-License-Identifier: Apache-2.0
"""Classifiers of body parts: the compact one, large ones, and what their answers are worth."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from carm_core.body_parts import BODY_PARTS
from carm_core.errors import AnswerError, ConfigurationError, LocalizerError, UnknownNameError
from carm_perception.classifiers.asked import AskedClassifier
from carm_perception.classifiers.classifier import Classification
from carm_perception.classifiers.compact import CompactClassifier
from carm_perception.classifiers.registry import check_name, make_classifier
from carm_perception.datasets.body_parts.subjects import make_subject
from carm_perception.datasets.body_parts.xrays import Imager
from carm_perception.evaluation.body_part import command
from carm_perception.evaluation.body_part.scoring import PartRecord, asked, figures_of
from carm_perception.localizers.openai.localizer import under
from carm_perception.localizers.registry import LocalizerOptions
from carm_perception.networks.body_part_network import BodyPartNetwork, load_network, save_network
from carm_perception.networks.body_part_reader import BODY_PART_FILE, BODY_PART_FOLDER, model_square
from carm_perception.protocols.body_parts import PartForm, parse_parts, part_grammar, part_prompt
from carm_perception.protocols.grammar import Grammar

from ..tiny_models import build

Labeled = tuple[str, tuple[int, ...], NDArray[np.uint8]]
GRAY = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))


@pytest.fixture(scope="module")
def radiographs() -> list[Labeled]:
    """Radiographs of a body that no weights were trained on."""
    imager = Imager(np.random.default_rng(8), make_subject(830952, spacing_mm=4.0))
    taken = [imager.take() for _ in range(24)]
    return [(str(number), one.exam.part_ids, one.image) for number, one in enumerate(taken)]


def evaluate(*words: str) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_compact_classifier_recognizes_unseen_bodies(radiographs: list[Labeled]) -> None:
    figures = figures_of(list(asked(CompactClassifier(), radiographs)))
    assert figures["malformed"] == figures["failed"] == 0
    assert figures["hit_2"] >= 0.75  # by chance it would be 0.1
    assert figures["hit_1"] >= 0.5


def test_the_weights_are_small() -> None:
    assert (BODY_PART_FOLDER / BODY_PART_FILE).stat().st_size < 10_000_000


def test_forms_of_the_compact_answer() -> None:
    classifier = CompactClassifier()
    pair = classifier.classify(GRAY, PartForm.PAIR)
    label = classifier.classify(GRAY)
    assert parse_parts(pair.answer, PartForm.PAIR).part_ids == pair.part_ids
    assert len(pair.part_ids) == 2
    assert label.part_ids[0] == pair.part_ids[0]
    assert 0 < label.confidence < 1
    assert label.latency_s > 0


@pytest.mark.parametrize("image", [np.zeros((8, 40), np.uint8), np.zeros((40, 40), np.float32)])
def test_what_is_no_image_is_refused(image: NDArray[np.uint8]) -> None:
    reply = CompactClassifier().classify(image)
    assert (reply.error, reply.part_ids) == ("internal", ())
    assert "a display image is uint8" in reply.message


def test_squares_use_the_whole_range() -> None:
    square = model_square(np.clip(GRAY, 100, 140))
    assert (square.shape, square.min(), square.max()) == ((128, 128), 0, 255)
    assert model_square(np.full((300, 20), 7, np.uint8)).max() == 0


@pytest.mark.parametrize("form", list(PartForm))
def test_grammar_and_parser_agree(form: PartForm) -> None:
    allowed = part_grammar(form)
    texts = ["[9,21]", "[9,9]", "[9]", "[22,1]", "<label_id>9,21</label_id>", "<label_id>0</label_id>", "9", "[09,1]"]
    texts += ["<label_id>9,9</label_id>", "<label_id></label_id>", "<label_id>22</label_id>"]
    for text in texts:
        try:
            readable = parse_parts(text, form).text() == text
        except AnswerError:
            readable = False
        assert allowed.admits(text) == readable, text
    assert allowed.longest >= len("[20,21]")
    assert all(f"{number}: {name}" in part_prompt(form) for number, name in enumerate(BODY_PARTS))


class Scripted:
    """A model that says what it is told to."""

    name = "scripted"

    def __init__(self, *answers: str) -> None:
        self.answers, self.prompts = list(answers), list[str]()

    def write(self, image: NDArray[np.uint8], prompt: str, allowed: Grammar) -> str:
        self.prompts.append(prompt)
        return self.answers.pop(0)

    def close(self) -> None:
        self.answers.clear()


def test_a_malformed_answer_is_asked_for_once_more() -> None:
    model = Scripted("It is a hand.", "[9,21]")
    reply = AskedClassifier(model).classify(GRAY, PartForm.PAIR)
    assert reply.part_ids == (9, 21)
    assert len(model.prompts) == 2
    reply = AskedClassifier(Scripted("[9]", "a hand")).classify(GRAY, PartForm.PAIR)
    assert (reply.error, reply.part_ids, reply.answer) == ("malformed", (), "a hand")


def test_a_real_model_answers_under_the_grammar(tmp_path: Path) -> None:
    folder = build("Qwen2_5_VLForConditionalGeneration", tmp_path / "tiny")
    classifier = make_classifier(str(folder), LocalizerOptions(device="cpu"))
    for form in PartForm:
        reply = classifier.classify(GRAY, form)
        assert reply.error is None, reply.message
        assert part_grammar(form).admits(reply.answer)
    classifier.close()


def test_a_server_is_told_the_grammar() -> None:
    form = part_grammar(PartForm.PAIR)
    assert under("structured_outputs", form)["structured_outputs"] == {"regex": form.regex}
    assert under("guided_regex", form)["guided_regex"] == form.regex
    assert under("none", form) == {}


def test_figures_strict_and_as_published() -> None:
    def record(truth: tuple[int, ...], label: str, pair: str) -> PartRecord:
        replies = []
        for form, text in ((PartForm.LABEL, label), (PartForm.PAIR, pair)):
            try:
                replies.append(Classification("x", form, text, parse_parts(text, form).part_ids, latency_s=0.1))
            except AnswerError:
                replies.append(Classification("x", form, text, latency_s=0.1, error="malformed"))
        return PartRecord("x", truth, *replies)

    records = [
        record((9, 21), "<label_id>21,9</label_id>", "[21,3]"),
        record((3,), "<label_id>3,4</label_id>", "[4,3]"),
        record((3,), "chest", "The answer is [3, 9]"),
        record((0,), "<label_id>1</label_id>", "abdomen"),
    ]
    figures = figures_of(records)
    assert (figures["hit_1"], figures["hit_2"], figures["exact"]) == (0.25, 0.5, 0.25)
    assert (figures["malformed"], figures["always_chest"]) == (3 / 8, 0.5)
    assert figures["as_published"] == {"n": 3, "hit_1": round(2 / 3, 4), "hit_2": 1.0}
    assert figures["per_body_part"]["Chest"]["n"] == 2


def test_weights_are_checked(tmp_path: Path) -> None:
    with pytest.raises(LocalizerError, match="lacks body_part"):
        CompactClassifier(tmp_path)
    path = save_network(BodyPartNetwork(), tmp_path)
    assert load_network(tmp_path).training is False
    path.write_bytes(b"nonsense")
    with pytest.raises(LocalizerError, match="does not belong to this network"):
        load_network(tmp_path)


def test_names() -> None:
    for name in ("fused", "oracle"):
        with pytest.raises(UnknownNameError, match="classifier"):
            check_name(name)
    with pytest.raises(ConfigurationError, match="no adapter"):
        make_classifier("compact", LocalizerOptions(adapter="x/y"))


def test_the_command_on_a_folder(
    radiographs: list[Labeled], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = ["SOPInstanceUID,Target"]
    for name, ids, gray in radiographs[:6]:
        Image.fromarray(gray).save(tmp_path / f"{name}.png")
        rows.append(f"{name},{' '.join(map(str, ids))} ")
    (tmp_path / "test.csv").write_text("\n".join([*rows, "missing,3"]))
    file = tmp_path / "figures.json"
    assert evaluate("--data", str(tmp_path), "--json", str(file)) == 1
    told = capsys.readouterr()
    assert "missing: no image of this name" in told.err
    assert "6 images" in told.out
    figures = json.loads(file.read_text())["results"][f"compact/{tmp_path.name}"]
    assert figures["n"] == figures["as_published"]["n"] == 6
    with pytest.raises(ConfigurationError, match="no labeled image of split train"):
        evaluate("--data", str(tmp_path), "--split", "train")
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(ConfigurationError, match="needs a CSV file"):
        evaluate("--data", str(empty))
    with pytest.raises(UnknownNameError):
        evaluate("--data", str(tmp_path), "--classifier", "fused")
