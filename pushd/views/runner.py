"""One view at work: how it is run, and how it is ended."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import Any, Protocol, cast

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, FirstError
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from pushd.errors import ConversationOver
from pushd.schedule.coroutine import PATIENCE, CheapAwaitable, Task
from pushd.schedule.timeouts import TimeoutQueue
from pushd.views.request import Request, View, name_of

# How long a view may go on after it was told that its conversation is over, in seconds.
GRACE = 5.0


class Threads(Protocol):
    """Where views run that block."""

    @property
    def busy(self) -> int:
        """How many threads run a view just now."""

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view; the Deferred fires with what it returns or raises.

        A Deferred or a coroutine that it returns is waited for. Raises ThreadsBusy when there
        is no thread to be had.
        """

    def stop(self) -> None:
        """Let go of the threads as they end."""


class ViewRunner:
    """Where views run, whatever kind of function they are.

    :param clock: where time comes from.
    :param threads: where those run that block.
    """

    _log = Logger(namespace="pushd.views")

    def __init__(self, clock: IReactorTime, threads: Threads) -> None:
        self._threads = threads
        self.clock = clock
        self.graces: TimeoutQueue[ViewRun] = TimeoutQueue(
            clock, length=GRACE, expired=ViewRun.grace_expired
        )
        self._warned: set[str] = set()

    def start(self, view: View, request: Request, done: Callable[[Any], object]) -> ViewRun:
        """Run the view. Raises ThreadsBusy when it needs a thread and there is none.

        :param done: told once what the view returns, or the Failure that it raises; perhaps before
            this returns.
        """
        conversation = ViewRun(self, view, request, done)
        if _runs_on_reactor(view):
            conversation.perform()
        else:
            self._threads.run(view, request).addBoth(conversation.finish)
        return conversation

    def blocked(self, view: View, seconds: float) -> None:
        """Warn, once per view, that it kept the reactor for so many seconds."""
        name = name_of(view)
        if name not in self._warned:
            self._warned.add(name)
            self._log.warn(
                "{view} blocked the reactor for {seconds:.3f} s: all others had to wait; "
                "make it a plain def, which runs in a thread",
                event="view_blocked",
                view=name,
                seconds=seconds,
            )


class ViewRun:
    """One view that answers one request, over HTTP or a WebSocket.

    :param done: told once what the view returns, or the Failure that it raises.
    """

    __slots__ = (
        "__weakref__",
        "_on_reactor",
        "_peer",
        "_request",
        "_stage",
        "_steps",
        "_tell",
        "_view",
        "_websocket",
        "_work",
        "finished",
    )

    _log = Logger(namespace="pushd.views")

    def __init__(
        self, stage: ViewRunner, view: View, request: Request, done: Callable[[Any], object]
    ) -> None:
        self._stage = stage
        self._view = view
        self._tell: Callable[[Any], object] | None = done
        # Until the view is called: then it is the view's to keep, or to let go.
        self._request: Request | None = request
        self._websocket = request.websocket
        self._peer = request.peer
        self._on_reactor = False
        self._steps: Task | None = None
        # What a view has returned that is no coroutine.
        self._work: Deferred[Any] | None = None
        #: Whether the view has returned or raised.
        self.finished = False

    @property
    def running(self) -> bool | None:
        """Whether the view is what runs at this moment; None where that can't be known."""
        if self._steps is not None:
            return self._steps.running
        return False if self.finished else None

    def perform(self) -> None:
        """Call the view on the reactor."""
        self._on_reactor = True
        if self._websocket is not None:
            self._websocket.belong_to(self)
        clock = self._stage.clock
        start = clock.seconds()
        request, self._request = self._request, None
        try:
            result = self._view(request)
        except BaseException:  # The conversation ends by it, and says so.
            result = Failure()
        del request
        # What answers with a Deferred can't be stepped: this is all that is seen of its work.
        seconds = clock.seconds() - start
        if seconds > PATIENCE:
            self._blocked(seconds)
        if inspect.iscoroutine(result):
            self._steps = Task(result, clock, self._blocked, self.finish)
            self._steps.advance()
        elif isinstance(result, Deferred):
            self._work = result
            result.addBoth(self.finish)
        else:
            self.finish(result)
            if isinstance(result, Failure):
                result.cleanFailure()  # Its traceback holds this frame, which holds it in turn.

    def end(self) -> None:
        """End the view, as nobody is left to talk with; ``view_notified`` follows.

        It is cancelled where it waits, but when that is for the conversation itself, it is told.
        A view in a thread can't be cancelled: it learns of the end when it next uses its WebSocket.
        """
        if not self._on_reactor or self.finished or self.running:
            return
        if self._steps is None and self._work is None:
            return  # It is being called, and has not said yet how it can be ended.
        awaited = self._steps.awaited if self._steps is not None else None
        websocket = self._websocket
        if websocket is None or not websocket.will_tell(awaited):
            self._cancel()

    def view_notified(self) -> None:
        """Take note that the view knows that it is over: it has a grace of some seconds."""
        if self._on_reactor and not self.finished:
            self._stage.graces.start(self)

    def grace_expired(self) -> None:
        """Cancel a view that goes on after the grace, and come back should that not help."""
        self._log.warn(
            "{view} goes on {grace:g} s after the end of its conversation with {peer}: cancelled",
            event="view_cancelled",
            view=name_of(self._view),
            peer=self._peer,
            grace=GRACE,
        )
        self._stage.graces.start(self)
        self._cancel()

    def _cancel(self) -> None:
        awaited = self._work if self._steps is None else self._steps.awaited
        if awaited is None:
            return  # It runs, or was called to be ended by what it does itself.
        if isinstance(awaited, CheapAwaitable):
            awaited.cancel()
            return
        try:
            awaited.cancel()
        except Exception:  # The end of the connection is not to fail by what a view waits for.
            self._log.failure(
                "{view} waits for what fails to be cancelled, for {peer}",
                event="view_failed",
                view=name_of(self._view),
                peer=self._peer,
            )
            with suppress(AlreadyCalledError):
                awaited.errback(CancelledError())

    def _blocked(self, seconds: float) -> None:
        self._stage.blocked(self._view, seconds)

    def finish(self, result: Any) -> None:
        """Take what the view returns, or the Failure that it raises."""
        self._stage.graces.stop(self)
        self.finished = True
        tell, self._tell = self._tell, None
        # They refer to this in turn.
        self._steps = self._work = self._websocket = None
        assert tell is not None
        tell(result)


def runs_on_reactor(view: View) -> bool:
    """Whether a view gives the reactor back by itself: ``async def``, or returning a Deferred.

    The latter shows in ``@inlineCallbacks`` or in an annotation ``-> Deferred[…]``. Whatever
    else is callable may block, and belongs in a thread.
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
    """The same, of one that was perhaps asked about before."""
    try:
        return _known(view)
    except TypeError:  # It is an object that can't be hashed.
        return runs_on_reactor(view)


def is_cancellation(failure: Failure) -> bool:
    """Whether a view ended because it was cancelled, which is no error."""
    while failure.check(FirstError):  # It was cancelled where it awaited gatherResults.
        failure = cast(FirstError, failure.value).subFailure
    return failure.check(CancelledError, ConversationOver) is not None
