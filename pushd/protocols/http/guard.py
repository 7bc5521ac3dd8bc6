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

# What ``--control-page`` can be: the operator's page with its buttons, without them, or not at all.
PAGE_ON, PAGE_VIEW, PAGE_OFF = "on", "view", "off"

# Methods that change nothing.
_SAFE_METHODS = (b"GET", b"HEAD")

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
        origin = headers.last(b"Origin")
        asks = origin is not None and (request.wants_websocket or is_for_topics(request, streams))
        if asks and not origins.allows(origin, scheme=request.scheme, host=host or ""):
            request.why_refused = (
                f"Origin {_quote(origin)} is not that of {request.scheme}://{_quote(host)}: "
                "allow it with --origin, or let the proxy pass on Host and X-Forwarded-Proto "
                "(docs/deploying.md)"
            )
            return refusal(403, "Origin not allowed: the operator can allow it with --origin")
        return None

    return guard


def control_guard(hosts: Hosts, page: str = PAGE_OFF) -> Guard:
    """Return the guard of the control port. It refuses what a foreign web page may have caused.

    Only browsers send an Origin, and with every POST and DELETE. With DNS rebinding a page can do
    without one, but then the Host is a name that its author chose: so only the port's own address,
    localhost, and the names that the operator gives are allowed. What a page could learn or do by a
    health check is harmless, and no browser sends a request without a Host, as probes in HTTP/1.0
    are.

    :param page: ``--control-page``. The operator's page is the only one that the port itself
        serves, so its Origin is the Host. It may send every request, with ``view`` only those that
        change nothing, with ``off`` none.
    """

    def guard(request: Any) -> Response | None:
        headers: RequestHeaders = request.requestHeaders
        if not headers.has_host(request.clientproto):
            request.why_refused = _NO_HOST
            return refusal(400, _NO_HOST)
        host = headers.last(b"Host")
        if b"Origin" in headers:
            reason = _find_fault(request, page, is_own=host is not None and is_named(request, host))
            if reason is not None:
                request.why_refused = f"{reason}; pages publish at the public port (docs/tokens.md)"
                return refusal(403, reason)
        is_health_check = request.path in _HEALTH_CHECKS and not request.wants_websocket
        if host is None or is_health_check:
            return None
        if not is_named(request, host):
            request.why_refused = f"Host {_quote(host)} is not allowed, see --control-host"
            return refusal(
                403,
                "Host not allowed: use the control port's own address or localhost, or allow it "
                "with --control-host",
            )
        return None

    def is_named(request: Any, host: str) -> bool:
        """Return whether a Host is one under which the port is served."""
        address = getattr(request.getHost(), "host", None)
        return is_own_host(host, address) or hosts.includes(host)

    return guard


def _find_fault(request: Any, page: str, *, is_own: bool) -> str | None:
    """Return why a browser may not send a request to the control port; None if it may.

    :param page: ``--control-page``.
    :param is_own: whether the Host is a name of the control port.
    """
    headers: RequestHeaders = request.requestHeaders
    if page == PAGE_OFF or request.wants_websocket:
        return "the control port is not for browsers: a request must have no Origin"
    origin, host = headers.last(b"Origin") or "", headers.last(b"Host") or ""
    # With either scheme, as a proxy may add TLS.
    is_same = origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")
    if len(headers.values(b"Origin")) != 1 or not (is_own and is_same):
        return "browsers may use the control port only from its own page"
    if page == PAGE_VIEW and request.method not in _SAFE_METHODS:
        return "the operator's page is read-only: --control-page is view"
    return None


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
