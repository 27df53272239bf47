# SPDX-License-Identifier: Apache-2.0
"""Models behind the API. One thread owns a backend."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from carm_core.errors import ConfigurationError
from carm_core.imaging.frame import XrayFrame
from carm_perception.localizers.huggingface.generator import Completion, Decoding
from carm_perception.localizers.openai.options import COMPACT_MODEL
from carm_perception.networks.preprocessing import FIELD_MM, check_frame
from carm_perception.serving.chat import ApiError, ChatRequest

if TYPE_CHECKING:
    from carm_perception.localizers.registry import LocalizerOptions

_BATCH = 16


class Backend(ABC):
    """One model.

    Attributes:
        name: Name of the model in the API.
        batch: Most requests that are answered at once.
    """

    name: str
    batch: int = 1

    @abstractmethod
    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer requests that belong together.

        Args:
            requests: Up to ``batch``, each of which ``joins`` the first.

        Raises:
            ApiError: The model cannot do what a request asks for.
        """

    def joins(self, first: ChatRequest, other: ChatRequest) -> bool:
        """Return whether a request can be answered together with another one."""
        del first, other
        return False

    def close(self) -> None:  # noqa: B027
        """Release memory."""


class CompactBackend(Backend):
    """The compact model: reads one user's message with at most one image, which shows the field it was trained on."""

    name = COMPACT_MODEL
    batch = _BATCH

    def __init__(self, folder: Path | None = None) -> None:
        """Load.

        Args:
            folder: Model folder; None: the one that ships.

        Raises:
            LocalizerError: The folder is incomplete or its content is no such model.
        """
        from carm_perception.localizers.compact import CompactLocalizer

        self._localizer = CompactLocalizer(folder)
        self._localizer.warm_up()

    def joins(self, first: ChatRequest, other: ChatRequest) -> bool:
        """Answer the questions about one image together: the image is read once, all under a grammar or none."""
        same = ("image_key", "max_tokens", "temperature", "top_p", "seed", "stop")
        return all(getattr(first, name) == getattr(other, name) for name in same) and (
            bool(first.regex) == bool(other.regex)
        )

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer questions about one image."""
        from carm_perception.localizers.compact import Sampling

        first = requests[0]
        asked = [_question(request) for request in requests]
        sampling = Sampling(first.temperature, first.top_p, first.seed, first.max_tokens)
        expressions = [request.regex for request in requests] if first.regex else []
        try:
            texts = self._localizer.generate_text(
                _frame(asked[0][0]), [prompt for _, prompt in asked], expressions, sampling
            )
        except ConfigurationError as error:
            raise ApiError(400, str(error), param="structured_outputs") from error
        done = []
        for one in texts:
            cut = min((place for place in map(one.text.find, first.stop) if place >= 0), default=None)
            done.append(Completion(one.text[:cut], one.prompt_tokens, one.tokens, one.finished or cut is not None))
        return done


def _question(request: ChatRequest) -> tuple[Any, str]:
    """Return the image (or None) and text of a request to the compact model."""
    if request.schema is not None:
        text = "the compact model decodes under a regular expression, not under a JSON schema"
        raise ApiError(400, text, code="unsupported_parameter")
    asked = [message for message in request.messages if message["role"] != "system"]
    if len(asked) != 1:
        raise ApiError(400, "the compact model reads one message of the user", param="messages")
    content = asked[0]["content"]
    images = [part["image"] for part in content if part["type"] == "image"]
    texts = [part["text"] for part in content if part["type"] == "text"]
    if len(images) > 1 or len(texts) != 1:
        raise ApiError(400, "the compact model reads one text and at most one image", param="messages")
    return (images[0] if images else None), texts[0]


def _frame(image: Any) -> XrayFrame | None:
    """Return the image as a frame whose longer side shows the trained field."""
    if image is None:
        return None
    gray = np.asarray(image.convert("L"))
    frame = XrayFrame(gray, FIELD_MM / max(gray.shape), 0.0)
    try:
        check_frame(frame)
    except Exception as error:
        raise ApiError(400, str(error), param="messages", code="invalid_image") from error
    return frame


class HuggingFaceBackend(Backend):
    """Any Hugging Face image-text-to-text model."""

    def __init__(self, model: str, options: LocalizerOptions) -> None:
        """Load.

        Args:
            model: Hugging Face id or folder.
            options: Adapter, device, quantization, threads.

        Raises:
            ConfigurationError: The options contradict this machine.
            LocalizerError: The model cannot be loaded.
        """
        from carm_perception.localizers.huggingface.localizer import HuggingFaceLocalizer

        self._localizer = HuggingFaceLocalizer(
            model,
            adapter=options.adapter,
            device=options.device,
            load_in_4bit=options.load_in_4bit,
            threads=options.threads,
        )
        self.name = self._localizer.name
        self._localizer.warm_up()

    def complete(self, requests: Sequence[ChatRequest]) -> list[Completion]:
        """Answer one request; the image's part of the prompt is read once for all requests about it."""
        return [self._complete(request) for request in requests]

    def _complete(self, request: ChatRequest) -> Completion:
        decoding = Decoding(
            request.max_tokens,
            request.regex,
            request.schema,
            request.temperature,
            request.stop,
            top_p=request.top_p,
            seed=request.seed,
        )
        return self._localizer.generator.complete(request.messages, decoding)

    def close(self) -> None:
        """Release the model."""
        self._localizer.close()


def make_backend(model: str, options: LocalizerOptions) -> Backend:
    """Load a model to serve.

    Args:
        model: ``compact``, a Hugging Face id or a folder.
        options: What it may need.

    Raises:
        UnknownNameError: There is no such model.
        ConfigurationError: It does not take an option.
        CarmError: The model cannot be loaded.
    """
    from carm_perception.localizers.registry import COMPACT, hub_or_path, refuse_unused

    if model == COMPACT:
        refuse_unused(model, options)
        return CompactBackend(options.folder)
    return HuggingFaceBackend(hub_or_path(model, (COMPACT,)), options)
