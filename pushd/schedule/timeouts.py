"""Thousands of timeouts with one timer: all of one length, or each at a time of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, KeysView
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Key = TypeVar("Key", bound=Hashable)

# How many keys expire in one iteration of the reactor. The end of a connection takes a third of a
# millisecond; that of thousands at once must not keep all others waiting.
_PORTION = 64


class TimeoutQueue(Generic[Key]):
    """Timeouts of one length, one for each key.

    Ten thousand connections that each wait 25 seconds need one delayed call, not ten thousand,
    because the first to start is the first to expire. The cost of starting, stopping and expiring
    does not depend on the number of keys. Without keys there is no timer. Of thousands that are due
    at the same time, a portion expires in each iteration of the reactor.

    :param clock: where timers come from.
    :param timeout: seconds from ``start`` to ``expired``.
    :param expired: called with each key that expires, after the key has been removed.
    """

    def __init__(
        self, clock: IReactorTime, *, timeout: float, expired: Callable[[Key], object]
    ) -> None:
        self._clock = clock
        self._timeout = timeout
        self._expired = expired
        # In order of expiry. An OrderedDict finds its first key at once; a plain dict has to skip
        # all that were deleted before it.
        self._due: OrderedDict[Key, float] = OrderedDict()
        #: The keys, which can be looked at without a function call.
        self.keys: KeysView[Key] = self._due.keys()
        self._call: IDelayedCall | None = None

    def __contains__(self, key: object) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._due)

    def start(self, key: Key, ago: float = 0.0) -> None:
        """Start the timeout of a key, or restart it.

        :param ago: for how long it has run already; that of no key before is shorter.
        """
        wait = max(0.0, self._timeout - ago)
        self._due.pop(key, None)
        self._due[key] = self._clock.seconds() + wait
        if self._call is None:
            self._call = self._clock.callLater(wait, self._expire)

    def stop(self, key: Key) -> None:
        """Remove a key; does nothing if it has no timeout."""
        self._due.pop(key, None)
        if not self._due and self._call is not None and self._call.active():
            self._call.cancel()
            self._call = None

    def change(self, timeout: float) -> None:
        """Change the length of all timeouts, including those that have begun."""
        later, self._timeout = timeout - self._timeout, timeout
        if not later:
            return
        for key in self._due:
            self._due[key] += later
        if self._call is not None:
            self._call.reset(max(0, self._first_due() - self._clock.seconds()))

    def _expire(self) -> None:
        now = self._clock.seconds()
        try:
            for _ in range(_PORTION):
                # A callback may start and stop keys, so the first key is looked up every time.
                if not self._due or self._first_due() > now:
                    break
                key = next(iter(self._due))
                del self._due[key]
                self._expired(key)
        finally:
            # Not before: a key that a callback starts must not set the timer to its own time, past
            # keys that are due sooner.
            self._call = None
            if self._due:
                self._call = self._clock.callLater(max(0, self._first_due() - now), self._expire)

    def _first_due(self) -> float:
        return next(iter(self._due.values()))


# Longest delay of the timer, in seconds: the time of day may have been changed by then.
_LONGEST = 60.0

# The heap may hold twice as many entries as there are keys, and this many more.
_SPARE = 64


class TimerHeap(Generic[Key]):
    """Timeouts at any time, one for each key: a heap knows the next.

    The entry of a key that was restarted or stopped stays in the heap until its time, or until
    such entries outnumber the others. Without keys there is no timer. Of thousands that are due at
    the same time, a portion expires in each iteration of the reactor.

    :param clock: where timers come from.
    :param now: the clock of the times, such as ``time.time``; it may be set forward and back.
    :param expired: called with each key that expires, after the key has been removed.
    """

    def __init__(
        self, clock: IReactorTime, *, now: Callable[[], float], expired: Callable[[Key], object]
    ) -> None:
        self._clock = clock
        self._now = now
        self._expired = expired
        self._numbers = count()
        # The valid entry of each key: its time, and a number that no other entry has.
        self._entries: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._call: IDelayedCall | None = None
        self._expiring = False

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        """Return the number of entries in the heap, including those that are no longer valid."""
        return len(self._heap)

    def start(self, key: Key, at: float) -> None:
        """Let a key expire at a time, which replaces any earlier one."""
        number = next(self._numbers)
        self._entries[key] = (at, number)
        heappush(self._heap, (at, number, key))
        self._drop_stale()
        self._set_timer()

    def stop(self, key: Key) -> None:
        """Remove a key; does nothing if it has no timeout."""
        if self._entries.pop(key, None) is not None:
            self._drop_stale()
            self._set_timer()

    def _drop_stale(self) -> None:
        """Drop entries that are no longer valid: at the top always, elsewhere if there are many."""
        if len(self._heap) > 2 * len(self._entries) + _SPARE:
            self._heap = [(*entry, key) for key, entry in self._entries.items()]
            heapify(self._heap)
        while self._heap and self._is_stale(self._heap[0]):
            heappop(self._heap)

    def _is_stale(self, item: tuple[float, int, Key]) -> bool:
        return self._entries.get(item[2]) != item[:2]

    def _set_timer(self) -> None:
        """Set the timer to the first entry; cancel it if there is no entry."""
        if self._expiring:
            return
        wait = None
        if self._heap:
            wait = min(max(0.0, self._heap[0][0] - self._now()), _LONGEST)
        if self._call is not None:
            if wait is not None and self._call.getTime() <= self._clock.seconds() + wait:
                return  # It is early enough, and is set again then.
            self._call.cancel()
            self._call = None
        if wait is not None:
            self._call = self._clock.callLater(wait, self._expire)

    def _expire(self) -> None:
        self._call = None
        now = self._now()
        # The timer is set once, at the end, however many keys callbacks start and stop.
        self._expiring = True
        try:
            for _ in range(_PORTION):
                if not self._heap or self._heap[0][0] > now:
                    break
                key = self._heap[0][2]
                del self._entries[key]
                self._drop_stale()
                self._expired(key)
        finally:
            self._expiring = False
            self._set_timer()
