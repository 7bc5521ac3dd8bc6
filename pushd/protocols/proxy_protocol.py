"""The PROXY protocol, versions 1 and 2: a proxy names the client before anything else is sent.

It is specified in HAProxy's proxy-protocol.txt. Twisted has a wrapper for it, which knows the
client too late for limits, drops a connection whose header arrives in two segments, and expects the
header inside of TLS, where no proxy sends it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from zope.interface import directlyProvides, providedBy

from pushd.access.admission import Slot
from pushd.protocols.http.request import peer_name
from pushd.protocols.http.site import ImmediateClose, PushdSite
from pushd.schedule.timeouts import TimeoutQueue

# Seconds for the header. A proxy sends it at once; the specification allows for a packet that must
# be sent again.
HEADER_TIMEOUT = 10

# The longest line of version 1, with its line end, and the most bytes behind the head of version 2:
# addresses take 36 or 216, and proxies add some hundred.
_MAX_LINE = 107
_MAX_REST = 4096

_LINE_START = b"PROXY "
_LINE = re.compile(
    r"PROXY TCP([46]) ([0-9a-f.:]+) ([0-9a-f.:]+) ([0-9]{1,5}) ([0-9]{1,5})", re.ASCII | re.I
)

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
# Signature, version and command, family and transport, length.
_HEAD = len(_SIGNATURE) + 4
_LOCAL, _PROXIED = 0x20, 0x21
# Families by their numbers, and how many bytes their addresses take.
_UNKNOWN, _TCP4, _TCP6, _UNIX = 0x00, 0x11, 0x21, 0x31
_SIZES = {_UNKNOWN: 0, _TCP4: 12, _TCP6: 36, _UNIX: 216}

# A field behind the addresses has a type and a length; that of TLS begins with flags.
_FIELD_HEAD = 3
_TLS_FIELD = 0x20
_SPEAKS_TLS = 0x01

# Twisted's addresses and their parsers, by the version of IP.
_KINDS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "4": (IPv4Address, ipaddress.IPv4Address),
    "6": (IPv6Address, ipaddress.IPv6Address),
}

_TOO_LONG = "the header of the PROXY protocol is too long"
_MALFORMED = "the header of the PROXY protocol is malformed"


class ProxyHeader(NamedTuple):
    """The header of a proxy: the addresses of a connection, and whether it is encrypted."""

    #: The client; None if the proxy does not know it, or if the connection is its own.
    client: IAddress | None
    #: The address that the client has connected to, likewise.
    server: IAddress | None
    #: The length of the header in bytes.
    length: int
    #: Whether the client speaks TLS with the proxy.
    encrypted: bool = False


def read_header(data: bytes) -> ProxyHeader | None:
    """Read the header that a connection begins with; return None if it has not arrived as a whole.

    Raises ValueError that says what is wrong.
    """
    if data.startswith(_SIGNATURE[: len(data)]):
        return _read_binary(data)
    if data.startswith(_LINE_START[: len(data)]):
        return _read_line(data)
    raise ValueError("the connection does not begin with a header of the PROXY protocol")


def _read_line(data: bytes) -> ProxyHeader | None:
    line, end, _ = data[:_MAX_LINE].partition(b"\r\n")
    if not end:
        if len(data) >= _MAX_LINE:
            raise ValueError(_TOO_LONG)
        return None
    length = len(line) + len(end)
    # The rest of this line has no meaning.
    if re.match(rb"PROXY UNKNOWN( |$)", line):
        return ProxyHeader(None, None, length)
    found = _LINE.fullmatch(line.decode("latin-1"))
    if found is None:
        raise ValueError(_MALFORMED)
    version, client, server, *ports = found.groups()
    kind, parse = _KINDS[version]
    try:
        hosts = [str(parse(client)), str(parse(server))]
    except ValueError:
        raise ValueError(_MALFORMED) from None
    numbers = [int(port) for port in ports]
    if max(numbers) >= 1 << 16:
        raise ValueError(_MALFORMED)
    return ProxyHeader(*_pair(kind, hosts, numbers), length)


def _read_binary(data: bytes) -> ProxyHeader | None:
    if len(data) < _HEAD:
        return None
    command, family = data[_HEAD - 4], data[_HEAD - 3]
    rest = int.from_bytes(data[_HEAD - 2 : _HEAD])
    size = _SIZES.get(family, rest + 1)
    if command not in (_LOCAL, _PROXIED) or (command == _PROXIED and rest < size):
        raise ValueError(_MALFORMED)
    if rest > _MAX_REST:
        raise ValueError(_TOO_LONG)
    length = _HEAD + rest
    if len(data) < length:
        return None
    if command == _LOCAL or family == _UNKNOWN:
        return ProxyHeader(None, None, length)
    addresses = _read_addresses(family, data[_HEAD : _HEAD + size])
    return ProxyHeader(*addresses, length, _tells_tls(data[_HEAD + size : length]))


def _tells_tls(fields: bytes) -> bool:
    """Return whether the fields behind the addresses say that the client speaks TLS."""
    while len(fields) > _FIELD_HEAD:
        end = _FIELD_HEAD + int.from_bytes(fields[1:_FIELD_HEAD])
        if fields[0] == _TLS_FIELD:
            return bool(fields[_FIELD_HEAD] & _SPEAKS_TLS)
        fields = fields[end:]
    return False


def _read_addresses(family: int, data: bytes) -> tuple[IAddress, IAddress]:
    """Read the addresses of the client and of the server."""
    if family == _UNIX:
        half = len(data) // 2
        client, server = (
            UNIXAddress(part.rstrip(b"\0") or None) for part in (data[:half], data[half:])
        )
        return client, server
    (kind, parse), size = (_KINDS["4"], 4) if family == _TCP4 else (_KINDS["6"], 16)
    hosts = [str(parse(data[start : start + size])) for start in (0, size)]
    numbers = [int.from_bytes(data[start : start + 2]) for start in (2 * size, 2 * size + 2)]
    return _pair(kind, hosts, numbers)


def _pair(kind: Any, hosts: Sequence[str], ports: Sequence[int]) -> tuple[IAddress, IAddress]:
    client, server = (kind("TCP", host, port) for host, port in zip(hosts, ports, strict=True))
    return client, server


class ProxiedConnection(ProtocolWrapper):
    """A connection from a proxy. The protocol inside is made once the header has named the client.

    :param slot: the slot that it takes of ``--max-connections`` until then.
    """

    factory: ProxyProtocolFactory
    # Not typed: Twisted's interface of transports lacks most of what they have.
    transport: Any
    # None until the header has arrived.
    wrappedProtocol: Any = None

    def __init__(self, factory: ProxyProtocolFactory, slot: Slot) -> None:
        super().__init__(factory, self.wrappedProtocol)
        self._slot = slot
        self._header: ProxyHeader | None = None
        # What has arrived and was not delivered: before the header is complete, and while the
        # protocol inside does not read.
        self._waiting = bytearray()
        self._holds = True
        self._paused = False

    def logPrefix(self) -> str:
        """Return the name for Twisted's log lines."""
        return type(self).__name__

    def makeConnection(self, transport: Any) -> None:
        """Wait for the header. Twisted's wrapper would connect the protocol inside at once."""
        directlyProvides(self, providedBy(transport))
        Protocol.makeConnection(self, transport)
        self.factory.registerProtocol(self)
        self.factory.waiting.start(self)

    def dataReceived(self, data: bytes) -> None:
        """Read the header; deliver what follows."""
        if not self._holds:
            self.wrappedProtocol.dataReceived(data)
            return
        self._waiting += data
        if self._header is None:
            self._read_header()
        if self._header is not None and not self._paused:
            self._deliver()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Release what the connection takes."""
        self.factory.waiting.stop(self)
        self._slot.release()
        self._waiting.clear()
        if self.wrappedProtocol is None:
            self.factory.unregisterProtocol(self)
        else:
            super().connectionLost(reason)

    def getPeer(self) -> IAddress:
        """Return the address of the client, or that of the proxy if it is not known."""
        client = None if self._header is None else self._header.client
        address: IAddress = client or self.transport.getPeer()
        return address

    def getHost(self) -> IAddress:
        """Return the address that the client has connected to, or ours if it is not known."""
        server = None if self._header is None else self._header.server
        address: IAddress = server or self.transport.getHost()
        return address

    def pauseProducing(self) -> None:
        """Stop reading."""
        self._paused = True
        self.transport.pauseProducing()

    def resumeProducing(self) -> None:
        """Go on with what has arrived behind the header, and then with what comes."""
        self._paused = False
        self.transport.resumeProducing()
        if self._holds:
            # Not at once: the caller does not expect data before it returns.
            self.factory.call_later(0, self.dataReceived, b"")

    def header_timed_out(self) -> None:
        """Drop a connection without a header."""
        self.factory.refuse(self, 408, "no header of the PROXY protocol has arrived")
        self.transport.abortConnection()

    def _read_header(self) -> None:
        if self.disconnecting:
            self._waiting.clear()
            return
        try:
            self._header = read_header(bytes(self._waiting))
        except ValueError as error:
            self.factory.refuse(self, 400, f"{error}: does the proxy have send-proxy set?")
            self.loseConnection()
            return
        if self._header is None:
            return
        del self._waiting[: self._header.length]
        self.factory.waiting.stop(self)
        self._slot.release()
        inside = self.wrappedProtocol = self.factory.wrappedFactory.buildProtocol(self.getPeer())
        inside.encrypted_by_proxy = self._header.encrypted
        inside.makeConnection(self)

    def _deliver(self) -> None:
        self._holds = False
        data, self._waiting = bytes(self._waiting), bytearray()
        if data and self.wrappedProtocol is not None:
            self.wrappedProtocol.dataReceived(data)


class ProxyProtocolFactory(WrappingFactory[ProxiedConnection]):
    """Makes the connections of a port behind a proxy that speaks the PROXY protocol.

    :param wrapped: makes the protocols inside: the site itself, or TLS around it.
    :param site: whose limits count connections that have sent no header yet.
    :param clock: for time-outs.
    """

    noisy = False
    protocol: Callable[..., ProxiedConnection] = ProxiedConnection

    def __init__(self, wrapped: Any, site: PushdSite, clock: IReactorTime) -> None:
        super().__init__(wrapped)
        self._site = site
        self.call_later = clock.callLater
        #: The connections without a header.
        self.waiting = TimeoutQueue(
            clock, timeout=HEADER_TIMEOUT, expired=ProxiedConnection.header_timed_out
        )

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make a connection, or what closes it if there are too many."""
        slot = self._site.admit_unknown()
        return ImmediateClose() if slot is None else self.protocol(self, slot)

    def refuse(self, connection: ProxiedConnection, status: int, reason: str) -> None:
        """Log that the header of a connection is missing or malformed."""
        self._site.log_refusal(peer_name(connection.getPeer()), status, reason)
