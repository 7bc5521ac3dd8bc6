"""asyncio's event loop under a clock that the test controls."""

from __future__ import annotations

import asyncio
from asyncio import Future, Handle, SelectorEventLoop, TimerHandle
from collections.abc import Callable
from contextvars import Context
from threading import Event
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

# Seconds of real time that a thread may run, as of ``asyncio.to_thread``, before the test fails.
_LIMIT = 60


class VirtualEventLoop(SelectorEventLoop):
    """An event loop whose time is that of a clock, and which runs when the test lets it.

    Its timers are delayed calls of the clock. Sockets, threads and the rest are real.

    :param clock: where its time comes from.
    """

    def __init__(self, clock: IReactorTime) -> None:
        self._clock_of_test = clock
        # Whether something was to be called soon since the last iteration began.
        self._called = False
        # How many threads of an executor are at work, and what is set when one calls.
        self._working = 0
        self._thread_called = Event()
        super().__init__()

    def __del__(self) -> None:
        """Close it, where asyncio would warn: that is for programs."""
        if not self.is_closed():
            self.close()

    def run(self, function: Callable[[], Any]) -> Any:
        """Call a function within one iteration, as a callback; return its result or raise."""
        outcome: list[Any] = []
        error: list[BaseException] = []

        def call() -> None:
            try:
                outcome.append(function())
            except BaseException as raised:  # It goes on in the test, whatever it is.
                error.append(raised)

        super().call_soon(call)
        self._iterate()
        if error:
            raise error.pop()
        return outcome[0]

    def run_ready(self) -> bool:
        """Run all that can go on without time to pass; return whether there was something.

        It waits for the threads that are at work.
        """
        self._iterate()
        ran = False
        while self._called or self._working:
            if not self._called and not self._thread_called.wait(_LIMIT):
                raise RuntimeError(f"a thread of an executor runs for more than {_LIMIT} s")
            self._thread_called.clear()
            ran, self._called = True, False
            self._iterate()
        return ran

    def _iterate(self) -> None:
        """Run one iteration, even if another loop runs the test."""
        super().call_soon(self.stop)
        outer = asyncio._get_running_loop()
        asyncio._set_running_loop(None)
        try:
            self.run_forever()
        finally:
            asyncio._set_running_loop(outer)

    # What asyncio calls

    def time(self) -> float:
        """Return the time of the clock."""
        seconds: float = self._clock_of_test.seconds()
        return seconds

    def call_soon(  # type: ignore[override] # less strictly typed
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        """See ``asyncio.AbstractEventLoop``."""
        self._called = True
        return super().call_soon(callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override] # less strictly typed
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> Handle:
        """See ``asyncio.AbstractEventLoop``."""
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._called = True
        self._thread_called.set()
        return handle

    def call_later(  # type: ignore[override] # less strictly typed
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """See ``asyncio.AbstractEventLoop``."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override] # less strictly typed
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> TimerHandle:
        """See ``asyncio.AbstractEventLoop``."""
        timer = _Timer(when, callback, args, self, context)
        timer.call = self._clock_of_test.callLater(
            max(0.0, when - self.time()), self._timer_due, timer, callback, args, context
        )
        return timer

    def run_in_executor(  # type: ignore[override] # less strictly typed
        self, executor: Any, func: Any, *args: Any
    ) -> Future[Any]:
        """See ``asyncio.AbstractEventLoop``."""
        future: Future[Any] = super().run_in_executor(executor, func, *args)
        self._working += 1
        future.add_done_callback(self._thread_finished)
        return future

    def _timer_due(
        self, timer: _Timer, callback: Callable[..., object], args: Any, context: Context | None
    ) -> None:
        timer.soon = self.call_soon(callback, *args, context=context)

    def _thread_finished(self, _: object) -> None:
        self._working -= 1


class _Timer(TimerHandle):
    """A timer: a delayed call of a clock, and then a call of the loop."""

    call: IDelayedCall
    soon: Handle | None = None

    def cancel(self) -> None:
        """Cancel it."""
        if not self.cancelled():
            super().cancel()
            if self.soon is not None:
                self.soon.cancel()
            else:
                self.call.cancel()
