"""The daemon in memory of the testing kit."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Thread
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import GOING_AWAY, NORMAL
from pushd.access.limits import Limits
from pushd.testing import Daemon
from pushd.testing import daemon as module
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.inprocess import publish
from pushd.views.request import Request
from pushd.views.routes import Routes
from tests.support.folder import make_folder
from tests.support.peer import handshake


@accept_websocket
async def echo(request: Request) -> str | None:
    """Echo messages; answer HTTP with the request's method, path and body."""
    if not request.is_websocket():
        return f"{request.method} {request.path} {request.body.decode()}"
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


class RequestTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon."""
        self.daemon = Daemon({"/echo/": echo})

    def test_get(self) -> None:
        """An answer has a status, headers, and a body as bytes and as text."""
        answer = self.daemon.get("/echo/")
        assert answer is not None
        self.assertEqual(
            (answer.status, answer.body, answer.text), (200, b"GET /echo/ ", "GET /echo/ ")
        )
        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")

    def test_request(self) -> None:
        """A request may have any method, headers, and a body, whose length is sent."""
        answer = self.daemon.request("PUT", "/echo/", {"X": "y"}, "für alle".encode())
        assert answer is not None
        self.assertEqual(answer.text, "PUT /echo/ für alle")
        answer = self.daemon.request("HEAD", "/echo/")
        assert answer is not None
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Length"], "12")

    def test_own_headers(self) -> None:
        """Given headers replace the default ones."""
        seen: list[Request] = []

        async def see(request: Request) -> None:
            seen.append(request)

        daemon = Daemon({"/": see})
        daemon.get("/")
        daemon.get("/", {"Host": "elsewhere", "X": "y"})
        self.assertEqual([asked.host for asked in seen], ["localhost:8080", "elsewhere"])
        self.assertEqual(seen[1].headers["x"], "y")
        self.assertEqual(seen[0].headers["connection"], "close")

    def test_control_port(self) -> None:
        """Requests and connections reach the control port with ``control=True``."""
        public, private = (self.daemon.request("GET", "/healthz", control=c) for c in (False, True))
        assert public is not None and private is not None
        self.assertEqual((public.status, private.status), (404, 200))
        connection = self.daemon.open_connection(control=True)
        connection.send(b"GET /healthz HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
        self.assertIn(b"alive", connection.received)

    def test_control_port_after_several(self) -> None:
        """``control=True`` reaches the control port however many public ports there are."""
        daemon = Daemon({"/echo/": echo}, listen=("tcp:1", "tcp:2"), control=("tcp:3",))
        answer = daemon.request("GET", "/healthz", control=True)
        assert answer is not None
        self.assertEqual(answer.status, 200)


class AsyncioTests(SynchronousTestCase):
    """With ``loop="asyncio"``, the daemon has an event loop whose time is the clock's."""

    def test_time(self) -> None:
        """Sleeps and timeouts of asyncio's end when the test lets time pass."""

        async def view(request: Request) -> str:
            began = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(5):
                    await asyncio.sleep(10)
            except TimeoutError:
                return f"timeout after {asyncio.get_running_loop().time() - began:g} s"
            return ""

        with Daemon({"/view/": view}, loop="asyncio") as daemon:
            connection = daemon.open_connection()
            connection.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            self.assertEqual(len(daemon.pending_calls), 2)
            daemon.advance(5)
            answer = connection.answer()
            assert answer is not None
            self.assertEqual(answer.text, "timeout after 5 s")

    def test_in_loop(self) -> None:
        """A test that runs on a loop itself can use it; publications reach views as well."""

        @require_websocket
        async def view(request: Request) -> None:
            await request.websocket.subscribe("news")
            await asyncio.sleep(100)

        async def test() -> list[str | bytes]:
            with Daemon({"/view/": view}, loop="asyncio") as daemon:
                browser = daemon.connect("/view/")
                daemon.publish("news", "hello")
                return browser.messages

        self.assertEqual(asyncio.run(test()), ["hello"])

    def test_wait_until(self) -> None:
        """Real time passes until a condition holds, for what waits for threads of its own."""

        async def view(request: Request) -> str:
            future = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            Thread(target=loop.call_soon_threadsafe, args=(future.set_result, "result")).start()
            return str(await future)

        with Daemon({"/view/": view}, loop="asyncio") as daemon:
            connection = daemon.open_connection()
            connection.send(b"GET /view/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            daemon.wait_until(connection.answer)
            answer = connection.answer()
            assert answer is not None
            self.assertEqual(answer.text, "result")
            self.patch(module, "_POLLS", 2)
            with self.assertRaisesRegex(AssertionError, "does not hold after 0.01 s"):
                daemon.wait_until(lambda: False)

    def test_stop(self) -> None:
        """After its stop, it can be stopped and asked again."""
        daemon = Daemon({}, loop="asyncio")
        daemon.stop()
        daemon.stop()
        daemon.advance(1)
        self.assertEqual(daemon.pending_calls, [])


class DaemonTests(SynchronousTestCase):
    def test_demo(self) -> None:
        """Without views, the daemon runs the demo."""
        daemon = Daemon()
        browser = daemon.connect("/test/")
        browser.send('["1","2","3"]')
        self.assertEqual(browser.messages, ["service message: 0"])
        daemon.advance(*[0.5] * 9)
        self.assertEqual(browser.messages, [f"service message: {n}" for n in range(10)])
        self.assertIsNone(browser.closing)
        daemon.advance(0.5)
        self.assertEqual((browser.closing, browser.gone), (NORMAL, True))
        self.assertEqual(daemon.pending_calls, [])

    def test_map(self) -> None:
        """The views may be any mapping."""
        for views in ({"/echo/": echo}, Routes({"/echo/": echo})):
            daemon = Daemon(views)
            self.assertEqual(list(daemon.settings.routes), ["/echo/"])
            answer = daemon.get("/echo/")
            assert answer is not None
            self.assertEqual(answer.status, 200)

    def test_settings(self) -> None:
        """Every setting can be given by its name; an unknown one raises TypeError."""
        self.assertEqual(Daemon(threads=3).settings.threads, 3)
        with self.assertRaises(TypeError):
            Daemon(colour="red")

    def test_limits(self) -> None:
        """Every limit can be given by its name, beside others; a stop takes no time by default."""
        self.assertEqual(Daemon().settings.limits, Limits(drain=0))
        self.assertEqual(
            Daemon(max_message=7, drain=3, limits=Limits(max_rate=5)).settings.limits,
            Limits(max_message=7, drain=3, max_rate=5),
        )

    def test_folder(self) -> None:
        """A folder may be given as text; one that does not exist is an error."""
        folder = make_folder(self)
        (folder / "index.html").write_text("ours")
        for web in (str(folder), folder):
            answer = Daemon(web=web).get("/")
            assert answer is not None
            self.assertEqual(answer.text, "ours")
        self.assertRaises(ValueError, Daemon, web=f"{folder}/nothing")

    def test_host(self) -> None:
        """Requests have another Host if the test says so, and pages its origin."""
        seen: list[Request] = []

        @accept_websocket
        async def see(request: Request) -> None:
            seen.append(request)

        daemon = Daemon({"/": see}, host="testserver")
        daemon.get("/")
        self.assertTrue(daemon.connect("/").opened)
        self.assertFalse(daemon.connect("/", origin="http://localhost:8080").opened)
        self.assertEqual([asked.host for asked in seen], ["testserver", "testserver:80"])
        self.assertEqual(seen[1].headers["origin"], "http://testserver")
        self.assertNotIn("origin", seen[0].headers)
        answer = daemon.request("GET", "/healthz", control=True)
        assert answer is not None
        self.assertEqual((daemon.host, answer.status), ("testserver", 200))

    def test_publish(self) -> None:
        """The test publishes as a view does, and browsers have it when the call returns."""
        with Daemon({}) as daemon:
            browser = daemon.connect("/topics/news", subprotocols=["pushd.v1"])
            first = daemon.publish("news", "one")
            second = publish("news", "two")
            daemon.publish("news", "three", delay=1)
            said = [json.loads(message) for message in browser.messages]
            self.assertEqual([one["data"] for one in said if "data" in one], ["one", "two"])
            self.assertEqual([one["id"] for one in said[1:]], [str(first), str(second)])
            daemon.advance(1)
            self.assertIn("three", browser.messages[-1])
            daemon.publish("news", "never", delay=1).cancel()
            self.assertRaises(ValueError, daemon.publish, "no topic", "x")

    def test_publish_inside(self) -> None:
        """An async view can't use what blocks in the test either, as it would block the reactor."""
        raised: list[Exception] = []

        async def view(request: Request) -> None:
            try:
                publish("news", "x")
            except RuntimeError as error:
                raised.append(error)

        with Daemon({"/": view}) as daemon:
            daemon.get("/")
        self.assertIn("outside its view's thread", str(raised[0]))

    def test_publish_in_thread(self) -> None:
        """A thread of the test's own may publish, but not while the daemon runs."""
        with Daemon({}) as daemon, ThreadPoolExecutor(1) as threads:
            browser = daemon.connect("/topics/news")
            id = threads.submit(publish, "news", "one").result()
            self.assertEqual((browser.messages, str(id)), (["one"], daemon.last_id("news")))
            daemon.clock.callLater(1, lambda: raised.append(call().exception()))
            raised: list[BaseException | None] = []

            def call() -> Future[Any]:
                future = threads.submit(publish, "news", "two")
                wait([future])
                return future

            daemon.advance(1)
            self.assertIn("while the daemon ran", str(raised[0]))
            self.assertEqual(browser.messages, ["one"])

    def test_wait_in_test(self) -> None:
        """The test may use a view's WebSocket, but not wait: that is an error."""
        kept: list[Any] = []

        @require_websocket
        def keep(request: Request) -> None:
            kept.append(request.websocket)
            request.websocket.wait()

        with Daemon({"/": keep}) as daemon:
            browser = daemon.connect("/")
            kept[0].send("from the test")
            self.assertEqual(browser.messages, ["from the test"])
            self.assertRaisesRegex(
                RuntimeError, "only a view's thread can wait", daemon._call_for_test, Deferred
            )

    def test_nothing_pending(self) -> None:
        """An idle daemon has no delayed calls."""
        self.assertEqual(Daemon().pending_calls, [])

    def test_advance(self) -> None:
        """advance() lets time pass step by step, each with all of its effects."""
        ticks: list[float] = []

        @accept_websocket
        async def tick(request: Request) -> None:
            request.websocket.accept()
            while True:
                await deferLater(request.clock, 1)
                ticks.append(request.clock.seconds())

        daemon = Daemon({"/": tick})
        daemon.connect("/")
        self.assertEqual((len(daemon.pending_calls), daemon.clock.seconds()), (2, 0))
        daemon.advance(0.5)
        self.assertEqual(ticks, [])
        daemon.advance(0.5, 1, 1)
        self.assertEqual(ticks, [1, 2, 3])

    def test_settle(self) -> None:
        """settle() runs due calls, and those that they schedule for now, but no later ones."""
        happened: list[str] = []
        daemon = Daemon()

        def first() -> None:
            happened.append("first")
            daemon.clock.callLater(0, happened.append, "second")
            daemon.clock.callLater(0.1, happened.append, "third")

        daemon.clock.callLater(0, first)
        daemon.settle()
        self.assertEqual(happened, ["first", "second"])
        self.assertEqual(len(daemon.pending_calls), 1)

    def test_threads(self) -> None:
        """Blocking views take turns with the test."""

        @accept_websocket
        def blocking(request: Request) -> None:
            for message in request.websocket:
                request.websocket.send(message)

        daemon = Daemon({"/": blocking})
        browser = daemon.connect("/")
        browser.send("1")
        browser.send("2")
        self.assertEqual(browser.messages, ["1", "2"])
        browser.close()
        self.assertTrue(browser.gone)

    def test_begin_stop(self) -> None:
        """begin_stop() returns a Deferred that fires when the daemon has stopped."""
        daemon = Daemon({"/echo/": echo})
        browser = daemon.connect("/echo/")
        deaf = daemon.open_connection()
        deaf.send(handshake("/echo/"))
        ended = daemon.begin_stop()
        self.assertEqual(browser.closing, GOING_AWAY)
        self.assertTrue(browser.gone)
        self.assertNoResult(ended)
        self.assertIs(daemon.begin_stop(), ended)
        daemon.advance(5)
        self.successResultOf(ended)
        self.assertTrue(deaf.closed)

    def test_stop(self) -> None:
        """stop() lets the time pass that a stop takes, and leaves nothing."""
        daemon = Daemon({"/echo/": echo})
        deaf = daemon.open_connection()
        deaf.send(handshake("/echo/"))
        daemon.stop()
        self.assertTrue(deaf.closed)
        self.assertEqual(daemon.pending_calls, [])
        self.successResultOf(daemon.begin_stop())

    def test_context(self) -> None:
        """A daemon stops at the end of its with statement."""
        with Daemon({"/echo/": echo}) as daemon:
            browser = daemon.connect("/echo/")
            self.assertFalse(browser.gone)
        self.assertEqual(browser.closing, GOING_AWAY)
        with Daemon({"/echo/": echo}) as daemon:
            browser = daemon.connect("/echo/")
            daemon.stop()
        self.assertTrue(browser.gone)

    def test_context_that_fails(self) -> None:
        """A daemon stops if its with statement raises, and the exception propagates."""
        browsers = []

        def fail() -> None:
            with Daemon({"/echo/": echo}) as daemon:
                browsers.append(daemon.connect("/echo/"))
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        self.assertTrue(browsers[0].gone)
