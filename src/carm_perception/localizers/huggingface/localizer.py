# SPDX-License-Identifier: Apache-2.0
"""Any Hugging Face image-text-to-text model behind the localizer seam: Qwen2.5-VL, Gemma 3, LLaVA, SmolVLM and others.

The model is asked in plain words (the full prompts). Its answer is decoded under the grammar of the question, so that
it cannot break the protocol; where that is switched off, it is parsed strictly, asked once more, and then given up with
a typed failure.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from carm_core.errors import AnswerError, CarmError, LocalizerError
from carm_core.imaging.frame import XrayFrame
from carm_core.landmarks import LANDMARKS
from carm_core.localization import NEEDS_CT, Localization, Localizer, Protocol, Query
from carm_perception.localizers.huggingface.generator import Decoding, Generator, Messages
from carm_perception.localizers.huggingface.loader import load, resolve_source
from carm_perception.networks.model_folder import weights_hash
from carm_perception.networks.preprocessing import FIELD_MM, check_frame
from carm_perception.protocols.estimates import estimates_of
from carm_perception.protocols.grammar import Grammar, grammar
from carm_perception.protocols.prompts import full_prompt
from carm_perception.protocols.retry import ask_strictly

_WARM_UP_PX = 256


class HuggingFaceLocalizer(Localizer):
    """One image-text-to-text model with its processor and chat template.

    Attributes:
        report: What the loader chose, and why.
        generator: Decodes with the model.
    """

    def __init__(
        self,
        model: str,
        *,
        adapter: str = "",
        device: str = "auto",
        load_in_4bit: bool = False,
        max_new_tokens: int = 256,
        threads: int = 0,
        constrain: bool = True,
    ) -> None:
        """Load model and processor.

        Args:
            model: Hugging Face id or local folder; also the folder of an adapter, which names its base model.
            adapter: PEFT adapter, id or folder; empty: none.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            load_in_4bit: Quantize to 4 bits; needs CUDA and bitsandbytes.
            max_new_tokens: Longest answer that no grammar bounds.
            threads: CPU threads of torch; 0: leave as they are.
            constrain: Decode under the grammar of each question.

        Raises:
            ConfigurationError: The options contradict this machine.
            LocalizerError: The model or the adapter cannot be loaded.
        """
        self.name = Path(model).name if Path(model).is_dir() else model
        self._max_new_tokens, self._constrain = max_new_tokens, constrain
        if threads:
            import torch

            torch.set_num_threads(threads)
        source = resolve_source(model, adapter)
        processor, loaded, self.report = load(source, device, load_in_4bit)
        self.loaded = str(self.report)
        self.generator = Generator(processor, loaded)
        self.model_version = weights_hash(Path(model)) if Path(model).is_dir() else ""

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()
        if query.point_mm is not None:
            return self._reply(query, start, abstained=True, message=NEEDS_CT)
        try:
            if query.protocol is not Protocol.COMMAND:
                check_frame(frame)
        except LocalizerError as error:
            return self._reply(query, start, error="internal", message=str(error))
        try:
            answer, parsed = ask_strictly(lambda prompt: self._ask(frame, prompt, query), _prompt(frame, query), query)
        except AnswerError as error:
            return self._reply(query, start, answer=error.answer, error="malformed", message=str(error))
        except (CarmError, RuntimeError, ValueError, IndexError) as error:
            message = f"the model failed: {(str(error).splitlines() or [''])[0]}"
            return self._reply(query, start, error="internal", message=message)
        return self._reply(query, start, answer=answer, estimates=estimates_of(parsed, query.target_id))

    def warm_up(self) -> None:
        """Answer one question about a gray image, and find out whether the model's prompts can be cached.

        Raises:
            ConfigurationError: The grammar needs a package that is missing, or cannot use the model's tokenizer.
        """
        gray = XrayFrame(np.full((_WARM_UP_PX, _WARM_UP_PX), 128, np.uint8), FIELD_MM / _WARM_UP_PX, 0.0)
        queries = Query(Protocol.LOCALIZATION), Query(Protocol.POINTING, LANDMARKS[0].id)
        one, other = (self._messages(gray, _prompt(gray, query), query) for query in queries)
        self.generator.try_prefix(one, other)
        self.generator.complete(one, self._decoding(queries[0]))

    def write(self, image: NDArray[np.uint8], prompt: str, allowed: Grammar) -> str:
        """Return the answer to a prompt about an image (rows, columns), under a grammar unless that is switched off.

        Raises:
            ConfigurationError: The grammar cannot be used.
            RuntimeError: The model failed; so for ValueError and IndexError.
        """
        from PIL import Image

        picture = {"type": "image", "image": Image.fromarray(image).convert("RGB")}
        messages = [{"role": "user", "content": [picture, {"type": "text", "text": prompt}]}]
        return self.generator.complete(messages, self._decoding_under(allowed)).text

    def _ask(self, frame: XrayFrame, prompt: str, query: Query) -> str:
        return self.generator.complete(self._messages(frame, prompt, query), self._decoding(query)).text

    @staticmethod
    def _messages(frame: XrayFrame, prompt: str, query: Query) -> Messages:
        from PIL import Image

        content: list[dict[str, Any]] = [{"type": "text", "text": prompt}]
        if query.protocol is not Protocol.COMMAND:
            content.insert(0, {"type": "image", "image": Image.fromarray(frame.image).convert("RGB")})
        return [{"role": "user", "content": content}]

    def _decoding(self, query: Query) -> Decoding:
        return self._decoding_under(grammar(query))

    def _decoding_under(self, allowed: Grammar) -> Decoding:
        if not self._constrain:
            return Decoding(self._max_new_tokens)
        return Decoding(allowed.longest + 1, allowed.regex)

    def close(self) -> None:
        """Release the model."""
        import torch

        del self.generator
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _prompt(frame: XrayFrame, query: Query) -> str:
    rows, columns = frame.image.shape
    spacing = frame.mm_per_px_at_isocenter
    return full_prompt(query, (columns * spacing, rows * spacing))
