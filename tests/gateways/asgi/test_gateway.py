"""An ASGI application behind the public port: which requests it gets, and its end."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from pushd.gateways.asgi.gateway import TaskResult
from pushd.gateways.asgi.http import HttpConversation
from pushd.gateways.asgi.scope import Receive, Scope, Send
from pushd.views.request import Request
from tests.support.asgi_case import AsgiTestCase, Recorder, body, start
from tests.support.event_loop_case import EventLoopTestCase
from tests.support.peer import request
from tests.support.recording_socket import SocketConnection


class PathTests(AsgiTestCase):
    """Which requests the application gets."""

    def test_all_other_paths(self) -> None:
        """It has each path that is no view, no topic and no file, and every method."""
        self.serve(Recorder(start(), body(b"application")), {"/view/": lambda request: "view"})
        self.assertEqual(self.ask("/view/").body, b"view")
        self.assertEqual(self.ask("/topics").body, b"application")
        self.assertEqual(self.ask("/", "PATCH").body, b"application")
        self.assertEqual(self.ask("/pushd/pushd.js").status, 200)
        self.assertEqual(
            self.ask("/pushd/pushd.js").headers["content-type"], "text/javascript; charset=utf-8"
        )

    def serve(self, application: Any, views: Any = None, **settings: Any) -> Any:
        """Serve it, beside views."""
        return super().serve(application, views=views or {}, **settings)

    def test_files(self) -> None:
        """Files of --web take precedence."""
        with TemporaryDirectory() as name:
            Path(name, "a.txt").write_text("file")
            self.serve(Recorder(start(), body(b"application")), web=name)
            self.assertEqual(self.ask("/a.txt").body, b"file")
            self.assertEqual(self.ask("/b.txt").body, b"application")

    def test_centrifuge(self) -> None:
        """Centrifuge clients are pushd's own, and the bodies of their requests are read first."""
        application = Recorder(start(), body(b"application"))
        self.serve(application, centrifuge=True)
        sent = b'{"session":"a","node":"b","data":"{}"}'
        self.assertEqual(self.ask("/emulation", "POST", body=sent).status, 404)
        answer = self.ask("/connection/uni_http_stream", "POST", body=b"nonsense")
        self.assertEqual(answer.status, 400)
        connection = self.daemon.open_connection()
        head = f"POST /emulation HTTP/1.1\r\nHost: localhost:8080\r\nContent-Length: {len(sent)}"
        connection.send(f"{head}\r\n\r\n".encode())
        self.assertEqual(connection.received, b"")
        connection.send(sent)
        self.assertTrue(connection.received.startswith(b"HTTP/1.1 404 "))
        self.assertEqual(application.scopes, [])

    def test_websocket_at_topic(self) -> None:
        """A WebSocket at a topic is pushd's own."""
        application = Recorder({"type": "websocket.accept"})
        self.serve(application)
        self.assertTrue(self.connect("/topics/a").opened)
        self.assertEqual(application.scopes, [])

    def test_malformed_handshake(self) -> None:
        """A handshake that is no valid one is refused before the application is asked."""
        application = Recorder()
        self.serve(application)
        answer = self.ask(headers={"Upgrade": "websocket", "Connection": "Upgrade"})
        self.assertEqual(answer.status, 426)
        self.assertEqual(application.scopes, [])


