"""A session with Redis: opened, used and lost. The server is simulated byte by byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
from OpenSSL.SSL import Context
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisMisconfigured, RedisUnavailable
from pushd.topics.redis import connection
from pushd.topics.redis import session as session_module
from pushd.topics.redis.address import RedisAddress, parse_broker
from pushd.topics.redis.scripts import ALL, PUBLISH
from pushd.topics.redis.session import RedisSession, open_session, probe

INFO = {
    "redis_version": "7.0.15",
    "redis_mode": "standalone",
    "run_id": "run",
    "loading": "0",
    "aof_enabled": "0",
    "role": "master",
    "second_repl_offset": "-1",
}

NOPERM = b"-NOPERM this user has no permissions\r\n"


class FakeTransport(StringTransportWithDisconnection):
    """A transport in memory that can be aborted."""

    def abortConnection(self) -> None:
        """Close it."""
        if self.connected:
            self.loseConnection()


class FakeServerConnection:
    """The server's side of one connection."""

    def __init__(self, connector: tuple[Any, ...]) -> None:
        self.address, factory = connector[0], connector[1]
        self.protocol = factory.buildProtocol(None)
        self.transport = FakeTransport()
        self.transport.protocol = self.protocol
        self.reader = hiredis.Reader()
        self.protocol.makeConnection(self.transport)

    def read(self) -> list[list[bytes]]:
        """Return the commands received since the last call."""
        self.reader.feed(self.transport.value())
        self.transport.clear()
        commands: list[list[bytes]] = []
        while (command := self.reader.gets()) is not False:
            commands.append(command)
        return commands

    def send(self, data: bytes) -> None:
        """Send data to the client."""
        self.protocol.dataReceived(data)


class SessionTestCase(SynchronousTestCase):
    """A server whose answers a test can change."""

    def setUp(self) -> None:
        """Let the server be usable."""
        self.clock = MemoryReactorClock()
        self.info = dict(INFO)
        self.infos: list[dict[str, str]] = []
        self.peers: list[FakeServerConnection] = []
        self.asked: list[list[bytes]] = []
        self.answers: dict[bytes, Callable[[list[bytes]], bytes]] = {
            b"INFO": lambda _: self.encode_info(self.infos.pop(0) if self.infos else self.info),
            b"PING": lambda _: b"+PONG\r\n",
            b"SUBSCRIBE": lambda _: b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
            b"UNSUBSCRIBE": lambda _: b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
            b"EVALSHA": lambda _: b"*1\r\n$3\r\ne:1\r\n",
        }
        self.messages: list[tuple[bytes, bytes]] = []
        self.lost: list[str] = []
        self.patch(connection, "HostnameEndpoint", self.endpoint)
        self.addresses: list[tuple[bytes, int]] = []

    def endpoint(self, reactor: Any, host: bytes, port: int, timeout: float) -> Any:
        """Return a fake endpoint for TCP, and record its address."""
        self.addresses.append((host, port))
        return UNIXClientEndpoint(reactor, host.decode(), timeout=timeout)

    def encode_info(self, info: dict[str, str]) -> bytes:
        """Encode an answer to INFO."""
        text = "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in info.items())
        return f"${len(text)}\r\n{text}\r\n".encode()

    def refuse(self, command: bytes, error: str) -> None:
        """Let a command be answered with an error."""
        self.answers[command] = lambda _: f"-{error}\r\n".encode()

    def open(self, url: str = "unix:///r") -> Deferred[RedisSession]:
        """Start to open a session."""
        address = parse_broker(url)
        assert address is not None
        opening = open_session(
            self.clock, address, lambda *message: self.messages.append(message), self.lost.append
        )
        self.serve()
        return opening

    def serve(self) -> None:
        """Accept connections and answer commands until there is nothing left to do."""
        busy = True
        while busy:
            busy = False
            while self.clock.unixClients:
                self.peers.append(FakeServerConnection(self.clock.unixClients.pop(0)))
                busy = True
            for peer in self.peers:
                for command in peer.read():
                    busy = True
                    self.asked.append(command)
                    answer = self.answers.get(command[0], lambda _: b"+OK\r\n")(command)
                    if answer and peer.transport.connected:
                        peer.send(answer)

    def opened(self, url: str = "unix:///r") -> RedisSession:
        """Open a session, and clear the record of commands."""
        session: RedisSession = self.successResultOf(self.open(url))
        self.addCleanup(session.close)
        self.asked.clear()
        return session

    def why(self, opening: Deferred[Any], kind: type[Exception]) -> str:
        """Return the reason of a failure, and check that nothing is left of the session."""
        failure = self.failureResultOf(opening, kind)
        self.assertFalse([peer for peer in self.peers if peer.transport.connected])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return str(failure.value)


