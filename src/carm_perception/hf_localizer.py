# SPDX-License-Identifier: Apache-2.0
"""Any Hugging Face image-text-to-text model behind the localizer seam: Qwen2.5-VL, Gemma 3, LLaVA, SmolVLM and others.

The model is asked in plain words (the full prompts), its answer is parsed strictly, asked once more when it breaks
the protocol, and then given up with a typed failure.
"""

from __future__ import annotations

import importlib.util
import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_core.errors import AnswerError, ConfigurationError, LocalizerError
from carm_core.frame import XrayFrame
from carm_core.localization import Localization, Localizer, Query
from carm_perception.answers import estimates_of
from carm_perception.folder import check_model_folder, weights_hash
from carm_perception.hf_processor import load_processor
from carm_perception.image import check_frame
from carm_perception.prompts import full_prompt
from carm_perception.protocols import parse

logger = logging.getLogger(__name__)

_REPEAT = (
    "\nYour earlier answer did not follow the form. Give the answer in exactly the form that was asked for, and"
    " nothing else."
)


@dataclass(frozen=True)
class LoadReport:
    """What the loader chose, and why.

    Attributes:
        architecture: Class of the model.
        device: Device of the first weights.
        dtype: Data type of most weights.
        parameters: Number of parameters.
        memory_bytes: Memory of parameters and buffers.
        reason: One line.
    """

    architecture: str
    device: str
    dtype: str
    parameters: int
    memory_bytes: int
    reason: str


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
            model: Hugging Face id or local folder.
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
        for folder, wanted in ((model, "config.json"), (adapter, "adapter_config.json")):
            if folder and (Path(folder).is_dir() or folder.startswith(("/", "."))):
                check_model_folder(Path(folder), (wanted,))
        chosen, dtype, reason = choose_device(device, load_in_4bit)
        if threads:
            import torch

            torch.set_num_threads(threads)
        self._processor, self._model = _load(model, chosen, dtype, load_in_4bit)
        if adapter:
            self._model = _with_adapter(self._model, adapter)
        self._model.eval()
        self.model_version = weights_hash(Path(model)) if Path(model).is_dir() else ""
        self.report = _report(self._model, reason)
        logger.info("%s: %s", self.name, self.report)

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
        from PIL import Image

        image = Image.fromarray(frame.image).convert("RGB")
        content = [{"type": "image", "image": image}, {"type": "text", "text": prompt}]
        inputs = self._processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(self._model.device, dtype=self._model.dtype)
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


def choose_device(device: str, load_in_4bit: bool) -> tuple[str, Any, str]:
    """Choose device and data type.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        load_in_4bit: Whether 4 bits were asked for.

    Returns:
        Device, torch data type and the reason in one line.

    Raises:
        ConfigurationError: CUDA or bitsandbytes is needed and missing, or the device is unknown.
    """
    import torch

    cuda = torch.cuda.is_available()
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"device must be auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not cuda:
        raise ConfigurationError("device cuda was asked for, but torch finds no CUDA GPU")
    if load_in_4bit:
        if device == "cpu" or not cuda:
            raise ConfigurationError("4-bit loading needs a CUDA GPU")
        if importlib.util.find_spec("bitsandbytes") is None:
            raise ConfigurationError("4-bit loading needs bitsandbytes: pip install bitsandbytes")
        return "cuda", torch.bfloat16, "4 bits were asked for; computation in bfloat16"
    if device == "cpu" or not cuda:
        why = "the CPU was asked for" if device == "cpu" else "there is no CUDA GPU"
        return "cpu", torch.float32, f"{why}; float32 is fastest there"
    if torch.cuda.is_bf16_supported():
        return "cuda", torch.bfloat16, "a CUDA GPU with bfloat16"
    return "cuda", torch.float16, "a CUDA GPU without bfloat16"


def _load(model: str, device: str, dtype: Any, load_in_4bit: bool) -> tuple[Any, Any]:
    from transformers import AutoModelForImageTextToText

    arguments: dict[str, Any] = {"dtype": dtype}
    if load_in_4bit:
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
        arguments["device_map"] = {"": 0}
    try:
        processor = load_processor(model)
        loaded = AutoModelForImageTextToText.from_pretrained(model, **arguments)
    except Exception as error:  # transformers and the hub raise many unrelated types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LocalizerError(f"model {model} cannot be loaded: {reason}") from error
    if getattr(processor, "chat_template", None) is None:
        raise LocalizerError(f"model {model} has no chat template")
    return processor, loaded if load_in_4bit else loaded.to(device)


def _with_adapter(model: Any, adapter: str) -> Any:
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ConfigurationError("adapters need peft: pip install peft") from error
    try:
        return PeftModel.from_pretrained(model, adapter)
    except Exception as error:  # peft and the hub raise many unrelated types
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise LocalizerError(f"adapter {adapter} cannot be loaded: {reason}") from error


def _report(model: Any, reason: str) -> LoadReport:
    tensors = [*model.parameters(), *model.buffers()]
    first = next(model.parameters())
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    return LoadReport(
        architecture=type(core).__name__,
        device=str(first.device),
        dtype=str(model.dtype).removeprefix("torch."),
        parameters=sum(p.numel() for p in model.parameters()),
        memory_bytes=sum(t.numel() * t.element_size() for t in tensors),
        reason=reason,
    )
