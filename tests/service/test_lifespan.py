"""The start of an ASGI application with the daemon."""

from __future__ import annotations

from typing import Any

from twisted.logger import capturedLogs

from pushd.gateways.asgi.lifespan import Lifespan
from pushd.gateways.asgi.scope import Receive, Scope, Send
from pushd.service.lifespan import LifespanService
from tests.support.event_loop_case import EventLoopTestCase
from tests.support.peer import said


async def failing(scope: Scope, receive: Receive, send: Send) -> None:
    """Say that it cannot start."""
    await send({"type": "lifespan.startup.failed", "message": "no database"})


class LifespanServiceTests(EventLoopTestCase):
    """LifespanService."""

    def serve(self, application: Any) -> LifespanService:
        """Make the service for an application."""
        return LifespanService(Lifespan(application, self.loop), self.loop)

    def test_start(self) -> None:
        """The service has started once the application has."""
        started: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            started.append((await receive())["type"])
            await send({"type": "lifespan.startup.complete"})

        self.serve(application).startService()
        self.assertEqual(started, ["lifespan.startup"])

    def test_failure(self) -> None:
        """One that cannot start ends the process, with a line that says why."""
        with self.assertRaises(SystemExit) as caught:
            self.serve(failing).startService()
        self.assertEqual(
            str(caught.exception), "pushd: --asgi: the application did not start: no database"
        )

    def test_failure_in_loop(self) -> None:
        """Where the loop runs already, as in a test, the failure is logged."""
        with capturedLogs() as logged:
            self.run_loop(self.serve(failing).startService)
        self.assertEqual(said(logged), ["the application did not start: no database"])
