"""The inbox: messages that have not been read, back-pressure, and the task that waits."""

from __future__ import annotations

from decimal import Decimal
from sys import getsizeof
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.inbox import Inbox
from tests.support.hypothesis_settings import NO_DEADLINE


class RecordingSource:
    """A connection that records when its reading is paused and resumed."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.kept = 0

    def message_kept(self, size: int) -> None:
        """Add up what messages take."""
        self.kept += size

    def pause_reading(self) -> None:
        """Record it."""
        self.events.append("pause")

    def resume_reading(self) -> None:
        """Record it."""
        self.events.append("resume")


class InboxTestCase(SynchronousTestCase):
    """An inbox for four messages."""

    def setUp(self) -> None:
        """Make it, and its source."""
        self.clock = Clock()
        self.inbox = Inbox(self.clock, 4)
        self.source = self.inbox.source = RecordingSource()

    def put(self, *messages: str | bytes) -> None:
        """Let messages arrive."""
        for message in messages:
            self.inbox.put(message)

    def take(self, count: int) -> list[str | bytes]:
        """Read messages."""
        return [self.inbox.take() for _ in range(count)]


class ReadingTests(InboxTestCase):
    """A full inbox pauses reading; reading resumes at half."""

    def test_order(self) -> None:
        """Messages are read in the order in which they arrived, after the end as well."""
        self.put("a", b"b")
        self.inbox.end()
        self.inbox.source = None
        self.assertEqual(len(self.inbox.messages), 2)
        self.assertEqual(self.take(2), ["a", b"b"])
        self.assertEqual(len(self.inbox.messages), 0)

    def test_messages(self) -> None:
        """The number of messages counts; reading is paused and resumed once."""
        self.put("a", "b", "c")
        self.assertEqual(self.source.events, [])
        self.put("d", "e")
        self.assertEqual(self.source.events, ["pause"])
        self.take(2)
        self.assertEqual(self.source.events, ["pause"])
        self.take(3)
        self.assertEqual(self.source.events, ["pause", "resume"])

    def test_bytes(self) -> None:
        """So does their size: a MiB is full, half a MiB is half."""
        self.put("a" * (1 << 19), "b" * ((1 << 19) - 1))
        self.assertEqual(self.source.events, [])
        self.put(b"c")
        self.assertEqual(self.source.events, ["pause"])
        self.take(1)
        self.assertEqual(self.source.events, ["pause", "resume"])

    def test_wide_characters(self) -> None:
        """Characters count as the bytes that they take, and arrive as they were sent."""
        long = ("a" * 1024 + "😀") * 100
        for text, size in (
            ("é" * 2048, 4096),
            ("😀" * 1024, 4096),
            ("😀" * 2048, 8192),
            (long, 102800),
        ):
            self.setUp()
            self.inbox = Inbox(self.clock, 10_000)
            self.inbox.source = self.source
            count = 0
            while not self.source.events:
                self.put(text)
                count += 1
            self.assertTrue(0.9 * (1 << 20) < count * size <= (1 << 20) + size, (text[-1], size))
            kept = sum(getsizeof(message) for message, *_ in self.inbox.messages)
            self.assertLess(kept, 1.1 * (1 << 20) + size)
            self.assertEqual(self.take(count), [text] * count)
            self.assertEqual(self.inbox._size, 0)

    @NO_DEADLINE
    @given(st.lists(st.tuples(st.text("aé😀", min_size=1, max_size=3), st.integers(1, 2000))))
    def test_size(self, messages: list[tuple[str, int]]) -> None:
        """Whatever arrives and is read, what is counted is what is kept."""
        for text, times in messages:
            for message in (text * times, text.encode() * times):
                self.put(message)
                self.assertEqual(self.take(1), [message])
                self.assertEqual(self.inbox._size, 0)

    def test_memory(self) -> None:
        """What waits counts with what Python needs for it; a message that is awaited does not."""
        self.inbox.wait(None)
        for message in ("awaited", "x" * 1000, b"yz"):
            self.inbox.put(message)
        self.assertEqual(self.inbox.memory, 1002 + 2 * 160)
        self.assertEqual(self.source.kept, self.inbox.memory)
        self.inbox.take()
        self.assertEqual(self.inbox.memory, 2 + 160)
        self.inbox.clear()
        self.assertEqual(self.inbox.memory, 0)

    def test_without_source(self) -> None:
        """After the connection is lost nothing is paused or resumed."""
        self.put("a", "b", "c", "d")
        self.inbox.source = None
        self.take(4)
        self.put("a", "b", "c", "d")
        self.assertEqual(self.source.events, ["pause"])


class WaitingTests(InboxTestCase):
    """One task may wait for the next message."""

    def test_message(self) -> None:
        """It gets the next message, which is not kept, and only that one."""
        waiting = self.inbox.wait(None)
        self.assertIs(self.inbox.waiter, waiting)
        self.put("a", "b")
        self.assertEqual(self.successResultOf(waiting), "a")
        self.assertIsNone(self.inbox.waiter)
        self.assertEqual(self.take(1), ["b"])

    def test_awaited(self) -> None:
        """A task that awaits the inbox itself gets the same, or a CancelledError if cancelled."""
        results: list[Any] = []
        self.inbox.start(results.append)
        self.assertIs(self.inbox.waiter, self.inbox)
        self.put("a", "b")
        self.assertIsNone(self.inbox.waiter)
        self.assertEqual(self.take(1), ["b"])
        self.inbox.start(results.append)
        self.inbox.end()
        self.inbox.start(results.append)
        self.inbox.cancel()
        self.inbox.cancel()
        self.assertIsNone(self.inbox.waiter)
        message, end, failure = results
        self.assertEqual((message, end), ("a", None))
        self.assertIsInstance(failure.value, CancelledError)
        self.put("c")
        self.assertEqual(self.take(1), ["c"])

    def test_end(self) -> None:
        """It gets None at the end; without a task that waits, the end changes nothing."""
        waiting = self.inbox.wait(5)
        self.inbox.end()
        self.assertIsNone(self.successResultOf(waiting))
        self.inbox.end()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_gathered(self) -> None:
        """If it gathers, a task that waits goes on when all has arrived, or at the end."""
        self.inbox.gathers = True
        self.inbox.deliver_gathered()
        for deliver in (self.inbox.deliver_gathered, self.inbox.end):
            waiting = self.inbox.wait(None)
            self.inbox.deliver_gathered()
            self.put("a", "b", "c", "d")
            self.assertNoResult(waiting)
            deliver()
            self.assertEqual(self.successResultOf(waiting), "a")
            self.assertIsNone(self.inbox.waiter)
            self.inbox.deliver_gathered()
            self.assertEqual(self.take(3), ["b", "c", "d"])
        waiting = self.inbox.wait(None)
        waiting.give_back("e")
        self.assertEqual(self.successResultOf(waiting), "e")
        waiting = self.inbox.wait(None)
        self.inbox.end()
        self.assertIsNone(self.successResultOf(waiting))

    def test_timeout(self) -> None:
        """After the timeout it gets a TimeoutError, and the next message is kept."""
        waiting = self.inbox.wait(2.5)
        self.clock.advance(2.5)
        failure = self.failureResultOf(waiting, TimeoutError)
        self.assertEqual(failure.getErrorMessage(), "no message within 2.5 s")
        self.put("a")
        self.assertEqual(self.take(1), ["a"])

    def test_in_time(self) -> None:
        """A message in time stops the timer, and so does cancelling."""
        waiting = self.inbox.wait(1)
        self.put("a")
        self.successResultOf(waiting)
        waiting = self.inbox.wait(1)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_given_back(self) -> None:
        """A message that came too late for its task is the next, or goes to the task that waits."""
        waiting = self.inbox.wait(None)
        self.put("a", "b", "c")
        waiting.give_back("a")
        waiting.give_back(None)
        self.assertEqual(self.take(3), ["a", "b", "c"])
        self.assertEqual(self.inbox.memory, 0)
        again = self.inbox.wait(None)
        waiting.give_back("d")
        self.assertEqual(self.successResultOf(again), "d")

    def test_odd_timeout(self) -> None:
        """After a timeout that the clock refuses, no task waits."""
        odd: Any = Decimal(1)
        self.assertRaises(TypeError, self.inbox.wait, odd)
        self.assertIsNone(self.inbox.waiter)