class StopTests(AsgiTestCase):
    """The end of the application's calls when the daemon stops."""

    def run_in_background(self, seconds: float) -> list[str]:
        """Answer, and go on for a time."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await send(start())
            await send(body(b"ok"))
            try:
                await asyncio.sleep(seconds)
            finally:
                ended.append("ended")

        self.serve(application)
        self.assertEqual(self.ask().body, b"ok")
        return ended

    def test_background(self) -> None:
        """A stop waits for what the application does behind its response."""
        ended = self.run_in_background(3)
        stopped = self.daemon.begin_stop()
        self.daemon.advance(2.9)
        self.assertFalse(stopped.called)
        self.daemon.advance(0.1)
        self.assertEqual(ended, ["ended"])
        self.assertTrue(stopped.called)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_cancelled(self) -> None:
        """What goes on for longer than the grace is cancelled."""
        ended = self.run_in_background(100)
        stopped = self.daemon.begin_stop()
        self.daemon.advance(4.9)
        self.assertEqual(ended, [])
        self.daemon.advance(0.1)
        self.assertEqual(ended, ["ended"])
        self.assertTrue(stopped.called)

    def test_clean_up(self) -> None:
        """A stop waits for what a call that was cancelled does for its end, and cancels it once."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "lifespan":
                return
            await send(start())
            await send(body(b"ok"))
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                ended.append("ended")

        self.serve(application)
        self.ask()
        stopped = self.daemon.begin_stop()
        self.daemon.advance(5, 0.9)
        self.assertEqual((ended, stopped.called), ([], False))
        self.daemon.advance(0.1)
        self.assertEqual((ended, stopped.called), (["ended"], True))

    def test_leaves_running(self) -> None:
        """A call whose client has left goes on: it may have something to finish."""
        ended: list[str] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                await asyncio.sleep(60)
                ended.append("ended")

        self.serve(application)
        connection = self.daemon.open_connection()
        connection.send(b"GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        connection.leave()
        self.daemon.advance(60)
        self.assertEqual(ended, ["ended"])
        self.assertEqual(self.flushLoggedErrors(), [])


def alive(kind: type) -> list[object]:
    """Return the objects of a type that have not been freed."""
    return [one for one in gc.get_objects() if type(one) is kind]


class AtOnceTests(AsgiTestCase):
    """Calls that need not wait for anything."""

    def open(self, application: Any) -> Any:
        """Serve it, and open a connection; return the event loop."""
        loop: Any = self.serve(application)._loop
        self.server = SocketConnection(self.daemon)
        self.addCleanup(lambda: self.server.connectionLost(Failure(ConnectionDone())))
        return loop

    def get(self) -> None:
        """Ask for a page."""
        self.server.receive(request("GET / HTTP/1.1", "Host: localhost"))

    def test_same_iteration(self) -> None:
        """A page is answered within the call that brings its request, in a task of asyncio's."""
        tasks: list[Any] = []

        async def application(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http":
                tasks.append(asyncio.current_task())
                self.assertIs(asyncio.get_running_loop(), loop)
                await receive()
                await send(start())
                await send(body(b"ok"))

        loop = self.open(application)
        for number in (1, 2):
            loop.run(self.get)
            self.assertEqual(self.server.sent.count(b"ok"), number)
            self.assertTrue(tasks[-1].done())

    def test_no_cycle(self) -> None:
        """Nothing is left of a page for the garbage collector."""
        loop = self.open(Recorder(start(), body(b"ok")))
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        before = alive(HttpConversation)
        loop.run(self.get)
        self.assertIn(b"ok", self.server.sent)
        self.assertEqual(len(alive(HttpConversation)), len(before))

    def test_request_of_websocket(self) -> None:
        """The scope of a WebSocket, which its application keeps, does not keep its request."""
        self.serve(Recorder({"type": "websocket.accept"}, {"type": "websocket.send", "text": "a"}))
        gc.collect()
        before = alive(Request)
        self.assertEqual(self.connect().messages, ["a"])
        gc.collect()
        self.assertEqual(len(alive(Request)), len(before))


class TaskResultTests(EventLoopTestCase):
    """A Deferred for a task of asyncio's."""

    def watch(self, coroutine: Any) -> list[Any]:
        """Run a coroutine as a task, and return what its Deferred fires with."""
        result: list[Any] = []
        self.deferred: Deferred[Any] = self.run_loop(
            lambda: TaskResult(self.loop.create_task(coroutine)).addBoth(result.append)
        )
        return result

    def test_result(self) -> None:
        """It fires with the result."""

        async def work() -> int:
            return 1

        self.assertEqual(self.watch(work()), [1])

    def test_exception(self) -> None:
        """It fails with the exception."""

        async def work() -> None:
            raise LookupError

        (failure,) = self.watch(work())
        self.assertTrue(failure.check(LookupError))

    def test_cancel(self) -> None:
        """It fires once the task has ended, however often it was cancelled."""
        cancelled: list[int] = []

        async def work() -> None:
            for number in range(2):
                try:
                    await asyncio.sleep(10)
                except asyncio.CancelledError:
                    cancelled.append(number)
            await asyncio.sleep(10)

        result = self.watch(work())
        for _ in range(2):
            self.run_loop(self.deferred.cancel)
        self.assertEqual((cancelled, result), ([0, 1], []))
        self.run_loop(self.deferred.cancel)
        self.assertTrue(result[0].check(CancelledError))
