"""Scheduled publications: later, or repeatedly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import TooManyScheduled, Unavailable
from pushd.topics import scheduled as module
from pushd.topics.broker import Draft, MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.publication import Id
from pushd.topics.scheduled import MAX_COUNT, MAX_DELAY, MIN_INTERVAL, ScheduledPublications


class Failing(Exception):
    """Raised where a test wants something to fail."""


class RecordingBroker(MemoryBroker):
    """A broker that records what is published and when, and may react to it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, History(clock, Retention(), lambda: "e"))
        self.clock = clock
        self.published_at: list[tuple[float, str, str | bytes]] = []
        self.kinds: list[tuple[str | None, bool]] = []
        self.react: Callable[[], object] = lambda: None
        self.answer: Callable[[], Deferred[Id]] = lambda: succeed(Id("e", 1))

    def publish(
        self,
        topic: str,
        data: str | bytes,
        key: str | None = None,
        event: str | None = None,
        is_json: bool = False,
    ) -> Deferred[Id]:
        """Record the call."""
        self.published_at.append((self.clock.seconds(), topic, data))
        self.kinds.append((event, is_json))
        self.react()
        return self.answer()


class ScheduledPublicationsTests(SynchronousTestCase):
    """The schedules of a node, with a fake clock."""

    def setUp(self) -> None:
        """Start without schedules."""
        self.clock = Clock()
        self.broker = RecordingBroker(self.clock)
        ids = iter(range(1, 1000))
        self.scheduled = ScheduledPublications(self.clock, self.broker, lambda: f"p{next(ids)}")

    @property
    def times(self) -> list[float]:
        """The times of all publications."""
        return [round(time, 6) for time, _, _ in self.broker.published_at]

    def test_delay(self) -> None:
        """A delayed publication is made once, and its schedule forgotten."""
        scheduled = self.scheduled.add(Draft("t", b"x"), delay=2.5)
        self.assertEqual(
            (scheduled.topic, scheduled.count, scheduled.done, scheduled.every), ("t", 1, 0, 0)
        )
        self.assertIs(self.scheduled.get(scheduled.id), scheduled)
        self.clock.advance(2.4)
        self.assertEqual(self.broker.published_at, [])
        self.clock.advance(0.1)
        self.assertEqual(self.broker.published_at, [(2.5, "t", b"x")])
        self.assertEqual((scheduled.done, self.scheduled.all()), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_kind(self) -> None:
        """A publication keeps its event, and that it is JSON."""
        self.scheduled.add(Draft("t", "[1]", None, "paid", True), delay=1)
        self.clock.advance(1)
        self.assertEqual(self.broker.kinds, [("paid", True)])

    def test_pace(self) -> None:
        """Of ten publications every 0.5 s, the first is made at once, the last after 4.5 s."""
        scheduled = self.scheduled.add(Draft("t", "x"), every=0.5, count=10)
        self.assertEqual((scheduled.done, scheduled.due), (1, 0.5))
        for _ in range(50):
            self.clock.advance(0.125)
        self.assertEqual(self.times, [number * 0.5 for number in range(10)])
        self.assertEqual((scheduled.done, self.scheduled.get(scheduled.id)), (10, None))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_drift(self) -> None:
        """A late reactor does not delay the later publications."""
        self.scheduled.add(Draft("t", "x"), delay=1, every=1, count=1000)
        for _ in range(1001):
            self.clock.advance(1.001)
        self.assertEqual(len(self.times), 1000)
        self.assertTrue(all(time - at - 1 < 1.01 for at, time in enumerate(self.times)))

    def test_late(self) -> None:
        """After a long pause everything due is made at once, and the pace stays the same."""
        self.scheduled.add(Draft("t", "x"), every=1, count=5)
        self.clock.advance(2.5)
        self.assertEqual(self.times, [0, 2.5, 2.5])
        self.clock.advance(0.5)
        self.assertEqual(self.times[3:], [3])
        self.scheduled.stop()

    def test_bad_times(self) -> None:
        """An invalid time raises ValueError with the parameter's name, and nothing is scheduled."""
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
            error = self.assertRaises(ValueError, self.scheduled.add, Draft("t", "x"), **times)
            self.assertTrue(str(error).startswith(name), error)
        self.assertEqual((self.scheduled.all(), self.clock.getDelayedCalls()), ([], []))

    def test_limits(self) -> None:
        """Times at their limits are allowed."""
        self.scheduled.add(Draft("t", "x"), delay=MAX_DELAY, every=MIN_INTERVAL, count=MAX_COUNT)
        self.scheduled.add(Draft("t", "x"), delay=0, every=MAX_DELAY, count=1)
        self.assertEqual(len(self.broker.published_at), 1)
        self.scheduled.stop()

    def test_too_many(self) -> None:
        """The number of schedules is limited; one that ends makes room."""
        self.patch(module, "MAX_SCHEDULED", 2)
        first = self.scheduled.add(Draft("t", "x"), delay=1)
        self.scheduled.add(Draft("t", "x"), delay=1)
        self.assertRaises(TooManyScheduled, self.scheduled.add, Draft("t", "x"), delay=1)
        first.cancel()
        self.scheduled.add(Draft("t", "x"), delay=1)
        self.scheduled.stop()

    def test_too_much(self) -> None:
        """The bytes of all schedules are limited; one that ends makes room."""
        self.patch(module, "MAX_BYTES", 3000)
        first = self.scheduled.add(Draft("t", b"x" * 1000), every=1, count=2)
        self.scheduled.add(Draft("t", "x" * 1000), delay=5)
        self.assertTrue(2000 < self.scheduled.bytes < 3000)
        refused = self.assertRaises(
            TooManyScheduled, self.scheduled.add, Draft("t", b"x" * 1000), delay=1
        )
        self.assertIn("3000 bytes", str(refused))
        self.clock.advance(1)
        self.assertNotIn(first, self.scheduled.all())
        again = self.scheduled.add(Draft("t", b"x" * 1000), delay=1)
        again.cancel()
        again.cancel()
        self.scheduled.stop()
        self.assertEqual(self.scheduled.bytes, 0)

    def test_too_often(self) -> None:
        """The rate of all schedules together is limited; one that ends makes room."""
        self.patch(module, "MAX_RATE", 3)
        first = self.scheduled.add(Draft("t", "x"), every=0.5, count=100)
        # What is published once has no rate.
        self.scheduled.add(Draft("t", "x"), delay=1)
        self.scheduled.add(Draft("t", "x"), delay=1, every=0.01, count=1)
        finite = self.scheduled.add(Draft("t", "x"), every=1, count=2)
        refused = self.assertRaises(
            TooManyScheduled, self.scheduled.add, Draft("t", "x"), every=4, count=2
        )
        self.assertIn("3 a second: others make 3, this one 0.25", str(refused))
        self.clock.advance(1)
        self.assertNotIn(finite, self.scheduled.all())
        self.scheduled.add(Draft("t", "x"), every=1, count=100)
        self.assertRaises(
            TooManyScheduled, self.scheduled.add, Draft("t", "x"), every=86400, count=2
        )
        first.cancel()
        first.cancel()
        self.scheduled.add(Draft("t", "x"), every=0.5, count=100)
        self.scheduled.stop()
        self.assertEqual((self.scheduled.rate, self.scheduled.bytes), (0, 0))

    def test_cancel(self) -> None:
        """A cancelled schedule publishes nothing more; cancelling it again does nothing."""
        scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        other = self.scheduled.add(Draft("t", "y"), delay=3)
        self.clock.advance(1)
        scheduled.cancel()
        scheduled.cancel()
        self.assertEqual(self.scheduled.all(), [other])
        self.clock.advance(10)
        self.assertEqual([data for _, _, data in self.broker.published_at], ["x", "x", "y"])
        other.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_while_publishing(self) -> None:
        """A schedule that is cancelled during its own publication publishes nothing more."""
        scheduled = self.scheduled.add(Draft("t", "x"), delay=1, every=1, count=10)
        self.broker.react = scheduled.cancel
        self.clock.advance(1)
        self.clock.advance(10)
        self.assertEqual(self.times, [1])
        self.assertEqual((self.scheduled.all(), self.clock.getDelayedCalls()), ([], []))

    def test_cancel_while_publishing_first(self) -> None:
        """That also holds for its first publication, before ``add`` has returned the handle."""
        self.broker.react = lambda: self.scheduled.all()[0].cancel()
        scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        self.clock.advance(10)
        self.assertEqual((self.times, scheduled.done), ([0], 1))
        self.assertEqual((self.scheduled.all(), self.clock.getDelayedCalls()), ([], []))

    def test_cancel_while_another_publishes(self) -> None:
        """A schedule that was made during a publication is cancelled like any other."""
        outer = self.scheduled.add(Draft("t", "outer"), delay=1, every=1, count=10)
        handles = []

        def react() -> None:
            if len(self.broker.published_at) == 1:
                handles.append(self.scheduled.add(Draft("t", "inner"), every=1, count=5))
                outer.cancel()

        self.broker.react = react
        self.clock.advance(1)
        self.clock.advance(1)
        handles[0].cancel()
        self.clock.advance(10)
        self.assertEqual(
            [data for _, _, data in self.broker.published_at], ["outer", "inner", "inner"]
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_on_the_way(self) -> None:
        """Cancelling a schedule cancels a publication that the broker has not answered yet."""
        cancelled: list[Deferred[Id]] = []
        self.broker.answer = lambda: Deferred(cancelled.append)
        scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        self.clock.advance(5)
        self.assertEqual(self.times, [0])
        scheduled.cancel()
        self.assertEqual(len(cancelled), 1)
        self.assertEqual((self.scheduled.all(), self.clock.getDelayedCalls()), ([], []))

    def test_failure(self) -> None:
        """A schedule whose publication fails is logged, and ends."""
        self.broker.answer = lambda: fail(Failing())
        with capturedLogs() as logs:
            scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        self.assertEqual(self.scheduled.all(), [])
        (event,) = logs
        self.assertEqual((event["id"], event["topic"]), (scheduled.id, "t"))
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unavailable(self) -> None:
        """While the broker is unavailable, publications are skipped and logged."""
        answers = [succeed(Id("e", 1)), fail(Unavailable("no Redis")), succeed(Id("e", 2))]
        self.broker.answer = lambda: answers.pop(0)
        with capturedLogs() as logs:
            self.scheduled.add(Draft("t", "x"), every=1, count=3)
            self.clock.pump([1, 1, 1])
        (event,) = logs
        self.assertEqual((event["number"], event["error"]), (2, "no Redis"))
        self.assertEqual(self.times, [0, 1, 2])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stop(self) -> None:
        """``stop`` cancels every schedule, and logs how many publications each still had."""
        self.scheduled.add(Draft("t", "secret"), every=1, count=10)
        self.scheduled.add(Draft("u", "secret"), delay=5)
        self.clock.advance(3)
        with capturedLogs() as logs:
            self.scheduled.stop()
        self.assertEqual(
            [(event["id"], event["topic"], event["left"], event["count"]) for event in logs],
            [("p1", "t", 6, 10), ("p2", "u", 1, 1)],
        )
        self.assertNotIn("secret", str(logs))
        self.assertEqual((self.scheduled.all(), self.clock.getDelayedCalls()), ([], []))
