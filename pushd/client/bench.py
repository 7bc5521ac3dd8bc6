"""``pushdctl bench``: a small load through a running daemon, and what was measured."""

from __future__ import annotations

import json
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from math import ceil
from selectors import EVENT_READ, BaseSelector
from ssl import SSLWantReadError

from pushd.client.client import topic_path, write_publication
from pushd.client.http import HttpClient, read_refusal
from pushd.errors import PushdError
from pushd.protocols.websocket.frames import CLOSE, PING, PONG, TEXT, frame_length

#: Seconds without any delivery after which those that are missing count as lost.
PATIENCE = 10.0

# Bytes that are read from a socket at once: the most that a record of TLS holds, and more.
_AT_ONCE = 1 << 16

# Seconds that each step of a handshake and of a request may take.
_TIMEOUT = 10.0

# The mask of our own frames. It leaves a payload as it is: masks keep pages from attacking proxies
# (RFC 6455 §10.3), and this is no page.
_MASK = bytes(4)

# The payload of our Close: 1000 (RFC 6455 §7.4.1).
_NORMAL = (1000).to_bytes(2, "big")


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much is published, and to how many.

    :param size: bytes of each publication.
    :param rate: publications per second; None to publish each one once all subscribers have the one
        before it.
    """

    topic: str
    subscribers: int
    publications: int
    size: int
    rate: int | None


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured.

    :param deliveries: how many deliveries there were, over all subscribers.
    :param lost: how many did not come.
    :param seconds: from the first request to the last delivery.
    :param latencies: seconds from the time at which a publication was due to each of its
        deliveries, in order.
    :param busy: the share of these seconds in which this process used a processor, from 0 to 1.
    """

    deliveries: int
    lost: int
    seconds: float
    latencies: list[float]
    busy: float

    def describe(self, load: Load) -> dict[str, object]:
        """Return it for programs; latencies in milliseconds."""
        names = ("p50", "p95", "p99", "max")
        return {
            "subscribers": load.subscribers,
            "publications": load.publications,
            "size": load.size,
            "rate": load.rate,
            "deliveries": self.deliveries,
            "lost": self.lost,
            "seconds": round(self.seconds, 3),
            "per_second": round(self.per_second),
            "latency_ms": dict(zip(names, self._milliseconds(), strict=True)),
            "busy": round(self.busy, 2),
        }

    def lines(self, load: Load) -> Iterator[str]:
        """Write it for people, without wrapping lines."""
        pace = (
            "each one when all have the one before it"
            if load.rate is None
            else f"{load.rate} per second"
        )
        yield (
            f"{load.subscribers} subscribers over WebSocket, {load.publications} publications of "
            f"{load.size} bytes, {pace}"
        )
        yield (
            f"deliveries  {self.deliveries} in {self.seconds:.2f} s: {self.per_second:.0f} per "
            f"second, {self.lost or 'none'} lost"
        )
        half, most, nearly_all, longest = self._milliseconds()
        yield f"latency     p50 {half} ms, p95 {most} ms, p99 {nearly_all} ms, max {longest} ms"
        yield (
            f"pushdctl    used {self.busy:.2f} of a processor; the time that it takes to read is "
            "part of each figure"
        )

    @property
    def per_second(self) -> float:
        """Deliveries per second, over all subscribers."""
        return self.deliveries / self.seconds if self.seconds else 0.0

    def _milliseconds(self) -> list[float]:
        return [round(self.percentile(share) * 1000, 2) for share in (0.5, 0.95, 0.99, 1)]

    def percentile(self, share: float) -> float:
        """Return the latency that a share of the deliveries did not exceed: 0.99 for p99.

        It is 0 without any delivery.
        """
        if not self.latencies:
            return 0.0
        return self.latencies[ceil(share * len(self.latencies)) - 1]


class Bench:
    """Subscribes over WebSockets, publishes over HTTP, and measures the time in between.

    All of it is done in one thread, so that a late delivery is not one that waited for the
    interpreter.

    :param public: the port to subscribe at.
    :param control: the port to publish at.
    :param monotonic: seconds of a clock that never goes back.
    :param processor: seconds for which this process has used a processor.
    """

    def __init__(
        self,
        load: Load,
        *,
        public: HttpClient,
        control: HttpClient,
        selector: BaseSelector,
        monotonic: Callable[[], float],
        processor: Callable[[], float],
    ) -> None:
        self._load = load
        self._public = public
        self._control = control
        self._selector = selector
        self._monotonic = monotonic
        self._processor = processor
        # When each publication was due.
        self._due: list[float] = []
        self._latencies: list[float] = []
        self._last = 0.0

    def run(self) -> Result:
        """Measure. Raises Refused and Unreachable, and PushdError if a subscriber is closed."""
        load = self._load
        with ExitStack() as stack:
            stack.callback(self._selector.close)
            for _ in range(load.subscribers):
                connection = stack.enter_context(self._public.connection(_TIMEOUT))
                subscriber = _Subscriber(self._public, connection, load.topic)
                stack.callback(subscriber.close)
                self._selector.register(subscriber.sock, EVENT_READ, subscriber)
            connection = stack.enter_context(self._control.connection(_TIMEOUT))
            publisher = _Publisher(self._control, connection, load)
            self._selector.register(publisher.sock, EVENT_READ, publisher)
            begin, used = self._monotonic(), self._processor()
            self._exchange(publisher, begin)
            seconds, busy = self._last - begin, self._processor() - used
        return Result(
            deliveries=len(self._latencies),
            lost=load.subscribers * load.publications - len(self._latencies),
            seconds=seconds,
            latencies=sorted(self._latencies),
            busy=busy / seconds if seconds else 0.0,
        )

    def _exchange(self, publisher: _Publisher, begin: float) -> None:
        """Publish, and take what is delivered, until all of it is or nothing more comes."""
        expected = self._load.subscribers * self._load.publications
        self._last = begin
        while len(self._latencies) < expected:
            now = self._monotonic()
            due = self._next_due(begin, now)
            if due is not None and due <= now and not publisher.is_waiting:
                self._due.append(due)
                publisher.publish(len(self._due) - 1)
                continue
            until = self._last + PATIENCE
            if due is not None and not publisher.is_waiting:
                until = due
            elif now >= until:
                return
            for key, _ in self._selector.select(max(0.0, until - now)):
                if key.data is publisher:
                    publisher.read_answer()
                else:
                    self._read(key.data)

    def _next_due(self, begin: float, now: float) -> float | None:
        """Return when the next publication is due; None if that is not known yet, or was the last.

        At a rate, that does not depend on how long the daemon takes.
        """
        number = len(self._due)
        if number == self._load.publications:
            return None
        if self._load.rate is not None:
            return begin + number / self._load.rate
        return now if len(self._latencies) == number * self._load.subscribers else None

    def _read(self, subscriber: _Subscriber) -> None:
        for number in subscriber.read():
            self._last = self._monotonic()
            self._latencies.append(self._last - self._due[number])


