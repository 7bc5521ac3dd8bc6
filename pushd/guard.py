"""What is asked before any door opens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pushd.access import Origins, is_own_host
from pushd.answers import refusal
from pushd.handshake import asks_for_websocket
from pushd.views import Response

# Gives the refusal of a request, or None for one that may come in.
Guard = Callable[[Any], Response | None]


def public_guard(origins: Origins) -> Guard:
    """Turn away requests without a Host, and WebSockets that pages of strangers ask for."""

    def guard(request: Any) -> Response | None:
        if not _has_host(request):
            return refusal(400, "a request needs one Host")
        if asks_for_websocket(request.requestHeaders):
            origin, host = request.getHeader("origin"), request.getHeader("host") or ""
            if not origins.allow(origin, scheme=request.scheme, host=host):
                return refusal(403, "this page's origin is not allowed here: see --origin")
        return None

    return guard


def control_guard(request: Any) -> Response | None:
    """Turn away all that a browser may have been tricked into sending.

    Operators and publishers are no pages, so they have no Origin; and they know our address, so
    they need no name for it that somebody else could point at us.
    """
    if not _has_host(request):
        return refusal(400, "a request needs one Host")
    if request.getHeader("origin") is not None:
        return refusal(403, "this door is not for browsers: the request has an Origin")
    address = getattr(request.getHost(), "host", None)
    if not is_own_host(request.getHeader("host") or "", address):
        return refusal(403, "this door answers to its own address and to localhost only")
    return None


def _has_host(request: Any) -> bool:
    """Whether there is one Host (RFC 9112 §3.2), or none from the times before it was needed."""
    hosts = len(request.requestHeaders.getRawHeaders("host", ()))
    return hosts == 1 or (hosts == 0 and request.clientproto == b"HTTP/1.0")
