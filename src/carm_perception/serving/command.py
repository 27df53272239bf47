# SPDX-License-Identifier: Apache-2.0
"""Body of ``carm serve``. Heavy imports wait until it runs."""

from __future__ import annotations

import argparse
import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path

from carm_core.cli.arguments import count
from carm_core.errors import ConfigurationError

KEY_VARIABLE = "CARM_API_KEY"
"""Environment variable that holds the API key of server and client when no other is named."""

_GRACE_S = 5


def _port(text: str) -> int:
    value = int(text) if text.isdecimal() else -1
    if not 0 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{text} is not a port (0 to 65535)")
    return value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of ``carm serve``."""
    parser.add_argument("--model", default="compact", help="compact, or a Hugging Face id or folder (compact)")
    parser.add_argument("--weights", type=Path, metavar="DIR", help="model folder of compact (the one that ships)")
    parser.add_argument("--adapter", default="", help="PEFT adapter of a Hugging Face model, id or folder")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="of a Hugging Face model")
    parser.add_argument("--load-in-4bit", action="store_true", help="quantize a Hugging Face model (CUDA)")
    parser.add_argument("--threads", type=count, default=2, help="CPU threads of a Hugging Face model (2)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=_port, default=8000, help="port to listen on; 0: any that is free (8000)")
    parser.add_argument(
        "--api-key-env",
        default=KEY_VARIABLE,
        metavar="NAME",
        help=f"environment variable with the key that clients must send ({KEY_VARIABLE}); not set: no key",
    )
    parser.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate chain (PEM): serve HTTPS")
    parser.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")
    parser.add_argument("--max-image-px", type=count, default=4096, help="longest side of an image (4096)")
    parser.add_argument("--max-request-mb", type=count, default=16, help="largest request, MiB (16)")
    parser.add_argument("--queue", type=count, default=64, help="most requests that wait (64)")


def run(options: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM.

    Raises:
        ConfigurationError: An option cannot be used.
        CarmError: The model cannot be loaded.
    """
    _check_files(options)
    import uvicorn

    from carm_perception.localizers.registry import LocalizerOptions
    from carm_perception.serving.app import Limits, make_app
    from carm_perception.serving.backends import make_backend
    from carm_perception.serving.connections import BoundedProtocol

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end_while_loading)
    bound = _bind(options)
    backend = make_backend(
        options.model,
        LocalizerOptions(
            folder=options.weights,
            adapter=options.adapter,
            device=options.device,
            load_in_4bit=options.load_in_4bit,
            threads=options.threads,
        ),
    )
    key = os.environ.get(options.api_key_env, "").strip()
    limits = Limits(options.max_request_mb * 2**20, options.max_image_px, options.queue)
    config = uvicorn.Config(
        make_app(backend, limits, key),
        http=BoundedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
        timeout_graceful_shutdown=_GRACE_S,
    )
    try:
        config.load()
    except OSError as error:
        raise ConfigurationError(f"{options.tls_cert} and {options.tls_key} are no certificate: {error}") from error
    _warn(options, bool(key))
    host = f"[{options.host}]" if ":" in options.host else options.host
    scheme = "https" if options.tls_cert else "http"
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # uvicorn raises the signal again after it has ended
    ready = f"carm serve: {backend.name} on {scheme}://{host}:{bound.getsockname()[1]}/v1"

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            print(ready, flush=True)

    Server(config).run([bound])
    return 0


def _warn(options: argparse.Namespace, has_key: bool) -> None:
    """Say what others on the network may do."""
    if is_loopback(options.host):
        return
    if not has_key:
        print(f"carm serve: {options.api_key_env} is not set: whoever reaches {options.host} may ask", file=sys.stderr)
    if options.tls_cert is None:
        exposed = "the key and the images" if has_key else "images"
        print(f"carm serve: no --tls-cert: {exposed} travel unencrypted to {options.host}", file=sys.stderr)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_files(options: argparse.Namespace) -> None:
    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigurationError("give both --tls-cert and --tls-key")
    for file in (options.tls_cert, options.tls_key):
        if file is not None and not file.is_file():
            raise ConfigurationError(f"{file} does not exist")


def _end_while_loading(number: int, frame: object) -> None:
    del number, frame
    raise SystemExit(0)


def _bind(options: argparse.Namespace) -> socket.socket:
    """Take the port before the model is loaded, so that a port in use is told at once."""
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    bound = socket.socket(family)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((options.host, options.port))
    except OSError as error:
        bound.close()
        raise ConfigurationError(f"cannot listen on {options.host}:{options.port}: {error.strerror}") from error
    return bound
