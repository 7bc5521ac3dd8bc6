"""What is checked of scheduled publications, and their handles; the stores have a contract."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import TooManyScheduled, Unavailable
from pushd.topics.broker import Draft
from pushd.topics.scheduled import (
    MAX_COUNT,
    MAX_DELAY,
    MIN_INTERVAL,
    RATE_PERIOD,
    Dropped,
    Schedule,
    ScheduledPublications,
    ScheduleState,
)


class RecordingStore:
    """A store that keeps what it is given, and answers when it is told to."""

    durable = True

    def __init__(self) -> None:
        self.schedules: list[Schedule] = []
        self.answers: list[Deferred[ScheduleState]] = []
        self.cancelled: list[str] = []
        self.lost: list[ScheduleState] = []

    def start(self, dropped: Any) -> None:
        """Remember what to call."""
        self.dropped = dropped

    def add(self, schedule: Schedule) -> Deferred[ScheduleState]:
        """Keep a schedule."""
        self.schedules.append(schedule)
        self.answers.append(Deferred())
        return self.answers[-1]

    def cancel(self, id: str) -> Deferred[bool]:
        """Remember what is cancelled."""
        self.cancelled.append(id)
        return succeed(True)

    def describe(self, id: str) -> Deferred[ScheduleState | None]:
        """Know nothing."""
        return succeed(None)

    def all(self) -> Deferred[list[ScheduleState]]:
        """Return what is lost by a stop."""
        return succeed(self.lost)

    def stop(self) -> Deferred[list[ScheduleState]]:
        """Return what is lost."""
        return succeed(self.lost)


class ScheduledPublicationsTests(SynchronousTestCase):
    """What is passed to a store, and what is refused."""

    def setUp(self) -> None:
        """Start at the thousandth second of 1970."""
        self.store = RecordingStore()
        self.scheduled = ScheduledPublications(
            self.store, lambda: "id", wall=lambda: 1000.0, grace=10
        )
        self.scheduled.start()

    def test_bad_times(self) -> None:
        """An invalid time raises ValueError with the parameter's name, and nothing is scheduled."""
        bad: list[tuple[str, dict[str, Any]]] = [
            ("at", {"at": 1000.0, "delay": 0}),
            ("at", {"at": 1000 - 10.1}),
            ("at", {"at": 1000 + MAX_DELAY + 0.1}),
            ("at", {"at": float("nan")}),
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
        self.assertEqual(self.store.schedules, [])

    def test_schedule(self) -> None:
        """A schedule has all that was given; seconds may be of any type of number."""
        draft = Draft("t", "x")
        self.scheduled.add(draft, delay=Decimal("1.5"), every=1, count=3)  # type: ignore[arg-type]  # what programs compute
        self.scheduled.add(draft, at=1000 + MAX_DELAY)
        self.scheduled.add(draft, at=990.0)
        self.scheduled.add(draft, delay=-0.5)
        self.assertEqual(
            self.store.schedules,
            [
                Schedule(id="id", draft=draft, delay=1.5, every=1, count=3),
                Schedule(id="id", draft=draft, delay=0, at=1000 + MAX_DELAY),
                Schedule(id="id", draft=draft, delay=0, at=990),
                Schedule(id="id", draft=draft, delay=0),
            ],
        )
        rates = [schedule.rate for schedule in self.store.schedules]
        self.assertEqual(rates, [RATE_PERIOD, 0, 0, 0])

    def test_bad_time(self) -> None:
        """An error about a time of day says how far away it is."""
        for at, expected in ((900.0, "100 seconds ago"), (99_999.0, "98999 seconds from now")):
            error = self.assertRaises(ValueError, self.scheduled.add, Draft("t", "x"), at=at)
            self.assertIn(expected, str(error))

    def test_kept(self) -> None:
        """``kept`` gives the state, to all that ask, before and after it is known."""
        scheduled = self.scheduled.add(Draft("t", "x"), delay=1)
        early = [scheduled.kept(), scheduled.kept()]
        self.assertNoResult(early[0])
        state = ScheduleState("id", "t", 1, 0, 0, 1001)
        self.store.answers[0].callback(state)
        for one in (*early, scheduled.kept()):
            self.assertIs(self.successResultOf(one), state)

    def test_not_kept(self) -> None:
        """So with an error, which is not logged then."""
        scheduled = self.scheduled.add(Draft("t", "x"), delay=1)
        early = [scheduled.kept(), scheduled.kept()]
        with capturedLogs() as events:
            self.store.answers[0].errback(TooManyScheduled("too many"))
        for one in (*early, scheduled.kept()):
            self.failureResultOf(one, TooManyScheduled)
        self.assertEqual(events, [])

    def test_nobody_waits(self) -> None:
        """If nobody has asked, an error is logged."""
        self.scheduled.add(Draft("t", "secret"), delay=1)
        with capturedLogs() as events:
            self.store.answers[0].errback(Unavailable("no disk"))
        (event,) = events
        self.assertEqual((event["event"], event["error"]), ("timed_push_refused", "no disk"))
        self.assertNotIn("secret", str(events))

    def test_keep(self) -> None:
        """One who waits until it is kept is told of an error, which is not logged."""
        kept = self.scheduled.keep(Draft("t", "x"), delay=1)
        state = ScheduleState("id", "t", 1, 0, 0, 1001)
        self.store.answers[0].callback(state)
        self.assertIs(self.successResultOf(kept), state)
        refused = self.scheduled.keep(Draft("t", "x"), every=1, count=2)
        with capturedLogs() as events:
            self.store.answers[1].errback(Unavailable("no disk"))
        self.failureResultOf(refused, Unavailable)
        self.assertEqual(events, [])
        self.assertEqual([one.count for one in self.store.schedules], [1, 2])
        self.assertRaises(ValueError, self.scheduled.keep, Draft("t", "x"), delay=-1)

    def test_cancel(self) -> None:
        """A handle cancels its schedule at the store."""
        self.assertTrue(self.successResultOf(self.scheduled.add(Draft("t", "x")).cancel()))
        self.assertEqual(self.store.cancelled, ["id"])
        self.assertTrue(self.scheduled.durable)

    def test_dropped(self) -> None:
        """What a store drops is counted, and logged in one line."""
        with capturedLogs() as events:
            self.store.dropped(Dropped("id", "t", number=3, count=9))
        self.assertEqual(self.scheduled.dropped, 3)
        (event,) = events
        self.assertEqual(
            (event["event"], event["number"], event["count"], event["grace"]),
            ("timed_push_dropped", 3, 9, 10),
        )

    def test_stop(self) -> None:
        """What is lost by a stop is logged, with what was left of it."""
        self.store.lost = [ScheduleState("id", "t", 9, 4, 1, 1001)]
        with capturedLogs() as events:
            self.assertIsNone(self.successResultOf(self.scheduled.stop()))
        (event,) = events
        self.assertEqual((event["event"], event["left"], event["count"]), ("timed_push_lost", 5, 9))
