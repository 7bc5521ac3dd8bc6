"""Runs views, on the reactor or in a thread, and ends them when their client is gone."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from functools import lru_cache
from typing import Any, Protocol, cast

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, FirstError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import ConversationOver
from pushd.schedule.coroutine import SLOW_STEP, CheapAwaitable, Task
from pushd.schedule.timeouts import TimeoutQueue
from pushd.views.request import Request, View, name_of

_log = Logger(namespace="pushd.views")

# The grace period: how long a view may run after the end of its conversation, in seconds.
GRACE = 5.0


class Threads(Protocol):
    """Where blocking views run."""

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view in a thread; the Deferred fires with its result or its Failure.

        If the view returns a Deferred or a coroutine, that one's result is meant. Raises
        ThreadsBusy if no thread is free.
        """

    def stop(self) -> None:
        """Accept no more views, and end each thread when its view ends."""


class ViewRunner:
    """What all runs of views share: the clock, the threads, and the grace periods.

    :param clock: where time comes from.
    :param threads: where blocking views run.
    """

    def __init__(self, clock: IReactorTime, threads: Threads) -> None:
        self.clock = clock
        self.threads = threads
        #: Runs whose conversation is over.
        self.graces: TimeoutQueue[ViewRun] = TimeoutQueue(
            clock, timeout=GRACE, expired=ViewRun.grace_expired
        )
        self._warned: set[str] = set()

    def warn_blocked(self, view: View, seconds: float) -> None:
        """Warn, once per view, that a view kept the reactor busy for that many seconds."""
        name = name_of(view)
        if name not in self._warned:
            self._warned.add(name)
            _log.warn(
                "{view} blocked the reactor for {seconds:.3f} s: everything else had to wait; "
                "make it a plain def, which runs in a thread",
                event="view_blocked",
                view=name,
                seconds=seconds,
            )


class _State(Enum):
    """Where a view runs."""

    NEW = "it has not been called"
    IN_THREAD = "in a thread, where nothing can cancel it"
    ON_REACTOR = "on the reactor"
    FINISHED = "it has returned or raised"


