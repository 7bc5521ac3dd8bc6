"""The start and the end of an ASGI application."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from twisted.logger import capturedLogs

from pushd.errors import StartFailed
from pushd.gateways.asgi.lifespan import Lifespan
from pushd.gateways.asgi.scope import Receive, Scope, Send
from tests.support.asgi_case import AsgiTestCase, body, start
from tests.support.event_loop_case import EventLoopTestCase
from tests.support.peer import said


class Living:
    """An application that does what it is told at its start and its end.

    :param events: by the type of the event that it receives, what it sends then.
    """

    def __init__(self, **events: dict[str, Any]) -> None:
        self.events = events
        self.received: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer two events."""
        assert scope["type"] == "lifespan"
        scope["state"]["number"] = 1
        for _ in range(2):
            event = (await receive())["type"].partition(".")[2]
            self.received.append(event)
            if event in self.events:
                await send(self.events[event])


STARTED = {"type": "lifespan.startup.complete"}
STOPPED = {"type": "lifespan.shutdown.complete"}


class LifespanTests(EventLoopTestCase):
    """Lifespan."""

    def start(self, application: Any) -> Lifespan:
        """Start an application."""
        self.life = Lifespan(application, self.loop)
        self.started: asyncio.Future[None] = self.run_loop(self.life.start)
        return self.life

    def stop(self) -> bool:
        """Stop it; return whether it has ended."""
        stopped = self.run_loop(self.life.stop)
        return bool(stopped.done())

    def test_life(self) -> None:
        """It is told to start, and at the end to stop; what it keeps is there between."""
        application = Living(startup=STARTED, shutdown=STOPPED)
        life = self.start(application)
        self.assertTrue(self.started.done())
        self.assertEqual(life.state, {"number": 1})
        self.assertEqual(application.received, ["startup"])
        self.assertTrue(self.stop())
        self.assertEqual(application.received, ["startup", "shutdown"])

    def test_started_once(self) -> None:
        """A second start is the same."""
        application = Living(startup=STARTED)
        life = self.start(application)
        self.assertIs(self.run_loop(life.start), self.started)
        self.assertEqual(application.received, ["startup"])
        self.assertTrue(self.stop())

    def test_start_fails(self) -> None:
        """An application that says that it cannot start gives the reason."""
        failed = {"type": "lifespan.startup.failed", "message": "no database"}
        self.start(Living(startup=failed))
        error = self.started.exception()
        self.assertIsInstance(error, StartFailed)
        self.assertIn("no database", str(error))
        self.assertTrue(self.stop())

    def test_start_fails_without_reason(self) -> None:
        """It may give none."""
        for message in ({}, {"message": "\n"}):
            self.start(Living(startup={"type": "lifespan.startup.failed", **message}))
            self.assertIn("does not say why", str(self.started.exception()))
            self.assertTrue(self.stop())

    def test_start_fails_with_traceback(self) -> None:
        """A traceback, as Starlette gives it, is logged; the reason is its last line."""
        failed = {"type": "lifespan.startup.failed", "message": "Traceback\n  x\nOSError: none\n"}
        with capturedLogs() as logged:
            self.start(Living(startup=failed))
        self.assertEqual(
            str(self.started.exception()), "the application did not start: OSError: none"
        )
        self.assertIn("Traceback\n  x\nOSError: none", said(logged)[0])
        self.assertTrue(self.stop())

    def test_exits(self) -> None:
        """An application that exits while it starts has not started; later, that is logged."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if exits_later:
                await send(STARTED)
            sys.exit("no settings")

        exits_later = False
        self.start(application)
        self.assertIn("it exited: no settings", str(self.started.exception()))
        self.assertTrue(self.stop())
        exits_later = True
        self.start(application)
        self.assertIsNone(self.started.exception())
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertTrue(self.stop())

    def test_not_used(self) -> None:
        """An application that raises, or returns, before it says anything starts all the same."""

        async def raises(scope: Scope, receive: Receive, send: Send) -> None:
            raise NotImplementedError

        life = self.start(raises)
        self.assertTrue(self.started.done())
        self.assertIsNone(life.state)
        self.assertTrue(self.stop())

    def test_raises_at_start(self) -> None:
        """An exception after lifespan.startup is logged, and the application is served without."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            raise LookupError

        life = self.start(application)
        self.assertTrue(self.started.done())
        self.assertIsNone(life.state)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertTrue(self.stop())

    def test_fails_later(self) -> None:
        """An exception after the start is logged; the application goes on without a lifespan."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await send(STARTED)
            raise LookupError

        self.start(application)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)
        self.assertTrue(self.stop())

    def test_stop_fails(self) -> None:
        """An application that says that it cannot stop in order is logged, and has ended."""
        failed = {"type": "lifespan.shutdown.failed", "message": "busy"}
        self.start(Living(startup=STARTED, shutdown=failed))
        self.assertTrue(self.stop())

    def test_slow_stop(self) -> None:
        """It has ended when it says so, or is cancelled."""

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await send(STARTED)
            await receive()
            await asyncio.sleep(100)

        life = self.start(application)
        self.assertFalse(self.stop())
        self.run_loop(life.cancel)
        self.assertTrue(self.stop())

    def test_wrong_event(self) -> None:
        """An event that cannot come now raises for the application."""
        raised: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            try:
                await send(STOPPED)
            except RuntimeError as error:
                raised.append(str(error))

        self.start(application)
        self.assertIn("lifespan.shutdown.complete", raised[0])
        self.assertTrue(self.stop())

    def test_never_started(self) -> None:
        """One that was never started has ended when it is stopped, and can be cancelled."""
        self.life = Lifespan(Living(), self.loop)
        self.life.cancel()
        self.assertTrue(self.stop())


class ServedTests(AsgiTestCase):
    """The life of an application that is served."""

    def test_state(self) -> None:
        """Each request has a copy of what the application keeps: the same objects."""
        kept: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                scope["state"]["shared"] = kept
                await receive()
                await send(STARTED)
                await receive()
                kept.append("stopped")
                await send(STOPPED)
                return
            scope["state"]["shared"].append(scope["path"])
            scope["state"]["own"] = True
            kept.append(len(scope["state"]))
            if scope["type"] == "websocket":
                await send({"type": "websocket.accept"})
                return
            await send(start())
            await send(body())

        self.serve(application)
        self.ask("/a")
        self.ask("/b")
        self.connect("/c")
        self.connect("/d")
        self.assertEqual(kept, ["/a", 2, "/b", 2, "/c", 2, "/d", 2])
        self.daemon.stop()
        self.assertEqual(kept[-1], "stopped")

    def test_no_state(self) -> None:
        """An application without a lifespan has no state."""
        scopes: list[Scope] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            assert scope["type"] != "lifespan"
            scopes.append(scope)
            await send(start())
            await send(body())

        self.serve(application)
        self.ask()
        self.assertNotIn("state", scopes[0])
