# SPDX-License-Identifier: Apache-2.0
"""Fetch the JavaScript packages of ``web/package-lock.json``, as ``npm ci`` in ``web`` would, without npm.

Needs nothing but Python's standard library. Each package is compared with the SHA-512 of the lock file before anything
of it is written, and only the files that the console serves are kept. The environment variable ``npm_config_registry``
names a mirror, as it does for npm.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import io
import json
import os
import sys
import tarfile
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REGISTRY = "https://registry.npmjs.org"
USED = {"three": ("LICENSE", "package.json", "build/three.core.js", "build/three.module.js")}
"""Package -> its files that the console serves, or that say whose they are."""
MOST_BYTES = 32 << 20
TIMEOUT_S = 30.0


class PackageError(Exception):
    """A package cannot be had, or is not the one that the lock file names."""


def fetch(name: str, version: str) -> bytes:
    """Return the archive of a package.

    Raises:
        PackageError: It cannot be fetched.
    """
    registry = (os.environ.get("npm_config_registry") or REGISTRY).rstrip("/")  # noqa: SIM112
    try:
        with urllib.request.urlopen(f"{registry}/{name}/-/{name}-{version}.tgz", timeout=TIMEOUT_S) as answer:
            content: bytes = answer.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        raise PackageError(f"{name} {version} cannot be fetched ({error})") from error
    return content


def check(name: str, content: bytes, integrity: str) -> None:
    """Compare an archive with its hash.

    Args:
        name: Of the package.
        content: The archive.
        integrity: Its hash as lock files have it: ``sha512-`` and base64.

    Raises:
        PackageError: It is another archive.
    """
    kind, _, expected = integrity.partition("-")
    found = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if kind != "sha512" or not hmac.compare_digest(found, expected):
        raise PackageError(f"{name}: what was fetched is not what the lock file names (SHA-512)")


def unpack(content: bytes, files: tuple[str, ...], folder: Path) -> None:
    """Write some files of an archive.

    Args:
        content: The archive.
        files: Paths in the package.
        folder: Where they go, below the same paths.

    Raises:
        PackageError: A file is not in the archive.
    """
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for file in files:
            try:
                stream = archive.extractfile(f"package/{file}")
            except KeyError:
                stream = None
            if stream is None:
                raise PackageError(f"{folder.name}: the archive has no {file}")
            place = folder / file
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = place.with_name(place.name + ".part")
            partial.write_bytes(stream.read())
            partial.replace(place)


def install(root: Path = ROOT) -> None:
    """Install what is missing, or of another version than the lock file names.

    Args:
        root: The checkout.

    Raises:
        PackageError: A package cannot be had.
    """
    lock = json.loads((root / "web/package-lock.json").read_text(encoding="utf-8"))
    for name, files in USED.items():
        folder = root / "web/node_modules" / name
        locked = lock["packages"][f"node_modules/{name}"]
        if all((folder / file).is_file() for file in files) and _version(folder) == locked["version"]:
            continue
        content = fetch(name, locked["version"])
        check(name, content, locked["integrity"])
        unpack(content, files, folder)


def _version(folder: Path) -> str:
    return str(json.loads((folder / "package.json").read_text(encoding="utf-8")).get("version"))


def main() -> int:
    """Install; return an exit code."""
    try:
        install()
    except (PackageError, OSError, ValueError, tarfile.TarError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
