"""Timeouts by the thousand on one timer: of one length, or each at its own time."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Key = TypeVar("Key", bound=Hashable)


class TimeoutQueue(Generic[Key]):
    """A time-out for each of many keys, all of the same length.

    Ten thousand connections that each wait 25 seconds need one delayed call, not ten thousand:
    as all wait equally long, the one that started first is due first. Starting, stopping and
    expiring cost the same however many keys there are, and no timer is left when none is.

    :param clock: where time comes from.
    :param timeout: seconds from ``start`` to ``expired``.
    :param expired: called with the key when its time is up; the key is forgotten by then.
    """

    def __init__(
        self, clock: IReactorTime, *, timeout: float, expired: Callable[[Key], object]
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._expired = expired
        # Insertion order is the order of expiry, as all keys wait equally long.
        # A plain dict finds its first key only past all that were taken out before it.
        self._due: OrderedDict[Key, float] = OrderedDict()
        self._call: IDelayedCall | None = None

    def __contains__(self, key: object) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._due)

    def start(self, key: Key) -> None:
        """Give the key its full time from now on, whether it was waiting or not."""
        self._due.pop(key, None)
        self._due[key] = self._clock.seconds() + self._timeout
        if self._call is None:
            self._call = self._clock.callLater(self._timeout, self._expire)

    def stop(self, key: Key) -> None:
        """Forget the key; nothing happens when it was not waiting."""
        self._due.pop(key, None)
        if not self._due and self._call is not None and self._call.active():
            self._call.cancel()
            self._call = None

    def _expire(self) -> None:
        now = self._clock.seconds()
        try:
            # A callback may start and stop keys, so the first is looked up anew each time.
            while self._due and self._first_due() <= now:
                key = next(iter(self._due))
                del self._due[key]
                self._expired(key)
        finally:
            # Only now, so that a key that a callback starts does not arm a timer for its own
            # later time in front of those that are due sooner.
            self._call = None
            if self._due:
                self._call = self._clock.callLater(max(0, self._first_due() - now), self._expire)

    def _first_due(self) -> float:
        return next(iter(self._due.values()))


# The longest that a timer is set for, in seconds: by then the time of day may have been set.
_LONGEST = 60.0

# So many forgotten moments may stand beside the others, and as many again as there are others.
_SLACK = 64


class TimerHeap(Generic[Key]):
    """A moment for each of many keys at which it expires.

    ``TimeoutQueue`` serves waits of one length; these come in any order: a heap knows the next.
    A moment that was moved or forgotten stays in the heap until its time, or until there are more
    of those than of others. No timer is left when there is no key.

    :param clock: where timers come from.
    :param now: the time by which the moments go. It may be set, forward and back.
    :param expired: called with the key when its moment is there; the key is forgotten by then.
    """

    def __init__(
        self, clock: IReactorTime, *, now: Callable[[], float], expired: Callable[[Key], object]
    ) -> None:
        self._clock = clock
        self._now = now
        self._expired = expired
        self._numbers = count()
        # Each key's entry in the heap: its moment, and a number that tells it from older ones.
        self._entries: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._call: IDelayedCall | None = None
        self._expiring = False

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        """How many moments the heap holds, the forgotten ones as well."""
        return len(self._heap)

    def start(self, key: Key, at: float) -> None:
        """Let a key expire at a moment, in place of any other that it had."""
        number = next(self._numbers)
        self._entries[key] = (at, number)
        heappush(self._heap, (at, number, key))
        self._tidy()
        self._set_timer()

    def stop(self, key: Key) -> None:
        """Forget a key; nothing happens if it was not known."""
        if self._entries.pop(key, None) is not None:
            self._tidy()
            self._set_timer()

    def _tidy(self) -> None:
        """Take out what was forgotten: at the top always, elsewhere where it is too much."""
        if len(self._heap) > 2 * len(self._entries) + _SLACK:
            self._heap = [(*entry, key) for key, entry in self._entries.items()]
            heapify(self._heap)
        while self._heap and self._is_stale(self._heap[0]):
            heappop(self._heap)

    def _is_stale(self, item: tuple[float, int, Key]) -> bool:
        return self._entries.get(item[2]) != item[:2]

    def _set_timer(self) -> None:
        """Wait for the first moment, and for nothing where there is none."""
        if self._expiring:
            return
        wait = None
        if self._heap:
            wait = min(max(0.0, self._heap[0][0] - self._now()), _LONGEST)
        if self._call is not None:
            if wait is not None and self._call.getTime() <= self._clock.seconds() + wait:
                return  # It comes early enough, and looks again then.
            self._call.cancel()
            self._call = None
        if wait is not None:
            self._call = self._clock.callLater(wait, self._expire)

    def _expire(self) -> None:
        self._call = None
        now = self._now()
        # Only the end sets a timer, however many are started and stopped meanwhile.
        self._expiring = True
        try:
            while self._heap and self._heap[0][0] <= now:
                key = self._heap[0][2]
                del self._entries[key]
                self._tidy()
                self._expired(key)
        finally:
            self._expiring = False
            self._set_timer()
