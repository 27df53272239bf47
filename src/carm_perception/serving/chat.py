# SPDX-License-Identifier: Apache-2.0
"""Requests and errors of the OpenAI chat completions API, checked strictly: what is not supported is refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from carm_core.errors import CarmError, ImageError, ImageSizeError, quoted
from carm_core.imaging.display import open_picture, picture_size, shallow

MAXIMUM_TOKENS = 1024
"""Longest answer; a request that asks for more gets this."""

DEFAULT_TOKENS = 256
_MAXIMUM_MESSAGES = 32
_MAXIMUM_IMAGES = 4
_MAXIMUM_PARTS = 64
_MAXIMUM_TEXT = 32_768
_MAXIMUM_STOPS = 4
_MAXIMUM_REGEX = 131_072
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp|bmp);base64,", re.IGNORECASE)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_READ = {
    *("model", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "stop"),
    *("response_format", "structured_outputs", "guided_regex", "guided_json"),
}
_LABELS = {
    *("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "request_id"),
    *("parallel_tool_calls", "guided_decoding_backend"),
}
"""Fields that change no answer here: they name the request, or say how to do what is not done."""
_IDLE: dict[str, tuple[Any, ...]] = {
    "stream": (False,),
    "n": (1,),
    "best_of": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({}, []),
    "top_k": (0, -1),
    "min_p": (0,),
    "min_tokens": (0,),
    "store": (False,),
    "echo": (False,),
    "ignore_eos": (False,),
    "use_beam_search": (False,),
    "skip_special_tokens": (True,),
    "add_generation_prompt": (True,),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "guided_choice": ([],),
    "guided_grammar": ("",),
    "chat_template_kwargs": ({},),
    "stop_token_ids": ([],),
    "include_stop_str_in_output": (False,),
    "include_reasoning": (True,),
    "continue_final_message": (False,),
    "add_special_tokens": (False,),
    "spaces_between_special_tokens": (True,),
    "return_tokens_as_token_ids": (False,),
    "priority": (0,),
    "bad_words": ([],),
}
"""Fields for what this server lacks, with the values that ask for nothing. All others are refused."""
_MESSAGE_FIELDS = {"role", "content", "name"}


class ApiError(CarmError):
    """A request that is refused.

    Attributes:
        status: HTTP status.
        kind: ``type`` of the error object.
        code: ``code`` of the error object.
        param: The field at fault, or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        kind: str = "invalid_request_error",
    ) -> None:
        """Keep what the client is told.

        Args:
            status: HTTP status.
            message: One line.
            code: Short code.
            param: The field at fault.
            kind: Type of the error.
        """
        super().__init__(message)
        self.status, self.kind, self.code, self.param = status, kind, code, param

    def body(self) -> dict[str, Any]:
        """Return the JSON object that OpenAI clients read."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered.

    Attributes:
        model: Model asked for.
        messages: Chat in the form of Hugging Face templates; images are PIL images in RGB.
        max_tokens: Longest answer.
        temperature: 0: the most probable token each time.
        top_p: Share of the probability that is drawn from.
        seed: Seed of the drawing; None: any.
        stop: Texts before which the answer ends.
        regex: The answer matches this as a whole; empty: anything.
        schema: The answer is JSON of this schema; None: anything.
        image_key: Equal for requests about the same images.
    """

    model: str
    messages: list[dict[str, Any]]
    max_tokens: int
    temperature: float
    top_p: float
    seed: int | None
    stop: tuple[str, ...]
    regex: str
    schema: dict[str, Any] | None
    image_key: bytes


