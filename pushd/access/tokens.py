"""JSON Web Tokens (RFC 7519): verified, made, and the identity and topic patterns they hold."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from types import MappingProxyType
from typing import Any

import jwt

from pushd.access.closing import TOKEN_EXPIRED, Closing
from pushd.access.keys import ALGORITHMS, Key, read_keys, read_secret
from pushd.errors import BadToken, TokenExpired

#: Tolerance for the difference between our clock and that of a token's issuer, in seconds.
LEEWAY = 30.0

#: Our name in a token's ``aud`` claim.
AUDIENCE = "pushd"

# Latest plausible time in a token, in seconds since 1970: in the year 33658.
_MAX_TIME = 1e12

# PyJWT checks the signature only: it has no clock that a test can set.
_OPTIONS: Any = {
    "verify_signature": True,
    **{f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},
}

# Syntax of topic patterns: a topic whose segments may be *, or end with :*, and the last one **.
_SEGMENT = r"(?:[A-Za-z0-9._:-]+(?:(?<=:)\*)?|\*)"
_PATTERN = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT}|\*\*)")
_MAX_PATTERN = 255
# Segments that no topic has.
_DOTS = frozenset({".", ".."})


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A client, according to its token (RFC 7519 §4) or to the authorizer."""

    #: Claim ``sub``; empty if the token has none.
    subject: str
    #: Claim ``exp``: when the token expires, in seconds since 1970. The permission of an authorizer
    #: may be without end: then it is infinite.
    expires: float
    #: Patterns of the topics that the client may subscribe and publish to.
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    #: All claims of the token, for views that use others.
    claims: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )
    #: What others may know of the client, as JSON has it: claim ``info``.
    info: Any = field(default=None, repr=False, compare=False)
    #: How a connection is closed when this expires.
    closing: Closing = TOKEN_EXPIRED

    def may_subscribe(self, topic: str) -> bool:
        """Whether the client may subscribe to a topic."""
        return any(matches(pattern, topic) for pattern in self.subscribe)

    def may_publish(self, topic: str) -> bool:
        """Whether the client may publish to a topic."""
        return any(matches(pattern, topic) for pattern in self.publish)


class TokenKeys:
    """The keys that tokens are verified with.

    The key decides which algorithms may be used, never the token (RFC 8725 §3.1). So a public key
    is never used as a secret, and ``none`` is not an algorithm.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        """Whether there are any keys; without keys no client needs a token."""
        return bool(self._keys)

    def __or__(self, other: TokenKeys) -> TokenKeys:
        """Return the keys of both."""
        return TokenKeys((*self._keys, *other._keys))

    def replace(self, other: TokenKeys) -> None:
        """Use the keys of another object from now on."""
        self._keys = other._keys

    def are_cut_off(self, complete: TokenKeys) -> bool:
        """Whether a secret is only the beginning of one in another object, as in half a file."""
        return any(
            len(key.material) < len(whole.material) and whole.material.startswith(key.material)
            for key in _secrets(self._keys)
            for whole in _secrets(complete._keys)
        )

    def verify(self, token: str, now: float, *, endless: bool = False) -> Identity:
        """Return the identity in a token. Raises BadToken if it is invalid, or not valid now.

        :param now: the time of day, in seconds since 1970.
        :param endless: whether it may be without an ``exp``, and never expires then.
        """
        claims = self._read_claims(token)
        expires = read_time(claims, "exp")
        if expires is None:
            if not endless:
                raise BadToken("token has no exp")
            expires = inf
        if now >= expires + LEEWAY:
            raise TokenExpired("token expired")
        if now < (read_time(claims, "nbf") or 0) - LEEWAY:
            raise BadToken("token is not valid yet")
        audience = claims.get("aud", AUDIENCE)
        if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
            raise BadToken(f"token is for another audience: its aud must contain {AUDIENCE}")
        subject = claims.get("sub", "")
        if not isinstance(subject, str):
            raise BadToken("token's sub must be a string")
        return Identity(
            subject=subject,
            expires=expires,
            subscribe=_read_patterns(claims, "subscribe"),
            publish=_read_patterns(claims, "publish"),
            claims=MappingProxyType(claims),
            info=claims.get("info"),
        )

    def _read_claims(self, token: str) -> dict[str, Any]:
        """Return the claims of a token that is signed with one of the keys."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise BadToken("token is malformed") from None
        algorithm, id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise BadToken(f"token must be signed with one of {', '.join(ALGORITHMS)}")
        keys = [key for key in self._keys if algorithm in key.algorithms]
        if not keys:
            raise BadToken(f"token is signed with {algorithm}, for which there is no key")
        for key in keys:
            if id is None or key.id in (None, id):
                try:
                    claims = jwt.decode(token, key.material, [algorithm], _OPTIONS)
                    # JSON can spell half a surrogate pair, which UTF-8 cannot encode (RFC 8259
                    # §8.2): no log, key or answer could hold it.
                    json.dumps(claims, ensure_ascii=False).encode()
                except jwt.InvalidSignatureError:
                    continue
                except (jwt.PyJWTError, ValueError, RecursionError):
                    raise BadToken("token is malformed") from None
                return claims
        raise BadToken("token is not signed with any of the keys")


