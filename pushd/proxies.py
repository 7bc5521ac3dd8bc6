"""Who really asks, when a proxy stands in between."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from twisted.web.http_headers import Headers

# One element of Forwarded (RFC 7239 §4): name=token or name="quoted".
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]+)\s*')


class Client(NamedTuple):
    """Where a request really comes from."""

    #: The address, without a port.
    address: str
    #: ``http`` or ``https``, as the client sees it; None where no proxy says so.
    scheme: str | None


class Proxies:
    """The networks in which proxies of ours stand, whose word counts.

    :param networks: such as ``10.0.0.0/8`` or ``::1``. Raises ValueError for what is none.
    """

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ip_network(network) for network in networks]

    def trust(self, address: str | None) -> bool:
        """Whether a proxy of ours has this address; None, a Unix socket, is this machine's own."""
        parsed = _parse(address)
        if parsed is None:
            return address is None and bool(self._networks)
        return any(parsed in network for network in self._networks)

    def client(self, peer: str | None, headers: Headers) -> Client:
        """Who asks: the rightmost hop that is no proxy of ours.

        What stands to the left of it may be of anybody's invention. ``Forwarded`` counts before
        ``X-Forwarded-For``.
        """
        if not self.trust(peer):
            return Client(peer or "unix", None)
        hops, schemes = _forwarded(headers)
        if not hops:
            hops = _listed(headers, b"x-forwarded-for")
            schemes = _listed(headers, b"x-forwarded-proto")
        address = peer or "unix"
        for hop in reversed(hops):
            parsed = _parse(hop)
            if parsed is None:
                break
            address = str(parsed)
            if not self.trust(address):
                break
        scheme = schemes[-1].lower() if schemes else None
        return Client(address, scheme if scheme in ("http", "https") else None)


def _parse(text: str | None) -> IPv4Address | IPv6Address | None:
    """An address that may have a port behind it; IPv4 in IPv6's clothes is IPv4."""
    if text is None:
        return None
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(headers: Headers) -> tuple[list[str], list[str]]:
    hops, schemes = [], []
    for element in _listed(headers, b"forwarded"):
        pairs = {name.lower(): value.strip('"') for name, value in _PAIR.findall(element)}
        if "for" in pairs:
            hops.append(pairs["for"])
        if "proto" in pairs:
            schemes.append(pairs["proto"])
    return hops, schemes


def _listed(headers: Headers, name: bytes) -> list[str]:
    values = ",".join(value.decode("latin-1") for value in headers.getRawHeaders(name, ()))
    return [value.strip() for value in values.split(",") if value.strip()]
