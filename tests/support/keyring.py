"""Keys of every kind, files of them, and tokens signed with them, for tests."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.keys import Key
from pushd.access.tokens import TokenKeys

#: A secret that is long enough for HS256, HS384 and HS512.
SECRET = b"0123456789abcdef" * 4

Private = RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey


@cache
def private_key(kind: str) -> Private:
    """Return a private key of a kind: RS256, ES256, EdDSA, rsa1024 or p384; created once."""
    match kind:
        case "RS256":
            return generate_rsa(65537, 2048)
        case "rsa1024":
            return generate_rsa(65537, 1024)
        case "ES256":
            return generate_private_key(SECP256R1())
        case "p384":
            return generate_private_key(SECP384R1())
    return Ed25519PrivateKey.generate()


def private_pem(kind: str) -> bytes:
    """Return the private key of a kind in PEM."""
    return private_key(kind).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_pem(kind: str) -> bytes:
    """Return the public key of a kind in PEM."""
    public = private_key(kind).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def public_jwk(kind: str, **more: Any) -> dict[str, Any]:
    """Return the public key of a kind as a JSON Web Key, with more members."""
    key: Any = private_key(kind).public_key()
    makers: dict[str, Any] = {"RS256": RSAAlgorithm, "EdDSA": OKPAlgorithm}
    return {**makers.get(kind, ECAlgorithm).to_jwk(key, as_dict=True), **more}


def secret_keys(secret: bytes = SECRET) -> TokenKeys:
    """Return the keys of a daemon whose only key is a secret."""
    return TokenKeys([Key(("HS256", "HS384", "HS512"), secret)])


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    """Sign claims, valid or not."""
    return jwt.encode(claims, key, algorithm, header)


def token(
    subject: str = "ann",
    *,
    exp: float = 3600,
    subscribe: list[str] | None = None,
    publish: list[str] | None = None,
) -> str:
    """Return a valid token for a daemon with ``secret_keys``."""
    return sign(
        {"sub": subject, "exp": exp, "subscribe": subscribe or [], "publish": publish or []}
    )


class FolderTestCase(SynchronousTestCase):
    """Tests that write files to a temporary folder."""

    def setUp(self) -> None:
        """Create the folder."""
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def write(self, data: bytes | dict[str, Any]) -> str:
        """Write a file, and return its path."""
        path = self.folder / f"key{len(list(self.folder.iterdir()))}"
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return str(path)
