"""Finds out which PushSchedules a Deferred waits for: those that cancelling it would cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from types import FunctionType, MethodType
from typing import Any

from twisted.internet.defer import Deferred

from pushd.schedule.ticks import PushSchedule


def awaited_schedules(deferred: Deferred[Any]) -> list[PushSchedule]:
    """Return the PushSchedules that a Deferred waits for, directly or through other Deferreds.

    These are found behind coroutines and generators (``Deferred.fromCoroutine``,
    ``inlineCallbacks``), and behind ``gatherResults`` and its like.
    """
    found: list[PushSchedule] = []
    seen: set[int] = set()
    rest: list[object] = [deferred]
    while rest:
        one = rest.pop()
        if isinstance(one, Deferred) and id(one) not in seen:
            seen.add(id(one))
            rest += _awaited(one)
        elif isinstance(one, PushSchedule):
            found.append(one)
    return found


def _awaited(deferred: Deferred[Any]) -> Iterator[object]:
    """Yield what a Deferred passes its cancellation on to.

    Twisted cannot be asked for that. A canceller knows it: it is a method of what is awaited, or a
    function that holds it.
    """
    if deferred.called:
        yield deferred.result  # Another Deferred, if it waits for that.
        return
    for held in vars(deferred).values():
        if isinstance(held, MethodType):
            yield held.__self__
        elif isinstance(held, FunctionType):
            for cell in held.__closure__ or ():
                with suppress(ValueError):  # It has no contents yet.
                    # Of a coroutine or a generator, it is the Deferred that this waits for.
                    yield getattr(cell.cell_contents, "waitingOn", None)
        elif isinstance(held, list):
            # A DeferredList; the list of callbacks holds tuples.
            yield from (one for one in held if isinstance(one, Deferred))
