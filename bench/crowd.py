"""Clients of HTTP over connections that stay open, in this process: only the server is measured.

A client sends the same bytes again and again, or others after each answer; the next request leaves
as soon as the answer to the last one is complete.
"""

from __future__ import annotations

import re
import selectors
import socket
from collections.abc import Callable
from types import TracebackType

from bench.server import Trouble
from bench.waiting import await_events

# Seconds without any answer after which the measurement fails.
_PATIENCE = 20

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

# Makes the next request of a client from the head and the body of an answer; None to rest.
Next = Callable[[bytes, bytes], bytes | None]


class Crowd:
    """Some clients, connected for the duration of a ``with`` block.

    :param sleeps: whether they sleep while they wait, and leave their core to a server that has
        several threads.
    """

    def __init__(self, port: int, clients: int, *, sleeps: bool = False) -> None:
        self._sleeps = sleeps
        self._selector = selectors.DefaultSelector()
        self._sockets: list[socket.socket] = []
        self._received: dict[socket.socket, bytes] = {}
        for _ in range(clients):
            client = socket.create_connection(("127.0.0.1", port), _PATIENCE)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(client, selectors.EVENT_READ)
            self._sockets.append(client)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect all."""
        for client in self._sockets:
            client.close()
        self._selector.close()

    def send(self, request: bytes) -> None:
        """Send a request on each connection."""
        self.send_each(lambda: request)

    def send_each(self, make: Callable[[], bytes]) -> None:
        """Send a request of its own on each connection."""
        for client in self._sockets:
            client.sendall(make())

    def take(self, answers: int, follow: Next) -> None:
        """Wait for a number of answers; follow up each with another request, if there is one."""
        while answers:
            ready = await_events(self._selector.select, _PATIENCE, sleeps=self._sleeps)
            if not ready:
                raise Trouble(f"{answers} answers did not come")
            for key, _ in ready:
                client = key.fileobj
                assert isinstance(client, socket.socket)
                answer = self._read(client)
                if answer is None:
                    continue
                answers -= 1
                request = follow(*answer)
                if request is not None:
                    client.sendall(request)

    def _read(self, client: socket.socket) -> tuple[bytes, bytes] | None:
        """Return the head and the body of an answer that is complete."""
        received = client.recv(1 << 17)
        if not received:
            raise Trouble("a connection was closed")
        received = self._received.pop(client, b"") + received
        head, end, body = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if end and (length is None or not head.startswith(b"HTTP/1.1 20")):
            raise Trouble(f"unexpected answer: {received[:300]!r}")
        if not end or length is None or len(body) < int(length[1]):
            self._received[client] = received
            return None
        return head, body


def make_request(line: str, *lines: str, body: bytes = b"") -> bytes:
    """Return a request, with the headers that every client sends."""
    if body:
        lines = (*lines, f"Content-Length: {len(body)}")
    more = "".join(f"{one}\r\n" for one in lines)
    head = f"{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nUser-Agent: bench\r\nAccept: */*\r\n{more}\r\n"
    return head.encode() + body
