# SPDX-License-Identifier: Apache-2.0
"""The compact multimodal LLM that ships with the project, behind the localizer seam.

It is an ordinary Hugging Face folder: ``AutoProcessor`` and ``AutoModelForImageTextToText`` load it. Besides the text
of its answer, the probabilities of the number tokens are read: they are the model's own distribution over millimeters.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import AnswerError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS, landmark
from carm_core.localization import NEEDS_CT, LandmarkEstimate, Localization, Protocol, Query
from carm_perception.localizers.calibrated import CalibratedLocalizer
from carm_perception.localizers.constrained_decoding import Grammars
from carm_perception.protocols.estimates import confidence, estimates_of
from carm_perception.protocols.parsing import LIMIT_MM, PointingAnswer, ReevaluationAnswer, parse
from carm_perception.protocols.prompts import FIRST_PROTOCOLS, SHORT_PROTOCOLS, short_prompt
from carm_perception.protocols.reevaluation import allowed, earlier_list, reasoned
from carm_perception.uncertainty.answer_filter import in_field

LONGEST_ANSWER = 200
"""Bound on the length of an answer, tokens. The grammar ends every answer before, also when it is spelled in small."""

_KNOWN = frozenset(mark.id for mark in LANDMARKS)

BEFORE_LENGTH = (
    ', "dx_mm": ',
    ', "dy_mm": ',
    "</extent_x><reason_x>",
    "</extent_y><reason_y>",
    " at ",
    " by ",
)
"""Tokens that a length in mm follows."""


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
        temperature: 0: always the most probable token.
        top_p: Least probability that the tokens drawn from have together.
        seed: Of the draws; None: as it comes.
        max_tokens: Longest text, tokens; more than ``LONGEST_ANSWER`` is cut to that.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    max_tokens: int = LONGEST_ANSWER

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of Hugging Face's ``generate``."""
        if self.temperature <= 0:
            return {"do_sample": False}
        return {"do_sample": True, "temperature": self.temperature, "top_p": self.top_p, "top_k": 0}


@dataclass(frozen=True)
class Generated:
    """One text of the model.

    Attributes:
        text: Without special tokens.
        prompt_tokens: Tokens of the prompt, those of the image with it.
        tokens: Tokens of the text.
        finished: Whether the model ended it by itself.
        numbers: Distribution (801,) over the millimeters at each number token, in order.
    """

    text: str
    prompt_tokens: int
    tokens: int
    finished: bool
    numbers: tuple[NDArray[np.float64], ...]