def _bad(message: str, param: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def read_request(body: Any, image_px: int, reserve: Callable[[int], None] = lambda pixels: None) -> ChatRequest:
    """Check a request.

    Args:
        body: Decoded JSON.
        image_px: Longest side of an image, px.
        reserve: Called with the number of pixels of all images before any of them is decoded; may wait, or raise.

    Raises:
        ApiError: Something is wrong or not supported.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the request must be a JSON object")
    body = _without_nulls(body)
    _refuse_unsupported(body)
    model = body.get("model", "")
    if not isinstance(model, str):
        raise _bad("model must be a string", "model")
    digest = hashlib.blake2b(digest_size=16)
    messages = _messages(body.get("messages"), image_px, digest, reserve)
    regex, schema = _form(body)
    temperature = _number(body, "temperature", 0.0, 2.0, 0.0)
    top_p, seed = _number(body, "top_p", 0.0, 1.0, 1.0), _seed(body)
    return ChatRequest(
        model=model,
        messages=messages,
        max_tokens=_tokens(body),
        temperature=temperature,
        top_p=top_p if temperature else 1.0,  # without a temperature nothing is drawn
        seed=seed if temperature else None,
        stop=_stop(body.get("stop")),
        regex=regex,
        schema=schema,
        image_key=digest.digest(),
    )


def _without_nulls(fields: dict[str, Any]) -> dict[str, Any]:
    """Drop fields that are null: clients that send every field send null for those that are not set."""
    return {name: value for name, value in fields.items() if value is not None}


def _refuse_unsupported(body: dict[str, Any]) -> None:
    for name, value in body.items():
        if name not in _READ | _LABELS and value not in _IDLE.get(name, ()):
            raise _bad(f"{_named(name)} is not supported here", _named(name), "unsupported_parameter")


def _tokens(body: dict[str, Any]) -> int:
    name = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    tokens = body.get(name, DEFAULT_TOKENS)
    if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
        raise _bad(f"{name} must be a whole number of at least 1, not {_shown(tokens)}", name)
    return min(tokens, MAXIMUM_TOKENS)


def _number(body: dict[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = body.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise _bad(f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}", name)
    return float(value)


def _seed(body: dict[str, Any]) -> int | None:
    seed = body.get("seed")
    if isinstance(seed, bool) or not isinstance(seed, int | None):
        raise _bad(f"seed must be a whole number, not {_shown(seed)}", "seed")
    return None if seed is None else seed % 2**63


def _named(name: str) -> str:
    """Return the name of a field that a client made up."""
    return name[:80] if name.isprintable() else quoted(name)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > _MAXIMUM_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise _bad(f"stop must be a text or up to {_MAXIMUM_STOPS} texts", "stop")
    return tuple(stops)


def _form(body: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Return the regular expression and JSON schema that a request asks for, in the ways of OpenAI and of vLLM."""
    structured = body.get("structured_outputs", {})
    structured = _without_nulls(structured) if isinstance(structured, dict) else structured
    if not isinstance(structured, dict) or set(structured) - {"regex", "json"}:
        raise _bad("structured_outputs may hold regex or json", "structured_outputs")
    asked = [("structured_outputs", name, value) for name, value in structured.items()]
    asked += [
        (name, name.removeprefix("guided_"), body[name]) for name in ("guided_regex", "guided_json") if name in body
    ]
    wanted = body.get("response_format", {"type": "text"})
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        asked.append(("response_format", "json", inner.get("schema") if isinstance(inner, dict) else None))
    elif kind != "text":
        raise _bad(f"response_format may be text or json_schema, not {_shown(kind)}", "response_format")
    asked = [item for item in asked if item[2] != ""]
    if len(asked) > 1:
        raise _bad("give one form of the answer, a regular expression or a JSON schema, not several", asked[1][0])
    for name, form, value in asked:
        if form == "json" and not isinstance(value, dict):
            raise _bad(f"{name}: the JSON schema must be an object", name)
        if form == "regex" and not (isinstance(value, str) and len(value) <= _MAXIMUM_REGEX):
            text = f"the regular expression must be a text of up to {_MAXIMUM_REGEX} characters"
            raise _bad(f"{name}: {text}", name)
        return (value, None) if form == "regex" else ("", value)
    return "", None


def _messages(value: Any, image_px: int, digest: Any, reserve: Callable[[int], None]) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAXIMUM_MESSAGES:
        raise _bad(f"messages must be a list of 1 to {_MAXIMUM_MESSAGES} messages", "messages")
    messages, images, characters = [], 0, 0
    pictures: list[_Picture] = []
    for index, message in enumerate(value):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        if not isinstance(role, str) or role not in _ROLES:
            raise _bad(f"{where}.role must be system, developer, user or assistant", f"{where}.role")
        for name, more in message.items():
            if name not in _MESSAGE_FIELDS and more not in (None, [], {}):
                field = f"{where}.{_named(name)}"
                raise _bad(f"{field} is not supported here", field, "unsupported_parameter")
        content = message.get("content")
        if content is None and role == "assistant":
            content = ""
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not 1 <= len(parts) <= _MAXIMUM_PARTS:
            raise _bad(f"{where}.content must be a text or a list of 1 to {_MAXIMUM_PARTS} parts", f"{where}.content")
        images += sum(isinstance(part, dict) and part.get("type") == "image_url" for part in parts)
        if images > _MAXIMUM_IMAGES:
            raise _bad(f"at most {_MAXIMUM_IMAGES} images are read", where)
        read = [_part(part, f"{where}.content[{place}]", image_px, pictures) for place, part in enumerate(parts)]
        characters += sum(len(part.get("text", "")) for part in read)
        messages.append({"role": _ROLES[role], "content": read})
        if characters > _MAXIMUM_TEXT:
            raise _bad(f"at most {_MAXIMUM_TEXT} characters are read", where)
    if messages[-1]["role"] != "user":
        raise _bad("the last message must be the user's", "messages")
    if pictures:
        reserve(sum(picture.pixels for picture in pictures))
    for picture in pictures:
        picture.part["image"] = picture.decoded(image_px)
        digest.update(hashlib.blake2b(picture.content).digest())
    return messages


@dataclass(frozen=True)
class _Picture:
    """An image whose header was read, and the part of a message that it goes into."""

    part: dict[str, Any]
    where: str
    content: bytes
    pixels: int

    def decoded(self, image_px: int) -> Any:
        try:
            return shallow(open_picture(self.content, _FORMATS, image_px)).convert("RGB")
        except (ImageError, ValueError) as error:
            raise _bad(f"{self.where}: {error}", self.where, "invalid_image") from error


def _part(part: Any, where: str, image_px: int, pictures: list[_Picture]) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        if not part["text"].isascii() and any("\ud800" <= sign <= "\udfff" for sign in part["text"]):
            raise _bad(f"{where}.text holds half of a surrogate pair", where)
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        holder = part.get("image_url")
        url = holder.get("url") if isinstance(holder, dict) else holder
        if not isinstance(url, str):
            raise _bad(f"{where}.image_url.url must be a text", where)
        read: dict[str, Any] = {"type": "image"}
        content, pixels = read_image(url, where, image_px)
        pictures.append(_Picture(read, where, content, pixels))
        return read
    raise _bad(f"{where} must be a text or an image_url", where)


def read_image(url: str, where: str, image_px: int) -> tuple[bytes, int]:
    """Return the image file in a data URL, and its number of pixels; nothing is decoded yet.

    Args:
        url: ``data:image/png;base64,...``; nothing is ever fetched.
        where: The field, for errors.
        image_px: Longest side, px.

    Raises:
        ApiError: It is no such URL, no such image, or too large.
    """
    start = _DATA_URL.match(url)
    if start is None:
        raise _bad(f"{where}: images are read from data URLs only (data:image/png;base64,...)", where, "invalid_image")
    try:
        content = base64.b64decode("".join(url[start.end() :].split()), validate=True)
        columns, rows = picture_size(content, _FORMATS, image_px)
    except ImageSizeError as error:
        raise _bad(f"{where}: {error}", where, "image_too_large") from error
    except (ImageError, binascii.Error, ValueError) as error:
        raise _bad(f"{where}: {error}", where, "invalid_image") from error
    return content, columns * rows
