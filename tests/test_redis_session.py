"""A session with Redis: how it is opened, checked and lost; the server is bytes in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectionLost, ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd import redis_session
from pushd.redis_scripts import ALL, PUBLISH, Away, Refused, Unsuitable
from pushd.redis_session import Session, open_session
from pushd.redis_url import RedisAddress, parse_broker

INFO = {
    "redis_version": "7.0.15",
    "redis_mode": "standalone",
    "run_id": "run",
    "loading": "0",
    "aof_enabled": "0",
    "role": "master",
    "second_repl_offset": "-1",
}


class Transport(StringTransportWithDisconnection):
    """A transport whose end is told in a moment, as a real one's is."""

    def abortConnection(self) -> None:
        """End it."""
        if self.connected:
            self.loseConnection()


class Peer:
    """The server's side of one connection."""

    def __init__(self, connector: tuple[Any, ...]) -> None:
        self.address, factory = connector[0], connector[1]
        self.protocol = factory.buildProtocol(None)
        self.transport = Transport()
        self.transport.protocol = self.protocol
        self.reader = hiredis.Reader()
        self.protocol.makeConnection(self.transport)

    def asked(self) -> list[list[bytes]]:
        """What was asked since the last time."""
        self.reader.feed(self.transport.value())
        self.transport.clear()
        commands: list[list[bytes]] = []
        while (command := self.reader.gets()) is not False:
            commands.append(command)
        return commands

    def say(self, data: bytes) -> None:
        """Say something."""
        self.protocol.dataReceived(data)


class SessionTestCase(SynchronousTestCase):
    """A server that answers by rules that a test can change."""

    def setUp(self) -> None:
        """Have a server that is as it should be."""
        self.clock = MemoryReactorClock()
        self.info = dict(INFO)
        self.infos: list[dict[str, str]] = []
        self.peers: list[Peer] = []
        self.asked: list[list[bytes]] = []
        self.answers: dict[bytes, Callable[[list[bytes]], bytes]] = {
            b"INFO": lambda _: self.tell(self.infos.pop(0) if self.infos else self.info),
            b"PING": lambda _: b"+PONG\r\n",
            b"SUBSCRIBE": lambda said: b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
            b"UNSUBSCRIBE": lambda said: b"*3\r\n$11\r\nunsubscribe\r\n$1\r\nc\r\n:0\r\n",
            b"EVALSHA": lambda _: b"*1\r\n$3\r\ne:1\r\n",
        }
        self.notices: list[tuple[bytes, bytes]] = []
        self.lost: list[str] = []
        self.patch(redis_session, "HostnameEndpoint", self.endpoint)
        self.places: list[tuple[bytes, int]] = []

    def endpoint(self, reactor: Any, host: bytes, port: int, timeout: float) -> Any:
        """Connect over TCP, or so it seems."""
        self.places.append((host, port))
        return UNIXClientEndpoint(reactor, host.decode(), timeout=timeout)

    def tell(self, info: dict[str, str]) -> bytes:
        """Answer INFO."""
        text = "# Server\r\n" + "".join(f"{name}:{value}\r\n" for name, value in info.items())
        return f"${len(text)}\r\n{text}\r\n".encode()

    def refuse(self, command: bytes, error: str) -> None:
        """Answer a command with an error."""
        self.answers[command] = lambda _: f"-{error}\r\n".encode()

    def open(self, url: str = "unix:///r") -> Deferred[Session]:
        """Begin to open a session."""
        address = parse_broker(url)
        assert address is not None
        opening = open_session(
            self.clock, address, lambda *notice: self.notices.append(notice), self.lost.append
        )
        self.serve()
        return opening

    def serve(self) -> None:
        """Accept and answer until there is nothing left to do."""
        busy = True
        while busy:
            busy = False
            while self.clock.unixClients:
                self.peers.append(Peer(self.clock.unixClients.pop(0)))
                busy = True
            for peer in self.peers:
                for command in peer.asked():
                    busy = True
                    self.asked.append(command)
                    answer = self.answers.get(command[0], lambda _: b"+OK\r\n")(command)
                    if answer and peer.transport.connected:
                        peer.say(answer)

    def opened(self, url: str = "unix:///r") -> Session:
        """Open a session."""
        session: Session = self.successResultOf(self.open(url))
        self.addCleanup(session.end)
        self.asked.clear()
        return session

    def why(self, opening: Deferred[Any], kind: type[Exception]) -> str:
        """Why it can't be had; nothing of it is left."""
        failure = self.failureResultOf(opening, kind)
        self.assertFalse([peer for peer in self.peers if peer.transport.connected])
        self.assertEqual(self.clock.getDelayedCalls(), [])
        return str(failure.value)


