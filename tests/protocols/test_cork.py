"""The cork: small writes are held, and let out together in their order."""

from __future__ import annotations

import socket
from collections.abc import Callable
from inspect import stack
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import NORMAL
from pushd.access.limits import Limits
from pushd.protocols.cork import Cork
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.twisted_internals import unsent
from pushd.schedule.ticks import PushSchedule
from pushd.testing import Daemon
from pushd.views.decorators import require_websocket
from pushd.views.request import Request
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.peer import TEXT, close_frame, frame, handshake, read_frames
from tests.support.recording_socket import RecordingSocket, SocketConnection, open_websocket

# The flag of a last write; and how an OrderedRecordingSocket records that it was closed.
_MORE = socket.MSG_MORE
_END = b"the end"


class OrderedRecordingSocket(RecordingSocket):
    """A socket that records its system calls in one list with others."""

    def __init__(self, name: str, calls: list[tuple[str, bytes, int]]) -> None:
        super().__init__()
        self._name = name
        self._calls = calls

    def send(self, data: bytes, flags: int = 0) -> int:
        """Take as many bytes as there is room for."""
        taken = super().send(data, flags)
        self._calls.append((self._name, bytes(data[:taken]), flags))
        return taken

    def shutdown(self, how: int) -> None:
        """Record that the connection was closed."""
        self._calls.append((self._name, _END, 0))


class RecordingProtocol(Protocol):
    """The protocol of one connection, and the listener of its writer."""

    fake_socket: OrderedRecordingSocket
    transport: Any
    write: Callable[[bytes], object]

    def __init__(self) -> None:
        self.lost: list[Failure] = []
        self.deferred = 0
        self.then: Callable[[], object] = lambda: None

    def writing_deferred(self) -> None:
        """Count the call, and do what the test wants."""
        self.deferred += 1
        self.then()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Record the reason, and do what the test wants."""
        self.lost.append(reason)
        self.then()


class CorkedConnections:
    """Connections that write through one cork, and the system calls that this makes."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.cork = Cork()
        self.calls: list[tuple[str, bytes, int]] = []

    def connect(self, name: str) -> RecordingProtocol:
        """Make a connection, named for the records."""
        protocol = RecordingProtocol()
        protocol.fake_socket = OrderedRecordingSocket(name, self.calls)
        fake_socket: Any = protocol.fake_socket
        protocol.transport = Connection(fake_socket, protocol, self.reactor)
        protocol.transport.connected, protocol.transport.getPeer = True, lambda: name
        protocol.write = self.cork.writer(protocol.transport, protocol).write
        return protocol


