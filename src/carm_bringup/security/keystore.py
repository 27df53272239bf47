# SPDX-License-Identifier: Apache-2.0
"""A keystore in the layout of SROS2 (``ros2 security``), made and checked without it.

Layout and algorithms are those of the package ``sros2``: a certificate authority on the curve P-256, a certificate
per enclave whose common name is the enclave's, governance and permissions signed as S/MIME. Formats: OMG DDS Security
1.1, sections 8.8.2.1 (permissions) and 9.4.1.2 (governance).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from carm_bringup.security.access import Permissions
from carm_core.errors import ConfigurationError

AUTHORITY = "carm CA"
VALID_DAYS = 3650
_SCHEMA = "http://www.omg.org/spec/DDS-SECURITY/20170901/omg_shared_ca_{}.xsd"
_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_LAST_DOMAIN = 232
_SHARED = ("identity_ca.cert.pem", "permissions_ca.cert.pem")


@dataclass(frozen=True)
class _Signer:
    """The certificate authority."""

    key: Any
    certificate: Any


def create(folder: Path, permissions: Mapping[str, Permissions]) -> list[str]:
    """Make a keystore, or add to one and renew what its enclaves may do; keys that are there are kept.

    Args:
        folder: The keystore.
        permissions: Enclave to what it may do.

    Returns:
        The enclaves.

    Raises:
        ConfigurationError: The folder cannot be written, or holds something else.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigurationError(f"{folder} is not a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "public" / "ca.cert.pem").is_file():
        raise ConfigurationError(f"{folder} is not empty and no keystore: name a new folder")
    try:
        for name in ("enclaves", "private", "public"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / "private").chmod(0o700)
        signer = _authority(folder)
        _write_signed(folder / "enclaves", "governance", governance(), signer)
        for enclave, allowed in permissions.items():
            _make_enclave(folder, enclave, allowed, signer)
    except OSError as error:
        raise ConfigurationError(f"cannot write {folder}: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigurationError(f"{folder} holds no keys that can be read ({error})") from error
    return list(permissions)


def governance() -> bytes:
    """Return who may join: nobody without a certificate; everything is encrypted, every topic is controlled."""
    root = ET.Element("dds", {f"{{{_XSI}}}noNamespaceSchemaLocation": _SCHEMA.format("governance")})
    rule = ET.SubElement(ET.SubElement(root, "domain_access_rules"), "domain_rule")
    _domains(rule)
    for name, value in (
        ("allow_unauthenticated_participants", "false"),
        ("enable_join_access_control", "true"),
        ("discovery_protection_kind", "ENCRYPT"),
        ("liveliness_protection_kind", "ENCRYPT"),
        ("rtps_protection_kind", "SIGN"),
    ):
        ET.SubElement(rule, name).text = value
    topic = ET.SubElement(ET.SubElement(rule, "topic_access_rules"), "topic_rule")
    for name, value in (
        ("topic_expression", "*"),
        ("enable_discovery_protection", "true"),
        ("enable_liveliness_protection", "true"),
        ("enable_read_access_control", "true"),
        ("enable_write_access_control", "true"),
        ("metadata_protection_kind", "ENCRYPT"),
        ("data_protection_kind", "ENCRYPT"),
    ):
        ET.SubElement(topic, name).text = value
    return _xml(root)


def permissions_document(enclave: str, allowed: Permissions, begin: datetime) -> bytes:
    """Return what an enclave may do; everything else is denied.

    Args:
        enclave: Its name, which is its certificate's common name.
        allowed: Topics of DDS.
        begin: From when on.
    """
    root = ET.Element("dds", {f"{{{_XSI}}}noNamespaceSchemaLocation": _SCHEMA.format("permissions")})
    grant = ET.SubElement(ET.SubElement(root, "permissions"), "grant", name=enclave)
    ET.SubElement(grant, "subject_name").text = f"CN={enclave}"
    validity = ET.SubElement(grant, "validity")
    for name, time in (("not_before", begin), ("not_after", begin + timedelta(days=VALID_DAYS))):
        ET.SubElement(validity, name).text = time.strftime("%Y-%m-%dT%H:%M:%S")
    rule = ET.SubElement(grant, "allow_rule")
    _domains(rule)
    for kind, topics in (("publish", allowed.publish), ("subscribe", allowed.subscribe)):
        listed = ET.SubElement(ET.SubElement(rule, kind), "topics")
        for topic in sorted(topics):
            ET.SubElement(listed, "topic").text = topic
    ET.SubElement(grant, "default").text = "DENY"
    return _xml(root)


def _domains(parent: ET.Element) -> None:
    span = ET.SubElement(ET.SubElement(parent, "domains"), "id_range")
    ET.SubElement(span, "min").text, ET.SubElement(span, "max").text = "0", str(_LAST_DOMAIN)


def _xml(root: ET.Element) -> bytes:
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _authority(folder: Path) -> _Signer:
    """Return the keystore's certificate authority, made anew where there is none."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    key_file, certificate_file = folder / "private" / "ca.key.pem", folder / "public" / "ca.cert.pem"
    if not certificate_file.is_file():
        key = _new_key()
        _write(key_file, _key_bytes(key), secret=True)
        _write(certificate_file, _certificate_bytes(_certificate(AUTHORITY, key, None)))
        for kind in ("identity", "permissions"):
            _link(folder / "private" / f"{kind}_ca.key.pem", "ca.key.pem")
            _link(folder / "public" / f"{kind}_ca.cert.pem", "ca.cert.pem")
    if not key_file.is_file():
        raise ConfigurationError(f"{key_file} is not here: enclaves are made where the authority's private key is")
    return _Signer(
        serialization.load_pem_private_key(key_file.read_bytes(), None),
        x509.load_pem_x509_certificate(certificate_file.read_bytes()),
    )


def _make_enclave(folder: Path, enclave: str, allowed: Permissions, signer: _Signer) -> None:
    place = folder / "enclaves" / enclave.strip("/")
    place.mkdir(parents=True, exist_ok=True)
    up = Path(*[".."] * len(place.relative_to(folder).parts))
    for name in _SHARED:
        _link(place / name, str(up / "public" / name))
    _link(place / "governance.p7s", str(up / "enclaves" / "governance.p7s"))
    if not (place / "key.pem").is_file():
        key = _new_key()
        _write(place / "key.pem", _key_bytes(key), secret=True)
        _write(place / "cert.pem", _certificate_bytes(_certificate(enclave, key, signer)))
    _write_signed(place, "permissions", permissions_document(enclave, allowed, _yesterday()), signer)


def _new_key() -> Any:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _yesterday() -> datetime:
    """Clocks of several machines differ."""
    return datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


def _certificate(name: str, key: Any, signer: _Signer | None) -> Any:
    """Return a certificate; without a signer, that of an authority which signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = _yesterday()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if signer is None else signer.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=VALID_DAYS))
    )
    constraints = x509.BasicConstraints(ca=signer is None, path_length=1 if signer is None else None)
    builder = builder.add_extension(constraints, critical=True)
    return builder.sign(key if signer is None else signer.key, hashes.SHA256())


