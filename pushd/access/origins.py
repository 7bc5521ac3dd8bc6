"""Checks of the Origin and Host headers: which pages may connect, and under which names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from pushd.access.proxies import read_address

_PORTS = {"http": 80, "https": 443}

# An origin (RFC 6454 §7.1), without a user or path. An allowed origin may begin with a wildcard.
_ORIGIN = re.compile(
    r"(https?)://((?:\*\.)?[a-z0-9_-][a-z0-9._-]*|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?",
    re.ASCII | re.IGNORECASE,
)

# The origin of an app, whose pages do not come from a web server: a scheme of its own, and what
# that has as a host (nothing in ``file://``, and an opaque one elsewhere). ``*`` is any host.
_APP_ORIGIN = re.compile(
    r"(?!(?:https?|wss?|ftp)://)[a-z][a-z0-9+.-]{1,39}://(?:\*|[a-z0-9._~-]{0,255}(?::[0-9]{1,5})?)",
    re.ASCII | re.IGNORECASE,
)

# The origin of pages without any: in sandboxed frames, and in files.
_NO_ORIGIN = "null"

_PORT = re.compile(r":[0-9]*\Z")


class Origins:
    """The allowed origins: those whose pages may open WebSockets, besides pushd's own.

    Checking the origin keeps pages of other sites from using their visitors' cookies (RFC 6455
    §10.2). A request without an Origin header does not come from a browser.

    Apps and browser extensions have schemes of their own, such as ``capacitor://localhost``.

    :param allowed: origins, ``null``, wildcards such as ``https://*.example.com`` and
        ``moz-extension://*``, or ``*`` for all.

    Raises ValueError for anything else.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._all = False
        self._exact: set[tuple[str, str, int]] = set()
        # Wildcards: a host that ends in one of these domains, such as ``.example.com``.
        self._below: set[tuple[str, str, int]] = set()
        # Origins of apps, and ``null``.
        self._apps: set[str] = set()
        for text in allowed:
            if text == "*":
                self._all = True
                continue
            if text == _NO_ORIGIN or _APP_ORIGIN.fullmatch(text):
                self._apps.add(text.lower())
                continue
            try:
                scheme, host, port = _parse_origin(text)
            except ValueError:
                raise ValueError(
                    "must be an origin such as https://example.com, https://*.example.com, "
                    f"capacitor://localhost or null, or * for all; got {text!r}"
                ) from None
            if host.startswith("*."):
                self._below.add((scheme, host[1:], port))
            else:
                self._exact.add((scheme, host, port))

    def replace(self, other: Origins) -> None:
        """Allow the same origins as another object, from now on."""
        self._all, self._apps = other._all, other._apps
        self._exact, self._below = other._exact, other._below

    def names(self, origin: str) -> bool:
        """Whether an allowed origin is one that the operator has named.

        ``*``, ``null`` and all hosts of an app's scheme name none: anyone can have such an origin.
        """
        if origin == _NO_ORIGIN:
            return False
        if origin.lower() in self._apps:
            return True
        try:
            return self._is_listed(_parse_origin(origin))
        except ValueError:
            return False

    def allows(self, origin: str | None, *, scheme: str, host: str) -> bool:
        """Whether a page of an origin may connect.

        :param origin: the Origin header; None without one.
        :param scheme: of the request: ``http`` or ``https``.
        :param host: the Host header.
        """
        if origin is None or self._all:
            return True
        if self._apps and self._allows_app(origin):
            return True
        try:
            asking = _parse_origin(origin)
            own = _parse_origin(f"{scheme}://{host}")
        except ValueError:
            return False
        return asking == own or self._is_listed(asking)

    def _is_listed(self, asking: tuple[str, str, int]) -> bool:
        if asking in self._exact:
            return True
        return any(
            asking[0] == scheme and asking[2] == port and asking[1].endswith(domain)
            for scheme, domain, port in self._below
        )

    def _allows_app(self, origin: str) -> bool:
        if origin == _NO_ORIGIN:
            return origin in self._apps
        if not _APP_ORIGIN.fullmatch(origin):
            return False
        scheme, _, _ = origin.lower().partition("://")
        return origin.lower() in self._apps or f"{scheme}://*" in self._apps


class Hosts:
    """Names under which a port is served; for the public port, all of them if none is given.

    By DNS rebinding, a page of any site can make a browser send requests to this server under a
    name of that site, and read the answers: to the browser they are the site's own. Only the Host
    header gives these requests away.

    :param allowed: names, addresses, or wildcards such as ``*.example.com``, all without a port.

    Raises ValueError for anything else.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        self._exact: set[str] = set()
        # Wildcards: domains such as ``.example.com`` that a name ends in.
        self._below: tuple[str, ...] = ()
        for text in allowed:
            try:
                if _PORT.search(text):
                    raise ValueError
                name = _parse_host(text)
            except ValueError:
                raise ValueError(
                    "must be a name such as example.com or *.example.com, or an address such as "
                    f"192.0.2.1 or [2001:db8::1], without a port; got {text!r}"
                ) from None
            if name in ("0.0.0.0", "::"):
                raise ValueError(
                    f"must be a name that clients use; {name} stands for all addresses: to listen "
                    "on them, use an endpoint such as tcp:8080"
                )
            if name.startswith("*."):
                self._below += (name[1:],)
            else:
                self._exact.add(name)

    def replace(self, other: Hosts) -> None:
        """Serve the same names as another object, from now on."""
        self._exact, self._below = other._exact, other._below

    def allows(self, host: str | None) -> bool:
        """Whether a request is for one of the names; any is if no names are given.

        :param host: the Host header; None without one, as in HTTP/1.0, which no browser sends.
        """
        return host is None or not (self._exact or self._below) or self.includes(host)

    def includes(self, host: str) -> bool:
        """Whether a Host header is one of the names."""
        try:
            name = _parse_host(host)
        except ValueError:
            return False
        return name in self._exact or name.endswith(self._below)


@lru_cache(maxsize=128)
def is_own_host(host: str, address: str | None) -> bool:
    """Whether a Host header is localhost or our own address, not a name that others control.

    By DNS rebinding, a page of any site can have a browser send requests to a name of that site
    that resolves to 127.0.0.1. The Host header gives these requests away.

    :param address: our address, to which the client connected; None for a Unix socket.
    """
    try:
        name = _parse_origin(f"http://{host}")[1]
    except ValueError:
        return False
    own = read_address(address)
    return name == "localhost" or (own is not None and own == read_address(name))


@lru_cache(maxsize=128)
def _parse_host(host: str) -> str:
    """Return the name in a Host header, in one form. Raises ValueError without a name."""
    name = _parse_origin(f"http://{host.removesuffix(':')}")[1].removesuffix(".")
    address = read_address(name)
    return name if address is None else str(address)


@lru_cache(maxsize=128)
def _parse_origin(text: str) -> tuple[str, str, int]:
    """Return scheme, host and port. Raises ValueError if it is not an origin."""
    match = _ORIGIN.fullmatch(text)
    if match is not None:
        scheme, host, port = match.groups()
        number = int(port or _PORTS[scheme.lower()])
        if number < 1 << 16:
            return scheme.lower(), host.lower(), number
    raise ValueError("not an origin")
