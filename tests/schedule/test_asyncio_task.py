"""AsyncioTask, and the tasks of asyncio's that can await Deferreds."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable, Coroutine, Generator
from contextvars import ContextVar
from functools import partial
from typing import Any
from weakref import ref

import anyio
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from pushd.schedule.asyncio_task import AsyncioTask, _Translation, call_on_loop, make_task
from pushd.schedule.coroutine import current_task
from pushd.schedule.ticks import PushSchedule
from tests.service.process.test_garbage import forget_traceback
from tests.support.event_loop_case import EventLoopTestCase


class Always:
    """Returns the same thing whenever it is called."""

    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self) -> Any:
        """Return it."""
        return self.result


class AsyncioTaskTestCase(EventLoopTestCase):
    """Runs coroutines as the view's task."""

    def setUp(self) -> None:
        """Keep the outcome of the task."""
        super().setUp()
        self.outcomes: list[Any] = []
        self.said: list[object] = []

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> AsyncioTask:
        """Start a task."""
        task = AsyncioTask(coroutine, self.clock, id, self.outcomes.append, loop=self.loop)
        self.run_loop(task.advance)
        return task

    def outcome(self) -> Any:
        """Return what the task returned, or the exception that it raised."""
        [outcome] = self.outcomes
        return outcome.value if isinstance(outcome, Failure) else outcome

    def later(self, seconds: float, result: object = None) -> Deferred[Any]:
        """Return a Deferred that fires later."""
        return deferLater(self.clock, seconds, lambda: result)


