"""A coroutine that is run step by step."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextvars import ContextVar
from types import coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.schedule.coroutine import CheapAwaitable, Task


class Pause(CheapAwaitable):
    """A wait that is over when the test says so."""

    go_on: Callable[..., object]

    @coroutine
    def over(self) -> Generator[Any, Any, Any]:
        """Wait for what ``go_on`` is called with."""
        said = yield self
        if said is self:
            said = yield self.as_deferred()
        return said

    def begin(self, go_on: Callable[..., object]) -> None:
        """Keep what is to be called."""
        self.go_on = go_on

    def cancel(self) -> None:
        """Be over at once."""
        self.go_on(Failure(CancelledError()))


class StepsTests(SynchronousTestCase):
    """A coroutine that knows whether it runs and what it awaits."""

    def setUp(self) -> None:
        """Make one that waits for a Deferred."""
        self.clock = Clock()
        self.blocked: list[float] = []
        self.waiting: Deferred[str] = Deferred()
        self.finished: Deferred[str] = Deferred()
        self.seen: list[object] = []

    def make(self) -> Task:
        """Make its steps."""

        async def view() -> str:
            self.seen.append((self.steps.running, self.steps.awaited))
            try:
                answer = await self.waiting
            except ZeroDivisionError:
                answer = "caught"
            finally:
                self.seen.append((self.steps.running, self.steps.awaited))
            return answer

        self.steps = Task(view(), self.clock, self.blocked.append, self.finished.callback)
        return self.steps

    def test_states(self) -> None:
        """It runs in its steps, and awaits something between them."""
        steps = self.make()
        self.assertFalse(steps.running)
        self.assertIsNone(steps.awaited)
        steps.advance()
        self.assertFalse(steps.running)
        self.assertIs(steps.awaited, self.waiting)
        self.waiting.callback("done")
        self.assertEqual(self.successResultOf(self.finished), "done")
        self.assertEqual(self.seen, [(True, None), (True, None)])
        self.assertFalse(steps.running)
        self.assertIsNone(steps.awaited)

    def test_throw(self) -> None:
        """An exception is raised in it where it waits."""
        steps = self.make()
        steps.advance()
        self.waiting.errback(Failure(ZeroDivisionError()))
        self.assertEqual(self.successResultOf(self.finished), "caught")
        self.assertEqual(self.seen, [(True, None), (True, None)])

    def test_cancel(self) -> None:
        """What it awaits may be cancelled, and that is nothing before and after."""
        steps = self.make()
        self.assertIsNone(steps.awaited)
        steps.advance()
        assert steps.awaited is not None
        steps.awaited.cancel()
        self.failureResultOf(self.finished, CancelledError)
        self.assertIsNone(steps.awaited)

    def test_stranger(self) -> None:
        """What can't be awaited here raises TypeError there."""

        class Stranger:
            def __await__(self) -> Generator[Any, Any, Any]:
                yield None

        async def view() -> str:
            try:
                await Stranger()
            except TypeError as error:
                return str(error)
            return "nothing"

        Task(view(), self.clock, self.blocked.append, self.finished.callback).advance()
        self.assertIn("Deferred.fromFuture", self.successResultOf(self.finished))

    def test_wait(self) -> None:
        """What is no Deferred is begun, and may be over well or badly, or be cancelled."""
        wait, said = Pause(), []

        async def view() -> str:
            said.append(await wait.over())
            try:
                await wait.over()
            except ZeroDivisionError:
                said.append("caught")
            await wait.over()
            return "unreached"

        steps = Task(view(), self.clock, self.blocked.append, self.finished.callback)
        steps.advance()
        self.assertIs(steps.awaited, wait)
        wait.go_on("news")
        wait.go_on(Failure(ZeroDivisionError()))
        self.assertEqual(said, ["news", "caught"])
        assert steps.awaited is not None
        steps.awaited.cancel()
        self.failureResultOf(self.finished, CancelledError)
        self.assertIsNone(steps.awaited)

    def test_wait_elsewhere(self) -> None:
        """Whoever else runs the coroutine gets a Deferred for it, and may cancel that."""
        wait, said = Pause(), []

        async def view() -> None:
            said.append(await wait.over())
            said.append(await wait.over())

        running = Deferred.fromCoroutine(view())
        wait.go_on("news")
        self.assertEqual(said, ["news"])
        self.assertNoResult(running)
        running.cancel()
        self.failureResultOf(running, CancelledError)

    def test_wait_for_nothing(self) -> None:
        """What says neither how it begins nor how it ends is of no use."""

        class Nothing(CheapAwaitable):
            @coroutine
            def over(self) -> Generator[Any, Any, Any]:
                yield self

        async def view() -> str:
            try:
                await Nothing().over()
            except NotImplementedError:
                return "raised"
            return "nothing"

        Task(view(), self.clock, self.blocked.append, self.finished.callback).advance()
        self.assertEqual(self.successResultOf(self.finished), "raised")
        self.assertRaises(NotImplementedError, CheapAwaitable().cancel)

    def test_context(self) -> None:
        """It keeps its context variables, whoever lets it go on."""
        variable: ContextVar[str] = ContextVar("variable", default="nobody's")

        async def view() -> str:
            variable.set("its own")
            await self.waiting
            return variable.get()

        steps = Task(view(), self.clock, self.blocked.append, self.finished.callback)
        steps.advance()
        self.assertEqual(variable.get(), "nobody's")
        self.waiting.callback("done")
        self.assertEqual(self.successResultOf(self.finished), "its own")
