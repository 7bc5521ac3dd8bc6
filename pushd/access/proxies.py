"""Trusted reverse proxies: finds the client's address in the headers that they add."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from twisted.web.http_headers import Headers

# An element of Forwarded (RFC 7239 §4): pairs of name=token or name="quoted".
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]+)\s*')
_ELEMENT = re.compile(rf"(?:{_PAIR.pattern})(?:;{_PAIR.pattern})*;?")

# Maximum length of an address: IPv6 with an embedded IPv4 address and a zone name.
_LONGEST = 64

# The scheme that a proxy gives, and the client's: Traefik gives that of the WebSocket's URL.
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}

# Stands for the address of a client that its proxy does not give (RFC 7239 §6.2).
UNKNOWN = "unknown"


class ClientAddress(NamedTuple):
    """Address of the client that sent a request, and the scheme that it used."""

    #: The address, without a port.
    address: str
    #: ``http`` or ``https`` if a trusted proxy gives it, else None.
    scheme: str | None


class Proxies:
    """The networks of trusted reverse proxies, whose headers are believed.

    :param networks: such as ``10.0.0.0/8`` or ``::1``.

    Raises ValueError if one is not an IP network.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [_parse_network(network) for network in networks]
        #: Whether no proxy is trusted, and every client is the one that has connected.
        self.none_trusted = not self._networks

    def is_trusted(self, address: str | None) -> bool:
        """Whether a proxy at an address is trusted; None, a Unix socket, is if any proxy is."""
        if not self._networks:
            return False
        parsed = read_address(address)
        if parsed is None:
            return address is None
        return any(parsed in network for network in self._networks)

    def client(self, peer: str | None, headers: Headers) -> ClientAddress:
        """Return the address of the client: the rightmost hop that is not a trusted proxy.

        The hops to the left of it may be forged. If a request has both headers,
        ``X-Forwarded-For`` is used: most proxies set only that one, and pass on the ``Forwarded``
        header of a client unchanged.

        :param peer: the address that the connection comes from; None for a Unix socket.
        """
        if not self.is_trusted(peer):
            return ClientAddress(peer or "unix", None)
        # Of proxies behind one another, the first has seen the client's scheme.
        scheme = (_listed(headers, b"x-forwarded-proto") or [""])[0]
        hops = [(hop, "") for hop in _listed(headers, b"x-forwarded-for")] or _forwarded(headers)
        address = peer or "unix"
        for hop, proto in reversed(hops):
            scheme = proto or scheme
            parsed = read_address(hop)
            if parsed is None:
                # Not the proxy's address, which may be exempt from limits.
                address = UNKNOWN
                break
            address = str(parsed)
            if not self.is_trusted(address):
                break
        return ClientAddress(address, _SCHEMES.get(scheme.lower()))


def read_address(text: str | None) -> IPv4Address | IPv6Address | None:
    """Parse an IP address, with or without a port; return None if it is not one.

    An IPv4-mapped IPv6 address, as dual-stack sockets have, becomes an IPv4 address.
    """
    if text is None:
        return None
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    # Longer texts are not parsed, and do not fill the cache.
    return _parse_address(text) if len(text) <= _LONGEST else None


def _parse_network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"must be an IP network such as 10.0.0.0/8 or ::1; {error}") from None


@lru_cache(maxsize=4096)
def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(headers: Headers) -> list[tuple[str, str]]:
    """Return address and scheme of each hop, empty if missing; no hops if none gives an address."""
    hops = []
    silent = True
    for element in _listed(headers, b"forwarded"):
        # A comma in a quoted string splits an element into two malformed ones. They must not count:
        # the proxy may quote a Host header in which the client put the comma.
        well_formed = _ELEMENT.fullmatch(element)
        pairs = _PAIR.findall(element) if well_formed else []
        values = {name.lower(): value.strip('"') for name, value in pairs}
        silent = silent and bool(well_formed) and "for" not in values
        hops.append((values.get("for", ""), values.get("proto", "")))
    return [] if silent else hops


def _listed(headers: Headers, name: bytes) -> list[str]:
    values = ",".join(value.decode("latin-1") for value in headers.getRawHeaders(name, ()))
    return [value.strip() for value in values.split(",") if value.strip()]