class CorkTests(SynchronousTestCase):
    """Two connections, and the system calls that they make."""

    def setUp(self) -> None:
        """Make the connections."""
        self.patch(FAST_PATHS, "enabled", True)
        self.connections = CorkedConnections()
        self.cork, self.calls = self.connections.cork, self.connections.calls
        self.one, self.two = self.connections.connect("one"), self.connections.connect("two")

    def test_at_once(self) -> None:
        """Outside of ``with``, writes and closes are done at once."""
        self.one.write(b"a")
        with self.cork:
            pass
        self.one.write(b"b")
        self.cork.lose(self.one.transport)
        self.assertEqual(self.calls, [("one", b"a", 0), ("one", b"b", 0), ("one", _END, 0)])

    def test_together(self) -> None:
        """Held writes leave in their order at the end of the outermost ``with``."""
        with self.cork:
            self.one.write(b"a")
            with self.cork:
                self.two.write(b"b")
            self.one.write(b"c")
            self.assertEqual(self.calls, [])
        self.assertEqual(self.calls, [("one", b"a", 0), ("two", b"b", 0), ("one", b"c", 0)])

    def test_exception(self) -> None:
        """Held writes leave if the block raises, and nothing is held after it."""

        def interrupt() -> None:
            with self.cork:
                self.one.write(b"a")
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, interrupt)
        self.two.write(b"b")
        self.assertEqual(self.calls, [("one", b"a", 0), ("two", b"b", 0)])

    def test_many(self) -> None:
        """At most 31 writes are held: the 32nd lets all of them out."""
        with self.cork:
            for _ in range(31 // 2):
                self.one.write(b"a")
                self.two.write(b"b")
            self.one.write(b"a")
            self.assertEqual(self.calls, [])
            self.two.write(b"last")
            self.assertEqual(len(self.calls), 32)

    def test_in_a_row(self) -> None:
        """What one connection writes in a row is one write, unless it is long or was the last."""
        with self.cork:
            self.one.write(b"a")
            self.one.write(b"b")
            self.two.write(b"c")
            self.one.write(b"x" * 5000)
        self.assertEqual([len(data) for _, data, _ in self.calls], [2, 1, 5000])
        self.calls.clear()
        with self.cork:
            self.one.write(b"a")
            self.one.write(b"x" * 20_000)
            self.one.write(b"b")
            self.cork.lose(self.one.transport)
            self.one.write(b"too late")
        self.assertEqual([len(data) for _, data, _ in self.calls[:3]], [1, 20_000, 1])

    def test_much(self) -> None:
        """A write of more than 4096 bytes is not held, and lets out what was written before it."""
        with self.cork:
            self.one.write(b"short")
            self.two.write(b"x" * 4096)
            self.assertEqual(self.calls, [])
            self.one.write(b"x" * 4097)
            self.assertEqual([len(data) for _, data, _ in self.calls], [5, 4096, 4097])

    def test_last_write(self) -> None:
        """A held last write is flagged so that the close goes in its segment; closes come last."""
        with self.cork:
            self.one.write(b"bye")
            self.cork.lose(self.one.transport)
            self.assertEqual(self.one.lost, [])
            self.two.write(b"good")
            self.two.write(b"bye")
            self.cork.lose(self.one.transport)  # The second time, which has no effect.
            self.cork.lose(self.two.transport)
        self.assertEqual(
            self.calls,
            [
                ("one", b"bye", _MORE),
                ("two", b"goodbye", _MORE),
                ("one", _END, 0),
                ("two", _END, 0),
            ],
        )
        self.assertEqual((len(self.one.lost), len(self.two.lost)), (1, 1))

    def test_no_room(self) -> None:
        """A last write for which the kernel has no room is written later, before the close."""
        self.one.fake_socket.room = 2
        with self.cork:
            self.one.write(b"bye")
            self.cork.lose(self.one.transport)
        self.assertEqual((self.one.deferred, self.one.lost), (1, []))
        self.one.fake_socket.room = 100
        why = self.one.transport.doWrite()
        self.assertIsInstance(why, ConnectionDone)
        self.assertEqual(b"".join(self.one.fake_socket.given), b"bye")

    def test_gone(self) -> None:
        """A connection that is lost meanwhile is not written to, nor closed again."""
        with self.cork:
            self.one.write(b"a")
            self.cork.lose(self.one.transport)
            self.one.transport.connectionLost(Failure(ConnectionDone()))
            self.one.write(b"b")
            self.two.write(b"c")
        self.assertEqual(self.calls, [("one", _END, 0), ("two", b"c", 0)])
        self.assertEqual(len(self.one.lost), 1)

    def test_consequences(self) -> None:
        """A write that a lost connection causes leaves with the others, behind them."""
        self.one.then = lambda: self.two.write(b"one is gone")
        with self.cork:
            self.cork.lose(self.one.transport)
            self.two.write(b"before")
        self.assertEqual(
            self.calls, [("two", b"before", 0), ("one", _END, 0), ("two", b"one is gone", 0)]
        )

    def test_chain(self) -> None:
        """Connections that close each other are closed one by one, without recursion."""
        peers = [self.connections.connect(str(number)) for number in range(300)]
        depths: list[int] = []
        for peer, following in pairwise(peers):

            def leave(peer: RecordingProtocol = following) -> None:
                depths.append(len(stack()))
                peer.write(b"bye")
                self.cork.lose(peer.transport)

            peer.then = leave
        with self.cork:
            self.cork.lose(peers[0].transport)
        self.assertTrue(all(peer.lost for peer in peers))
        self.assertEqual(len(set(depths)), 1)

    def test_no_interruption(self) -> None:
        """A write never closes a connection, even if it lets out what is held."""
        self.one.then = lambda: self.two.write(b"one is gone")
        with self.cork:
            self.cork.lose(self.one.transport)
            for _ in range(32):
                self.two.write(b"before")
            self.two.write(b"x" * 4097)
            self.cork.flush()
            self.assertEqual(self.one.lost, [])
            self.two.write(b"last")
        self.assertEqual([data for _, data, _ in self.calls[-3:]], [b"last", _END, b"one is gone"])

    def test_interrupt(self) -> None:
        """KeyboardInterrupt is passed on, and nothing is held after it."""

        def interrupt() -> None:
            with self.cork:
                self.cork.lose(self.one.transport)

        def leave() -> None:
            raise KeyboardInterrupt

        self.one.then = leave
        self.assertRaises(KeyboardInterrupt, interrupt)
        self.two.write(b"at once")
        self.assertEqual(self.calls[-1], ("two", b"at once", 0))

    def test_failure(self) -> None:
        """A connection whose write fails is logged and dropped; the other is written to."""

        def fail() -> None:
            raise OSError("no room to watch another")

        self.one.fake_socket.room, self.one.then = 0, fail
        with self.cork:
            self.one.write(b"a")
            self.two.write(b"b")
        self.assertEqual(self.calls, [("two", b"b", 0)])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.one.then = lambda: None
        self.connections.reactor.advance(0)
        self.assertEqual(len(self.one.lost), 1)

    def test_failing_end(self) -> None:
        """A connection whose close fails is logged; the other is closed."""

        def fail() -> None:
            raise OSError("unexpected")

        self.one.then = fail
        with self.cork:
            self.cork.lose(self.one.transport)
            self.cork.lose(self.two.transport)
        self.assertEqual(len(self.two.lost), 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_sender(self) -> None:
        """``sender`` lets out what is held first; it is None while the transport has data."""
        with self.cork:
            self.one.write(b"a")
            send = self.cork.sender(self.one.transport)
            assert send is not None
            send(b"b")
            self.one.fake_socket.room = 0
            self.one.write(b"c")
            self.assertIsNone(self.cork.sender(self.one.transport))
        self.assertEqual(self.calls, [("one", b"a", 0), ("one", b"b", 0)])

    def test_off(self) -> None:
        """With ``--fast-paths off`` nothing is held: the transport writes and closes in its way."""
        self.patch(FAST_PATHS, "enabled", False)
        with self.cork:
            self.cork.writer(self.one.transport, self.one).write(b"a")
            self.assertEqual(unsent(self.one.transport), 1)
            self.assertIsNone(self.cork.sender(self.two.transport))
            self.cork.lose(self.one.transport)
            self.assertTrue(self.one.transport.disconnecting)
        self.assertEqual(self.calls, [])
        self.assertIsInstance(self.one.transport.doWrite(), ConnectionDone)
        self.assertEqual(self.calls, [("one", b"a", 0)])

    def test_others(self) -> None:
        """A transport of another kind writes and closes in its own way."""
        transport: Any = StringTransport()
        with self.cork:
            self.cork.writer(transport, self.one).write(b"a")
            self.assertEqual(transport.value(), b"a")
            self.cork.lose(transport)
            self.assertTrue(transport.disconnecting)


@NO_DEADLINE
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("write"), st.integers(0, 2), st.sampled_from([1, 5, 4097])),
            st.tuples(st.just("lose"), st.integers(0, 2), st.just(0)),
            st.tuples(st.just("room"), st.integers(0, 2), st.integers(0, 8)),
            st.tuples(st.just("straight"), st.integers(0, 2), st.integers(1, 3)),
            st.tuples(st.sampled_from(["hold", "let go"]), st.just(0), st.just(0)),
        ),
        max_size=60,
    )
)
def test_same_as_at_once(steps: list[tuple[str, int, int]]) -> None:
    """Whatever is held or fails to be taken, all data before a close arrives, in its order."""
    connections = CorkedConnections()
    peers = [connections.connect(name) for name in "abc"]
    sent, ended, depth, number = [b"", b"", b""], [False] * 3, 0, 0
    for what, which, size in steps:
        peer = peers[which]
        if what == "hold":
            connections.cork.__enter__()
            depth += 1
        elif what == "let go" and depth:
            connections.cork.__exit__(None, None, None)
            depth -= 1
        elif what == "room":
            peer.fake_socket.room = size
        elif what in ("write", "straight") and not ended[which]:
            number += 1
            data = (b"%d," % number) * size
            # As a fan-out group writes: past the cork, if nothing is buffered.
            send = connections.cork.sender(peer.transport) if what == "straight" else None
            sent[which] += data
            if send is None:
                peer.write(data)
                continue
            try:
                taken = send(data)
            except OSError:
                taken = 0
            if taken < len(data):
                peer.write(data[taken:])
        elif what == "lose" and not ended[which]:
            connections.cork.lose(peer.transport)
            ended[which] = True
    for _ in range(depth):
        connections.cork.__exit__(None, None, None)
    for peer, data, end in zip(peers, sent, ended, strict=True):
        peer.fake_socket.room = 1 << 30
        while peer.transport in connections.reactor.getWriters():
            why = peer.transport.doWrite()
            if why is not None:
                peer.transport.connectionLost(Failure(why))
        assert b"".join(peer.fake_socket.given) == data
        assert len(peer.lost) == end