class OpeningTests(SessionTestCase):
    """From an address to a session."""

    def test_opened(self) -> None:
        """Two connections, checked; the scripts are there before they are needed."""
        session: Session = self.successResultOf(self.open("unix:///r?db=3"))
        load = [[b"SCRIPT", b"LOAD", script.source.encode()] for script in ALL]
        self.assertEqual(self.asked, [[b"INFO"], [b"SELECT", b"3"], *load, [b"INFO"]])
        self.assertEqual((session.run, session.trusted), ("run", False))
        session.end()
        self.assertEqual((self.lost, self.clock.getDelayedCalls()), ([], []))

    def test_password(self) -> None:
        """User and password are said first, on both."""
        self.opened("unix://me:pw@/r")
        self.setUp()
        self.successResultOf(self.open("unix://me:pw@/r")).end()
        said = [command for command in self.asked if command[0] == b"AUTH"]
        self.assertEqual(said, [[b"AUTH", b"me", b"pw"]] * 2)
        self.asked.clear()
        self.successResultOf(self.open("unix://:pw@/r")).end()
        self.assertEqual(self.asked[0], [b"AUTH", b"pw"])

    def test_trusted(self) -> None:
        """Trusted is who writes to disk, and was never a replica; through Sentinels nobody is."""
        for aof, offset, trusted in [("1", "-1", True), ("0", "-1", False), ("1", "7", False)]:
            self.info.update(aof_enabled=aof, second_repl_offset=offset)
            self.assertIs(self.opened().trusted, trusted)
        self.info.update(aof_enabled="1", second_repl_offset="-1")
        self.answers[b"SENTINEL"] = lambda _: b"*2\r\n$1\r\nh\r\n$1\r\n7\r\n"
        self.assertIs(self.opened("redis+sentinel://s/main").trusted, False)

    def test_host(self) -> None:
        """A host is connected to, by TLS where that is asked for."""
        self.opened("redis://h:1/0")
        wrapped: list[Any] = []

        def wrap(options: Any, endpoint: Any, clock: Any) -> Any:
            self.assertIs(clock, self.clock)
            wrapped.append(options._hostname)
            return endpoint

        self.patch(redis_session, "wrapClientTLS", wrap)
        self.opened("rediss://example.com:1/0")
        self.assertEqual(self.places, [(b"h", 1), (b"example.com", 1)])
        self.assertEqual(wrapped, ["example.com"])

    def test_sentinels(self) -> None:
        """The first Sentinel that knows the master tells where it is."""
        answers = [b"*-1\r\n", b"-ERR oh\r\n", b"*2\r\n$1\r\nh\r\n$1\r\n7\r\n"]
        self.answers[b"SENTINEL"] = lambda _: answers.pop(0)
        self.opened("redis+sentinel://a,b:1,c,d/main")
        expected = [(b"a", 26379), (b"b", 1), (b"c", 26379), (b"h", 7)]
        self.assertEqual(self.places, expected)

    def test_no_sentinel(self) -> None:
        """When none of them knows, that is said, with what the last one said."""
        self.answers[b"SENTINEL"] = lambda _: b"*-1\r\n"
        opening = self.open("redis+sentinel://a/main")
        self.assertEqual(self.why(opening, Away), "no Sentinel knows the master main")
        self.answers[b"SENTINEL"] = lambda _: b"-ERR oh\r\n"
        opening = self.open("redis+sentinel://a/main")
        self.assertEqual(self.why(opening, Away), "no Sentinel knows the master main: ERR oh")

    def test_sentinel_away(self) -> None:
        """A Sentinel that can't be reached is passed over."""
        address = RedisAddress(hosts=(("a", 1),), service="main")
        opening = open_session(self.clock, address, lambda *_: None, self.lost.append)
        self.clock.unixClients.pop()[1].clientConnectionFailed(
            None, Failure(ConnectionRefusedError())
        )
        self.assertIn("main: Connection was refused", self.why(opening, Away))


