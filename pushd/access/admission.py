"""How many may be here at once: connections in all, and from one address."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address

from pushd.access.limits import Limits, Quota
from pushd.access.proxies import Proxies, read_address


class Slot:
    """A place that is taken until its holder leaves."""

    __slots__ = ("_address", "_admission", "_connection")

    def __init__(self, admission: Admission, address: Hashable, *, connection: bool) -> None:
        self._admission: Admission | None = admission
        self._address = address
        self._connection = connection

    def release(self) -> None:
        """Give the place back; once, however often it is called."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.give_back(self._address, connection=self._connection)


class Admission:
    """Gives out the places for connections.

    :param limits: how many connections there may be, and how many of them from one address.
        Connections that are open stay when a limit is lowered. Addresses of this machine and of
        trusted proxies may have any number; the clients behind a proxy are counted by the address
        that it gives.
    """

    def __init__(self, limits: Limits, proxies: Proxies) -> None:
        self._limits = limits
        self._taken = 0
        self._addresses = Quota()
        self._proxies = proxies

    def __len__(self) -> int:
        return self._taken

    def admit(self, address: str | None) -> Slot | None:
        """A place for a connection from an address; None when there is none."""
        if self._taken >= self._limits.max_connections:
            return None
        key = self._key_of(address)
        if key is not None and not self._addresses.take(key, self._limits.max_per_address):
            return None
        self._taken += 1
        return Slot(self, key, connection=True)

    def admit_client(self, address: str | None) -> Slot | None:
        """A place for one more from an address, over whose connection ever; None if there is none.

        A client behind one of our proxies takes it beside the place of the proxy's connection.
        """
        key = self._key_of(address)
        if key is not None and not self._addresses.take(key, self._limits.max_per_address):
            return None
        return Slot(self, key, connection=False)

    def give_back(self, key: Hashable, *, connection: bool) -> None:
        """Take back what a ticket stood for; ``Slot.release`` calls this."""
        if connection:
            self._taken -= 1
        if key is not None:
            self._addresses.release(key)

    def _key_of(self, address: str | None) -> Hashable:
        """By what those of one address are counted; None for one that may have any number."""
        if address is None or self._proxies.is_trusted(address):
            return None
        return _count_by(address)


@lru_cache(maxsize=4096)
def _count_by(address: str) -> Hashable:
    """By what those of one address are counted; None for this machine's own."""
    parsed = read_address(address)
    if parsed is None:
        return address
    if parsed.is_loopback:
        return None
    # Whoever has an IPv6 address has 2⁶⁴ of them.
    return int(parsed) >> 64 if isinstance(parsed, IPv6Address) else parsed