class OpeningTests(SessionTestCase):
    """A session is opened."""

    def test_opened(self) -> None:
        """Two connections are opened, the server is checked, and the scripts are loaded."""
        session: RedisSession = self.successResultOf(self.open("unix:///r?db=3"))
        load = [[b"SCRIPT", b"LOAD", script.source.encode()] for script in ALL]
        ready = [[b"HELLO", b"3"], [b"SELECT", b"3"]]
        self.assertEqual(self.asked, [[b"INFO"], [b"SELECT", b"3"], *load, [b"INFO"], *ready])
        self.assertEqual((session.run_id, session.trusted), ("run", False))
        session.close()
        self.assertEqual((self.lost, self.clock.getDelayedCalls()), ([], []))

    def test_trusted(self) -> None:
        """A server is trusted only with an append-only file, no past as a replica, no Sentinel."""
        for aof, offset, trusted in [("1", "-1", True), ("0", "-1", False), ("1", "7", False)]:
            self.info.update(aof_enabled=aof, second_repl_offset=offset)
            self.assertIs(self.opened().trusted, trusted)
        self.info.update(aof_enabled="1", second_repl_offset="-1")
        self.answers[b"SENTINEL"] = lambda _: b"*2\r\n$1\r\nh\r\n$1\r\n7\r\n"
        self.assertIs(self.opened("redis+sentinel://s/main").trusted, False)


class OpeningFailsTests(SessionTestCase):
    """A session cannot be opened."""

    def test_no_connection(self) -> None:
        """The server refuses the connection, or accepts it and never answers."""
        address = RedisAddress(path="/r")
        opening = open_session(self.clock, address, lambda *_: None, self.lost.append)
        self.clock.unixClients.pop()[1].clientConnectionFailed(
            None, Failure(ConnectionRefusedError())
        )
        self.assertIn("refused", self.why(opening, RedisUnavailable))
        self.answers[b"INFO"] = lambda _: b""
        opening = self.open()
        self.clock.advance(9)
        self.assertNoResult(opening)
        self.clock.advance(1)
        self.assertEqual(self.why(opening, RedisUnavailable), "no answer for 10 seconds")

    def test_two_servers(self) -> None:
        """The two connections reach different servers."""
        self.infos = [INFO, {**INFO, "run_id": "another"}]
        self.assertIn("different servers", self.why(self.open(), RedisUnavailable))

    def test_unexpected_exception(self) -> None:
        """An unexpected exception is passed on."""

        async def check_server(*_: object) -> None:
            raise ZeroDivisionError

        self.patch(session_module, "check_server", check_server)
        self.why(self.open(), ZeroDivisionError)


