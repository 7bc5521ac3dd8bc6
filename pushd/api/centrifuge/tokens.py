"""Tokens of Centrifuge clients: of a connection, and of a subscription to one channel.

They are those of ``pushd.access.tokens``, with two differences: they need no ``exp``, and then
never expire; and a token with the claim ``channel`` permits a subscription to that channel.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from pushd.access.authorization import Authorizer
from pushd.access.closing import PERMISSION_EXPIRED
from pushd.access.tokens import LEEWAY, Identity, read_time
from pushd.errors import BadToken, TokenExpired
from pushd.topics.publication import check_topic

# The longest time to live that clients are told, in seconds: its field in Protobuf has 32 bits.
_MAX_TTL = (1 << 32) - 1


def read_connection_token(authorizer: Authorizer, token: str) -> Identity | None:
    """Return the identity in the token of a connection; None without keys.

    Blanks and line ends around it do not count. Raises BadToken, and TokenExpired.
    """
    if not authorizer.keys:
        return None
    return authorizer.keys.verify(token.strip(), authorizer.now(), endless=True)


def read_subscription_token(
    authorizer: Authorizer, token: str, channel: str, connection: Identity | None
) -> Identity | None:
    """Return the identity with which a token lets a client subscribe; None without keys.

    :param connection: the identity of the client's connection.

    Raises BadToken, also if it is for another channel or user, and TokenExpired.
    """
    identity = read_connection_token(authorizer, token)
    if identity is None:
        return None
    if identity.claims.get("channel") != channel:
        raise BadToken("token is for another channel")
    if identity.subject != subject_of(connection):
        raise BadToken("token is for another user")
    expires = _read_expiry(identity)
    if authorizer.now() >= expires + LEEWAY:
        raise TokenExpired("subscription expired")
    info = identity.info
    if info is None and connection is not None:
        info = connection.info
    return replace(identity, expires=expires, info=info, closing=PERMISSION_EXPIRED)


def subject_of(identity: Identity | None) -> str:
    """Return the user that an identity is of; empty without one."""
    return "" if identity is None else identity.subject


def channels_of(identity: Identity | None) -> list[str]:
    """Return the channels to which a token subscribes its connection: ``channels`` and ``subs``.

    Raises BadToken.
    """
    if identity is None:
        return []
    listed = identity.claims.get("channels", [])
    options = identity.claims.get("subs", {})
    if not isinstance(listed, list) or not isinstance(options, dict):
        raise BadToken("token's channels must be a list, and its subs an object")
    channels = list(dict.fromkeys([*map(str, listed), *options]))
    try:
        return [check_topic(channel) for channel in channels]
    except ValueError as error:
        raise BadToken(f"token's channels: {error}") from None


def lifetime(authorizer: Authorizer, expires: float) -> dict[str, Any]:
    """Return the fields of a reply that tell when a client must bring a fresh token.

    It has the leeway of tokens to do so.
    """
    if expires == inf:
        return {}
    return {"expires": True, "ttl": int(min(max(1, expires - authorizer.now()), _MAX_TTL))}


def _read_expiry(identity: Identity) -> float:
    """Return when a subscription ends: ``expire_at``, or when its token expires. 0 is never."""
    given = read_time(identity.claims, "expire_at")
    return identity.expires if given is None else given or inf
