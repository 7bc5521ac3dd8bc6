"""Keys for tokens, as they lie in files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from jwt import PyJWK, PyJWTError

# RFC 7518 §3.2: a secret has at least as many bytes as the hash.
_HMAC = {"HS256": 32, "HS384": 48, "HS512": 64}
#: Every algorithm that is spoken.
ALGORITHMS = (*_HMAC, "RS256", "ES256", "EdDSA")

# RFC 7518 §3.3.
_RSA_BITS = 2048

_PEM = b"-----BEGIN "

# How public keys begin that are neither PEM nor JSON: for ssh, and in DER.
_OTHER_KEYS = (b"ssh-", b"ecdsa-", b"sk-")


@dataclass(frozen=True, slots=True, eq=False)
class Key:
    """One key, and the algorithms that it is for: no token chooses another (RFC 8725 §3.1)."""

    algorithms: tuple[str, ...]
    #: What PyJWT takes: a secret's bytes, or a key of cryptography's.
    material: Any
    #: Its name in a set of keys; None where it has none, and may be meant by any name.
    id: str | None = None


def read_keys(path: str) -> tuple[Key, ...]:
    """Read a file of keys that check tokens: a secret, a public key in PEM, or a JSON Web Key Set.

    Raises ValueError that says in one line what is wrong with it.
    """
    data = _read(path)
    if _PEM in data:
        if b"PRIVATE KEY" in data:
            raise ValueError(f"{path} holds a private key: pushd needs the public one only")
        return (_public_key(_load_pem(load_pem_public_key, data, path), path),)
    if _may_be_json(data):
        return _read_set(data, path)
    return (_secret(data, path),)


def read_signing_key(path: str) -> Key:
    """Read a file with which tokens can be made: a secret, or a private key in PEM.

    Raises ValueError that says in one line what is wrong with it.
    """
    data = _read(path)
    if _PEM not in data:
        if _may_be_json(data):
            raise ValueError(f"{path}: a token is made with a secret or a private key in PEM")
        return _secret(data, path)
    if b"PRIVATE KEY" not in data:
        raise ValueError(f"{path} holds a public key: a token is made with the private one")
    key = _load_pem(lambda pem: load_pem_private_key(pem, None), data, path)
    if not isinstance(key, RSAPrivateKey | EllipticCurvePrivateKey | Ed25519PrivateKey):
        raise ValueError(f"{path}: {_KINDS}")
    return Key(_public_key(key.public_key(), path).algorithms, key)


def _may_be_json(data: bytes) -> bool:
    """Whether it begins as JSON does. A secret of random bytes may, too, but is no text."""
    try:
        return data.decode().lstrip()[:1] in ("{", "[")
    except UnicodeDecodeError:
        return False


_KINDS = "a key is RSA, EC on P-256 or Ed25519"


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        raise ValueError(f"{path} can't be read: {reason}") from None


def _load_pem(load: Any, data: bytes, path: str) -> Any:
    try:
        return load(data)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"{path} holds no key in PEM that can be read") from None


def _public_key(key: object, path: str) -> Key:
    if isinstance(key, RSAPublicKey):
        if key.key_size < _RSA_BITS:
            raise ValueError(f"{path}: an RSA key has {_RSA_BITS} bits, this one {key.key_size}")
        return Key(("RS256",), key)
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return Key(("ES256",), key)
    if isinstance(key, Ed25519PublicKey):
        return Key(("EdDSA",), key)
    raise ValueError(f"{path}: {_KINDS}")


def _secret(data: bytes, path: str) -> Key:
    # What everybody may know must not become a secret by mistake.
    if data.startswith(_OTHER_KEYS) or _is_der(data):
        raise ValueError(f"{path} holds a public key that is not in PEM")
    # An editor's last line end is no part of a secret that is text.
    if data.isascii() and data.decode("ascii").strip().isprintable():
        data = data.strip()
    return _hmac_key(data, path)


def _hmac_key(secret: bytes, path: str, id: str | None = None) -> Key:
    least = min(_HMAC.values())
    if len(secret) < least:
        raise ValueError(f"{path}: a secret has at least {least} bytes, this one {len(secret)}")
    return Key(tuple(name for name, size in _HMAC.items() if len(secret) >= size), secret, id)


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
        raise ValueError(f"{path} begins as JSON does, but is none") from None
    # A single key is a set of one.
    members = value.get("keys", [value]) if isinstance(value, dict) else None
    if not isinstance(members, list) or not all(isinstance(one, dict) for one in members):
        raise ValueError(f'{path} is no JSON Web Key Set: {{"keys": […]}}')
    found = [_read_member(one, f"{path}, key {n}") for n, one in enumerate(members, 1)]
    keys = tuple(key for key in found if key is not None)
    if not keys:
        raise ValueError(f"{path} has no key for {', '.join(ALGORITHMS)}")
    return keys


def _read_member(member: dict[str, Any], where: str) -> Key | None:
    """One key of a set; None for one that is for something else (RFC 7517 §5)."""
    id, algorithm = member.get("kid"), member.get("alg")
    if member.get("use", "sig") != "sig" or algorithm not in (None, *ALGORITHMS):
        return None
    if not isinstance(id, str | None):
        raise ValueError(f"{where}: kid is text")
    if "d" in member:
        raise ValueError(f"{where} is a private key: pushd needs the public one only")
    usual = _USUAL.get(f"{member.get('kty')} {member.get('crv', '')}")
    if usual is None:
        return None
    try:
        material = PyJWK(member, algorithm=usual).key
    except (PyJWTError, ValueError, TypeError) as error:
        raise ValueError(f"{where} can't be read: {' '.join(str(error).split())}") from None
    if isinstance(material, bytes):
        key = _hmac_key(material, where)
    else:
        key = _public_key(material, where)
    wanted = key.algorithms if algorithm is None else (algorithm,)
    if not {*wanted} <= {*key.algorithms}:
        raise ValueError(f"{where}: such a key is not for {algorithm}")
    return Key(wanted, key.material, id)


# What PyJWT reads a key of each kind for (RFC 7518 §6, RFC 8037 §2).
_USUAL = {
    "oct ": "HS256",
    "RSA ": "RS256",
    "EC P-256": "ES256",
    "OKP Ed25519": "EdDSA",
}
