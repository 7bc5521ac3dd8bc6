"""Blocking views: their WebSocket, their threads, and their end."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, cast
from weakref import ref

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.task import Clock, deferLater
from twisted.logger import capturedLogs, formatEvent
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pushd.access.closing import INTERNAL_ERROR, NORMAL, Closing
from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.django import WebSocket as DjangoWebSocket
from pushd.errors import ConversationOver, NoMoreMessages, ThreadsBusy
from pushd.protocols.http.response import Response
from pushd.protocols.websocket.protocol import PushProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.testing import Browser, Daemon
from pushd.views import threads as blocking_views
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.request import Request, View
from pushd.views.runner import ViewRun
from pushd.views.threads import (
    BlockingScheduledPublication,
    BlockingWebSocket,
    DaemonThreads,
    ThreadPlaces,
    ViewThreads,
    blocking,
)
from tests.service.test_metrics import read
from tests.support.topic_clients import TopicTestCase

# How long an idle thread may take to end, in seconds of real time.
PATIENCE = 30


def make_request(websocket: Any = None, peer: str = "b") -> Request:
    """Make a request with or without a WebSocket."""
    return Request(
        method="GET",
        path="/",
        scheme="http",
        host="a",
        peer=peer,
        clock=Clock(),
        websocket=websocket,
    )


def kind_of(one: object) -> type:
    """Return an object's class; PushProtocol for the subclass that its factory makes."""
    kind = type(one)
    return PushProtocol if PushProtocol in kind.__mro__ else kind


class DaemonTestCase(SynchronousTestCase):
    """A blocking view in a daemon in memory, where it alternates with the test."""

    def setUp(self) -> None:
        """Start with an empty record, and remember which threads exist."""
        self.record: list[Any] = []
        self.before = set(threading.enumerate())

    def serve(self, view: View, **settings: Any) -> Daemon:
        """Serve one view; no delayed call and no thread may be left when the test is over."""
        self.daemon = Daemon({"/view/": accept_websocket(view)}, **settings)
        self.addCleanup(self.check_threads)
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def open(self, view: View, **settings: Any) -> Browser:
        """Serve one view and open a WebSocket to it."""
        return self.serve(view, **settings).connect("/view/")

    def check_threads(self) -> None:
        """Fail if a thread is left."""
        for thread in set(threading.enumerate()) - self.before:
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), thread)


