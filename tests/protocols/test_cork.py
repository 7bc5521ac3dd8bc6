"""What is written in one turn: held, and let out in its order."""

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
from pushd.protocols.transport import unsent
from pushd.schedule.ticks import PushSchedule
from pushd.testing.daemon import Daemon
from pushd.views.request import Request, require_websocket
from tests.kernel import Kernel, Server, open_websocket
from tests.peer import TEXT, close_frame, frame, handshake, read_frames
from tests.unhurried import UNHURRIED

# What a kernel is told of last words; and the end of a connection, as it notes that.
_MORE = socket.MSG_MORE
_END = b"the end"


class NotingKernel(Kernel):
    """One of several whose system calls are noted in one list."""

    def __init__(self, name: str, calls: list[tuple[str, bytes, int]]) -> None:
        super().__init__()
        self._name = name
        self._calls = calls

    def send(self, data: bytes, flags: int = 0) -> int:
        """Take what there is room for."""
        taken = super().send(data, flags)
        self._calls.append((self._name, bytes(data[:taken]), flags))
        return taken

    def shutdown(self, how: int) -> None:
        """Note the end."""
        self._calls.append((self._name, _END, 0))


class Peer(Protocol):
    """Who is written to, by name; it speaks for itself."""

    kernel: NotingKernel
    wire: Any
    write: Callable[[bytes], object]

    def __init__(self) -> None:
        self.lost: list[Failure] = []
        self.deferred = 0
        self.then: Callable[[], object] = lambda: None

    def writing_deferred(self) -> None:
        """Count it, and do what the test wants."""
        self.deferred += 1
        self.then()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Note it, and do what the test wants."""
        self.lost.append(reason)
        self.then()


class World:
    """Some peers, what their kernels were given, and a turn."""

    def __init__(self) -> None:
        self.reactor = MemoryReactorClock()
        self.turn = Cork()
        self.calls: list[tuple[str, bytes, int]] = []

    def peer(self, name: str) -> Peer:
        """Connect one more."""
        peer = Peer()
        peer.kernel = NotingKernel(name, self.calls)
        kernel: Any = peer.kernel
        peer.wire = Connection(kernel, peer, self.reactor)
        peer.wire.connected, peer.wire.getPeer = True, lambda: name
        peer.write = self.turn.writer(peer.wire, peer).write
        return peer


class TurnTests(SynchronousTestCase):
    """Two browsers, and what the kernel is given."""

    def setUp(self) -> None:
        """Connect two."""
        self.patch(FAST_PATHS, "enabled", True)
        self.world = World()
        self.turn, self.calls = self.world.turn, self.world.calls
        self.one, self.two = self.world.peer("one"), self.world.peer("two")

    def test_at_once(self) -> None:
        """What is written, and an end, leave at once where nothing is held, or not any more."""
        self.one.write(b"a")
        with self.turn:
            pass
        self.one.write(b"b")
        self.turn.lose(self.one.wire)
        self.assertEqual(self.calls, [("one", b"a", 0), ("one", b"b", 0), ("one", _END, 0)])

    def test_together(self) -> None:
        """What is held leaves at the end, in its order; in a turn within a turn, at the outer's."""
        with self.turn:
            self.one.write(b"a")
            with self.turn:
                self.two.write(b"b")
            self.one.write(b"c")
            self.assertEqual(self.calls, [])
        self.assertEqual(self.calls, [("one", b"a", 0), ("two", b"b", 0), ("one", b"c", 0)])

    def test_failing_turn(self) -> None:
        """It leaves also when what was done meanwhile failed, and nothing is held from then on."""

        def interrupt() -> None:
            with self.turn:
                self.one.write(b"a")
                raise KeyboardInterrupt

        self.assertRaises(KeyboardInterrupt, interrupt)
        self.two.write(b"b")
        self.assertEqual(self.calls, [("one", b"a", 0), ("two", b"b", 0)])

    def test_many(self) -> None:
        """Nobody waits for more than some others."""
        with self.turn:
            for number in range(31):
                self.one.write(b"%d" % number)
            self.assertEqual(self.calls, [])
            self.two.write(b"last")
            self.assertEqual(len(self.calls), 32)

    def test_much(self) -> None:
        """What is long is not kept in memory, and what was written before it goes first."""
        with self.turn:
            self.one.write(b"short")
            self.two.write(b"x" * 4096)
            self.assertEqual(self.calls, [])
            self.one.write(b"x" * 4097)
            self.assertEqual([len(data) for _, data, _ in self.calls], [5, 4096, 4097])

    def test_last_words(self) -> None:
        """The end goes with the last words where they are held, and behind the others' words."""
        with self.turn:
            self.one.write(b"bye")
            self.turn.lose(self.one.wire)
            self.assertEqual(self.one.lost, [])
            self.two.write(b"bye")
            self.two.write(b"bye")
            self.turn.lose(self.one.wire)  # Which is too late to mean anything.
            self.turn.lose(self.two.wire)
        self.assertEqual(
            self.calls,
            [
                ("one", b"bye", _MORE),
                ("two", b"bye", 0),
                ("two", b"bye", _MORE),
                ("one", _END, 0),
                ("two", _END, 0),
            ],
        )
        self.assertEqual((len(self.one.lost), len(self.two.lost)), (1, 1))

    def test_no_room(self) -> None:
        """Last words that the kernel does not take are written when it does, before the end."""
        self.one.kernel.room = 2
        with self.turn:
            self.one.write(b"bye")
            self.turn.lose(self.one.wire)
        self.assertEqual((self.one.deferred, self.one.lost), (1, []))
        self.one.kernel.room = 100
        why = self.one.wire.doWrite()
        self.assertIsInstance(why, ConnectionDone)
        self.assertEqual(b"".join(self.one.kernel.given), b"bye")

    def test_gone(self) -> None:
        """One that is gone meanwhile is not written to, nor ended again."""
        with self.turn:
            self.one.write(b"a")
            self.turn.lose(self.one.wire)
            self.one.wire.connectionLost(Failure(ConnectionDone()))
            self.one.write(b"b")
            self.two.write(b"c")
        self.assertEqual(self.calls, [("one", _END, 0), ("two", b"c", 0)])
        self.assertEqual(len(self.one.lost), 1)

    def test_consequences(self) -> None:
        """What is written as somebody ends leaves in the same turn, behind what was held."""
        self.one.then = lambda: self.two.write(b"one is gone")
        with self.turn:
            self.turn.lose(self.one.wire)
            self.two.write(b"before")
        self.assertEqual(
            self.calls, [("two", b"before", 0), ("one", _END, 0), ("two", b"one is gone", 0)]
        )

    def test_chain(self) -> None:
        """Who ends as somebody else does ends in the same turn, not within the other's end."""
        peers = [self.world.peer(str(number)) for number in range(300)]
        depths: list[int] = []
        for peer, following in pairwise(peers):

            def leave(peer: Peer = following) -> None:
                depths.append(len(stack()))
                peer.write(b"bye")
                self.turn.lose(peer.wire)

            peer.then = leave
        with self.turn:
            self.turn.lose(peers[0].wire)
        self.assertTrue(all(peer.lost for peer in peers))
        self.assertEqual(len(set(depths)), 1)

    def test_no_interruption(self) -> None:
        """To write ends nobody, however much is held: who writes is not done yet."""
        self.one.then = lambda: self.two.write(b"one is gone")
        with self.turn:
            self.turn.lose(self.one.wire)
            for _ in range(32):
                self.two.write(b"before")
            self.two.write(b"x" * 4097)
            self.turn.flush()
            self.assertEqual(self.one.lost, [])
            self.two.write(b"last")
        self.assertEqual([data for _, data, _ in self.calls[-3:]], [b"last", _END, b"one is gone"])

    def test_interrupt(self) -> None:
        """What is no mistake of anybody's goes on to who runs it all, and nothing stays held."""

        def interrupt() -> None:
            with self.turn:
                self.turn.lose(self.one.wire)

        def leave() -> None:
            raise KeyboardInterrupt

        self.one.then = leave
        self.assertRaises(KeyboardInterrupt, interrupt)
        self.two.write(b"at once")
        self.assertEqual(self.calls[-1], ("two", b"at once", 0))

    def test_failure(self) -> None:
        """One that can't be written to is logged and ended; the other gets what is its."""

        def fail() -> None:
            raise OSError("no room to watch another")

        self.one.kernel.room, self.one.then = 0, fail
        with self.turn:
            self.one.write(b"a")
            self.two.write(b"b")
        self.assertEqual(self.calls, [("two", b"b", 0)])
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)
        self.one.then = lambda: None
        self.world.reactor.advance(0)
        self.assertEqual(len(self.one.lost), 1)

    def test_failing_end(self) -> None:
        """One whose end fails is logged; the other ends as well."""

        def fail() -> None:
            raise OSError("what nobody has thought of")

        self.one.then = fail
        with self.turn:
            self.turn.lose(self.one.wire)
            self.turn.lose(self.two.wire)
        self.assertEqual(len(self.two.lost), 1)
        self.assertEqual(len(self.flushLoggedErrors(OSError)), 1)

    def test_sender(self) -> None:
        """Who is given the socket itself writes behind what was held."""
        with self.turn:
            self.one.write(b"a")
            send = self.turn.sender(self.one.wire)
            assert send is not None
            send(b"b")
            self.one.kernel.room = 0
            self.one.write(b"c")
            self.assertIsNone(self.turn.sender(self.one.wire))
        self.assertEqual(self.calls, [("one", b"a", 0), ("one", b"b", 0)])

    def test_off(self) -> None:
        """With ``--fast-paths off`` nothing is held: the transport writes and closes in its way."""
        self.patch(FAST_PATHS, "enabled", False)
        with self.turn:
            self.turn.writer(self.one.wire, self.one).write(b"a")
            self.assertEqual(unsent(self.one.wire), 1)
            self.assertIsNone(self.turn.sender(self.two.wire))
            self.turn.lose(self.one.wire)
            self.assertTrue(self.one.wire.disconnecting)
        self.assertEqual(self.calls, [])
        self.assertIsInstance(self.one.wire.doWrite(), ConnectionDone)
        self.assertEqual(self.calls, [("one", b"a", 0)])

    def test_others(self) -> None:
        """A transport of another kind takes, and closes, as it likes."""
        transport: Any = StringTransport()
        with self.turn:
            self.turn.writer(transport, self.one).write(b"a")
            self.assertEqual(transport.value(), b"a")
            self.turn.lose(transport)
            self.assertTrue(transport.disconnecting)


