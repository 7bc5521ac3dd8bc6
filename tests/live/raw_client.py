"""A client that sends HTTP and WebSocket byte by byte over a real socket, with any mistake."""

from __future__ import annotations

import socket
import ssl
import struct
from base64 import b64encode
from dataclasses import dataclass
from time import monotonic
from types import TracebackType
from urllib.parse import urlsplit

from tests.support.frame_heads import CLOSE, frame_head

# Seconds after which a test gives up waiting. An idle connection is kept open for longer.
TIMEOUT = 30.0


@dataclass(frozen=True)
class Frame:
    """A frame from the server."""

    opcode: int
    payload: bytes

    @property
    def code(self) -> int:
        """The code of a Close frame."""
        return int.from_bytes(self.payload[:2], "big")


@dataclass(frozen=True)
class Answer:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes


class RawClient:
    """One connection to a daemon.

    ``receive_buffer`` is the size of the kernel's buffer for data that the client has not read. For
    an ``https:`` URL, any certificate is accepted unless ``context`` says otherwise.
    """

    def __init__(
        self,
        url: str,
        *,
        receive_buffer: int | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc
        plain = socket.socket()
        plain.settimeout(TIMEOUT)
        if receive_buffer is not None:
            # It limits the window only if it is set before connecting.
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.connect((parts.hostname, parts.port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = plain.getsockname()[1]
        self.socket = plain
        if parts.scheme == "https":
            try:
                self.socket = (context or trusting()).wrap_socket(plain)
            except BaseException:
                plain.close()
                raise
        self._received = bytearray()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send data."""
        self.socket.sendall(data)

    def send_until_refused(self, data: bytes, times: int = 1, *, seconds: float = TIMEOUT) -> int:
        """Send data repeatedly, until the daemon accepts no more or the time is over.

        Return the number of bytes sent.
        """
        sent, deadline = 0, monotonic() + seconds
        view, length = memoryview(data), len(data)
        while sent < times * length and (left := deadline - monotonic()) > 0:
            self.socket.settimeout(left)
            start = sent % length
            try:
                sent += self.socket.send(view[start : start + (1 << 18)])
            except OSError:  # Refused, or not taken in time.
                break
        self.socket.settimeout(TIMEOUT)
        return sent

    def upgrade(self, path: str, *lines: str) -> RawClient:
        """Open a WebSocket."""
        self.send(handshake(self.host, path, *lines))
        head = self.read_head()
        assert head.startswith("HTTP/1.1 101 "), head
        return self

    def request(self, path: str, *lines: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send a request, and return its response."""
        self.send(request(self.host, path, *lines, method=method) + body)
        return self.read_answer()

    def read_head(self) -> str:
        """Read the head of a response."""
        while b"\r\n\r\n" not in self._received:
            assert self._receive(), f"no head: {bytes(self._received)!r}"
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received[:] = rest
        return head.decode("latin-1")

    def read_answer(self) -> Answer:
        """Read a response that has a Content-Length."""
        status, *lines = self.read_head().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0))
        while len(self._received) < length:
            assert self._receive(), "the answer broke off"
        body = bytes(self._received[:length])
        del self._received[:length]
        return Answer(int(status.split(" ")[1]), headers, body)

    def read_frame(self) -> Frame | None:
        """Read a frame; None if the connection ends first."""
        while (frame := self._take_frame()) is None:
            if not self._receive():
                return None
        return frame

    def read_code(self) -> int | None:
        """Read until the Close frame, and return its code; None if there is none."""
        while (frame := self.read_frame()) is not None:
            if frame.opcode == CLOSE:
                return frame.code
        return None

    def read_all(self) -> bytes:
        """Read until the connection ends; fail if it does not."""
        try:
            while self._receive():
                pass
        except TimeoutError:
            raise AssertionError(f"still connected: {bytes(self._received)!r}") from None
        return bytes(self._received)

    def reset(self) -> None:
        """Reset the connection."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _receive(self) -> bool:
        try:
            data = self.socket.recv(1 << 18)
        except (ConnectionError, ssl.SSLError):
            return False
        self._received += data
        return bool(data)

    def _take_frame(self) -> Frame | None:
        data = self._received
        if len(data) < 2:
            return None
        length, start = data[1], 2
        if length > 125:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        if len(data) < start + length:
            return None
        frame = Frame(data[0] & 0xF, bytes(data[start : start + length]))
        del data[: start + length]
        return frame


def request(host: str, path: str, *lines: str, method: str = "GET") -> bytes:
    """Make the head of a request."""
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1")


def handshake(host: str, path: str, *lines: str, version: int = 13) -> bytes:
    """Make an opening handshake."""
    return request(
        host,
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {b64encode(bytes(16)).decode()}",
        f"Sec-WebSocket-Version: {version}",
        *lines,
    )


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Make a client's frame, masked with a key of zeros (RFC 6455 §5.3)."""
    return frame_head(opcode, len(payload), fin=fin, rsv=rsv) + bytes(4) + payload


def trusting() -> ssl.SSLContext:
    """Make a TLS context that accepts any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
