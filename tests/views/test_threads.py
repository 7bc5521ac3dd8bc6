"""Views that block: their WebSocket, their threads, and the end of both."""

from __future__ import annotations

import gc
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
from twisted.logger import capturedLogs
from twisted.python import threadable
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from pushd.access.closing import INTERNAL_ERROR, NORMAL, Closing
from pushd.access.counters import Traffic
from pushd.access.limits import Limits
from pushd.errors import ConversationOver, ThreadsBusy
from pushd.protocols.http.response import Response
from pushd.protocols.websocket.protocol import PushProtocol
from pushd.protocols.websocket.socket import WebSocket
from pushd.testing.daemon import Browser, Daemon
from pushd.views.request import Request, View, accept_websocket, require_websocket
from pushd.views.runner import ViewRun
from pushd.views.threads import BlockingWebSocket, ViewThreads, blocking

# How long a thread may take that has nothing more to do, in seconds of real time.
PATIENCE = 30


def make_request(websocket: Any = None) -> Request:
    """Make a request that only has a WebSocket, or not even that."""
    return Request(
        method="GET",
        path="/",
        scheme="http",
        host="a",
        peer="b",
        clock=Clock(),
        websocket=websocket,
    )


def kind_of(one: object) -> type:
    """The class of an object; of a protocol, that which its factory made its own from."""
    kind = type(one)
    return PushProtocol if PushProtocol in kind.__mro__ else kind


class DaemonTestCase(SynchronousTestCase):
    """A blocking view in a daemon in memory, where it takes turns with the test."""

    def setUp(self) -> None:
        """Note nothing yet, and which threads there are."""
        self.noted: list[Any] = []
        self.before = set(threading.enumerate())

    def serve(self, view: View, **settings: Any) -> Daemon:
        """Serve one view; when the test is over neither a call nor a thread may be left."""
        self.daemon = Daemon({"/view/": accept_websocket(view)}, **settings)
        self.addCleanup(self.check_threads)
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def open(self, view: View, **settings: Any) -> Browser:
        """Serve one view and open a WebSocket to it."""
        return self.serve(view, **settings).connect("/view/")

    def check_threads(self) -> None:
        """Fail when a thread is left."""
        for thread in set(threading.enumerate()) - self.before:
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), thread)