@UNHURRIED
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
    """Whatever is done, each hears in the end what it was told before its end, and in order."""
    world = World()
    peers = [world.peer(name) for name in "abc"]
    told, ended, depth, number = [b"", b"", b""], [False] * 3, 0, 0
    for what, which, size in steps:
        peer = peers[which]
        if what == "hold":
            world.turn.__enter__()
            depth += 1
        elif what == "let go" and depth:
            world.turn.__exit__(None, None, None)
            depth -= 1
        elif what == "room":
            peer.kernel.room = size
        elif what in ("write", "straight") and not ended[which]:
            number += 1
            data = (b"%d," % number) * size
            # As a fan-out group writes: past the cork, if nothing is buffered.
            send = world.turn.sender(peer.wire) if what == "straight" else None
            told[which] += data
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
            world.turn.lose(peer.wire)
            ended[which] = True
    for _ in range(depth):
        world.turn.__exit__(None, None, None)
    for peer, words, end in zip(peers, told, ended, strict=True):
        peer.kernel.room = 1 << 30
        while peer.wire in world.reactor.getWriters():
            why = peer.wire.doWrite()
            if why is not None:
                peer.wire.connectionLost(Failure(why))
        assert b"".join(peer.kernel.given) == words
        assert len(peer.lost) == end


