"""Runs views, on the reactor or in a thread, and ends them when their client is gone."""

from __future__ import annotations

import asyncio
import inspect
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar, copy_context
from enum import Enum
from functools import lru_cache
from types import CoroutineType, FunctionType
from typing import Any, Protocol, cast

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, FirstError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import ConversationOver
from pushd.protocols.websocket.grace import MAX_IGNORED
from pushd.schedule.asyncio_task import AsyncioTask
from pushd.schedule.awaited_schedules import awaited_schedules
from pushd.schedule.coroutine import (
    NEEDS_ASYNCIO,
    SLOW_STEP,
    Awaited,
    CheapAwaitable,
    Task,
    current_task,
)
from pushd.schedule.timeouts import TimeoutQueue
from pushd.views.request import Request, View, name_of

_log = Logger(namespace="pushd.views")

#: The grace period: how long a view may run after the end of its conversation, in seconds. Each
#: message that it still reads renews it, until the view has had MAX_GRACE in all.
GRACE = 5
MAX_GRACE = 60.0

# Texts of the errors that asyncio, pushd, sniffio and anyio raise without asyncio's event loop.
_SIGNS = (
    "no running event loop",
    "no current event loop",
    NEEDS_ASYNCIO,
    "unknown async library",
    "asynchronous event loop",
    # A future of a loop that is there, and does not run.
    "await wasn't used with future",
)

# Seconds between two lines about threads that are all in use.
_BUSY_PAUSE = 60.0

# The run of the view that returns a Deferred and whose code runs at this moment.
_current_run: ContextVar[ViewRun | None] = ContextVar("current_run", default=None)


class Threads(Protocol):
    """Where blocking views run."""

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view in a thread; the Deferred fires with its result or its Failure.

        If the view returns a Deferred or a coroutine, the result of that is awaited. Raises
        ThreadsBusy if no thread is free.
        """

    def abandon(self, finished: Deferred[Any]) -> bool:
        """Free the place of a view that does not end, unless too many such views go on already.

        Return whether it is free now.

        :param finished: what ``run`` returned.
        """

    def stop(self) -> None:
        """Accept no more views, and end each thread when its view ends."""


class ViewRunner:
    """What all runs of views share: the clock, the threads, and the grace periods.

    :param clock: where time comes from.
    :param threads: where blocking views run.
    :param grace: how long a view may run after the end of its conversation, in seconds.
    :param loop: asyncio's event loop, if the reactor runs on one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        threads: Threads,
        *,
        grace: float = GRACE,
        loop: AbstractEventLoop | None = None,
    ) -> None:
        self.clock = clock
        self.loop = loop
        self.threads = threads
        self.grace = grace
        #: Runs whose conversation is over.
        self.graces: TimeoutQueue[ViewRun] = TimeoutQueue(
            clock, timeout=grace, expired=ViewRun.grace_expired
        )
        self._settled: Deferred[None] | None = None
        # Events that are logged once per view, each with the names of the views it was logged for.
        self._logged: set[tuple[str, str]] = set()
        # Whether the last view that outlived its grace in a thread has kept its place.
        self._full = False
        # When to log again that no thread is free.
        self._busy_again = 0.0

    def settled(self) -> Deferred[None]:
        """Return a Deferred that fires when no view is in its grace on the reactor.

        A view in a thread is waited for if it had messages to read when its grace began.
        """
        settled: Deferred[None] = Deferred()
        self._settled = settled
        self.check_settled()
        return settled

    def check_settled(self) -> None:
        """Fire the Deferred of ``settled`` if no view is waited for any more."""
        if self._settled is not None and not any(run.is_awaited for run in self.graces):
            settled, self._settled = self._settled, None
            settled.callback(None)

    def warn_blocked(self, view: View, seconds: float) -> None:
        """Warn, once per view, that a view kept the reactor busy for that many seconds."""
        name = name_of(view)
        if self._is_first("view_blocked", name):
            _log.warn(
                "{view} blocked the reactor for {seconds:.3f} s: everything else had to wait; "
                "make it a plain def, which runs in a thread",
                event="view_blocked",
                view=name,
                seconds=seconds,
            )

    def warn_straggler(self, view: View, peer: str, *, freed: bool) -> None:
        """Warn, once per view, that a view in a thread has outlived its grace.

        :param freed: whether its place is free; if not, warn when that begins.
        """
        name = name_of(view)
        full, self._full = self._full, not freed
        if not freed:
            if not full:
                _log.warn(
                    "{view} is still running in its thread {grace:g} s after the end of its "
                    "conversation with {peer}, and as many such views as --max-stragglers allows "
                    "have given up their places: it and further ones keep theirs until they end",
                    event="stragglers_full",
                    view=name,
                    peer=peer,
                    grace=self.grace,
                )
            return
        if self._is_first("view_straggles", name):
            _log.warn(
                "{view} is still running in its thread {grace:g} s after the end of its "
                "conversation with {peer}: its place is given to others (see --max-stragglers)",
                event="view_straggles",
                view=name,
                peer=peer,
                grace=self.grace,
            )

    def warn_busy(self, view: View, peer: str, reason: str) -> None:
        """Warn, once in a minute, that a view was not called as no thread is free."""
        now = self.clock.seconds()
        if now >= self._busy_again:
            self._busy_again = now + _BUSY_PAUSE
            _log.warn(
                "503 for {peer}: {view} was not called: {reason}",
                event="threads_busy",
                view=name_of(view),
                peer=peer,
                reason=reason,
            )

    def warn_dropped(self, view: View, peer: str) -> None:
        """Warn, once per view, that a view ignored every attempt to end it."""
        name = name_of(view)
        if self._is_first("view_dropped", name):
            _log.warn(
                "{view} ignored {ignored} times that its conversation with {peer} is over: closed "
                "where it stands; let CancelledError through wherever it catches every exception",
                event="view_dropped",
                view=name,
                peer=peer,
                ignored=MAX_IGNORED,
            )

    def _is_first(self, event: str, name: str) -> bool:
        """Return whether an event is logged for a view for the first time, and remember it."""
        first = (event, name) not in self._logged
        self._logged.add((event, name))
        return first