class BlockingWebSocketTests(DaemonTestCase):
    """The same names as a WebSocket has, and each call waits."""

    def test_own_thread(self) -> None:
        """A plain function runs in a thread of its own, and is given this kind of WebSocket."""

        def view(request: Request) -> None:
            self.noted.append(threading.current_thread() is threading.main_thread())
            self.noted.append(type(request.websocket))
            self.noted.append(request.is_websocket())

        self.open(view)
        self.assertEqual(self.noted, [False, BlockingWebSocket, True])

    def test_talk(self) -> None:
        """It waits for messages and sends some, text as str and binary as bytes."""

        def view(request: Request) -> None:
            while (message := request.websocket.wait()) is not None:
                request.websocket.send(message, binary=isinstance(message, bytes))

        browser = self.open(view)
        for message in ("a", b"\xff", "é"):
            browser.send(message)
        self.assertEqual(browser.messages, ["a", b"\xff", "é"])

    def test_iteration(self) -> None:
        """It is iterated over by a plain for, which stops at the end without a None."""

        def view(request: Request) -> None:
            self.noted += request.websocket
            self.noted.append("after the loop")

        browser = self.open(view)
        browser.send("a")
        browser.send("b")
        browser.close()
        self.assertEqual(self.noted, ["a", "b", "after the loop"])

    def test_time_out(self) -> None:
        """A wait with a time-out raises TimeoutError when the clock says so, and loses nothing."""

        def view(request: Request) -> None:
            try:
                request.websocket.wait(timeout=2)
            except TimeoutError:
                self.noted.append("time-out")
            self.noted.append(request.websocket.wait(2))

        browser = self.open(view)
        self.daemon.advance(1.9)
        self.assertEqual(self.noted, [])
        self.daemon.advance(0.1)
        browser.send("a")
        self.assertEqual(self.noted, ["time-out", "a"])
        self.assertEqual(self.daemon.pending_calls, [])

    def test_read(self) -> None:
        """read(), count_messages() and has_messages() answer at once."""

        def view(request: Request) -> None:
            websocket = request.websocket
            self.noted += [websocket.read(), websocket.read("none"), websocket.has_messages()]
            websocket.wait()
            websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            self.noted += [websocket.count_messages(), websocket.has_messages()]
            self.noted += [websocket.read(), websocket.has_messages()]
            self.noted += [websocket.read("none"), websocket.read("none")]

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        for message in ("go", "a", b"b"):
            browser.send(message)
        self.assertEqual(self.noted, [None, "none", False])
        browser.resume()
        self.assertEqual(self.noted[3:], [2, True, "a", True, b"b", "none"])

    def test_mistakes(self) -> None:
        """Mistakes are raised in the view's thread, and the WebSocket is as it was."""

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
                    self.noted.append(type(error))
            websocket.send("on")

        browser = self.open(view, limits=Limits(max_message=100))
        self.assertEqual(
            self.noted,
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
        """It chooses a subprotocol, and says which it was."""

        def view(request: Request) -> None:
            self.noted.append(request.websocket.subprotocol)
            request.websocket.accept("chat")
            self.noted.append(request.websocket.subprotocol)

        browser = self.serve(view).connect("/view/", subprotocols=("news", "chat"))
        self.assertEqual((browser.subprotocol, self.noted), ("chat", [None, "chat"]))

    def test_close(self) -> None:
        """close() returns when the connection is gone."""

        def view(request: Request) -> None:
            request.websocket.wait()
            self.noted.append(request.websocket.is_closed())
            request.websocket.close(4000, "enough")
            self.noted.append(request.websocket.is_closed())
            request.websocket.close()

        browser = self.open(view)
        browser.stall()
        browser.send("go")
        self.assertEqual(self.noted, [False])
        browser.resume()
        self.assertEqual(self.noted, [False, True])
        self.assertEqual(browser.closing, Closing(4000, "enough"))

    def test_close_dead(self) -> None:
        """close() returns after some seconds, even when the browser never answers."""

        def view(request: Request) -> None:
            request.websocket.wait()
            request.websocket.close()
            self.noted.append("gone")

        browser = self.open(view)
        browser.stall()
        browser.send("go")
        self.daemon.advance(5)
        self.assertEqual(self.noted, ["gone"])

    def test_pace(self) -> None:
        """send() returns when the connection can take more: the view goes at the browser's pace."""

        def view(request: Request) -> None:
            request.websocket.wait()
            for number in range(20):
                request.websocket.send(bytes(20_000), binary=True)
                self.noted.append(number)

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        self.assertEqual(len(self.noted), 3)
        browser.resume()
        self.assertEqual(len(self.noted), 20)
        self.assertEqual(len(browser.messages), 20)


class EndTests(DaemonTestCase):
    """A view in a thread ends, and a thread ends with it."""

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
        """A view that calls sys.exit() has failed, and the daemon goes on."""

        def view(request: Request) -> None:
            request.websocket.send("hello")
            raise SystemExit

        self.assertEqual(self.open(view).closing, INTERNAL_ERROR)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 1)
        self.assertEqual(self.daemon.connect("/view/").messages, ["hello"])
        self.flushLoggedErrors(SystemExit)

    def test_refuses(self) -> None:
        """A view that returns an answer before it uses its WebSocket refuses with it."""
        browser = self.open(lambda request: Response(403, body="no"))
        assert browser.refused is not None
        self.assertEqual((browser.refused.status, browser.refused.text), (403, "no"))

    def test_plain_http(self) -> None:
        """It answers plain HTTP as well, and has no WebSocket then."""
        answer = self.serve(lambda request: f"websocket: {request.websocket}").get("/view/")
        assert answer is not None
        self.assertEqual((answer.status, answer.text), (200, "websocket: None"))

    def test_told_once(self) -> None:
        """At the end it is told with None once; the next wait ends it, which is no error."""

        def view(request: Request) -> None:
            while True:
                self.noted.append(request.websocket.wait())

        browser = self.open(view)
        browser.send("a")
        with capturedLogs() as events:
            browser.leave()
        self.assertEqual(self.noted, ["a", None])
        self.assertEqual([event for event in events if "log_failure" in event], [])
        self.check_threads()

    def test_loop_over_send(self) -> None:
        """A thread that sends for ever is freed by its next send after the end."""

        def view(request: Request) -> None:
            request.websocket.wait()
            while True:
                request.websocket.send(bytes(10_000), binary=True)
                self.noted.append("sent")

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        sent = len(self.noted)
        self.assertGreater(sent, 1)
        browser.leave()
        # The send that was held returns, and the next one does not.
        self.assertEqual(len(self.noted), sent + 1)
        self.check_threads()

    def test_loop_that_catches(self) -> None:
        """A loop that catches every Exception is ended all the same."""
        for call in ("wait", "send"):

            def view(request: Request, call: str = call) -> None:
                while len(self.noted) < 1000:
                    try:
                        request.websocket.wait()
                        if call == "send":
                            request.websocket.send("tick")
                    except Exception as error:
                        self.noted.append(error)

            browser = self.open(view)
            browser.send("a")
            browser.leave()
            self.assertEqual(self.noted, [])
            self.check_threads()

    def test_loop_over_look(self) -> None:
        """A thread that looks for messages for ever is freed after a hundred looks in vain."""
        looks: list[Callable[[Any], object]] = [
            lambda websocket: websocket.read(),
            lambda websocket: websocket.count_messages(),
            lambda websocket: websocket.has_messages(),
        ]
        for look in looks:

            def view(request: Request, look: Callable[[Any], object] = look) -> None:
                for _ in range(1000):
                    look(request.websocket)
                request.websocket.wait()
                while True:
                    look(request.websocket)
                    self.noted.append("in vain")

            browser = self.open(view)
            self.assertFalse(browser.gone)
            browser.leave()
            self.assertEqual(self.noted, ["in vain"] * 100)
            self.check_threads()
            self.noted.clear()

    def test_looks_for_the_rest(self) -> None:
        """Looks that find something are not in vain: a full inbox is read to its end."""

        def view(request: Request) -> None:
            websocket = request.websocket
            websocket.wait()
            websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            while websocket.count_messages() and websocket.has_messages():
                self.noted.append(websocket.read("nothing"))

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        for number in range(64):
            browser.send(str(number))
        browser.leave()
        self.assertEqual(self.noted, [str(number) for number in range(1, 64)])

    def test_several_loops(self) -> None:
        """A second loop over a conversation that is over does not run for ever."""

        def view(request: Request) -> None:
            while True:
                for message in request.websocket:
                    self.noted.append(message)

        browser = self.open(view)
        browser.send("a")
        browser.leave()
        self.assertEqual(self.noted, ["a"])
        self.check_threads()

    def test_cleans_up(self) -> None:
        """What stands in finally is done, and may look at what is left."""

        def view(request: Request) -> None:
            try:
                while True:
                    request.websocket.wait()
            finally:
                self.noted += [request.websocket.is_closed(), request.websocket.read("none")]

        self.open(view).leave()
        self.assertEqual(self.noted, [True, "none"])

    def test_reads_the_rest(self) -> None:
        """What came before the end is read after it."""

        def view(request: Request) -> None:
            request.websocket.wait()
            request.websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            self.noted += request.websocket

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        for message in ("go", "a", b"b"):
            browser.send(message)
        browser.close()
        self.assertEqual(self.noted, ["a", b"b"])

    def test_unopened(self) -> None:
        """A view whose browser left before the 101 sees that it is closed."""

        def view(request: Request) -> Any:
            later: Deferred[None] = deferLater(request.clock, 1)
            return later.addCallback(lambda _: self.noted.append(request.websocket.is_closed()))

        self.open(view).leave()
        self.daemon.advance(1)
        self.assertEqual(self.noted, [True])

    def test_daemon_stops(self) -> None:
        """A daemon that stops tells them as it tells all others."""

        def view(request: Request) -> None:
            for message in request.websocket:
                self.noted.append(message)
            self.noted.append("over")

        browser = self.open(view)
        self.daemon.stop()
        assert browser.closing is not None
        self.assertEqual((browser.closing.code, self.noted), (1001, ["over"]))
        self.check_threads()

    def test_nothing_left(self) -> None:
        """Of a conversation with a thread no object remains, however it ends."""

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
        # Look only at what is made from now on.
        gc.collect()
        gc.freeze()
        self.addCleanup(gc.unfreeze)
        for end in ends:
            browser = daemon.connect("/view/")
            traces = [ref(one) for one in gc.get_objects() if kind_of(one) in kinds]
            self.assertEqual({kind_of(trace()) for trace in traces}, set(kinds))
            end(browser)
            self.check_threads()
            del browser
            gc.collect()
            self.assertEqual([trace() for trace in traces if trace() is not None], [])


