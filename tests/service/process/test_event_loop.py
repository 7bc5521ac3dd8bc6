"""asyncio's event loop as a part of the daemon."""

from __future__ import annotations

import asyncio

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs
from twisted.python.failure import Failure

from pushd.schedule.asyncio_task import AsyncioTask
from pushd.service.process.event_loop import TIMEOUT, EventLoopService
from tests.support.event_loop_case import EventLoopTestCase
from tests.support.peer import said


class EventLoopServiceTests(EventLoopTestCase):
    def setUp(self) -> None:
        """Start the service."""
        super().setUp()
        self.loop.set_task_factory(None)
        self.service = EventLoopService(self.loop)
        with capturedLogs() as events:
            self.service.startService()
        self.started = said(events)
        self.notes: list[object] = []

    async def wait(self, *, stubborn: bool = False) -> None:
        """Wait for ever; note the end."""
        while True:
            try:
                await Deferred()
            except asyncio.CancelledError:
                self.notes.append("cancelled")
                if not stubborn:
                    raise

    def stop(self) -> Deferred[None]:
        """Stop the service."""
        stopped: Deferred[None] = self.run_loop(self.service.stopService)
        return stopped

    def test_start(self) -> None:
        """One line says which loop it is."""
        [line] = self.started
        self.assertRegex(line, "^running on asyncio's event loop, pushd's VirtualEventLoop: ")

    def test_stop(self) -> None:
        """Tasks that are left are cancelled, and may await Deferreds until then; views are not."""
        view = AsyncioTask(self.wait(), self.clock, id, id, loop=self.loop)
        self.run_loop(view.advance)
        # The loop has only a weak reference.
        task = self.run_loop(lambda: self.loop.create_task(self.wait()))
        self.successResultOf(self.stop())
        self.assertTrue(task.done())
        self.assertEqual(self.notes, ["cancelled"])
        self.successResultOf(self.stop())
        self.run_loop(view.drop)
        self.assertEqual(self.notes, ["cancelled"])

    def test_stubborn(self) -> None:
        """A task that ignores that is waited for, but not for ever, and the log names it."""
        task = self.run_loop(lambda: self.loop.create_task(self.wait(stubborn=True)))
        stopped = self.stop()
        self.assertNoResult(stopped)
        with capturedLogs() as events:
            self.advance(TIMEOUT)
        self.successResultOf(stopped)
        [line] = said(events)
        self.assertRegex(
            line, "^1 tasks of asyncio's ignore that they were cancelled, such as <Task"
        )
        self.run_loop(task.get_coro().close)

    def test_errors(self) -> None:
        """What asyncio reports is logged, with the traceback if there is one."""

        async def fail() -> None:
            raise ZeroDivisionError

        with capturedLogs() as events:
            self.run_loop(lambda: self.loop.create_task(fail()).get_name())
            self.loop.call_exception_handler({"message": "odd", "handle": "this"})
        first, second = events
        self.assertEqual(first["event"], "task_failed")
        self.assertIsInstance(first["log_failure"], Failure)
        self.assertIn("asyncio: Task exception was never retrieved (<Task", said(events)[0])
        self.assertEqual(said([second]), ["asyncio: odd ('this')"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