class RefusingTests(SessionTestCase):
    """What will not do."""

    def test_unsuitable(self) -> None:
        """What is of no use until somebody changes it is told from what may come back."""
        for changes, kind, reason in [
            ({"redis_version": "6.0.20"}, Unsuitable, "this is Redis 6.0.20: 6.2 or newer"),
            ({"redis_version": "x"}, Unsuitable, "this is Redis x: 6.2"),
            ({"redis_mode": "cluster"}, Unsuitable, "a Redis Cluster"),
            ({"loading": "1"}, Away, "still loading"),
            ({"role": "slave"}, Away, "a read-only replica"),
        ]:
            self.info = {**INFO, **changes}
            self.assertIn(reason, self.why(self.open(), kind))
        self.info = {}
        self.assertIn("this is Redis ?", self.why(self.open(), Unsuitable))

    def test_errors(self) -> None:
        """The errors of a server that does not want us."""
        for error, kind, reason in [
            ("NOAUTH Authentication required.", Unsuitable, "it wants a password"),
            ("NOPERM this user has no permissions", Unsuitable, "NOPERM this user"),
            ("LOADING Redis is loading", Away, "LOADING Redis"),
        ]:
            self.refuse(b"INFO", error)
            self.assertIn(reason, self.why(self.open(), kind))
        for error in ("WRONGPASS invalid username-password pair", "ERR invalid password"):
            self.refuse(b"AUTH", error)
            opening = self.open("unix://:secret@/r")
            self.assertEqual(self.why(opening, Unsuitable), "wrong user or password")
        self.answers[b"AUTH"] = lambda _: b"-ERR AUTH called without any password configured\r\n"
        opening = self.open("unix://:secret@/r")
        self.assertIn("without any password configured", self.why(opening, Unsuitable))

    def test_database(self) -> None:
        """A database that is not there."""
        self.answers[b"SELECT"] = lambda _: b"-ERR DB index is out of range\r\n"
        self.assertIn("out of range", self.why(self.open("unix:///r?db=99"), Unsuitable))

    def test_no_redis(self) -> None:
        """What speaks another language is no Redis."""
        self.answers[b"INFO"] = lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n"
        self.assertIn("no Redis", self.why(self.open(), Unsuitable))

    def test_hangs_up(self) -> None:
        """One that hangs up may be there later."""
        opening = open_session(
            self.clock, RedisAddress(path="/r"), lambda *_: None, self.lost.append
        )
        peer = Peer(self.clock.unixClients.pop())
        peer.protocol.connectionLost(Failure(ConnectionLost()))
        self.assertIn("the connection was lost", str(self.failureResultOf(opening, Away).value))

    def test_refuses_connections(self) -> None:
        """So may one that takes no connection, or takes it and says nothing."""
        address = RedisAddress(path="/r")
        opening = open_session(self.clock, address, lambda *_: None, self.lost.append)
        self.clock.unixClients.pop()[1].clientConnectionFailed(
            None, Failure(ConnectionRefusedError())
        )
        self.assertIn("refused", self.why(opening, Away))
        self.answers[b"INFO"] = lambda _: b""
        opening = self.open()
        self.clock.advance(9)
        self.assertNoResult(opening)
        self.clock.advance(1)
        self.assertEqual(self.why(opening, Away), "it has not answered for 10 seconds")

    def test_changes(self) -> None:
        """Two connections that end at two servers are no session."""
        self.infos = [INFO, {**INFO, "run_id": "another"}]
        self.assertIn("another server", self.why(self.open(), Away))

    def test_bug(self) -> None:
        """What nobody has thought of is not hidden."""
        self.answers[b"INFO"] = lambda _: b":1\r\n"
        self.why(self.open(), AttributeError)


