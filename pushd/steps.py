"""A coroutine that is run step by step."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextvars import copy_context
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

# How long one step may keep the reactor from everybody else, in seconds.
PATIENCE = 0.5


class Steps:
    """Runs a coroutine, and knows whether it runs and what it awaits when it does not.

    It does what ``Deferred.fromCoroutine`` does, for a fifth of the price: this is the way of
    every message, and leaves no circle of references behind. As there, the coroutine keeps its
    ``contextvars``.

    :param blocked: told the seconds of each step that takes longer than PATIENCE.
    :param done: told once what the coroutine returns, or the Failure that it raises.
    """

    __slots__ = ("_blocked", "_clock", "_context", "_coroutine", "_done", "awaited", "running")

    def __init__(
        self,
        coroutine: Coroutine[Deferred[Any], Any, Any],
        clock: IReactorTime,
        blocked: Callable[[float], object],
        done: Callable[[Any], object],
    ) -> None:
        self._coroutine = coroutine
        self._context = copy_context()
        self._clock = clock
        self._blocked = blocked
        self._done = done
        self.running = False
        self.awaited: Deferred[Any] | None = None

    def cancel(self) -> None:
        """Cancel what the coroutine awaits: it is told by a CancelledError there."""
        if self.awaited is not None:
            self.awaited.cancel()

    def advance(self, result: object = None) -> None:
        """Run the coroutine until it waits again, and be called back when that has happened."""
        self.running, self.awaited = True, None
        start = self._clock.seconds()
        try:
            if isinstance(result, Failure):
                awaited = self._context.run(result.throwExceptionIntoGenerator, self._coroutine)
            else:
                awaited = self._context.run(self._coroutine.send, result)
        except StopIteration as stop:
            returned, awaited = stop.value, None
        except BaseException:  # The task ends by it, and says so: CancelledError, too.
            returned, awaited = Failure(), None
        finally:
            self.running = False
            seconds = self._clock.seconds() - start
            if seconds > PATIENCE:
                self._blocked(seconds)
        if awaited is None:
            self._done(returned)
        else:
            self.awaited = awaited
            awaited.addBoth(self.advance)
