"""Connection limits: how many connections are open at once, in all and from one address."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from ipaddress import IPv6Address

from pushd.access.limits import Limits, Quota
from pushd.access.proxies import Proxies, read_address


class Slot:
    """One connection or client that counts towards the limits, until it is released."""

    __slots__ = ("_admission", "_connection", "_key")

    def __init__(self, admission: Admission, key: Hashable, *, connection: bool) -> None:
        self._admission: Admission | None = admission
        self._key = key
        self._connection = connection

    def release(self) -> None:
        """Stop counting it; does nothing when called again."""
        admission, self._admission = self._admission, None
        if admission is not None:
            admission.release(self._key, connection=self._connection)


class Admission:
    """Admits connections within the limits, and counts those that are open.

    Loopback addresses, Unix sockets and trusted proxies are exempt from the limit per address; the
    clients behind a proxy are counted by the addresses that it gives. Open connections stay when a
    limit is lowered.

    :param limits: ``max_connections`` and ``max_per_address`` are applied.
    :param fixed: True if these are not the limits that options set.
    """

    def __init__(self, limits: Limits, proxies: Proxies, *, fixed: bool = False) -> None:
        self._limits = limits
        self._fixed = fixed
        self._connections = 0
        self._addresses = Quota()
        self._proxies = proxies

    def __len__(self) -> int:
        """Return the number of open connections."""
        return self._connections

    def admit(self, address: str | None) -> Slot | None:
        """Admit a connection from an address; return None if a limit is reached."""
        if self._connections >= self._limits.max_connections:
            return None
        slot = self._take(address, connection=True)
        if slot is not None:
            self._connections += 1
        return slot

    def admit_client(self, address: str | None) -> Slot | None:
        """Admit a request that a trusted proxy forwards; return None if its limit is reached.

        This slot is for the client. The proxy's connection has a slot of its own.

        :param address: of the client.
        """
        return self._take(address, connection=False)

    def reached(self, *, connection: bool = True) -> str:
        """Return which limit is reached, for the log, after a connection was not admitted.

        :param connection: False for a client behind a proxy.
        """
        if connection and self._connections >= self._limits.max_connections:
            number, option = self._limits.max_connections, "--max-connections"
        else:
            number, option = self._limits.max_per_address, "--max-per-address"
        reason = f"connection limit reached: {number} connections"
        return reason if self._fixed else f"{reason}, see {option}"

    def release(self, key: Hashable, *, connection: bool) -> None:
        """Release what a Slot stands for; called by ``Slot.release``."""
        if connection:
            self._connections -= 1
        if key is not None:
            self._addresses.release(key)

    def _take(self, address: str | None, *, connection: bool) -> Slot | None:
        key = None
        proxies = self._proxies
        if address is not None and (proxies.none_trusted or not proxies.is_trusted(address)):
            key = key_of(address)
        if key is not None and not self._addresses.take(key, self._limits.max_per_address):
            return None
        return Slot(self, key, connection=connection)


@lru_cache(maxsize=4096)
def client_key(proxies: Proxies, peer: str) -> Hashable:
    """Return what is counted for a client; None for a loopback address or a trusted proxy.

    :param peer: the client as the log shows it: an address, with or without a port, or ``unix``.
    """
    address = read_address(peer)
    if peer == "unix" or (address is not None and proxies.is_trusted(peer)):
        return None
    return key_of(peer if address is None else str(address))


@lru_cache(maxsize=4096)
def key_of(address: str) -> Hashable:
    """Return what the connections from an address are counted by; None for loopback addresses."""
    parsed = read_address(address)
    if parsed is None:
        return address
    if parsed.is_loopback:
        return None
    # A client with IPv6 usually has a whole /64 network to choose its address from.
    return int(parsed) >> 64 if isinstance(parsed, IPv6Address) else parsed