class AwaitTests(AsyncioTaskTestCase):
    """What a view can await, and its tasks as well."""

    def test_both_kinds(self) -> None:
        """A view awaits Deferreds, and futures, sleeps and queues of asyncio's."""

        async def view() -> list[object]:
            future = asyncio.get_running_loop().create_future()
            queue = asyncio.Queue[int]()
            self.loop.call_later(1, future.set_result, "future")
            self.loop.call_later(3, queue.put_nowait, 4)
            await asyncio.sleep(0)
            await asyncio.sleep(0.5)
            return [await future, await self.later(1, "Deferred"), await queue.get()]

        self.start(view())
        for _ in range(3):
            self.assertEqual(self.outcomes, [])
            self.advance(1)
        self.assertEqual(self.outcome(), ["future", "Deferred", 4])

    def test_errors(self) -> None:
        """What a future failed with is raised where it is awaited."""

        async def view() -> str:
            future = asyncio.get_running_loop().create_future()
            future.set_exception(ZeroDivisionError())
            try:
                await asyncio.wait({future})
                await future
            except ZeroDivisionError:
                return "caught"
            return "nothing"

        self.start(view())
        self.assertEqual(self.outcome(), "caught")

    def test_thread(self) -> None:
        """A function in a thread is awaited."""
        self.start(asyncio.to_thread(lambda: 7))
        self.assertEqual(self.outcome(), 7)

    def test_current_task(self) -> None:
        """The current task of asyncio and of pushd is the view's own, also behind an await."""

        async def view() -> None:
            for _ in range(2):
                self.said.append((asyncio.current_task() is task.future, current_task() is task))
                await self.later(1)
            self.said.append(task.future in asyncio.all_tasks())

        task: Any = AsyncioTask(view(), self.clock, id, self.outcomes.append, loop=self.loop)
        self.run_loop(task.advance)
        self.said.append(self.run_loop(lambda: asyncio.current_task(self.loop)))
        self.advance(1)
        self.advance(1)
        self.assertEqual(self.said, [(True, True), None, (True, True), True])
        self.assertEqual(self.run_loop(lambda: asyncio.all_tasks(self.loop)), set())

    def test_nested_steps(self) -> None:
        """A view that resumes another, or is resumed by a task, is the current task of its step."""
        fires: Deferred[None] = Deferred()

        async def other() -> None:
            await fires
            self.said.append(asyncio.current_task())

        async def child() -> None:
            fires.callback(None)
            self.said.append(asyncio.current_task())

        async def view() -> None:
            await asyncio.create_task(child())
            again.callback(None)
            self.said.append(asyncio.current_task())

        async def third() -> None:
            await again
            self.said.append(asyncio.current_task())

        again: Deferred[None] = Deferred()
        first, last = self.start(other()), self.start(third())
        task = self.start(view())
        self.assertIs(self.said[0], first.future)
        self.assertIsInstance(self.said[1], asyncio.Task)
        self.assertEqual(self.said[2:], [last.future, task.future])

    def test_children(self) -> None:
        """Tasks of the view, in gather, in a TaskGroup or alone, await Deferreds and schedules."""

        async def count() -> list[int]:
            return [n async for n in PushSchedule(self.clock, count=2, interval=1)]

        async def view() -> list[object]:
            async with asyncio.TaskGroup() as group:
                one = group.create_task(count())
                bare: Any = self.later(1, "bare")
                other = group.create_task(bare)
            rest = await asyncio.gather(count(), self.later(1, "x"), succeed("y"))
            return [one.result(), other.result(), *rest, await asyncio.create_task(count())]

        self.start(view())
        for _ in range(6):
            self.advance(1)
        self.assertEqual(self.outcome(), [[0, 1], "bare", [0, 1], "x", "y", [0, 1]])

    def test_failures_of_children(self) -> None:
        """A Deferred that fails raises in the task that awaits it."""

        async def child(deferred: Deferred[None]) -> str:
            try:
                await deferred
            except (ZeroDivisionError, RuntimeError) as error:
                return type(error).__name__
            return ""

        async def view() -> list[str]:
            self.deferreds: list[Deferred[None]] = [Deferred(), Deferred()]
            return await asyncio.gather(*map(child, self.deferreds))

        self.start(view())
        self.run_loop(lambda: self.deferreds[0].errback(ZeroDivisionError()))
        self.run_loop(lambda: self.deferreds[1].errback(StopIteration()))
        self.assertEqual(self.outcome(), ["ZeroDivisionError", "RuntimeError"])

    def test_context(self) -> None:
        """The view's context variables are those of its own context, and its tasks inherit them."""
        variable = ContextVar("variable", default=0)

        async def child() -> int:
            await self.later(1)
            return variable.get()

        async def view() -> list[int]:
            variable.set(1)
            await asyncio.sleep(1)
            return [variable.get(), await asyncio.create_task(child())]

        task = self.start(view())
        self.advance(1)
        self.advance(1)
        self.assertEqual(self.outcome(), [1, 1])
        self.assertEqual(variable.get(), 0)
        self.assertEqual(task.future.get_context()[variable], 1)

    def test_not_awaitable(self) -> None:
        """What nothing can wait for, and a future of another loop, raise at the await."""

        class Strange:
            def __await__(self) -> Generator[Any, Any, Any]:
                yield 5

        other = asyncio.new_event_loop()
        self.addCleanup(other.close)
        for awaited, kind in ((Strange(), TypeError), (other.create_future(), RuntimeError)):

            async def view(awaited: Any = awaited) -> None:
                await awaited

            self.start(view())
            self.assertIs(type(self.outcome()), kind)
            self.outcomes.clear()
        with self.assertRaisesRegex(TypeError, "a coroutine was expected, got 5"):
            make_task(self.loop, 5)  # type: ignore[arg-type]

    def test_coroutine_of_task(self) -> None:
        """A task made by a view tells about its coroutine as asyncio's own tasks do."""

        async def child() -> int:
            await asyncio.sleep(1)
            return 1

        async def view() -> int:
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
            self.assertIn("child() running at", repr(task))
            self.assertEqual(task.get_stack()[0].f_code.co_name, "child")
            task.cancel()
            return int(await _Translation(child(), self.loop))

        self.start(view())
        self.advance(1)
        self.assertEqual(self.outcome(), 1)

    def test_anyio(self) -> None:
        """Scopes and task groups of anyio work in a view, also around Deferreds."""

        async def child() -> None:
            self.said.append(await self.later(1, "child"))
            await Deferred()

        async def view() -> bool:
            with anyio.move_on_after(5) as scope:
                await Deferred()
            async with anyio.create_task_group() as group:
                group.start_soon(child)
                await self.later(2)
                group.cancel_scope.cancel()
            return scope.cancelled_caught

        self.start(view())
        for _ in range(7):
            self.advance(1)
        self.assertIs(self.outcome(), True)
        self.assertEqual(self.said, ["child"])


