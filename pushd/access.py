"""Who may come in: origins, the hosts that are us, and tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache

from pushd.identity import Identity
from pushd.proxies import read_address
from pushd.tokens import LEEWAY, BadToken, TokenKeys

_PORTS = {"http": 80, "https": 443}

# RFC 6454 §7.1: a scheme, a host and perhaps a port, and nothing else: no user, no path. With a
# wildcard for names below a domain.
_ORIGIN = re.compile(
    r"(https?)://((?:\*\.)?[a-z0-9_-][a-z0-9._-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)


class Origins:
    """The origins from which pages may open WebSockets, beside our own.

    A page's origin is what keeps a foreign site from using its visitors' cookies here
    (RFC 6455 §10.2). A client without one is no browser.

    :param allowed: exact origins, wildcards such as ``https://*.example.com``, or ``*`` for all.

    Raises ValueError for what is none of these.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._all = False
        self._exact: set[tuple[str, str, int]] = set()
        self._below: set[tuple[str, str, int]] = set()
        for text in allowed:
            if text == "*":
                self._all = True
                continue
            scheme, host, port = _read_origin(text)
            if host.startswith("*."):
                self._below.add((scheme, host[1:], port))
            else:
                self._exact.add((scheme, host, port))

    def allow(self, origin: str | None, *, scheme: str, host: str) -> bool:
        """Whether a page of this origin may come in.

        :param scheme: how we were asked: ``http`` or ``https``.
        :param host: as whom we were asked: the Host header.
        """
        if origin is None or self._all:
            return True
        try:
            asking = _read_origin(origin)
            own = _read_origin(f"{scheme}://{host}")
        except ValueError:
            return False
        if asking == own or asking in self._exact:
            return True
        return any(
            asking[0] == scheme_ and asking[2] == port and asking[1].endswith(domain)
            for scheme_, domain, port in self._below
        )


class Denied(Exception):
    """Somebody may not do what they ask for: the HTTP status, and one line that says why.

    :param error: what RFC 6750 §3.1 calls it; nothing where there was no token at all.
    """

    def __init__(self, status: int, reason: str, error: str = "") -> None:
        super().__init__(reason)
        self.status = status
        self.error = error


class Access:
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
            return self.keys.identify(token, self.now())
        except BadToken as bad:
            raise Denied(401, str(bad), "invalid_token") from None

    def require(self, token: str | None) -> Identity:
        """Who somebody is, who has to say it."""
        identity = self.identify(token)
        if identity is None:
            raise Denied(401, "a token is needed here")
        return identity

    def subscriber(self, token: str | None, topic: str) -> Identity | None:
        """Who somebody is who may listen to a topic; None where tokens are not asked for."""
        if not self.keys:
            return None
        identity = self.require(token)
        if not identity.may_subscribe(topic):
            raise Denied(403, f"this token may not subscribe to {topic}", "insufficient_scope")
        return identity

    def publisher(self, token: str | None, topic: str) -> Identity:
        """Who somebody is who may publish to a topic."""
        identity = self.require(token)
        if not identity.may_publish(topic):
            raise Denied(403, f"this token may not publish to {topic}", "insufficient_scope")
        return identity

    def ends(self, identity: Identity) -> float:
        """When a connection has to end that begins now, in seconds since 1970.

        That is when its token runs out. Who comes just after that, and is let in as clocks
        differ, may stay until that is no excuse any more.
        """
        late = self.now() >= identity.expires
        return identity.expires + LEEWAY if late else identity.expires


def is_own_host(host: str, address: str | None) -> bool:
    """Whether a Host header names this very machine, and not a name that anybody may point here.

    A page of any site can make its visitors' browsers ask a name that resolves to 127.0.0.1 (DNS
    rebinding); what tells such a request is its Host.

    :param address: the address at which the request came in; None for a Unix socket.
    """
    try:
        name = _read_origin(f"http://{host}")[1]
    except ValueError:
        return False
    own = read_address(address)
    return name == "localhost" or (own is not None and own == read_address(name))


@lru_cache(maxsize=128)
def _read_origin(text: str) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError for what is no origin."""
    match = _ORIGIN.fullmatch(text)
    if match is not None:
        scheme, host, port = match.groups()
        number = int(port or _PORTS[scheme.lower()])
        if number < 1 << 16:
            return scheme.lower(), host.lower(), number
    raise ValueError("no origin like https://example.com, https://*.example.com or *")