class _State(Enum):
    """Where a view runs."""

    NEW = "it has not been called"
    IN_THREAD = "in a thread, where nothing can cancel it"
    ON_REACTOR = "on the reactor"
    DROPPED = "nowhere any more: it did not end"
    FINISHED = "it has returned or raised"


class ViewRun:
    """One call of a view, for one request over HTTP or a WebSocket, until the view ends.

    When its conversation is over, a view on the reactor is told if it waits for its WebSocket, and
    cancelled if it waits for a PushSchedule and has no messages to read. Any other goes on::

        running ── end, view_notified ──> grace period ── grace_expired ──> cancelled, and again
                                            ^      │                        after another grace
                                            └──────┘ message_read

    One that ignores MAX_IGNORED cancellations, or refused calls of its WebSocket, is dropped.

    A view in a thread is not cancelled: after its grace it is ended by its next call of its
    WebSocket, and its place is given to others. Over plain HTTP nothing can be told or read: such
    a view is cancelled at once.

    :param done: called once with what the view returns, or the Failure that it raises.
    """

    __slots__ = (
        "__weakref__",
        "_deadline",
        "_done",
        "_ignored",
        "_peer",
        "_reads_on",
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
        # What the view has returned and has yet to finish: its coroutine, as a Task, or its
        # Deferred; for a view in a thread, the Deferred of its end.
        self._work: Task | Deferred[Any] | None = None
        # When no message renews the grace any more, in seconds of the clock.
        self._deadline = 0.0
        # Whether it had messages to read when its grace began.
        self._reads_on = False
        # How often it was cancelled.
        self._ignored = 0

    @property
    def is_calling(self) -> bool | None:
        """Whether the code that runs at this moment is the view's; None if that is unknown."""
        if isinstance(self._work, Task):
            return current_task() is self._work
        if self._state not in (_State.ON_REACTOR, _State.DROPPED):
            return False  # It has ended, or it runs in a thread, which BlockingWebSocket knows.
        run = _current_run.get()
        if run is not None:
            return run is self
        # Callbacks have no context of their own.
        return None if current_task() is None else False

    @property
    def cancellation(self) -> type[BaseException]:
        """What is raised where the view is ended: of its two kinds, that of the event loop."""
        return asyncio.CancelledError if isinstance(self._work, AsyncioTask) else CancelledError

    @property
    def is_awaited(self) -> bool:
        """Whether a daemon that stops waits for this run during its grace."""
        return self._state is _State.ON_REACTOR or self._reads_on

    @property
    def _awaited(self) -> Awaited | None:
        """What a view on the reactor waits for, at its outermost ``await``; None if it runs."""
        work = self._work
        return work.awaited if isinstance(work, Task) else work

    def start(self) -> None:
        """Call the view, on the reactor or in a thread. It may have ended when this returns.

        Raises ThreadsBusy if it needs a thread and none is free.
        """
        request, self._request = self._request, None
        assert request is not None
        if self._websocket is not None:
            self._websocket.set_owner(self)
        if not (_makes_coroutine(self._view) or runs_on_reactor(self._view)):
            self._start_in_thread(request)
            return
        self._state = _State.ON_REACTOR
        clock, loop = self._runner.clock, self._runner.loop
        result = self._call(request)
        del request
        if isinstance(result, CoroutineType):
            task = self._work = (
                Task(result, clock, self._warn_blocked, self._finish)
                if loop is None
                else AsyncioTask(result, clock, self._warn_blocked, self._finish, loop=loop)
            )
            task.advance()
        elif isinstance(result, Deferred):
            self._work = result
            result.addBoth(self._finish)
        else:
            self._finish(result)
            if isinstance(result, Failure):
                result.cleanFailure()  # Its traceback refers to this frame, and this to it.

    def end(self) -> None:
        """Cancel the view if it waits for a PushSchedule and has read everything.

        Over plain HTTP it is cancelled wherever it waits.
        """
        if self._state is not _State.ON_REACTOR:
            return  # It is in a thread, or has ended.
        if self._websocket is None:
            self._cancel()
        else:
            self._cancel_schedules()

    def view_notified(self) -> None:
        """Start the grace period: by now the view has been notified, or cancelled.

        It starts anew when ``close``, which the view may await, has fired.
        """
        if self._state is not _State.FINISHED:
            self._reads_on = self._websocket is not None and self._websocket.has_messages()
            self._deadline = self._runner.clock.seconds() + MAX_GRACE
            self._runner.graces.start(self)

    def message_read(self) -> None:
        """Renew the grace period, unless the view has had it long enough."""
        runner = self._runner
        if self in runner.graces and runner.clock.seconds() + runner.grace <= self._deadline:
            runner.graces.start(self)
        if self._websocket is not None and not self._websocket.has_messages():
            # It may go back to its PushSchedule.
            self.end()

    def grace_expired(self) -> None:
        """End a view that outlived its grace, as far as that is possible.

        On the reactor it is cancelled, and again after another grace in case it ignores that. In a
        thread it gives up its place.
        """
        if self._websocket is not None:
            if self._websocket.is_close_awaited:
                self._runner.graces.start(self)  # It begins anew when that has come.
                return
            self._websocket.grace_expired()
        if self._state is _State.IN_THREAD:
            freed = self._runner.threads.abandon(cast(Deferred[Any], self._work))
            self._runner.warn_straggler(self._view, self._peer, freed=freed)
            self._runner.check_settled()
            return
        if self._ignored == MAX_IGNORED:
            self.drop()
            return
        self._ignored += 1
        _log.warn(
            "{view} is still running {grace:g} s after the end of its conversation with {peer}: "
            "cancelled",
            event="view_cancelled",
            view=name_of(self._view),
            peer=self._peer,
            grace=self._runner.grace,
        )
        self._runner.graces.start(self)
        self._cancel()

    def drop(self) -> None:
        """Give up a view on the reactor that ignores every attempt to end it.

        Its coroutine is closed. The code behind a Deferred cannot be, but it comes no further than
        to its next call of its WebSocket.
        """
        self._runner.warn_dropped(self._view, self._peer)
        self._state = _State.DROPPED
        self._runner.graces.stop(self)
        if self._websocket is not None:
            self._websocket.view_dropped()
        if isinstance(self._work, Task):
            self._work.drop()
            self._cancel()
        done, self._done = self._done, None
        assert done is not None
        done(Failure(CancelledError("the conversation is over")))
        self._runner.check_settled()

    def _cancel_schedules(self, *, retry: bool = True) -> None:
        """Cancel each PushSchedule that the view waits for, if it has no messages to read.

        A view that waits for anything else may come to a PushSchedule before a call of its
        WebSocket tells it of the end: until then this looks again at each of its awaits.

        :param retry: whether to look again in the next reactor iteration if the view is running.
        """
        websocket, awaited = self._websocket, self._awaited
        if websocket is None or (awaited is not None and websocket.will_notify(awaited)):
            return
        if websocket.has_messages():
            return
        if websocket.grace is not None and websocket.grace.has_told_end:
            return
        if awaited is None or self.is_calling:
            if retry:
                self._runner.clock.callLater(0, self._cancel_schedules, retry=False)
        elif isinstance(awaited, CheapAwaitable):
            self._cancel()
        elif asyncio.isfuture(awaited):
            awaited.add_done_callback(self._awaited_fired)
        elif isinstance(awaited, asyncio.Handle):  # The next iteration of the loop.
            asyncio.get_running_loop().call_soon(self._cancel_schedules)
        else:
            assert isinstance(awaited, Deferred)
            schedules = awaited_schedules(awaited)
            for schedule in schedules:
                schedule.cancel()
            if not schedules and awaited is not self._work:
                awaited.addBoth(self._awaited_fired)

    def _awaited_fired(self, result: object) -> object:
        """Look at what the view awaits next; a callback of what it awaited until now."""
        self._cancel_schedules()
        return result

    def _start_in_thread(self, request: Request) -> None:
        self._state = _State.IN_THREAD
        self._work = finished = self._runner.threads.run(self._view, request)
        finished.addBoth(self._finish)

    def _call(self, request: Request) -> Any:
        """Call the view on the reactor, and return its result, or the Failure that it raised."""
        began: float | None = None
        try:
            if _makes_coroutine(self._view):
                return self._view(request)
            began = self._runner.clock.seconds()
            # What inlineCallbacks runs later inherits this context.
            return copy_context().run(self._call_in_context, request)
        except BaseException:  # Any exception ends the view, and is reported.
            return Failure()
        finally:
            # A Task measures each of its steps; of a Deferred's work this is all there is.
            seconds = 0.0 if began is None else self._runner.clock.seconds() - began
            if seconds > SLOW_STEP:
                self._warn_blocked(seconds)

    def _call_in_context(self, request: Request) -> Any:
        _current_run.set(self)
        return self._view(request)

    def _cancel(self) -> None:
        """Cancel what the view waits for."""
        awaited = self._awaited
        if awaited is None:
            return  # It runs, or has not returned what could be cancelled.
        if isinstance(self._work, AsyncioTask) and self._state is not _State.DROPPED:
            self._work.cancel_now()
            return
        if not isinstance(awaited, Deferred):
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
        if self in self._runner.graces.keys:
            self._runner.graces.stop(self)
        self._state = _State.FINISHED
        done, self._done = self._done, None
        # They refer to this run.
        self._work = None
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            websocket.set_owner(None)
        if done is not None:  # Or it was dropped before.
            done(result)
            self._runner.check_settled()


def runs_on_reactor(view: View) -> bool:
    """Whether a view can run on the reactor: it is ``async def`` or returns a Deferred.

    The latter is known from ``@inlineCallbacks`` or an annotation ``-> Deferred[…]``. Any other
    callable may block, and needs a thread.
    """
    try:
        return _runs_on_reactor(view)
    except TypeError:  # The view is not hashable.
        return _runs_on_reactor.__wrapped__(view)


@lru_cache(maxsize=256)
def _runs_on_reactor(view: View) -> bool:
    if inspect.iscoroutinefunction(view):
        return True
    function = inspect.unwrap(view)
    while hasattr(function, "func"):  # functools.partial
        function = inspect.unwrap(function.func)
    if not inspect.isroutine(function):
        function = type(function).__call__
    if inspect.iscoroutinefunction(function):
        return True
    # Unwrapping has gone past inlineCallbacks to its generator.
    if inspect.isgeneratorfunction(function):
        return True
    returned = getattr(function, "__annotations__", {}).get("return", "")
    origin = getattr(returned, "__origin__", returned)
    return origin is Deferred or str(origin).split("[")[0].split(".")[-1] == "Deferred"


def _makes_coroutine(view: View) -> bool:
    """Whether calling a view runs nothing of it yet, and so needs no context of its own."""
    return type(view) is FunctionType and bool(view.__code__.co_flags & inspect.CO_COROUTINE)


def asks_for_asyncio(failure: Failure) -> bool:
    """Whether a view failed as it used something of asyncio's without asyncio's event loop."""
    error = failure.value
    while error is not None:
        if any(sign in str(error) for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def is_cancellation(failure: Failure) -> bool:
    """Whether a view ended by being cancelled, which is no error."""
    while failure.check(FirstError):  # It was cancelled in gatherResults.
        failure = cast(FirstError, failure.value).subFailure
    return _is_cancellation(failure.value)


def _is_cancellation(error: BaseException | None) -> bool:
    if isinstance(error, BaseExceptionGroup):  # In a TaskGroup, that is.
        return all(map(_is_cancellation, error.exceptions))
    return isinstance(error, CancelledError | asyncio.CancelledError | ConversationOver)
