"""Who may come in: origins, and the hosts that are us."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}

# RFC 6454 §7.1: a scheme, a host and perhaps a port; with a wildcard for names below a domain.
_ORIGIN = re.compile(
    r"(?P<scheme>https?)://(?P<host>(\*\.)?[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d+)?"
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
            if not _ORIGIN.fullmatch(text):
                raise ValueError("no origin like https://example.com, https://*.example.com or *")
            scheme, host, port = _origin(urlsplit(text))
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
            asking = _origin(urlsplit(origin))
            own = _origin(urlsplit(f"{scheme}://{host}"))
        except ValueError:
            return False
        if asking[0] not in ("http", "https"):
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
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return False
    return name in ("localhost", address)


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    """Scheme, host and port. Raises ValueError for a port that is none."""
    port = parts.port
    return parts.scheme, parts.hostname or "", _PORTS.get(parts.scheme, 0) if port is None else port
