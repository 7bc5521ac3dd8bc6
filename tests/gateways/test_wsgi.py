"""A WSGI application behind the public port."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.gateways import wsgi
from pushd.options.settings import Settings
from pushd.protocols.fast_paths import FAST_PATHS
from pushd.protocols.twisted_internals import DONE, unsent
from pushd.testing import Answer, Daemon
from pushd.testing.alternating_threads import AlternatingPool
from pushd.testing.connection import RawConnection
from pushd.views.request import Request
from tests.support.peer import Peer, request, said
from tests.support.recording_socket import SocketConnection

Environ = dict[str, Any]

# The metric that counts the threads at work for an application's pages.
BUSY = 'pushd_threads_busy{kind="page"}'


def show(environ: Environ, start: Any) -> list[bytes]:
    """Answer with parts of the environ."""
    start("200 OK", [("Content-Type", "text/html"), ("X-Two", "a"), ("X-Two", "b")])
    names = ("REQUEST_METHOD", "PATH_INFO", "REMOTE_ADDR", "wsgi.url_scheme", "CONTENT_LENGTH")
    values = [environ[name] for name in names]
    return [" ".join(values).encode("latin-1"), b" ", environ["wsgi.input"].read()]


def fail() -> list[bytes]:
    """Raise LookupError."""
    raise LookupError


class WsgiTestCase(SynchronousTestCase):
    def serve(self, application: Any, **settings: Any) -> Daemon:
        """Serve an application; no delayed call may be left when the test is over."""
        self.daemon = Daemon(settings.pop("views", {}), wsgi=application, **settings)
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def ask(self, path: str, method: str = "GET", **more: Any) -> Answer:
        """Send a request to the daemon."""
        answer = self.daemon.request(method, path, **more)
        assert answer is not None, "there is no answer"
        return answer


def in_pieces(made: list[int]) -> Callable[[Environ, Any], Iterator[bytes]]:
    """Return an application whose page has twenty large pieces, and which records each of them."""

    def application(environ: Environ, start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        for number in range(20):
            made.append(number)
            yield bytes(50_000)

    return application


class LengthTests(WsgiTestCase):
    """Bodies and their Content-Length."""

    def request_twice(self, length: str, pieces: Iterable[bytes], *, method: str = "GET") -> Peer:
        """Send two requests to such an application over one connection."""

        def application(environ: Environ, start: Any) -> Iterable[bytes]:
            if environ["PATH_INFO"] == "/next":
                write = start("200 OK", [("Content-Length", "2")])
                for piece in (b"", b"ok"):
                    write(piece)
                return []
            start("200 OK", [("Content-Length", length)])
            return pieces

        peer = Peer(self.serve(application))
        peer.send(request(f"{method} / HTTP/1.1", "Host: a"))
        peer.send(request("GET /next HTTP/1.1", "Host: a"))
        if peer.lost is None:
            self.addCleanup(peer.vanish)
        return peer

    def test_right_length(self) -> None:
        """After a body of the right length the next response follows."""
        peer = self.request_twice("5", [b"abc", b"de"])
        self.assertIn(b"\r\n\r\nabcdeHTTP/1.1 200", peer.received)
        self.assertTrue(peer.received.endswith(b"\r\n\r\nok"))

    def test_too_short(self) -> None:
        """A body that is too short ends with a broken connection, so as not to look complete."""
        peer = self.request_twice("9", [b"abc", b"de"])
        self.assertTrue(peer.received.endswith(b"abcde"))
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_too_short_and_empty(self) -> None:
        """A body that is too short and empty is a 500."""
        peer = self.request_twice("9", [])
        self.assertTrue(peer.received.startswith(b"HTTP/1.1 500 "))
        self.assertTrue(peer.received.endswith(b"\r\n\r\nok"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_too_long(self) -> None:
        """Excess bytes are not sent, and the connection is closed."""
        peer = self.request_twice("4", [b"abc", b"de", b"f"])
        self.assertTrue(peer.received.endswith(b"\r\n\r\nabcd"))
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_much_too_long(self) -> None:
        """An application is not iterated beyond the first excess piece."""
        made = []

        def pieces() -> Iterator[bytes]:
            for number in range(1000):
                made.append(number)
                yield b"abc"

        peer = self.request_twice("4", pieces())
        self.assertTrue(peer.received.endswith(b"\r\n\r\nabca"))
        self.assertEqual(len(made), 2)
        self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_body_without_length(self) -> None:
        """A body where none was announced is a 500."""
        peer = self.request_twice("0", [b"abc"])
        self.assertTrue(peer.received.startswith(b"HTTP/1.1 500 "))
        self.assertTrue(peer.received.endswith(b"\r\n\r\nok"))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_twice(self) -> None:
        """A repeated Content-Length is sent once; two different ones are a 500."""
        for second, status in (("3 ", b"200"), ("4", b"500")):

            def application(environ: Environ, start: Any, second: str = second) -> list[bytes]:
                start("200 OK", [("Content-Length", "3"), ("content-length", second)])
                return [b"abc"]

            peer = self.connect(application)
            self.assertTrue(peer.received.startswith(b"HTTP/1.1 " + status))
            # The error page has its own.
            self.assertEqual(peer.received.lower().count(b"content-length"), 1)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_another_head(self) -> None:
        """After a part of the body start_response changes nothing."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            start("200 OK", [("Content-Length", "4")])(b"abc")
            with contextlib.suppress(LookupError, RuntimeError):
                try:
                    raise LookupError
                except LookupError:
                    start("500 No", [], *([sys.exc_info()] if environ["QUERY_STRING"] else []))
            return [b"de"]

        for query in ("", "?x"):
            peer = self.connect(application, f"GET /{query} HTTP/1.1")
            self.assertTrue(peer.received.endswith(b"\r\n\r\nabcd"))
            self.assertIsNotNone(peer.lost)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 2)

    def test_other_method(self) -> None:
        """Whether there is a body depends on the client's method, not on the one in the environ."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            environ["REQUEST_METHOD"] = "HEAD" if environ["REQUEST_METHOD"] == "GET" else "GET"
            start("200 OK", [("Content-Length", "5")])
            return []

        self.assertIn(
            b"Content-Length: 5\r\n", self.connect(application, "HEAD / HTTP/1.1").received
        )
        self.assertIn(b" 500 ", self.connect(application).received)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def connect(self, application: Any, line: str = "GET / HTTP/1.1") -> Peer:
        """Send a request to an application."""
        peer = Peer(self.serve(application))
        peer.send(request(line, "Host: a"))
        if peer.lost is None:
            self.addCleanup(peer.vanish)
        return peer

    def test_head(self) -> None:
        """A HEAD response has the Content-Length of the GET response."""
        peer = self.request_twice("4", [], method="HEAD")
        self.assertIn(b"Content-Length: 4\r\n", peer.received)
        self.assertTrue(peer.received.endswith(b"\r\n\r\nok"))

    def test_not_a_number(self) -> None:
        """A Content-Length that is not a number is a 500."""
        peer = self.request_twice("many", [b"abc"])
        self.assertTrue(peer.received.startswith(b"HTTP/1.1 500 "))
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)


class WholeBodyTests(WsgiTestCase):
    """Bodies that come in one piece, and whose length is known."""

    def setUp(self) -> None:
        """Let answers leave at once."""
        self.patch(FAST_PATHS, "enabled", True)
        self.started: list[str] = []

    def application(self, environ: Environ, start: Any) -> Iterator[bytes]:
        """Answer with a status, and with headers of several kinds."""
        self.started.append(environ["PATH_INFO"])
        length, page = ("Content-Length", "4"), ("content-type", "text/html")
        start("404 Not here", [page, length, ("X-Two", "\xe4"), ("X-Two", "b"), ("Server", "x")])
        yield b"page"
        if environ["PATH_INFO"] == "/more":
            yield b"more"

    def open(self) -> SocketConnection:
        """Connect."""
        server = SocketConnection(self.daemon)
        self.addCleanup(self.lose, server)
        return server

    def lose(self, server: SocketConnection) -> None:
        """Lose a connection that is still open."""
        if server.connected:
            server.connectionLost(DONE)

    def test_one_write(self) -> None:
        """Head and body leave in one write, and the connection goes on."""
        self.serve(self.application)
        server = self.open()
        for _ in range(2):
            server.receive(request("GET / HTTP/1.1", "Host: a"))
            self.assertEqual(server.fake_socket.given.pop()[-8:], b"\r\n\r\npage")
            self.assertEqual(server.fake_socket.given, [])
        server.receive(request("GET / HTTP/1.1", "Host: a", "Connection: close"))
        self.assertIn(b"Connection: close\r\n", server.fake_socket.given.pop())
        self.assertEqual(server.sent, b"")
        self.assertFalse(server.connected)

    def test_same(self) -> None:
        """The answer and its log line are the same as those of a body that is waited for."""
        found = []
        for most in (64, 0):
            self.patch(wsgi, "_MAX_OUTBOX", most)
            self.serve(self.application)
            with capturedLogs() as events:
                for lines in ([], ["Connection: close"]):
                    server = self.open()
                    server.receive(request("GET / HTTP/1.1", "Host: a", *lines))
                    head, _, body = server.sent.partition(b"\r\n\r\n")
                    found.append((sorted(head.split(b"\r\n")), body))
            found.append(([line.partition(" after ")[0].encode() for line in said(events)], b""))
        self.assertEqual(found[:3], found[3:])
        self.assertIn(b"404 4", found[2][0][0])

    def test_more(self) -> None:
        """A body that goes on behind its length breaks the connection off."""
        self.serve(self.application)
        server = self.open()
        server.receive(request("GET /more HTTP/1.1", "Host: a"))
        self.assertTrue(server.sent.endswith(b"\r\n\r\npage"))
        self.assertFalse(server.connected)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_left(self) -> None:
        """Nothing is sent to a client that has left meanwhile."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            server.connectionLost(DONE)
            start("200 OK", [("Content-Length", "4")])
            return [b"page"]

        self.serve(application)
        server = self.open()
        server.receive(request("GET / HTTP/1.1", "Host: a"))
        self.assertEqual(server.fake_socket.given, [])

    def test_stalled(self) -> None:
        """What the client does not take waits, as after any answer."""
        self.serve(self.application)
        server = self.open()
        server.fake_socket.room = 10
        server.receive(request("GET / HTTP/1.1", "Host: a"))
        self.assertGreater(unsent(server), 50)
        server.fake_socket.room = 1 << 30
        self.assertTrue(server.sent.endswith(b"page"))