@require_websocket
async def tick(request: Request) -> None:
    """Subscribe to a topic, and send ticks of its own every second."""
    websocket = request.websocket
    await websocket.subscribe("t")
    async for number in PushSchedule(request.clock, count=3, interval=1, delay=1):
        websocket.send(f"tick {number}")
        if request.path == "/last/" and number == 1:
            request.publish("t", "news")
            websocket.send("there was news")
    websocket.close(NORMAL.code)


@require_websocket
async def flood(request: Request) -> None:
    """Answer each message with 40 long ones."""
    async for _ in request.websocket:
        for _ in range(40):
            request.websocket.send("x" * 1000)


class ChatRoom:
    """A view that sends the other members a message when one has left."""

    def __init__(self) -> None:
        self.members: list[Any] = []

    async def __call__(self, request: Request) -> None:
        """Echo every message; end at ``leave``."""
        websocket = request.websocket
        self.members.append(websocket)
        async for message in websocket:
            if message == "leave":
                break
            websocket.send(message)
        self.members.remove(websocket)
        await websocket.close()
        for other in self.members:
            other.send("one has left")


def cork_of(server: Any) -> Cork:
    """Return the cork through which a WebSocket writes."""
    cork: Cork = server.protocol.factory.cork
    return cork


class DaemonTests(SynchronousTestCase):
    """A whole daemon on Twisted's own transports."""

    def setUp(self) -> None:
        """Open three WebSockets whose views push at the same time; the last publishes as well."""
        self.daemon = Daemon({"/tick/": tick, "/last/": tick}, max_per_address=100)
        self.addCleanup(self.daemon.stop)
        self.servers = [
            open_websocket(self.daemon, path) for path in ("/tick/", "/tick/", "/last/")
        ]
        # After the first publication they are in a fan-out group.
        self.daemon.request("POST", "/topics/t", body=b"begin", control=True)
        for server in self.servers:
            server.forget()

    def test_order(self) -> None:
        """Each WebSocket gets its view's messages and publications in the order they were made."""
        for _ in range(3):
            self.daemon.advance(1)
        received = [[read.payload for read in read_frames(server.sent)] for server in self.servers]
        ticks = [b"tick 0", b"tick 1", b"news", b"tick 2"]
        self.assertEqual(received, [ticks, ticks, [*ticks[:3], b"there was news", ticks[3]]])

    def test_half_close(self) -> None:
        """The write side is shut five seconds after our Close was taken, with all before it."""
        server: Any = self.servers[0]
        server.fake_socket.room = 1
        self.daemon.request("POST", "/topics/t", body=b"news", control=True)
        server.fake_socket.room = 1 << 20
        closed: list[bytes] = []
        self.patch(server.fake_socket, "shutdown", lambda how: closed.append(server.sent))
        with cork_of(server):
            server.receive(b"\xff\xff")
            server.doWrite()
        news, close = read_frames(server.sent)
        self.assertEqual((news.payload, close.code), (b"news", 1002))
        self.daemon.advance(5)  # until it is known that all was taken
        self.assertEqual(closed, [])
        self.daemon.advance(5)
        server.doWrite()
        self.assertEqual(closed, [server.sent])

    def test_half_open(self) -> None:
        """A WebSocket that opens while a cork is full gets no message before its 101."""
        daemon = Daemon({"/room/": require_websocket(ChatRoom())}, max_per_address=100)
        self.addCleanup(daemon.stop)
        left, busy, late = (SocketConnection(daemon) for _ in range(3))
        for server in (left, busy):
            server.receive(handshake("/room/"))
        left.receive(frame(TEXT, b"leave"))
        with cork_of(left):
            left.receive(close_frame(1000))
            for _ in range(30):
                busy.receive(frame(TEXT, b"?"))
            # The room's message to it must come behind its 101.
            late.receive(handshake("/room/"))
            late.receive(frame(TEXT, b"?"))
        left.write_out()
        daemon.settle()
        answer, _, frames = late.sent.partition(b"\r\n\r\n")
        self.assertIn(b" 101 ", answer)
        self.assertEqual([read.payload for read in read_frames(frames)], [b"?", b"one has left"])

    def test_limit(self) -> None:
        """Held writes count as unsent."""
        daemon = Daemon({"/flood/": flood}, limits=Limits(max_buffered=1000))
        self.addCleanup(daemon.stop)
        server: Any = open_websocket(daemon, "/flood/")
        server.fake_socket.room = 0
        with cork_of(server):
            server.receive(frame(TEXT, b"go"))
        self.assertEqual(server.protocol.traffic.messages_out, 1)

    def test_end(self) -> None:
        """Views that end together send their Close together, behind all their messages."""
        for _ in range(4):
            self.daemon.advance(1)
        for server in self.servers:
            self.assertEqual(server.sent[-4:], b"\x88\x02\x03\xe8")
            server.receive(close_frame(1000))
            self.assertEqual(server.sent[-4:], b"\x88\x02\x03\xe8")
            self.assertFalse(server.connected)
        # The only timer is that of the topic's history.
        self.assertEqual(len(self.daemon.pending_calls), 1)
