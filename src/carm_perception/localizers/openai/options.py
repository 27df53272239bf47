# SPDX-License-Identifier: Apache-2.0
"""Which OpenAI-compatible server the localizer ``openai`` asks, and how."""

from __future__ import annotations

from dataclasses import dataclass

COMPACT_MODEL = "carm-compact"
"""Name under which ``carm serve`` offers the compact model; a client that sees it asks the short questions."""

CONSTRAINTS = ("none", "structured_outputs", "guided_regex", "response_format")
"""Ways in which a server may be told the grammar of an answer."""

IMAGE_FORMATS = ("png", "jpeg")


@dataclass(frozen=True)
class ServerOptions:
    """Where the model is and how it is asked.

    Attributes:
        url: Base address of the API, up to and with ``/v1``.
        model: Name of the model; empty: the first one that the server has.
        api_key_env: Environment variable that holds the key; not set: none is sent.
        timeout_s: Longest wait for an answer, attempts and re-ask together, s.
        retries: Further attempts when the server cannot be reached or is busy.
        image_px: Longest side of the image that is sent; larger ones are reduced.
        image_format: ``"png"`` or ``"jpeg"``.
        verify_tls: Check the server's certificate.
        ca_file: Certificates (PEM) to check it against; empty: those of this machine.
        constrain: How the server is told the grammar: ``"structured_outputs"`` or ``"guided_regex"`` (vLLM, new and
            old), ``"response_format"`` (JSON schema; pointing only), or ``"none"``.
        max_tokens: Longest answer that no grammar bounds.
    """

    url: str = "http://127.0.0.1:8000/v1"
    model: str = ""
    api_key_env: str = "CARM_API_KEY"
    timeout_s: float = 20.0
    retries: int = 3
    image_px: int = 1024
    image_format: str = "png"
    verify_tls: bool = True
    ca_file: str = ""
    constrain: str = "none"
    max_tokens: int = 256
