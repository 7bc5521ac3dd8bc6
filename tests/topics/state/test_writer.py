"""The writer: groups, when they begin and reach the disk, and what happens if they cannot."""

from __future__ import annotations

from collections.abc import Callable
from threading import current_thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import Unavailable
from pushd.topics.state.database import Statement
from pushd.topics.state.writer import CallerThread, Changes, Writer, WriterThread
from tests.support.folder import make_folder
from tests.support.state_node import FailingDatabase, SlowDisk

INSERT = "INSERT INTO topic VALUES (?, 'e', 0, 0, 0)"


class WriterTestCase(SynchronousTestCase):
    sync: str = "second"

    def setUp(self) -> None:
        """Start a writer."""
        self.clock, self.disk = Clock(), SlowDisk()
        self.database = FailingDatabase(make_folder(self), self.sync)
        self.database.open()
        self.addCleanup(self.database.close)
        self.writer = Writer(self.database, self.clock, self.disk)
        self.writer.start()

    def submit(self, *names: str, keep: bool = True) -> Deferred[None]:
        """Insert topics."""
        return self.writer.submit([Statement(INSERT, (name,)) for name in names], keep=keep)

    @property
    def names(self) -> list[str]:
        """The names of the topics in the database."""
        return [name for (name,) in self.database.read("SELECT name FROM topic")]


