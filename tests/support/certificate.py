"""A certificate for localhost, and the port that has it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from twisted.internet.endpoints import serverFromString
from twisted.internet.testing import MemoryReactorClock

from pushd.protocols.certificate import LiveCertificate
from pushd.protocols.twisted_internals import prepare_tls


def make_tls_endpoint(folder: Path) -> str:
    """Make a key and a certificate for localhost, and an endpoint that uses them."""
    write_certificate(folder / "key.pem", folder / "certificate.pem")
    files = f"privateKey={folder}/key.pem:certKey={folder}/certificate.pem"
    return f"ssl:0:{files}:interface=127.0.0.1"


@contextmanager
def no_warning() -> Iterator[None]:
    """Ignore that pyOpenSSL deprecates how Twisted passes a certificate on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def read_tls_endpoint(description: str) -> LiveCertificate:
    """Return the certificate of an endpoint, as a port has it."""
    endpoint = serverFromString(MemoryReactorClock(), description)
    certificate = prepare_tls(endpoint)
    assert certificate is not None
    return certificate


def write_certificate(key_file: Path, certificate_file: Path) -> int:
    """Make a key and a certificate for localhost; return the certificate's serial number."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    address = x509.IPAddress(ip_address("127.0.0.1"))
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), address]), False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    key_file.write_bytes(secret)
    certificate_file.write_bytes(certificate.public_bytes(pem))
    return certificate.serial_number
