"""AsyncioTask: runs a coroutine as a task of asyncio's; and tasks that can await Deferreds.

On asyncio's event loop the coroutine of a view may await Deferreds as well as anything of
asyncio's, and so may the tasks that it makes:

* An ``AsyncioTask`` runs the view. It is a ``Task``: what a Deferred or a schedule brings resumes
  the view at once, within the same call, as on any other reactor. For asyncio it has a
  ``TaskFuture``, which ``asyncio.current_task()`` returns.
* ``make_task`` makes all other tasks of the loop: asyncio's own, whose coroutine awaits futures in
  place of Deferreds.
"""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop, Future
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from contextvars import Context
from inspect import iscoroutine
from itertools import count
from traceback import print_stack
from types import FrameType
from typing import Any, TextIO, cast

from twisted.internet.defer import AlreadyCalledError, CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from pushd.schedule.coroutine import CheapAwaitable, Task

# What makes a task asyncio's current one is documented for tasks of other kinds, too ("Extending",
# in Python's library reference), but typed for asyncio's own.
_tasks: Any = asyncio.tasks

# Named after asyncio's own "Task-1", "Task-2", …
_numbers = count(1)


class AsyncioTask(Task):
    """A Task whose coroutine may also await futures of asyncio's, on the loop that runs.

    :param loop: asyncio's event loop, which the reactor runs on.
    :param clock, blocked, done: as those of a Task.
    """

    __slots__ = ("_cancelling", "_loop", "_outcome", "future", "message", "must_cancel")

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, Any],
        clock: IReactorTime,
        blocked: Callable[[float], object],
        done: Callable[[Any], object],
        *,
        loop: AbstractEventLoop,
    ) -> None:
        super().__init__(coroutine, clock, blocked, self._settle)
        self._loop = loop
        self._outcome: Callable[[Any], object] | None = done
        #: Whether a cancellation has been asked for that the coroutine has not met, and its text.
        self.must_cancel = False
        self.message: object = None
        # Whether what is awaited was cancelled for that.
        self._cancelling = False
        #: The task as asyncio knows it.
        self.future = TaskFuture(self, coroutine, loop, self._context)

    def advance(self, result: object = None) -> None:
        """Run the coroutine up to its next ``await``, as the current task of asyncio's."""
        if self._cancelling:
            self._cancelling = False
            if isinstance(result, Failure) and result.check(CancelledError):
                result = self._make_cancelled()
        outer = self._enter()
        try:
            super().advance(result)
        finally:
            self._leave(outer)
        if self.must_cancel and isinstance(self.awaited, Deferred | CheapAwaitable):
            self._loop.call_soon(self.deliver_cancel)

    def cancel_now(self) -> None:
        """Cancel it as ``future.cancel()`` does; what it then does is done before this returns.

        But if it waits for what is asyncio's, it goes on in the next iteration of the loop.
        """
        if self.future.cancel():
            self.deliver_cancel()

    def deliver_cancel(self) -> None:
        """Cancel the Deferred or schedule that is awaited, if a cancellation was asked for."""
        awaited = self.awaited
        if not self.must_cancel or not isinstance(awaited, Deferred | CheapAwaitable):
            return
        self.must_cancel, self._cancelling = False, True
        _cancel(awaited, self._loop)

    def drop(self) -> None:
        """Close the coroutine; see ``Task.drop``."""
        outer = self._enter()
        try:
            super().drop()
        finally:
            self._leave(outer)
        self.future.finish(Failure(asyncio.CancelledError()))

    def _enter(self) -> Future[Any] | None:
        """Become asyncio's current task; return the one whose step goes on meanwhile."""
        outer = asyncio.current_task(self._loop)
        if outer is not None:
            _tasks._leave_task(self._loop, outer)
        _tasks._enter_task(self._loop, self.future)
        return outer

    def _leave(self, outer: Any) -> None:
        _tasks._leave_task(self._loop, self.future)
        if outer is not None:
            _tasks._enter_task(self._loop, outer)

    def _await_other(self, awaited: Any) -> None:
        """Wait for a future of asyncio's, or for the next iteration of the loop (``sleep(0)``)."""
        if awaited is None:
            self.awaited = self._loop.call_soon(self._wake)
        elif not getattr(awaited, "_asyncio_future_blocking", False):
            wrong = f"a view can await Deferreds and what asyncio can await; got {awaited!r}"
            self.advance(Failure(TypeError(wrong)))
        elif awaited.get_loop() is not self._loop:
            wrong = f"a view cannot await {awaited!r}: it belongs to another event loop"
            self.advance(Failure(RuntimeError(wrong)))
        else:
            awaited._asyncio_future_blocking = False
            self.awaited = awaited
            awaited.add_done_callback(self._wake)
            if self.must_cancel and awaited.cancel(msg=self.message):
                self.must_cancel = False

    def _wake(self, _: object = None) -> None:
        """Go on behind a future that is done: its own ``await`` returns or raises the result."""
        self.advance(self._make_cancelled() if self.must_cancel else None)

    def _make_cancelled(self) -> Failure:
        self.must_cancel = False
        message, self.message = self.message, None
        return Failure(asyncio.CancelledError(*([] if message is None else [message])))

    def _settle(self, outcome: Any) -> None:
        """Take the outcome of the coroutine."""
        self._done = id  # It refers to this task.
        done, self._outcome = self._outcome, None
        assert done is not None
        self.future.finish(outcome)
        done(outcome)