@require_websocket
async def tick(request: Request) -> None:
    """Listen to a topic, and say something of its own on the beat."""
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
    """Send much."""
    async for _ in request.websocket:
        for _ in range(40):
            request.websocket.send("x" * 1000)


class Room:
    """A view that tells all others when one has left."""

    def __init__(self) -> None:
        self.here: list[Any] = []

    async def __call__(self, request: Request) -> None:
        """Answer everything; end with ``leave``."""
        websocket = request.websocket
        self.here.append(websocket)
        async for message in websocket:
            if message == "leave":
                break
            websocket.send(message)
        self.here.remove(websocket)
        await websocket.close()
        for other in self.here:
            other.send("one has left")


def turn_of(server: Any) -> Cork:
    """The turn by which a WebSocket writes."""
    turn: Cork = server.protocol.factory.cork
    return turn


class DaemonTests(SynchronousTestCase):
    """A whole daemon, on Twisted's own transports."""

    def setUp(self) -> None:
        """Have three whose views push on the same beat; the last of them publishes as well."""
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
        """What was said before something was published leaves before it, and so on."""
        for _ in range(3):
            self.daemon.advance(1)
        heard = [[read.payload for read in read_frames(server.sent)] for server in self.servers]
        ticks = [b"tick 0", b"tick 1", b"news", b"tick 2"]
        self.assertEqual(heard, [ticks, ticks, [*ticks[:3], b"there was news", ticks[3]]])

    def test_half_close(self) -> None:
        """Who breaks a rule gets our Close, though its socket is written to in the same look."""
        server: Any = self.servers[0]
        server.kernel.room = 1
        self.daemon.request("POST", "/topics/t", body=b"news", control=True)
        server.kernel.room = 1 << 20
        closed: list[bytes] = []
        self.patch(server.kernel, "shutdown", lambda how: closed.append(server.sent))
        with turn_of(server):
            server.receive(b"\xff\xff")
            server.doWrite()
        news, close = read_frames(server.sent)
        self.assertEqual((news.payload, close.code), (b"news", 1002))
        self.assertEqual(closed, [server.sent])

    def test_half_open(self) -> None:
        """Who comes last in a full turn is met by nobody before its 101 is on its way."""
        daemon = Daemon({"/room/": require_websocket(Room())}, max_per_address=100)
        self.addCleanup(daemon.stop)
        left, busy, late = (Server(daemon) for _ in range(3))
        for server in (left, busy):
            server.receive(handshake("/room/"))
        left.receive(frame(TEXT, b"leave"))
        with turn_of(left):
            left.receive(close_frame(1000))
            for _ in range(30):
                busy.receive(frame(TEXT, b"?"))
            # What the room says to it is behind its 101.
            late.receive(handshake("/room/"))
            late.receive(frame(TEXT, b"?"))
        left.write_out()
        daemon.settle()
        answer, _, frames = late.sent.partition(b"\r\n\r\n")
        self.assertIn(b" 101 ", answer)
        self.assertEqual([read.payload for read in read_frames(frames)], [b"?", b"one has left"])

    def test_limit(self) -> None:
        """What is held counts as what waits."""
        daemon = Daemon({"/flood/": flood}, limits=Limits(max_buffered=1000))
        self.addCleanup(daemon.stop)
        server: Any = open_websocket(daemon, "/flood/")
        server.kernel.room = 0
        with turn_of(server):
            server.receive(frame(TEXT, b"go"))
        self.assertEqual(server.protocol.traffic.messages_out, 1)

    def test_end(self) -> None:
        """All say goodbye in the same turn, and hear what was theirs before."""
        for _ in range(4):
            self.daemon.advance(1)
        for server in self.servers:
            self.assertEqual(server.sent[-4:], b"\x88\x02\x03\xe8")
            server.receive(close_frame(1000))
            self.assertEqual(server.sent[-4:], b"\x88\x02\x03\xe8")
            self.assertFalse(server.connected)
        # Nothing is left to be done but to forget what was published.
        self.assertEqual(len(self.daemon.pending_calls), 1)
