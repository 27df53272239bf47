# SPDX-License-Identifier: Apache-2.0
"""Where a model's adapters go, the memory that training takes, and the model made ready for it."""

from __future__ import annotations

import re
from typing import Any

from carm_core.errors import ConfigurationError, LocalizerError
from carm_perception.localizers.huggingface.loader import (
    Machine,
    Placement,
    Size,
    Source,
    choose_device,
    load_base,
    this_machine,
)
from carm_perception.training.qlora.options import QloraOptions

_LANGUAGE_MODELS = ("language_model", "text_model")
_OPTIMIZER_BYTES = 16
"""Of an adapter's parameter: weight, gradient and two moments in float32."""
_TOKENS = 1500
"""Tokens of an example, image included, that the memory estimate reckons with."""
_LIVE_LAYER_COPIES = 30
"""Activations of one layer that are alive while it is computed again, in multiples of the hidden state."""
_LOGIT_COPIES = 3
"""Logits in float32, their gradient, and the softmax."""


def language_model(model: Any) -> tuple[str, Any]:
    """Return the name and module of the part of a model that reads and writes text.

    Raises:
        LocalizerError: There is none to be told from the rest.
    """
    names = {id(module): name for name, module in reversed(list(model.named_modules())) if name}
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    if decoder is not None and id(decoder) in names and not _holds_images(decoder):
        return names[id(decoder)], decoder
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _LANGUAGE_MODELS and not _holds_images(module):
            return name, module
    raise LocalizerError(f"{type(model).__name__}: no language model found in it to put adapters on")


def _holds_images(module: Any) -> bool:
    words = ("vision", "visual", "image", "projector")
    return any(word in name for name, _ in module.named_children() for word in words)


def target_modules(model: Any) -> str:
    """Pattern of the names of all linear layers of the language model, but the output layer: PEFT matches it whole.

    Raises:
        LocalizerError: There are none.
    """
    from torch.nn import Linear

    prefix, part = language_model(model)
    output = model.get_output_embeddings()
    found = [name for name, m in part.named_modules() if isinstance(m, Linear) and m is not output]
    leaves = sorted({name.rpartition(".")[2] for name in found})
    if not leaves:
        raise LocalizerError(f"{type(model).__name__}: the language model {prefix} has no linear layers")
    return rf"{re.escape(prefix)}\.(.+\.)?({'|'.join(map(re.escape, leaves))})"


def training_bytes(config: Any, adapter_parameters: int, micro_batch: int, tokens: int = _TOKENS) -> int:
    """Memory that training takes beside the base model's weights, estimated, with activations computed again.

    Args:
        config: The model's configuration.
        adapter_parameters: Number of trained parameters.
        micro_batch: Examples at once.
        tokens: Tokens of an example.
    """
    text = config.get_text_config()
    width, layers, vocabulary = text.hidden_size, text.num_hidden_layers, text.vocab_size
    states = tokens * width * (layers + _LIVE_LAYER_COPIES) * 2
    logits = tokens * vocabulary * 4 * _LOGIT_COPIES
    return int(adapter_parameters * _OPTIMIZER_BYTES + micro_batch * (states + logits))


def adapter_parameters(model: Any, rank: int) -> int:
    """Return the parameters of the adapters of a model, which may be on the meta device."""
    pattern = re.compile(target_modules(model))
    layers = [module for name, module in model.named_modules() if pattern.fullmatch(name)]
    return sum(rank * (layer.in_features + layer.out_features) for layer in layers)


def place_for_training(options: QloraOptions, index: int = 0) -> Placement:
    """Choose device and precision of the base model.

    Args:
        options: The run.
        index: Which GPU.

    Raises:
        ConfigurationError: The options contradict this machine.
        LocalizerError: The model fits nowhere.
    """
    machine = this_machine(index)
    size, extra = _training_size(options)
    wants_nf4 = options.precision == "nf4" or (
        options.precision == "auto" and options.device != "cpu" and _can_nf4(machine)
    )
    if wants_nf4:
        placement = choose_device(options.device, True, size, machine, extra)
        return Placement(placement.device, placement.dtype, placement.reason.replace("4 bits were asked for", "QLoRA"))
    if options.precision == "auto":
        return choose_device(options.device, False, size, machine, extra)
    device = options.device if options.device != "auto" else ("cpu" if machine.cuda_bytes is None else "cuda")
    chosen = choose_device(device, False, None, machine)
    return Placement(chosen.device, options.precision, f"{options.precision} was asked for")


def _can_nf4(machine: Machine) -> bool:
    return machine.cuda_bytes is not None and machine.has_bitsandbytes


def _training_size(options: QloraOptions) -> tuple[Size | None, int]:
    """Size of the base model and what training adds; the size is None where only the model's own code could tell."""
    from carm_perception.localizers.huggingface.loader import empty_model, size_of

    model = empty_model(options.model)
    if model is None:
        return None, 0
    extra = training_bytes(model.config, adapter_parameters(model, options.rank), options.micro_batch)
    return size_of(model), extra


def prepare(options: QloraOptions, placement: Placement, index: int = 0) -> tuple[Any, Any]:
    """Load the base model and put fresh adapters on it.

    Args:
        options: The run.
        placement: Where to.
        index: Which GPU.

    Returns:
        Processor and model.

    Raises:
        ConfigurationError: PEFT is not installed.
        LocalizerError: The model cannot be loaded, or has no place for adapters.
    """
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ConfigurationError("fine-tuning needs peft: pip install peft") from error
    import torch

    processor, model = load_base(Source(options.model, "", options.model), placement, index)
    model.config.get_text_config().use_cache = False
    if options.checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    torch.manual_seed(options.seed)
    configuration = LoraConfig(
        r=options.rank,
        lora_alpha=options.alpha * options.rank,
        lora_dropout=options.dropout,
        target_modules=target_modules(model),
        task_type="CAUSAL_LM",
    )
    return processor, get_peft_model(model, configuration)
