"""WebSockets by the URLs of a Django site, under ``--asgi``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.signals import got_request_exception, request_finished, request_started
from django.http import Http404, HttpResponse

from pushd.access.closing import INTERNAL_ERROR
from pushd.django.asgi import WebSocketASGIHandler, get_asgi_application
from pushd.gateways.asgi.scope import Message
from pushd.testing import NORMAL, Closing
from tests.support.django_asgi_case import DjangoAsgiTestCase
from tests.support.django_site import WEBSOCKETS, prepare, recorded, script
from tests.support.peer import Peer, handshake

LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"

COOKIES = "tests.django.test_asgi.CookieMiddleware"


class CookieMiddleware:
    """Synchronous middleware, as most of third parties is: it sets a cookie."""

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self._get_response = get_response

    def __call__(self, request: Any) -> Any:
        """Handle a request, in a thread."""
        response = self._get_response(request)
        response.set_cookie("seen", "yes")
        recorded.append("middleware")
        return response


class HandshakeTests(DjangoAsgiTestCase):
    """Which views serve WebSockets, and what refuses a handshake."""

    def test_both(self) -> None:
        """A view serves pages and WebSockets at one URL."""

        async def view(request: Any) -> Any:
            if not request.is_websocket():
                return HttpResponse(f"page, {request.websocket}")
            return await request.websocket.send(f"{request.method} {request.GET['a']}")

        browser = self.open(view)
        self.assertEqual(self.get("/async-scripted/"), (200, "page, None"))
        browser = self.daemon.connect("/async-scripted/?a=b")
        self.assertEqual((browser.messages, browser.closing), (["GET b"], NORMAL))
        self.flushLoggedErrors(KeyError)

    def test_required(self) -> None:
        """A view that requires a WebSocket refuses plain HTTP with 426."""
        self.serve()
        for path in ("/async-echo/", "/async-socket/"):
            self.assertEqual(self.get(path), (426, "this URL serves WebSockets only\n"))

    def test_class(self) -> None:
        """A class-based view whose methods are async serves both."""
        self.serve()
        self.assertEqual(self.get("/async/"), (200, "page"))
        for path in ("/async/", "/async-socket/"):
            browser = self.daemon.connect(path)
            self.assertEqual((browser.messages, browser.closing), (["async class"], NORMAL))

    def test_plain(self) -> None:
        """A view that is a plain def serves its page, and a handshake is told the remedy."""
        self.serve()
        self.assertEqual(self.get("/numbers/"), (200, "page, None"))
        status, line = self.refused("/numbers/")
        self.assertEqual(status, 501)
        self.assertIn("a plain def: under --asgi", line)

    def test_middleware(self) -> None:
        """WebSocketMiddleware refuses a handshake for a view without decorator."""
        self.serve(WEBSOCKETS)
        for path in ("/async-plain/", "/plain/"):
            self.assertEqual(self.refused(path), (400, "this URL does not serve WebSockets\n"))
            self.assertEqual(self.get(path), (200, "plain"))
        self.assertTrue(self.daemon.connect("/async-echo/").opened)

    def test_accept_all(self) -> None:
        """With WEBSOCKET_ACCEPT_ALL every async view serves WebSockets."""
        self.serve(WEBSOCKETS, WEBSOCKET_ACCEPT_ALL=True)
        browser = self.daemon.connect("/async-plain/")
        self.assertEqual((browser.messages, browser.closing), (["plain"], NORMAL))
        self.assertEqual(self.refused("/plain/")[0], 501)

    def test_undecorated(self) -> None:
        """Without decorator and middleware, the response of the view refuses the handshake."""
        self.serve()
        self.assertEqual(self.refused("/plain/"), (200, "plain"))

    def test_refused(self) -> None:
        """A 404, a 403 and a Host that is not allowed refuse a handshake."""
        self.serve()
        self.assertEqual(self.refused("/nowhere/")[0], 404)
        self.assertEqual(self.refused("/forbidden/")[0], 403)
        self.serve(ALLOWED_HOSTS=["other.example"])
        self.assertEqual(self.refused("/async-echo/")[0], 400)

    def test_login(self) -> None:
        """Middleware that requires a login redirects, and lets a user in."""
        prepare()
        script[0] = self.greet
        self.serve(LOGIN_REQUIRED)
        self.assertEqual(self.refused("/async-scripted/")[0], 302)
        self.serve()
        page = self.daemon.get("/login/")
        assert page is not None
        cookies = page.headers.get_all("Set-Cookie") or []
        cookie = "; ".join(one.partition(";")[0] for one in cookies)
        self.serve(LOGIN_REQUIRED)
        browser = self.daemon.connect("/async-scripted/", headers={"Cookie": cookie})
        self.assertEqual(browser.messages, ["hello ann"])

    async def greet(self, request: Any) -> None:
        """Greet the user."""
        user = await request.auser()
        await request.websocket.send(f"hello {user.username}")

    def test_scheme(self) -> None:
        """The request is plain HTTP or HTTPS for the site, as for pages."""

        async def view(request: Any) -> None:
            await request.websocket.send(f"{request.scheme} {request.path} {request.is_secure()}")

        self.assertEqual(self.open(view).messages, ["http /async-scripted/ False"])

    def test_cookies(self) -> None:
        """The cookies that the middleware sets are in the 101, and it does not wait for the end."""
        script[0] = self.say_when_called
        self.serve(COOKIES)
        peer = Peer(self.daemon)
        self.addCleanup(peer.vanish)
        peer.send(handshake("/async-scripted/"))
        self.assertIn("101 ", peer.head)
        self.assertIn("\r\nset-cookie: seen=yes; Path=/", peer.head)
        self.assertEqual(recorded, ["middleware", "view"])

    async def say_when_called(self, request: Any) -> None:
        """Record the call, and wait for the end."""
        recorded.append("view")
        await request.websocket.wait()

    def test_response(self) -> None:
        """With subprotocols on offer, a response of the view refuses the handshake."""

        async def view(request: Any) -> HttpResponse:
            return HttpResponse("none of these", status=400)

        self.open(view)
        offered = {"subprotocols": ["x"]}
        self.assertEqual(self.refused("/async-scripted/", **offered), (400, "none of these"))


class EndTests(DjangoAsgiTestCase):
    """How a view ends."""

    def test_denied(self) -> None:
        """A view that raises Http404 or PermissionDenied closes with 1008."""

        async def missing(request: Any) -> None:
            await request.websocket.send("a")
            raise Http404

        async def forbidden(request: Any) -> None:
            raise PermissionDenied

        self.assertEqual(self.open(missing).closing, Closing(1008, "Not Found"))
        self.assertEqual(self.open(forbidden).closing, Closing(1008, "Forbidden"))
        status, _ = self.refused("/async-scripted/", subprotocols=["x"])
        self.assertEqual(status, 403)

    def test_fails(self) -> None:
        """A view that raises closes with 1011; Django and the log report it."""
        failed: list[Any] = []

        def note(sender: Any, request: Any, **_: Any) -> None:
            failed.append(request.path)

        got_request_exception.connect(note)
        self.addCleanup(got_request_exception.disconnect, note)

        async def view(request: Any) -> None:
            raise LookupError("no such thing")

        self.assertEqual(self.open(view).closing, INTERNAL_ERROR)
        self.assertEqual(failed, ["/async-scripted/"])
        self.assertEqual(len(self.flushLoggedErrors(LookupError)), 1)

    def test_eof(self) -> None:
        """An EOFError of the WebSocket that leaves the view is no error."""

        async def view(request: Any) -> None:
            while True:
                recorded.append(await request.websocket.wait())

        self.open(view).leave()
        self.assertEqual(recorded, [None])
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_signals(self) -> None:
        """request_started and request_finished are sent once for each handshake."""
        sent: list[str] = []

        def started(**_: Any) -> None:
            sent.append("started")

        def finished(**_: Any) -> None:
            sent.append("finished")

        for signal, receiver in ((request_started, started), (request_finished, finished)):
            signal.connect(receiver)
            self.addCleanup(signal.disconnect, receiver)

        async def view(request: Any) -> None:
            sent.append("view")

        self.open(view)
        self.assertEqual(sent, ["started", "finished", "view"])


class HandlerTests(DjangoAsgiTestCase):
    """The application itself."""

    def test_made(self) -> None:
        """get_asgi_application makes it."""
        self.assertIsInstance(get_asgi_application(), WebSocketASGIHandler)

    def run_alone(self, **scope: Any) -> list[Message]:
        """Call it as another server does, whose clients leave at once; return what it sends."""
        self.serve()
        events: list[Any] = [{"type": "websocket.connect"}, {"type": "websocket.disconnect"}]
        sent: list[Message] = []

        async def receive() -> Any:
            return events.pop(0)

        async def send(event: Message) -> None:
            sent.append(event)

        headers = [(b"host", b"localhost")]
        whole = {"type": "websocket", "path": "/async-echo/", "headers": headers, **scope}
        asyncio.run(WebSocketASGIHandler()(whole, receive, send))
        return sent

    def test_other_server(self) -> None:
        """Other servers open the WebSocket as well."""
        [accept] = self.run_alone()
        self.assertEqual(accept["type"], "websocket.accept")

    def test_no_response(self) -> None:
        """A server that cannot send a response refuses with 403, its only way."""
        self.assertEqual(self.run_alone(path="/nowhere/"), [{"type": "websocket.close"}])

    def test_bad_query(self) -> None:
        """A query that is no text is a 400."""
        sent = self.run_alone(query_string=b"\xff", extensions={"websocket.http.response": {}})
        self.assertEqual(sent[0]["status"], 400)
