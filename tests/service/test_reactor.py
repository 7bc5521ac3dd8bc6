"""A reactor that looks at its sockets in our way."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import nullcontext

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import ConnectionDone
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.service import reactor as polling
from pushd.service.reactor import quicken
from tests.bracket import Bracket
from tests.work import calls_of

# A look at the sockets, one that reads, its own calls, and what the reactor has to do with it.
MOST_CALLS = 14


class Failing(Exception):
    """What goes wrong in these tests."""


class End:
    """One end of a pair of sockets, as a reactor has it."""

    def __init__(self, reactor: EPollReactor) -> None:
        self.socket, self.other = socket.socketpair()
        self.socket.setblocking(False)
        self.reactor = reactor
        self.heard: list[bytes] = []
        self.written = 0
        self.lost: list[Failure] = []
        self.then: Callable[[], object] = lambda: None
        self.last: Callable[[], object] = lambda: None

    def fileno(self) -> int:
        """The socket's number."""
        return self.socket.fileno()

    def doRead(self) -> Exception | None:
        """Read all there is, and do what the test wants."""
        data = self.socket.recv(100)
        self.heard.append(data)
        self.then()
        return None if data else ConnectionDone()

    def doWrite(self) -> None:
        """There is room to write."""
        self.written += 1
        self.reactor.removeWriter(self)

    def connectionLost(self, reason: Failure) -> None:
        """Note the end."""
        self.lost.append(reason)
        self.last()
        self.close()

    def logPrefix(self) -> str:
        """What Twisted puts before its lines."""
        return "an end"

    def close(self) -> None:
        """Close both."""
        self.socket.close()
        self.other.close()


class PollingTests(SynchronousTestCase):
    """What happens at a socket, and what comes of it."""

    def setUp(self) -> None:
        """Have a reactor that nobody runs."""
        self.reactor = EPollReactor()
        self.notes: list[str] = []
        quicken(self.reactor, Bracket(self.notes))
        self.addCleanup(self.close)
        self.ends = [self.open(), self.open()]

    def close(self) -> None:
        """Let go of all descriptors."""
        for end in self.ends:
            end.close()
        for reader in self.reactor._internalReaders:
            reader.connectionLost(Failure(ConnectionDone()))
        self.reactor._poller.close()

    def open(self) -> End:
        """Have one more end watched."""
        end = End(self.reactor)
        self.reactor.addReader(end)
        return end

    def look(self) -> None:
        """Look once, without waiting."""
        self.reactor.doIteration(0)

    def test_read(self) -> None:
        """Who can read does, and nobody else."""
        first, second = self.ends
        first.other.send(b"abc")
        self.look()
        self.look()
        self.assertEqual((first.heard, second.heard), ([b"abc"], []))

    def test_together(self) -> None:
        """What several do in one look is done within what holds it together."""
        for end in self.ends:
            end.then = lambda: self.notes.append("read")
        self.ends[0].other.send(b"abc")
        self.look()
        self.assertEqual(self.notes, ["read"])
        for end in self.ends:
            end.other.send(b"abc")
        self.look()
        self.assertEqual(self.notes, ["read", "(", "read", "read", ")"])

    def test_wait(self) -> None:
        """Without a time-out it waits until there is something."""
        self.ends[0].other.send(b"abc")
        self.reactor.doIteration(None)
        self.assertEqual(self.ends[0].heard, [b"abc"])

    def test_write(self) -> None:
        """Who can write does as well, also where it can read at the same time."""
        first, second = self.ends
        first.other.send(b"abc")
        for end in self.ends:
            self.reactor.addWriter(end)
        self.look()
        self.assertEqual((first.heard, first.written, second.written), ([b"abc"], 1, 1))

    def test_end(self) -> None:
        """One whose peer has closed reads what is left, then is lost and watched no more."""
        first, second = self.ends
        first.other.send(b"abc")
        first.other.shutdown(socket.SHUT_WR)
        self.look()
        self.look()
        self.look()
        self.assertEqual(first.heard, [b"abc", b""])
        self.assertEqual(len(first.lost), 1)
        first.lost[0].trap(ConnectionDone)
        self.assertNotIn(first, self.reactor.getReaders())
        self.assertEqual(second.lost, [])

    def test_vanished(self) -> None:
        """So is one whose peer is gone."""
        self.ends[0].other.close()
        self.look()
        self.assertEqual(len(self.ends[0].lost), 1)

    def test_failure(self) -> None:
        """One that fails is logged and lost; the other reads in the same look."""

        def fail() -> None:
            raise Failing

        first, second = self.ends
        first.then = fail
        first.last = fail
        for end in self.ends:
            end.other.send(b"abc")
        self.look()
        self.assertEqual(len(first.lost), 1)
        self.assertEqual(second.heard, [b"abc"])
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 2)
        self.assertNotIn(first, self.reactor.getReaders())

    def test_worst_failure(self) -> None:
        """Whatever it is, only who sits at the terminal ends the reactor by it."""

        def leave() -> None:
            raise SystemExit

        def interrupt() -> None:
            raise KeyboardInterrupt

        first, second = self.ends
        first.other.close()
        second.other.send(b"abc")
        first.last = leave
        self.look()
        self.assertEqual(second.heard, [b"abc"])
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        second.other.shutdown(socket.SHUT_WR)
        second.last = interrupt
        # Both an end and something to read: what it has to say comes first.
        with self.assertRaises(KeyboardInterrupt):
            polling._read(self.reactor, second)

    def test_closed_by_another(self) -> None:
        """One that another has closed meanwhile is not read from."""
        for end, other in zip(self.ends, reversed(self.ends), strict=True):
            end.then = lambda other=other: self.reactor.removeReader(other)  # type: ignore[misc]
            end.other.send(b"abc")
        self.look()
        self.assertEqual(sorted(len(end.heard) for end in self.ends), [0, 1])

    def test_calls(self) -> None:
        """It takes few calls of functions: Twisted's own look takes ten more."""
        self.ends[0].other.send(b"abc")
        self.assertLess(calls_of(self.look), MOST_CALLS)

    def test_others(self) -> None:
        """A reactor of another kind keeps its own way."""
        reactor = SelectReactor()
        before = reactor.doIteration
        quicken(reactor, nullcontext())
        self.assertEqual(reactor.doIteration, before)
        for reader in reactor._internalReaders:
            reader.connectionLost(Failure(ConnectionDone()))