def _key_bytes(key: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def _certificate_bytes(certificate: Any) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return bytes(certificate.public_bytes(Encoding.PEM))


def _write_signed(folder: Path, name: str, content: bytes, signer: _Signer) -> None:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

    builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
    signed = builder.add_signer(signer.certificate, signer.key, hashes.SHA256()).sign(
        Encoding.SMIME, [pkcs7.PKCS7Options.Text, pkcs7.PKCS7Options.DetachedSignature]
    )
    _write(folder / f"{name}.xml", content)
    _write(folder / f"{name}.p7s", signed)


def _write(path: Path, content: bytes, secret: bool = False) -> None:
    """Write a file whole or not at all; a secret one is its owner's from the first byte on."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if secret else 0o644), "wb") as out:
        out.write(content)
    temporary.replace(path)


def _link(path: Path, target: str) -> None:
    if not path.is_symlink() and not path.exists():
        path.symlink_to(target)


def missing(folder: Path, enclaves: Sequence[str]) -> list[str]:
    """Return what a keystore lacks for some enclaves: paths relative to it."""
    files = ("cert.pem", "key.pem", "governance.p7s", "permissions.p7s", *_SHARED)
    places = [Path("enclaves") / enclave.strip("/") / name for enclave in enclaves for name in files]
    return [str(place) for place in places if not (folder / place).is_file()]
