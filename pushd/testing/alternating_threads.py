"""Thread pools that take turns with the test, so that blocking views are deterministic."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, local
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from pushd.views.request import Request, View
from pushd.views.threads import ThreadPlaces, call_blocking

# Seconds of real time that a view may run between two calls of its WebSocket before the test
# fails.
_LIMIT = 60


class _Handoff:
    """Two queues between the threads of a view and of the test: one waits while the other runs."""

    def __init__(self) -> None:
        #: A function to call on the test's thread, or the outcome of the view.
        self.requests: SimpleQueue[Callable[[], Any] | _Outcome] = SimpleQueue()
        #: The outcome of that function.
        self.answers: SimpleQueue[_Outcome] = SimpleQueue()


class _Outcome:
    """What a function returned or raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.result: Any = None
        try:
            self.result = function()
        except BaseException as error:  # It goes on in the other thread, whatever it is.
            self.error = error

    def get(self) -> Any:
        """Return the result or raise the exception."""
        if self.error is not None:
            raise self.error
        return self.result


def _refuse(function: Callable[[], Any]) -> Any:
    raise RuntimeError("a blocking WebSocket was used outside its view's thread")


class AlternatingThreads(ThreadPlaces):
    """Runs views in threads, one at a time: the test waits while a view runs.

    A view runs from one call of its WebSocket to the next that has to wait.

    :param limit: blocking views that may run at once.
    :param max_stragglers: blocking views that may go on beside them after their grace.
    :param call_for_test: calls a function for code that is not in a view's thread: the test's own.
    :param call: calls a function; returns a Deferred of its result.
    """

    def __init__(
        self,
        limit: int,
        max_stragglers: int = 0,
        call_for_test: Callable[[Callable[[], Any]], Any] = _refuse,
        call: Callable[[Callable[[], Any]], Deferred[Any]] = maybeDeferred,
    ) -> None:
        super().__init__(limit, max_stragglers)
        self._call = call
        self._local = local()
        self._call_for_test = call_for_test
        #: All pools, by what their threads do.
        self.pools: dict[str, AlternatingThreads | AlternatingPool] = {"view": self}

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call a view; the Deferred fires with its result. Raises ThreadsBusy beyond the limit."""
        finished: Deferred[Any] = Deferred()
        self.take(finished)
        self._start(lambda: call_blocking(view, request, self)).addBoth(self._finish, finished)
        return finished

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the test's thread; return what its Deferred fires with."""
        handoff: _Handoff | None = getattr(self._local, "handoff", None)
        if handoff is None:
            return self._call_for_test(function)
        handoff.requests.put(function)
        return handoff.answers.get().get()

    def make_page_pool(self, limit: int) -> AlternatingPool:
        """Add a pool for an application's pages."""
        pool = self.pools["page"] = AlternatingPool(self._start, limit)
        return pool

    def stop(self) -> None:
        """Do nothing: a thread ends with its view."""

    def _start(self, function: Callable[[], Any]) -> Deferred[Any]:
        handoff = _Handoff()
        finished: Deferred[Any] = Deferred()

        def work() -> None:
            self._local.handoff = handoff
            handoff.requests.put(_Outcome(function))

        Thread(target=work, daemon=True).start()
        self._run_until_wait(handoff, finished)
        return finished

    def _finish(self, result: Any, finished: Deferred[Any]) -> None:
        self.release(finished)
        finished.callback(result)

    def _run_until_wait(self, handoff: _Handoff, finished: Deferred[Any]) -> None:
        """Call the functions that the view asks for, until one has to wait or the view ends."""
        while True:
            request = handoff.requests.get(timeout=_LIMIT)
            if isinstance(request, _Outcome):
                self._call(request.get).chainDeferred(finished)
                return
            done = maybeDeferred(request)
            if not done.called:
                done.addBoth(self._answer, handoff, finished)
                return
            done.addBoth(lambda result: handoff.answers.put(_outcome(result)))

    def _answer(self, result: Any, handoff: _Handoff, finished: Deferred[Any]) -> None:
        handoff.answers.put(_outcome(result))
        self._run_until_wait(handoff, finished)


class AlternatingPool:
    """Threads that take turns with the test, one for each function."""

    def __init__(self, start: Callable[[Callable[[], Any]], Deferred[Any]], limit: int) -> None:
        self._start = start
        #: Functions that run, the limit of a real pool, and functions that wait (always 0).
        self.busy, self.limit, self.waiting = 0, limit, 0

    def callInThread(self, function: Callable[[], Any]) -> None:
        self.busy += 1
        self._start(function).addBoth(self._release)

    def _release(self, result: Any) -> Any:
        self.busy -= 1
        return result


def _outcome(result: Any) -> _Outcome:
    def get() -> Any:
        if isinstance(result, Failure):
            result.raiseException()
        return result

    return _Outcome(get)