class CancelTests(AsyncioTaskTestCase):
    """Cancellation: by asyncio, by pushd, and by what is awaited."""

    async def wait_for(self, make: Callable[[], Any]) -> str:
        """Await something, and tell how that ends."""
        try:
            await make()
        except asyncio.CancelledError as error:
            self.said.append(error.args)
            raise
        except CancelledError:
            return "Twisted's"
        return "ended"

    def never(self) -> Any:
        """Return a future that never has a result."""
        return asyncio.get_running_loop().create_future()

    def schedule(self) -> Any:
        """Return a wait for a schedule."""
        return PushSchedule(self.clock, count=1, interval=1, delay=9).__anext__()

    def test_future_cancel(self) -> None:
        """``cancel`` raises asyncio's CancelledError at every kind of await, with its text."""
        for make in (Deferred, self.never, self.schedule, lambda: asyncio.sleep(9)):
            task = self.start(self.wait_for(make))
            self.assertIs(self.run_loop(partial(task.future.cancel, "why")), True)
            self.assertIsInstance(self.outcome(), asyncio.CancelledError)
            self.assertEqual(self.said, [("why",)])
            self.assertTrue(task.future.cancelled())
            self.assertIs(task.future.cancel(), False)
            self.assertEqual(task.future.uncancel(), 0)
            self.assertEqual(task.future.uncancel(), 0)
            self.outcomes.clear()
            self.said.clear()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_not_at_once(self) -> None:
        """``cancel`` raises after it has returned, as the caller may not be ready for it."""
        task = self.start(self.wait_for(Deferred))
        self.loop.run(lambda: self.said.append([task.future.cancel(), *self.outcomes]))
        self.assertEqual(self.said, [[True]])
        self.loop.run_ready()
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)

    def test_cancel_now(self) -> None:
        """``cancel_now`` raises before it returns, where the view awaits what is Twisted's."""
        for make in (Deferred, self.schedule):
            task = self.start(self.wait_for(make))
            task.cancel_now()
            self.assertIsInstance(self.outcome(), asyncio.CancelledError)
            task.cancel_now()  # Does nothing.
            self.outcomes.clear()
        task = self.start(self.wait_for(self.never))
        self.run_loop(task.cancel_now)
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)

    def test_cancel_oneself(self) -> None:
        """A task that cancels itself meets that at its next await."""
        for make in (Deferred, self.never, self.schedule, lambda: asyncio.sleep(0)):

            async def view(make: Callable[[], Any] = make) -> None:
                task: Any = asyncio.current_task()
                task.cancel()
                self.said.append(task._must_cancel)
                await self.wait_for(make)

            self.start(view())
            self.assertIsInstance(self.outcome(), asyncio.CancelledError)
            self.outcomes.clear()
        self.assertEqual(self.said, [True, ()] * 4)

    def test_future_that_is_done(self) -> None:
        """A cancellation between the end of a future and that of the await is raised."""
        future = self.loop.create_future()
        task = self.start(self.wait_for(lambda: future))

        def both() -> None:
            future.set_result(1)
            task.future.cancel()

        self.run_loop(both)
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)

    def test_result_first(self) -> None:
        """What a Deferred brings before it is cancelled is not lost: the next await raises."""
        first: Deferred[str] = Deferred()

        async def view() -> None:
            self.said.append(await first)
            await Deferred()

        task = self.start(view())

        def both() -> None:
            task.future.cancel()
            first.callback("message")

        self.run_loop(both)
        self.assertEqual(self.said, ["message"])
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)

    def test_timeout_and_result(self) -> None:
        """A result that comes together with a timeout is not lost, and ends nothing else."""
        first: Deferred[str] = Deferred()

        async def view() -> str:
            async with asyncio.timeout(5):
                self.said.append(await first)
            await self.later(1)
            return "went on"

        self.start(view())

        def both() -> None:
            self.clock.advance(5)
            self.loop.call_soon(first.callback, "message")

        self.loop.run(both)
        self.loop.run_ready()
        self.advance(1)
        self.assertEqual(self.said, ["message"])
        self.assertEqual(self.outcome(), "went on")

    def test_timeouts(self) -> None:
        """``asyncio.timeout`` and ``wait_for`` end every kind of await with TimeoutError."""

        async def view() -> int:
            for make in (Deferred, self.never, self.schedule):
                try:
                    async with asyncio.timeout(1):
                        await make()
                except TimeoutError:
                    self.said.append("timeout")
                try:
                    await asyncio.wait_for(make(), 1)
                except TimeoutError:
                    self.said.append("wait_for")
            task = asyncio.current_task()
            assert task is not None
            return task.cancelling()

        self.start(view())
        for _ in range(6):
            self.advance(1)
        self.assertEqual(self.said, ["timeout", "wait_for"] * 3)
        self.assertEqual(self.outcome(), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_task_group(self) -> None:
        """A child that fails ends the view's wait for a Deferred, and its other children."""

        async def fail() -> None:
            await self.later(1)
            raise ZeroDivisionError

        async def other() -> None:
            try:
                await Deferred()
            finally:
                self.said.append("ended")

        async def view() -> str:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(fail())
                    group.create_task(other())
                    await Deferred()
            except* ZeroDivisionError:
                self.said.append("caught")
            return "went on"

        self.start(view())
        self.advance(1)
        self.assertEqual(self.outcome(), "went on")
        self.assertEqual(self.said, ["ended", "caught"])

    def test_view_of_children(self) -> None:
        """A view that is cancelled takes the children of its TaskGroup with it."""

        async def child() -> None:
            await self.wait_for(Deferred)

        async def view() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(child())

        task = self.start(view())
        self.run_loop(task.cancel_now)
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)
        self.assertEqual(self.said, [()])

    def test_by_others(self) -> None:
        """A Deferred that others cancel fails with Twisted's CancelledError."""
        deferred: Deferred[None] = Deferred()
        self.start(self.wait_for(lambda: deferred))
        self.run_loop(deferred.cancel)
        self.assertEqual(self.outcome(), "Twisted's")
        self.outcomes.clear()

        async def view() -> str:
            return await asyncio.create_task(self.wait_for(lambda: other))

        other: Deferred[None] = Deferred()
        self.start(view())
        self.run_loop(other.cancel)
        self.assertEqual(self.outcome(), "Twisted's")

    def test_cancelled_future(self) -> None:
        """A future that others cancel raises asyncio's CancelledError."""
        future = self.loop.create_future()
        self.start(self.wait_for(lambda: future))
        self.run_loop(future.cancel)
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)

    def test_result_of_canceller(self) -> None:
        """A Deferred whose canceller finds a result gives that, to the view and to its tasks."""

        def make() -> Deferred[None]:
            return Deferred(lambda deferred: deferred.callback(None))

        task = self.start(self.wait_for(make))
        self.run_loop(task.cancel_now)
        self.assertEqual(self.outcome(), "ended")
        self.outcomes.clear()

        async def view() -> str:
            child = asyncio.create_task(self.wait_for(make))
            await asyncio.sleep(0)
            child.cancel()
            return await child

        self.start(view())
        self.assertEqual(self.outcome(), "ended")

    def test_failing_canceller(self) -> None:
        """A canceller that raises is reported, and the await ends all the same."""

        def fail(_: object) -> None:
            raise ZeroDivisionError

        task = self.start(self.wait_for(lambda: Deferred(fail)))
        self.run_loop(task.cancel_now)
        self.assertIsInstance(self.outcome(), asyncio.CancelledError)
        [context] = self.errors
        self.assertIsInstance(context["exception"], ZeroDivisionError)

        class FailingSchedule(PushSchedule):
            __slots__ = ()

            def cancel(self) -> None:
                raise ZeroDivisionError

        schedule = FailingSchedule(self.clock, count=1, interval=1, delay=1)
        task = self.start(self.wait_for(schedule.__anext__))
        self.run_loop(task.cancel_now)
        self.assertEqual(len(self.errors), 2)
        self.advance(1)
        self.assertEqual(len(self.outcomes), 2)

    def test_late_result(self) -> None:
        """A Deferred that fires although it was cancelled, and late, is of no use any more."""

        async def view() -> str:
            try:
                async with asyncio.timeout(1):
                    await asyncio.create_task(self.wait_for(lambda: chain))
            except TimeoutError:
                return "timeout"
            return ""

        class Stubborn(Deferred[None]):
            def cancel(self) -> None: ...

        chain = Stubborn()
        self.start(view())
        self.advance(1)
        self.assertEqual(self.outcome(), "timeout")
        self.run_loop(lambda: chain.errback(ZeroDivisionError()))

    def test_given_back(self) -> None:
        """A result that comes too late for a task that is cancelled is given back."""
        given: list[str] = []

        class Message(Deferred[str]):
            def give_back(self, message: str) -> None:
                given.append(message)

        messages = [Message(), Message(), Message()]
        plain: Deferred[str] = Deferred()

        async def view() -> None:
            self.children = [
                asyncio.create_task(self.wait_for(Always(one))) for one in (*messages, plain)
            ]
            await asyncio.wait(self.children)

        self.start(view())

        def all_at_once() -> None:
            messages[0].callback("message")
            messages[1].errback(ZeroDivisionError())
            plain.callback("lost")
            for child in self.children:
                child.cancel()
            self.assertIs(self.children[0].cancel(), True)

        self.run_loop(all_at_once)
        self.assertEqual(given, ["message"])
        self.assertEqual(len(self.outcomes), 1)

    def test_drop(self) -> None:
        """A task that is dropped has ended for asyncio, too, and never runs again."""
        future = self.loop.create_future()

        async def view() -> None:
            try:
                await future
            finally:
                self.said.append(asyncio.current_task())

        task = self.start(view())
        self.run_loop(task.drop)
        self.assertTrue(task.future.cancelled())
        self.run_loop(lambda: future.set_result(None))
        self.assertEqual((self.said, self.outcomes), ([task.future], []))


