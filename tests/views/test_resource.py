"""A view at a URL: which requests it serves, and the request that it gets."""

from __future__ import annotations

import gc

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.fast_paths import FAST_PATHS
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.request import Request
from pushd.views.routes import Routes
from tests.support.peer import Peer, close_frame, handshake, request
from tests.views.sample_views import WaitingView, echo


class KindOfViewTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon with one view of each kind."""
        self.called: list[Request] = []

        async def plain(request: Request) -> str:
            self.called.append(request)
            return "plain"

        @require_websocket
        async def strict(request: Request) -> None:
            self.called.append(request)
            request.websocket.send("strict")

        self.daemon = Daemon({"/echo/": echo, "/plain/": plain, "/strict/": strict})

    def test_one_url(self) -> None:
        """The same URL serves a page over HTTP, and a conversation over WebSocket."""
        got = self.daemon.get("/echo/")
        assert got is not None
        self.assertEqual((got.status, got.text), (200, "a page"))
        browser = self.daemon.connect("/echo/")
        browser.send("hello")
        browser.send(b"\x00\xff")
        self.assertEqual(browser.messages, ["hello", b"\x00\xff"])

    def test_plain(self) -> None:
        """A view without decorator refuses a handshake with one line, and is not called."""
        refused = self.daemon.connect("/plain/").refused
        assert refused is not None
        self.assertEqual((refused.status, refused.text.count("\n")), (400, 1))
        self.assertEqual(refused.text, "this URL does not serve WebSockets\n")
        self.assertEqual(refused.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(self.called, [])
        got = self.daemon.get("/plain/")
        assert got is not None
        self.assertEqual(got.text, "plain")

    def test_strict(self) -> None:
        """A view that requires a WebSocket refuses plain HTTP with 426, and is not called."""
        for method in ("GET", "POST"):
            got = self.daemon.request(method, "/strict/")
            assert got is not None
            self.assertEqual((got.status, got.text.count("\n")), (426, 1))
            self.assertEqual(got.headers["Upgrade"], "websocket")
            self.assertEqual(got.headers["Connection"], "Upgrade")
            self.assertEqual(got.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(self.called, [])
        self.assertEqual(self.daemon.connect("/strict/").messages, ["strict"])

    def test_strict_phrase(self) -> None:
        """A 426 has its reason phrase."""
        peer = Peer(self.daemon)
        peer.send(request("GET /strict/ HTTP/1.1", "Host: localhost:8080"))
        self.assertTrue(peer.head.startswith("HTTP/1.1 426 Upgrade Required\r\n"))

    def test_accept_all(self) -> None:
        """With accept_all every view serves WebSockets, as with the decorator."""

        async def plain(request: Request) -> str | None:
            if request.is_websocket():
                request.websocket.send("here")
                return None
            return "plain"

        daemon = Daemon(Routes({"/plain/": plain}, accept_all=True))
        self.assertEqual(daemon.connect("/plain/").messages, ["here"])
        got = daemon.get("/plain/")
        assert got is not None
        self.assertEqual(got.text, "plain")

    def test_invalid_handshake(self) -> None:
        """An invalid handshake is refused for its mistake, whatever the view serves."""
        for path in ("/plain/", "/strict/", "/echo/"):
            peer = Peer(self.daemon)
            peer.send(handshake(path, without=("Sec-WebSocket-Key",)))
            self.assertIn("Sec-WebSocket-Key", peer.body.decode())
        self.assertEqual(self.called, [])

    def test_no_view(self) -> None:
        """A handshake for a URL without view gets 404, even if there is a file."""
        for path in ("/nothing/", "/index.html", "/"):
            refused = self.daemon.connect(path).refused
            assert refused is not None
            self.assertEqual(refused.status, 404)


class RequestTests(SynchronousTestCase):
    def test_http(self) -> None:
        """A request over HTTP has all of its fields."""
        view = WaitingView()
        daemon = Daemon({"/chat/<room>/": view})
        daemon.request("POST", "/chat/caf%C3%A9/?a=1&b=%20&a=2", {"Cookie": "k=v"}, b"body")
        (asked,) = view.requests
        self.assertEqual((asked.method, asked.path), ("POST", "/chat/café/"))
        self.assertEqual(asked.parameters, {"room": "café"})
        self.assertEqual(asked.query_string, "a=1&b=%20&a=2")
        self.assertEqual(asked.query.getlist("a"), ["1", "2"])
        self.assertEqual(asked.body, b"body")
        self.assertEqual((asked.scheme, asked.host), ("http", "localhost:8080"))
        self.assertEqual(asked.peer, "127.0.0.1:50001")
        self.assertEqual(asked.cookies["k"], "v")
        self.assertEqual((asked.websocket, asked.subprotocols), (None, ()))
        self.assertEqual(asked.clock.seconds(), daemon.clock.seconds())

    def test_websocket(self) -> None:
        """A request for a WebSocket has all of its fields."""
        view = accept_websocket(WaitingView())
        daemon = Daemon({"/chat/<room>/": view})
        daemon.connect("/chat/a/?b", subprotocols=["x", "y"], headers={"X-Extra": "z"})
        (asked,) = view.requests
        self.assertEqual((asked.method, asked.path), ("GET", "/chat/a/"))
        self.assertEqual((asked.parameters, asked.query_string), ({"room": "a"}, "b"))
        self.assertEqual(asked.subprotocols, ("x", "y"))
        self.assertEqual(asked.headers["x-extra"], "z")
        self.assertEqual((asked.body, asked.is_websocket()), (b"", True))

    def test_kept(self) -> None:
        """While a view runs, its request keeps its headers in one object and finds each one."""
        self.patch(FAST_PATHS, "enabled", True)
        view = accept_websocket(WaitingView())
        for target in ("/", "http://named/"):
            peer = Peer(Daemon({"/": view}))
            lines = handshake("/", "X-Extra: y", "x-extra: z", "Cookie: k=v")
            peer.send(lines.replace(b"GET / ", f"GET {target} ".encode()))
            asked = view.requests[-1]
            asked.websocket.accept()
            peer.settle()
            self.assertIn("101 Switching", peer.head)
            inside = gc.get_referents(asked.raw_headers)
            folded = target == "/" and FAST_PATHS.enabled
            self.assertEqual(any(isinstance(one, dict) for one in inside), not folded)
            self.assertEqual(asked.headers["x-extra"], "y, z")
            self.assertEqual(asked.cookies["k"], "v")
            host = "named" if target != "/" else "localhost:8080"
            self.assertEqual((asked.host, asked.headers["host"]), (host, host))

    def test_no_host(self) -> None:
        """A request in HTTP/1.0 need not have a Host."""
        view = WaitingView()
        peer = Peer(Daemon({"/": view}))
        peer.send(request("GET / HTTP/1.0"))
        self.assertEqual([asked.host for asked in view.requests], [""])


class StoppingTests(SynchronousTestCase):
    """A daemon that is stopping, and waits for a connection that does not close."""

    def setUp(self) -> None:
        """Begin to stop, with a handshake that the view has not answered and an idle connection."""
        self.view = accept_websocket(WaitingView())
        self.go: Deferred[None] = Deferred()

        @accept_websocket
        async def late(request: Request) -> None:
            await self.go
            await request.websocket.wait()

        self.daemon = Daemon({"/echo/": echo, "/view/": self.view, "/late/": late})
        silent, self.late, self.idle = (Peer(self.daemon) for _ in range(3))
        silent.send(handshake("/echo/"))
        self.late.send(handshake("/late/"))
        self.ended = self.daemon.begin_stop()
        self.silent = silent

    def test_new_handshake(self) -> None:
        """A new handshake is refused with 503, and the view is not called."""
        self.idle.send(handshake("/view/"))
        self.assertEqual(self.idle.head.split(" ")[1], "503")
        self.assertIn("\r\nRetry-After: 5\r\n", self.idle.head)
        self.assertEqual(self.idle.body, b"server is shutting down\n")
        self.assertEqual(self.view.requests, [])

    def test_handshake_under_way(self) -> None:
        """A handshake that is accepted now is closed with 1001 at once."""
        self.go.callback(None)
        self.late.settle()
        self.assertIn(" 101 ", self.late.head)
        self.assertEqual(self.late.code, 1001)
        self.late.send(close_frame(1001))
        self.silent.advance(5, 1)
        self.successResultOf(self.ended)

    def test_http(self) -> None:
        """Plain requests on open connections are still answered."""
        self.idle.send(request("GET /echo/ HTTP/1.1", "Host: localhost:8080"))
        self.assertEqual(self.idle.body, b"a page")


class RefusalCountTests(SynchronousTestCase):
    def test_refusals(self) -> None:
        """Every refusal is counted by its reason."""

        @accept_websocket
        def blocking(request: Request) -> None:
            request.websocket.wait()

        @require_websocket
        async def strict(request: Request) -> None: ...

        daemon = Daemon({"/blocking/": blocking, "/strict/": strict}, threads=1)
        for data in (
            handshake("/strict/", without=("Sec-WebSocket-Key",)),
            handshake("/strict/", without=("Sec-WebSocket-Version",)),
            request("GET /strict/ HTTP/1.1", "Host: localhost:8080"),
            handshake("/blocking/"),
            handshake("/blocking/"),
        ):
            Peer(daemon).send(data)
        answer = daemon.request("GET", "/metrics", control=True)
        assert answer is not None
        for reason, count in (
            ("bad_request", 1),
            ("upgrade_required", 2),
            ("busy", 1),
        ):
            line = f'pushd_refused_total{{reason="{reason}"}} {count}.0'
            self.assertIn(line, answer.text)