class FullTests(DaemonTestCase):
    """When every thread is taken, nobody hangs."""

    def test_handshake(self) -> None:
        """A handshake gets 503 before the 101, with the advice to try again; then there is room."""

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
        """Plain HTTP gets the same."""

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


class MixedTests(DaemonTestCase):
    """Plain functions that make coroutines and Deferreds."""

    def test_coroutine(self) -> None:
        """A plain function around a coroutine answers plain HTTP with what that returns."""

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
        """Over a WebSocket that is an error that says so: what blocks is not for the reactor."""

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
class Reactor:
    """A reactor for one test: it does what threads ask for, on the thread that pumps it."""

    def __init__(self) -> None:
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.done = 0

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        """Take a call."""
        self._asked.put(lambda: callable(*args, **kwargs))

    def pump(self, until: Callable[[], object]) -> None:
        """Do what is asked for until something is the case; fail when that takes too long."""
        end = time.monotonic() + PATIENCE
        while not until():
            self._asked.get(timeout=max(0.001, end - time.monotonic()))()
            self.done += 1


class Line:
    """An offer and its wire in one."""

    subprotocols = ("chat",)
    sender = None

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def accept(self, websocket: WebSocket, subprotocol: str | None) -> Line:
        """Answer 101."""
        return self

    def send(self, payload: bytes, *, binary: bool) -> None:
        """Take a message."""
        self.sent.append(payload)

    push = send
    window_bits = 0
    traffic = Traffic()

    def push_frames(self, frames: bytes) -> None:
        """Let them go: nobody subscribes here."""

    def is_full(self) -> bool:
        """Never."""
        return False

    def close(self, closing: Closing) -> None:
        """Let it be."""

    def pause_reading(self) -> None:
        """Let it be."""

    def resume_reading(self) -> None:
        """Let it be."""


