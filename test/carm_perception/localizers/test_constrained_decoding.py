# SPDX-License-Identifier: Apache-2.0
"""Random weights under a grammar: whatever such a model says, it cannot break a protocol."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import Protocol, Query
from carm_perception.localizers.huggingface.generator import Decoding
from carm_perception.localizers.huggingface.localizer import HuggingFaceLocalizer
from carm_perception.protocols.grammar import grammar, json_schema
from carm_perception.protocols.parsing import parse

from ..tiny_models import BUILDERS, build

_LONGEST_TASK = 400  # tokens; image and introduction are longer
POINT = Query(Protocol.POINTING, 11)
TARGETS = [Query(Protocol.POINTING, mark.id) for mark in LANDMARKS]
OTHERS = [Query(p, 11, "go to the carina", "[1,2]") for p in Protocol if p is not Protocol.POINTING]


def frame(seed: int = 0) -> XrayFrame:
    return XrayFrame(np.random.default_rng(seed).integers(0, 256, (64, 64)).astype(np.uint8), 1.6, float(seed))


@pytest.fixture(scope="module")
def localizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, HuggingFaceLocalizer]:
    made = {}
    for name in BUILDERS:
        made[name] = HuggingFaceLocalizer(str(build(name, tmp_path_factory.mktemp(name))), device="cpu")
        made[name].warm_up()
    return made


@pytest.mark.parametrize("name", BUILDERS)
def test_no_answer_is_malformed(name: str, localizers: dict[str, HuggingFaceLocalizer]) -> None:
    localizer = localizers[name]
    replies = [localizer.localize(frame(), query) for query in (*TARGETS[::4], *OTHERS)]
    assert [reply.message for reply in replies if not reply.ok] == []
    assert [reply.estimates[0].id for reply in replies[:4]] == [1, 5, 9, 13]


@pytest.mark.parametrize("query", [POINT, *OTHERS], ids=lambda query: query.protocol.value)
def test_sampled_answers_keep_the_protocol_too(localizers: dict[str, HuggingFaceLocalizer], query: Query) -> None:
    torch.manual_seed(0)
    localizer, allowed = localizers["LlavaForConditionalGeneration"], grammar(query)
    messages = [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    texts = set()
    for _ in range(2):
        done = localizer.generator.complete(messages, Decoding(allowed.longest + 1, allowed.regex, temperature=5.0))
        assert done.finished
        assert parse(done.text, query)
        texts.add(done.text)
    assert len(texts) > 1


def test_schema_bounds_an_answer_as_the_grammar_does(localizers: dict[str, HuggingFaceLocalizer]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    done = localizers["Gemma3ForConditionalGeneration"].generator.complete(
        messages, Decoding(60, schema=json_schema(POINT))
    )
    assert parse(done.text, POINT)


def test_grammar_that_is_none_is_refused(localizers: dict[str, HuggingFaceLocalizer]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    with pytest.raises(ConfigurationError, match="grammar"):
        localizers["Gemma3ForConditionalGeneration"].generator.complete(messages, Decoding(60, regex="(["))


def test_stop_ends_the_text_before_it(localizers: dict[str, HuggingFaceLocalizer]) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    done = localizers["Gemma3ForConditionalGeneration"].generator.complete(
        messages, Decoding(60, grammar(POINT).regex, stop=(', "dx_mm"',))
    )
    assert done.text == '{"target": 11'
    assert done.finished


@pytest.mark.parametrize("name", BUILDERS)
def test_prefix_is_read_once_for_an_image_and_changes_nothing(
    name: str, localizers: dict[str, HuggingFaceLocalizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = localizers[name].generator
    assert generator.caches_prefix
    read: list[int] = []
    forward = generator._model.forward

    @functools.wraps(forward)
    def counted(*args: object, **content: torch.Tensor) -> object:
        read.append(content["input_ids"].shape[1])
        return forward(*args, **content)

    monkeypatch.setattr(generator._model, "forward", counted)
    questions = (TARGETS[2], OTHERS[1])
    cached = [localizers[name].localize(frame(7), query).answer for query in questions]
    long = [length for length in read if length > _LONGEST_TASK]
    assert len(long) == 1
    generator.caches_prefix = False
    try:
        assert [localizers[name].localize(frame(7), query).answer for query in questions] == cached
    finally:
        generator.caches_prefix = True