class TalkingTests(SessionTestCase):
    """What an open session does."""

    def test_call(self) -> None:
        """A script is run by its name."""
        session = self.opened()
        calling = session.call(PUBLISH, ["a", "b"], ["c", 1, b"\xff"])
        self.serve()
        name = PUBLISH.name.encode()
        self.assertEqual(self.asked, [[b"EVALSHA", name, b"2", b"a", b"b", b"c", b"1", b"\xff"]])
        self.assertEqual(self.successResultOf(calling), [b"e:1"])

    def test_unknown_script(self) -> None:
        """One that Redis has forgotten is sent again."""
        session = self.opened()
        self.answers[b"EVALSHA"] = lambda _: b"-NOSCRIPT No matching script\r\n"
        self.answers[b"EVAL"] = lambda _: b":7\r\n"
        calling = session.call(PUBLISH, ["a"], [])
        self.serve()
        self.assertEqual(self.asked[1], [b"EVAL", PUBLISH.source.encode(), b"1", b"a"])
        self.assertEqual(self.successResultOf(calling), 7)

    def test_refused(self) -> None:
        """An error is an answer."""
        session = self.opened()
        self.answers[b"EVALSHA"] = self.answers[b"SCAN"] = lambda _: b"-OOM no\tmore\r\n"
        for calling in (session.call(PUBLISH, ["a"], []), session.command("SCAN", 0)):
            self.serve()
            self.assertEqual(str(self.failureResultOf(calling, Refused).value), "OOM no more")

    def test_cancelled(self) -> None:
        """Who does not wait for an answer does not take that of another."""
        session = self.opened()
        first, second = session.command("PING"), session.command("GET", "x")
        first.cancel()
        self.serve()
        self.assertEqual(self.successResultOf(second), b"OK")
        first.addErrback(lambda _: None)

    def test_subscribe(self) -> None:
        """What is published to a channel comes, other things do not."""
        session = self.opened()
        subscribing = session.subscribe(b"c")
        self.assertNoResult(subscribing)
        self.serve()
        self.successResultOf(subscribing)
        listener = self.peers[1]
        listener.say(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$5\r\n1 t-1\r\n")
        session.unsubscribe(b"c")
        self.serve()
        self.assertEqual(self.notices, [(b"c", b"1 t-1")])
        self.assertEqual(self.asked, [[b"SUBSCRIBE", b"c"], [b"UNSUBSCRIBE", b"c"]])


class LosingTests(SessionTestCase):
    """The end of a session."""

    def test_either_connection(self) -> None:
        """The loss of one is the loss of both, and told once, before what waited for it."""
        for lost in (0, 1):
            self.setUp()
            session = self.successResultOf(self.open())
            calling = session.call(PUBLISH, ["a"], [])
            calling.addErrback(lambda _: self.lost.append("the answer"))
            self.peers[lost].transport.loseConnection()
            self.assertEqual(self.lost[1:], ["the answer"])
            self.assertIn("the connection was lost", self.lost[0])
            self.assertFalse([peer for peer in self.peers if peer.transport.connected])
            self.assertEqual(self.clock.getDelayedCalls(), [])
            self.failureResultOf(session.command("PING"), Away)
            session.unsubscribe(b"c")

    def test_garbage(self) -> None:
        """One that begins to speak another language is lost."""
        self.opened()
        self.peers[0].say(b"hello\r\n")
        self.assertEqual(len(self.lost), 1)

    def test_beat(self) -> None:
        """Both are asked every second whether they are there."""
        self.opened()
        for _ in range(20):
            self.clock.advance(1)
            self.serve()
        self.assertEqual(self.asked, [[b"PING"]] * 40)
        self.assertEqual(self.lost, [])

    def test_silence(self) -> None:
        """One that does not answer for five seconds is lost; three are nothing."""
        self.opened()
        self.clock.advance(1)
        self.clock.pump([1] * 3)
        self.serve()
        self.clock.pump([1] * 5)
        self.assertEqual(self.lost, [])
        self.clock.pump([1] * 1)
        self.assertEqual(self.lost, ["it has not answered for 5 seconds"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