def read_token_keys(paths: Iterable[str]) -> TokenKeys:
    """Read the keys in some files. Raises ValueError, whose text names the file and the reason."""
    return TokenKeys(key for path in paths for key in read_keys(path))


def read_secrets(paths: Iterable[str]) -> TokenKeys:
    """Read secrets of any length. Raises ValueError, whose text names the file and the reason."""
    return TokenKeys(map(read_secret, paths))


def make_token(key: Key, claims: Mapping[str, Any]) -> str:
    """Make a token of claims, signed with the strongest algorithm of a key."""
    return jwt.encode(dict(claims), key.material, key.algorithms[-1])


def _secrets(keys: Iterable[Key]) -> list[Key]:
    return [key for key in keys if isinstance(key.material, bytes)]


def read_time(claims: Mapping[str, Any], name: str) -> float | None:
    """Return a time in seconds since 1970; None if it is absent. Raises BadToken."""
    if name not in claims:
        return None
    time = claims[name]
    number = isinstance(time, int | float) and not isinstance(time, bool)
    if not number or not 0 <= time <= _MAX_TIME:
        raise BadToken(f"token's {name} must be a number of seconds since 1970")
    return float(time)


def _read_patterns(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    patterns = claims.get(name, [])
    try:
        if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
            raise ValueError
        return tuple(check_pattern(one) for one in patterns)
    except ValueError:
        raise BadToken(f"token's {name} must be a list of topic patterns") from None


def check_pattern(text: str) -> str:
    """Return a topic pattern. Raises ValueError if it is not valid."""
    if len(text) > _MAX_PATTERN or not _PATTERN.fullmatch(text):
        raise ValueError(
            f"must be a topic pattern of {_MAX_PATTERN} characters at most: "
            "* stands for a segment or, after a colon, for its end, and ** at the end for the rest"
        )
    if not _DOTS.isdisjoint(text.split("/")):
        raise ValueError("must not have . or .. as a segment: no topic has")
    return text


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic matches a pattern.

    ``*`` matches one segment, and ``**`` one or more: ``a/**`` matches ``a/b`` and ``a/b/c``, but
    not ``a``. ``a:*`` matches a segment that begins with ``a:`` and goes on.
    """
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        del given[len(wanted) :]
    return len(wanted) == len(given) and all(
        one in ("*", other) or (one.endswith(":*") and _begins(other, one[:-1]))
        for one, other in zip(wanted, given, strict=True)
    )


def _begins(segment: str, prefix: str) -> bool:
    """Whether a segment begins with a prefix, and goes on."""
    return len(segment) > len(prefix) and segment.startswith(prefix)


def covers(pattern: str, other: str) -> bool:
    """Whether a pattern matches every topic that another pattern matches."""
    # Read as a topic, the other one stands for all of its topics, unless they may be longer.
    return matches(pattern, other) and (pattern.endswith("**") or not other.endswith("**"))