class CommandTests(SessionTestCase):
    """Commands over an open session."""

    def test_script(self) -> None:
        """A script is run by its SHA-1."""
        session = self.opened()
        running = session.run_script(PUBLISH, ["a", "b"], ["c", 1, b"\xff"])
        self.serve()
        digest = PUBLISH.sha1.encode()
        self.assertEqual(self.asked, [[b"EVALSHA", digest, b"2", b"a", b"b", b"c", b"1", b"\xff"]])
        self.assertEqual(self.successResultOf(running), [b"e:1"])

    def test_unknown_script(self) -> None:
        """A script that Redis does not have any more is sent again."""
        session = self.opened()
        self.answers[b"EVALSHA"] = lambda _: b"-NOSCRIPT No matching script\r\n"
        self.answers[b"EVAL"] = lambda _: b":7\r\n"
        running = session.run_script(PUBLISH, ["a"], [])
        self.serve()
        self.assertEqual(self.asked[1], [b"EVAL", PUBLISH.source.encode(), b"1", b"a"])
        self.assertEqual(self.successResultOf(running), 7)

    def test_publish(self) -> None:
        """What is published leaves over the connection over which messages come."""
        session = self.opened()
        publishing = session.publish(["a"], [])
        self.assertEqual([peer.transport.value() != b"" for peer in self.peers], [False, True])
        # A message of its own, then the answer, in one piece: RESP3 has another type for messages.
        message = b">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\n1 t-1\r\n"
        self.peers[1].send(message + b"*1\r\n$3\r\ne:1\r\n")
        self.assertEqual(self.messages, [(b"c", b"1 t-1")])
        self.assertEqual(self.successResultOf(publishing), [b"e:1"])

    def test_publish_in_resp2(self) -> None:
        """A Redis that refuses RESP3 is published to over the connection for commands."""
        for command in (b"HELLO", b"SELECT"):
            with self.subTest(command):
                self.setUp()
                self.answers[command] = lambda asked: (
                    b"+OK\r\n" if asked == [b"SELECT", b"0"] and len(self.asked) < 5 else NOPERM
                )
                session = self.opened()
                publishing = session.publish(["a"], [])
                written = [peer.transport.value() != b"" for peer in self.peers]
                self.assertEqual(written, [True, False])
                self.serve()
                self.assertEqual(self.successResultOf(publishing), [b"e:1"])

    def test_publish_unknown_script(self) -> None:
        """If Redis has forgotten the script, it is sent again over the same connection."""
        session = self.opened()
        self.answers[b"EVALSHA"] = lambda _: b"-NOSCRIPT No matching script\r\n"
        self.answers[b"EVAL"] = lambda _: b"*1\r\n$3\r\ne:1\r\n"
        publishing = session.publish(["a"], [])
        self.serve()
        self.assertEqual(self.asked[1], [b"EVAL", PUBLISH.source.encode(), b"1", b"a"])
        self.assertEqual(self.successResultOf(publishing), [b"e:1"])

    def test_writes(self) -> None:
        """A command is written at once, and those behind it together, until all are answered."""
        at_once: list[Any] = []

        def write(transport: Any, data: bytes) -> None:
            at_once.append(transport)
            transport.write(data)

        address = RedisAddress(path="/r")
        opening = open_session(self.clock, address, lambda *_: None, self.lost.append, write=write)
        self.serve()
        session: RedisSession = self.successResultOf(opening)
        self.addCleanup(session.close)
        at_once.clear()
        running = [session.publish(["a"], [number]) for number in range(3)]
        self.assertEqual(at_once, [self.peers[1].transport])
        self.serve()
        running.append(session.publish(["a"], []))
        self.assertEqual(len(at_once), 2)
        self.serve()
        for one in running:
            self.successResultOf(one)

    def test_subscribe(self) -> None:
        """Messages of a channel arrive after SUBSCRIBE was confirmed."""
        session = self.opened()
        subscribing = session.subscribe(b"c")
        self.assertNoResult(subscribing)
        self.serve()
        self.successResultOf(subscribing)
        subscriber = self.peers[1]
        subscriber.send(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\n1 t-1\r\n")
        session.unsubscribe(b"c")
        self.serve()
        self.assertEqual(self.messages, [(b"c", b"1 t-1")])
        self.assertEqual(self.asked, [[b"SUBSCRIBE", b"c"], [b"UNSUBSCRIBE", b"c"]])


class LostTests(SessionTestCase):
    """A session is lost."""

    def test_either_connection(self) -> None:
        """The loss of one connection ends both; ``on_lost`` is called before commands fail."""
        for lost in (0, 1):
            self.setUp()
            session = self.successResultOf(self.open())
            running = session.run_script(PUBLISH, ["a"], [])
            running.addErrback(lambda _: self.lost.append("the answer"))
            self.peers[lost].transport.loseConnection()
            self.assertEqual(self.lost[1:], ["the answer"])
            self.assertIn("the connection was lost", self.lost[0])
            self.assertFalse([peer for peer in self.peers if peer.transport.connected])
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.failureResultOf(session.run("PING"), RedisUnavailable)
            session.unsubscribe(b"c")

    def test_ping(self) -> None:
        """Both connections are pinged every second."""
        self.opened()
        for _ in range(20):
            self.clock.advance(1)
            self.serve()
        self.assertEqual(self.asked, [[b"PING"]] * 40)
        self.assertEqual(self.lost, [])

    def test_blocked(self) -> None:
        """After this process was blocked, an answer that has arrived meanwhile counts."""
        self.opened()
        self.clock.advance(1)
        self.clock.advance(60)
        self.serve()
        self.clock.pump([1] * 4)
        self.assertEqual(self.lost, [])

    def test_no_answer(self) -> None:
        """A session is lost after five seconds without an answer, and not after three."""
        self.opened()
        self.clock.advance(1)
        self.clock.pump([1] * 3)
        self.serve()
        self.clock.pump([1] * 5)
        self.assertEqual(self.lost, [])
        self.clock.pump([1] * 1)
        self.assertEqual(self.lost, ["no answer for 5 seconds"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


ADDRESS = RedisAddress(path="/does/not/exist")


class FakeSession:
    """A session that records that it was closed."""

    closed = False

    def close(self) -> None:
        """Record the call."""
        FakeSession.closed = True


class ProbeTests(SynchronousTestCase):
    """The check of a Redis before the daemon starts."""

    def fake(self, outcome: Any) -> None:
        """Let opening a session succeed or fail in the next iteration of the reactor."""

        def fake_open(reactor: Any, *_: Any) -> Deferred[Any]:
            opening: Deferred[Any] = Deferred()
            fire = opening.errback if isinstance(outcome, Exception) else opening.callback
            reactor.callLater(0, fire, outcome)
            return opening

        self.patch(session_module, "open_session", fake_open)
        self.patch(session_module, "RedisSession", FakeSession)

    def test_usable(self) -> None:
        """A usable Redis gives no reason, and its session is closed."""
        self.fake(FakeSession())
        self.assertIsNone(probe(ADDRESS))
        self.assertTrue(FakeSession.closed)

    def test_misconfigured(self) -> None:
        """A Redis that cannot be used gives the reason."""
        self.fake(RedisMisconfigured("wrong password"))
        self.assertEqual(probe(ADDRESS), "wrong password")

    def test_unavailable(self) -> None:
        """A Redis that is unavailable gives no reason: it may come back."""
        self.fake(RedisUnavailable("no route"))
        self.assertIsNone(probe(ADDRESS))

    def test_tls(self) -> None:
        """TLS needs callbacks of OpenSSL: without them, the reason says what allows them."""
        address = parse_broker("rediss://localhost")
        assert address is not None
        self.fake(FakeSession())
        self.assertIsNone(probe(address))

        def deny(context: Context, callback: object) -> None:
            raise MemoryError("Cannot allocate write+execute memory for ffi.callback()")

        self.patch(Context, "set_info_callback", deny)
        self.assertIn("MemoryDenyWriteExecute=no", probe(address) or "")
        self.assertIsNone(probe(ADDRESS))

    def test_no_server(self) -> None:
        """Without any fake, an address without a server gives no reason either."""
        self.assertIsNone(probe(ADDRESS))
