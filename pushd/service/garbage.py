"""Python's garbage collector, kept from looking at everybody while they wait."""

from __future__ import annotations

import gc
import resource
from collections.abc import Callable
from typing import Any, ClassVar

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

# After so many objects more than there were, Python looks at these.
YOUNG = 2000

# How often it is asked whether all are to be looked at, in seconds.
PAUSE = 1.0

# All are looked at once in so many seconds. Where that takes long it is done more seldom, so that
# it takes no more than this part of the time; but so often at least.
INTERVAL = 60.0
SHARE = 0.001
MAX_INTERVAL = 600.0

# And whenever the process has become so many times as large as it was, and so many KiB larger: it
# may be with garbage.
GROWTH = 1.25
MIN_GROWTH = 64 << 10

# It is not by their number that Python looks at those who are older.
_NEVER = 1 << 30


def peak_memory() -> int:
    """The most memory that the process has had, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class GarbageService(Service):
    """Looks for garbage now and then, and not whenever some more live.

    Nearly all is freed when nobody refers to it any more. What refers to itself in a circle is not,
    and to find that, Python looks at every object there is: with thousands of connections nobody
    is served for a tenth of a second. As it comes, it does so each time a quarter more live, which
    is again and again while clients arrive. Here it looks at the young as ever, for a millisecond;
    those that outlive this are looked at together with all others once in a while.

    :param clock: where time comes from.
    :param collector: the module ``gc``, or one that does as it does.
    :param peak: gives the most memory that the process has had, in KiB.
    """

    _log = Logger(namespace="pushd.service")

    # Those that steer a collector: the last of them leaves it as the first has found it.
    _all: ClassVar[list[GarbageService]] = []

    def __init__(
        self, clock: IReactorTime, collector: Any = gc, peak: Callable[[], int] = peak_memory
    ) -> None:
        self._clock = clock
        self._collector = collector
        self._peak = peak
        self._before: tuple[int, int, int] | None = None
        self._call: IDelayedCall | None = None
        # How many seconds are left until all are looked at, and how large the process was then.
        self._left = 0.0
        self._size = 0

    def startService(self) -> None:
        """Set aside what is here by now, which stays to the end."""
        super().startService()
        others = [one._before for one in self._all if one._collector is self._collector]
        self._before = others[0] if others else self._collector.get_threshold()
        self._all.append(self)
        self._collector.set_threshold(YOUNG, _NEVER, _NEVER)
        self._look()
        self._call = self._clock.callLater(PAUSE, self._consider)

    def stopService(self) -> None:
        """Leave the collector as it was found."""
        super().stopService()
        if self._call is None or self._before is None:
            return
        self._call.cancel()
        self._call = None
        self._all.remove(self)
        if not any(one._collector is self._collector for one in self._all):
            self._collector.unfreeze()
            self._collector.set_threshold(*self._before)

    def _consider(self) -> None:
        self._call = self._clock.callLater(PAUSE, self._consider)
        self._left -= PAUSE
        peak = self._peak()
        if self._left <= 0 or peak > max(self._size * GROWTH, self._size + MIN_GROWTH):
            self._look()

    def _look(self) -> None:
        """Look at all that lives."""
        start = self._clock.seconds()
        self._collector.unfreeze()
        found = self._collector.collect()
        self._collector.freeze()
        seconds = max(0.0, self._clock.seconds() - start)
        self._left = min(max(INTERVAL, seconds / SHARE), MAX_INTERVAL)
        self._size = self._peak()
        self._log.debug(
            "found {found} objects of garbage in {seconds:.3f} s",
            event="garbage",
            found=found,
            seconds=seconds,
        )
