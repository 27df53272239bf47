# SPDX-License-Identifier: Apache-2.0
"""Loading big models: where they fit, in which precision, and why; adapters by their folder alone."""

from __future__ import annotations

import importlib.util
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carm_core.data_files import read_json
from carm_core.errors import ConfigurationError, LocalizerError
from carm_perception.localizers.huggingface.processor import load_processor
from carm_perception.networks.model_folder import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ONLY_DATA,
    ModelFolderError,
    check_adapter_folder,
    check_model_folder,
)

logger = logging.getLogger(__name__)

GIB = 1 << 30
WORKING_SHARE = 0.1
"""Memory beside the weights, as a share of them: keys and values, buffers."""
WORKING_BYTES = {"cpu": GIB // 2, "cuda": 3 * GIB // 2}
"""Memory beside the weights that does not grow with them: activations, libraries; on CUDA the context too."""
NF4_BYTES = 0.5 + 4 / 64
"""Bytes of a weight in 4-bit NF4: half a byte, and one float32 scale for each block of 64 (Dettmers et al., 2023)."""
_HUB_ID = re.compile(r"\w[\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class LoadReport:
    """What the loader chose, and why.

    Attributes:
        architecture: Class of the model.
        device: Device of the first weights.
        dtype: Data type of most weights; ``"nf4"`` for 4 bits.
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

    def __str__(self) -> str:
        """Return one line for people."""
        size = f"{self.parameters / 1e6:.4g} M parameters, {self.memory_bytes / GIB:.3g} GiB"
        return f"{self.architecture} on {self.device} in {self.dtype}: {size}; {self.reason}"


@dataclass(frozen=True)
class Source:
    """Where the parts of a model come from.

    Attributes:
        model: Hugging Face id or folder of the base model.
        adapter: PEFT adapter, id or folder; empty: none.
        processor: Id or folder of the processor.
    """

    model: str
    adapter: str
    processor: str


@dataclass(frozen=True)
class Machine:
    """Free memory.

    Attributes:
        cpu_bytes: Main memory that can be had without swapping.
        cuda_bytes: Free memory of the GPU; None: there is no CUDA GPU.
        bfloat16: Whether the GPU computes in bfloat16.
        has_bitsandbytes: Whether 4 bits are possible on it.
    """

    cpu_bytes: int
    cuda_bytes: int | None = None
    bfloat16: bool = True
    has_bitsandbytes: bool = False


@dataclass(frozen=True)
class Size:
    """Parameters of a model.

    Attributes:
        total: All of them.
        quantized: Those of linear layers, without the output layer, which 4-bit loading quantizes.
    """

    total: int
    quantized: int

    def weight_bytes(self, dtype: str) -> int:
        """Return the memory of the weights in ``float32``, ``bfloat16``, ``float16`` or ``nf4``."""
        if dtype == "nf4":
            return round(self.quantized * NF4_BYTES + (self.total - self.quantized) * 2)
        return self.total * (4 if dtype == "float32" else 2)

    def needed_bytes(self, dtype: str, device: str, extra_bytes: int = 0) -> int:
        """Memory that loading and answering take, estimated; ``extra_bytes``: what else is needed, for training."""
        weights = self.weight_bytes(dtype)
        return round(weights * (1 + WORKING_SHARE)) + WORKING_BYTES[device] + extra_bytes


@dataclass(frozen=True)
class Placement:
    """Where a model goes.

    Attributes:
        device: ``"cpu"`` or ``"cuda"``.
        dtype: ``"float32"``, ``"bfloat16"``, ``"float16"`` or ``"nf4"``.
        reason: One line.
    """

    device: str
    dtype: str
    reason: str

    @property
    def torch_dtype(self) -> Any:
        """Data type of the computation."""
        import torch

        return torch.bfloat16 if self.dtype == "nf4" else getattr(torch, self.dtype)


def this_machine(index: int | None = None) -> Machine:
    """Free memory of this machine; ``index``: which GPU, None: the current one."""
    import psutil
    import torch

    free = int(psutil.virtual_memory().available)
    if not torch.cuda.is_available():
        return Machine(free)
    cuda = int(torch.cuda.mem_get_info(index)[0])
    return Machine(free, cuda, torch.cuda.is_bf16_supported(), importlib.util.find_spec("bitsandbytes") is not None)


def choose_device(
    device: str, load_in_4bit: bool, size: Size | None = None, machine: Machine | None = None, extra_bytes: int = 0
) -> Placement:
    """Choose device and data type.

    On ``auto`` a GPU comes first, in 16 bits, else in 4; then the CPU in float32, which is fastest there, else in
    bfloat16, which takes half the memory.

    Args:
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        load_in_4bit: Whether 4 bits were asked for.
        size: The model's size; None: unknown, memory is not checked.
        machine: Free memory; None: that of this machine.
        extra_bytes: Memory that is needed beside, for training.

    Raises:
        ConfigurationError: CUDA or bitsandbytes is needed and missing, or the device is unknown.
        LocalizerError: The model fits nowhere.
    """
    here = machine or this_machine()
    _check_options(device, load_in_4bit, here)
    tried: list[str] = []
    for place, dtype, why in _candidates(device, load_in_4bit, here):
        if size is None:
            return Placement(place, dtype, f"{why}; its size is not known, so memory was not checked")
        needed = size.needed_bytes(dtype, place, extra_bytes)
        free = here.cpu_bytes if place == "cpu" else here.cuda_bytes or 0
        fits = f"{needed / GIB:.1f} GiB in {dtype} of {free / GIB:.1f} GiB free on {place}"
        if needed <= free:
            before = f" ({tried[-1]} would not fit)" if tried else ""
            return Placement(place, dtype, f"{why}; needs about {fits}{before}")
        tried.append(fits)
    raise LocalizerError(
        f"the model with {size.total / 1e9:.3g} billion parameters does not fit: needs {', or '.join(tried)}"
        if size is not None
        else "the model fits nowhere"
    )


def _check_options(device: str, load_in_4bit: bool, machine: Machine) -> None:
    cuda = machine.cuda_bytes is not None
    if device not in ("auto", "cpu", "cuda"):
        raise ConfigurationError(f"device must be auto, cpu or cuda, not {device!r}")
    if device == "cuda" and not cuda:
        raise ConfigurationError("device cuda was asked for, but torch finds no CUDA GPU")
    if load_in_4bit and (device == "cpu" or not cuda):
        raise ConfigurationError("4-bit loading needs a CUDA GPU")
    if load_in_4bit and not machine.has_bitsandbytes:
        raise ConfigurationError("4-bit loading needs bitsandbytes: pip install bitsandbytes")


def _candidates(device: str, load_in_4bit: bool, machine: Machine) -> list[tuple[str, str, str]]:
    """Return the device, data type and reason, the best first."""
    if load_in_4bit:
        return [("cuda", "nf4", "4 bits were asked for; computation in bfloat16")]
    found: list[tuple[str, str, str]] = []
    if machine.cuda_bytes is not None and device != "cpu":
        half = "bfloat16" if machine.bfloat16 else "float16"
        found.append(("cuda", half, f"a CUDA GPU {'with' if machine.bfloat16 else 'without'} bfloat16"))
        if machine.has_bitsandbytes:
            found.append(("cuda", "nf4", "a CUDA GPU too small for 16 bits; computation in bfloat16"))
    if device != "cuda":
        why = "the CPU was asked for" if device == "cpu" else "there is no CUDA GPU"
        why = "the CUDA GPU is too small" if found else why
        found.append(("cpu", "float32", f"{why}; float32 is fastest there"))
        found.append(("cpu", "bfloat16", f"{why}; bfloat16 because memory is short"))
    return found


def resolve_source(model: str, adapter: str = "") -> Source:
    """Find base model, adapter and processor; a folder with nothing but an adapter names its base model itself.

    Args:
        model: Hugging Face id or folder of a model, or folder of an adapter.
        adapter: PEFT adapter on top, id or folder; empty: none.

    Raises:
        ModelFolderError: A folder or a file in it is missing, or damaged.
    """
    folder = Path(model)
    if not (folder / ADAPTER_CONFIG).is_file() or (folder / "config.json").is_file():
        if folder.is_dir() and not (folder / "config.json").is_file():
            raise ModelFolderError(f"model folder {folder} lacks config.json, and {ADAPTER_CONFIG} of an adapter, too")
        for place, check in ((model, check_model_folder), (adapter, check_adapter_folder)):
            if place and (Path(place).exists() or place.startswith(("/", "."))):
                check(Path(place))
        return Source(model, adapter, model)
    if adapter:
        raise ModelFolderError(f"{model} is an adapter itself; the adapter {adapter} cannot go on top of it")
    check_adapter_folder(folder)
    base = _base_of(folder)
    complete = (folder / "tokenizer_config.json").is_file()
    return Source(base, model, model if complete else base)


def _base_of(adapter: Path) -> str:
    """Return the id or folder of the model that an adapter belongs to."""
    try:
        base = read_json(adapter / ADAPTER_CONFIG)["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelFolderError(f"adapter folder {adapter}: {ADAPTER_CONFIG} is damaged") from error
    if not isinstance(base, str) or not base:
        raise ModelFolderError(f"adapter folder {adapter}: {ADAPTER_CONFIG} names no base_model_name_or_path")
    if Path(base).is_dir():
        check_model_folder(Path(base))
    elif not _HUB_ID.fullmatch(base):
        raise ModelFolderError(
            f"adapter folder {adapter} belongs to {base}, which is not here: "
            "give the place of the base model as model, and this folder as adapter"
        )
    return base


def empty_model(model: str) -> Any:
    """Return a model without memory for its weights, by its configuration; None when only its own code could make it.

    Raises:
        LocalizerError: There is no such model, or its configuration is damaged.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # transformers and the hub raise many unrelated types
        raise _cannot_load("model", model, error) from error
    return empty_of(config)


def empty_of(config: Any) -> Any:
    """A model of this configuration without memory for its weights; None when only its own code could make it."""
    import torch
    from transformers import AutoModelForImageTextToText

    try:
        with torch.device("meta"):
            return AutoModelForImageTextToText.from_config(config)
    except Exception:  # an architecture that transformers does not know, or code that needs real tensors
        return None


def size_of(model: Any) -> Size:
    """Return the size of a model, which may be an empty one."""
    from torch.nn import Linear

    output = model.get_output_embeddings()
    linear = [m for m in model.modules() if isinstance(m, Linear) and m is not output]
    return Size(sum(p.numel() for p in model.parameters()), sum(m.weight.numel() for m in linear))


def load_base(source: Source, placement: Placement, device_index: int = 0) -> tuple[Any, Any]:
    """Load processor and model, without the adapter.

    Args:
        source: Its parts.
        placement: Where to.
        device_index: Which GPU.

    Raises:
        LocalizerError: Something is missing, damaged or does not belong together.
    """
    from transformers import AutoModelForImageTextToText

    arguments: dict[str, Any] = {"dtype": placement.torch_dtype, **ONLY_DATA}
    if placement.dtype == "nf4":
        from transformers import BitsAndBytesConfig

        arguments["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=placement.torch_dtype
        )
    if placement.device == "cuda":
        arguments["device_map"] = {"": device_index}
    try:
        processor = load_processor(source.processor)
        model = AutoModelForImageTextToText.from_pretrained(source.model, **arguments)
    except Exception as error:  # transformers, the hub and CUDA raise many unrelated types
        raise _cannot_load("model", source.model, error) from error
    if getattr(processor, "chat_template", None) is None:
        raise LocalizerError(f"model {source.model} has no chat template")
    return processor, model


def load_adapter(model: Any, adapter: str) -> Any:
    """Put a PEFT adapter on a model.

    Raises:
        ConfigurationError: PEFT is not installed.
        LocalizerError: The adapter is missing, damaged or belongs to another model.
    """
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ConfigurationError("adapters need peft: pip install peft") from error
    try:
        if not Path(adapter).is_dir():
            adapter = _downloaded_adapter(adapter)
        check_adapter_folder(Path(adapter))
        return PeftModel.from_pretrained(model, adapter)
    except LocalizerError:
        raise
    except Exception as error:  # peft and the hub raise many unrelated types
        raise _cannot_load("adapter", adapter, error) from error


def _downloaded_adapter(name: str) -> str:
    """Return the folder of an adapter of the Hugging Face hub. PEFT itself would fall back to a pickle."""
    from huggingface_hub import snapshot_download

    return str(snapshot_download(name, allow_patterns=[ADAPTER_CONFIG, ADAPTER_WEIGHTS]))


def _cannot_load(kind: str, name: str, error: Exception) -> LocalizerError:
    text = str(error)
    reason = (text.strip().splitlines() or [type(error).__name__])[0]
    if "trust_remote_code" in text:
        reason = "it needs Python code out of its own folder, which is never run"
    elif "safetensors" in text and "pickle" not in reason:
        reason = f"{reason} (weights are read from safetensors alone; a pickle may hold code)"
    return LocalizerError(f"{kind} {name} cannot be loaded: {reason}")


def load(source: Source, device: str = "auto", load_in_4bit: bool = False) -> tuple[Any, Any, LoadReport]:
    """Load a model for answering where it fits.

    Args:
        source: Its parts.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        load_in_4bit: Quantize to 4 bits; needs CUDA and bitsandbytes.

    Returns:
        Processor, model and what was chosen.

    Raises:
        ConfigurationError: The options contradict this machine.
        LocalizerError: The model fits nowhere, or cannot be loaded.
    """
    choose_device(device, load_in_4bit)
    empty = empty_model(source.model)
    placement = choose_device(device, load_in_4bit, None if empty is None else size_of(empty))
    processor, model = load_base(source, placement)
    if source.adapter:
        model = load_adapter(model, source.adapter)
    model.eval()
    report = describe(model, placement)
    logger.info("%s: %s", source.adapter or source.model, report)
    return processor, model, report


def describe(model: Any, placement: Placement) -> LoadReport:
    """Return what was loaded."""
    tensors = [*model.parameters(), *model.buffers()]
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    quantized = placement.dtype == "nf4"
    return LoadReport(
        architecture=type(core).__name__,
        device=str(tensors[0].device),
        dtype="nf4" if quantized else str(model.dtype).removeprefix("torch."),
        parameters=model.num_parameters() if quantized else sum(p.numel() for p in model.parameters()),
        memory_bytes=sum(t.numel() * t.element_size() for t in tensors),
        reason=placement.reason,
    )
