"""Views on asyncio's event loop: what they await, and how they are ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from pushd.errors import ConversationOver
from pushd.protocols.websocket.grace import MAX_IGNORED
from pushd.schedule import PushSchedule
from pushd.testing import GOING_AWAY, INTERNAL_ERROR, Daemon
from pushd.topics.publication import Id
from pushd.views import Request, require_websocket
from pushd.views.runner import GRACE, asks_for_asyncio, is_cancellation
from tests.support.peer import said

BROWSERS = 200


class AsyncioViewTestCase(SynchronousTestCase):
    """Serves one view, which notes what happens to it."""

    def setUp(self) -> None:
        """Begin with no notes."""
        self.notes: list[Any] = []

    def serve(self, view: Any, **settings: Any) -> Daemon:
        """Serve a view at ``/view/``."""
        settings.setdefault("max_per_address", 1000)
        daemon = Daemon({"/view/": view}, loop="asyncio", **settings)
        self.addCleanup(daemon.stop)
        self.daemon = daemon
        return daemon

    @asynccontextmanager
    async def noting(self) -> AsyncIterator[None]:
        """Note how the code inside ends."""
        try:
            yield
        except BaseException as error:
            self.notes.append(type(error))
            raise
        finally:
            self.notes.append("clean-up")


class AwaitTests(AsyncioViewTestCase):
    """Views and their tasks await both kinds."""

    def test_all(self) -> None:
        """What pushd hands out can be awaited in child tasks, beside what is asyncio's."""

        @require_websocket
        async def view(request: Request) -> None:
            websocket = request.websocket

            async def read() -> None:
                async for message in websocket:
                    await websocket.send(f"got {message}")

            async def push() -> None:
                async for number in PushSchedule(request.clock, count=2, interval=1):
                    await websocket.send(f"push {number}")

            async def publish() -> None:
                await websocket.subscribe("news")
                await asyncio.sleep(1)
                self.notes.append(await request.publish("news", "published"))

            async with asyncio.TaskGroup() as group:
                reading = group.create_task(read())
                group.create_task(push())
                await asyncio.create_task(publish())
                await websocket.send(await asyncio.to_thread(lambda: "thread"))
                await deferLater(request.clock, 2)
                reading.cancel()
            await asyncio.create_task(last_words(websocket))
            self.notes.append("closed")

        async def last_words(websocket: Any) -> None:
            await websocket.close(4000, "bye")

        daemon = self.serve(view)
        browser = daemon.connect("/view/")
        browser.send("a")
        daemon.advance(1)
        browser.send("b")
        daemon.advance(1, 1)
        self.assertEqual(
            browser.messages, ["push 0", "got a", "push 1", "published", "thread", "got b"]
        )
        assert browser.closing is not None
        self.assertEqual(browser.closing.code, 4000)
        daemon.advance(5)
        self.assertEqual(self.notes, [Id.parse(daemon.last_id("news")), "closed"])

    def test_http(self) -> None:
        """A view that answers over HTTP awaits asyncio's awaitables, too."""

        async def view(request: Request) -> str:
            task = asyncio.current_task()
            await asyncio.sleep(1)
            return f"<p>{asyncio.current_task() is task}"

        daemon = self.serve(view)
        connection = daemon.open_connection()
        connection.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertIsNone(connection.answer())
        daemon.advance(1)
        answer = connection.answer()
        assert answer is not None
        self.assertEqual(answer.text, "<p>True")

    def test_many(self) -> None:
        """Two hundred browsers at once have a task each, with a context and an order of its own."""
        number: ContextVar[int] = ContextVar("number")
        tasks = set()

        @require_websocket
        async def view(request: Request) -> None:
            number.set(int(request.query["n"]))
            tasks.add(asyncio.current_task())
            queue = asyncio.Queue[str]()

            async def read() -> None:
                async for message in request.websocket:
                    queue.put_nowait(message)
                queue.put_nowait("")

            async with asyncio.TaskGroup() as group:
                group.create_task(read())
                while message := await queue.get():
                    await asyncio.sleep(0)
                    await request.websocket.send(f"{number.get()} {message}")

        daemon = self.serve(view)
        browsers = [daemon.connect(f"/view/?n={n}") for n in range(BROWSERS)]
        for text in ("a", "b"):
            for browser in browsers:
                browser.send(text)
        for n, browser in enumerate(browsers):
            self.assertEqual(browser.messages, [f"{n} a", f"{n} b"])
            browser.close()
        self.assertEqual(len(tasks), BROWSERS)
        self.assertTrue(all(browser.gone for browser in browsers))
        self.assertEqual(daemon.pending_calls, [])

    def test_no_message_lost(self) -> None:
        """A message that meets a timeout is read by the next wait."""

        @require_websocket
        async def view(request: Request) -> None:
            websocket = request.websocket

            async def wait() -> Any:
                return await websocket.wait()

            for make in (websocket.wait, wait):
                try:
                    async with asyncio.timeout(1):
                        self.notes.append(await asyncio.create_task(make()))
                except TimeoutError:
                    self.notes.append("timeout")
            for _ in range(2):
                self.task = asyncio.create_task(wait())
                await asyncio.wait({self.task})
                self.notes.append(await websocket.wait())

        daemon = self.serve(view)
        browser = daemon.connect("/view/")
        daemon.advance(1, 1)
        self.assertEqual(self.notes, ["timeout", "timeout"])

        def message_and_cancel() -> None:
            daemon._network.run()
            self.task.cancel()

        def cancel_and_message() -> None:
            self.task.cancel()
            daemon._network.run()

        for both in (message_and_cancel, cancel_and_message):
            task = self.task
            daemon.clock.callLater(1, both)
            browser._client.sendMessage(b"message")
            daemon.advance(1)
            self.assertTrue(task.cancelled())
        self.assertEqual(self.notes[2:], ["message"] * 2)

    def test_helper(self) -> None:
        """A decorator that is a plain function may return the coroutine, also in a thread."""

        def view(request: Request) -> Any:
            return inner(request)

        def in_thread(request: Request) -> Any:
            return inner(request)

        async def inner(request: Request) -> str:
            await asyncio.sleep(1)
            return "late"

        view.__annotations__["return"] = Deferred
        for one in (view, in_thread):
            daemon = self.serve(one)
            connection = daemon.open_connection()
            connection.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            daemon.advance(1)
            answer = connection.answer()
            assert answer is not None
            self.assertEqual(answer.text, "late")


