# SPDX-License-Identifier: Apache-2.0
"""Any Hugging Face image-text-to-text model behind the localizer seam: Qwen2.5-VL, Gemma 3, LLaVA, SmolVLM and others.

The model is asked in plain words (the full prompts), its answer is parsed strictly, asked once more when it breaks
the protocol, and then given up with a typed failure.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from carm_core.errors import AnswerError, LocalizerError
from carm_core.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Query
from carm_perception.answers import estimates_of
from carm_perception.folder import weights_hash
from carm_perception.hf_loader import load, resolve_source
from carm_perception.hf_processor import chat_inputs
from carm_perception.image import check_frame
from carm_perception.prompts import full_prompt
from carm_perception.protocols import parse

_REPEAT = (
    "\nYour earlier answer did not follow the form. Give the answer in exactly the form that was asked for, and"
    " nothing else."
)


class HuggingFaceLocalizer(Localizer):
    """One image-text-to-text model with its processor and chat template."""

    def __init__(
        self,
        model: str,
        *,
        adapter: str = "",
        device: str = "auto",
        load_in_4bit: bool = False,
        max_new_tokens: int = 256,
        threads: int = 0,
    ) -> None:
        """Load model and processor.

        Args:
            model: Hugging Face id or local folder; also the folder of an adapter, which names its base model.
            adapter: PEFT adapter, id or folder; empty: none.
            device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
            load_in_4bit: Quantize to 4 bits; needs CUDA and bitsandbytes.
            max_new_tokens: Longest answer.
            threads: CPU threads of torch; 0: leave as they are.

        Raises:
            ConfigurationError: The options contradict this machine.
            LocalizerError: The model or the adapter cannot be loaded.
        """
        self.name = Path(model).name if Path(model).is_dir() else model
        self._max_new_tokens = max_new_tokens
        if threads:
            import torch

            torch.set_num_threads(threads)
        source = resolve_source(model, adapter)
        self._processor, self._model, self.report = load(source, device, load_in_4bit)
        self.model_version = weights_hash(Path(model)) if Path(model).is_dir() else ""

    def localize(self, frame: XrayFrame, query: Query) -> Localization:
        """Answer one question about a frame."""
        start = time.perf_counter()

        def reply(**content: Any) -> Localization:
            content.setdefault("answer", "")
            return Localization(self.name, self.model_version, query, latency_s=time.perf_counter() - start, **content)

        try:
            check_frame(frame)
        except LocalizerError as error:
            return reply(error="internal", message=str(error))
        rows, columns = frame.image.shape
        spacing = frame.mm_per_px_at_isocenter
        prompt = full_prompt(query, (columns * spacing, rows * spacing))
        failure: AnswerError | None = None
        for attempt in (prompt, prompt + _REPEAT):
            try:
                answer = self._ask(frame, attempt)
            except (RuntimeError, ValueError, IndexError) as error:
                return reply(error="internal", message=f"the model failed: {str(error).splitlines()[0]}")
            try:
                return reply(answer=answer, estimates=estimates_of(parse(answer, query)))
            except AnswerError as error:
                failure = error
        return reply(answer=failure.answer if failure else "", error="malformed", message=str(failure))

    def _ask(self, frame: XrayFrame, prompt: str) -> str:
        import torch

        inputs = chat_inputs(self._processor, frame.image, prompt)
        inputs = inputs.to(self._model.device, dtype=self._model.dtype)
        with torch.inference_mode():
            out = self._model.generate(**inputs, max_new_tokens=self._max_new_tokens, do_sample=False)
        fresh = out[:, inputs["input_ids"].shape[1] :]
        answer: str = self._processor.batch_decode(fresh, skip_special_tokens=True)[0]
        return answer

    def close(self) -> None:
        """Release the model."""
        import torch

        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
