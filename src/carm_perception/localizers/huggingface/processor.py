# SPDX-License-Identifier: Apache-2.0
"""Processors of Hugging Face models, also where torchvision (which video input needs) is not installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from carm_core.data_files import read_json

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def image_only(processor_class: type[Any]) -> type[Any]:
    """Subclass of a processor class that leaves video input out."""

    def get_attributes(cls: Any) -> list[str]:
        return [name for name in processor_class.get_attributes() if "video" not in name]

    members = {"get_attributes": classmethod(get_attributes)}
    return type(processor_class.__name__, (processor_class,), members)


def load_processor(model: str) -> Any:
    """Load a model's processor; without torchvision, the part of it that reads images.

    Args:
        model: Hugging Face id or local folder.

    Raises:
        ImportError: The processor needs a package that is missing.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        return AutoProcessor.from_pretrained(model, trust_remote_code=False)
    import transformers

    processor_class = getattr(transformers, _processor_class_name(model) or "", None)
    if processor_class is None or not any("video" in name for name in processor_class.get_attributes()):
        return AutoProcessor.from_pretrained(model, trust_remote_code=False)
    return image_only(processor_class).from_pretrained(model, trust_remote_code=False)


def _processor_class_name(model: str) -> str | None:
    from transformers.utils import cached_file

    for name in _PROCESSOR_FILES:
        path = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            found = read_json(Path(path)).get("processor_class")
            if found:
                return str(found)
    return None
