"""Tokens in requests, and what those are told who have none that is good (RFC 6750)."""

from __future__ import annotations

from typing import Any

from pushd.access import Denied


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