class ThreadsTestCase(SynchronousTestCase):
    """Real threads, and a reactor that a test drives."""

    def setUp(self) -> None:
        """Make a pool of two; all its threads must have ended when the test is over."""
        self.before = set(threading.enumerate())
        self.reactor = Reactor()
        self.threads = ViewThreads(self.reactor, 2)
        self.addCleanup(self.check_threads)
        self.addCleanup(self.threads.stop)

    def ours(self) -> set[threading.Thread]:
        """Give the threads that this test has started."""
        return set(threading.enumerate()) - self.before

    def check_threads(self) -> None:
        """Fail when a thread is left."""
        for thread in self.ours():
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), thread)

    def run_view(self, view: View, request: Request | None = None) -> Deferred[Any]:
        """Start a view."""
        return self.threads.run(view, request or make_request())

    def hold(self, gate: threading.Event, request: Request) -> None:
        """Hold a thread until the gate opens."""
        gate.wait(PATIENCE)

    def finish(self, *finished: Deferred[Any]) -> None:
        """Let the views finish."""
        self.reactor.pump(lambda: all(each.called for each in finished))


class ViewThreadsTests(ThreadsTestCase):
    """The pool of threads."""

    def test_result(self) -> None:
        """A view runs in another thread; what it returns arrives on the reactor's."""
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
        """So does what it raises, whatever that is."""
        for error in (ZeroDivisionError, ConversationOver, SystemExit):

            def view(request: Request, error: type[BaseException] = error) -> None:
                raise error

            finished = self.run_view(view)
            self.finish(finished)
            self.failureResultOf(finished, error)

    def test_daemon_threads(self) -> None:
        """The threads are daemons: one that sleeps does not hold up the end of the process."""
        daemons: list[bool] = []
        finished = self.run_view(lambda _: daemons.append(threading.current_thread().daemon))
        self.finish(finished)
        self.assertEqual(daemons, [True])

    def test_none_before(self) -> None:
        """No thread is started before one is needed, and none is needed to stop."""
        ViewThreads(self.reactor, 64).stop()
        self.assertEqual(self.ours(), set())

    def test_limit(self) -> None:
        """Beyond the limit it says so at once, and takes the next when one has finished."""
        gates = [threading.Event() for _ in range(2)]
        finished = [self.run_view(partial(self.hold, gate)) for gate in gates]
        for _ in range(3):
            self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)
        self.assertEqual((len(self.ours()), self.threads.busy), (2, 2))
        gates[0].set()
        self.finish(finished[0])
        self.assertEqual(self.threads.busy, 1)
        third = self.run_view(partial(self.hold, gates[1]))
        self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)
        gates[1].set()
        self.finish(finished[1], third)

    def test_many(self) -> None:
        """Hundreds of views, one after the other, need no more threads than the limit."""
        for number in range(300):
            finished = [self.run_view(lambda _: "done") for _ in range(2)]
            self.finish(*finished)
            for each in finished:
                self.assertEqual(self.successResultOf(each), "done", number)
        self.assertLessEqual(len(self.ours()), 2)

    def test_failures_free(self) -> None:
        """A view that raises frees its thread."""
        for _ in range(10):
            finished = self.run_view(lambda _: 1 / 0)
            self.finish(finished)
            self.failureResultOf(finished, ZeroDivisionError)

    def test_pool(self) -> None:
        """A pool of further threads lets work wait until one has time, and ends with the rest."""
        pool = self.threads.make_page_pool(2)
        gates = [threading.Event() for _ in range(3)]
        held: SimpleQueue[bool] = SimpleQueue()
        for gate in gates:
            pool.callInThread(partial(self.note, held, gate))
        self.assertTrue(held.get(timeout=PATIENCE) and held.get(timeout=PATIENCE))
        self.assertTrue(held.empty())
        crews = {
            kind: (crew.busy, crew.limit, crew.waiting) for kind, crew in self.threads.pools.items()
        }
        self.assertEqual(crews, {"view": (0, 2, 0), "page": (2, 2, 1)})
        gates[0].set()
        gates[1].set()
        self.assertTrue(held.get(timeout=PATIENCE))
        # They have no part in the number of views that may block.
        finished = [self.run_view(lambda _: "done") for _ in range(2)]
        self.finish(*finished)
        self.threads.stop()
        gates[2].set()

    def note(self, held: SimpleQueue[bool], gate: threading.Event) -> None:
        """Say whether this thread is a daemon, and wait."""
        held.put(threading.current_thread().daemon)
        gate.wait(PATIENCE)

    def test_stop_idle(self) -> None:
        """Stopping ends the threads that have nothing to do."""
        self.finish(self.run_view(lambda _: None))
        self.assertEqual(len(self.ours()), 1)
        self.threads.stop()
        self.check_threads()

    def test_stop_busy(self) -> None:
        """Stopping waits for no view; its thread ends when the view does."""
        gate = threading.Event()
        finished = self.run_view(partial(self.hold, gate))
        self.threads.stop()
        self.assertNoResult(finished)
        gate.set()
        self.finish(finished)
        self.check_threads()

    def test_after_stop(self) -> None:
        """Who comes after that is refused: there will be no thread."""
        self.threads.stop()
        self.assertRaises(ThreadsBusy, self.run_view, lambda _: None)

    def test_deferred(self) -> None:
        """A Deferred that a view returns is waited for, and so is a coroutine, on the reactor."""
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
        """A thread that waits for work keeps nothing of the view before."""
        websocket = WebSocket(Line(), Clock())
        request = make_request(websocket)
        traces: list[ref[Any]] = [ref(websocket), ref(request)]
        finished = self.run_view(lambda request: request.websocket.send("a"), request)
        self.finish(finished)
        self.successResultOf(finished)
        del websocket, request, finished
        self.assertEqual(len(self.ours()), 1)
        end = time.monotonic() + PATIENCE
        # The thread may not have come back to its queue yet.
        while any(trace() for trace in traces) and time.monotonic() < end:
            gc.collect()
            time.sleep(0.001)
        self.assertEqual([trace() for trace in traces], [None, None])

    def test_reactor_thread(self) -> None:
        """On the reactor's own thread a blocking call would never return: it raises."""
        self.patch(threadable, "ioThread", threading.get_ident())
        error = self.assertRaises(RuntimeError, self.threads.call, lambda: None)
        self.assertIn("async def", str(error))
        finished = self.run_view(lambda request: self.threads.call(lambda: "fine elsewhere"))
        self.finish(finished)
        self.assertEqual(self.successResultOf(finished), "fine elsewhere")


