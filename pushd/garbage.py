"""Python's garbage collector, kept from looking at everybody while they wait."""

from __future__ import annotations

import gc

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

# How often all that lives is looked at, in seconds.
INTERVAL = 60.0

# Of so many new objects the young are looked at, then after so many times those who have outlived
# that; and after so many times of those, all. The last makes a million objects: who makes so many
# in less than the interval, may make garbage as fast.
THRESHOLDS = (2000, 10, 50)


class GarbageService(Service):
    """Looks for garbage now and then, and not whenever some more live.

    Nearly all is freed when nobody refers to it any more. What refers to itself in a circle is not,
    and to find that, Python looks at every object there is: with thousands of connections nobody
    is served for a tenth of a second. As it comes, it does so each time a quarter more live, which
    is again and again while clients arrive. Here it does so once in a while, and leaves out what
    was there at the start; the young are looked at as ever.

    :param clock: where time comes from.
    """

    _log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._before = gc.get_threshold()
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Set aside what is here by now, which stays to the end."""
        super().startService()
        self._before = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*THRESHOLDS)
        self._call = self._clock.callLater(INTERVAL, self._look)

    def stopService(self) -> None:
        """Leave the collector as it was found."""
        super().stopService()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        gc.unfreeze()
        gc.set_threshold(*self._before)

    def _look(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._look)
        start = self._clock.seconds()
        found = gc.collect()
        self._log.debug(
            "found {found} objects of garbage in {seconds:.3f} s",
            event="garbage",
            found=found,
            seconds=self._clock.seconds() - start,
        )
