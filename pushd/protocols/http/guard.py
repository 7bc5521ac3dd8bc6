"""What is asked before any door opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pushd.access.admission import Admission
from pushd.access.counters import Metrics
from pushd.access.limits import Limits
from pushd.access.origins import Origins, is_own_host
from pushd.access.proxies import Proxies
from pushd.protocols.http.headers import RequestHeaders, decode_path
from pushd.protocols.http.response import Response, refusal

# Gives the refusal of a request, or None for one that may come in.
Guard = Callable[[Any], Response | None]


@dataclass(frozen=True, kw_only=True)
class SitePolicy:
    """What a door asks of all who come.

    :param limits: ``max_message`` is also the limit of a request's body.
    :param large_bodies: for paths with a higher limit, what computes it from ``max_message``.
    """

    guard: Guard
    admission: Admission
    proxies: Proxies
    metrics: Metrics
    limits: Limits
    large_bodies: Mapping[bytes, Callable[[int], int]] = field(default_factory=dict)

    def body_limit(self, path: bytes) -> int:
        """How many bytes the body of a request to a path may have."""
        size, larger = self.limits.max_message, self.large_bodies.get(path)
        return size if larger is None else larger(size)


def public_guard(origins: Origins) -> Guard:
    """Turn away requests without a Host, and WebSockets that pages of strangers ask for."""

    def guard(request: Any) -> Response | None:
        if not request.requestHeaders.has_host(request.clientproto):
            return refusal(400, "a request needs one Host")
        # A page may send a plain request to any site, but not read what a topic answers.
        if request.wants_websocket or is_topic(request.path):
            fields: RequestHeaders = request.requestHeaders
            origin, host = fields.last(b"Origin"), fields.last(b"Host") or ""
            if not origins.allows(origin, scheme=request.scheme, host=host):
                return refusal(403, "this page's origin is not allowed here: see --origin")
        return None

    return guard


def control_guard(request: Any) -> Response | None:
    """Turn away all that a browser may have been tricked into sending.

    Operators and publishers are no pages, so they have no Origin; and they know our address, so
    they need no name for it that somebody else could point at us.
    """
    if not request.requestHeaders.has_host(request.clientproto):
        return refusal(400, "a request needs one Host")
    if request.header(b"origin") is not None:
        return refusal(403, "this door is not for browsers: the request has an Origin")
    address = getattr(request.getHost(), "host", None)
    if not is_own_host(request.header(b"host") or "", address):
        return refusal(403, "this door answers to its own address and to localhost only")
    return None


def is_topic(path: bytes) -> bool:
    """Whether a request's path is that of a topic, however it is spelt."""
    return decode_path(path).startswith(b"/topics/")
