"""Guards: the check of a request's Host and Origin before it is routed, for each kind of port."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from pushd.access.origins import Hosts, Origins, is_own_host
from pushd.protocols.http.headers import RequestHeaders, decode_path
from pushd.protocols.http.response import Response, refusal

# Returns the refusal of a request, or None for a request that is allowed.
Guard = Callable[[Any], Response | None]

_TOPICS = b"/topics/"

_NO_HOST = "a request must have exactly one Host, and a valid one"

# The most characters of a header in the log.
_MAX_QUOTED = 200

# Paths of the control port that are served under any name, as load balancers choose it.
_HEALTH_CHECKS = (b"/healthz", b"/readyz")


def public_guard(origins: Origins, hosts: Hosts, streams: Collection[bytes] = frozenset()) -> Guard:
    """Return the guard of the public port.

    It refuses requests without a Host or for another name (RFC 9110 §7.4, §15.5.20), and pages of
    other origins that open a WebSocket or ask for a topic.

    :param streams: further paths at which pages ask for topics.
    """

    def guard(request: Any) -> Response | None:
        headers: RequestHeaders = request.requestHeaders
        if not headers.has_host(request.clientproto):
            request.why_refused = _NO_HOST
            return refusal(400, _NO_HOST)
        host = headers.last(b"Host")
        if not hosts.allows(host):
            request.why_refused = f"Host {_quote(host)} is not served, see --host"
            return refusal(421, "Host not served here: the operator can allow it with --host")
        # A page of any origin may send plain requests, but must not read what a topic answers.
        if request.wants_websocket or is_for_topics(request, streams):
            origin = headers.last(b"Origin")
            if not origins.allows(origin, scheme=request.scheme, host=host or ""):
                request.why_refused = (
                    f"Origin {_quote(origin)} is not that of {request.scheme}://{_quote(host)}: "
                    "allow it with --origin, or let the proxy pass on Host and X-Forwarded-Proto "
                    "(docs/deploying.md)"
                )
                return refusal(403, "Origin not allowed: the operator can allow it with --origin")
        return None

    return guard


def control_guard(hosts: Hosts) -> Guard:
    """Return the guard of the control port. It refuses what a web page may have caused.

    Only browsers send an Origin. With DNS rebinding a page can do without one, but then the Host is
    a name that its author chose: so only the port's own address, localhost, and the names that the
    operator gives are allowed. What a page could learn or do by a health check is harmless, and no
    browser sends a request without a Host, as probes in HTTP/1.0 are.
    """

    def guard(request: Any) -> Response | None:
        headers: RequestHeaders = request.requestHeaders
        if not headers.has_host(request.clientproto):
            request.why_refused = _NO_HOST
            return refusal(400, _NO_HOST)
        if b"Origin" in headers:
            reason = "the control port is not for browsers: a request must have no Origin"
            request.why_refused = f"{reason}; pages publish at the public port (docs/tokens.md)"
            return refusal(403, reason)
        host = headers.last(b"Host")
        is_health_check = request.path in _HEALTH_CHECKS and not request.wants_websocket
        if host is None or is_health_check:
            return None
        address = getattr(request.getHost(), "host", None)
        if not is_own_host(host, address) and not hosts.includes(host):
            request.why_refused = f"Host {_quote(host)} is not allowed, see --control-host"
            return refusal(
                403,
                "Host not allowed: use the control port's own address or localhost, or allow it "
                "with --control-host",
            )
        return None

    return guard


def _quote(value: str | None) -> str:
    """Return the beginning of a header in printable ASCII, for the log."""
    return ascii((value or "")[:_MAX_QUOTED])[1:-1]


def is_topic(path: bytes) -> bool:
    """Return whether a request's path, in any encoding, is that of a topic."""
    return decode_path(path).startswith(_TOPICS)


def is_for_topics(request: Any, streams: Collection[bytes] = frozenset()) -> bool:
    """Return whether a plain request is for a topic, or for several.

    Without any in its query, ``/topics`` may be a page.

    :param streams: further paths of requests for topics.
    """
    path = decode_path(request.path)
    if path.startswith(_TOPICS) or path in streams:
        return True
    return path == b"/topics" and b"topic" in request.args
