# SPDX-License-Identifier: Apache-2.0
"""A model on an OpenAI-compatible server (vLLM, ``carm serve`` and others) behind the localizer seam.

A foreign model is asked in the full words about the whole image. A server that has this project's compact model is
asked in the short words, about exactly the image that the model reads.
"""

from __future__ import annotations

import asyncio
import base64
import io
import logging
import math
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import AnswerError, ConfigurationError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.language.chat_client import ChatClient, ChatError
from carm_core.localization import NEEDS_CT, Localization, Localizer, Protocol, Query
from carm_perception.localizers.openai.options import COMPACT_MODEL, ServerOptions
from carm_perception.networks.preprocessing import FIELD_MM, MODEL_PX, check_frame, model_gray
from carm_perception.protocols.estimates import estimates_of
from carm_perception.protocols.grammar import Grammar, grammar, json_schema
from carm_perception.protocols.parsing import Answer, ReevaluationAnswer, parse
from carm_perception.protocols.prompts import full_prompt, short_prompt
from carm_perception.protocols.reevaluation import allowed, earlier_list, reasoned
from carm_perception.protocols.retry import REPEAT

logger = logging.getLogger(__name__)

_CONCURRENT = 8
_JPEG_QUALITY = 92
_FATAL = (401, 403, 404)

T = TypeVar("T")


