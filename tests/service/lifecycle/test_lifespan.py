"""The start of an ASGI application with the daemon."""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.logger import capturedLogs

from pushd.gateways.asgi.lifespan import Lifespan
from pushd.gateways.asgi.scope import Receive, Scope, Send
from pushd.service.lifecycle.lifespan import LifespanService
from tests.support.event_loop_case import EventLoopTestCase
from tests.support.peer import said


class Threads:
    """A thread pool that does nothing.

    :param calls: what is called.
    """

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def start(self) -> None:
        """Start."""
        self._calls.append("start")

    def stop(self) -> None:
        """Stop."""
        self._calls.append("stop")


async def starting(scope: Scope, receive: Receive, send: Send) -> None:
    """Start."""
    await send({"type": "lifespan.startup.complete"})


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Say that it cannot start."""
    await send({"type": "lifespan.startup.failed", "message": "no database"})


class LifespanServiceTests(EventLoopTestCase):
    """LifespanService."""

    def serve(self, application: Any) -> LifespanService:
        """Make the service for an application."""
        self.calls: list[str] = []
        self.service = LifespanService(
            Lifespan(application, self.loop),
            self.loop,
            public=[self],
            threads=Threads(self.calls),  # type: ignore[arg-type] # a fake
        )
        return self.service

    def hold(self) -> None:
        """Hold connections."""
        self.calls.append("hold")

    def resume(self) -> None:
        """Accept connections."""
        self.calls.append("resume")

    def test_start(self) -> None:
        """The service has started once the application has."""
        started: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            started.append((await receive())["type"])
            await send({"type": "lifespan.startup.complete"})

        service = self.serve(application)
        self.assertEqual(service.fault(), "the application is starting")
        service.startService()
        self.assertEqual(started, ["lifespan.startup"])
        self.assertEqual(self.calls, ["hold", "start", "resume"])
        self.assertIsNone(service.fault())
        service.interrupt()

    def test_without_threads(self) -> None:
        """Without a real reactor there are none to start."""
        lifespan = Lifespan(failing, self.loop)
        with self.assertRaises(SystemExit):
            LifespanService(lifespan, self.loop).startService()

    def test_stays(self) -> None:
        """With --reload, the daemon stays without one that cannot start, until the code changes."""
        service = LifespanService(
            Lifespan(failing, self.loop), self.loop, public=[self], stays=True
        )
        self.calls = []
        with capturedLogs() as events:
            service.startService()
        self.assertEqual(
            said(events),
            ["the application did not start: no database; waiting for a change of the code"],
        )
        self.assertEqual(self.calls, ["hold"])
        self.assertEqual(service.fault(), "the application did not start")

    def test_interrupted(self) -> None:
        """A signal ends the wait: the start is cancelled, and no request is accepted."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            self.loop.call_soon(service.interrupt)
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append("ended")

        service = self.serve(application)
        service.startService()
        self.assertEqual(self.calls, ["hold", "start"])
        self.assertEqual(service.fault(), "the application is starting")
        self.run_loop()
        self.assertEqual(ended, ["ended"])

    def test_interrupted_before(self) -> None:
        """A signal that comes before the start is not lost."""
        service = self.serve(starting)
        service.interrupt()
        service.startService()
        self.assertEqual(self.calls, ["hold", "start"])

    def test_failure(self) -> None:
        """One that cannot start ends the process, with a line that says why."""
        with self.assertRaises(SystemExit) as caught:
            self.serve(failing).startService()
        self.assertEqual(
            str(caught.exception), "pushd: --asgi: the application did not start: no database"
        )
        self.assertEqual(self.calls, ["hold", "start", "stop"])
        self.assertEqual(self.service.fault(), "the application did not start")

    def test_failure_in_loop(self) -> None:
        """Where the loop runs already, as in a test, the failure is logged."""
        with capturedLogs() as logged:
            self.run_loop(self.serve(failing).startService)
        self.assertEqual(said(logged), ["the application did not start: no database"])

    def test_start_in_loop(self) -> None:
        """There, a start that succeeds needs no line."""
        with capturedLogs() as logged:
            self.run_loop(self.serve(starting).startService)
        self.assertEqual(said(logged), [])
        self.assertIsNone(self.service.fault())