class ViewRun:
    """One call of a view, for one request over HTTP or a WebSocket, until the view ends.

    A run on the reactor can be ended from outside::

        running ── end ──> notified by its WebSocket if it waits for that, else cancelled
                   │
                   view_notified ──> grace period ── grace_expired ──> cancelled, and again
                                                                       after another grace period

    A view in a thread is not cancelled: it notices the end when it next uses its WebSocket.

    :param done: called once with what the view returns, or the Failure that it raises.
    """

    __slots__ = (
        "__weakref__",
        "_done",
        "_peer",
        "_request",
        "_runner",
        "_state",
        "_view",
        "_websocket",
        "_work",
    )

    def __init__(
        self, runner: ViewRunner, view: View, request: Request, done: Callable[[Any], object]
    ) -> None:
        self._runner = runner
        self._view = view
        # Only until the view is called, which may drop its request before it ends.
        self._request: Request | None = request
        self._websocket = request.websocket
        self._peer = request.peer
        self._done: Callable[[Any], object] | None = done
        self._state = _State.NEW
        # What a view on the reactor has returned and has yet to finish: its coroutine, as a Task,
        # or its Deferred.
        self._work: Task | Deferred[Any] | None = None

    @property
    def running(self) -> bool | None:
        """Whether the view is what runs at this moment; None if that is unknown."""
        if isinstance(self._work, Task):
            return self._work.running
        return False if self._state is _State.FINISHED else None

    def start(self) -> None:
        """Call the view, on the reactor or in a thread. It may have ended when this returns.

        Raises ThreadsBusy if it needs a thread and none is free.
        """
        request, self._request = self._request, None
        assert request is not None
        if not _runs_on_reactor(self._view):
            self._state = _State.IN_THREAD
            self._runner.threads.run(self._view, request).addBoth(self._finish)
            return
        self._state = _State.ON_REACTOR
        if self._websocket is not None:
            self._websocket.belong_to(self)
        clock = self._runner.clock
        began = clock.seconds()
        try:
            result = self._view(request)
        except BaseException:  # Whatever it is ends the view, and is reported.
            result = Failure()
        del request
        # A Task measures each of its steps; of a Deferred's work this is all that can be measured.
        seconds = clock.seconds() - began
        if seconds > SLOW_STEP:
            self._warn_blocked(seconds)
        if inspect.iscoroutine(result):
            self._work = task = Task(result, clock, self._warn_blocked, self._finish)
            task.advance()
        elif isinstance(result, Deferred):
            self._work = result
            result.addBoth(self._finish)
        else:
            self._finish(result)
            if isinstance(result, Failure):
                result.cleanFailure()  # Its traceback refers to this frame, and this to it.

    def end(self) -> None:
        """End the view, as its client is gone; ``view_notified`` follows.

        A view that waits for its own WebSocket is notified by that; any other is cancelled.
        """
        if self._work is None or self.running:
            return  # It is in a thread, is being called, or has ended.
        awaited = self._work.awaited if isinstance(self._work, Task) else None
        websocket = self._websocket
        if websocket is None or not websocket.will_notify(awaited):
            self._cancel()

    def view_notified(self) -> None:
        """Start the grace period: by now the view has been notified, or cancelled."""
        if self._state is _State.ON_REACTOR:
            self._runner.graces.start(self)

    def grace_expired(self) -> None:
        """Cancel a view that outlived its grace; re-arm the timer in case it ignores that."""
        _log.warn(
            "{view} is still running {grace:g} s after the end of its conversation with {peer}: "
            "cancelled",
            event="view_cancelled",
            view=name_of(self._view),
            peer=self._peer,
            grace=GRACE,
        )
        self._runner.graces.start(self)
        self._cancel()

    def _cancel(self) -> None:
        """Cancel what the view waits for."""
        work = self._work
        awaited = work.awaited if isinstance(work, Task) else work
        if awaited is None:
            return  # It runs, or has not returned what could be cancelled.
        if isinstance(awaited, CheapAwaitable):
            awaited.cancel()
            return
        try:
            awaited.cancel()
        except Exception:  # A canceller that fails must not keep the connection from ending.
            _log.failure(
                "cancelling {view} for {peer} raised",
                event="view_failed",
                view=name_of(self._view),
                peer=self._peer,
            )
            with suppress(AlreadyCalledError):
                awaited.errback(CancelledError())

    def _warn_blocked(self, seconds: float) -> None:
        self._runner.warn_blocked(self._view, seconds)

    def _finish(self, result: Any) -> None:
        """Take what the view returned, or the Failure that it raised."""
        self._runner.graces.stop(self)
        self._state = _State.FINISHED
        done, self._done = self._done, None
        # They refer to this run.
        self._work = self._websocket = None
        assert done is not None
        done(result)


def runs_on_reactor(view: View) -> bool:
    """Whether a view can run on the reactor: it is ``async def`` or returns a Deferred.

    The latter is known from ``@inlineCallbacks`` or an annotation ``-> Deferred[…]``. Any other
    callable may block, and needs a thread.
    """
    if inspect.iscoroutinefunction(view):
        return True
    function = inspect.unwrap(view)
    while hasattr(function, "func"):  # functools.partial
        function = inspect.unwrap(function.func)
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        return True
    returned = getattr(function, "__annotations__", {}).get("return", "")
    origin = getattr(returned, "__origin__", returned)
    return origin is Deferred or str(origin).split("[")[0].split(".")[-1] == "Deferred"


_known = lru_cache(maxsize=256)(runs_on_reactor)


def _runs_on_reactor(view: View) -> bool:
    """Cached ``runs_on_reactor``."""
    try:
        return _known(view)
    except TypeError:  # The view is not hashable.
        return runs_on_reactor(view)


def is_cancellation(failure: Failure) -> bool:
    """Whether a view ended by being cancelled, which is no error."""
    while failure.check(FirstError):  # It was cancelled in gatherResults.
        failure = cast(FirstError, failure.value).subFailure
    return failure.check(CancelledError, ConversationOver) is not None