class TaskFuture(Future[Any]):
    """An AsyncioTask in the eyes of asyncio: it has what ``asyncio.Task`` has.

    asyncio's own class cannot be used, as it alone decides when its coroutine runs: one iteration
    of the loop later than what it awaits is there, when a message that it brings may be lost.
    """

    def __init__(
        self,
        task: AsyncioTask,
        coroutine: Coroutine[Any, Any, Any],
        loop: AbstractEventLoop,
        context: Context,
    ) -> None:
        super().__init__(loop=loop)
        self._task: AsyncioTask | None = task
        self._coroutine = coroutine
        self._context = context
        self._name = f"view-{next(_numbers)}"
        self._cancel_requests = 0
        _tasks._register_task(self)

    def __repr__(self) -> str:
        return f"<TaskFuture {self._name} {'finished' if self.done() else 'pending'}>"

    def get_coro(self) -> Coroutine[Any, Any, Any]:
        """Return the coroutine."""
        return self._coroutine

    def get_context(self) -> Context:
        """Return the context in which the coroutine runs."""
        return self._context

    def get_name(self) -> str:
        """Return the name of the task."""
        return self._name

    def set_name(self, value: object) -> None:
        """Set the name of the task."""
        self._name = str(value)

    def cancel(self, msg: object = None) -> bool:
        """Ask for CancelledError to be raised where the coroutine awaits something, but not yet.

        Return whether it has not finished.
        """
        task = self._task
        if task is None:
            return False
        self._cancel_requests += 1
        awaited = task.awaited
        if isinstance(awaited, Deferred | CheapAwaitable):
            # Not before the caller is ready for it: asyncio.timeout relies on that.
            self.get_loop().call_soon(task.deliver_cancel)
        elif asyncio.isfuture(awaited) and awaited.cancel(msg=msg):
            return True
        task.must_cancel, task.message = True, msg
        return True

    def cancelling(self) -> int:
        """Return how often it was cancelled, less the calls of ``uncancel``."""
        return self._cancel_requests

    def uncancel(self) -> int:
        """Take back one ``cancel``; a cancellation that nobody asks for any more is forgotten."""
        if self._cancel_requests:
            self._cancel_requests -= 1
            if not self._cancel_requests and self._task is not None:
                self._task.must_cancel = False
        return self._cancel_requests

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """Return the frame in which the coroutine is, if it is in one."""
        frame: FrameType | None = getattr(self._coroutine, "cr_frame", None)
        return [] if frame is None else [frame]

    def print_stack(self, *, limit: int | None = None, file: TextIO | None = None) -> None:
        """Print where the coroutine is."""
        for frame in self.get_stack():
            print_stack(frame, limit, file)

    def set_result(self, result: object) -> None:
        """Raise RuntimeError: the coroutine alone decides."""
        raise RuntimeError("Task does not support set_result operation")

    def set_exception(self, exception: object) -> None:
        """Raise RuntimeError: the coroutine alone decides."""
        raise RuntimeError("Task does not support set_exception operation")

    def finish(self, outcome: Any) -> None:
        """Take the outcome of the coroutine: what it returned, or a Failure."""
        self._task = None
        _tasks._unregister_task(self)
        error: Any = outcome.value if isinstance(outcome, Failure) else None
        if error is None:
            super().set_result(outcome)
        elif isinstance(error, asyncio.CancelledError):
            super().cancel()
        else:
            traceback = error.__traceback__
            # A future keeps it, and its frames refer to the task.
            super().set_exception(error.with_traceback(None))
            error.with_traceback(traceback)
            self.exception()  # Or asyncio would log that nobody has asked for it.

    # What anyio reads.

    @property
    def _fut_waiter(self) -> object:
        return None if self._task is None else self._task.awaited

    @property
    def _must_cancel(self) -> bool:
        return self._task is not None and self._task.must_cancel