class SecondTests(WriterTestCase):
    def test_groups(self) -> None:
        """Groups begin a tenth of a second apart at least, and one in a second is on the disk."""
        done = [self.submit("a")]
        self.assertNoResult(done[0])
        self.clock.advance(0)
        self.successResultOf(done[0])
        self.assertEqual(self.names, ["a"])
        for name in "bcd":
            done.append(self.submit(name))
            self.clock.advance(0.05)
        self.assertEqual(self.names, ["a", "b", "c"])
        self.clock.advance(0.1)
        self.successResultOf(done[-1])
        self.assertEqual(self.database.writes, [True, False, False])
        self.clock.advance(0.5)
        self.assertEqual(self.database.writes, [True, False, False])
        # Nothing follows, and the last one is on the disk a second after the first nevertheless.
        self.clock.advance(0.5)
        self.assertEqual(self.database.writes, [True, False, False, True])
        self.clock.pump([1] * 5)
        self.assertEqual(self.database.writes, [True, False, False, True])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_soon(self) -> None:
        """What changes while a group only has to reach the disk does not wait for it."""
        for name in "ab":
            self.submit(name)
            self.clock.advance(0.1)
        self.clock.advance(0.2)
        done = self.submit("c")
        self.clock.advance(0)
        self.successResultOf(done)

    def test_while_writing(self) -> None:
        """What changes while a group is written is in the next one, and keeps its order."""
        self.disk.busy = True
        first = self.submit("a")
        self.clock.advance(0)
        second = self.submit("b")
        self.clock.advance(5)
        self.assertNoResult(first)
        self.disk.go_on()
        self.successResultOf(first)
        self.assertNoResult(second)
        self.clock.advance(0.1)
        self.successResultOf(second)

    def test_sources(self) -> None:
        """Sources are asked when a group begins, in their order, before what was submitted."""
        told: list[str] = []

        def take(name: str, table: list[str]) -> Callable[[], Changes | None]:
            def source() -> Changes | None:
                if not table:
                    return None
                statement = Statement(INSERT, (table.pop(),))
                return Changes([statement], lambda: told.append(name))

            return source

        self.writer.sources += [take("one", ["a"]), take("two", ["b"])]
        self.submit("c").addCallback(lambda _: told.append("submitted"))
        self.clock.advance(0)
        self.assertEqual(self.names, ["a", "b", "c"])
        self.assertEqual(told, ["one", "two", "submitted"])

    def test_failure(self) -> None:
        """A group that fails is tried again each second, but for what need not be kept."""
        self.submit("a")
        self.clock.advance(0)
        self.database.fill()
        kept, dropped = self.submit("b"), self.submit("c", keep=False)
        with capturedLogs() as events:
            self.clock.advance(0.1)
            self.failureResultOf(dropped, Unavailable)
            self.assertNoResult(kept)
            self.assertIn("cannot be written: database or disk is full", str(self.writer.reason))
            later = self.submit("d")
            self.clock.pump([1] * 5)
            self.assertEqual([one["event"] for one in events], ["state_failed"])
            self.database.failure = OSError("another reason")
            self.clock.advance(1)
            self.database.failure = None
            self.clock.advance(1)
        self.assertEqual(
            [one["event"] for one in events], ["state_failed", "state_failed", "state_recovered"]
        )
        self.assertIsNone(self.writer.reason)
        self.successResultOf(kept)
        self.clock.advance(0.1)
        self.successResultOf(later)
        self.assertEqual(self.names, ["a", "b", "d"])
        # It is not known what has reached the disk: the first group after it has.
        self.assertEqual(self.database.writes[1], True)

    def test_mistake(self) -> None:
        """An error of ours is logged with its traceback, and nothing is dropped because of it."""
        done = self.submit("a")
        self.database.failure = ZeroDivisionError("ours")
        self.clock.advance(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIn("ours", str(self.writer.reason))
        self.assertNoResult(done)

    def test_callback(self) -> None:
        """An exception of what is told after a write is logged, and the writer goes on."""
        changes = [Changes([Statement(INSERT, ("a",))], lambda: 1 / 0)]
        self.writer.sources.append(lambda: changes.pop() if changes else None)
        self.writer.wake()
        with capturedLogs():
            self.clock.advance(0)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        done = self.submit("b")
        self.clock.advance(0.1)
        self.successResultOf(done)

    def test_stop(self) -> None:
        """A stop writes what is left, at once and to the disk, and closes everything."""
        for _ in range(2):
            self.clock.advance(0.1)
            done = [self.submit(f"{number}-{self.clock.seconds()}") for number in range(2)]
        self.disk.busy = True
        self.clock.advance(0)
        done.append(self.submit("last"))
        stopped = self.writer.stop()
        self.assertIs(self.writer.stop(), stopped)
        self.assertNoResult(stopped)
        self.disk.go_on()
        self.successResultOf(stopped)
        self.assertTrue(all(one.called for one in done))
        self.assertTrue(self.database.writes[-1])
        self.assertTrue(self.disk.stopped)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.writer.wake()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop_unsynced(self) -> None:
        """A stop brings to the disk what was written, although nothing follows."""
        for name in "ab":
            self.submit(name)
            self.clock.advance(0.1)
        self.assertEqual(self.database.writes, [True, False])
        self.successResultOf(self.writer.stop())
        self.assertEqual(self.database.writes, [True, False, True])

    def test_stop_at_failure(self) -> None:
        """A stop tries once more to write what could not be written, and then says what is lost."""
        self.database.fill()
        self.submit("a")
        with capturedLogs() as events:
            self.clock.advance(0)
            self.successResultOf(self.writer.stop())
        self.assertEqual([one["event"] for one in events], ["state_failed", "state_lost"])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StartTests(WriterTestCase):
    def test_at_once(self) -> None:
        """What was submitted before the start is written when it returns."""
        writer = Writer(self.database, self.clock, self.disk)
        done = writer.submit([Statement(INSERT, ("a",))])
        writer.start()
        self.successResultOf(done)
        self.assertEqual(self.names, ["a"])
        self.assertGreater(writer.size, 0)

    def test_failure(self) -> None:
        """If that fails, it is tried again."""
        writer = Writer(self.database, self.clock, self.disk)
        done = writer.submit([Statement(INSERT, ("a",))])
        self.database.fill()
        with capturedLogs():
            writer.start()
            self.assertIsNotNone(writer.reason)
            self.database.failure = None
            self.clock.advance(1)
        self.successResultOf(done)


class AlwaysTests(WriterTestCase):
    sync: str = "always"

    def test_groups(self) -> None:
        """Groups follow each other without a pause, and each is on the disk."""
        for name in "abc":
            done = self.submit(name)
            self.clock.advance(0)
            self.successResultOf(done)
        self.assertEqual(self.database.writes, [True] * 3)
        self.clock.advance(0)
        self.assertEqual(self.clock.getDelayedCalls(), [])


class NoneTests(WriterTestCase):
    sync: str = "none"

    def test_groups(self) -> None:
        """No group waits for the disk."""
        for name in "abc":
            self.submit(name)
            self.clock.advance(0.6)
        self.successResultOf(self.writer.stop())
        self.assertEqual(self.database.writes, [False] * 3)


class ThreadTests(SynchronousTestCase):
    def test_thread(self) -> None:
        """Functions run in a thread of their own, one after the other; a stop waits for them."""
        ran: list[Any] = []

        class Reactor:
            def callFromThread(self, function: Any, *args: Any) -> None:
                ran.append(lambda: function(*args))

        thread = WriterThread(Reactor())
        thread.stop()
        names: list[str] = []
        done = [thread.run(lambda: names.append(current_thread().name)) for _ in range(3)]
        thread.stop()
        for one in ran:
            one()
        for each in done:
            self.successResultOf(each)
        self.assertEqual(len(set(names)), 1)
        self.assertIn("pushd-state", names[0])

    def test_caller(self) -> None:
        """Under a fake clock functions run as they come."""
        names: list[str] = []
        self.successResultOf(CallerThread().run(lambda: names.append(current_thread().name)))
        CallerThread().stop()
        self.assertEqual(names, [current_thread().name])
