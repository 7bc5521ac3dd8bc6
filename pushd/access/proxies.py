"""Who really asks, when a proxy stands in between."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import NamedTuple

from twisted.web.http_headers import Headers

# One element of Forwarded (RFC 7239 §4): pairs of name=token or name="quoted".
_PAIR = re.compile(r'\s*([A-Za-z]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s;,"]+)\s*')
_ELEMENT = re.compile(rf"(?:{_PAIR.pattern})(?:;{_PAIR.pattern})*;?")

# The longest address: IPv6 with an IPv4 address inside, and the name of a zone.
_LONGEST = 64

# The address of a client whose proxy does not tell it (RFC 7239 §6.2).
UNKNOWN = "unknown"


class ClientAddress(NamedTuple):
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

    def is_trusted(self, address: str | None) -> bool:
        """Whether a proxy of ours has this address; None, a Unix socket, is this machine's own."""
        if not self._networks:
            return False
        parsed = read_address(address)
        if parsed is None:
            return address is None
        return any(parsed in network for network in self._networks)

    def client(self, peer: str | None, headers: Headers) -> ClientAddress:
        """Who asks: the rightmost hop that is no proxy of ours.

        What stands to the left of it may be of anybody's invention. Where both are there,
        ``X-Forwarded-For`` counts: most proxies write that one, and pass a ``Forwarded`` that the
        client wrote on as it is.
        """
        if not self.is_trusted(peer):
            return ClientAddress(peer or "unix", None)
        scheme = (_listed(headers, b"x-forwarded-proto") or [""])[-1]
        hops = [(hop, "") for hop in _listed(headers, b"x-forwarded-for")] or _forwarded(headers)
        address = peer or "unix"
        for hop, said in reversed(hops):
            scheme = said or scheme
            parsed = read_address(hop)
            if parsed is None:
                # Somebody, but not the proxy itself, which may be exempt from what others are not.
                address = UNKNOWN
                break
            address = str(parsed)
            if not self.is_trusted(address):
                break
        scheme = scheme.lower()
        return ClientAddress(address, scheme if scheme in ("http", "https") else None)


def read_address(text: str | None) -> IPv4Address | IPv6Address | None:
    """Read an address that may have a port behind it; None for what is none.

    IPv4 in IPv6's clothes, as a dual-stack socket has it, is IPv4.
    """
    if text is None:
        return None
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    # Nothing longer is an address, and what others send is not to fill the memory.
    return _parse(text) if len(text) <= _LONGEST else None


@lru_cache(maxsize=4096)
def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _forwarded(headers: Headers) -> list[tuple[str, str]]:
    """Address and scheme of each hop, as far as it says; none where none speaks of addresses."""
    hops = []
    silent = True
    for element in _listed(headers, b"forwarded"):
        # A comma in a quoted string cuts an element in two that are none: clients can write one
        # into the host that a proxy puts there, so their pieces must not count.
        well_formed = _ELEMENT.fullmatch(element)
        pairs = _PAIR.findall(element) if well_formed else []
        values = {name.lower(): value.strip('"') for name, value in pairs}
        silent = silent and bool(well_formed) and "for" not in values
        hops.append((values.get("for", ""), values.get("proto", "")))
    return [] if silent else hops


def _listed(headers: Headers, name: bytes) -> list[str]:
    values = ",".join(value.decode("latin-1") for value in headers.getRawHeaders(name, ()))
    return [value.strip() for value in values.split(",") if value.strip()]