class DeferredFuture(Future[Any]):
    """A future with the result of a Deferred; cancelling it cancels the Deferred at once."""

    def __init__(self, deferred: Deferred[Any], loop: AbstractEventLoop) -> None:
        super().__init__(loop=loop)
        # As if it came from an ``await``.
        self._asyncio_future_blocking = True
        self._deferred = deferred
        self._cancelling = False
        deferred.addBoth(self._fired)

    def cancel(self, msg: object = None) -> bool:
        """Cancel the Deferred; return whether there was no result before."""
        if self.done():
            return False
        self._cancelling = True
        _cancel(self._deferred, self.get_loop())
        super().cancel(msg)  # It does nothing if the canceller has found a result.
        return True

    def give_back(self) -> None:
        """Give the result back, which comes too late for a task that was cancelled."""
        give_back = getattr(self._deferred, "give_back", None)
        if not self.cancelled() and self.exception() is None and give_back is not None:
            give_back(self.result())

    def _fired(self, result: Any) -> Any:
        if self.done():
            return None
        if not isinstance(result, Failure):
            self.set_result(result)
            return result  # The ``await`` of a Deferred looks for it there.
        if self._cancelling and result.check(CancelledError):
            return None
        error: Any = result.value
        if isinstance(error, StopIteration):  # No future can have that.
            error = RuntimeError(f"a Deferred failed with {error!r}")
        self.set_exception(error)
        return None


def call_on_loop(
    clock: IReactorTime, loop: AbstractEventLoop | None, function: Callable[[], Any]
) -> Deferred[Any]:
    """Call a function, and return a Deferred of its result, also if it is ``async def``.

    :param loop: asyncio's event loop; None if the reactor does not run on one.
    """
    if loop is None:
        return maybeDeferred(function)
    result = maybeDeferred(lambda: (function(),))

    def run(returned: tuple[Any]) -> Any:
        [one] = returned
        if not iscoroutine(one):
            return one

        def finish(result: Any) -> None:
            if not outcome.called:  # Or it was cancelled before.
                outcome.callback(result)

        outcome: Deferred[Any] = Deferred(lambda _: task.cancel_now())
        task = AsyncioTask(one, clock, id, finish, loop=loop)
        task.advance()
        return outcome

    return result.addCallback(run)


def _cancel(awaited: Deferred[Any] | CheapAwaitable, loop: AbstractEventLoop) -> None:
    """Cancel; a canceller that raises must not keep the task from ending."""
    try:
        awaited.cancel()
    except Exception as error:
        loop.call_exception_handler(
            {"message": f"cancelling {awaited!r} raised", "exception": error}
        )
        if isinstance(awaited, Deferred):
            with suppress(AlreadyCalledError):
                awaited.errback(CancelledError())


def make_task(
    loop: AbstractEventLoop, awaitable: Awaitable[Any] | Generator[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """Make a task that may await Deferreds: the task factory of a loop.

    :param awaitable: a coroutine, or anything else that can be awaited, such as a Deferred.
    """
    inner: Any = awaitable
    if not hasattr(inner, "send"):
        if not hasattr(inner, "__await__"):
            raise TypeError(f"a coroutine was expected, got {awaitable!r}")
        inner = inner.__await__()
    outer: Any = _Translation(inner, loop)
    return asyncio.Task(outer, loop=loop, **options)


class _Translation(Coroutine[Any, Any, Any]):
    """A coroutine as asyncio runs it: where it awaits Deferreds, this awaits futures.

    It is no coroutine around the other one: that, with a generator in it, would take 490 bytes for
    each task, and this takes 56.
    """

    __slots__ = ("_awaited", "_inner", "_loop")

    def __init__(self, inner: Any, loop: AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop
        # The future in place of the Deferred that is awaited.
        self._awaited: DeferredFuture | None = None

    def __getattr__(self, name: str) -> Any:
        """Return what tells about the coroutine itself, such as its name and its frame."""
        return getattr(self._inner, name)

    def __await__(self) -> Generator[Any, Any, Any]:
        """Return what awaits the coroutine itself."""
        return cast(Generator[Any, Any, Any], self._inner.__await__())

    def send(self, value: Any) -> Any:
        """Run the coroutine up to its next ``await``; return what that waits for."""
        future = self._awaited
        if future is not None:
            self._awaited, value = None, future.result()
        return self._translate(self._inner.send(value))

    def throw(self, error: Any, *deprecated: Any) -> Any:
        """Raise an exception where the coroutine awaits something, and go on as ``send`` does."""
        future, self._awaited = self._awaited, None
        if future is not None and isinstance(error, asyncio.CancelledError):
            future.give_back()
        return self._translate(self._inner.throw(error, *deprecated))

    def close(self) -> None:
        """End the coroutine."""
        self._inner.close()

    def _translate(self, awaited: Any) -> Any:
        if isinstance(awaited, CheapAwaitable):
            awaited = awaited.as_deferred()
        if isinstance(awaited, Deferred):
            awaited = self._awaited = DeferredFuture(awaited, self._loop)
        return awaited
