"""A client that sends HTTP and WebSocket byte by byte, with any mistake."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from OpenSSL.SSL import TLS_CLIENT_METHOD, TLS_SERVER_METHOD, Context
from twisted.internet.address import UNIXAddress
from twisted.internet.interfaces import IAddress, IOpenSSLContextFactory
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, formatEvent
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.resource import IResource
from zope.interface import implementer

from pushd.protocols.proxy_protocol import ProxyProtocolFactory
from pushd.protocols.twisted_internals import pass_half_closes
from pushd.testing import Daemon
from pushd.testing.memory_network import MemoryNetwork, MemoryTransport
from tests.support.frame_heads import BINARY as BINARY
from tests.support.frame_heads import CLOSE as CLOSE
from tests.support.frame_heads import CONTINUATION as CONTINUATION
from tests.support.frame_heads import PING as PING
from tests.support.frame_heads import PONG as PONG
from tests.support.frame_heads import TEXT as TEXT
from tests.support.frame_heads import frame_head

# The example of RFC 6455 §1.3.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

_MASK = b"\x37\xfa\x21\x3d"


@dataclass(frozen=True)
class Frame:
    """A frame from the server."""

    opcode: int
    payload: bytes = b""
    fin: bool = True
    rsv: int = 0

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        return int.from_bytes(self.payload[:2], "big")


class Peer(Protocol):
    """A client's connection to a daemon in memory. Each call returns after all its effects.

    :param proxy_header: what a proxy sends first, outside of TLS; None without a proxy.
    """

    def __init__(
        self,
        daemon: Daemon,
        *,
        control: bool = False,
        tls: bool = False,
        proxy_header: bytes | None = None,
        address: IAddress | None = None,
    ) -> None:
        self._daemon = daemon
        self._network = MemoryNetwork()
        self.received = bytearray()
        self.lost: type[BaseException] | None = None
        site: Any = daemon.clock.tcpServers[1 if control else 0][1]
        client: Any = self
        factory = site
        if tls:
            factory = TLSMemoryBIOFactory(_server_side(), False, site, daemon.clock)
            ours = Factory.forProtocol(lambda: self)
            client = TLSMemoryBIOFactory(Tls(Context(TLS_CLIENT_METHOD)), True, ours, daemon.clock)
            client = client.buildProtocol(None)
        if proxy_header is not None:
            factory = ProxyProtocolFactory(factory, site, daemon.clock)
        pass_half_closes(factory)
        self._end = self._network.connect(factory, client, address)
        if proxy_header:
            self._end.write(proxy_header + self._end.clear_unsent())
        self.settle()

    @property
    def server(self) -> MemoryTransport:
        """The server's end of the connection."""
        return self._end.other

    @property
    def head(self) -> str:
        """The head of the first answer."""
        return bytes(self.received).partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def body(self) -> bytes:
        """All bytes behind the head of the first answer."""
        return bytes(self.received).partition(b"\r\n\r\n")[2]

    @property
    def frames(self) -> list[Frame]:
        """The frames behind a 101."""
        return read_frames(self.body)

    @property
    def texts(self) -> list[str]:
        """The text messages among them."""
        return [frame.payload.decode() for frame in self.frames if frame.opcode == TEXT]

    @property
    def code(self) -> int | None:
        """The code of the server's Close frame, or None."""
        codes = [frame.code for frame in self.frames if frame.opcode == CLOSE]
        return codes[0] if codes else None

    def send(self, *segments: bytes) -> None:
        """Send bytes, one segment after the other."""
        for segment in segments:
            assert self.transport is not None
            self.transport.write(segment)
            self.settle()

    def stall(self) -> None:
        """Stop reading."""
        self._end.pauseProducing()

    def resume(self) -> None:
        """Read on."""
        self._end.resumeProducing()
        self.settle()

    def finish(self) -> None:
        """Close once everything is sent."""
        assert self.transport is not None
        self.transport.loseConnection()
        self.settle()

    def half_close(self) -> None:
        """Close our side, as ``shutdown(SHUT_WR)`` does, and go on reading."""
        self._flush()
        self._end.loseWriteConnection()
        self.settle()

    def close_notify(self) -> None:
        """Close our side of TLS only, and go on reading."""
        self._flush()
        tls: Any = self.transport
        tls.getHandle().shutdown()
        tls._flushSendBIO()
        self.settle()

    def _flush(self) -> None:
        """Encrypt what Twisted's TLS collects until the next iteration of the reactor."""
        if self.transport is not self._end:
            self.transport._aggregator.flush()  # type: ignore[union-attr]  # It is TLS.

    def vanish(self) -> None:
        """Reset the connection."""
        self._end.abortConnection()
        self.settle()

    def reset(self, last: bytes = b"") -> None:
        """Send what is last, and reset the connection; the server's kernel has received all."""
        assert self.transport is not None
        self.transport.write(last)
        self._flush()
        server: Any = self.server
        server.socket = ReceiveBuffer(self._end.clear_unsent())
        self.vanish()

    def advance(self, *seconds: float) -> None:
        """Let time pass."""
        for step in seconds:
            self._daemon.advance(step)
            self.settle()

    def settle(self) -> None:
        """Let everything that was sent arrive."""
        for _ in range(3):
            # What reads it is called by asyncio's event loop, if the daemon runs on one.
            self._daemon._call_in_loop(self._network.run)
            self._daemon.settle()

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason.type


