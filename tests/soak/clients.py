"""The clients of a soak test: one class for each transport, and what all of them do.

A client subscribes, stays for a while, leaves in one of several ways or stops reading, and comes
back, to either node, from the position that it has.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from random import Random
from typing import Any, ClassVar

from tests.soak.ledger import BlindPosition, Faults, Ledger, Position
from tests.soak.payload import sent_at
from tests.soak.wire import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    AnswerReader,
    EventReader,
    FrameReader,
    HeadReader,
    close_frame,
    frame,
    get,
    get_stream,
    upgrade,
)

# Close codes that a subscriber may get if it did not read, or if Redis was away or lost its data.
_CUTS = {1006, 1013}

# What stands for a code when an event stream ends in order.
_STREAM_ENDED = 1013

# Seconds after connecting in which a subscription may not have begun.
_SETTLED = 2.0

# When a client has stalled that does not read at the moment: later than any time.
_NOW = 1e18

# The kernel's buffer of a client that stops reading, in bytes.
_SMALL_BUFFER = 16 * 1024


class Way(Enum):
    """How a connection ends: an exit, or reading nothing for a while."""

    CLOSE = "closed"
    SHUT = "half-closed"
    RESET = "reset"
    STALL = "stalled"


# How often each is chosen.
_WEIGHTS = {Way.CLOSE: 5, Way.SHUT: 2, Way.RESET: 2, Way.STALL: 1}


@dataclass
class Habits:
    """How long clients do what, in seconds.

    :param life: the mean time until a connection ends, or stalls.
    :param away: the mean time until a client comes back.
    :param stall: the longest time without reading.
    :param patience: until something is late.
    """

    life: float
    away: float
    stall: float
    patience: float


@dataclass
class Tally:
    """What all clients together have seen."""

    opened: Counter[str] = field(default_factory=Counter)
    ways: Counter[str] = field(default_factory=Counter)
    cuts: Counter[str] = field(default_factory=Counter)
    delivered: Counter[str] = field(default_factory=Counter)
    conversations: int = 0
    #: Delays of live publications in seconds, rounded to milliseconds.
    delays: Counter[float] = field(default_factory=Counter)


@dataclass(frozen=True)
class World:
    """What clients share.

    :param ports: the public ports of the nodes.
    """

    ports: Sequence[int]
    ledger: Ledger
    habits: Habits
    tally: Tally
    random: Random

    @property
    def faults(self) -> Faults:
        """What went wrong."""
        return self.ledger.faults


class Client(asyncio.Protocol):
    """A client of any kind, over one connection after the other.

    :param number: tells it from others.
    :param stays: whether it leaves only when the daemon closes its connection.
    """

    kind: ClassVar[str]
    #: Whether it may stop reading.
    stalls: ClassVar[bool] = True

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        self.world = world
        self.name = f"{self.kind} {number}"
        self.topics = topics
        self._stays = stays
        self._transport: asyncio.Transport | None = None
        self._head: HeadReader | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopped = False
        # How it is leaving, if it is; the code of the Close frame that has come.
        self._way: Way | None = None
        self._code: int | None = None
        self._since = 0.0
        self._stalled = -1e9

    # For the test

    def start(self, after: float = 0.0) -> None:
        """Connect after some seconds."""
        if not self._stopped:
            self._set_timer(after, self._connect)

    def stop(self) -> None:
        """Leave for good."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self.connected:
            self._leave(Way.CLOSE)

    @property
    def gone(self) -> bool:
        """Whether it has stopped, and has no connection."""
        return self._stopped and self._transport is None and self._task is None

    @property
    def connected(self) -> bool:
        """Whether it has a connection, and is not leaving it."""
        return self._transport is not None and self._way is None

    def check(self) -> None:
        """Add a fault for each topic whose publications are late."""
        ledger, now = self.world.ledger, self.world.ledger.now()
        since = max(self._since, self._calm_since)
        if not self.connected or now - since < self._patience:
            return
        for position in self.positions():
            if position.behind(since + _SETTLED):
                self._fault(
                    f"{position.topic}: is at {position.id}, and should have had "
                    f"{ledger.due(position.topic)} {self._patience:g} s ago"
                )
                self._since = now

    def complete(self) -> bool:
        """Whether it has everything, if it is connected and reads."""
        return (
            not self.connected
            or self._stalled == _NOW
            or not any(
                position.epoch and position.id != _join(self.world.ledger.last(position.topic))
                for position in self.positions()
            )
        )

    # For each kind

    def positions(self) -> Iterator[Position]:
        """Yield its position in each of its topics."""
        return iter(())

    def request(self) -> bytes:
        """Return what it sends first on a new connection."""
        raise NotImplementedError

    def goodbye(self) -> bytes | None:
        """Return what it sends to end its connection, if anything."""
        return None

    def answered(self, status: int, head: bytes) -> bool:
        """Note the head of the answer; return whether it is as it should be."""
        return status == 200

    def heard(self, data: bytes) -> None:
        """Read what has come behind the head."""
        raise NotImplementedError

    # For asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the request, and plan the end of this connection."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._way, self._code, self._head = None, None, HeadReader()
        self._since = self.world.ledger.now()
        self.world.tally.opened[self.kind] += 1
        transport.write(self.request())
        if self._stopped:
            self._leave(Way.RESET)
        elif not self._stays:
            self._set_timer(self._about(self.world.habits.life), self._end)

    def data_received(self, data: bytes) -> None:
        """Read what has come."""
        if self._head is not None:
            found = self._head.feed(data)
            if found is None:
                return
            status, head, data = found
            self._head = None
            if not self.answered(status, head):
                self._refused(status)
                return
        if data:
            self.heard(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Judge the end of this connection, and come back."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._stalled = min(self._stalled, self.world.ledger.now())
        if self._way is None and not self._stopped:
            self._was_cut("" if exc is None else type(exc).__name__)
        self.start(self._about(self.world.habits.away))

    # Private

    def _connect(self) -> None:
        self._timer = None
        self._task = asyncio.get_running_loop().create_task(self._open())

    async def _open(self) -> None:
        own = socket.socket()
        own.setblocking(False)
        if self.stalls:
            own.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _SMALL_BUFFER)
        loop = asyncio.get_running_loop()
        try:
            await loop.sock_connect(own, ("127.0.0.1", self.world.random.choice(self.world.ports)))
            await loop.create_connection(lambda: self, sock=own)
        except OSError as error:
            own.close()
            self._fault(f"could not connect: {error}")
            self.start(self._about(self.world.habits.away))
        finally:
            self._task = None

    def _end(self) -> None:
        """End the connection in one of the ways, or stall."""
        ways = [way for way in Way if self.stalls or way is not Way.STALL]
        way = self.world.random.choices(ways, [_WEIGHTS[one] for one in ways])[0]
        self.world.tally.ways[way.value] += 1
        if way is Way.STALL:
            self._stall()
        else:
            self._leave(way)

    def _stall(self) -> None:
        assert self._transport is not None
        self._transport.pause_reading()
        self._stalled = _NOW
        self._set_timer(self.world.random.uniform(0.2, 1) * self.world.habits.stall, self._go_on)

    def _go_on(self) -> None:
        assert self._transport is not None
        self._stalled = self.world.ledger.now()
        self._transport.resume_reading()
        self._set_timer(self._about(self.world.habits.life), self._end)

    def _leave(self, way: Way) -> None:
        transport, self._way = self._transport, way
        assert transport is not None
        if self._timer is not None:
            self._timer.cancel()
        if way is Way.RESET or transport.is_closing():
            own = transport.get_extra_info("socket")
            with suppress(OSError):
                own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            transport.abort()
            return
        transport.resume_reading()
        words = self.goodbye()
        if way is Way.SHUT:
            with suppress(OSError):  # The daemon has just cut it.
                transport.write_eof()
        elif words is not None:
            transport.write(words)
        else:
            transport.close()
        self._set_timer(self.world.habits.patience, self._give_up)

    def _give_up(self) -> None:
        """Cut a connection that the daemon should have closed by now."""
        assert self._transport is not None
        if not self._excused(self.world.ledger.disturbed):
            self._fault(f"its connection, {self._way}, was not closed by the daemon")
        self._transport.abort()

    def _was_cut(self, error: str) -> None:
        """Judge a connection that the daemon has ended."""
        code = 1006 if self._code is None else self._code
        self.world.tally.cuts[f"{self.kind} {code}"] += 1
        if code not in _CUTS:
            self._fault(f"was closed with {code} {error}")
        elif not self._excused(self._calm_since):
            self._fault(f"was cut with {code} {error} without a reason")

    def _refused(self, status: int) -> None:
        """Judge a request that the daemon has refused, and come back later."""
        self.world.tally.cuts[f"{self.kind} {status}"] += 1
        if status != 503 or not self._excused(self.world.ledger.disturbed):
            self._fault(f"was answered {status}")
        if self._transport is not None:
            self._way = Way.CLOSE
            self._transport.close()

    @property
    def _calm_since(self) -> float:
        """When it last had a reason to be late."""
        ledger = self.world.ledger
        return max(self._stalled, ledger.disturbed, ledger.wiped)

    @property
    def _patience(self) -> float:
        return self.world.habits.patience

    def _excused(self, since: float) -> bool:
        return self.world.ledger.now() - since < self._patience

    def _about(self, mean: float) -> float:
        return min(self.world.random.expovariate(1 / mean), 5 * mean)

    def _set_timer(self, after: float, call: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(after, call)

    def _send(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None and self._way is not Way.SHUT and not transport.is_closing():
            transport.write(data)

    def _delivered(self, data: str) -> None:
        tally, sent = self.world.tally, sent_at(data)
        tally.delivered[self.kind] += 1
        if sent is not None and sent >= self._since and self._stalled < self._since:
            tally.delays[round(self.world.ledger.now() - sent, 3)] += 1

    def _fault(self, words: str) -> None:
        self.world.faults.add(f"{self.name}: {words}")


def _join(place: tuple[str, int] | None) -> str | None:
    return None if place is None else f"{place[0]}:{place[1]}"


class _WebSocketClient(Client):
    """What all WebSockets do."""

    v1: ClassVar[bool] = True

    def path(self) -> str:
        """Return path and query."""
        raise NotImplementedError

    def message(self, data: str) -> None:
        """Note a message."""
        raise NotImplementedError

    def request(self) -> bytes:
        self._frames = FrameReader()
        return upgrade(self.path(), v1=self.v1)

    def goodbye(self) -> bytes | None:
        return close_frame(1000)

    def answered(self, status: int, head: bytes) -> bool:
        return status == 101

    def heard(self, data: bytes) -> None:
        for opcode, payload in self._frames.feed(data):
            if opcode == PING:
                self._send(frame(PONG, payload))
            elif opcode == CLOSE:
                self._code = int.from_bytes(payload[:2], "big")
                if self._way is None:
                    self._send(frame(CLOSE, payload[:2]))
            else:
                self.message(payload.decode())


class V1Client(_WebSocketClient):
    """A WebSocket with pushd.v1: each message says its id."""

    kind = "websocket v1"

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._position = Position(world.ledger, topics[0], self.name)
        self._asked: str | None = None

    def positions(self) -> Iterator[Position]:
        yield self._position

    def path(self) -> str:
        self._asked = self._position.id
        return _with_after(f"/topics/{self._position.topic}", self._asked)

    def message(self, data: str) -> None:
        value = json.loads(data)
        if "subscribed" in value:
            self._position.began(value["id"], value["recovered"], self._asked is not None)
        else:
            self._position.got(value["id"], value["data"])
            self._delivered(value["data"])


class PlainClient(_WebSocketClient):
    """A WebSocket without a subprotocol: its messages are data and nothing else."""

    kind = "websocket"
    v1 = False

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._position = BlindPosition(world.ledger, topics[0], self.name)

    def positions(self) -> Iterator[Position]:
        yield self._position

    def path(self) -> str:
        asked = self._position.id
        self._position.connect(asked is not None)
        return _with_after(f"/topics/{self._position.topic}", asked)

    def message(self, data: str) -> None:
        self._position.got_data(data)
        self._delivered(data)


class _EventStreamClient(Client):
    """What all event streams do."""

    def path(self) -> str:
        """Return path and query."""
        raise NotImplementedError

    def event(self, fields: dict[str, str]) -> None:
        """Note an event that has data."""
        raise NotImplementedError

    def request(self) -> bytes:
        self._events = EventReader()
        return get_stream(self.path())

    def heard(self, data: bytes) -> None:
        for fields in self._events.feed(data):
            if "data" in fields:
                self.event(fields)
        if self._events.ended and self._transport is not None:
            # The daemon keeps the connection for another request.
            self._code = _STREAM_ENDED
            self._transport.close()


class StreamClient(_EventStreamClient):
    """An event stream."""

    kind = "sse"

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._position = Position(world.ledger, topics[0], self.name)
        self._asked: str | None = None

    def positions(self) -> Iterator[Position]:
        yield self._position

    def path(self) -> str:
        self._asked = self._position.id
        return _with_after(f"/topics/{self._position.topic}", self._asked)

    def event(self, fields: dict[str, str]) -> None:
        if fields.get("event") == "subscribed":
            value = json.loads(fields["data"])
            self._position.began(value["id"], value["recovered"], self._asked is not None)
        else:
            self._position.got(fields["id"], fields["data"])
            self._delivered(fields["data"])


class PollClient(Client):
    """Long polls, one after the other on one connection."""

    kind = "long poll"
    stalls = False

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._position = Position(world.ledger, topics[0], self.name)

    def positions(self) -> Iterator[Position]:
        yield self._position

    def request(self) -> bytes:
        self._answers, self._first = AnswerReader(), True
        return self._poll()

    def data_received(self, data: bytes) -> None:
        """Read answers, and poll again after each."""
        for status, body in self._answers.feed(data):
            if status != 200:
                self._refused(status)
            elif self._way is None:
                self._take(json.loads(body))
                self._send(self._poll())

    def _poll(self) -> bytes:
        self._asked = self._position.id
        return get(_with_after(f"/topics/{self._position.topic}?wait=25", self._asked))

    def _take(self, answer: Any) -> None:
        position, publications = self._position, answer["publications"]
        if not answer["recovered"]:
            epoch, _, offset = answer["id"].rpartition(":")
            first = f"{epoch}:{int(offset) - len(publications)}"
            position.began(first, False, self._asked is not None)
        elif self._first:
            position.resumed += 1
        self._first = False
        for one in publications:
            position.got(one["id"], one["data"])
            self._delivered(one["data"])
        if answer["id"] != position.id:
            self._fault(f"{position.topic}: a poll ends at {answer['id']}, not at {position.id}")


class _ManyTopics(Client):
    """What all clients with many topics on one connection do."""

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._positions = {
            topic: Position(world.ledger, topic, self.name) for topic in dict.fromkeys(topics)
        }
        # Those that were known as it asked to resume.
        self._asked: set[str] = set()

    def positions(self) -> Iterator[Position]:
        yield from self._positions.values()

    def _query(self, cursor: str | None) -> str:
        self._asked = set(self._positions) if cursor is not None else set()
        query = "&".join(f"topic={topic}" for topic in self._positions)
        return f"{query}&after={cursor}" if cursor is not None else query

    def _take(self, value: Any) -> None:
        """Note a message or the data of an event."""
        if "subscribed" in value:
            topic = value["subscribed"]
            position = self._positions[topic]
            position.began(value["id"], value["recovered"], topic in self._asked)
        elif "topic" in value and "data" in value:
            self._positions[value["topic"]].got(value["id"], value["data"])
            self._delivered(value["data"])
        elif "unsubscribed" not in value:
            self._fault(f"was told {value}")


class ManyWebSocketClient(_ManyTopics, _WebSocketClient):
    """A WebSocket that subscribes to each topic by a message."""

    kind = "many websocket"

    def path(self) -> str:
        self._asked = {topic for topic, one in self._positions.items() if one.id is not None}
        return "/topics"

    def answered(self, status: int, head: bytes) -> bool:
        for topic, position in self._positions.items():
            after = {"after": position.id} if topic in self._asked else {}
            self._send(frame(TEXT, json.dumps({"subscribe": topic, **after}).encode()))
        return super().answered(status, head)

    def message(self, data: str) -> None:
        self._take(json.loads(data))


class ManyStreamClient(_ManyTopics, _EventStreamClient):
    """An event stream of many topics, which resumes by its cursor."""

    kind = "many sse"

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._cursor: str | None = None

    def path(self) -> str:
        return f"/topics?{self._query(self._cursor)}"

    def event(self, fields: dict[str, str]) -> None:
        self._cursor = fields.get("id", self._cursor)
        self._take(json.loads(fields["data"]))


class ManyPollClient(_ManyTopics):
    """Long polls of many topics, with a cursor."""

    kind = "many long poll"
    stalls = False

    def __init__(self, world: World, number: int, topics: Sequence[str], *, stays: bool) -> None:
        super().__init__(world, number, topics, stays=stays)
        self._cursor: str | None = None

    def request(self) -> bytes:
        self._answers, self._first = AnswerReader(), True
        return self._poll()

    def data_received(self, data: bytes) -> None:
        """Read answers, and poll again after each."""
        for status, body in self._answers.feed(data):
            if status != 200:
                self._refused(status)
            elif self._way is None:
                self._take_answer(json.loads(body))
                self._send(self._poll())

    def _poll(self) -> bytes:
        return get(f"/topics?{self._query(self._cursor)}&wait=25")

    def _take_answer(self, answer: Any) -> None:
        for topic, recovered in answer["recovered"].items():
            if recovered:
                self._positions[topic].resumed += self._first
            elif topic in self._asked:
                self._positions[topic].lost()
        for publication in answer["publications"]:
            self._take(publication)
        self._cursor, self._first = answer["id"], False


class DemoClient(_WebSocketClient):
    """A browser with the demo: ten pushes, half a second apart, and a Close."""

    kind = "demo"
    v1 = False
    stalls = False

    def path(self) -> str:
        self._got = 0
        return "/test/"

    def answered(self, status: int, head: bytes) -> bool:
        self._send(frame(TEXT, b'["1","2","3"]'))
        return super().answered(status, head)

    def message(self, data: str) -> None:
        if data != f"service message: {self._got}":
            self._fault(f"got {data!r} as push {self._got}")
        self._got += 1

    def _was_cut(self, error: str) -> None:
        if self._code == 1000 and self._got == 10:
            self.world.tally.conversations += 1
        else:
            self._fault(f"its conversation ended with {self._code} after {self._got} pushes")


class EchoClient(_WebSocketClient):
    """A client of a view that runs in a thread, and gives every message back."""

    kind = "thread"
    v1 = False
    stalls = False

    def path(self) -> str:
        self._number = 0
        return "/echo/"

    def answered(self, status: int, head: bytes) -> bool:
        self._speak(self._transport)
        return super().answered(status, head)

    def message(self, data: str) -> None:
        if data != f"{self.name} {self._number}":
            self._fault(f"got {data!r} as echo {self._number}")
        self._number += 1
        self.world.tally.conversations += 1
        loop = asyncio.get_running_loop()
        loop.call_later(self._about(1.0), self._speak, self._transport)

    def _speak(self, transport: asyncio.Transport | None) -> None:
        """Send the next message, if the connection is still the same."""
        if self._way is None and transport is self._transport:
            self._send(frame(TEXT, f"{self.name} {self._number}".encode()))


def _with_after(path: str, id: str | None) -> str:
    return path if id is None else f"{path}{'&' if '?' in path else '?'}after={id}"


#: How many of a thousand clients are of each kind.
MIX: dict[type[Client], int] = {
    PlainClient: 200,
    V1Client: 240,
    StreamClient: 190,
    PollClient: 180,
    ManyWebSocketClient: 70,
    ManyStreamClient: 50,
    ManyPollClient: 30,
    DemoClient: 30,
    EchoClient: 10,
}
