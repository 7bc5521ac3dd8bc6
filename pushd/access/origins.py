"""Origins that browsers may connect from, and the hosts that are this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from pushd.access.proxies import read_address

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

    def replace(self, other: Origins) -> None:
        """Allow what other origins allow, from the next request on."""
        self._all, self._exact, self._below = other._all, other._exact, other._below

    def allows(self, origin: str | None, *, scheme: str, host: str) -> bool:
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