class TaskFutureTests(AsyncioTaskTestCase):
    """The task has what ``asyncio.Task`` has."""

    def test_attributes(self) -> None:
        """Name, coroutine, frames and what it waits for can be asked for."""
        awaited: Deferred[None] = Deferred()

        async def view() -> None:
            await awaited

        coroutine: Any = view()
        future: Any = self.start(coroutine).future
        self.assertRegex(future.get_name(), r"view-\d+")
        future.set_name("mine")
        self.assertEqual(repr(future), "<TaskFuture mine pending>")
        self.assertIs(future.get_coro(), coroutine)
        self.assertIs(future.get_stack()[0].f_code, coroutine.cr_code)
        printed = io.StringIO()
        future.print_stack(file=printed)
        self.assertIn("in view", printed.getvalue())
        self.assertIs(future._fut_waiter, awaited)
        for set_something in (future.set_result, future.set_exception):
            self.assertRaises(RuntimeError, set_something, None)
        self.run_loop(lambda: awaited.callback(None))
        self.assertEqual(repr(future), "<TaskFuture mine finished>")
        self.assertEqual(future.get_stack(), [])
        self.assertIsNone(future._fut_waiter)
        self.assertFalse(future._must_cancel)

    def test_awaited(self) -> None:
        """Another task can await it, and gets what the coroutine returned or raised."""

        async def view(error: Exception | None) -> str:
            await self.later(1)
            if error is not None:
                raise error
            return "result"

        async def other(future: Any) -> object:
            try:
                return await future
            except ZeroDivisionError as error:
                return error

        error = ZeroDivisionError()
        tasks = [self.start(view(None)), self.start(view(error))]
        outcomes = [self.run_loop(partial(make_task, self.loop, other(t.future))) for t in tasks]
        self.advance(1)
        self.assertEqual([one.result() for one in outcomes], ["result", error])
        self.assertEqual(self.errors, [])

    def test_no_cycle(self) -> None:
        """A task that has ended, in whatever way, is freed without the garbage collector."""

        async def view(how: str) -> None:
            await self.later(1)
            if how == "fail":
                raise ZeroDivisionError
            await asyncio.sleep(1)
            await Deferred()

        if Failure.cleanFailure.__module__.startswith("pytest_twisted"):
            self.patch(Failure, "cleanFailure", forget_traceback)
        gc.disable()
        self.addCleanup(gc.enable)
        for how in ("fail", "cancel", "drop"):
            task = self.start(view(how))
            weak = ref(task.future)
            self.advance(1)
            self.advance(1)
            if how == "cancel":
                self.run_loop(task.cancel_now)
            elif how == "drop":
                self.run_loop(task.drop)
                assert task.awaited is not None
                task.awaited.cancel()
            del task
            self.outcomes.clear()
            self.assertIsNone(weak(), how)