class BlockingWebSocketTests(DaemonTestCase):
    """The methods of a WebSocket, each of which blocks."""

    def test_own_thread(self) -> None:
        """A plain function runs in another thread, with a BlockingWebSocket."""

        def view(request: Request) -> None:
            self.record.append(threading.current_thread() is threading.main_thread())
            self.record.append(type(request.websocket))
            self.record.append(request.is_websocket())

        self.open(view)
        self.assertEqual(self.record, [False, BlockingWebSocket, True])

    def test_talk(self) -> None:
        """It receives and sends messages, text as str and binary as bytes."""

        def view(request: Request) -> None:
            while (message := request.websocket.wait()) is not None:
                request.websocket.send(message, binary=isinstance(message, bytes))

        browser = self.open(view)
        for message in ("a", b"\xff", "é"):
            browser.send(message)
        self.assertEqual(browser.messages, ["a", b"\xff", "é"])

    def test_iteration(self) -> None:
        """A plain for loop iterates over its messages, and ends without a None."""

        def view(request: Request) -> None:
            self.record += request.websocket
            self.record.append("after the loop")

        browser = self.open(view)
        browser.send("a")
        browser.send("b")
        browser.close()
        self.assertEqual(self.record, ["a", "b", "after the loop"])

    def test_time_out(self) -> None:
        """A wait with a timeout raises TimeoutError by the daemon's clock, and loses no message."""

        def view(request: Request) -> None:
            try:
                request.websocket.wait(timeout=2)
            except TimeoutError:
                self.record.append("time-out")
            self.record.append(request.websocket.wait(2))

        browser = self.open(view)
        self.daemon.advance(1.9)
        self.assertEqual(self.record, [])
        self.daemon.advance(0.1)
        browser.send("a")
        self.assertEqual(self.record, ["time-out", "a"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_read(self) -> None:
        """read(), count_messages() and has_messages() return at once."""

        def view(request: Request) -> None:
            websocket = request.websocket
            self.record += [websocket.read(), websocket.read("none"), websocket.has_messages()]
            websocket.wait()
            websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            self.record += [websocket.count_messages(), websocket.has_messages()]
            self.record += [websocket.read(), websocket.has_messages()]
            self.record += [websocket.read("none"), websocket.read("none")]

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        for message in ("go", "a", b"b"):
            browser.send(message)
        self.assertEqual(self.record, [None, "none", False])
        browser.resume()
        self.assertEqual(self.record[3:], [2, True, "a", True, b"b", "none"])

    def test_mistakes(self) -> None:
        """Mistakes raise in the view's thread, and do not change the WebSocket."""

        def view(request: Request) -> None:
            websocket = request.websocket
            calls: list[Callable[[], object]] = [
                lambda: websocket.send(None),
                lambda: websocket.send("a", binary=True),
                lambda: websocket.send(b"\xff"),
                lambda: websocket.send("x" * 101),
                lambda: websocket.close(1005),
                lambda: websocket.close(1000, "x" * 124),
                lambda: websocket.wait(-1),
                lambda: websocket.accept("chat"),
            ]
            for call in calls:
                try:
                    call()
                except Exception as error:
                    self.record.append(type(error))
            websocket.send("on")

        browser = self.open(view, limits=Limits(max_message=100))
        self.assertEqual(
            self.record,
            [
                TypeError,
                TypeError,
                UnicodeDecodeError,
                ValueError,
                ValueError,
                ValueError,
                ValueError,
                RuntimeError,
            ],
        )
        self.assertEqual((browser.messages, browser.closing), (["on"], NORMAL))

    def test_subprotocol(self) -> None:
        """It can choose a subprotocol, and knows which."""

        def view(request: Request) -> None:
            self.record.append(request.websocket.subprotocol)
            request.websocket.accept("chat")
            self.record.append(request.websocket.subprotocol)

        browser = self.serve(view).connect("/view/", subprotocols=("news", "chat"))
        self.assertEqual((browser.subprotocol, self.record), ("chat", [None, "chat"]))

    def test_close(self) -> None:
        """close() returns when the connection is closed."""

        def view(request: Request) -> None:
            request.websocket.wait()
            self.record.append(request.websocket.is_closed())
            request.websocket.close(4000, "enough")
            self.record.append(request.websocket.is_closed())
            request.websocket.close()

        browser = self.open(view)
        browser.stall()
        browser.send("go")
        self.assertEqual(self.record, [False])
        browser.resume()
        self.assertEqual(self.record, [False, True])
        self.assertEqual(browser.closing, Closing(4000, "enough"))

    def test_close_dead(self) -> None:
        """close() returns after some seconds, even if the browser never answers."""

        def view(request: Request) -> None:
            request.websocket.wait()
            request.websocket.close()
            self.record.append("gone")

        browser = self.open(view)
        browser.stall()
        browser.send("go")
        self.daemon.advance(5)
        self.assertEqual(self.record, ["gone"])

    def test_pace(self) -> None:
        """send() returns when the connection can take more, so a slow browser slows the view."""

        def view(request: Request) -> None:
            request.websocket.wait()
            for number in range(20):
                request.websocket.send(bytes(20_000), binary=True)
                self.record.append(number)

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        self.assertEqual(len(self.record), 3)
        browser.resume()
        self.assertEqual(len(self.record), 20)
        self.assertEqual(len(browser.messages), 20)


class EndTests(DaemonTestCase):
    """The end of a view in a thread, and of its thread."""

    def test_returns(self) -> None:
        """A view that returns closes with 1000."""
        browser = self.open(lambda request: request.websocket.send("hello"))
        self.assertEqual((browser.messages, browser.closing), (["hello"], NORMAL))

    def test_raises(self) -> None:
        """A view that raises closes with 1011, and the log has its traceback."""

        def view(request: Request) -> None:
            request.websocket.send("hello")
            raise ZeroDivisionError

        self.assertEqual(self.open(view).closing, INTERNAL_ERROR)
        [failure] = self.flushLoggedErrors(ZeroDivisionError)
        self.assertIn("test_threads.py", failure.getTraceback())

    def test_exits(self) -> None:
        """A view that calls sys.exit() has failed, and the daemon keeps running."""

        def view(request: Request) -> None:
            request.websocket.send("hello")
            raise SystemExit

        self.assertEqual(self.open(view).closing, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(self.daemon.connect("/view/").messages, ["hello"])
        self.flushLoggedErrors(SystemExit)

    def test_refuses(self) -> None:
        """A view that returns an answer before it uses its WebSocket refuses the handshake."""
        browser = self.open(lambda request: Response(403, body="no"))
        assert browser.refused is not None
        self.assertEqual((browser.refused.status, browser.refused.text), (403, "no"))

    def test_plain_http(self) -> None:
        """It serves plain HTTP as well, without a WebSocket."""
        answer = self.serve(lambda request: f"websocket: {request.websocket}").get("/view/")
        assert answer is not None
        self.assertEqual((answer.status, answer.text), (200, "websocket: None"))

    def test_end_seen(self) -> None:
        """wait() returns None a hundred times; the next wait ends the view, which is no error."""

        def view(request: Request) -> None:
            while True:
                self.record.append(request.websocket.wait())

        browser = self.open(view)
        browser.send("a")
        with capturedLogs() as events:
            browser.leave()
        self.assertEqual(self.record, ["a"] + [None] * 100)
        self.assertEqual([event for event in events if "log_failure" in event], [])
        self.check_threads()

    def test_loop_over_send(self) -> None:
        """A view that sends in an endless loop after the end is ended."""

        def view(request: Request) -> None:
            request.websocket.wait()
            while True:
                request.websocket.send(bytes(10_000), binary=True)
                self.record.append("sent")

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        sent = len(self.record)
        self.assertGreater(sent, 1)
        browser.leave()
        # The send that blocked returns, and ten thousand do nothing.
        self.assertEqual(len(self.record), sent + 10_000)
        self.check_threads()

    def test_loop_over_subscribe(self) -> None:
        """So is one that subscribes."""

        def view(request: Request) -> None:
            request.websocket.wait()
            while True:
                request.websocket.subscribe("t")
                self.record.append("subscribed")

        browser = self.open(view)
        browser.leave()
        self.assertEqual(len(self.record), 9_900)
        self.check_threads()

    def test_loop_that_catches(self) -> None:
        """A loop that catches every Exception is ended all the same."""
        for call in ("wait", "send"):

            def view(request: Request, call: str = call) -> None:
                while len(self.record) < 1000:
                    try:
                        request.websocket.wait()
                        if call == "send":
                            request.websocket.send("tick")
                    except Exception as error:
                        self.record.append(error)

            browser = self.open(view)
            browser.send("a")
            browser.leave()
            self.assertEqual(self.record, [])
            self.check_threads()

    def test_loop_over_polls(self) -> None:
        """A view that polls in an endless loop is ended after a hundred polls."""
        polls: list[Callable[[Any], object]] = [
            lambda websocket: websocket.read(),
            lambda websocket: websocket.count_messages(),
            lambda websocket: websocket.has_messages(),
        ]
        for poll in polls:

            def view(request: Request, poll: Callable[[Any], object] = poll) -> None:
                for _ in range(1000):
                    poll(request.websocket)
                request.websocket.wait()
                while True:
                    poll(request.websocket)
                    self.record.append("in vain")

            browser = self.open(view)
            self.assertFalse(browser.gone)
            browser.leave()
            self.assertEqual(self.record, ["in vain"] * 99)
            self.check_threads()
            self.record.clear()

    def test_polls_for_the_rest(self) -> None:
        """Polls that find a message do not count: a full inbox can be read to its end."""

        def view(request: Request) -> None:
            websocket = request.websocket
            websocket.wait()
            websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            while websocket.count_messages() and websocket.has_messages():
                self.record.append(websocket.read("nothing"))

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        for number in range(64):
            browser.send(str(number))
        browser.leave()
        self.assertEqual(self.record, [str(number) for number in range(1, 64)])

    def test_several_loops(self) -> None:
        """A second loop over the messages after the end does not run forever."""

        def view(request: Request) -> None:
            while True:
                for message in request.websocket:
                    self.record.append(message)

        browser = self.open(view)
        browser.send("a")
        browser.leave()
        self.assertEqual(self.record, ["a"])
        self.check_threads()

    def test_cleans_up(self) -> None:
        """A finally block runs, and can use the WebSocket."""

        def view(request: Request) -> None:
            try:
                while True:
                    if request.websocket.wait() is None:
                        break
            finally:
                request.websocket.send("bye")
                request.websocket.close()
                self.record += [request.websocket.is_closed(), request.websocket.read("none")]

        self.open(view).leave()
        self.assertEqual(self.record, [True, "none"])

    def test_reads_the_rest(self) -> None:
        """Messages from before the end can be read after it."""

        def view(request: Request) -> None:
            request.websocket.wait()
            request.websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            self.record += request.websocket

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        for message in ("go", "a", b"b"):
            browser.send(message)
        browser.close()
        self.assertEqual(self.record, ["a", b"b"])

    def test_unopened(self) -> None:
        """A view whose browser left before the 101 sees that its WebSocket is closed."""

        def view(request: Request) -> Any:
            later: Deferred[None] = deferLater(request.clock, 1)
            return later.addCallback(lambda _: self.record.append(request.websocket.is_closed()))

        self.open(view).leave()
        self.daemon.advance(1)
        self.assertEqual(self.record, [True])

    def test_all_saved(self) -> None:
        """Ten messages and a Close at once: each is saved, the answers do nothing."""

        def view(request: Request) -> None:
            request.websocket.wait()
            request.websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            for message in request.websocket:
                self.record.append(message)
                request.websocket.send("ok")
            self.record.append(request.websocket.subscribe("t"))
            self.record.append((request.websocket.close_code, request.websocket.close_reason))

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        for number in range(10):
            browser.send(str(number))
        browser.close(4001, "bye")
        self.assertEqual(self.record, [*map(str, range(10)), False, (4001, "bye")])

    def test_after_grace(self) -> None:
        """A view that comes back after its grace is ended by its next call: no error."""
        later: list[Deferred[None]] = []

        def view(request: Request) -> None:
            request.websocket.accept()
            later.append(Deferred())
            request.websocket._bridge.call(lambda: later[0])
            self.record.append("back")
            request.websocket.send("too late")
            self.record.append("sent")

        browser = self.open(view)
        browser.leave()
        self.daemon.advance(5)
        with capturedLogs() as events:
            later[0].callback(None)
        self.assertEqual(self.record, ["back"])
        self.assertEqual([event for event in events if "log_failure" in event], [])

    def test_ignores_everything(self) -> None:
        """After its grace each call takes a while, so a loop in a bare ``except`` cannot spin."""
        waits: list[float] = []

        class RecordingEvent:
            wait = staticmethod(waits.append)

        def view(request: Request) -> None:
            websocket = request.websocket
            websocket.accept()
            websocket._bridge.call(lambda: later)
            for each in (websocket, DjangoWebSocket(websocket)):
                for call in (each.wait, each.close, partial(each.send, "a")):
                    try:
                        call()
                    except BaseException as error:
                        self.record.append(type(error))

        later: Deferred[None] = Deferred()
        browser = self.open(view)
        browser.leave()
        self.daemon.advance(5)
        self.patch(blocking_views, "Event", RecordingEvent)
        later.callback(None)
        self.assertEqual(self.record, [ConversationOver] * 6)
        self.assertEqual(waits, [0.05] * 6)

    def test_daemon_stops(self) -> None:
        """A daemon that stops ends these views like all others."""

        def view(request: Request) -> None:
            for message in request.websocket:
                self.record.append(message)
            self.record.append("over")

        browser = self.open(view)
        self.daemon.stop()
        assert browser.closing is not None
        self.assertEqual((browser.closing.code, self.record), (1001, ["over"]))
        self.check_threads()

    def test_nothing_left(self) -> None:
        """No object of a conversation is left, however it ends."""

        def view(request: Request) -> None:
            if request.websocket.wait() == "raise":
                raise ZeroDivisionError

        ends: list[Callable[[Browser], object]] = [
            lambda browser: browser.send("return"),
            lambda browser: browser.leave(),
            lambda browser: browser.close(),
        ]
        kinds = (WebSocket, PushProtocol, ViewRun, Request, BlockingWebSocket)
        daemon = self.serve(view)
        # Look at new objects only.
        gc.collect()
        gc.freeze()
        for end in ends:
            browser = daemon.connect("/view/")
            traces = [ref(one) for one in gc.get_objects() if kind_of(one) in kinds]
            self.assertEqual({kind_of(trace()) for trace in traces}, set(kinds))
            end(browser)
            self.check_threads()
            del browser
            gc.collect()
            self.assertEqual([trace() for trace in traces if trace() is not None], [])


class ThreadsBusyTests(DaemonTestCase):
    """Requests when no thread is free."""

    def test_handshake(self) -> None:
        """A handshake gets 503 and Retry-After before the 101, until a thread is free."""

        def view(request: Request) -> None:
            request.websocket.wait()

        first = self.open(view, threads=2)
        second = self.daemon.connect("/view/")
        third = self.daemon.connect("/view/")
        assert third.refused is not None
        self.assertEqual(third.refused.status, 503)
        self.assertEqual(third.refused.headers["Retry-After"], "1")
        self.assertEqual(third.refused.text.count("\n"), 1)
        self.assertFalse(third.opened)
        second.leave()
        self.assertTrue(self.daemon.connect("/view/").opened)
        self.assertFalse(first.gone)

    def test_plain_http(self) -> None:
        """Plain HTTP gets 503 as well."""

        def view(request: Request) -> str:
            if request.websocket is not None:
                request.websocket.wait()
            return "page"

        browser = self.open(view, threads=1)
        answer = self.daemon.get("/view/")
        assert answer is not None
        self.assertEqual(answer.status, 503)
        browser.leave()
        answer = self.daemon.get("/view/")
        assert answer is not None
        self.assertEqual(answer.text, "page")

    def test_others(self) -> None:
        """Views that need no thread are served all the same."""

        @require_websocket
        async def modern(request: Request) -> None:
            await request.websocket.send("modern")

        @require_websocket
        def old(request: Request) -> None:
            request.websocket.wait()

        with Daemon({"/old/": old, "/modern/": modern}, threads=1) as daemon:
            daemon.connect("/old/")
            self.assertIsNotNone(daemon.connect("/old/").refused)
            self.assertEqual(daemon.connect("/modern/").messages, ["modern"])


class StragglerTests(DaemonTestCase):
    """Views whose threads do not end when their conversation is over."""

    def setUp(self) -> None:
        """Hold views until the end of the test."""
        super().setUp()
        self.held: list[Deferred[None]] = []

    def hold(self, request: Request) -> None:
        """Accept, and sleep until the test ends it."""
        request.websocket.accept()
        sleep: Deferred[None] = Deferred()
        self.held.append(sleep)
        request.websocket._bridge.call(lambda: sleep)

    def serve_holding(self, **settings: Any) -> None:
        """Serve a view that does not end."""
        self.serve(self.hold, **settings)
        self.addCleanup(self.release)

    def release(self) -> None:
        """Let the views that are held end."""
        for sleep in self.held:
            sleep.callback(None)

    @property
    def places(self) -> tuple[float, float]:
        """The places in use, and the stragglers."""
        now = read(self.daemon)
        return now["pushd_threads_busy view"], now["pushd_threads_stragglers"]

    def test_place_given_back(self) -> None:
        """The place is free when the grace is over, and the log names the view once."""
        self.serve_holding(threads=2)
        with capturedLogs() as events:
            for _ in range(2):
                self.daemon.connect("/view/").leave()
            self.assertEqual(self.places, (2, 0))
            self.assertIsNotNone(self.daemon.connect("/view/").refused)
            self.daemon.advance(5)
            self.assertEqual(self.places, (0, 2))
            browser = self.daemon.connect("/view/")
            self.assertTrue(browser.opened)
            browser.leave()
        lines = [event for event in events if event.get("event") == "view_straggles"]
        self.assertEqual(len(lines), 1)
        self.assertIn("hold", lines[0]["view"])

    def test_limit(self) -> None:
        """Beyond --max-stragglers a view keeps its place, until another straggler ends."""
        self.serve_holding(threads=2, max_stragglers=1)
        for _ in range(2):
            self.daemon.connect("/view/").leave()
        self.daemon.advance(5)
        self.assertEqual(self.places, (1, 1))
        self.assertTrue(self.daemon.connect("/view/").opened)
        self.assertIsNotNone(self.daemon.connect("/view/").refused)
        self.held.pop(0).callback(None)
        self.assertEqual(self.places, (1, 1))
        self.held.pop(0).callback(None)
        self.assertEqual(self.places, (1, 0))

    def test_none(self) -> None:
        """With --max-stragglers 0 no place is given to others."""
        self.serve_holding(threads=1, max_stragglers=0)
        self.daemon.connect("/view/").leave()
        self.daemon.advance(5)
        self.assertEqual(self.places, (1, 0))

    def test_log(self) -> None:
        """The log tells when the bound is reached, and why the next handshake gets 503."""
        self.serve_holding(threads=2, max_stragglers=0)
        with capturedLogs() as events:
            for _ in range(2):
                self.daemon.connect("/view/").leave()
            self.daemon.advance(5)
            for _ in range(3):
                self.assertIsNotNone(self.daemon.connect("/view/").refused)
            self.daemon.advance(60)
            self.assertIsNotNone(self.daemon.connect("/view/").refused)
        kinds = ("view_straggles", "stragglers_full", "threads_busy")
        lines = [event for event in events if event.get("event") in kinds]
        self.assertEqual(
            [line["event"] for line in lines], ["stragglers_full", "threads_busy", "threads_busy"]
        )
        self.assertIn("--max-stragglers", str(formatEvent(lines[0])))
        self.assertIn("2 of them by views whose", str(formatEvent(lines[1])))

    def test_log_again(self) -> None:
        """The bound is told again when it is reached again."""
        self.serve_holding(threads=4, max_stragglers=1)
        with capturedLogs() as events:
            for count in (2, 2):
                for _ in range(count):
                    self.daemon.connect("/view/").leave()
                self.daemon.advance(5)
                while self.held:
                    self.held.pop().callback(None)
        names = [event.get("event") for event in events]
        self.assertEqual(names.count("view_straggles"), 1)
        self.assertEqual(names.count("stragglers_full"), 2)

    def test_plain_http(self) -> None:
        """A view whose client left before it was answered gives up its place as well."""

        def view(request: Request) -> str:
            sleep: Deferred[None] = Deferred()
            self.held.append(sleep)
            request.publisher._bridge.call(lambda: sleep)
            return "late"

        self.serve(view, threads=1)
        wire = self.daemon.open_connection()
        wire.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        wire.leave()
        self.daemon.advance(5)
        self.assertEqual(self.places, (0, 1))
        self.held.pop().callback(None)
        self.assertEqual(self.places, (0, 0))

    def test_ends_elsewhere(self) -> None:
        """A view whose thread has ended, and whose Deferred has not, has no place to give up."""
        places = ThreadPlaces(1, 1)
        finished: Deferred[Any] = Deferred()
        places.take(finished)
        self.assertRaises(ThreadsBusy, places.take, Deferred())
        places.release(finished)
        places.abandon(finished)
        self.assertEqual((places.busy, places.stragglers), (0, 0))


class MixedTests(DaemonTestCase):
    """Plain functions that return coroutines and Deferreds."""

    def test_coroutine(self) -> None:
        """A plain function that returns a coroutine answers plain HTTP with its result."""

        async def inner(request: Request) -> str:
            await deferLater(request.clock, 1)
            return "page"

        def view(request: Request) -> Any:
            return inner(request)

        wire = self.serve(view).open_connection()
        wire.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\nConnection: close\r\n\r\n")
        self.assertIsNone(wire.answer())
        self.daemon.advance(1)
        answer = wire.answer()
        assert answer is not None
        self.assertEqual(answer.text, "page")

    def test_coroutine_with_websocket(self) -> None:
        """A coroutine that uses a blocking WebSocket on the reactor fails; the error says why."""

        async def inner(request: Request) -> None:
            request.websocket.send("hello")

        def view(request: Request) -> Any:
            return inner(request)

        browser = self.open(view)
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 500)
        [failure] = self.flushLoggedErrors(RuntimeError)
        self.assertIn("a blocking WebSocket was used ", failure.getErrorMessage())


@implementer(IReactorFromThreads)
class FakeReactor:
    """Records calls from threads, and makes them when the test says."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.done = 0

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Record a call."""
        self._asked.put(lambda: callable(*args, **kwargs))

    def pump(self, until: Callable[[], object]) -> None:
        """Make recorded calls until a condition holds; fail if that takes too long."""
        end = time.monotonic() + PATIENCE
        while not until():
            self._asked.get(timeout=max(0.001, end - time.monotonic()))()
            self.done += 1


class FakeConnection:
    """A handshake, and the connection that it becomes."""

    subprotocols = ("chat",)
    sender = None
    after_read: Any = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def accept(
        self, websocket: WebSocket, subprotocol: str | None, headers: Any = ()
    ) -> FakeConnection:
        """Answer 101."""
        return self

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Record a message."""
        self.sent.append(payload)

    push = send
    window_bits = 0
    traffic = Traffic()

    def push_frames(self, frames: bytes) -> None:
        """Discard frames: no test here subscribes."""

    @property
    def taken(self) -> int:
        """Return that the peer takes nothing."""
        return 0

    def is_full(self, more: int = 0) -> bool:
        """Return False."""
        return False

    def close(self, closing: Closing) -> None:
        """Do nothing."""

    def message_kept(self, size: int) -> None:
        """Do nothing."""

    def pause_reading(self) -> None:
        """Do nothing."""

    def resume_reading(self) -> None:
        """Do nothing."""


class ThreadsTestCase(SynchronousTestCase):
    """Real threads, and a fake reactor."""

    def setUp(self) -> None:
        """Make a pool of two threads, which must end after the test."""
        self.before = set(threading.enumerate())
        self.reactor = FakeReactor()
        self.threads = ViewThreads(self.reactor, 2)
        self.addCleanup(self.check_threads)
        self.addCleanup(self.threads.stop)

    def new_threads(self) -> set[threading.Thread]:
        """Return the threads that this test has started."""
        return set(threading.enumerate()) - self.before

    def check_threads(self) -> None:
        """Fail if a thread is left."""
        for thread in self.new_threads():
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), thread)

    def run_view(self, view: View, request: Request | None = None) -> Deferred[Any]:
        """Start a view."""
        return self.threads.run(view, request or make_request())

    def hold(self, event: threading.Event, request: Request) -> None:
        """Keep a thread busy until an event is set."""
        event.wait(PATIENCE)

    def finish(self, *finished: Deferred[Any]) -> None:
        """Let the views finish."""
        self.reactor.pump(lambda: all(each.called for each in finished))


class ViewThreadsTests(ThreadsTestCase):
    """The threads of views."""

    def test_result(self) -> None:
        """A view runs in another thread; its result arrives on the reactor's."""
        places: list[threading.Thread] = []

        def view(request: Request) -> str:
            places.append(threading.current_thread())
            return "done"

        finished = self.run_view(view)
        finished.addCallback(lambda result: (result, threading.current_thread()))
        self.finish(finished)
        self.assertEqual(self.successResultOf(finished), ("done", threading.current_thread()))
        self.assertNotEqual(places, [threading.current_thread()])

    def test_failure(self) -> None:
        """What a view raises arrives on the reactor's thread, whatever it is."""
        for error in (ZeroDivisionError, ConversationOver, SystemExit):

            def view(request: Request, error: type[BaseException] = error) -> None:
                raise error

            finished = self.run_view(view)
            self.finish(finished)
            self.failureResultOf(finished, error)

    def test_daemon_threads(self) -> None:
        """The threads are daemon threads, which do not delay the exit of the process."""
        daemons: list[bool] = []
        finished = self.run_view(lambda _: daemons.append(threading.current_thread().daemon))
        self.finish(finished)
        self.assertEqual(daemons, [True])

    def test_no_thread(self) -> None:
        """A view for which no thread can be started takes no place."""

        def fail(*_: object) -> None:
            raise RuntimeError("can't start new thread")

        for name in ("start", "callInThreadWithCallback"):
            broken = self.patch(DaemonThreads, name, fail)
            for _ in range(3):
                self.assertRaises(RuntimeError, self.run_view, print)
            self.assertEqual(self.threads.busy, 0)
            broken.restore()
        self.finish(self.run_view(lambda request: None))

    def test_share(self) -> None:
        """A client may have half of the threads, counting what goes on after its grace."""
        self.threads = ViewThreads(self.reactor, 4, 4, lambda peer: peer.partition(":")[0] or None)
        self.addCleanup(self.threads.stop)
        done = threading.Event()
        self.addCleanup(done.set)
        hold = partial(self.hold, done)
        running = [self.run_view(hold, make_request(peer=f"192.0.2.1:{n}")) for n in (1, 2)]
        again = make_request(peer="192.0.2.1:3")
        self.assertRaises(ThreadsBusy, self.run_view, hold, again)
        self.threads.abandon(running[0])
        self.assertRaises(ThreadsBusy, self.run_view, hold, again)
        # Others are not affected, and one that is not counted may have all the rest.
        running.append(self.run_view(hold, make_request(peer="192.0.2.2:1")))
        running += [self.run_view(hold, make_request(peer="")) for _ in range(2)]
        self.assertRaises(ThreadsBusy, self.run_view, hold, make_request(peer="192.0.2.3:1"))
        done.set()
        self.finish(*running)
        self.finish(self.run_view(hold, again))
        self.assertEqual((self.threads.busy, len(self.threads._clients)), (0, 0))

    def test_none_before(self) -> None:
        """No thread is started before one is needed, or in order to stop."""
        ViewThreads(self.reactor, 64).stop()
        self.assertEqual(self.new_threads(), set())

    def test_limit(self) -> None:
        """Beyond the limit ThreadsBusy is raised, until a view has finished."""
        events = [threading.Event() for _ in range(2)]
        finished = [self.run_view(partial(self.hold, event)) for event in events]
        for _ in range(3):
            self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)
        self.assertEqual((len(self.new_threads()), self.threads.busy), (2, 2))
        events[0].set()
        self.finish(finished[0])
        self.assertEqual(self.threads.busy, 1)
        third = self.run_view(partial(self.hold, events[1]))
        self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)
        events[1].set()
        self.finish(finished[1], third)

    def test_many(self) -> None:
        """Hundreds of views, one after the other, need no more threads than the limit."""
        for number in range(300):
            finished = [self.run_view(lambda _: "done") for _ in range(2)]
            self.finish(*finished)
            for each in finished:
                self.assertEqual(self.successResultOf(each), "done", number)
        self.assertLessEqual(len(self.new_threads()), 2)

    def test_failures_free(self) -> None:
        """A view that raises frees its thread."""
        for _ in range(10):
            finished = self.run_view(lambda _: 1 / 0)
            self.finish(finished)
            self.failureResultOf(finished, ZeroDivisionError)

    def test_pool(self) -> None:
        """In the pool for pages calls wait for a thread; it ends with the others."""
        pool = self.threads.make_page_pool(2)
        events = [threading.Event() for _ in range(3)]
        held: SimpleQueue[bool] = SimpleQueue()
        for event in events:
            pool.callInThread(partial(self.record_daemon, held, event))
        self.assertTrue(held.get(timeout=PATIENCE) and held.get(timeout=PATIENCE))
        self.assertTrue(held.empty())
        pools = {
            kind: (pool.busy, pool.limit, pool.waiting) for kind, pool in self.threads.pools.items()
        }
        self.assertEqual(pools, {"view": (0, 2, 0), "page": (2, 2, 1)})
        events[0].set()
        events[1].set()
        self.assertTrue(held.get(timeout=PATIENCE))
        # Pages do not count against the limit on views.
        finished = [self.run_view(lambda _: "done") for _ in range(2)]
        self.finish(*finished)
        self.threads.stop()
        events[2].set()

    def test_pool_goes_on(self) -> None:
        """An exception in a pool's thread is logged, and the thread goes on."""
        pool = self.threads.make_page_pool(1)
        done = threading.Event()
        pool.callInThread(lambda: sys.exit(1))
        pool.callInThread(done.set)
        self.assertTrue(done.wait(PATIENCE))
        self.assertEqual(len(self.new_threads()), 1)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.threads.stop()
        self.check_threads()

    def record_daemon(self, held: SimpleQueue[bool], event: threading.Event) -> None:
        """Record whether this thread is a daemon thread, and wait."""
        held.put(threading.current_thread().daemon)
        event.wait(PATIENCE)

    def test_stop_idle(self) -> None:
        """Stopping ends idle threads."""
        self.finish(self.run_view(lambda _: None))
        self.assertEqual(len(self.new_threads()), 1)
        self.threads.stop()
        self.check_threads()

    def test_stop_busy(self) -> None:
        """Stopping does not wait for views; a thread ends when its view does."""
        event = threading.Event()
        finished = self.run_view(partial(self.hold, event))
        self.threads.stop()
        self.assertNoResult(finished)
        event.set()
        self.finish(finished)
        self.check_threads()

    def test_after_stop(self) -> None:
        """After a stop ThreadsBusy is raised."""
        self.threads.stop()
        self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)

    def test_deferred(self) -> None:
        """A Deferred or a coroutine that a view returns is awaited on the reactor."""
        first: Deferred[str] = Deferred()
        second: Deferred[str] = Deferred()

        async def inner() -> object:
            return (await second, threading.current_thread())

        finished = [self.run_view(lambda _: first), self.run_view(lambda _: inner())]
        self.reactor.pump(lambda: self.reactor.done == 2)
        for each in finished:
            self.assertNoResult(each)
        first.callback("first")
        second.callback("second")
        self.assertEqual(self.successResultOf(finished[0]), "first")
        self.assertEqual(self.successResultOf(finished[1]), ("second", threading.current_thread()))

    def test_nothing_kept(self) -> None:
        """An idle thread keeps no reference to its last view's objects."""
        websocket = WebSocket(FakeConnection(), Clock())
        request = make_request(websocket)
        traces: list[ref[Any]] = [ref(websocket), ref(request)]
        finished = self.run_view(lambda request: request.websocket.send("a"), request)
        self.finish(finished)
        self.successResultOf(finished)
        del websocket, request, finished
        self.assertEqual(len(self.new_threads()), 1)
        end = time.monotonic() + PATIENCE
        # The thread may not be back at its queue yet.
        while any(trace() for trace in traces) and time.monotonic() < end:
            gc.collect()
            time.sleep(0.001)
        self.assertEqual([trace() for trace in traces], [None, None])

    def test_reactor_thread(self) -> None:
        """On the reactor's own thread a blocking call raises, as it would never return."""
        self.patch(threadable, "ioThread", threading.get_ident())
        error = self.assertRaises(RuntimeError, self.threads.call, lambda: None)
        self.assertIn("async def", str(error))
        finished = self.run_view(lambda request: self.threads.call(lambda: "fine elsewhere"))
        self.finish(finished)
        self.assertEqual(self.successResultOf(finished), "fine elsewhere")


