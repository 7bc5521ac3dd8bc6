"""Authorization: what a token permits, read from a request (RFC 6750)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pushd.access.tokens import LEEWAY, Identity, TokenKeys
from pushd.errors import BadToken, Denied


class Authorizer:
    """Knows by their tokens who people are, and what they may do.

    Where there are no keys nobody is asked for a token, and all may subscribe. Every method takes
    a token, or None where there was none, and raises Denied: 401 for one that is missing or not
    good, 403 for one that does not allow this.

    :param now: seconds since 1970.
    """

    def __init__(self, keys: TokenKeys, now: Callable[[], float]) -> None:
        self.keys = keys
        self.now = now

    def identify(self, token: str | None) -> Identity | None:
        """Who somebody is; None without a token, and where tokens are not asked for."""
        if token is None or not self.keys:
            return None
        try:
            return self.keys.verify(token, self.now())
        except BadToken as bad:
            raise Denied(401, str(bad), "invalid_token") from None

    def require(self, token: str | None) -> Identity:
        """Who somebody is, who has to say it."""
        identity = self.identify(token)
        if identity is None:
            raise Denied(401, "a token is required")
        return identity

    def authorize_subscribe(self, token: str | None, topic: str) -> Identity | None:
        """Who somebody is who may listen to a topic; None where tokens are not asked for."""
        if not self.keys:
            return None
        identity = self.require(token)
        if not identity.may_subscribe(topic):
            raise Denied(403, f"this token may not subscribe to {topic}", "insufficient_scope")
        return identity

    def authorize_publish(self, token: str | None, topic: str) -> Identity:
        """Who somebody is who may publish to a topic."""
        identity = self.require(token)
        if not identity.may_publish(topic):
            raise Denied(403, f"this token may not publish to {topic}", "insufficient_scope")
        return identity

    def end_of_connection(self, identity: Identity) -> float:
        """When a connection has to end that begins now, in seconds since 1970.

        That is when its token runs out. Who comes just after that, and is let in as clocks
        differ, may stay until that is no excuse any more.
        """
        late = self.now() >= identity.expires
        return identity.expires + LEEWAY if late else identity.expires


def read_token(request: Any) -> str | None:
    """The token of a request: ``Authorization: Bearer`` or, where a browser can't, ``?token=``.

    None without one. Raises Denied for more than one, as it can't be told which is meant (§2).
    """
    tokens = [value.decode("latin-1") for value in request.args.get(b"token", ())]
    for value in request.requestHeaders.getRawHeaders(b"authorization", ()):
        scheme, _, rest = value.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            tokens.append(rest.strip())
    if len(tokens) > 1:
        raise Denied(400, "a request has one token at most", "invalid_request")
    return tokens[0] if tokens else None


def challenge(denied: Denied) -> dict[str, str]:
    """The headers that go with a denial (§3)."""
    value = 'Bearer realm="pushd"'
    if denied.error:
        value += f', error="{denied.error}", error_description="{denied}"'
    return {"WWW-Authenticate": value, "Cache-Control": "no-store"}
