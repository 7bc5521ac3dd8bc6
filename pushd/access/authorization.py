"""Authorization by bearer tokens: reads them from requests, checks what they permit (RFC 6750)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pushd.access.tokens import LEEWAY, Identity, TokenKeys
from pushd.errors import BadToken, Denied

#: What a client may want to do with a topic; ``presence`` is to learn which others subscribe to it.
Action = Literal["subscribe", "publish", "presence"]


class Authorizer:
    """Checks what requests may do, by their tokens.

    Without keys no token is valid. All methods that accept a token accept None for a request
    without one. They raise Denied: 401 if the token is missing or invalid, 403 if it does not
    permit what is asked for.

    :param now: the time of day, in seconds since 1970.
    """

    def __init__(self, keys: TokenKeys, now: Callable[[], float]) -> None:
        self.keys = keys
        self.now = now

    def identify(self, token: str | None) -> Identity | None:
        """Return the identity in a token; None without a token, and without keys."""
        if token is None or not self.keys:
            return None
        try:
            return self.keys.verify(token, self.now())
        except BadToken as bad:
            raise Denied(401, str(bad), "invalid_token") from None

    def require(self, token: str | None) -> Identity:
        """Return the identity in a token that must be there."""
        identity = self.identify(token)
        if identity is None:
            raise Denied(401, "a token is required", help=self._help)
        return identity

    def check_topic(self, identity: Identity | None, action: Action, topic: str) -> Identity:
        """Return the identity of a client whose token permits an action on a topic."""
        if identity is None:
            raise Denied(401, "a token is required", help=self._help)
        if action == "publish":
            if not identity.may_publish(topic):
                reason = f"token does not permit publishing to {topic}"
                raise Denied(403, reason, "insufficient_scope")
        elif not identity.may_subscribe(topic):
            reason = f"token does not permit subscribing to {topic}"
            raise Denied(403, reason, "insufficient_scope")
        return identity

    def end_of_connection(self, identity: Identity) -> float:
        """Return when a connection that opens now must end, in seconds since 1970.

        That is when its token expires. If it was accepted after that, because clocks differ, the
        connection lasts until the leeway is over.
        """
        late = self.now() >= identity.expires
        return identity.expires + LEEWAY if late else identity.expires

    @property
    def _help(self) -> str:
        if self.keys:
            return "see docs/tokens.md"
        return "without --token-key no token is valid, see docs/tokens.md"


def read_token(request: Any) -> str | None:
    """Return the token of a request, from ``Authorization: Bearer`` or from ``?token=``.

    Browsers cannot set the header of a WebSocket or an event stream. Blanks and line ends around
    the token, such as the last line end of a file, do not count. Returns None if there is no token.
    Raises Denied if there is more than one, as RFC 6750 §2 demands.
    """
    tokens = [value.decode("latin-1").strip() for value in request.args.get(b"token", ())]
    for value in request.requestHeaders.getRawHeaders(b"authorization", ()):
        scheme, _, rest = value.decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            tokens.append(rest.strip())
    if len(tokens) > 1:
        reason = f"a request must have one token at most; got {len(tokens)}"
        raise Denied(400, reason, "invalid_request")
    return tokens[0] if tokens else None


def challenge(denied: Denied) -> dict[str, str]:
    """Return the headers of the response to a denied request (RFC 6750 §3)."""
    value = 'Bearer realm="pushd"'
    if denied.error:
        value += f', error="{denied.error}", error_description="{denied}"'
    return {"WWW-Authenticate": value, "Cache-Control": "no-store"}