class SendTests(ThreadsTestCase):
    """Calls that are left to the reactor."""

    def test_send(self) -> None:
        """A function is called on the reactor, in its time."""
        called: list[int] = []
        self.threads.send(lambda: called.append(1))
        self.assertEqual(called, [])
        self.reactor.pump(lambda: called)
        self.assertEqual(called, [1])


class BridgeTests(ThreadsTestCase):
    """A blocking WebSocket with real threads."""

    def setUp(self) -> None:
        """Make a WebSocket."""
        super().setUp()
        self.clock = Clock()
        self.connection = FakeConnection()
        self.websocket = WebSocket(self.connection, self.clock)
        self.request = make_request(self.websocket)

    def test_waits(self) -> None:
        """wait() blocks its thread only, until a message arrives."""
        finished = self.run_view(lambda request: request.websocket.wait(), self.request)
        self.reactor.pump(lambda: self.websocket._inbox.waiter is not None)
        self.assertNoResult(finished)
        self.websocket.message_received("a")
        self.finish(finished)
        self.assertEqual(self.successResultOf(finished), "a")

    def test_time_out(self) -> None:
        """A timeout is raised in the thread."""
        finished = self.run_view(lambda request: request.websocket.wait(3), self.request)
        self.reactor.pump(lambda: self.websocket._inbox.waiter is not None)
        self.clock.advance(3)
        self.finish(finished)
        self.failureResultOf(finished, TimeoutError)

    def test_everything_on_the_reactor(self) -> None:
        """Everything that the view calls runs on the reactor's thread."""
        places: list[threading.Thread] = []

        class Watched(FakeConnection):
            def send(self, payload: bytes, *, binary: bool) -> None:
                places.append(threading.current_thread())

            def accept(
                self, websocket: WebSocket, subprotocol: str | None, headers: Any = ()
            ) -> FakeConnection:
                places.append(threading.current_thread())
                return self

        def view(request: Request) -> None:
            request.websocket.accept("chat")
            request.websocket.send("a")

        finished = self.run_view(view, make_request(WebSocket(Watched(), self.clock)))
        self.finish(finished)
        self.successResultOf(finished)
        self.assertEqual(places, [threading.current_thread()] * 2)

    def test_freed_from_wait(self) -> None:
        """A view in ``while True: wait()`` is ended when its peer has left."""
        received: list[object] = []

        def view(request: Request) -> None:
            while True:
                received.append(request.websocket.wait())

        finished = self.run_view(view, self.request)
        self.reactor.pump(lambda: self.websocket._inbox.waiter is not None)
        self.websocket.connection_lost()
        self.finish(finished)
        self.failureResultOf(finished, ConversationOver)
        self.assertEqual(received, [None] * 100)

    def test_freed_from_send(self) -> None:
        """A view in ``while True: send()`` is ended when its peer has left."""

        def view(request: Request) -> None:
            while True:
                request.websocket.send("tick")

        finished = self.run_view(view, self.request)
        self.reactor.pump(lambda: len(self.connection.sent) >= 10)
        self.websocket.connection_lost()
        self.finish(finished)
        self.failureResultOf(finished, ConversationOver)

    def test_freed_from_blocked_send(self) -> None:
        """A view whose send blocks is ended when its peer has left."""

        def view(request: Request) -> None:
            while True:
                request.websocket.send("tick")

        self.websocket.accept()
        self.websocket.send_queue.pause()
        finished = self.run_view(view, self.request)
        self.reactor.pump(lambda: self.connection.sent)
        self.assertNoResult(finished)
        self.websocket.connection_lost()
        self.finish(finished)
        self.failureResultOf(finished, ConversationOver)
        self.assertEqual(self.connection.sent, [b"tick"])

    def test_freed_from_close(self) -> None:
        """A close() that blocks returns when the connection is closed."""
        finished = self.run_view(lambda request: request.websocket.close(), self.request)
        self.reactor.pump(self.websocket.is_closed)
        self.assertNoResult(finished)
        self.websocket.connection_lost()
        self.finish(finished)
        self.assertIsNone(self.successResultOf(finished))

    def test_helper_thread(self) -> None:
        """A thread that the view starts can use the WebSocket, too."""

        def view(request: Request) -> None:
            helper = threading.Thread(target=lambda: request.websocket.send("from the helper"))
            helper.start()
            helper.join(PATIENCE)

        self.finish(self.run_view(view, self.request))
        self.assertEqual(self.connection.sent, [b"from the helper"])

    def test_helper_thread_after_end(self) -> None:
        """In such a thread sends do nothing after the end, and a wait in a loop gets EOFError."""
        received: list[object] = []

        def help_out(websocket: BlockingWebSocket) -> None:
            while True:
                websocket.send("discarded")
                try:
                    received.append(websocket.wait())
                except Exception as error:
                    received.append(type(error))
                    break
            for _ in range(300):
                websocket.send("discarded")

        def view(request: Request) -> None:
            helper = threading.Thread(target=help_out, args=(request.websocket,))
            helper.start()
            helper.join(PATIENCE)

        self.websocket.connection_lost()
        self.finish(self.run_view(view, self.request))
        self.assertEqual(received, [None] * 100 + [NoMoreMessages])
        self.assertEqual(self.connection.sent, [])

    def test_other_view(self) -> None:
        """A view that uses the WebSocket of one that has left goes on, in the same thread, too."""
        left: list[BlockingWebSocket] = []
        own = WebSocket(FakeConnection(), self.clock)

        def leaving(request: Request) -> None:
            left.append(request.websocket)

        def staying(request: Request) -> str:
            for _ in range(20):
                left[0].send("silent")
            left[0].close()
            return "done"

        finished = self.run_view(leaving, self.request)
        self.finish(finished)
        self.websocket.connection_lost()
        self.websocket.grace_expired()
        finished = self.run_view(staying, make_request(own))
        self.finish(finished)
        self.assertEqual(self.successResultOf(finished), "done")
        self.assertEqual(len(self.new_threads()), 1)

    def test_after_grace(self) -> None:
        """After its grace a view is ended by its next call."""
        calls: list[Callable[[BlockingWebSocket], object]] = [
            lambda websocket: websocket.wait(),
            lambda websocket: websocket.read(),
            lambda websocket: websocket.has_messages(),
            lambda websocket: websocket.send("a"),
            lambda websocket: websocket.close(),
            lambda websocket: websocket.subscribe("t"),
            lambda websocket: websocket.unsubscribe("t"),
            lambda websocket: websocket._count_call(),
        ]
        self.websocket.connection_lost()
        self.websocket.grace_expired()
        for call in calls:

            def view(request: Request, call: Callable[[BlockingWebSocket], object] = call) -> None:
                self.assertTrue(request.websocket.is_closed())
                call(request.websocket)

            finished = self.run_view(view, self.request)
            self.finish(finished)
            self.failureResultOf(finished, ConversationOver)