class OpenAiLocalizer(Localizer):
    """Asks a server; see ``ServerOptions``."""

    name = "openai"

    def __init__(self, options: ServerOptions | None = None) -> None:
        """Check the options; the server is asked for the first time by ``warm_up`` or the first question.

        Args:
            options: Which server, and how it is asked.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        self._options = options or ServerOptions()
        self._options.check()
        self._client = ChatClient(self._options)
        self._model = self._options.model
        self._known = bool(self._model)
        self._running: Future[Any] | None = None

    def warm_up(self) -> None:
        """Ask about a gray image. A server that is not there yet is noted, not waited for longer.

        Raises:
            ConfigurationError: The server refuses the key, or has no such model or no such API.
        """
        gray = XrayFrame(np.full((MODEL_PX, MODEL_PX), 128, np.uint8), FIELD_MM / MODEL_PX, 0.0)
        try:
            deadline_s = time.monotonic() + self._options.timeout_s
            self._run(self._ask(gray, Query(Protocol.POINTING, 1), deadline_s))
        except AnswerError:
            return
        except ChatError as error:
            if error.status in _FATAL:
                raise ConfigurationError(str(error)) from error
            logger.warning("%s", error)

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        return self.localize_batch(frame, [query])[0]

    @staticmethod
    def _expand(query: Query) -> list[Query]:
        """Expand pointing without a target into a question about every landmark."""
        if query.protocol is not Protocol.POINTING or query.target_id or query.point_mm is not None:
            return [query]
        return [replace(query, target_id=mark.id) for mark in LANDMARKS]

    def localize_batch(self, frame: XrayFrame, queries: Sequence[Query]) -> list[Localization]:
        """Answer questions about a frame, which are sent at once."""
        start = time.perf_counter()
        try:
            return self._run(self._answer_all(frame, queries, start))
        except CancelledError:
            return [self._reply(query, start, error="internal", message="canceled") for query in queries]

    def write(self, image: NDArray[np.uint8], prompt: str, allowed: Grammar) -> str:
        """Return the answer to a prompt about an image (rows, columns); the server is told the grammar if it can.

        Raises:
            ChatError: There is no answer in time, or the server has the compact model, which knows no such prompt.
        """
        return self._run(self._write(image, prompt, allowed))

    async def _write(self, image: NDArray[np.uint8], prompt: str, allowed: Grammar) -> str:
        deadline_s = time.monotonic() + self._options.timeout_s
        await self._resolve(deadline_s)
        if self._model == COMPACT_MODEL:
            raise ChatError(f"{self._options.url} has the compact model, which answers about landmarks only")
        sent = self._image(XrayFrame(image, FIELD_MM / max(image.shape), 0.0), False)
        payload = self._message(prompt, sent) | under(self._options.constrain, allowed)
        return await self._complete(payload, deadline_s)

    def cancel(self) -> None:
        """Break off the request that is on its way, from any thread."""
        if self._running is not None:
            self._running.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        running = self._client.submit(work)
        self._running = running
        return running.result()

    async def _answer_all(self, frame: XrayFrame, queries: Sequence[Query], start: float) -> list[Localization]:
        slots = asyncio.Semaphore(_CONCURRENT)
        deadline_s = time.monotonic() + self._options.timeout_s

        async def one(query: Query) -> Localization:
            async with slots:
                return await self._answer(frame, query, deadline_s, start)

        parts = [self._expand(query) for query in queries]
        replies = iter(await asyncio.gather(*(one(query) for part in parts for query in part)))
        return [_joined(query, [next(replies) for _ in part]) for query, part in zip(queries, parts, strict=True)]

    async def _answer(self, frame: XrayFrame, query: Query, deadline_s: float, start: float) -> Localization:
        if query.point_mm is not None:
            return self._reply(query, start, abstained=True, message=NEEDS_CT)
        try:
            answer, parsed = await self._ask(frame, query, deadline_s)
        except AnswerError as error:
            return self._reply(query, start, answer=error.answer, error="malformed", message=str(error))
        except (ChatError, LocalizerError) as error:
            return self._reply(query, start, error="internal", message=str(error))
        estimates = reasoned(parsed) if isinstance(parsed, ReevaluationAnswer) else ()
        return self._reply(query, start, answer=answer, estimates=estimates or estimates_of(parsed, query.target_id))

    async def _ask(self, frame: XrayFrame, query: Query, deadline_s: float) -> tuple[str, Answer]:
        """Ask, and once more when the answer breaks its protocol.

        Raises:
            AnswerError: Both answers break it.
            ChatError: There is no answer in time.
            LocalizerError: The image cannot be read.
        """
        if query.protocol is not Protocol.COMMAND:
            check_frame(frame)
        await self._resolve(deadline_s)
        ours = self._model == COMPACT_MODEL
        if ours and query.protocol is Protocol.REEVALUATION:
            query = replace(query, correction=earlier_list(query.correction))
        prompt = short_prompt(query) if ours else full_prompt(query, _field_mm(frame))
        image = None if query.protocol is Protocol.COMMAND else self._image(frame, ours)
        answer = await self._complete(self._payload(query, prompt, image, ours), deadline_s)
        try:
            return answer, parse(answer, query)
        except AnswerError:
            if ours:
                raise  # it decodes without chance, and was trained on these words alone
        answer = await self._complete(self._payload(query, prompt + REPEAT, image, ours), deadline_s)
        return answer, parse(answer, query)

    async def _complete(self, payload: dict[str, Any], deadline_s: float) -> str:
        reply = await self._client.complete(payload, deadline_s)
        text = reply["choices"][0]["message"].get("content")
        if not isinstance(text, str):
            raise ChatError(f"{self._options.url} replies without a message")
        return text

    async def _resolve(self, deadline_s: float) -> None:
        if self._known:
            return
        models = await self._client.models(deadline_s)
        if not models:
            raise ChatError(f"{self._options.url} has no model")
        self._model, self._known = models[0]["id"], True
        logger.info("%s: model %s", self._options.url, self._model)

    def _image(self, frame: XrayFrame, ours: bool) -> str:
        """The image as a data URL: what the compact model reads, or the whole image, reduced to the longest side."""
        from PIL import Image

        picture = Image.fromarray(model_gray(frame) if ours else frame.image)
        limit = self._options.image_px
        if not ours and max(picture.size) > limit:
            picture.thumbnail((limit, limit), Image.Resampling.BOX)
        kind = "png" if ours else self._options.image_format
        buffer = io.BytesIO()
        picture.save(buffer, kind, quality=_JPEG_QUALITY) if kind == "jpeg" else picture.save(buffer, kind)
        return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

    def _payload(self, query: Query, prompt: str, image: str | None, ours: bool) -> dict[str, Any]:
        payload = self._message(prompt, image)
        if ours:
            form = allowed(query)
            return payload | {"structured_outputs": {"regex": form.regex}, "max_tokens": form.longest + 1}
        return payload | constraint(self._options.constrain, query)

    def _message(self, prompt: str, image: str | None) -> dict[str, Any]:
        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if image is not None:
            content.insert(0, {"type": "image_url", "image_url": {"url": image}})
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self._options.max_tokens,
            "temperature": 0,
        }


def constraint(way: str, query: Query) -> dict[str, Any]:
    """Return the fields of a request that tell a server the grammar of the answer.

    Args:
        way: One of ``carm_perception.localizers.openai.options.CONSTRAINTS``.
        query: The question.
    """
    fields = under(way, grammar(query))
    if fields:
        return fields
    schema = json_schema(query)
    if way == "response_format" and schema is not None:
        inner = {"name": str(query.protocol), "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": inner}}
    return {}


def under(way: str, form: Grammar) -> dict[str, Any]:
    """Return the fields of a request for a grammar; none where the way of ``constraint`` takes no grammar."""
    if way == "structured_outputs":
        return {"structured_outputs": {"regex": form.regex}, "max_tokens": form.longest + 1}
    if way == "guided_regex":
        return {"guided_regex": form.regex, "max_tokens": form.longest + 1}
    return {}


def _joined(query: Query, replies: list[Localization]) -> Localization:
    """Return one reply from those about each landmark, closest to the image center first; the first failure counts."""
    failed = next((reply for reply in replies if not reply.ok), None)
    if failed is not None or len(replies) == 1:
        return replace(failed or replies[0], query=query)
    estimates = [estimate for reply in replies for estimate in reply.estimates]
    estimates.sort(key=lambda estimate: math.hypot(*estimate.displacement_mm))
    return replace(
        replies[-1],
        query=query,
        answer="\n".join(reply.answer for reply in replies),
        estimates=tuple(estimates),
        latency_s=max(reply.latency_s for reply in replies),
    )


def _field_mm(frame: XrayFrame) -> tuple[float, float]:
    rows, columns = frame.image.shape
    return columns * frame.mm_per_px_at_isocenter, rows * frame.mm_per_px_at_isocenter