class EndTests(AsyncioViewTestCase):
    """The rules of the end of a conversation hold."""

    def end(self, view: Any, *seconds: float) -> list[str]:
        """Let a browser come and leave, and time pass; return the log."""
        daemon = self.serve(require_websocket(view))
        browser = daemon.connect("/view/")
        with capturedLogs() as events:
            browser.leave()
            daemon.advance(*seconds)
        return said(events)

    def test_schedule(self) -> None:
        """A view that waits for a schedule is cancelled at once, with asyncio's CancelledError."""

        async def view(request: Request) -> None:
            async with self.noting():
                async for number in PushSchedule(request.clock, count=None, interval=1):
                    request.websocket.send(str(number))

        self.end(view)
        self.assertEqual(self.notes, [asyncio.CancelledError, "clean-up"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_schedule_later(self) -> None:
        """So is one that comes to a schedule behind other awaits, of each kind."""
        pauses: list[Any] = [lambda clock: asyncio.sleep(1), lambda clock: deferLater(clock, 1)]
        for pause in pauses:
            self.notes.clear()

            async def view(request: Request, pause: Any = pause) -> None:
                request.websocket.accept()
                async with self.noting():
                    await pause(request.clock)
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    self.notes.append("schedule")
                    async for _ in PushSchedule(request.clock, count=None, interval=1):
                        pass

            self.end(view, 1)
            self.assertEqual(self.notes, ["schedule", asyncio.CancelledError, "clean-up"])

    def test_told(self) -> None:
        """A view that waits for a message is told, and not cancelled."""

        async def view(request: Request) -> None:
            async with self.noting():
                self.notes.append(await request.websocket.wait())
                await asyncio.sleep(GRACE - 1)
                await request.websocket.send("nothing happens")

        self.assertEqual(self.end(view, GRACE - 1), self.end(view, GRACE - 1))
        self.assertEqual(self.notes, [None, "clean-up"] * 2)

    def test_grace(self) -> None:
        """One that waits for anything else is cancelled after its grace, with its TaskGroup."""

        async def child() -> None:
            async with self.noting():
                await Deferred()

        async def view(request: Request) -> None:
            request.websocket.accept()
            async with self.noting(), asyncio.TaskGroup() as group:
                group.create_task(child())
                await asyncio.Event().wait()

        lines = self.end(view, GRACE - 1)
        self.assertEqual(self.notes, [])
        with capturedLogs() as events:
            self.daemon.advance(1)
        lines = said(events)
        self.assertEqual(self.notes, [asyncio.CancelledError, "clean-up"] * 2)
        self.assertIn("still running 5 s after the end of its conversation", lines[0])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_clean_up_awaits(self) -> None:
        """A clean-up may await what is asyncio's."""

        async def view(request: Request) -> None:
            try:
                async for _ in PushSchedule(request.clock, count=None, interval=1):
                    pass
            finally:
                await asyncio.sleep(1)
                self.notes.append(await asyncio.to_thread(lambda: "thread"))

        self.end(view, 1)
        self.assertEqual(self.notes, ["thread"])

    def test_timeout_around(self) -> None:
        """A timeout of the view's own around the await does not take the end for its own."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            async with self.noting(), asyncio.timeout(100):
                await asyncio.sleep(99)

        self.end(view, GRACE)
        self.assertEqual(self.notes, [asyncio.CancelledError, "clean-up"])

    def test_ignored(self) -> None:
        """A view that ignores every cancellation is dropped; nothing of it runs any more."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            while True:
                try:
                    await asyncio.sleep(1000)
                except asyncio.CancelledError:
                    self.notes.append("ignored")

        lines = self.end(view, *[GRACE] * (MAX_IGNORED + 1))
        self.assertEqual(self.notes, ["ignored"] * MAX_IGNORED)
        self.assertIn("ignored 100 times", lines[-1])
        self.daemon.advance(1000)
        self.assertEqual(self.daemon.pending_calls, [])

    def test_ignored_pause(self) -> None:
        """So is one that never waits for more than the next iteration."""

        async def view(request: Request) -> None:
            request.websocket.accept()
            while True:
                try:
                    await Deferred()
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
                    self.notes.append("ignored")

        self.end(view, *[GRACE] * (MAX_IGNORED + 1))
        self.assertEqual(self.notes, ["ignored"] * MAX_IGNORED)

    def test_refused(self) -> None:
        """The calls of a view that goes on with them raise asyncio's CancelledError."""

        async def view(request: Request) -> None:
            async with self.noting():
                while True:
                    await request.websocket.wait()

        self.end(view)
        self.assertEqual(self.notes, [asyncio.CancelledError, "clean-up"])

    def test_http(self) -> None:
        """A view over HTTP whose client has left is cancelled where it waits."""

        async def view(request: Request) -> None:
            async with self.noting():
                await asyncio.sleep(1000)

        daemon = self.serve(view)
        connection = daemon.open_connection()
        connection.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        connection._transport.abortConnection()
        daemon.settle()
        self.assertEqual(self.notes, [asyncio.CancelledError, "clean-up"])

    def test_failure(self) -> None:
        """A child of a TaskGroup that fails ends the view, with 1011 and a traceback."""

        async def fail() -> None:
            raise ZeroDivisionError

        async def view(request: Request) -> None:
            request.websocket.accept()
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                await request.websocket.wait()

        browser = self.serve(require_websocket(view)).connect("/view/")
        self.assertEqual(browser.closing, INTERNAL_ERROR)
        [failure] = self.flushLoggedErrors(ExceptionGroup)
        self.assertIn("ZeroDivisionError", repr(failure.value))

    def test_stop(self) -> None:
        """A stop waits for views in their grace, and cancels what is left of their tasks."""

        async def background() -> None:
            async with self.noting():
                await asyncio.sleep(1000)

        async def view(request: Request) -> None:
            self.background = asyncio.create_task(background())
            await request.websocket.wait()
            await asyncio.sleep(1)
            self.notes.append("view")

        daemon = self.serve(require_websocket(view))
        browser = daemon.connect("/view/")
        daemon.begin_stop()
        daemon.advance(1)
        daemon.stop()
        self.assertEqual(self.notes, ["view", asyncio.CancelledError, "clean-up"])
        self.assertEqual(browser.closing, GOING_AWAY)
        self.assertEqual(daemon.pending_calls, [])


class CancellationTests(SynchronousTestCase):
    """What counts as the end of a view that was cancelled."""

    def test_kinds(self) -> None:
        """Both CancelledErrors do, alone or together in a group; a group with another does not."""
        gone: tuple[BaseException, ...] = (
            CancelledError(),
            asyncio.CancelledError(),
            ConversationOver(),
        )
        errors: list[BaseException] = [*gone, BaseExceptionGroup("", gone)]
        for error in errors:
            self.assertTrue(is_cancellation(Failure(error)), error)
        self.assertTrue(is_cancellation(Failure(FirstError(Failure(gone[1]), 0))))
        errors = [ValueError(), BaseExceptionGroup("", [*gone, ValueError()])]
        for error in errors:
            self.assertFalse(is_cancellation(Failure(error)), error)


class WithoutLoopTests(SynchronousTestCase):
    """Without ``--loop asyncio``, the log says what is missing."""

    def test_advice(self) -> None:
        """Whatever of asyncio's a view uses, the line about its failure names the option."""

        async def sleep(request: Request) -> None:
            await asyncio.sleep(1)

        async def yield_once(request: Request) -> None:
            await asyncio.sleep(0)

        async def time_out(request: Request) -> None:
            async with asyncio.timeout(1):
                pass

        async def wrap(request: Request) -> None:
            try:
                await asyncio.to_thread(int)
            except RuntimeError as error:
                raise ValueError from error

        async def other(request: Request) -> None:
            raise ValueError

        views = {"/0/": sleep, "/1/": yield_once, "/2/": time_out, "/3/": wrap, "/4/": other}
        with Daemon(views) as daemon, capturedLogs() as events:
            for path in views:
                daemon.get(path)
        lines = [line for line in said(events) if " failed at " in line]
        self.assertEqual(len(lines), 5)
        for line in lines[:4]:
            self.assertIn("start pushd with --loop asyncio (docs/asyncio.md)", line)
        self.assertNotIn("--loop", lines[4])
        self.flushLoggedErrors()

    def test_libraries(self) -> None:
        """The errors of sniffio and anyio are known, too."""
        for text in (
            "unknown async library, or not in async context",
            "Not currently running on any asynchronous event loop. Available async backends: …",
        ):
            self.assertTrue(asks_for_asyncio(Failure(RuntimeError(text))))