class ChildTests(AsyncioTaskTestCase):
    """Tasks made by the loop's factory."""

    def test_closed(self) -> None:
        """A task that is closed closes its coroutine."""

        async def child() -> None:
            try:
                await Deferred()
            finally:
                self.said.append("closed")

        task: Any = self.run_loop(lambda: self.loop.create_task(child(), name="x"))
        self.assertEqual((task.get_name(), task.get_coro().__name__), ("x", "child"))
        task.get_coro().close()
        self.assertEqual(self.said, ["closed"])
        self.run_loop(task.cancel)


class CallOnLoopTests(AsyncioTaskTestCase):
    """``call_on_loop`` gives a Deferred for functions of every kind."""

    def call(self, function: Callable[[], Any], *, loop: bool = True) -> list[Any]:
        """Call a function; return the outcomes."""
        self.deferred = self.run_loop(
            lambda: call_on_loop(self.clock, self.loop if loop else None, function)
        )
        self.deferred.addBoth(self.outcomes.append)
        return self.outcomes

    def test_kinds(self) -> None:
        """A value, an exception, a Deferred and a coroutine all give their result."""

        async def sleep() -> str:
            await asyncio.sleep(1)
            return "slept"

        self.assertEqual(self.call(lambda: 5), [5])
        self.assertEqual(self.call(lambda: 5, loop=False), [5, 5])
        self.outcomes.clear()
        self.call(lambda: 1 / 0)
        self.assertIsInstance(self.outcome(), ZeroDivisionError)
        self.outcomes.clear()
        self.assertEqual(self.call(lambda: succeed(6)), [6])
        self.outcomes.clear()
        self.assertEqual(self.call(sleep), [])
        self.advance(1)
        self.assertEqual(self.outcomes, ["slept"])

    def test_cancel(self) -> None:
        """Cancelling the Deferred cancels the coroutine."""

        async def sleep() -> None:
            try:
                await asyncio.sleep(1)
            finally:
                self.said.append("ended")

        self.call(sleep)
        self.run_loop(self.deferred.cancel)
        self.assertIsInstance(self.outcome(), CancelledError)
        self.assertEqual(self.said, ["ended"])
        self.assertEqual(self.clock.getDelayedCalls(), [])
