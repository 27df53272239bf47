# SPDX-License-Identifier: Apache-2.0
"""Processors of Hugging Face models, also where torchvision (which video input needs) is not installed."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from carm_core.errors import LocalizerError

_PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")


def image_only(processor_class: type[Any]) -> type[Any]:
    """Subclass of a processor class that leaves video input out."""

    class ImageOnly(processor_class):  # type: ignore[misc]
        @functools.wraps(processor_class.__init__)
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **{"video_processor": None, **named})

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in processor_class.get_attributes() if "video" not in name]

    ImageOnly.__name__ = ImageOnly.__qualname__ = processor_class.__name__
    return ImageOnly


def load_processor(model: str) -> Any:
    """Load a model's processor; without torchvision, the part of it that reads images.

    Args:
        model: Hugging Face id or local folder.

    Raises:
        ImportError: Something besides torchvision is missing.
        LocalizerError: The model does not name its processor.
    """
    from transformers import AutoProcessor
    from transformers.utils import is_torchvision_available

    if is_torchvision_available():
        return AutoProcessor.from_pretrained(model)
    import transformers

    name = _processor_class_name(model)
    if name is None:
        return AutoProcessor.from_pretrained(model)
    processor_class = getattr(transformers, name, None)
    if processor_class is None:
        raise LocalizerError(f"model {model}: transformers has no {name}")
    return image_only(processor_class).from_pretrained(model)


def _processor_class_name(model: str) -> str | None:
    from transformers.utils import cached_file

    for name in _PROCESSOR_FILES:
        path = cached_file(model, name, _raise_exceptions_for_missing_entries=False)
        if path is not None:
            found = json.loads(Path(path).read_text()).get("processor_class")
            if found:
                return str(found)
    return None
