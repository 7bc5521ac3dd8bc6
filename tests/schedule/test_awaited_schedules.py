"""The PushSchedules that a Deferred waits for."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from twisted.internet.defer import Deferred, DeferredList, gatherResults, inlineCallbacks
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.awaited_schedules import awaited_schedules
from pushd.schedule.ticks import PushSchedule


class AwaitedSchedulesTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Make a schedule."""
        self.clock = Clock()
        self.schedule = PushSchedule(self.clock, count=None, interval=1, delay=1)

    async def tick(self) -> None:
        """Wait for the schedule in a coroutine."""
        async for _ in self.schedule:
            pass

    async def nested(self) -> None:
        """Wait for it behind another Deferred."""
        await Deferred.fromCoroutine(self.tick())

    @inlineCallbacks
    def generator(self) -> Generator[Deferred[Any], Any, None]:
        """Wait for it in a generator."""
        yield Deferred.fromCoroutine(self.tick())

    def assert_found(self, deferred: Deferred[Any], expected: int = 1) -> None:
        """Check how often the schedule is found behind a Deferred, and that cancelling ends it."""
        self.assertEqual(awaited_schedules(deferred), [self.schedule] * expected)
        deferred.addErrback(lambda _: None)
        deferred.cancel()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_coroutines(self) -> None:
        """It is found behind coroutines and generators, however deep."""
        for wait in (self.tick, self.nested):
            self.assert_found(Deferred.fromCoroutine(wait()))
        self.assert_found(self.generator())

    def test_lists(self) -> None:
        """It is found behind lists of Deferreds, among others."""
        combine: Any
        for combine in (DeferredList, gatherResults):
            later: Deferred[None] = deferLater(self.clock, 5)
            ticks = Deferred.fromCoroutine(self.nested())
            self.assert_found(combine([later, ticks, Deferred()], consumeErrors=True))

    def test_chained(self) -> None:
        """It is found behind a Deferred that a callback has returned."""
        start: Deferred[None] = Deferred()
        start.addCallback(lambda _: Deferred.fromCoroutine(self.tick()))
        start.callback(None)
        self.assert_found(start)

    def test_shared(self) -> None:
        """It is found once if two Deferreds wait for the same one."""
        ticks = Deferred.fromCoroutine(self.tick())
        both: Deferred[Any] = gatherResults([ticks, ticks], consumeErrors=True)
        self.assert_found(both)

    def test_others(self) -> None:
        """A schedule that a Deferred only mentions, or that has ended, is not found."""
        ticks = Deferred.fromCoroutine(self.tick())
        schedule = self.schedule
        self.assertEqual(awaited_schedules(Deferred(lambda _: schedule.cancel())), [])
        start: Deferred[None] = Deferred()
        start.addCallback(lambda _: ticks)
        self.assertEqual(awaited_schedules(start), [])
        self.assertEqual(awaited_schedules(Deferred(lambda _: not_yet.cancel())), [])
        not_yet = ticks
        fired: Deferred[None] = Deferred()
        fired.callback(None)
        self.assertEqual(awaited_schedules(fired), [])
        self.assert_found(ticks)
        self.assertEqual(awaited_schedules(ticks), [])
