# SPDX-License-Identifier: Apache-2.0
"""Certificate and key of the console: what they must be, and how to make some for a start."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from carm_bringup.console.access.users import write_private
from carm_core.errors import ConfigurationError, quoted

CERTIFICATE, KEY = "console_cert.pem", "console_key.pem"
_DAYS = 365
_MOST_BYTES = 2**20


def read_names(certificate: Path, key: Path) -> tuple[str, ...]:
    """Return the names and addresses that a certificate is for, DNS names first; ``*.`` stands for one label.

    Raises:
        ConfigurationError: The files cannot be read, do not fit each other, or the certificate has expired or names
            nothing.
    """
    try:
        content, secret = _content(certificate), _content(key)
        loaded = x509.load_pem_x509_certificates(content)[0]
        serialization.load_pem_private_key(secret, None)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError among them
        raise ConfigurationError(f"{certificate} and {key}: {error.strerror or error}") from error
    except TypeError as error:
        raise ConfigurationError(f"{key}: a key with a pass phrase cannot be used") from error
    except (ValueError, IndexError) as error:
        raise ConfigurationError(f"{certificate} and {key} are no certificate with its private key (PEM)") from error
    if loaded.not_valid_after_utc < datetime.now(UTC):
        raise ConfigurationError(f"{certificate} expired on {loaded.not_valid_after_utc:%Y-%m-%d}")
    try:
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ConfigurationError(f"{certificate} names no host (subject alternative name)") from None
    addresses = [str(one) for one in names.get_values_for_type(x509.IPAddress)]
    return (*(name.lower() for name in names.get_values_for_type(x509.DNSName)), *addresses)


def make(folder: Path, names: Sequence[str]) -> tuple[Path, Path]:
    """Make a key and a certificate signed by itself, of which browsers warn until it is installed in them.

    Args:
        folder: Made when it is not there.
        names: Host names and addresses that the console is opened by.

    Returns:
        Certificate and key.

    Raises:
        ConfigurationError: A name is none, or the files are there already or cannot be written.
    """
    files = folder / CERTIFICATE, folder / KEY
    for file in files:
        if file.exists():
            raise ConfigurationError(f"{file} exists already")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName([_name(name) for name in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_private(files[1], secret)
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise ConfigurationError(f"{folder}: {error.strerror}") from error
    return files


def _name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if len(name) > 253 or not all(part.replace("-", "").isalnum() for part in name.removeprefix("*.").split(".")):
        raise ConfigurationError(f"{quoted(name)} is neither a host name nor an address")
    return x509.DNSName(name.encode("idna").decode().lower())


def _content(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(_MOST_BYTES)
