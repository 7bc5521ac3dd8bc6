"""Calls of functions that an operator names: on the reactor or in a thread, and in time."""

from __future__ import annotations

from asyncio import AbstractEventLoop
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pushd.schedule.asyncio_task import call_on_loop
from pushd.schedule.timeouts import TimeoutQueue
from pushd.views.request import Request
from pushd.views.runner import runs_on_reactor
from pushd.views.threads import Bridge, blocking

#: Seconds after which an answer comes too late.
TIMEOUT = 10


class Pool(Protocol):
    """A thread pool with a queue."""

    def callInThread(self, function: Callable[..., Any], /) -> object:
        """Call a function in a thread, once one is free."""


class FunctionCalls:
    """Calls one function, whose first argument is a request.

    One that is ``async def`` or returns a Deferred runs on the reactor, any other in a thread. It
    has ten seconds to answer, with the time in which it waits for a thread.

    :param threads: how to get from a thread to the reactor.
    :param pool: the threads in which it runs.
    :param limit: how many of them it may use at a time.
    :param loop: asyncio's event loop, if the reactor runs on one.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        clock: IReactorTime,
        *,
        threads: Bridge,
        pool: Pool,
        limit: int,
        loop: AbstractEventLoop | None,
    ) -> None:
        self._function = function
        self._clock = clock
        self._threads = threads
        self._pool = pool
        self._loop = loop
        self._free = DeferredSemaphore(limit)
        self._timeouts: TimeoutQueue[FunctionCall] = TimeoutQueue(
            clock, timeout=TIMEOUT, expired=FunctionCall.expire
        )

    def start(self, request: Request, *args: Any) -> FunctionCall:
        """Call the function; what it returns comes to ``answered``."""
        call = FunctionCall(partial(call_on_loop, self._clock, self._loop))
        self._timeouts.start(call)
        call.answered.addBoth(self._stop, call)
        if runs_on_reactor(self._function):
            call.run(partial(self._function, request, *args))
        else:
            request = blocking(request, self._threads)
            self._run_in_thread(call, partial(self._function, request, *args))
        return call

    def _stop(self, outcome: Any, call: FunctionCall) -> Any:
        self._timeouts.stop(call)
        return outcome

    def _run_in_thread(self, call: FunctionCall, function: Callable[[], Any]) -> None:
        """Call the function in a thread once one is free, unless that is too late."""

        def work() -> None:
            outcome: Any = None
            try:
                if not call.answered.called:
                    outcome = function()
            except BaseException:  # SystemExit, too, ends nothing but the request.
                outcome = Failure()
            self._threads.call(partial(finished, outcome))

        def finished(outcome: Any) -> None:
            self._free.release()
            # A function that looks like a plain one may return a coroutine.
            call.run(lambda: outcome)

        call.work = free = self._free.acquire()
        free.addCallbacks(lambda _: self._pool.callInThread(work), lambda _: None)


class FunctionCall:
    """One call of the function, until it has answered, is late, or its client is gone.

    :param call: calls a function; returns a Deferred of its result.
    """

    def __init__(self, call: Callable[[Callable[[], Any]], Deferred[Any]]) -> None:
        self._call = call
        #: Fires with what the function returns, or its Failure.
        self.answered: Deferred[Any] = Deferred(self._cancel)
        #: What can be cancelled: a wait for a thread, or the function on the reactor.
        self.work: Deferred[Any] | None = None
        self.is_cancelled = self.is_late = False

    def run(self, function: Callable[[], Any]) -> None:
        """Call a function on the reactor, and wait for what it returns."""
        self.work = self._call(function)
        self.work.addBoth(self._finish)

    def expire(self) -> None:
        """Give up: it is late."""
        self.is_late = True
        self._end()
        self._finish(None)

    def _cancel(self, _: object) -> None:
        self.is_cancelled = True
        self._end()

    def _end(self) -> None:
        assert self.work is not None  # It is set as soon as the call is made.
        self.work.cancel()

    def _finish(self, outcome: Any) -> None:
        if not self.answered.called:
            self.answered.callback(outcome)