class CompactLocalizer(CalibratedLocalizer):
    """Answers every text protocol. Pointing without a target asks for every landmark.

    Attributes:
        protocols: Protocols that the loaded weights were trained on.
    """

    name = "compact"

    def _prepare(self) -> None:
        tokens = [str(value) for value in range(-LIMIT_MM, LIMIT_MM + 1)]
        self._number_ids: list[int] = self._loaded.tokenizer.convert_tokens_to_ids(tokens)
        if None in self._number_ids or len(set(self._number_ids)) != len(tokens):
            raise LocalizerError(f"model folder {self._loaded.folder}: the tokenizer lacks number tokens")
        self._grammars = Grammars(self._loaded.tokenizer)
        found = self._loaded.tokenizer.convert_tokens_to_ids(list(BEFORE_LENGTH))
        self._before_length: list[int] = [token for token in found if token is not None]
        self.protocols = SHORT_PROTOCOLS if len(self._before_length) == len(found) else FIRST_PROTOCOLS
        self._values = np.arange(-LIMIT_MM, LIMIT_MM + 1, dtype=np.float64)

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()
        if query.point_mm is not None:
            return self._reply(query, start, abstained=True, message=NEEDS_CT)
        if query.protocol not in self.protocols:
            known = ", ".join(self.protocols)
            message = f"this model answers {known}, not {query.protocol}"
            return self._reply(query, start, error="internal", message=message)
        if query.target_id and query.target_id not in _KNOWN:
            name = landmark(query.target_id).name
            message = f"the compact language model knows the fourteen landmarks of the upper body, not {name}"
            return self._reply(query, start, error="internal", message=message)
        everything = query.protocol is Protocol.POINTING and not query.target_id
        targets = [mark.id for mark in LANDMARKS] if everything else [query.target_id]
        correction = earlier_list(query.correction) if query.protocol is Protocol.REEVALUATION else query.correction
        questions = [Query(query.protocol, target, query.hint, correction) for target in targets]
        seen = None if query.protocol is Protocol.COMMAND else frame
        try:
            strange = self._strange(seen)
            if strange:
                return self._reply(query, start, abstained=True, message=strange)
            answers = self._ask(seen, questions)
            estimates = [self._estimates(*item) for item in zip(questions, answers, strict=True)]
        except AnswerError as error:
            return self._reply(query, start, answer=error.answer, error="malformed", message=str(error))
        except LocalizerError as error:
            return self._reply(query, start, error="internal", message=str(error))
        text = "\n".join(answer.text for answer in answers)
        return self._judged(query, start, text, [one for group in estimates for one in group])

    def localize_batch(self, frame: XrayFrame, queries: Sequence[Query]) -> list[Localization]:
        """Answer questions about a frame: where single landmarks are, all at once."""
        pointing = [query for query in queries if query.protocol is Protocol.POINTING and query.target_id]
        if len(pointing) < 2:
            return super().localize_batch(frame, queries)
        start = time.perf_counter()
        try:
            strange = self._strange(frame)
            if strange:
                replies = [self._reply(query, start, abstained=True, message=strange) for query in pointing]
            else:
                replies = [
                    self._judged(query, start, answer.text, list(self._estimates(query, answer)))
                    for query, answer in zip(pointing, self._ask(frame, pointing), strict=True)
                ]
        except (AnswerError, LocalizerError):  # told for each question
            return super().localize_batch(frame, queries)
        known = dict(zip(pointing, replies, strict=True))
        return [known[query] if query in known else self.localize(frame, query) for query in queries]

    def _judged(self, query: Query, start: float, text: str, estimates: list[LandmarkEstimate]) -> Localization:
        """Return the reply: places get their radii, and one that is not sure enough is kept back."""
        if query.protocol is not Protocol.POINTING:
            return self._reply(query, start, answer=text, estimates=tuple(estimates))
        placed = [self._guard.calibrated(estimate, in_field(estimate)) for estimate in estimates]
        if not query.target_id:
            placed.sort(key=lambda estimate: math.hypot(*estimate.displacement_mm))
        elif unsure := self._unsure(placed[0], in_field(placed[0])):
            return self._reply(query, start, answer=text, abstained=True, message=unsure)
        return self._reply(query, start, answer=text, estimates=tuple(placed))

    def _strange(self, frame: XrayFrame | None) -> str:
        if frame is None or not self._guard.may_abstain:
            return ""
        return self._guard.strange(self._loaded.read(frame))

    def _ask(self, frame: XrayFrame | None, questions: list[Query]) -> list[Generated]:
        """Ask questions of one protocol about one image, or without an image."""
        expressions = [allowed(question).regex for question in questions]
        return self.generate_text(frame, [short_prompt(question) for question in questions], expressions)

    def generate_text(
        self,
        frame: XrayFrame | None,
        prompts: Sequence[str],
        constraints: Sequence[str] = (),
        sampling: Sampling | None = None,
    ) -> list[Generated]:
        """Continue prompts about one image, which is read once, or without an image.

        Args:
            frame: The image; None: the prompts stand alone.
            prompts: Questions in the short words, n of them.
            constraints: Regular expression of each whole answer (n); empty: the answers are free.
            sampling: How tokens are chosen; None: the most probable ones.

        Returns:
            One text for each prompt.

        Raises:
            ConfigurationError: A constraint is no grammar.
            LocalizerError: The image cannot be read.
        """
        import torch

        sampling = sampling or Sampling()
        model, tokenizer = self._loaded.model, self._loaded.tokenizer
        processors: list[Any] = [self._grammars.constraint(constraints)] if constraints else []
        if frame is not None:
            processors.append(self._choose_median)
        if sampling.temperature > 0 and sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        with torch.inference_mode():
            embedded, mask = self._embedded(frame, prompts)
            out = model.generate(
                inputs_embeds=embedded,
                attention_mask=mask,
                max_new_tokens=min(sampling.max_tokens, LONGEST_ANSWER),
                output_logits=True,
                return_dict_in_generate=True,
                logits_processor=processors,
                **sampling.arguments(),
            )
            numbers = torch.stack(out.logits, dim=1)[:, :, self._number_ids].double().softmax(-1).numpy()
        texts = tokenizer.batch_decode(out.sequences, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        done = []
        rows = zip(texts, out.sequences.numpy(), mask.sum(-1).tolist(), numbers, strict=True)
        for text, tokens, length, chosen in rows:
            kept = tokens[tokens != tokenizer.pad_token_id]
            finished = bool(kept.size) and int(kept[-1]) == tokenizer.eos_token_id
            numeric = np.flatnonzero(np.isin(tokens, self._number_ids))
            done.append(Generated(text, length, kept.size, finished, tuple(chosen[numeric])))
        return done

    def _choose_median(self, ids: Any, scores: Any) -> Any:
        """Decode a displacement as the median of its distribution, which has the least expected absolute error.

        Every other token is decoded greedily. The most probable number would often be the one at the end of the
        range, on which everything beyond gathers.

        Args:
            ids: Tokens so far (batch, length).
            scores: Scores of the next token (batch, vocabulary).
        """
        import torch

        if not ids.shape[1]:
            return scores
        rows = torch.isin(ids[:, -1], torch.tensor(self._before_length))
        cumulative = scores[:, self._number_ids].double().softmax(-1).cumsum(-1)
        middle = (cumulative < 0.5).sum(-1).clamp(max=len(self._number_ids) - 1)
        chosen = torch.tensor(self._number_ids)[middle]
        forced = torch.full_like(scores, float("-inf")).scatter(1, chosen[:, None], 0.0)
        return torch.where(rows[:, None], forced, scores)

    def _embedded(self, frame: XrayFrame | None, prompts: Sequence[str]) -> tuple[Any, Any]:
        """Embedded questions (n, length, width) behind the image's tokens, and their attention mask (n, length)."""
        model, processor = self._loaded.model, self._loaded.processor
        texts = [self._chat(prompt, frame is not None) for prompt in prompts]
        tokens = None
        if frame is not None:
            tokens = self._loaded.image_tokens(frame)
            texts = [text.replace(processor.image_token, processor.image_token * tokens.shape[1]) for text in texts]
        encoded = self._loaded.tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        embedded = model.get_input_embeddings()(encoded["input_ids"])
        if tokens is not None:
            place = (encoded["input_ids"] == processor.image_token_id)[..., None]
            embedded = embedded.masked_scatter(place, tokens.expand(len(prompts), -1, -1).to(embedded.dtype))
        return embedded, encoded["attention_mask"]

    def _chat(self, prompt: str, image: bool) -> str:
        content = [{"type": "image"}] * image + [{"type": "text", "text": prompt}]
        message = {"role": "user", "content": content}
        text: str = self._loaded.processor.apply_chat_template([message], add_generation_prompt=True)
        return text

    def _estimates(self, question: Query, answer: Generated) -> tuple[LandmarkEstimate, ...]:
        """Parse an answer; for pointing, add the uncertainty that the number tokens carry.

        An answer that spells its numbers digit by digit carries none, and is not believed to be exact.

        Raises:
            AnswerError: The answer breaks its protocol.
        """
        parsed, numbers = parse(answer.text, question), answer.numbers
        if isinstance(parsed, ReevaluationAnswer):
            return reasoned(parsed)
        if not isinstance(parsed, PointingAnswer):
            return estimates_of(parsed, question.target_id)
        point = (float(parsed.dx_mm), float(parsed.dy_mm))
        std = float(LIMIT_MM)
        if len(numbers) == 3:
            std = math.sqrt(np.mean([self._spread(numbers[1], point[0]), self._spread(numbers[2], point[1])]))
        return (LandmarkEstimate(parsed.target, point, std, confidence=confidence(std)),)

    def _spread(self, probability: NDArray[np.float64], center: float) -> float:
        """Return the mean squared distance of a number distribution from the answer, mm²."""
        return float((probability * (self._values - center) ** 2).sum())
