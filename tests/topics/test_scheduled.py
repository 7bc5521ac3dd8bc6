"""Publications that come later, or again and again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import TooManyScheduled, Unavailable
from pushd.topics import scheduled as module
from pushd.topics.broker import MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.publication import Id
from pushd.topics.scheduled import MAX_COUNT, MAX_DELAY, MIN_INTERVAL, ScheduledPublications


class Failing(Exception):
    """What goes wrong in these tests."""


class Broker(MemoryBroker):
    """A broker that notes what is made when, and may do something about it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, History(clock, Retention(), lambda: "e"))
        self.clock = clock
        self.made: list[tuple[float, str, str | bytes]] = []
        self.react: Callable[[], object] = lambda: None
        self.answer: Callable[[], Deferred[Id]] = lambda: succeed(Id("e", 1))

    def publish(self, topic: str, data: str | bytes, key: str | None = None) -> Deferred[Id]:
        """Note it."""
        self.made.append((self.clock.seconds(), topic, data))
        self.react()
        return self.answer()


class TimedPushesTests(SynchronousTestCase):
    """All timed pushes of a node, under a clock."""

    def setUp(self) -> None:
        """Have none yet."""
        self.clock = Clock()
        self.broker = Broker(self.clock)
        ids = iter(range(1, 1000))
        self.timed = ScheduledPublications(self.clock, self.broker, lambda: f"p{next(ids)}")

    @property
    def times(self) -> list[float]:
        """When something was made."""
        return [round(time, 6) for time, _, _ in self.broker.made]

    def test_delay(self) -> None:
        """One that is delayed is made once, then; and is forgotten."""
        push = self.timed.add("t", b"x", delay=2.5)
        self.assertEqual((push.topic, push.count, push.done, push.every), ("t", 1, 0, 0))
        self.assertIs(self.timed.get(push.id), push)
        self.clock.advance(2.4)
        self.assertEqual(self.broker.made, [])
        self.clock.advance(0.1)
        self.assertEqual(self.broker.made, [(2.5, "t", b"x")])
        self.assertEqual((push.done, self.timed.all()), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pace(self) -> None:
        """Ten that come every half second: the first at once, the last after four and a half."""
        push = self.timed.add("t", "x", every=0.5, count=10)
        self.assertEqual((push.done, push.due), (1, 0.5))
        for _ in range(50):
            self.clock.advance(0.125)
        self.assertEqual(self.times, [number * 0.5 for number in range(10)])
        self.assertEqual((push.done, self.timed.get(push.id)), (10, None))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_drift(self) -> None:
        """A reactor that is late does not delay what comes behind."""
        self.timed.add("t", "x", delay=1, every=1, count=1000)
        for _ in range(1001):
            self.clock.advance(1.001)
        self.assertEqual(len(self.times), 1000)
        self.assertTrue(all(time - at - 1 < 1.01 for at, time in enumerate(self.times)))

    def test_late(self) -> None:
        """After a long pause all that was due comes at once, and the pace is as before."""
        self.timed.add("t", "x", every=1, count=5)
        self.clock.advance(2.5)
        self.assertEqual(self.times, [0, 2.5, 2.5])
        self.clock.advance(0.5)
        self.assertEqual(self.times[3:], [3])
        self.timed.stop()

    def test_bad_times(self) -> None:
        """Times that can't be are refused by their name, and nothing is kept."""
        bad: list[tuple[str, dict[str, Any]]] = [
            ("delay", {"delay": -1}),
            ("delay", {"delay": float("nan")}),
            ("delay", {"delay": MAX_DELAY + 1}),
            ("every", {"every": 1}),
            ("every", {"count": 1}),
            ("every", {"every": 0, "count": 1}),
            ("every", {"every": MIN_INTERVAL / 2, "count": 1}),
            ("every", {"every": float("inf"), "count": 1}),
            ("count", {"every": 1, "count": 0}),
            ("count", {"every": 1, "count": MAX_COUNT + 1}),
            ("count", {"every": 1, "count": 2.5}),
        ]
        for name, times in bad:
            error = self.assertRaises(ValueError, self.timed.add, "t", "x", **times)
            self.assertTrue(str(error).startswith(name), error)
        self.assertEqual((self.timed.all(), self.clock.getDelayedCalls()), ([], []))

    def test_limits(self) -> None:
        """What is just allowed is allowed."""
        self.timed.add("t", "x", delay=MAX_DELAY, every=MIN_INTERVAL, count=MAX_COUNT)
        self.timed.add("t", "x", delay=0, every=MAX_DELAY, count=1)
        self.assertEqual(len(self.broker.made), 1)
        self.timed.stop()

    def test_too_many(self) -> None:
        """There is a most; one that ends makes room."""
        self.patch(module, "MAX_SCHEDULED", 2)
        first = self.timed.add("t", "x", delay=1)
        self.timed.add("t", "x", delay=1)
        self.assertRaises(TooManyScheduled, self.timed.add, "t", "x", delay=1)
        first.cancel()
        self.timed.add("t", "x", delay=1)
        self.timed.stop()

    def test_too_much(self) -> None:
        """Nor may all of them hold more than so many bytes; one that ends makes room."""
        self.patch(module, "MAX_BYTES", 3000)
        first = self.timed.add("t", b"x" * 1000, every=1, count=2)
        self.timed.add("t", "x" * 1000, delay=5)
        self.assertTrue(2000 < self.timed.bytes < 3000)
        refused = self.assertRaises(TooManyScheduled, self.timed.add, "t", b"x" * 1000, delay=1)
        self.assertIn("3000 bytes", str(refused))
        self.clock.advance(1)
        self.assertNotIn(first, self.timed.all())
        again = self.timed.add("t", b"x" * 1000, delay=1)
        again.cancel()
        again.cancel()
        self.timed.stop()
        self.assertEqual(self.timed.bytes, 0)

    def test_cancel(self) -> None:
        """One that is cancelled publishes nothing more; cancelling again does nothing."""
        push = self.timed.add("t", "x", every=1, count=10)
        other = self.timed.add("t", "y", delay=3)
        self.clock.advance(1)
        push.cancel()
        push.cancel()
        self.assertEqual(self.timed.all(), [other])
        self.clock.advance(10)
        self.assertEqual([data for _, _, data in self.broker.made], ["x", "x", "y"])
        other.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_while_publishing(self) -> None:
        """One that is cancelled by somebody who hears it publishes nothing more."""
        push = self.timed.add("t", "x", delay=1, every=1, count=10)
        self.broker.react = push.cancel
        self.clock.advance(1)
        self.clock.advance(10)
        self.assertEqual(self.times, [1])
        self.assertEqual((self.timed.all(), self.clock.getDelayedCalls()), ([], []))

    def test_cancel_while_publishing_first(self) -> None:
        """That holds for its first publication, too, before anybody has its handle."""
        self.broker.react = lambda: self.timed.all()[0].cancel()
        push = self.timed.add("t", "x", every=1, count=10)
        self.clock.advance(10)
        self.assertEqual((self.times, push.done), ([0], 1))
        self.assertEqual((self.timed.all(), self.clock.getDelayedCalls()), ([], []))

    def test_cancel_while_another_publishes(self) -> None:
        """One that publishes because another one does is cancelled like any other."""
        outer = self.timed.add("t", "outer", delay=1, every=1, count=10)
        handles = []

        def react() -> None:
            if len(self.broker.made) == 1:
                handles.append(self.timed.add("t", "inner", every=1, count=5))
                outer.cancel()

        self.broker.react = react
        self.clock.advance(1)
        self.clock.advance(1)
        handles[0].cancel()
        self.clock.advance(10)
        self.assertEqual([data for _, _, data in self.broker.made], ["outer", "inner", "inner"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_on_the_way(self) -> None:
        """One whose publication is on its way to a broker far off is cancelled there."""
        cancelled: list[Deferred[Id]] = []
        self.broker.answer = lambda: Deferred(cancelled.append)
        push = self.timed.add("t", "x", every=1, count=10)
        self.clock.advance(5)
        self.assertEqual(self.times, [0])
        push.cancel()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual((self.timed.all(), self.clock.getDelayedCalls()), ([], []))

    def test_failure(self) -> None:
        """One that can't publish is logged with its name, and ends."""
        self.broker.answer = lambda: fail(Failing())
        with capturedLogs() as logs:
            push = self.timed.add("t", "x", every=1, count=10)
        self.assertEqual(self.timed.all(), [])
        (event,) = logs
        self.assertEqual((event["id"], event["topic"]), (push.id, "t"))
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unavailable(self) -> None:
        """What falls into a time when nothing can be published is lost and logged, no more."""
        answers = [succeed(Id("e", 1)), fail(Unavailable("no Redis")), succeed(Id("e", 2))]
        self.broker.answer = lambda: answers.pop(0)
        with capturedLogs() as logs:
            self.timed.add("t", "x", every=1, count=3)
            self.clock.pump([1, 1, 1])
        (event,) = logs
        self.assertEqual((event["number"], event["error"]), (2, "no Redis"))
        self.assertEqual(self.times, [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """A stop cancels all, and logs for each how much of it is lost."""
        self.timed.add("t", "secret", every=1, count=10)
        self.timed.add("u", "secret", delay=5)
        self.clock.advance(3)
        with capturedLogs() as logs:
            self.timed.stop()
        self.assertEqual(
            [(event["id"], event["topic"], event["left"], event["count"]) for event in logs],
            [("p1", "t", 6, 10), ("p2", "u", 1, 1)],
        )
        self.assertNotIn("secret", str(logs))
        self.assertEqual((self.timed.all(), self.clock.getDelayedCalls()), ([], []))
