# SPDX-License-Identifier: Apache-2.0
"""Requests as clients of the OpenAI API send them: what is read, what asks for nothing, what is refused."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from carm_perception.serving.chat import MAXIMUM_TOKENS, ApiError, ChatRequest, read_request

SHADE = np.add.outer(np.arange(64), 2 * np.arange(48)).astype(np.uint8)


def picture(pixels: Any, kind: str = "PNG", **options: Any) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind, **options)
    text = base64.encodebytes(buffer.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind.lower()};base64,{text}", "detail": "high"}}


def read(*parts: dict[str, Any], **fields: Any) -> ChatRequest:
    content = [*parts, {"type": "text", "text": "Point to 10: T1."}]
    return read_request({"model": "m", "messages": [{"role": "user", "content": content}], **fields}, 512)


def shown(part: dict[str, Any]) -> Any:
    (message,) = read(part).messages
    return np.asarray(message["content"][0]["image"].convert("L"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("frequency_penalty", 1.5),
        ("presence_penalty", -1),
        ("repetition_penalty", 1.1),
        ("logit_bias", {"5": -100}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("top_k", 40),
        ("min_p", 0.1),
        ("min_tokens", 5),
        ("n", 2),
        ("best_of", 2),
        ("stream", True),
        ("stream_options", {"include_usage": True}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("guided_choice", ["left", "right"]),
        ("guided_grammar", 'root ::= "left"'),
        ("structured_outputs", {"choice": ["left", "right"]}),
        ("structured_outputs", {"regex": "a", "grammar": "b"}),
        ("structured_outputs", []),
        ("response_format", {"type": "json_object"}),
        ("response_format", []),
        ("reasoning_effort", "high"),
        ("web_search_options", {}),
        ("audio", {"voice": "alloy"}),
        ("store", True),
        ("what_comes_next", 1),
    ],
)
def test_what_is_not_there_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        read(**{name: value})
    assert caught.value.status == 400
    assert name in str(caught.value)
    assert caught.value.param == name


def test_null_and_neutral_values_ask_for_nothing() -> None:
    plain = read()
    neutral = {
        "stream": False,
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "tools": [],
        "tool_choice": "none",
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "logit_bias": {},
        "repetition_penalty": 1.0,
        "response_format": {"type": "text"},
        "structured_outputs": {"regex": None, "choice": None},
        "guided_regex": "",
        "stop": [],
        "user": "me",
        "metadata": {"a": "b"},
        "seed": 1,
        "top_p": 0.5,  # nothing is drawn without a temperature
        "store": False,
        "parallel_tool_calls": True,
        "modalities": ["text"],
        "service_tier": "auto",
    }
    assert read(**neutral) == plain
    nulls = ["max_tokens", "max_completion_tokens", "temperature", "guided_json", "what_comes_next", *neutral]
    assert read(**dict.fromkeys(nulls)) == plain


def test_length_is_capped_and_the_newer_name_counts() -> None:
    assert read(max_tokens=4096).max_tokens == MAXIMUM_TOKENS
    assert read(max_completion_tokens=10**12).max_tokens == MAXIMUM_TOKENS
    assert read(max_tokens=5, max_completion_tokens=None).max_tokens == 5
    assert read(max_tokens=32, max_completion_tokens=2).max_tokens == 2
    for bad in (0, -1, 1.5, "5", True, [], float("nan")):
        with pytest.raises(ApiError, match="max_tokens must be a whole number of at least 1"):
            read(max_tokens=bad)


def test_drawing_is_as_asked() -> None:
    request = read(temperature=0.7, top_p=0.9, seed=-3)
    assert (request.temperature, request.top_p, request.seed) == (0.7, 0.9, 2**63 - 3)
    for name, bad in (("temperature", 2.1), ("top_p", 1.1), ("top_p", float("nan")), ("seed", 1.5), ("seed", True)):
        with pytest.raises(ApiError, match=name):
            read(**{name: bad})


def test_one_form_of_the_answer_in_three_ways() -> None:
    schema = {"type": "object"}
    for fields in (
        {"structured_outputs": {"json": schema, "regex": None}},
        {"guided_json": schema},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": True}}},
    ):
        assert (read(**fields).regex, read(**fields).schema) == ("", schema)
    for fields in ({"structured_outputs": {"regex": "a+"}}, {"guided_regex": "a+"}):
        assert (read(**fields).regex, read(**fields).schema) == ("a+", None)
    with pytest.raises(ApiError, match="not several"):
        read(guided_regex="a", response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    with pytest.raises(ApiError, match="must be an object"):
        read(guided_json="{}")


def test_roles_and_messages_of_current_clients() -> None:
    user = {"role": "user", "content": "hi", "name": "me"}
    answer = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "tool_calls": None,
    }
    body = {"messages": [{"role": "developer", "content": "Answer."}, user, answer, user]}
    request = read_request(body, 512)
    assert [message["role"] for message in request.messages] == ["system", "user", "assistant", "user"]
    for bad, param in (
        ({"role": "tool", "content": "1"}, "messages[0].role"),
        ({"role": ["user"], "content": "1"}, "messages[0].role"),
        ({**answer, "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": "\ud800"}, "messages[0].content[0]"),
    ):
        with pytest.raises(ApiError) as caught:
            read_request({"messages": [bad, user]}, 512)
        assert caught.value.param == param


def test_images_are_upright_and_of_the_whole_range() -> None:
    np.testing.assert_array_equal(shown(picture(SHADE)), SHADE)
    np.testing.assert_array_equal(shown(picture(SHADE.astype(np.uint16) * 257)), SHADE)
    exif = Image.Exif()
    exif[0x0112] = 6
    assert np.abs(shown(picture(np.rot90(SHADE), "JPEG", exif=exif, quality=98)).astype(int) - SHADE).max() <= 4
    np.testing.assert_array_equal(shown(picture(np.rot90(SHADE).astype(np.uint16) * 257, exif=exif)), SHADE)
    with pytest.raises(ApiError, match="no value above 4095 of 65535"):
        shown(picture(np.linspace(0, 4095, 64 * 64).reshape(64, 64).astype(np.uint16)))
    broken = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(ApiError, match="at most 4 images"):  # told before any is decoded
        read(*[broken] * 5)
    with pytest.raises(ApiError, match="513 x 16 px") as caught:
        shown(picture(np.zeros((16, 513), np.uint8)))
    assert caught.value.code == "image_too_large"
