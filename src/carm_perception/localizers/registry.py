# SPDX-License-Identifier: Apache-2.0
"""Localizers by name. Heavy imports happen only for the localizer that is asked for."""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carm_core.errors import ConfigurationError, UnknownNameError
from carm_core.localization import Localizer
from carm_perception.localizers.openai.options import ServerOptions
from carm_perception.uncertainty.abstention import DEFAULT_RISK

if TYPE_CHECKING:
    from carm_sim.patient.patient import Patient

COMPACT, REGRESSION, FUSED, ORACLE, OPENAI = "compact", "regression", "fused", "oracle", "openai"
REGISTERED = "registered"
BY_GEOMETRY = (REGRESSION, FUSED, REGISTERED, ORACLE)
"""Localizers that use the angles of a frame, or all of its geometry, where it is known."""
POINTERS = (COMPACT, REGRESSION, FUSED, REGISTERED, ORACLE)
"""Localizers that point to every landmark when they are given no target, and do it well."""

NAMES = (*POINTERS, OPENAI)
_WITH_FOLDER = (COMPACT, REGRESSION, FUSED, REGISTERED)
_WITH_CT = (FUSED, REGISTERED)
_WORDS = {"folder": "model folder", "ct": "CT", "load_in_4bit": "4-bit quantization", "device": "GPU"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class LocalizerOptions:
    """What a localizer may be given; each takes what it knows.

    Attributes:
        folder: Model folder of ``compact``, ``regression`` and ``fused``; None: the one that ships.
        adapter: PEFT adapter (id or folder) on top of a Hugging Face model; empty: none.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        load_in_4bit: Quantize a Hugging Face model to 4 bits; needs CUDA and bitsandbytes.
        max_new_tokens: Longest answer of a Hugging Face model.
        maximum_std_mm: ``compact``, ``regression`` and ``fused`` abstain above this standard deviation; 0: never.
        maximum_risk: They abstain so that no more than this part of their answers is wrong, and on images that show
            none of the landmarks; 0: never. Needs weights that are calibrated.
        threads: CPU threads of a Hugging Face model; 0: leave as they are. ``compact`` and ``regression`` use one: they
            gain nothing from a second, and lose a lot when the machine is busy.
        ct: The patient's CT or its path, for ``registered`` and, where there is one, ``fused``; empty: none.
        patient: Patient whose landmarks the oracle knows.
        oracle_noise_mm: Standard deviation that the oracle adds to each component.
        seed: Seed of the oracle's noise.
        constrain: A Hugging Face model decodes under the grammar of each question.
        server: ``openai``: which server, and how it is asked.
    """

    folder: Path | None = None
    adapter: str = ""
    device: str = "auto"
    load_in_4bit: bool = False
    max_new_tokens: int = 256
    maximum_std_mm: float = 0.0
    maximum_risk: float = DEFAULT_RISK
    threads: int = 0
    ct: str | Patient = ""
    patient: str = ""
    oracle_noise_mm: float = 0.0
    seed: int = 0
    constrain: bool = True
    server: ServerOptions = field(default_factory=ServerOptions)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of commands that ask a model of the user's choice; for ``with_arguments``."""
    group = parser.add_argument_group("a model of your own")
    group.add_argument("--server-url", metavar="URL", help="--localizer openai: where (http://127.0.0.1:8000/v1)")
    group.add_argument("--server-model", metavar="NAME", help="--localizer openai: which (the server's first)")
    group.add_argument("--adapter", metavar="ID", help="PEFT adapter, id or folder, on top of a Hugging Face model")
    group.add_argument("--device", choices=("auto", "cpu", "cuda"), help="of a Hugging Face model (auto)")
    group.add_argument("--4bit", dest="load_in_4bit", action="store_true", help="quantize it (CUDA, bitsandbytes)")


def with_arguments(options: LocalizerOptions, args: argparse.Namespace) -> LocalizerOptions:
    """Return the options changed by what ``add_arguments`` read."""
    names = {"url": args.server_url, "model": args.server_model}
    server = replace(options.server, **{name: value for name, value in names.items() if value})
    return replace(
        options,
        server=server,
        adapter=args.adapter or options.adapter,
        device=args.device or options.device,
        load_in_4bit=args.load_in_4bit or options.load_in_4bit,
    )


def unused(name: str, options: LocalizerOptions) -> dict[str, Any]:
    """Return the settings that were made and that a localizer does not take, with their defaults.

    Settings of the oracle, of abstention and of threads stay out: many localizers share them.
    """
    plain, is_model, server = LocalizerOptions(), name not in NAMES, options.server
    taken = {
        "folder": name in _WITH_FOLDER,
        "adapter": is_model,
        "ct": name in _WITH_CT,
        "load_in_4bit": is_model,
        "device": is_model or options.device == "cpu",
        "server": name == OPENAI or (server.url, server.model) == (plain.server.url, plain.server.model),
    }
    return {
        key: getattr(plain, key)
        for key, is_taken in taken.items()
        if not is_taken and getattr(options, key) != getattr(plain, key)
    }


def refuse_unused(name: str, options: LocalizerOptions) -> None:
    """Check that a localizer takes every setting that was made.

    Raises:
        ConfigurationError: It does not; the message says which.
    """
    if surplus := [_WORDS.get(key, key) for key in unused(name, options)]:
        raise ConfigurationError(f"localizer {name} takes no {' and no '.join(surplus)}")


def make_localizer(name: str, options: LocalizerOptions | None = None) -> Localizer:
    """Make a localizer.

    Args:
        name: ``compact``, ``regression``, ``fused``, ``registered``, ``oracle``, ``openai`` (a server), or a Hugging
            Face id or folder of an image-text-to-text model.
        options: What it may need.

    Returns:
        The localizer, its weights loaded.

    Raises:
        UnknownNameError: No such localizer; carries the nearest name.
        LocalizerError: The model cannot be loaded.
        ConfigurationError: An option is missing or out of range, or the localizer does not take it.
    """
    options = options or LocalizerOptions()
    refuse_unused(name, options)
    if name == REGISTERED and not options.ct:
        raise ConfigurationError("localizer registered needs the patient's CT: ct:=PATH")
    if options.ct:
        from carm_perception.localizers.registered import RegisteredLocalizer

        return RegisteredLocalizer(
            options.ct,
            options.folder,
            falls_back=name == FUSED,
            maximum_std_mm=options.maximum_std_mm,
            maximum_risk=options.maximum_risk,
        )
    if name == COMPACT:
        from carm_perception.localizers.compact import CompactLocalizer

        return CompactLocalizer(options.folder, options.maximum_std_mm, maximum_risk=options.maximum_risk)
    if name == REGRESSION:
        from carm_perception.localizers.regression import RegressionLocalizer

        return RegressionLocalizer(options.folder, options.maximum_std_mm, maximum_risk=options.maximum_risk)
    if name == FUSED:
        from carm_perception.localizers.fused import FusedLocalizer

        return FusedLocalizer(options.folder, options.maximum_std_mm, maximum_risk=options.maximum_risk)
    if name == ORACLE:
        from carm_perception.localizers.oracle import OracleLocalizer

        if not options.patient:
            raise ConfigurationError("the oracle needs to know the patient")
        return OracleLocalizer(options.patient, options.oracle_noise_mm, options.seed)
    if name == OPENAI:
        from carm_perception.localizers.openai.localizer import OpenAiLocalizer

        return OpenAiLocalizer(options.server)
    model = hub_or_path(name)
    from carm_perception.localizers.huggingface.localizer import HuggingFaceLocalizer

    return HuggingFaceLocalizer(
        model,
        adapter=options.adapter,
        device=options.device,
        load_in_4bit=options.load_in_4bit,
        max_new_tokens=options.max_new_tokens,
        threads=options.threads,
        constrain=options.constrain,
    )


def check_name(name: str) -> None:
    """Check, before anything is loaded, that a localizer of this name is possible.

    Raises:
        UnknownNameError: It is none; carries the names.
    """
    if name not in NAMES:
        hub_or_path(name)


def hub_or_path(name: str, names: tuple[str, ...] = NAMES) -> str:
    """Check that a name can be a Hugging Face id or a folder; a folder's ``~`` is expanded.

    Args:
        name: What was asked for.
        names: Other names that would have been possible.

    Raises:
        UnknownNameError: It can be neither; carries the nearest of the other names.
    """
    if name.startswith((".", "/", "~")) or Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if _HUB_ID.fullmatch(name):
        return name
    raise UnknownNameError.among("localizer", name, (*names, "a Hugging Face id (OWNER/NAME)", "a folder"), 0.4)
