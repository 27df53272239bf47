# SPDX-License-Identifier: Apache-2.0
"""Classifiers of body parts by name. Heavy imports happen only for the one that is asked for."""

from __future__ import annotations

from carm_core.errors import ConfigurationError, UnknownNameError
from carm_perception.classifiers.classifier import Classifier
from carm_perception.localizers import registry
from carm_perception.localizers.registry import COMPACT, OPENAI, LocalizerOptions

NAMES = (COMPACT, OPENAI)


def check_name(name: str) -> None:
    """Check, before anything is loaded, that a classifier of this name is possible.

    Raises:
        UnknownNameError: It is none; carries the names.
    """
    if name not in NAMES:
        if name in registry.NAMES:
            raise UnknownNameError("classifier", name, COMPACT, [*NAMES, "a Hugging Face id (OWNER/NAME)", "a folder"])
        registry.hub_or_path(name, NAMES)


def make_classifier(name: str, options: LocalizerOptions | None = None) -> Classifier:
    """Make a classifier.

    Args:
        name: ``compact``, ``openai`` (a server), or a Hugging Face id or folder of an image-text-to-text model.
        options: What it may need, as for localizers.

    Raises:
        UnknownNameError: There is no such classifier.
        LocalizerError: The model cannot be loaded.
        ConfigurationError: An option is not taken.
    """
    options = options or LocalizerOptions()
    check_name(name)
    if name == COMPACT:
        from carm_perception.classifiers.compact import CompactClassifier

        if options.adapter or options.load_in_4bit:
            raise ConfigurationError("classifier compact takes no adapter and no 4-bit quantization")
        return CompactClassifier(options.folder)
    from carm_perception.classifiers.asked import AskedClassifier

    writer = registry.make_localizer(name, options)
    if not hasattr(writer, "write"):
        raise ConfigurationError(f"{name} does not write answers")
    return AskedClassifier(writer)