class PathTests(WsgiTestCase):
    """Which URLs are the application's."""

    def test_everything(self) -> None:
        """The application gets every path, method and body that pushd does not serve itself."""
        self.serve(show)
        self.assertEqual(self.ask("/").text, "GET / 127.0.0.1 http  ")
        self.assertEqual(self.ask("/test/").text, "GET /test/ 127.0.0.1 http  ")
        self.assertEqual(self.ask("/caf%C3%A9/a%20b").text, "GET /café/a b 127.0.0.1 http  ")
        answer = self.ask("/x?y", "POST", body=b"form")
        self.assertEqual(answer.text, "POST /x 127.0.0.1 http 4 form")
        self.assertEqual(answer.headers.get_all("X-Two"), ["a", "b"])

    def test_views_and_topics(self) -> None:
        """Views and topics take precedence."""

        async def view(request: Request) -> str:
            return "view"

        self.serve(show, views={"/view/": view})
        self.assertEqual(self.ask("/view/").text, "view")
        self.assertIn("publications", self.ask("/topics/a?wait=0").text)
        self.assertEqual(self.ask("/topics").text, "GET /topics 127.0.0.1 http  ")

    def test_files(self) -> None:
        """Files of --web and the shipped client's scripts and styles take precedence."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        (Path(folder.name) / "robots.txt").write_text("none")
        self.serve(show, web=Path(folder.name))
        self.assertEqual(self.ask("/robots.txt").text, "none")
        self.assertIn("export", self.ask("/pushd/pushd.js").text)
        for path in ("/pushd.js", "/pushd/", "/pushd/test.html", "/pushd/nothing.js"):
            self.assertTrue(self.ask(path).text.startswith(f"GET {path} "), path)

    def test_no_path(self) -> None:
        """A path that is not UTF-8 is 404."""
        self.serve(show)
        self.assertEqual(self.ask("/%ff").status, 404)

    def test_proxy(self) -> None:
        """The client is known from a trusted proxy's headers."""
        self.serve(show, proxies=Proxies(["127.0.0.1"]))
        headers = {"X-Forwarded-For": "192.0.2.7", "X-Forwarded-Proto": "https"}
        self.assertEqual(self.ask("/", headers=headers).text, "GET / 192.0.2.7 https  ")

    def test_body(self) -> None:
        """The size of bodies is limited; one in chunks has its length in the environ."""
        self.serve(show, limits=Limits(max_body=10))
        refused = self.ask("/", "POST", body=bytes(11))
        line = "body must be at most 10 bytes (--max-body); got 11\n"
        self.assertEqual((refused.status, refused.text), (413, line))
        connection = self.daemon.open_connection()
        connection.send(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.send(b"3\r\nabc\r\n0\r\n\r\n")
        answer = connection.answer()
        assert answer is not None
        self.assertEqual(answer.text, "POST / 127.0.0.1 http 3 abc")


class QueueTests(WsgiTestCase):
    """Requests that wait for a thread."""

    def setUp(self) -> None:
        """Serve an application whose threads are all in use."""
        self.calls: list[str] = []
        self.queue: list[Any] = []
        run = AlternatingPool.callInThread
        self.free_threads: list[Callable[[], None]] = []

        def wait(pool: AlternatingPool, function: Any) -> None:
            self.queue.append(function)
            self.free_threads.append(partial(run, pool, function))
            pool.waiting = len(self.queue)

        self.patch(AlternatingPool, "callInThread", wait)
        self.serve(self.record, limits=Limits(max_connections=3))

    def record(self, environ: Environ, start: Any) -> list[bytes]:
        """Record the path that is asked for."""
        self.calls.append(environ["PATH_INFO"])
        start("200 OK", [])
        return [environ["wsgi.input"].read()]

    def post(self, path: str) -> RawConnection:
        """Send a request with a body."""
        connection = self.daemon.open_connection()
        connection.send(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n".encode())
        connection.send(b"something")
        return connection

    def test_left(self) -> None:
        """A request whose client has left before a thread was free is dropped, with its body."""
        leaving, staying = self.post("/left"), self.post("/here")
        [environ] = self.environs(self.queue[0])
        self.assertEqual(environ["wsgi.input"].getvalue(), b"something")
        leaving.leave()
        self.assertEqual(self.environs(self.queue[0]), [])
        for free_thread in self.free_threads:
            free_thread()
        self.daemon.settle()
        self.assertEqual(self.calls, ["/here"])
        self.assertIn(b"something", staying.received)

    def environs(self, function: Any) -> list[Environ]:
        """Return the environ that a queued function keeps."""
        return [call.args[1] for call in function.__self__._waiting]

    def test_full(self) -> None:
        """No more wait than there may be connections, those included whose clients have left."""
        for _ in range(3):
            self.post("/").leave()
        answer = self.ask("/")
        self.assertEqual((answer.status, answer.headers["Retry-After"]), (503, "1"))


class BackPressureTests(WsgiTestCase):
    """Responses to clients that read slowly, over Twisted's own transport."""

    LIMIT = 400_000

    def stall(self, application: Any, path: str = "/") -> SocketConnection:
        """Request a page over a connection that takes no bytes."""
        self.serve(application, limits=Limits(max_buffered=self.LIMIT))
        server = SocketConnection(self.daemon)
        self.addCleanup(self.lose, server)
        server.fake_socket.room = 0
        server.receive(request(f"GET {path} HTTP/1.0"))
        return server

    def lose(self, server: SocketConnection) -> None:
        """Lose the connection, unless it is closed."""
        if server.connected:
            server.connectionLost(DONE)

    def read(self, server: SocketConnection) -> int:
        """Let the connection take everything; return the number of bytes."""
        server.fake_socket.room = 1 << 30
        while unsent(server):
            server.doWrite()
        return sum(map(len, server.fake_socket.given))

    def test_small_pieces(self) -> None:
        """However small the pieces are, no more than the limit waits, and the thread is held."""
        made: list[int] = []

        for size, path in ((50, "/"), (1000, "/"), (50, "/written")):

            def application(environ: Environ, start: Any, size: int = size) -> Iterator[bytes]:
                write = start("200 OK", [])
                for number in range(10_000):
                    made.append(number)
                    if environ["PATH_INFO"] == "/written":
                        write(bytes(size))
                    else:
                        yield bytes(size)

            server = self.stall(application, path)
            waiting = unsent(server)
            # Each piece is an object, which takes more memory than its bytes.
            self.assertGreater(waiting + 150 * len(made), self.LIMIT)
            self.assertLess(waiting + 100 * len(made), self.LIMIT + size)
            self.assertGreater(self.read(server), 10_000 * size)
            self.assertEqual(len(made), 10_000)
            made.clear()

    def test_large_piece(self) -> None:
        """Only a part of a large piece waits in the connection's buffer."""
        server = self.stall(lambda environ, start: start("200 OK", []) and [bytes(3_000_000)])
        self.assertGreater(unsent(server), self.LIMIT)
        self.assertLess(unsent(server), self.LIMIT + 300_000)
        self.assertGreater(self.read(server), 3_000_000)

    def test_held_again(self) -> None:
        """The thread is held each time that the limit is reached."""

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            for _ in range(2000):
                yield bytes(1000)

        server = self.stall(application)
        for _ in range(3):
            self.assertGreater(unsent(server), self.LIMIT * 0.8)
            self.assertLess(unsent(server), self.LIMIT)
            server.fake_socket.room = unsent(server)
            while server.fake_socket.room:
                server.doWrite()
        self.assertGreater(self.read(server), 2_000_000)

    def test_cut(self) -> None:
        """Cutting the client off releases the thread, and the application's body is closed."""
        closed: list[bool] = []

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            try:
                while True:
                    yield bytes(100)
            finally:
                closed.append(True)

        server = self.stall(application)
        self.assertEqual(closed, [])
        server.abortConnection()
        self.daemon.settle()
        self.assertEqual(closed, [True])
        self.assertEqual(self.busy_threads(), 0)

    def test_stalled_too_long(self) -> None:
        """A client that reads nothing for a minute is cut off, which releases the thread."""
        self.stall(in_pieces([]))
        self.assertEqual(self.busy_threads(), 1)
        self.daemon.advance(60)
        self.assertEqual(self.busy_threads(), 0)

    def busy_threads(self) -> int:
        """Return the number of threads at work for pages."""
        answer = self.daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        [line] = [line for line in answer.text.splitlines() if BUSY in line]
        return int(float(line.split()[-1]))

    def test_tls(self) -> None:
        """The limit holds over TLS, too."""
        made: list[int] = []
        self.serve(in_pieces(made), limits=Limits(max_buffered=self.LIMIT))
        peer = Peer(self.daemon, tls=True)
        peer.stall()
        peer.send(request("GET / HTTP/1.0"))
        self.assertLessEqual(len(made), 9)
        peer.resume()
        self.assertEqual(len(made), 20)
        self.assertTrue(peer.received.endswith(bytes(1_000_000)))


class ResponseTests(WsgiTestCase):
    """An application's responses."""

    def test_headers(self) -> None:
        """Its responses get no headers of pushd's own pages."""
        self.serve(show)
        headers = self.ask("/").headers
        for name in ("Content-Security-Policy", "X-Frame-Options", "Server"):
            self.assertNotIn(name, headers)
        async_page = self.ask("/%ff").headers
        self.assertIn("Content-Security-Policy", async_page)

    def test_head(self) -> None:
        """HEAD has the headers of GET."""
        self.serve(show)
        answer = self.ask("/", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["Content-Type"], "text/html")

    def test_empty(self) -> None:
        """A response may have no body."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            start("204 No Content", [])
            return []

        self.serve(application)
        self.assertEqual((self.ask("/").status, self.ask("/").body), (204, b""))

    def test_write(self) -> None:
        """A body may be written as well as returned; empty pieces do no harm."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            write = start("200", [])
            write(b"a")
            return [b"", b"b"]

        self.serve(application)
        self.assertEqual(self.ask("/").body, b"ab")

    def test_slow_reader(self) -> None:
        """An application waits while its client reads slowly."""
        made: list[int] = []
        application = in_pieces(made)

        connection = self.serve(application, limits=Limits(max_buffered=150_000)).open_connection()
        connection.stall()
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(len(made), 3)
        connection.resume()
        self.assertEqual(len(made), 20)
        self.assertTrue(connection.received.endswith(bytes(1_000_000)))

    def test_reload(self) -> None:
        """A reload changes how much may wait for a slow reader."""
        made: list[int] = []
        application = in_pieces(made)

        daemon = self.serve(application)
        for apply in daemon._service.appliers:
            apply(Settings(limits=Limits(max_buffered=150_000)))
        connection = daemon.open_connection()
        connection.stall()
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        self.assertEqual(len(made), 3)
        connection.resume()

    def test_slow_reader_leaves(self) -> None:
        """A slow reader that leaves ends the application, and its body is closed."""
        events: list[str] = []

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            try:
                while True:
                    events.append("made")
                    yield bytes(50_000)
            finally:
                events.append("closed")

        connection = self.serve(application).open_connection()
        connection.stall()
        connection.send(b"GET / HTTP/1.0\r\n\r\n")
        self.assertNotIn("closed", events)
        connection.leave()
        self.assertEqual(events[-1], "closed")

    def test_fails(self) -> None:
        """An application that fails before its first byte is a 500, and the log has the path."""

        def early(environ: Environ, start: Any) -> list[bytes]:
            raise LookupError

        def late(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [("X-Secret", "a")])
            yield from fail()

        def silent(environ: Environ, start: Any) -> list[bytes]:
            return []

        def mute(environ: Environ, start: Any) -> list[bytes]:
            return [b"a"]

        def wrong(environ: Environ, start: Any) -> Any:
            start("200 OK", [])
            return ["text"]

        for application in (early, late, silent, mute, wrong):
            self.serve(application)
            with capturedLogs() as events:
                answer = self.ask("/path/")
            self.assertEqual(answer.status, 500, application)
            self.assertIn("It has been logged", answer.text)
            self.assertNotIn("X-Secret", answer.headers)
            self.assertIn("the application failed at /path/ for 127.0.0.1:", said(events)[0])
            self.assertEqual(events[0]["event"], "view_failed")
            metrics = self.daemon.request("GET", "/metrics", control=True)
            assert metrics is not None
            self.assertIn("\npushd_view_errors_total 1.0\n", metrics.text)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 2)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 2)
        self.assertEqual(len(self.flushLoggedErrors(TypeError)), 1)

    def test_answers_500(self) -> None:
        """An application that answers 500 itself, as Django does, is counted and logged once."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            start(environ["PATH_INFO"][1:], [])
            return [b"sorry"]

        self.serve(application)
        with capturedLogs() as events:
            for status in (500, 503, 404):
                self.assertEqual(self.ask(f"/{status}").status, status)
        [failed] = [event for event in events if event.get("event") == "application_failed"]
        self.assertEqual(failed["path"], "/500")
        metrics = self.daemon.request("GET", "/metrics", control=True)
        assert metrics is not None
        self.assertIn("\npushd_view_errors_total 1.0\n", metrics.text)

    def test_exits(self) -> None:
        """An application that calls sys.exit() is a 500, and no thread is lost."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            sys.exit("goodbye")

        self.serve(application)
        for _ in range(2):
            self.assertEqual(self.ask("/").status, 500)
        self.assertEqual(len(self.flushLoggedErrors(SystemExit)), 2)

    def test_write_text(self) -> None:
        """Writing text in place of bytes raises TypeError."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            write = start("200 OK", [])
            with contextlib.suppress(TypeError):
                write("text")
            return [b"bytes"]

        self.serve(application)
        self.assertEqual(self.ask("/").body, b"bytes")

    def test_fails_after_first_byte(self) -> None:
        """An application that fails after its first byte breaks off the connection."""

        def application(environ: Environ, start: Any) -> Iterator[bytes]:
            start("200 OK", [])
            yield b"a"
            raise LookupError

        connection = self.serve(application).open_connection()
        connection.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(connection.received.endswith(b"1\r\na\r\n"))
        self.assertTrue(connection.closed)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_replaced(self) -> None:
        """Before the first byte an application may replace its response (PEP 3333)."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            start("200 OK", [])
            try:
                raise LookupError
            except LookupError:
                start("503 Busy", [], sys.exc_info())
            return [b"later"]

        self.serve(application)
        answer = self.ask("/")
        self.assertEqual((answer.status, answer.text), (503, "later"))

    def test_left(self) -> None:
        """Nothing is sent to a client that has left, whatever the application does."""
        for then in (lambda: [b"end"], list, fail):

            def application(environ: Environ, start: Any, then: Any = then) -> list[bytes]:
                write = start("200 OK", [])
                for _ in range(100):
                    write(bytes(50_000))
                end: list[bytes] = then()
                return end

            connection = self.serve(application).open_connection()
            connection.stall()
            connection.send(b"GET / HTTP/1.0\r\n\r\n")
            connection.leave()
            self.assertLess(len(connection.received), 2_000_000)
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_publishes(self) -> None:
        """The environ has a publisher."""

        def application(environ: Environ, start: Any) -> list[bytes]:
            start("200 OK", [])
            return [str(environ["pushd.publisher"].publish("a", "news")).encode()]

        self.serve(application)
        id = self.ask("/").text
        self.assertIn(id, self.ask("/topics/a?wait=0").text)