class ReceiveBuffer:
    """What the kernel has received for a socket whose connection is lost."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def recv(self, size: int) -> bytes:
        """Take up to ``size`` bytes; the error comes behind the last one."""
        if not self.data:
            raise ConnectionResetError
        data, self.data = self.data[:size], self.data[size:]
        return data


class UnixTransport(StringTransport):
    """The server's end of a Unix socket, whose write side can be closed alone."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(peerAddress=UNIXAddress(None))
        self.write_closed = False
        self.aborted = False
        site: Any = daemon.clock.tcpServers[0][1]
        self.protocol: Any = site.buildProtocol(UNIXAddress(None))
        self.protocol.makeConnection(self)

    def loseWriteConnection(self) -> None:
        """Record that the write side was closed."""
        self.write_closed = True

    def abortConnection(self) -> None:
        """Record that the connection was reset."""
        self.aborted = True

    def receive(self, data: bytes) -> bytes:
        """Receive data, and return the answer."""
        self.clear()
        self.protocol.dataReceived(data)
        answer: bytes = self.value()
        return answer


def serve(daemon: Daemon, resource: IResource) -> None:
    """Have a daemon answer every request of its public port with a twisted.web resource."""
    site: Any = daemon.clock.tcpServers[0][1]
    site.getResourceFor = lambda request: resource


def handshake(path: str = "/", *lines: str, without: Iterable[str] = ()) -> bytes:
    """Make a handshake, without some of its headers, or with more lines."""
    headers = {
        "Host": "localhost:8080",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Version": "13",
    }
    kept = [f"{name}: {value}" for name, value in headers.items() if name not in without]
    return request(f"GET {path} HTTP/1.1", *kept, *lines)


def request(*lines: str) -> bytes:
    """Make the head of a request."""
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, masked: bool = True
) -> bytes:
    """Make a client's frame (RFC 6455 §5.2)."""
    head = frame_head(opcode, len(payload), fin=fin, rsv=rsv, masked=masked)
    return head + _MASK + mask(payload) if masked else head + payload


def mask(payload: bytes) -> bytes:
    """Mask or unmask a payload."""
    pattern = (_MASK * (len(payload) // 4 + 1))[: len(payload)]
    plain = int.from_bytes(payload, "big") ^ int.from_bytes(pattern, "big")
    return plain.to_bytes(len(payload), "big")


def close_frame(code: int, reason: bytes = b"") -> bytes:
    """Make a client's Close frame."""
    return frame(CLOSE, code.to_bytes(2, "big") + reason)


def read_frames(data: bytes) -> list[Frame]:
    """Parse a server's frames; the last one may be incomplete."""
    frames = []
    while len(data) >= 2:
        assert not data[1] & 0x80, "a server's frame is not masked"
        length, start = data[1], 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            break
        payload = data[start : start + length]
        frames.append(Frame(data[0] & 0xF, payload, bool(data[0] & 0x80), data[0] >> 4 & 7))
        data = data[start + length :]
    return frames


def said(events: Iterable[LogEvent]) -> list[str]:
    """Return the log lines of pushd."""
    return [
        formatEvent(event)
        for event in events
        if str(event.get("log_namespace", "")).startswith("pushd.")
    ]


def certificate() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make a certificate for localhost, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    begin = datetime(2020, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    return made, key


def certificate_file() -> bytes:
    """Make a certificate for localhost with its key, as in a file."""
    made, key = certificate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM) + private


@implementer(IOpenSSLContextFactory)
class Tls:
    """One side of TLS."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def getContext(self) -> Context:
        return self._context


@cache
def _server_side() -> Tls:
    context = Context(TLS_SERVER_METHOD)
    made, key = certificate()
    context.use_certificate(made)
    context.use_privatekey(key)
    return Tls(context)
