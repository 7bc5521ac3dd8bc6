"""Time that only goes forward, whatever is done to the clock on the wall."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def make_steady(reactor: Any, monotonic: Callable[[], float]) -> None:
    """Let the time of a Twisted reactor go by a clock that nobody sets.

    As it comes, it goes by the clock on the wall. When that is set back by an hour, all that waits
    waits an hour more; when it is set forward, an hour of pushes is due at once. What waits already
    waits as long as it was to. It is no time of day any more: who needs that asks for it.

    :param monotonic: seconds from any moment on. (This very function: it is asked some sixty times
        for each browser of the demo, and another around it would take as long again.)
    """
    offset = monotonic() - reactor.seconds()
    reactor.seconds = monotonic
    for call in (*reactor._newTimedCalls, *reactor._pendingTimedCalls):
        call.time += offset
        # By which it is put off.
        call.seconds = monotonic
