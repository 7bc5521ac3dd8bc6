"""What pushd changes in Twisted's reactor: its polling and its clock."""

from __future__ import annotations

import select
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

from twisted.python import log

# Where the reactor is from whose look is shortened; others have a look of their own kind.
_EPOLL = "twisted.internet.epollreactor"


def quicken(reactor: Any, together: AbstractContextManager[object]) -> None:
    """Let a reactor that polls with epoll go straight to who can read.

    As it comes, it makes ten more calls of functions for each event, so that what is said to the
    log of ``twisted.python`` meanwhile has a prefix: a sixth of what an echo takes. Whatever is not
    just something to read goes Twisted's own way.

    :param together: entered where more than one has something.
    """
    if type(reactor).__module__ != _EPOLL:
        return
    poll, selectables = reactor._poller.poll, reactor._selectables
    something_to_read: int = select.EPOLLIN

    def look(timeout: float | None) -> None:
        events = poll(-1 if timeout is None else timeout, len(selectables))
        if len(events) > 1:
            with together:
                attend(events)
        else:
            attend(events)

    def attend(events: Iterable[tuple[int, int]]) -> None:
        for descriptor, event in events:
            selectable = selectables.get(descriptor)
            if selectable is None:
                continue  # One of those before has closed it.
            if event == something_to_read:
                _read(reactor, selectable)
            else:
                log.callWithLogger(
                    selectable, reactor._doReadOrWrite, selectable, descriptor, event
                )

    reactor.doIteration = look


def _read(reactor: Any, selectable: Any) -> None:
    """Let one read; if that ends it, or fails, end it."""
    try:
        why = selectable.doRead()
    except BaseException as error:  # Whatever it is, as in Twisted: the others go on.
        log.err()
        why = error
    if why:
        try:
            reactor._disconnectSelectable(selectable, why, True)
        except KeyboardInterrupt:
            raise
        except BaseException:  # Likewise.
            log.err()


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
