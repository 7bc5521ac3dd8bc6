"""Many time-outs of one length on one timer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime

Key = TypeVar("Key", bound=Hashable)


class Deadlines(Generic[Key]):
    """A time-out for each of many keys, all of the same length.

    Ten thousand connections that each wait 25 seconds need one delayed call, not ten thousand:
    as all wait equally long, the one that started first is due first. Starting, stopping and
    expiring cost the same however many keys there are, and no timer is left when none is.

    :param clock: where time comes from.
    :param length: seconds from ``start`` to ``expired``.
    :param expired: called with the key when its time is up; the key is forgotten by then.
    """

    def __init__(
        self, clock: IReactorTime, *, length: float, expired: Callable[[Key], object]
    ) -> None:
        self._clock = clock
        self._length = length
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
        self._due[key] = self._clock.seconds() + self._length
        if self._call is None:
            self._call = self._clock.callLater(self._length, self._expire)

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
