"""Guards: the check of a request's Host and Origin before it is routed, for each kind of port."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pushd.access.origins import Hosts, Origins, is_own_host
from pushd.protocols.http.headers import RequestHeaders, decode_path
from pushd.protocols.http.response import Response, refusal

# Returns the refusal of a request, or None for a request that is allowed.
Guard = Callable[[Any], Response | None]

# Paths of the control port that are served under any name, as load balancers choose it.
_HEALTH_CHECKS = (b"/healthz", b"/readyz")


def public_guard(origins: Origins, hosts: Hosts) -> Guard:
    """Return the guard of the public port.

    It refuses requests without a Host or for another name (RFC 9110 §7.4, §15.5.20), and pages of
    other origins that open a WebSocket or ask for a topic.
    """

    def guard(request: Any) -> Response | None:
        if not request.requestHeaders.has_host(request.clientproto):
            return refusal(400, "a request must have exactly one Host, and a valid one")
        if not hosts.allows(request.header(b"host")):
            return refusal(421, "Host not served here: the operator can allow it with --host")
        # A page of any origin may send plain requests, but must not read what a topic answers.
        if request.wants_websocket or is_topic(request.path):
            headers: RequestHeaders = request.requestHeaders
            origin, host = headers.last(b"Origin"), headers.last(b"Host") or ""
            if not origins.allows(origin, scheme=request.scheme, host=host):
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
        if not request.requestHeaders.has_host(request.clientproto):
            return refusal(400, "a request must have exactly one Host, and a valid one")
        if request.header(b"origin") is not None:
            return refusal(
                403, "the control port is not for browsers: a request must have no Origin"
            )
        host = request.header(b"host")
        if host is None or request.path in _HEALTH_CHECKS:
            return None
        address = getattr(request.getHost(), "host", None)
        if not is_own_host(host, address) and not hosts.includes(host):
            return refusal(
                403,
                "Host not allowed: use the control port's own address or localhost, or allow it "
                "with --control-host",
            )
        return None

    return guard


def is_topic(path: bytes) -> bool:
    """Return whether a request's path, in any encoding, is that of a topic."""
    return decode_path(path).startswith(b"/topics/")