class _Subscriber:
    """A subscriber over a WebSocket.

    :param connection: not open yet; it is closed by its owner.
    """

    def __init__(self, public: HttpClient, connection: HTTPConnection, topic: str) -> None:
        self._public = public
        self._buffer = b""
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": b64encode(os.urandom(16)).decode(),
            "Sec-WebSocket-Protocol": "pushd.v1",
        }
        public.send(connection, "GET", topic_path(topic), headers=headers)
        #: The socket.
        self.sock = connection.sock
        self._read_head()
        while "subscribed" not in next(self._messages(), ""):
            self._receive()
        self.sock.setblocking(False)
        # The number of the publication that comes next.
        self._next = 0

    def read(self) -> Iterator[int]:
        """Read what has arrived, and yield the number of each publication in it.

        Raises PushdError if the subscriber is closed, or if a publication is not the next one.
        """
        try:
            self._receive()
        except (BlockingIOError, SSLWantReadError):
            return
        except OSError as error:
            raise PushdError(f"a subscriber was disconnected: {error}") from None
        for message in self._messages():
            value = json.loads(message)
            if "data" not in value:
                continue  # That its token will expire, or what later versions say.
            number = int(value["data"].partition(" ")[0])
            if number != self._next:
                raise PushdError(f"a subscriber got publication {number}, not {self._next}")
            self._next += 1
            yield number

    def close(self) -> None:
        """Say that this is the end, if that is still possible."""
        with suppress(OSError):
            self._send(CLOSE, _NORMAL)

    def _read_head(self) -> None:
        """Read the answer to the handshake. Raises Refused."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status, _, phrase = head.partition(b"\r\n")[0].decode().partition(" ")[2].partition(" ")
        if status != "101":
            raise read_refusal(int(status), phrase, None, self._buffer)

    def _receive(self) -> None:
        data = self.sock.recv(_AT_ONCE)
        # TLS may have decrypted more than it returns, of which a selector knows nothing.
        while data and getattr(self.sock, "pending", int)():
            data += self.sock.recv(_AT_ONCE)
        if not data:
            raise PushdError("a subscriber was disconnected")
        self._buffer += data

    def _messages(self) -> Iterator[str]:
        """Yield the messages in the buffer. Raises PushdError for a Close."""
        while 0 < (size := frame_length(self._buffer)) <= len(self._buffer):
            frame, self._buffer = self._buffer[:size], self._buffer[size:]
            # The length that follows has 7, 16 or 64 bits (RFC 6455 §5.2).
            payload = frame[{126: 4, 127: 10}.get(frame[1], 2) :]
            if frame[0] == TEXT:
                yield payload.decode()
            elif frame[0] == PING:
                self._send(PONG, payload)
            else:  # A Close: pushd sends nothing else here.
                code, reason = int.from_bytes(payload[:2], "big"), payload[2:].decode()
                raise PushdError(f"a subscriber was closed: {code} {reason}")

    def _send(self, kind: int, payload: bytes) -> None:
        self.sock.sendall(bytes((kind, 0x80 | len(payload))) + _MASK + payload)


class _Publisher:
    """Publishes over a connection that is kept.

    :param connection: not open yet; it is closed by its owner.
    """

    def __init__(self, control: HttpClient, connection: HTTPConnection, load: Load) -> None:
        self._control = control
        self._connection = connection
        self._load = load
        connection.connect()
        #: The socket.
        self.sock = connection.sock
        #: Whether a request is not answered yet.
        self.is_waiting = False

    def publish(self, number: int) -> None:
        """Send the request that publishes a number, with as many dots as the size demands."""
        data = f"{number} ".ljust(self._load.size, ".")
        path, query, body, headers, _ = write_publication(self._load.topic, data, None, None, {})
        self._control.send(self._connection, "POST", path, query, body, headers)
        self.is_waiting = True

    def read_answer(self) -> None:
        """Read the answer. Raises Refused."""
        self._control.receive(self._connection).read()
        self.is_waiting = False
