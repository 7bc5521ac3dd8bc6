"""Tokens that say whom a request is from and what it may do (RFC 7519, JSON Web Tokens)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import jwt

from pushd.access.keys import ALGORITHMS, Key, read_keys
from pushd.errors import BadToken

#: How far the clocks of those who make tokens may be from ours, in seconds.
LEEWAY = 30.0

#: As whom we know ourselves in ``aud``.
AUDIENCE = "pushd"

# Seconds since 1970 that somebody may have meant: up to the year 33658.
_MAX_TIME = 1e12

# The claims are checked here, against a clock that a test can set.
_OPTIONS: Any = {
    "verify_signature": True,
    **{f"verify_{claim}": False for claim in ("exp", "nbf", "iat", "aud", "iss", "sub", "jti")},
}


class TokenKeys:
    """The keys that tokens are checked with.

    A key is for the algorithms of its kind and no others, whatever a token says of itself: a
    public key is no secret, and ``none`` is no algorithm.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)

    def __bool__(self) -> bool:
        """Whether there are any: tokens are asked for then."""
        return bool(self._keys)

    def replace(self, other: TokenKeys) -> None:
        """Take the keys of another in place of one's own, from the next token on."""
        self._keys = other._keys

    def verify(self, token: str, now: float) -> Identity:
        """Who a token is for. Raises BadToken for one that is not good, or not now.

        :param now: seconds since 1970.
        """
        claims = self._read_claims(token)
        expires = _read_time(claims, "exp")
        if expires is None:
            raise BadToken("the token has no exp")
        if now >= expires + LEEWAY:
            raise BadToken("token expired")
        if now < (_read_time(claims, "nbf") or 0) - LEEWAY:
            raise BadToken("the token is not valid yet")
        audience = claims.get("aud", AUDIENCE)
        if audience != AUDIENCE and not (isinstance(audience, list) and AUDIENCE in audience):
            raise BadToken(f"the token is for another audience than {AUDIENCE}")
        subject = claims.get("sub", "")
        if not isinstance(subject, str):
            raise BadToken("the token's sub is no text")
        return Identity(
            subject=subject,
            expires=expires,
            subscribe=_read_patterns(claims, "subscribe"),
            publish=_read_patterns(claims, "publish"),
            claims=MappingProxyType(claims),
        )

    def _read_claims(self, token: str) -> dict[str, Any]:
        """What a token claims, if one of the keys has signed it."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError):
            raise BadToken("the token is malformed") from None
        algorithm, id = header.get("alg"), header.get("kid")
        if algorithm not in ALGORITHMS:
            raise BadToken(f"the token is not signed with one of {', '.join(ALGORITHMS)}")
        keys = [key for key in self._keys if algorithm in key.algorithms]
        if not keys:
            raise BadToken(f"the token is signed with {algorithm}, for which there is no key here")
        for key in keys:
            if id is None or key.id in (None, id):
                try:
                    return jwt.decode(token, key.material, [algorithm], _OPTIONS)
                except jwt.InvalidSignatureError:
                    continue
                except (jwt.PyJWTError, ValueError, RecursionError):
                    raise BadToken("the token is malformed") from None
        raise BadToken("the token is signed with no key that is known here")


def read_token_keys(paths: Iterable[str]) -> TokenKeys:
    """The keys in some files. Raises ValueError that says what is wrong with one of them."""
    return TokenKeys(key for path in paths for key in read_keys(path))


def make_token(key: Key, claims: Mapping[str, Any]) -> str:
    """Sign claims with the strongest algorithm that the key is for."""
    return jwt.encode(dict(claims), key.material, key.algorithms[-1])


def _read_time(claims: Mapping[str, Any], name: str) -> float | None:
    if name not in claims:
        return None
    time = claims[name]
    number = isinstance(time, int | float) and not isinstance(time, bool)
    if not number or not 0 <= time <= _MAX_TIME:
        raise BadToken(f"the token's {name} is no time")
    return float(time)


def _read_patterns(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    patterns = claims.get(name, [])
    try:
        if not isinstance(patterns, list) or not all(isinstance(one, str) for one in patterns):
            raise ValueError
        return tuple(check_pattern(one) for one in patterns)
    except ValueError:
        raise BadToken(f"the token's {name} is no list of topic patterns") from None


# As a topic, but that a segment may be *, and the last one **.
_SEGMENT = r"(?:[A-Za-z0-9._:-]+|\*)"
_PATTERN = re.compile(rf"(?:{_SEGMENT}/)*(?:{_SEGMENT}|\*\*)")
_MAX_PATTERN = 255


def check_pattern(text: str) -> str:
    """Give a topic pattern back if it is one; raises ValueError that says what one is."""
    if len(text) > _MAX_PATTERN or not _PATTERN.fullmatch(text):
        raise ValueError(
            "a topic pattern is a topic in which * stands for a segment, "
            "and ** at the end for all the rest"
        )
    return text


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern has a topic in it.

    ``*`` is one segment, whichever; ``**`` one or more: ``a/**`` has ``a/b`` and ``a/b/c`` in it,
    but not ``a``.
    """
    wanted, given = pattern.split("/"), topic.split("/")
    if wanted[-1] == "**":
        wanted.pop()
        if len(given) <= len(wanted):
            return False
        del given[len(wanted) :]
    return len(wanted) == len(given) and all(
        one in ("*", other) for one, other in zip(wanted, given, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a token says that was found to be good (RFC 7519)."""

    #: Who it is: the claim ``sub``; empty where the token names nobody.
    subject: str
    #: When the token runs out, in seconds since 1970: the claim ``exp``.
    expires: float
    #: Patterns of the topics that they may listen to, and publish to.
    subscribe: tuple[str, ...] = ()
    publish: tuple[str, ...] = ()
    #: All that the token claims, for views that know more of it.
    claims: Mapping[str, Any] = field(
        default_factory=lambda: MappingProxyType({}), repr=False, compare=False
    )

    def may_subscribe(self, topic: str) -> bool:
        """Whether they may listen to a topic."""
        return any(matches(pattern, topic) for pattern in self.subscribe)

    def may_publish(self, topic: str) -> bool:
        """Whether they may publish to a topic."""
        return any(matches(pattern, topic) for pattern in self.publish)
