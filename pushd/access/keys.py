"""Keys that sign and verify tokens, read from files: secrets, PEM and JSON Web Key Sets."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from warnings import filterwarnings

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import (
    load_der_public_key,
    load_pem_private_key,
    load_pem_public_key,
)
from jwt import InsecureKeyLengthWarning, PyJWK, PyJWTError

# RFC 7518 §3.2: a secret must have at least as many bytes as the hash.
_HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
#: All supported algorithms.
ALGORITHMS = (*_HMAC, "RS256", "ES256", "EdDSA")

# Minimum size of an RSA key (RFC 7518 §3.3).
_RSA_BITS = 2048

_PEM = b"-----BEGIN "

# How public keys in OpenSSH's format begin.
_OTHER_KEYS = (b"ssh-", b"ecdsa-", b"sk-")

_KINDS = "key must be RSA, EC on P-256 or Ed25519"

# Algorithm with which PyJWT loads a key of each kind (RFC 7518 §6, RFC 8037 §2).
_LOAD_AS = {
    "oct ": "HS256",
    "RSA ": "RS256",
    "EC P-256": "ES256",
    "OKP Ed25519": "EdDSA",
}


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """A key, and the algorithms that it may be used with (RFC 8725 §3.1)."""

    algorithms: tuple[str, ...]
    #: The key as PyJWT needs it: bytes of a secret, or a key object of cryptography.
    material: Any
    #: Its ``kid`` in a key set; a key without one is tried for every token.
    id: str | None = None


def read_keys(path: str) -> tuple[Key, ...]:
    """Read the keys that verify tokens: a secret, a PEM public key or a JSON Web Key Set.

    Raises ValueError, whose text is one line with the path and the reason.
    """
    data = _read(path)
    if _PEM in data:
        if b"PRIVATE KEY" in data:
            raise ValueError(f"{path}: contains a private key; pushd must have the public key only")
        return (_public_key(_load_pem(load_pem_public_key, data, path), path),)
    if _may_be_json(data):
        return _read_set(data, path)
    return (_secret(data, path),)


def read_secret(path: str) -> Key:
    """Read a secret of any length; one that is too short for an algorithm is used with HS256.

    Raises ValueError, whose text is one line with the path and the reason.
    """
    data = _read(path)
    if data.isascii():
        data = data.strip()
    if not data:
        raise ValueError(f"{path}: is empty")
    # The operator knows; PyJWT would say so with each token.
    filterwarnings("ignore", category=InsecureKeyLengthWarning)
    return Key(_hmac_algorithms(data) or ("HS256",), data)


def read_signing_key(path: str) -> Key:
    """Read a key that signs tokens: a secret or a PEM private key.

    Raises ValueError, whose text is one line with the path and the reason.
    """
    data = _read(path)
    if _PEM not in data:
        if _may_be_json(data):
            raise ValueError(f"{path}: must be a secret or a PEM private key; got JSON")
        return _secret(data, path)
    if b"PRIVATE KEY" not in data:
        raise ValueError(f"{path}: contains a public key; tokens are signed with the private key")
    key = _load_pem(lambda pem: load_pem_private_key(pem, None), data, path)
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ValueError(f"{path}: {_KINDS}")
    return Key(_public_key(key.public_key(), path).algorithms, key)


def _may_be_json(data: bytes) -> bool:
    """Whether data begins like JSON, and is text, as a secret of random bytes hardly ever is."""
    try:
        return data.decode().lstrip()[:1] in ("{", "[")
    except UnicodeDecodeError:
        return False


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a valid file name"
        raise ValueError(f"{path}: cannot be read: {reason}") from None


def _load_pem(load: Any, data: bytes, path: str) -> Any:
    try:
        return load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{path}: contains no valid PEM key") from None


def _public_key(key: object, path: str) -> Key:
    if isinstance(key, RSAPublicKey):
        if key.key_size < _RSA_BITS:
            raise ValueError(
                f"{path}: RSA key must have at least {_RSA_BITS} bits; got {key.key_size}"
            )
        return Key(("RS256",), key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key(("ES256",), key)
    if isinstance(key, Ed25519PublicKey):
        return Key(("EdDSA",), key)
    raise ValueError(f"{path}: {_KINDS}")


def _secret(data: bytes, path: str) -> Key:
    # A public key must not be used as a secret by mistake.
    if data.startswith(_OTHER_KEYS) or _is_der(data):
        raise ValueError(f"{path}: contains a public key that is not PEM")
    # Editors end a text with a newline, which does not belong to the secret.
    if data.isascii() and data.decode("ascii").strip().isprintable():
        data = data.strip()
    return _hmac_key(data, path)


def _hmac_key(secret: bytes, path: str, id: str | None = None) -> Key:
    least = min(_HMAC.values())
    if len(secret) < least:
        raise ValueError(f"{path}: secret must have at least {least} bytes; got {len(secret)}")
    return Key(_hmac_algorithms(secret), secret, id)


def _hmac_algorithms(secret: bytes) -> tuple[str, ...]:
    return tuple(name for name, size in _HMAC.items() if len(secret) >= size)


def _is_der(data: bytes) -> bool:
    try:
        load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _read_set(data: bytes, path: str) -> tuple[Key, ...]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: begins like JSON, but is not valid JSON") from None
    # A JSON Web Key alone counts as a set of one.
    members = value.get("keys", [value]) if isinstance(value, dict) else None
    if not isinstance(members, list) or not all(isinstance(one, dict) for one in members):
        raise ValueError(f'{path}: must be a JSON Web Key Set, {{"keys": […]}}')
    found = [_read_member(one, f"{path}, key {n}") for n, one in enumerate(members, 1)]
    keys = tuple(key for key in found if key is not None)
    if not keys:
        raise ValueError(f"{path}: contains no key for any of {', '.join(ALGORITHMS)}")
    return keys


def _read_member(member: dict[str, Any], where: str) -> Key | None:
    """Read one key of a set; return None if it is for another purpose (RFC 7517 §5)."""
    id, algorithm = member.get("kid"), member.get("alg")
    if member.get("use", "sig") != "sig" or algorithm not in (None, *ALGORITHMS):
        return None
    if not isinstance(id, str | None):
        raise ValueError(f"{where}: kid must be a string")
    if "d" in member:
        raise ValueError(f"{where}: is a private key; pushd must have the public key only")
    load_as = _LOAD_AS.get(f"{member.get('kty')} {member.get('crv', '')}")
    if load_as is None:
        return None
    try:
        material = PyJWK(member, algorithm=load_as).key
    except (PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"{where}: cannot be read: {' '.join(str(error).split())}") from None
    if isinstance(material, bytes):
        key = _hmac_key(material, where)
    else:
        key = _public_key(material, where)
    wanted = key.algorithms if algorithm is None else (algorithm,)
    if not {*wanted} <= {*key.algorithms}:
        raise ValueError(f"{where}: a key of this kind cannot be used for {algorithm}")
    return Key(wanted, key.material, id)
