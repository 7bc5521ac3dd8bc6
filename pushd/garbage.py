"""Python's garbage collector, kept from looking at everybody while they wait."""

from __future__ import annotations

import gc
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

# After so many objects more than there were, Python looks at these.
YOUNG = 2000

# How often those that have outlived this are set aside, in seconds.
PAUSE = 1.0

# All are looked at once in so many seconds, but not for more than this part of the time.
INTERVAL = 60.0
SHARE = 0.001

# Sooner where so many have been set aside since, and as many as there were: they may be garbage.
MANY = 1_000_000

# It is not by their number that Python looks at those who are older.
_NEVER = 1 << 30


class GarbageService(Service):
    """Looks for garbage now and then, and not whenever some more live.

    Nearly all is freed when nobody refers to it any more. What refers to itself in a circle is not,
    and to find that, Python looks at every object there is: with thousands of connections nobody
    is served for a tenth of a second. As it comes, it does so each time a quarter more live, which
    is again and again while clients arrive. Here it looks at the young as ever, for a millisecond;
    those that outlive this are set aside, and looked at together with all others once in a while.

    :param clock: where time comes from.
    :param collector: the module ``gc``, or one that does as it does.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime, collector: Any = gc) -> None:
        self._clock = clock
        self._collector = collector
        self._before: tuple[int, int, int] | None = None
        self._call: IDelayedCall | None = None
        # When all are looked at next, how many there were the last time, and how many have been
        # set aside since.
        self._due = 0.0
        self._lived = 0
        self._new = 0

    def startService(self) -> None:
        """Set aside what is here by now, which stays to the end."""
        super().startService()
        self._before = self._collector.get_threshold()
        self._collector.set_threshold(YOUNG, _NEVER, _NEVER)
        self._look()
        self._call = self._clock.callLater(PAUSE, self._set_aside)

    def stopService(self) -> None:
        """Leave the collector as it was found."""
        super().stopService()
        if self._call is not None and self._before is not None:
            self._call.cancel()
            self._call = None
            self._collector.unfreeze()
            self._collector.set_threshold(*self._before)

    def _set_aside(self) -> None:
        self._call = self._clock.callLater(PAUSE, self._set_aside)
        # So often the young have been looked at since.
        self._new += YOUNG * self._collector.get_count()[1]
        self._collector.freeze()
        if self._clock.seconds() >= self._due or self._new > max(MANY, self._lived):
            self._look()

    def _look(self) -> None:
        """Look at all that lives."""
        start = self._clock.seconds()
        self._collector.unfreeze()
        found = self._collector.collect()
        self._collector.freeze()
        seconds = self._clock.seconds() - start
        self._due = start + max(INTERVAL, seconds / SHARE)
        self._lived, self._new = self._collector.get_freeze_count(), 0
        self._log.debug(
            "found {found} objects of garbage among {lived} in {seconds:.3f} s",
            event="garbage",
            found=found,
            lived=self._lived,
            seconds=seconds,
        )
