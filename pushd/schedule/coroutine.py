"""Runs coroutines: Task, and CheapAwaitable, which a Task awaits without a Deferred."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

#: What a view has to be told that awaits something of asyncio's on another event loop.
NEEDS_ASYNCIO = "to await what is asyncio's, start pushd with --loop asyncio (docs/asyncio.md)"

#: A step of a coroutine that holds the reactor for longer is reported, in seconds.
SLOW_STEP = 0.5


async def _do_nothing() -> None:
    """Be the coroutine of a task that was dropped."""


_DROPPED = _do_nothing()
_DROPPED.close()

# Marks a coroutine that has not returned; no coroutine returns it.
_NOTHING = object()

# The task whose step runs at this moment. Steps nest if one of them resumes another task.
_current: Task | None = None


def current_task() -> Task | None:
    """Return the task whose step runs at this moment, or None outside of all steps."""
    return _current


class CheapAwaitable:
    """Something to await that costs a Task less than a Deferred does.

    ``await`` yields the awaitable itself to whatever runs the coroutine. There are two cases:

    * A Task calls ``start`` with its own ``advance``: no other object is created. The coroutine
      goes on with what ``advance`` is then called with.
    * ``Deferred.fromCoroutine`` sends back at once what it is given, as it is no Deferred. Sent
      itself, the awaitable yields a Deferred next, whose creation calls ``start``.

    A push costs 8 µs this way, and 17 µs with a Deferred. A subclass implements ``start`` and
    ``cancel``. It may be awaited any number of times, by one coroutine at a time.
    """

    __slots__ = ()

    def __await__(self) -> Generator[Any, Any, Any]:
        result = yield self
        if result is self:
            result = yield self.as_deferred()
        return result

    def start(self, resume: Callable[..., object]) -> None:
        """Start to wait.

        :param resume: to be called at the end, with what ``await`` returns, or with the Failure
            that it raises; without an argument it returns None.
        """
        raise NotImplementedError

    def cancel(self) -> None:
        """End the wait at once, with a CancelledError."""
        raise NotImplementedError

    def as_deferred(self) -> Deferred[object]:
        """Start to wait, and return a Deferred of the end of the wait."""
        waiting: Deferred[object] = Deferred(self._cancel_deferred)
        self.start(lambda result=None: waiting.callback(result))
        return waiting

    def _cancel_deferred(self, _: Deferred[object]) -> None:
        self.cancel()


class Awaited(Protocol):
    """What a coroutine awaits: a Deferred, a CheapAwaitable or a future of asyncio's."""

    def cancel(self) -> object:
        """End the wait."""


class Task:
    """Runs a coroutine, and knows whether it is running and, if not, what it awaits.

    It does what ``Deferred.fromCoroutine`` does at a fifth of the cost, which counts because
    every message and every push resumes a coroutine, and it leaves no reference cycle behind.
    The coroutine has a copy of the current ``contextvars`` context, as it has there.

    :param blocked: called with the seconds of each step that takes longer than SLOW_STEP.
    :param done: called once, with what the coroutine returns or the Failure that it raises.
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
        self.awaited: Awaited | None = None

    def drop(self) -> None:
        """Close the coroutine; it never runs again, even if it ignores that.

        ``done`` is not called. Nothing that it raises matters, not even that it goes on to await.
        """
        global _current
        coroutine, self._coroutine = self._coroutine, _DROPPED
        self._done = id  # Of what it awaits now.
        outer, _current = _current, self
        with suppress(BaseException):
            self._context.run(coroutine.close)
        _current = outer

    def advance(self, result: object = None) -> None:
        """Run the coroutine up to its next ``await``, and again as soon as that has a result.

        :param result: what the current ``await`` returns, or the Failure that it raises.
        """
        global _current
        self.running, self.awaited = True, None
        outer, _current = _current, self
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
        except BaseException:  # Passed on as the outcome, even a CancelledError.
            returned = Failure()
        finally:
            self.running = False
            _current = outer
            seconds = self._clock.seconds() - start
            if seconds > SLOW_STEP:
                self._blocked(seconds)
        if returned is not _NOTHING:
            self._done(returned)
            for failure in (result, returned):
                if isinstance(failure, Failure):
                    # Its traceback refers to this frame and its callers, which refer to it.
                    failure.cleanFailure()
        elif isinstance(awaited, CheapAwaitable):
            self.awaited = awaited
            try:
                awaited.start(self.advance)
            except Exception:  # For the coroutine, whose ``await`` could not start.
                self.advance(Failure())
        elif isinstance(awaited, Deferred):
            self.awaited = awaited
            awaited.addBoth(self.advance)
        else:
            self._await_other(awaited)

    def _await_other(self, awaited: object) -> None:
        """Let the coroutine know that it cannot await this."""
        self.advance(Failure(TypeError(f"cannot await {awaited!r}: {NEEDS_ASYNCIO}")))
