"""Schedules of one process: the contract of all stores, and the cases of a single clock."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import TooManyScheduled, Unavailable
from pushd.topics import scheduled as module
from pushd.topics.broker import Draft, MemoryBroker
from pushd.topics.history import History, Retention
from pushd.topics.local_schedules import LocalSchedules
from pushd.topics.publication import Id
from pushd.topics.scheduled import (
    MAX_COUNT,
    MAX_DELAY,
    MIN_INTERVAL,
    ScheduledPublication,
    ScheduledPublications,
    ScheduleState,
)
from tests.support.schedule_contract import RULES, ScheduleNode

# The time of day when a clock starts, in seconds since 1970.
_START = 1.8e9


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


class LocalCluster:
    """One node in all roles."""

    durable = False

    def __init__(self) -> None:
        self.clock = Clock()
        self.node: ScheduleNode | None = None

    async def start(self, grace: float = 60) -> tuple[ScheduleNode, ScheduleNode]:
        """Start the node."""
        broker = MemoryBroker(self.clock, History(self.clock, Retention(size=1000), lambda: "e"))
        broker.start(lambda publication: None)
        store = LocalSchedules(self.clock, broker, wall=self.now, grace=grace)
        self.node = ScheduleNode(broker, store, number=1, wall=self.now, grace=grace)
        return self.node, self.node

    async def outage(self, seconds: float) -> tuple[ScheduleNode, ScheduleNode]:
        """Keep the reactor blocked for a while."""
        self.clock.advance(seconds)
        assert self.node is not None
        return self.node, self.node

    async def wait(self, seconds: float) -> None:
        """Let time pass in small steps."""
        for _ in range(round(seconds * 20)):
            self.clock.advance(0.05)

    def now(self) -> float:
        """Return the time of day."""
        return _START + self.clock.seconds()


class ContractTests(SynchronousTestCase):
    """The contract of all stores of schedules."""

    def test_rules(self) -> None:
        """A store in memory keeps every rule, and leaves no timer."""
        for rule in RULES:
            with self.subTest(rule=rule.__name__):
                cluster = LocalCluster()
                kept = Deferred.fromCoroutine(rule(cluster))
                self.assertIsNone(self.successResultOf(kept))
                assert cluster.node is not None
                self.successResultOf(cluster.node.scheduled.stop())
                cluster.node.broker.stop()
                self.assertEqual(cluster.clock.getDelayedCalls(), [])


class LocalSchedulesTests(SynchronousTestCase):
    """The schedules of a node, with a fake clock."""

    def setUp(self) -> None:
        """Start without schedules."""
        self.clock = Clock()
        self.broker = RecordingBroker(self.clock)
        ids = iter(range(1, 1000))
        self.changed: list[str] = []
        self.store = LocalSchedules(
            self.clock, self.broker, wall=self.now, grace=60, changed=self.changed.append
        )
        self.scheduled = ScheduledPublications(
            self.store, lambda: f"p{next(ids)}", wall=self.now, grace=60
        )
        self.scheduled.start()

    def now(self) -> float:
        """Return the time of day."""
        return _START + self.clock.seconds()

    def state(self, scheduled: ScheduledPublication) -> ScheduleState | None:
        """Return the state of a schedule."""
        return self.successResultOf(self.scheduled.describe(scheduled.id))

    def all(self) -> list[str]:
        """Return the ids of all schedules."""
        return [one.id for one in self.successResultOf(self.scheduled.all())]

    def stop(self) -> None:
        """Stop the schedules."""
        self.assertIsNone(self.successResultOf(self.scheduled.stop()))

    @property
    def times(self) -> list[float]:
        """The times of all publications."""
        return [round(time, 6) for time, _, _ in self.broker.published_at]

    def test_delay(self) -> None:
        """A delayed publication is made once, and its schedule forgotten."""
        scheduled = self.scheduled.add(Draft("t", b"x"), delay=2.5)
        state = ScheduleState(scheduled.id, "t", count=1, done=0, every=0, due=_START + 2.5)
        self.assertEqual(self.state(scheduled), state)
        self.assertEqual(self.successResultOf(scheduled.kept()), state)
        self.clock.advance(2.4)
        self.assertEqual(self.broker.published_at, [])
        self.clock.advance(0.1)
        self.assertEqual(self.broker.published_at, [(2.5, "t", b"x")])
        self.assertEqual(self.all(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_kind(self) -> None:
        """A publication keeps its event, and that it is JSON."""
        self.scheduled.add(Draft("t", "[1]", None, "paid", True), delay=1)
        self.clock.advance(1)
        self.assertEqual(self.broker.kinds, [("paid", True)])

    def test_pace(self) -> None:
        """Of ten publications every 0.5 s, the first is made at once, the last after 4.5 s."""
        scheduled = self.scheduled.add(Draft("t", "x"), every=0.5, count=10)
        state = self.state(scheduled)
        assert state is not None
        self.assertEqual((state.done, state.due), (1, _START + 0.5))
        for _ in range(50):
            self.clock.advance(0.125)
        self.assertEqual(self.times, [number * 0.5 for number in range(10)])
        self.assertIsNone(self.state(scheduled))
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
        self.stop()

    def test_limits(self) -> None:
        """Times at their limits are allowed."""
        self.scheduled.add(Draft("t", "x"), delay=MAX_DELAY, every=MIN_INTERVAL, count=MAX_COUNT)
        self.scheduled.add(Draft("t", "x"), delay=0, every=MAX_DELAY, count=1)
        self.assertEqual(len(self.broker.published_at), 1)
        self.stop()

    def test_too_many(self) -> None:
        """The number of schedules is limited; one that ends makes room."""
        self.patch(module, "MAX_SCHEDULED", 2)
        first = self.scheduled.add(Draft("t", "x"), delay=1)
        self.scheduled.add(Draft("t", "x"), delay=1)
        self.assertRaises(TooManyScheduled, self.scheduled.add, Draft("t", "x"), delay=1)
        first.cancel()
        self.scheduled.add(Draft("t", "x"), delay=1)
        self.stop()

    def test_too_much(self) -> None:
        """The bytes of all schedules are limited; one that ends makes room."""
        self.patch(module, "MAX_BYTES", 3000)
        first = self.scheduled.add(Draft("t", b"x" * 1000), every=1, count=2)
        self.scheduled.add(Draft("t", "x" * 1000), delay=5)
        self.assertTrue(2000 < self.store.bytes < 3000)
        refused = self.assertRaises(
            TooManyScheduled, self.scheduled.add, Draft("t", b"x" * 1000), delay=1
        )
        self.assertIn("3000 bytes", str(refused))
        self.clock.advance(1)
        self.assertNotIn(first.id, self.all())
        again = self.scheduled.add(Draft("t", b"x" * 1000), delay=1)
        self.assertTrue(self.successResultOf(again.cancel()))
        self.assertFalse(self.successResultOf(again.cancel()))
        self.stop()
        self.assertEqual(self.store.bytes, 0)

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
        self.assertNotIn(finite.id, self.all())
        self.scheduled.add(Draft("t", "x"), every=1, count=100)
        self.assertRaises(
            TooManyScheduled, self.scheduled.add, Draft("t", "x"), every=86400, count=2
        )
        first.cancel()
        first.cancel()
        self.scheduled.add(Draft("t", "x"), every=0.5, count=100)
        self.stop()
        self.assertEqual((self.store.rate, self.store.bytes), (0, 0))

    def test_cancel(self) -> None:
        """A cancelled schedule publishes nothing more; cancelling it again does nothing."""
        scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        other = self.scheduled.add(Draft("t", "y"), delay=3)
        self.clock.advance(1)
        scheduled.cancel()
        scheduled.cancel()
        self.assertEqual(self.all(), [other.id])
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
        self.assertEqual((self.all(), self.clock.getDelayedCalls()), ([], []))

    def test_cancel_while_publishing_first(self) -> None:
        """That also holds for its first publication, before ``add`` has returned the handle."""
        self.broker.react = lambda: self.scheduled.cancel(self.all()[0])
        scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        self.clock.advance(10)
        self.assertEqual((self.times, self.state(scheduled)), ([0], None))
        self.assertEqual((self.all(), self.clock.getDelayedCalls()), ([], []))

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
        self.assertEqual((self.all(), self.clock.getDelayedCalls()), ([], []))

    def test_failure(self) -> None:
        """A schedule whose publication fails is logged, and ends."""
        self.broker.answer = lambda: fail(Failing())
        with capturedLogs() as logs:
            scheduled = self.scheduled.add(Draft("t", "x"), every=1, count=10)
        self.assertEqual(self.all(), [])
        (event,) = logs
        self.assertEqual((event["id"], event["topic"]), (scheduled.id, "t"))
        self.assertEqual(len(self.flushLoggedErrors(Failing)), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unavailable(self) -> None:
        """While the broker is unavailable, a publication is tried again, which is logged once."""
        answers = [succeed(Id("e", 1)), *(fail(Unavailable("no disk")) for _ in range(3))]
        self.broker.answer = lambda: answers.pop(0) if answers else succeed(Id("e", 2))
        with capturedLogs() as logs:
            scheduled = self.scheduled.add(Draft("t", "x"), every=2, count=3)
            self.clock.pump([1, 1])
            state = self.state(scheduled)
            assert state is not None
            self.assertEqual((state.done, state.due), (1, _START + 2))
            self.clock.pump([1, 1, 1, 1])
        (event,) = logs
        self.assertEqual((event["number"], event["error"]), (2, "no disk"))
        self.assertEqual(self.times, [0, 2, 3, 4, 5, 5])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_unavailable_for_long(self) -> None:
        """What could not be published within the grace is dropped."""
        self.broker.answer = lambda: fail(Unavailable("no disk"))
        self.scheduled.add(Draft("t", "x"), delay=1)
        with capturedLogs() as logs:
            self.clock.pump([1] * 70)
        events = [event["event"] for event in logs]
        self.assertEqual(events, ["timed_push_late", "timed_push_dropped"])
        self.assertEqual((self.scheduled.dropped, self.all()), (1, []))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancel_while_unavailable(self) -> None:
        """A schedule that is cancelled while the broker refuses it ends."""
        refusing: Deferred[Id] = Deferred()
        self.broker.answer = lambda: refusing
        scheduled = self.scheduled.add(Draft("t", "x"), delay=1)
        self.broker.react = lambda: scheduled.cancel()
        self.broker.answer = lambda: fail(Unavailable("no disk"))
        self.clock.advance(1)
        self.assertEqual((self.all(), self.clock.getDelayedCalls()), ([], []))

    def test_cancel_while_publishing_last(self) -> None:
        """A schedule may also be cancelled during its last publication."""
        scheduled = self.scheduled.add(Draft("t", "x"), delay=1)
        self.broker.react = scheduled.cancel
        self.clock.advance(1)
        self.assertEqual((self.all(), self.store.bytes), ([], 0))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_pause(self) -> None:
        """After a pause nothing more is published, also if the broker answers after it."""
        waiting: list[Deferred[Id]] = [Deferred(), Deferred()]
        answers = list(waiting)
        self.broker.answer = lambda: answers.pop()
        for _ in range(2):
            self.scheduled.add(Draft("t", "x"), every=1, count=3)
        self.store.pause()
        self.scheduled.add(Draft("t", "x"), delay=0)
        waiting[0].callback(Id("e", 1))
        waiting[1].errback(Unavailable("no disk"))
        self.assertEqual(self.clock.getDelayedCalls(), [])
        states = self.successResultOf(self.scheduled.all())
        self.assertEqual([state.done for state in states], [0, 1, 0])

    def test_time(self) -> None:
        """A publication at a time of day keeps its delay if the system's clock is set later."""
        self.scheduled.add(Draft("t", "x"), at=_START + 5)
        self.scheduled.add(Draft("t", "y"), at=_START - 5)
        self.clock.advance(5)
        self.assertEqual(self.times, [0, 5])

    def test_changed(self) -> None:
        """Every change of a schedule is told, before the broker is asked to publish."""
        told: list[list[str]] = []
        self.broker.react = lambda: told.append(list(self.changed))
        self.scheduled.add(Draft("t", "x"), delay=1, every=1, count=2)
        self.assertEqual(self.changed, ["p1"])
        self.clock.pump([1, 1])
        self.assertEqual(told, [["p1"] * 2, ["p1"] * 3])
        self.assertEqual(self.changed, ["p1"] * 4)
        del self.changed[:]
        self.scheduled.add(Draft("t", "x"), delay=1).cancel()
        self.assertEqual(self.changed, ["p2", "p2"])

    def test_stop(self) -> None:
        """``stop`` cancels every schedule, and logs how many publications each still had."""
        self.scheduled.add(Draft("t", "secret"), every=1, count=10)
        self.scheduled.add(Draft("u", "secret"), delay=5)
        self.clock.advance(3)
        with capturedLogs() as logs:
            self.stop()
        self.assertEqual(
            [(event["id"], event["topic"], event["left"], event["count"]) for event in logs],
            [("p1", "t", 6, 10), ("p2", "u", 1, 1)],
        )
        self.assertNotIn("secret", str(logs))
        self.assertEqual((self.all(), self.clock.getDelayedCalls()), ([], []))
