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


# What no coroutine returns.
_NOTHING = object()


class CheapAwaitable:
    """What a coroutine waits for, at less than the price of a Deferred.

    Whoever runs the coroutine is given this by ``yield``. Steps calls ``begin``; all others give it
    back, as Twisted does with what is no Deferred, and are given ``as_deferred()``.
    """

    __slots__ = ()

    def begin(self, go_on: Callable[..., object]) -> None:
        """Wait, and call ``go_on`` once that is over: without anything, or with a Failure."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Let it be over at once, with a CancelledError."""
        raise NotImplementedError

    def as_deferred(self) -> Deferred[object]:
        """Begin, for somebody who knows only Deferreds."""
        waiting: Deferred[object] = Deferred(lambda _: self.cancel())
        self.begin(lambda result=None: waiting.callback(result))
        return waiting


class Task:
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
        coroutine: Coroutine[Any, Any, Any],
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
        self.awaited: Deferred[Any] | CheapAwaitable | None = None

    def advance(self, result: object = None) -> None:
        """Run the coroutine until it waits again, and be called back when that has happened."""
        self.running, self.awaited = True, None
        start = self._clock.seconds()
        awaited: object = None
        returned: object = _NOTHING
        try:
            if isinstance(result, Failure):
                awaited = self._context.run(result.throwExceptionIntoGenerator, self._coroutine)
            else:
                awaited = self._context.run(self._coroutine.send, result)
        except StopIteration as stop:
            returned = stop.value
        except BaseException:  # The task ends by it, and says so: CancelledError, too.
            returned = Failure()
        finally:
            self.running = False
            seconds = self._clock.seconds() - start
            if seconds > PATIENCE:
                self._blocked(seconds)
        if returned is not _NOTHING:
            self._done(returned)
            for failure in (result, returned):
                if isinstance(failure, Failure):
                    # Its traceback holds this frame, and all that called it, which hold it in turn.
                    failure.cleanFailure()
        elif isinstance(awaited, CheapAwaitable):
            self.awaited = awaited
            try:
                awaited.begin(self.advance)
            except Exception:  # It is the coroutine's own to know that it can't wait.
                self.advance(Failure())
        elif isinstance(awaited, Deferred):
            self.awaited = awaited
            awaited.addBoth(self.advance)
        else:
            wrong = f"it awaits {awaited!r}: what asyncio makes needs Deferred.fromFuture"
            self.advance(Failure(TypeError(wrong)))
