# SPDX-License-Identifier: Apache-2.0
"""Which OpenAI-compatible server the localizer ``openai`` asks, and how."""

from __future__ import annotations

from dataclasses import dataclass

from carm_core.errors import ConfigurationError
from carm_core.language.chat_client import ChatOptions

COMPACT_MODEL = "carm-compact"
"""Name under which ``carm serve`` offers the compact model; a client that sees it asks the short questions."""

CONSTRAINTS = ("none", "structured_outputs", "guided_regex", "response_format")
"""Ways in which a server may be told the grammar of an answer."""

IMAGE_FORMATS = ("png", "jpeg")


@dataclass(frozen=True)
class ServerOptions(ChatOptions):
    """Where the model is and how it is asked.

    Attributes:
        model: Name of the model; empty: the first one that the server has.
        image_px: Longest side of the image that is sent; larger ones are reduced.
        image_format: ``"png"`` or ``"jpeg"``.
        constrain: How the server is told the grammar: ``"structured_outputs"`` or ``"guided_regex"`` (vLLM, new and
            old), ``"response_format"`` (JSON schema; pointing only), or ``"none"``.
        max_tokens: Longest answer that no grammar bounds.
    """

    model: str = ""
    image_px: int = 1024
    image_format: str = "png"
    constrain: str = "none"
    max_tokens: int = 256

    def check(self) -> None:
        """Check what concerns the questions; ``ChatClient`` checks the rest.

        Raises:
            ConfigurationError: An option cannot be used.
        """
        for value, known, what in (
            (self.constrain, CONSTRAINTS, "server_constrain"),
            (self.image_format, IMAGE_FORMATS, "server_image_format"),
        ):
            if value not in known:
                raise ConfigurationError(f"{what} must be {', '.join(known)}, not {value!r}")
        if self.image_px < 16:
            raise ConfigurationError(f"server_image_px must be at least 16, not {self.image_px}")
