# SPDX-License-Identifier: Apache-2.0
"""Requests and errors of the OpenAI chat completions API, checked strictly: what is not supported is refused."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from typing import Any

from carm_core.errors import CarmError

MAXIMUM_TOKENS = 1024
"""Longest answer that a request may ask for."""

DEFAULT_TOKENS = 256
_MAXIMUM_MESSAGES = 32
_MAXIMUM_IMAGES = 4
_MAXIMUM_TEXT = 32_768
_MAXIMUM_STOPS = 4
_MAXIMUM_REGEX = 131_072
_DATA_URL = re.compile(r"data:image/(?:png|jpeg|jpg|webp|bmp);base64,", re.IGNORECASE)
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP")
_REFUSED = {"stream": False, "n": 1, "logprobs": False, "tools": None, "functions": None}
"""Fields that ask for what this server lacks, with the value that asks for nothing."""


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
        """The JSON object that OpenAI clients read."""
        return {"error": {"message": str(self), "type": self.kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True)
class ChatRequest:
    """A request that can be answered.

    Attributes:
        model: Model asked for.
        messages: Chat in the form of Hugging Face templates; images are PIL images in RGB.
        max_tokens: Longest answer.
        temperature: 0: the most probable token each time.
        stop: Texts before which the answer ends.
        regex: The answer matches this as a whole; empty: anything.
        schema: The answer is JSON of this schema; None: anything.
        image_key: Equal for requests about the same images.
    """

    model: str
    messages: list[dict[str, Any]]
    max_tokens: int
    temperature: float
    stop: tuple[str, ...]
    regex: str
    schema: dict[str, Any] | None
    image_key: bytes


def _bad(message: str, param: str, code: str = "invalid_value") -> ApiError:
    return ApiError(400, message, param=param, code=code)


def read_request(body: Any, image_px: int) -> ChatRequest:
    """Check a request.

    Args:
        body: Decoded JSON.
        image_px: Longest side of an image, px.

    Raises:
        ApiError: Something is wrong or not supported.
    """
    if not isinstance(body, dict):
        raise ApiError(400, "the request must be a JSON object")
    for name, idle in _REFUSED.items():
        if body.get(name) not in (None, idle, []):
            raise _bad(f"{name} is not supported here", name, "unsupported_parameter")
    model = body.get("model", "")
    if not isinstance(model, str):
        raise _bad("model must be a string", "model")
    digest = hashlib.blake2b(digest_size=16)
    messages = _messages(body.get("messages"), image_px, digest)
    tokens = body.get("max_completion_tokens", body.get("max_tokens"))
    tokens = DEFAULT_TOKENS if tokens is None else tokens
    if isinstance(tokens, bool) or not isinstance(tokens, int) or not 1 <= tokens <= MAXIMUM_TOKENS:
        raise _bad(f"max_tokens must be a whole number from 1 to {MAXIMUM_TOKENS}, not {tokens!r}", "max_tokens")
    temperature = body.get("temperature")
    temperature = 0.0 if temperature is None else temperature
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float)) or not 0 <= temperature <= 2:
        raise _bad(f"temperature must be a number from 0 to 2, not {temperature!r}", "temperature")
    regex, schema = _form(body)
    return ChatRequest(
        model, messages, tokens, float(temperature), _stop(body.get("stop")), regex, schema, digest.digest()
    )


def _stop(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > _MAXIMUM_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise _bad(f"stop must be a text or up to {_MAXIMUM_STOPS} texts", "stop")
    return tuple(stops)


def _form(body: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """Regular expression and JSON schema that a request asks for, in the ways of OpenAI and of vLLM."""
    structured = body.get("structured_outputs") or {}
    if not isinstance(structured, dict) or set(structured) - {"regex", "json"}:
        raise _bad("structured_outputs may hold regex or json", "structured_outputs")
    regex = structured.get("regex") or body.get("guided_regex") or ""
    schema = structured.get("json") or body.get("guided_json")
    wanted = body.get("response_format") or {"type": "text"}
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        schema = inner.get("schema") if isinstance(inner, dict) else None
        if not isinstance(schema, dict):
            raise _bad("response_format.json_schema.schema must be an object", "response_format")
    elif kind != "text":
        raise _bad(f"response_format may be text or json_schema, not {kind!r}", "response_format")
    if not isinstance(regex, str) or len(regex) > _MAXIMUM_REGEX:
        raise _bad(f"the regular expression must be a text of up to {_MAXIMUM_REGEX} characters", "structured_outputs")
    if schema is not None and not isinstance(schema, dict):
        raise _bad("the JSON schema must be an object", "structured_outputs")
    if regex and schema is not None:
        raise _bad("give a regular expression or a JSON schema, not both", "structured_outputs")
    return regex, schema


def _messages(value: Any, image_px: int, digest: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not 1 <= len(value) <= _MAXIMUM_MESSAGES:
        raise _bad(f"messages must be a list of 1 to {_MAXIMUM_MESSAGES} messages", "messages")
    messages, images, characters = [], 0, 0
    for index, message in enumerate(value):
        where = f"messages[{index}]"
        if not isinstance(message, dict) or message.get("role") not in ("system", "user", "assistant"):
            raise _bad(f"{where}.role must be system, user or assistant", f"{where}.role")
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not parts:
            raise _bad(f"{where}.content must be a text or a list of parts", f"{where}.content")
        read = [_part(part, f"{where}.content[{place}]", image_px, digest) for place, part in enumerate(parts)]
        images += sum(part["type"] == "image" for part in read)
        characters += sum(len(part.get("text", "")) for part in read)
        messages.append({"role": message["role"], "content": read})
        if images > _MAXIMUM_IMAGES:
            raise _bad(f"at most {_MAXIMUM_IMAGES} images are read", where)
        if characters > _MAXIMUM_TEXT:
            raise _bad(f"at most {_MAXIMUM_TEXT} characters are read", where)
    if messages[-1]["role"] != "user":
        raise _bad("the last message must be the user's", "messages")
    return messages


def _part(part: Any, where: str, image_px: int, digest: Any) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if kind == "image_url":
        holder = part.get("image_url")
        url = holder.get("url") if isinstance(holder, dict) else holder
        if not isinstance(url, str):
            raise _bad(f"{where}.image_url.url must be a text", where)
        return {"type": "image", "image": read_image(url, where, image_px, digest)}
    raise _bad(f"{where} must be a text or an image_url", where)


def read_image(url: str, where: str, image_px: int, digest: Any) -> Any:
    """Decode a data URL into a PIL image in RGB.

    Args:
        url: ``data:image/png;base64,...``; nothing is ever fetched.
        where: The field, for errors.
        image_px: Longest side, px.
        digest: Updated with the image's bytes.

    Raises:
        ApiError: It is no such URL, no such image, or too large.
    """
    from PIL import Image

    start = _DATA_URL.match(url)
    if start is None:
        raise _bad(f"{where}: images are read from data URLs only (data:image/png;base64,...)", where, "invalid_image")
    try:
        content = base64.b64decode(url[start.end() :], validate=True)
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
        if max(image.size) > image_px:
            shown = " x ".join(map(str, image.size))
            raise _bad(f"{where}: the image has {shown} px; {image_px} is the longest side", where, "image_too_large")
        digest.update(hashlib.blake2b(content).digest())
        return image.convert("RGB")
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise _bad(f"{where}: the image cannot be read ({reason})", where, "invalid_image") from error