class BlockingRequestTests(SynchronousTestCase):
    """The request of a view in a thread."""

    def test_websocket(self) -> None:
        """Only its WebSocket differs."""
        websocket = WebSocket(FakeConnection(), Clock())
        request = make_request(websocket)
        given = blocking(request, cast(Any, None))
        self.assertIsInstance(given.websocket, BlockingWebSocket)
        self.assertIs(given.clock, request.clock)
        self.assertIs(request.websocket, websocket)

    def test_plain_http(self) -> None:
        """Without a WebSocket it is the same object."""
        request = make_request()
        self.assertIs(blocking(request, cast(Any, None)), request)


class TopicTests(TopicTestCase):
    """Blocking views that use topics."""

    def test_end_while_it_begins(self) -> None:
        """A subscribe() that blocks returns False when the browser leaves."""
        ids = self.publish_many("t", ["1", "2"])
        record: list[Any] = []

        @require_websocket
        def view(request: Request) -> None:
            request.websocket.accept()
            request.websocket._websocket.send_queue.pause()
            try:
                record.append(request.websocket.subscribe("t", ids[0]))
                record.append(request.websocket.wait())
            finally:
                record.append("over")

        self.start({"/view": view})
        ids = self.publish_many("t", ["1", "2"])
        browser = self.daemon.connect("/view")
        self.assertEqual(record, [])
        browser.leave()
        self.assertEqual(record, [False, None, "over"])

    def test_handle(self) -> None:
        """A scheduled publication is cancelled from the view's thread, on the reactor's."""
        handles: list[BlockingScheduledPublication] = []
        record: list[bool] = []

        def view(request: Request) -> None:
            push = request.publish("t", "x", every=1, count=3)
            cancel = push._push.cancel

            def record_thread() -> object:
                record.append(threading.current_thread() is threading.main_thread())
                return cancel()

            push._push.cancel = record_thread
            record.extend([push.cancel(), push.cancel()])
            handles.append(push)

        self.start({"/view": view})
        self.daemon.get("/view")
        self.assertEqual((len(handles[0].id), record), (18, [True, True, True, False]))
        self.assertEqual(self.control("GET", "/schedules").body, b'{"schedules":[],"total":0}\n')
