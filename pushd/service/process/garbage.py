"""Garbage collection once a minute, so that pushes are not late because of it, and free memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from ctypes import CDLL
from typing import Any

from twisted.application.service import Service
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

_log = Logger(namespace="pushd.service")

#: How many new objects start a collection of the youngest generation.
YOUNG = 2000

#: Seconds between two full collections.
INTERVAL = 60.0

# A threshold that is never reached: Python starts no collection of older generations.
_NEVER = 1 << 30


def find_trim() -> Callable[[], object]:
    """Return what gives freed memory back to the system: glibc's malloc_trim(3), or nothing.

    glibc itself gives back only what is free at the end of its heap. What subscribers had unsent
    lies between objects that stay: after 4,000 were cut off at 64 KiB each, 250 MiB stayed
    resident. To give them back took 25 ms; it takes less than 0.1 ms if there is nothing to give.
    """
    trim = getattr(CDLL(None), "malloc_trim", None)
    return (lambda: None) if trim is None else (lambda: trim(0))


class GarbageService(Service):
    """Tunes Python's garbage collector while the daemon runs.

    Nearly every object is freed as soon as nothing refers to it; the collector is needed for
    reference cycles only. By default it examines all objects each time their number has grown by a
    quarter. With thousands of connections that takes a tenth of a second, again and again while
    clients connect. With this service it examines young objects as usual, which takes about a
    millisecond, and older ones once a minute. The objects that exist at the start, such as modules,
    are frozen: they are never examined again. Then memory that is free is given back to the system.

    :param clock: where time comes from.
    :param collector: the module ``gc``, or a fake of it.
    :param trim: gives memory back to the system; None for ``find_trim``.
    """

    def __init__(
        self,
        clock: IReactorTime,
        collector: Any = gc,
        trim: Callable[[], object] | None = None,
    ) -> None:
        self._clock = clock
        self._collector = collector
        self._trim = trim or find_trim()
        self._thresholds: tuple[int, int, int] | None = None
        self._call: IDelayedCall | None = None

    def startService(self) -> None:
        """Freeze what exists, and take over the timing of full collections."""
        super().startService()
        self._thresholds = self._collector.get_threshold()
        self._collector.set_threshold(YOUNG, _NEVER, _NEVER)
        self._collector.collect()
        self._collector.freeze()
        self._call = self._clock.callLater(INTERVAL, self._collect)

    def stopService(self) -> None:
        """Restore the collector's thresholds, and unfreeze."""
        super().stopService()
        if self._call is None or self._thresholds is None:
            return
        self._call.cancel()
        self._call = None
        self._collector.unfreeze()
        self._collector.set_threshold(*self._thresholds)

    def _collect(self) -> None:
        self._call = self._clock.callLater(INTERVAL, self._collect)
        start = self._clock.seconds()
        found = self._collector.collect()
        self._trim()
        _log.debug(
            "garbage collection found {found} unreachable objects in {seconds:.3f} s",
            event="garbage",
            found=found,
            seconds=max(0.0, self._clock.seconds() - start),
        )
