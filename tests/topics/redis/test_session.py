"""A session with Redis: how it is opened, checked and lost; the server is bytes in memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hiredis
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.testing import MemoryReactorClock, StringTransportWithDisconnection
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import RedisUnavailable
from pushd.topics.redis import connection as redis_greeting
from pushd.topics.redis.address import RedisAddress, parse_broker
from pushd.topics.redis.scripts import ALL, PUBLISH
from pushd.topics.redis.session import RedisSession, open_session

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
        self.patch(redis_greeting, "HostnameEndpoint", self.endpoint)
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

    def open(self, url: str = "unix:///r") -> Deferred[RedisSession]:
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

    def opened(self, url: str = "unix:///r") -> RedisSession:
        """Open a session."""
        session: RedisSession = self.successResultOf(self.open(url))
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
        session: RedisSession = self.successResultOf(self.open("unix:///r?db=3"))
        load = [[b"SCRIPT", b"LOAD", script.source.encode()] for script in ALL]
        self.assertEqual(self.asked, [[b"INFO"], [b"SELECT", b"3"], *load, [b"INFO"]])
        self.assertEqual((session.run, session.trusted), ("run", False))
        session.end()
        self.assertEqual((self.lost, self.clock.getDelayedCalls()), ([], []))

    def test_trusted(self) -> None:
        """Trusted is who writes to disk, and was never a replica; through Sentinels nobody is."""
        for aof, offset, trusted in [("1", "-1", True), ("0", "-1", False), ("1", "7", False)]:
            self.info.update(aof_enabled=aof, second_repl_offset=offset)
            self.assertIs(self.opened().trusted, trusted)
        self.info.update(aof_enabled="1", second_repl_offset="-1")
        self.answers[b"SENTINEL"] = lambda _: b"*2\r\n$1\r\nh\r\n$1\r\n7\r\n"
        self.assertIs(self.opened("redis+sentinel://s/main").trusted, False)


class RefusingTests(SessionTestCase):
    """What comes to nothing."""

    def test_refuses_connections(self) -> None:
        """So may one that takes no connection, or takes it and says nothing."""
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
        self.assertEqual(self.why(opening, RedisUnavailable), "it has not answered for 10 seconds")

    def test_changes(self) -> None:
        """Two connections that end at two servers are no session."""
        self.infos = [INFO, {**INFO, "run_id": "another"}]
        self.assertIn("another server", self.why(self.open(), RedisUnavailable))

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
            self.failureResultOf(session.command("PING"), RedisUnavailable)
            session.unsubscribe(b"c")

    def test_beat(self) -> None:
        """Both are asked every second whether they are there."""
        self.opened()
        for _ in range(20):
            self.clock.advance(1)
            self.serve()
        self.assertEqual(self.asked, [[b"PING"]] * 40)
        self.assertEqual(self.lost, [])

    def test_held_up(self) -> None:
        """When this process was held up, an answer that has come meanwhile is in time."""
        self.opened()
        self.clock.advance(1)
        self.clock.advance(60)
        self.serve()
        self.clock.pump([1] * 4)
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