class BridgeTests(ThreadsTestCase):
    """A blocking WebSocket over real threads."""

    def setUp(self) -> None:
        """Open a conversation."""
        super().setUp()
        self.clock = Clock()
        self.line = Line()
        self.websocket = WebSocket(self.line, self.clock)
        self.request = make_request(self.websocket)

    def test_waits(self) -> None:
        """wait() blocks its thread and no other, until a message comes."""
        finished = self.run_view(lambda request: request.websocket.wait(), self.request)
        self.reactor.pump(lambda: self.websocket.will_tell(None))
        self.assertNoResult(finished)
        self.websocket.message_received("a")
        self.finish(finished)
        self.assertEqual(self.successResultOf(finished), "a")

    def test_time_out(self) -> None:
        """A time-out is raised in the thread."""
        finished = self.run_view(lambda request: request.websocket.wait(3), self.request)
        self.reactor.pump(lambda: self.websocket.will_tell(None))
        self.clock.advance(3)
        self.finish(finished)
        self.failureResultOf(finished, TimeoutError)

    def test_everything_on_the_reactor(self) -> None:
        """Whatever the thread asks for is done on the reactor's thread."""
        places: list[threading.Thread] = []

        class Watched(Line):
            def send(self, payload: bytes, *, binary: bool) -> None:
                places.append(threading.current_thread())

            def accept(self, websocket: WebSocket, subprotocol: str | None) -> Line:
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
        """A thread in ``while True: wait()`` is freed when its peer has left."""
        told: list[object] = []

        def view(request: Request) -> None:
            while True:
                told.append(request.websocket.wait())

        finished = self.run_view(view, self.request)
        self.reactor.pump(lambda: self.websocket.will_tell(None))
        self.websocket.connection_lost()
        self.finish(finished)
        self.failureResultOf(finished, ConversationOver)
        self.assertEqual(told, [None])

    def test_freed_from_send(self) -> None:
        """A thread in ``while True: send()`` is freed when its peer has left."""

        def view(request: Request) -> None:
            while True:
                request.websocket.send("tick")

        finished = self.run_view(view, self.request)
        self.reactor.pump(lambda: len(self.line.sent) >= 10)
        self.websocket.connection_lost()
        self.finish(finished)
        self.failureResultOf(finished, ConversationOver)

    def test_freed_from_held_send(self) -> None:
        """A thread that is held by a browser that does not read is freed as well."""

        def view(request: Request) -> None:
            while True:
                request.websocket.send("tick")

        self.websocket.accept()
        self.websocket.writing_paused()
        finished = self.run_view(view, self.request)
        self.reactor.pump(lambda: self.line.sent)
        self.assertNoResult(finished)
        self.websocket.connection_lost()
        self.finish(finished)
        self.failureResultOf(finished, ConversationOver)
        self.assertEqual(self.line.sent, [b"tick"])

    def test_freed_from_close(self) -> None:
        """A thread in close() is freed when the connection is gone."""
        finished = self.run_view(lambda request: request.websocket.close(), self.request)
        self.reactor.pump(self.websocket.is_closed)
        self.assertNoResult(finished)
        self.websocket.connection_lost()
        self.finish(finished)
        self.assertIsNone(self.successResultOf(finished))

    def test_helper_thread(self) -> None:
        """A thread that the view starts by itself may use the WebSocket, too."""

        def view(request: Request) -> None:
            helper = threading.Thread(target=lambda: request.websocket.send("from the helper"))
            helper.start()
            helper.join(PATIENCE)

        self.finish(self.run_view(view, self.request))
        self.assertEqual(self.line.sent, [b"from the helper"])

    def test_helper_thread_after_end(self) -> None:
        """Such a thread is not bothered by the end: it is told as often as it asks."""
        told: list[object] = []

        def help_out(websocket: BlockingWebSocket) -> None:
            for _ in range(300):
                websocket.send("nobody hears")
                told.append(websocket.wait())
                websocket.read()
                websocket.has_messages()

        def view(request: Request) -> None:
            helper = threading.Thread(target=help_out, args=(request.websocket,))
            helper.start()
            helper.join(PATIENCE)

        self.websocket.connection_lost()
        self.finish(self.run_view(view, self.request))
        self.assertEqual(told, [None] * 300)
        self.assertEqual(self.line.sent, [])


class BlockingTests(SynchronousTestCase):
    """The request that a view in a thread gets."""

    def test_websocket(self) -> None:
        """It is the same but for its WebSocket."""
        websocket = WebSocket(Line(), Clock())
        request = make_request(websocket)
        given = blocking(request, cast(Any, None))
        self.assertIsInstance(given.websocket, BlockingWebSocket)
        self.assertIs(given.clock, request.clock)
        self.assertIs(request.websocket, websocket)

    def test_plain_http(self) -> None:
        """Without a WebSocket it is the same."""
        request = make_request()
        self.assertIs(blocking(request, cast(Any, None)), request)
