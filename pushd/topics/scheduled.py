"""Publications that come later, or again and again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from sys import getsizeof
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import TooManyScheduled, Unavailable
from pushd.schedule.ticks import PushSchedule
from pushd.topics.broker import Broker
from pushd.topics.publication import Id

_log = Logger(namespace="pushd.topics")

# How far ahead, how often and how many of them at once.
MAX_DELAY = 86_400.0
MIN_INTERVAL = 0.01
MAX_COUNT = 1_000_000
MAX_PUSHES = 10_000
# How many bytes all of them hold.
MAX_BYTES = 64 << 20


@dataclass(eq=False, slots=True)
class ScheduledPublication:
    """One publication that waits for its time, or its times. ``cancel()`` ends it."""

    id: str
    topic: str
    #: How many publications it makes in all, and how many of them are made.
    count: int
    done: int
    #: Seconds between them.
    every: float
    #: When the next is due, in seconds of the daemon's clock.
    due: float
    cancel: Callable[[], object]
    #: What it holds in memory, in bytes.
    size: int = 0
    #: Whether it is in the midst of a publication just now.
    publishing: bool = False
    #: What it waits for.
    running: Deferred[None] | None = None


class ScheduledPublications:
    """All timed pushes of this node. They end with it: nothing of them is kept.

    :param make_id: gives a new random name.
    """

    def __init__(self, clock: IReactorTime, broker: Broker, make_id: Callable[[], str]) -> None:
        self._clock = clock
        self._broker = broker
        self._make_id = make_id
        self._pushes: dict[str, ScheduledPublication] = {}
        #: What all of them hold in memory, in bytes.
        self.bytes = 0

    def add(
        self,
        topic: str,
        data: str | bytes,
        *,
        delay: float = 0,
        every: float | None = None,
        count: int | None = None,
    ) -> ScheduledPublication:
        """Publish after a delay in seconds, and then again every so many, so many times.

        Raises ValueError for times that can't be, and TooMany when there are too many already.
        """
        if not 0 <= delay <= MAX_DELAY:
            raise ValueError(f"delay is a number of seconds from 0 to {MAX_DELAY:g}")
        if (every is None) != (count is None):
            raise ValueError("every and count go together")
        if every is not None and not MIN_INTERVAL <= every <= MAX_DELAY:
            raise ValueError(f"every is a number of seconds from {MIN_INTERVAL} to {MAX_DELAY:g}")
        if count is not None and not (isinstance(count, int) and 1 <= count <= MAX_COUNT):
            raise ValueError(f"count is a whole number from 1 to {MAX_COUNT}")
        if len(self._pushes) >= MAX_PUSHES:
            raise TooManyScheduled(f"there are {MAX_PUSHES} timed pushes already")
        size = getsizeof(data)
        if self.bytes + size > MAX_BYTES:
            raise TooManyScheduled(f"timed pushes hold {self.bytes} of {MAX_BYTES} bytes already")
        interval = every or MAX_DELAY
        schedule = PushSchedule(self._clock, count=count or 1, interval=interval, delay=delay)
        push = ScheduledPublication(
            id=self._make_id(),
            topic=topic,
            count=count or 1,
            done=0,
            every=every or 0,
            due=self._clock.seconds() + delay,
            cancel=lambda: self._cancel(push),
            size=size,
        )
        self._pushes[push.id] = push
        self.bytes += size
        push.running = Deferred.fromCoroutine(self._run(push, data, schedule))
        push.running.addErrback(self._ended, push)
        return push

    def get(self, id: str) -> ScheduledPublication | None:
        """The timed push of this name, if it still has something to do."""
        return self._pushes.get(id)

    def all(self) -> list[ScheduledPublication]:
        """Those that still have something to do, the oldest first."""
        return list(self._pushes.values())

    def stop(self) -> None:
        """Cancel all, and log each: this is what is lost."""
        for push in self.all():
            _log.warn(
                "timed push {id} to {topic} is lost with this stop: {left} of {count} to come",
                event="timed_push_lost",
                id=push.id,
                topic=push.topic,
                left=push.count - push.done,
                count=push.count,
            )
            push.cancel()

    async def _run(
        self, push: ScheduledPublication, data: str | bytes, schedule: PushSchedule
    ) -> None:
        try:
            async for number in schedule:
                push.done = number + 1
                push.due += push.every
                try:
                    await self._publish(push, data)
                except Unavailable as error:
                    _log.warn(
                        "timed push {id} to {topic}: number {number} is lost: {error}",
                        id=push.id,
                        topic=push.topic,
                        number=push.done,
                        error=str(error),
                    )
                if push.done == push.count or push.id not in self._pushes:
                    return
        finally:
            self._forget(push)

    def _publish(self, push: ScheduledPublication, data: str | bytes) -> Deferred[Id]:
        push.publishing = True
        try:
            return self._broker.publish(push.topic, data)
        finally:
            push.publishing = False

    def _cancel(self, push: ScheduledPublication) -> None:
        known = self._forget(push)
        # One whose own publication makes somebody cancel it looks for itself, and ends.
        if known and not push.publishing and push.running is not None:
            push.running.cancel()

    def _forget(self, push: ScheduledPublication) -> bool:
        """Take it out; False for one that is out already."""
        known = self._pushes.pop(push.id, None) is not None
        if known:
            self.bytes -= push.size
        return known

    def _ended(self, failure: Failure, push: ScheduledPublication) -> Any:
        if failure.check(CancelledError) is None:
            _log.failure(
                "timed push {id} to {topic} failed",
                failure=failure,
                event="timed_push_failed",
                id=push.id,
                topic=push.topic,
            )
