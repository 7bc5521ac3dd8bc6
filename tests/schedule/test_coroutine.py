"""Tests of Task and CheapAwaitable."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextvars import ContextVar
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.coroutine import SLOW_STEP, CheapAwaitable, Task


class ManualAwaitable(CheapAwaitable):
    """A CheapAwaitable that ends when the test calls ``resume``."""

    resume: Callable[..., object]

    def start(self, resume: Callable[..., object]) -> None:
        """Keep the callable for the test."""
        self.resume = resume

    def cancel(self) -> None:
        """End the wait with a CancelledError."""
        self.resume(Failure(CancelledError()))


class TaskTests(SynchronousTestCase):
    """Task runs a coroutine, and knows what it is doing."""

    def setUp(self) -> None:
        """Keep what each task reports."""
        self.clock = Clock()
        self.blocked: list[float] = []
        self.awaited: Deferred[str] = Deferred()
        self.finished: Deferred[str] = Deferred()
        self.states: list[object] = []

    def make_task(self) -> Task:
        """Make a task of a coroutine that awaits a Deferred and notes the task's state."""

        async def view() -> str:
            self.states.append((self.task.running, self.task.awaited))
            try:
                answer = await self.awaited
            except ZeroDivisionError:
                answer = "caught"
            finally:
                self.states.append((self.task.running, self.task.awaited))
            return answer

        self.task = Task(view(), self.clock, self.blocked.append, self.finished.callback)
        return self.task

    def test_states(self) -> None:
        """A task is running during a step, and awaits something between two steps."""
        task = self.make_task()
        self.assertFalse(task.running)
        self.assertIsNone(task.awaited)
        task.advance()
        self.assertFalse(task.running)
        self.assertIs(task.awaited, self.awaited)
        self.awaited.callback("done")
        self.assertEqual(self.successResultOf(self.finished), "done")
        self.assertEqual(self.states, [(True, None), (True, None)])
        self.assertFalse(task.running)
        self.assertIsNone(task.awaited)

    def test_failure_is_raised(self) -> None:
        """A Failure of what the coroutine awaits is raised at its ``await``."""
        task = self.make_task()
        task.advance()
        self.awaited.errback(Failure(ZeroDivisionError()))
        self.assertEqual(self.successResultOf(self.finished), "caught")
        self.assertEqual(self.states, [(True, None), (True, None)])

    def test_cancel(self) -> None:
        """Cancelling what the coroutine awaits ends it with CancelledError."""
        task = self.make_task()
        self.assertIsNone(task.awaited)
        task.advance()
        assert task.awaited is not None
        task.awaited.cancel()
        self.failureResultOf(self.finished, CancelledError)
        self.assertIsNone(task.awaited)

    def test_not_awaitable(self) -> None:
        """Awaiting what neither pushd nor Twisted can wait for raises TypeError."""

        class AsyncioFuture:
            def __await__(self) -> Generator[Any, Any, Any]:
                yield None

        async def view() -> str:
            try:
                await AsyncioFuture()
            except TypeError as error:
                return str(error)
            return "nothing"

        Task(view(), self.clock, self.blocked.append, self.finished.callback).advance()
        self.assertIn("start pushd with --loop asyncio", self.successResultOf(self.finished))

    def test_slow_step(self) -> None:
        """A step that takes longer than SLOW_STEP is reported with its length."""

        async def view() -> str:
            self.clock.advance(SLOW_STEP)
            await self.awaited
            self.clock.advance(SLOW_STEP + 1)
            return "done"

        Task(view(), self.clock, self.blocked.append, self.finished.callback).advance()
        self.assertEqual(self.blocked, [])
        self.awaited.callback("go on")
        self.assertEqual(self.blocked, [SLOW_STEP + 1])
        self.assertEqual(self.successResultOf(self.finished), "done")

    def test_context(self) -> None:
        """A coroutine has context variables of its own, wherever it is resumed from."""
        variable: ContextVar[str] = ContextVar("variable", default="outside")

        async def view() -> str:
            variable.set("inside")
            await self.awaited
            return variable.get()

        task = Task(view(), self.clock, self.blocked.append, self.finished.callback)
        task.advance()
        self.assertEqual(variable.get(), "outside")
        self.awaited.callback("done")
        self.assertEqual(self.successResultOf(self.finished), "inside")


class CheapAwaitableTests(SynchronousTestCase):
    """CheapAwaitable can be awaited in a Task and in Deferred.fromCoroutine."""

    def setUp(self) -> None:
        """Make one, and a coroutine that awaits it three times."""
        self.awaitable = ManualAwaitable()
        self.results: list[object] = []

        async def view() -> str:
            self.results.append(await self.awaitable)
            try:
                await self.awaitable
            except ZeroDivisionError:
                self.results.append("caught")
            await self.awaitable
            return "not reached"

        self.coroutine = view()

    def test_in_task(self) -> None:
        """In a Task ``await`` returns the value, raises the Failure, and can be cancelled."""
        finished: Deferred[str] = Deferred()
        task = Task(self.coroutine, Clock(), self.results.append, finished.callback)
        task.advance()
        self.assertIs(task.awaited, self.awaitable)
        self.awaitable.resume("value")
        self.awaitable.resume(Failure(ZeroDivisionError()))
        self.assertEqual(self.results, ["value", "caught"])
        assert task.awaited is not None
        task.awaited.cancel()
        self.failureResultOf(finished, CancelledError)
        self.assertIsNone(task.awaited)

    def test_in_from_coroutine(self) -> None:
        """In Deferred.fromCoroutine ``await`` does the same, by way of a Deferred."""
        finished = Deferred.fromCoroutine(self.coroutine)
        self.awaitable.resume("value")
        self.awaitable.resume(Failure(ZeroDivisionError()))
        self.assertEqual(self.results, ["value", "caught"])
        self.assertNoResult(finished)
        finished.cancel()
        self.failureResultOf(finished, CancelledError)

    def test_task_needs_no_deferred(self) -> None:
        """In a Task no Deferred is created: the end of the wait calls ``Task.advance`` itself."""
        task = Task(self.coroutine, Clock(), self.results.append, self.results.append)
        self.patch(defer.Deferred, "__init__", lambda *_: self.fail("a Deferred was created"))
        task.advance()
        self.assertEqual(self.awaitable.resume, task.advance)
        self.awaitable.resume()
        self.assertEqual(self.results, [None])
        self.coroutine.close()

    def test_abstract(self) -> None:
        """A subclass must implement both ``start`` and ``cancel``."""

        async def view() -> str:
            try:
                await CheapAwaitable()
            except NotImplementedError:
                return "raised"
            return "nothing"

        finished: Deferred[str] = Deferred()
        Task(view(), Clock(), self.results.append, finished.callback).advance()
        self.assertEqual(self.successResultOf(finished), "raised")
        self.assertRaises(NotImplementedError, CheapAwaitable().cancel)
        self.coroutine.close()
