"""Threads that take turns with the test, so that views that block are as sure as the others."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread, local
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from pushd.views.request import Request, View
from pushd.views.threads import ThreadPlaces, call_blocking

# How long a view may compute between two calls of its WebSocket before the test gives up, in
# seconds of real time.
_LIMIT = 60


class _Turns:
    """The two queues over which a view's thread and the test pass each other the turn."""

    def __init__(self) -> None:
        #: A function to be called on the test's thread, or the outcome of the view.
        self.asked: SimpleQueue[Callable[[], Any] | _Outcome] = SimpleQueue()
        #: What became of it.
        self.answered: SimpleQueue[_Outcome] = SimpleQueue()


class _Outcome:
    """What a function returned, or what it raised."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.error: BaseException | None = None
        self.result: Any = None
        try:
            self.result = function()
        except BaseException as error:  # It goes on in the other thread, whatever it is.
            self.error = error

    def get(self) -> Any:
        """Return or raise it."""
        if self.error is not None:
            raise self.error
        return self.result


class LockstepThreads(ThreadPlaces):
    """Runs views in threads, one at a time: while one runs, the test waits for it.

    A view has its turn from one call of its WebSocket to the next that must wait.

    :param limit: how many views may block at once.
    :param max_stragglers: how many more may go on after their conversation and its grace.
    """

    def __init__(self, limit: int, max_stragglers: int = 0) -> None:
        super().__init__(limit, max_stragglers)
        self._mine = local()
        self._others: dict[str, LockstepPool] = {}

    @property
    def pools(self) -> dict[str, LockstepThreads | LockstepPool]:
        """All threads that there may be, by what they do."""
        return {"view": self, **self._others}

    def run(self, view: View, request: Request) -> Deferred[Any]:
        """Call the view; the Deferred fires with what it returns or raises."""
        finished: Deferred[Any] = Deferred()
        self.take(finished)
        self._start(lambda: call_blocking(view, request, self)).addBoth(self._finish, finished)
        return finished

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the test's thread; wait for what its Deferred fires with."""
        turns: _Turns | None = getattr(self._mine, "turns", None)
        if turns is None:
            raise RuntimeError("a blocking WebSocket was used outside its view's thread")
        turns.asked.put(function)
        return turns.answered.get().get()

    def make_page_pool(self, limit: int) -> LockstepPool:
        """Make a pool of threads for pages, which take turns with the test as well."""
        pool = self._others["page"] = LockstepPool(self._start, limit)
        return pool

    def stop(self) -> None:
        """Do nothing: a thread ends with its view."""

    def _start(self, function: Callable[[], Any]) -> Deferred[Any]:
        turns = _Turns()
        finished: Deferred[Any] = Deferred()

        def work() -> None:
            self._mine.turns = turns
            turns.asked.put(_Outcome(function))

        Thread(target=work, daemon=True).start()
        self._take_turn(turns, finished)
        return finished

    def _finish(self, result: Any, finished: Deferred[Any]) -> None:
        self.release(finished)
        finished.callback(result)

    def _take_turn(self, turns: _Turns, finished: Deferred[Any]) -> None:
        """Do what the view asks for, until it must wait or has ended."""
        while True:
            asked = turns.asked.get(timeout=_LIMIT)
            if isinstance(asked, _Outcome):
                maybeDeferred(asked.get).chainDeferred(finished)
                return
            done = maybeDeferred(asked)
            if not done.called:
                done.addBoth(self._answer, turns, finished)
                return
            done.addBoth(lambda result: turns.answered.put(_outcome(result)))

    def _answer(self, result: Any, turns: _Turns, finished: Deferred[Any]) -> None:
        turns.answered.put(_outcome(result))
        self._take_turn(turns, finished)


class LockstepPool:
    """Threads that take turns with the test, as many as there is work for."""

    def __init__(self, start: Callable[[Callable[[], Any]], Deferred[Any]], limit: int) -> None:
        self._start = start
        #: How many are at work just now, and how many of real ones there may be; none has to wait.
        self.busy, self.limit, self.waiting = 0, limit, 0

    def callInThread(self, function: Callable[[], Any]) -> None:
        self.busy += 1
        self._start(function).addBoth(self._let_go)

    def _let_go(self, result: Any) -> Any:
        self.busy -= 1
        return result


def _outcome(result: Any) -> _Outcome:
    def get() -> Any:
        if isinstance(result, Failure):
            result.raiseException()
        return result

    return _Outcome(get)
