# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.evaluation.metrics import closest
from carm_perception.networks.vision_language_model import CompactSize
from carm_perception.protocols.parsing import (
    EXTENTS,
    LocalizationAnswer,
    NavigationAnswer,
    PointingAnswer,
    ReevaluationAnswer,
    extent,
    parse,
)
from carm_perception.training.compact import targets
from carm_perception.training.compact.questions import EXTRA_KINDS, QuestionPacker
from carm_perception.training.compact.recipe import fresh
from carm_perception.training.compact.stages import answer_logits
from carm_perception.training.compact.tokenizer import build_tokenizer

TINY = CompactSize(8, (8, 8, 16, 16), (1, 1, 1, 1), 32, 1, 2, 1, 32)
SEEDS = st.integers(0, 2**32 - 1)
TOKENIZER = build_tokenizer()


def draw(seed: int) -> tuple[np.random.Generator, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.normal(0, rng.choice((15, 80, 300)), (len(LANDMARKS), 2))
    truth[rng.random(len(LANDMARKS)) < 0.2] = np.nan
    truth[:4] = np.nan_to_num(truth[:4])
    return rng, truth


@given(SEEDS)
def test_answers_obey_their_protocols_and_tell_the_truth(seed: int) -> None:
    rng, truth = draw(seed)
    target = int(rng.choice(np.flatnonzero(np.isfinite(truth).all(-1)))) + 1
    right, up = truth[target - 1]
    answer = parse(targets.text(targets.navigation(target, truth)), Query(Protocol.NAVIGATION, target))
    assert isinstance(answer, NavigationAnswer)
    assert (answer.extent_x, answer.extent_y) == (extent(right), extent(up))
    assert answer.x == ("CENTER" if abs(right) < 10 else "LEFT" if right > 0 else "RIGHT")
    assert answer.y == ("CENTER" if abs(up) < 10 else "UP" if up > 0 else "DOWN")
    pointed = parse(targets.text(targets.pointing(target, truth[target - 1])), Query(Protocol.POINTING, target))
    assert isinstance(pointed, PointingAnswer)
    assert abs(pointed.dx_mm - np.clip(right, -400, 400)) <= 0.5
    earlier = targets.earlier_answer(truth, rng)
    again = parse(targets.text(targets.reevaluation(earlier, truth)), Query(Protocol.REEVALUATION))
    assert isinstance(again, ReevaluationAnswer)
    assert again.landmark_ids == closest(truth, 2)
    assert parse(targets.text(targets.localization(truth)), Query(Protocol.LOCALIZATION)).landmark_ids == closest(
        truth, 2
    )
    assert parse(targets.text(targets.retrieval(truth)), Query(Protocol.RETRIEVAL)).landmark_ids == closest(truth, 3)


@given(SEEDS)
def test_every_piece_is_one_token(seed: int) -> None:
    rng, truth = draw(seed)
    earlier = targets.earlier_answer(truth, rng)
    for pieces in (targets.navigation(1, truth), targets.reevaluation(earlier, truth), targets.retrieval(truth)):
        text = targets.text(pieces)
        ids = TOKENIZER.encode(text, add_special_tokens=False)
        assert [TOKENIZER.decode([i]) for i in ids] == [piece.text for piece in pieces]
        assert TOKENIZER.decode(ids) == text


def test_half_of_the_earlier_answers_are_wrong() -> None:
    rng, truth = draw(3)
    first = closest(truth, 1)[0]
    answers = [targets.earlier_answer(truth, rng) for _ in range(2000)]
    assert all(len(set(answer)) == 2 for answer in answers)
    assert 0.45 < np.mean([answer[0] != first for answer in answers]) < 0.55


def test_words_for_lengths_grow() -> None:
    assert [extent(value) for value in (-9.9, 10, -39, 40, 99, -100, 5000)] == [
        "NONE",
        "SMALL",
        "SMALL",
        "MODERATE",
        "MODERATE",
        "LARGE",
        "LARGE",
    ]
    assert all(extent(typical) == word for word, (_, typical, _) in EXTENTS.items())


@pytest.mark.parametrize("kind", EXTRA_KINDS)
def test_questions_of_unequal_length_do_not_disturb_each_other(kind: Protocol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "carm_perception.training.compact.questions.EXTRA_CHANCES", [float(kind is k) for k in EXTRA_KINDS]
    )
    compact, tokenizer = fresh(TINY, 0)
    compact.eval()
    packer = QuestionPacker(tokenizer)
    truth = np.stack([draw(seed)[1] for seed in range(4)])
    packed = packer.pack(truth, np.random.default_rng(1))
    assert (packed.weights == 0).any(), "no row was padded"
    tokens = compact.tokens(torch.rand(4, 128, 128))
    with torch.no_grad():
        logits = answer_logits(compact.model, tokens, packed)
        other = answer_logits(compact.model, compact.tokens(torch.rand(4, 128, 128)), packed)
    for row in range(4):
        first = int(packed.positions[row, 0])
        ids = packed.input_ids[row, : first + 8][None]
        embedded = compact.model.get_input_embeddings()(ids)
        embedded[:, 1 : 1 + tokens.shape[1]] = tokens[row]
        with torch.no_grad():
            alone = compact.model(inputs_embeds=embedded).logits[0, -8:]
        torch.testing.assert_close(logits[row, :8], alone, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(logits[:, :24], other[:, :24], atol=1e-6)


def test_the_clinicians_words_are_read_alone() -> None:
    compact, tokenizer = fresh(TINY, 0)
    compact.eval()
    packer = QuestionPacker(tokenizer)
    segment = packer._command(np.random.default_rng(0))
    packed = packer._packed([[packer._point(3, np.array([12.0, -7.0])), segment]], packer.prefix)
    tokens = compact.tokens(torch.rand(1, 128, 128))
    with torch.no_grad():
        together = answer_logits(compact.model, tokens, packed)[0, -len(segment.answer) :]
        ids = torch.tensor([[packer.prefix[0], *segment.prompt, *segment.answer[:-1]]])
        alone = compact.model(input_ids=ids).logits[0, -len(segment.answer) :]
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_an_earlier_answer_of_any_protocol_is_understood() -> None:
    from carm_perception.protocols.reevaluation import earlier_list

    assert earlier_list("[10,11]") == "[10,11]"
    assert earlier_list("[11: Carina, 10: T1, 12: Right hemidiaphragm]") == "[11,10]"
    assert earlier_list(PointingAnswer(4, 10, -20).text()) == "[4]"
    assert earlier_list(ReevaluationAnswer("it is lower", (2, 4)).text()) == LocalizationAnswer((2, 4)).text()
    assert earlier_list("a banana") == ""
