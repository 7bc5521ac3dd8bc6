"""What the ways to listen to a topic cost, in bytes and requests: a transport that counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakSet

from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

# What a page may call what it does: plain polling, the three transports, or whichever of them.
WAYS = ("poll", "longpoll", "sse", "websocket", "any")


@dataclass
class Tally:
    """What one way to listen has cost, in bytes as HTTP and WebSocket have them."""

    requests: int = 0
    received: int = 0
    sent: int = 0


@dataclass(eq=False)
class Ledger:
    """One topic of the playground: the cost of each way, and who is connected now."""

    tallies: dict[str, Tally] = field(default_factory=lambda: {way: Tally() for way in WAYS})
    #: The connections that are metered, to be cut.
    meters: WeakSet[Meter] = field(default_factory=WeakSet)
    #: Until when nobody gets through, in seconds of the daemon's clock.
    cut_until: float = 0.0


class Metered(Resource):
    """The door ``/topics/<topic>`` behind a meter."""

    isLeaf = True

    def __init__(self, topic: str, ledger: Ledger, tally: Tally, now: Callable[[], float]) -> None:
        super().__init__()
        self._topic = topic
        self._ledger = ledger
        self._tally = tally
        self._now = now

    def render(self, request: Any) -> int:
        """Count what came, let the topic's own door answer, and count what goes."""
        channel = request.channel
        if self._now() < self._ledger.cut_until:
            channel.transport.abortConnection()
            return NOT_DONE_YET
        request.path = f"/topics/{self._topic}".encode()
        request.uri = b"?".join([request.path, *request.uri.split(b"?", 1)[1:]])
        self._tally.requests += 1
        self._tally.received += _head_size(request)
        wire = channel.transport
        meter = Meter(wire, self._tally)
        self._ledger.meters.add(meter)

        def over(_: object) -> None:
            self._ledger.meters.discard(meter)
            channel.transport = wire

        request.notifyFinish().addBoth(over)
        channel.transport = meter
        request.render(channel.site.getResourceFor(request))
        return NOT_DONE_YET


class Meter:
    """A transport that counts what is written, and is else the one behind it."""

    def __init__(self, transport: Any, tally: Tally) -> None:
        self.__dict__.update(_transport=transport, _tally=tally)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The class of the one behind: a WebSocket takes a TLS connection over differently."""
        return type(self._transport)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_transport"], name)

    def __setattr__(self, name: str, value: object) -> None:
        setattr(self._transport, name, value)

    def write(self, data: bytes) -> None:
        """Write and count."""
        self._tally.sent += len(data)
        self._transport.write(data)

    def writeSequence(self, pieces: list[bytes]) -> None:
        """Write and count."""
        self._tally.sent += sum(map(len, pieces))
        self._transport.writeSequence(pieces)

    def writeSomeData(self, data: bytes) -> Any:
        """Write past the transport's buffer, and count what the kernel has taken."""
        taken = self._transport.writeSomeData(data)
        if isinstance(taken, int) and taken > 0:  # Else it is what went wrong.
            self._tally.sent += taken
        return taken


def _head_size(request: Any) -> int:
    """How many bytes the head of a request has on the wire (RFC 9112 §3, §5)."""
    line = len(request.method) + len(request.uri) + len(request.clientproto) + 4
    headers = request.requestHeaders.getAllRawHeaders()
    return line + sum(len(name) + len(v) + 4 for name, values in headers for v in values) + 2
