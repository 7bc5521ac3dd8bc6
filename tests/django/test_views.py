"""dwebsocket's API under Django."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception, request_finished
from django.db import connections
from django.http import HttpResponse
from django.test import Client, override_settings
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import INTERNAL_ERROR, NORMAL, Closing
from pushd.access.limits import Limits
from pushd.django.publishing import publish
from pushd.errors import ConversationOver, NoMoreMessages
from pushd.testing import Browser, Daemon
from tests.support.django_site import MIDDLEWARE, WEBSOCKETS, clients, prepare, recorded, script

LOGIN_REQUIRED = "django.contrib.auth.middleware.LoginRequiredMiddleware"


class DjangoTestCase(SynchronousTestCase):
    def serve(self, *middleware: str, limits: Limits | None = None, **settings: Any) -> Daemon:
        """Serve the site, with more middleware."""
        recorded.clear()
        override = override_settings(MIDDLEWARE=[*MIDDLEWARE, *middleware], **settings)
        override.enable()
        self.addCleanup(override.disable)
        self.daemon = Daemon({}, wsgi=WSGIHandler(), limits=limits or Limits())
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)
        return self.daemon

    def get(self, path: str) -> tuple[int, str]:
        """Return status and text of a page."""
        answer = self.daemon.get(path)
        assert answer is not None
        return answer.status, answer.text

    def refused(self, path: str, **more: Any) -> tuple[int, str]:
        """Return status and text of the response that refuses a handshake."""
        answer = self.daemon.connect(path, **more).refused
        assert answer is not None
        return answer.status, answer.text

    def record_signal(self, signal: Any, senders: list[Any]) -> None:
        """Record the senders of a signal."""

        def receiver(sender: Any, **_: Any) -> None:
            senders.append(sender)

        signal.connect(receiver, weak=False)
        self.addCleanup(signal.disconnect, receiver)


async def async_page(request: Any) -> HttpResponse:
    """Return a page."""
    return HttpResponse("page")


class DecoratorTests(DjangoTestCase):
    """The decorators and the middleware."""

    def test_both(self) -> None:
        """A view of dwebsocket's serves a page over HTTP, and converses over a WebSocket."""
        self.serve()
        self.assertEqual(self.get("/numbers/"), (200, "page, None"))
        browser = self.daemon.connect("/numbers/")
        browser.send('["1","2"]')
        browser.send(b"[3]")
        self.assertEqual(browser.messages, [f"service message: {n}" for n in (1, 2, 3)])
        browser.send("")
        self.assertEqual(browser.closing, NORMAL)

    def test_required(self) -> None:
        """A view that requires a WebSocket refuses plain HTTP with 426."""
        self.serve()
        self.assertEqual(self.get("/echo/"), (426, "this URL serves WebSockets only\n"))
        answer = self.daemon.get("/echo/")
        assert answer is not None
        self.assertEqual(answer.headers["Upgrade"], "websocket")

    def test_other_server(self) -> None:
        """Under another server a handshake is answered with 501 and the remedy."""
        self.serve()
        response = Client(headers={"Upgrade": "websocket"}).get("/echo/", SERVER_NAME="localhost")
        self.assertEqual(response.status_code, 501)

    def test_undecorated(self) -> None:
        """A view without decorator serves its page; a handshake gets the middleware's 400."""
        self.serve()
        self.assertEqual(self.refused("/plain/"), (200, "plain"))
        self.serve(WEBSOCKETS)
        self.assertEqual(self.refused("/plain/"), (400, "this URL does not serve WebSockets\n"))
        self.assertEqual(self.get("/plain/"), (200, "plain"))
        self.assertEqual(self.daemon.connect("/feed/a/").messages, ["feed a"])

    def test_accept_all(self) -> None:
        """With WEBSOCKET_ACCEPT_ALL every view serves WebSockets."""
        self.serve(WEBSOCKETS, WEBSOCKET_ACCEPT_ALL=True)
        browser = self.daemon.connect("/plain/")
        self.assertEqual((browser.messages, browser.closing), (["plain"], NORMAL))
        self.assertEqual(self.get("/plain/"), (200, "plain"))
        self.assertEqual(self.daemon.connect("/feed/a/").messages, ["feed a"])

    def test_accept_all_comes_last(self) -> None:
        """With WEBSOCKET_ACCEPT_ALL no middleware with process_view may come after it."""
        conditional = "django.middleware.http.ConditionalGetMiddleware"
        override = override_settings(
            MIDDLEWARE=[WEBSOCKETS, conditional, LOGIN_REQUIRED], WEBSOCKET_ACCEPT_ALL=True
        )
        with override, self.assertRaisesRegex(ImproperlyConfigured, "LoginRequired"):
            WSGIHandler().load_middleware()

    def test_class(self) -> None:
        """A class-based view serves both, with the parts of its path."""
        self.serve()
        self.assertEqual(self.get("/feed/a/"), (200, "page a"))
        browser = self.daemon.connect("/feed/b/")
        self.assertEqual((browser.messages, browser.closing), (["feed b"], NORMAL))

    def test_async(self) -> None:
        """An async view serves its page; a handshake is told the remedy."""
        script[0] = async_page
        self.serve()
        self.assertEqual(self.get("/async/"), (200, "page"))
        self.assertEqual(self.get("/async-scripted/"), (200, "page"))
        self.assertEqual(self.get("/async-echo/")[0], 426)
        line = "this view is async def: serve the site with twistd pushd --asgi\n"
        for path in ("/async/", "/async-scripted/", "/async-echo/"):
            self.assertEqual(self.refused(path), (501, line))
        self.serve(WEBSOCKETS, WEBSOCKET_ACCEPT_ALL=True)
        self.assertEqual(self.refused("/async-plain/"), (501, line))

    def test_session(self) -> None:
        """Path, session and user are available as in any other view."""
        self.serve()
        page = self.daemon.get("/room/lobby/7/")
        assert page is not None
        self.assertEqual(page.text, "lobby 7 lobby AnonymousUser")
        cookie = page.headers["Set-Cookie"].partition(";")[0]
        browser = self.daemon.connect("/room/attic/8/", headers={"Cookie": cookie})
        self.assertEqual(browser.messages, ["attic 8 lobby AnonymousUser"])

    def test_login(self) -> None:
        """login_required redirects over HTTP, refuses a handshake, and lets a user in."""
        prepare()
        self.serve()
        stranger = self.daemon.connect("/members/").refused
        assert stranger is not None
        self.assertEqual(
            (stranger.status, stranger.headers["Location"]), (302, "/login/?next=/members/")
        )
        page = self.daemon.get("/login/")
        assert page is not None
        cookies = page.headers.get_all("Set-Cookie") or []
        cookie = "; ".join(one.partition(";")[0] for one in cookies)
        browser = self.daemon.connect("/members/", headers={"Cookie": cookie})
        self.assertEqual(browser.messages, ["hello ann"])

    def test_middleware_refuses(self) -> None:
        """Middleware that requires a login refuses a handshake as well."""
        for more in ([LOGIN_REQUIRED], [LOGIN_REQUIRED, WEBSOCKETS]):
            self.serve(*more, WEBSOCKET_ACCEPT_ALL=True)
            self.assertEqual(self.refused("/numbers/")[0], 302)
            self.assertEqual(self.refused("/plain/")[0], 302)

    def test_refuses(self) -> None:
        """A 403, a 404 and a Host that is not allowed refuse a handshake as well."""
        self.serve(WEBSOCKETS, WEBSOCKET_ACCEPT_ALL=False)
        self.assertEqual(self.refused("/nowhere/")[0], 404)
        self.serve()
        self.assertEqual(self.refused("/forbidden/")[0], 403)
        self.serve(ALLOWED_HOSTS=["other.example"])
        self.assertEqual(self.refused("/numbers/")[0], 400)


class SocketTests(DjangoTestCase):
    """A view's WebSocket."""

    def open(
        self, view: Any, *, subprotocols: Sequence[str] = (), limits: Limits | None = None
    ) -> Browser:
        """Serve a function as the view, and open a WebSocket to it."""
        script[0] = view
        daemon = self.serve(limits=limits)
        return daemon.connect("/scripted/", subprotocols=subprotocols)

    def test_open(self) -> None:
        """The WebSocket is open when the view is called, as dwebsocket's was."""
        browser = self.open(lambda request: self.daemon.clock.callLater(1, recorded.clear).cancel())
        self.assertTrue(browser.opened)

    def test_subprotocol(self) -> None:
        """If subprotocols are offered, the view accepts, and may choose one."""

        def view(request: Any) -> None:
            self.assertEqual(request.websocket.subprotocol, None)
            request.websocket.accept("b")
            request.websocket.accept_connection()
            recorded.append(request.websocket.subprotocol)

        self.assertEqual(self.open(view, subprotocols=["a", "b"]).subprotocol, "b")
        self.assertEqual(recorded, ["b"])
        self.open(lambda request: HttpResponse("none of these", status=400))
        self.assertEqual(self.refused("/scripted/", subprotocols=["x"]), (400, "none of these"))

    def test_bytes(self) -> None:
        """Messages are bytes, however they were sent; iteration ends with None."""
        browser = self.serve().connect("/echo/")
        browser.send("é")
        browser.send(b"b")
        browser.close()
        self.assertEqual(browser.messages, ["é", "b"])
        self.assertEqual(recorded, ["é".encode(), b"b", None])

    def test_send(self) -> None:
        """Messages are sent as text, from bytes or str, unless binary is asked for."""

        def view(request: Any) -> None:
            websocket = request.websocket
            websocket.send("é")
            websocket.send("é".encode())
            websocket.send(b"\xff", binary=True)
            websocket.send(None)
            websocket.send(bytearray(b"a"))
            websocket.send(memoryview(b"b"))
            self.assertRaises(ValueError, websocket.send, b"\xff")
            self.assertRaises(TypeError, websocket.send, 3)

        self.assertEqual(self.open(view).messages, ["é", "é", b"\xff", "a", "b"])

    def test_read(self) -> None:
        """Reading does not wait; the end counts as one message."""

        def view(request: Any) -> None:
            websocket = request.websocket
            recorded.append((websocket.read("none"), websocket.has_messages(), websocket.closed))
            websocket.wait()
            websocket.send(bytes(100_000), binary=True)  # Until the browser reads it, or closes.
            recorded.append((websocket.count_messages(), websocket.read("none")))
            recorded.append((websocket.count_messages(), websocket.read("none")))
            recorded.append((websocket.has_messages(), websocket.read("none"), websocket.closed))

        browser = self.open(view, limits=Limits(compression=False))
        browser.stall()
        browser.send("go")
        browser.send("a")
        browser.close()
        self.assertEqual(
            recorded, [("none", False, False), (2, b"a"), (1, None), (False, "none", True)]
        )

    def test_wait(self) -> None:
        """A wait that times out returns None, and loses no message."""

        def view(request: Any) -> None:
            recorded.append(request.websocket.wait(timeout=2))
            recorded.append(request.websocket.wait(2))

        browser = self.open(view)
        self.daemon.advance(2)
        browser.send("a")
        self.assertEqual(recorded, [None, b"a"])

    def test_close(self) -> None:
        """A view may close with a code and a reason, or without."""
        browser = self.open(lambda request: request.websocket.close(4000, "enough"))
        self.assertEqual(browser.closing, Closing(4000, "enough"))
        browser = self.open(lambda request: request.websocket.close())
        self.assertEqual(browser.closing, NORMAL)
        browser = self.open(lambda request: request.websocket.close(4001, "assez été".encode()))
        self.assertEqual(browser.closing, Closing(4001, "assez été"))

    def test_close_mistake(self) -> None:
        """A reason that is not UTF-8 is a ValueError; the WebSocket is as it was."""

        def view(request: Any) -> None:
            self.assertRaises(ValueError, request.websocket.close, 4000, b"\xff")
            request.websocket.send("on")

        browser = self.open(view)
        self.assertEqual((browser.messages, browser.closing), (["on"], NORMAL))

    def test_protocol(self) -> None:
        """Dwebsocket's ``protocol`` is missing, and the error names the page that helps."""

        def view(request: Any) -> None:
            for name, words in (("protocol", "docs/django.md"), ("other", "no attribute 'other'")):
                error = self.assertRaises(AttributeError, getattr, request.websocket, name)
                self.assertIn(words, str(error))
            request.websocket.send("on")

        self.assertEqual(self.open(view).messages, ["on"])

    def test_topics(self) -> None:
        """A view can subscribe its browser to a topic, and unsubscribe it."""

        def view(request: Any) -> None:
            request.websocket.subscribe("a")
            publish("a", "one")
            request.websocket.wait()
            request.websocket.unsubscribe("a")
            publish("a", "two")

        browser = self.open(view)
        browser.send("enough")
        self.assertEqual((browser.messages, browser.closing), (["one"], NORMAL))

    def test_presence(self) -> None:
        """A view can ask who is present at a topic."""

        def view(request: Any) -> None:
            try:
                request.websocket.presence("a")
            except ValueError as error:
                request.websocket.send(str(error))

        [said] = self.open(view).messages
        self.assertIn("no presence", str(said))

    def test_publish(self) -> None:
        """Any code of the site can publish in a view's thread."""
        self.serve()
        status, id = self.get("/news/?text=hello")
        self.assertEqual(status, 200)
        self.assertIn(id, self.get("/topics/news?wait=0")[1])


class EndTests(DjangoTestCase):
    """The end of a conversation, after which nothing is left."""

    def test_leaves(self) -> None:
        """A view whose browser has left gets None, then EOFError, which is no error of the view."""

        def waits(request: Any) -> None:
            while True:
                recorded.append(request.websocket.wait())

        def cleans_up(request: Any) -> None:
            try:
                while True:
                    recorded.append(request.websocket.wait())
            except Exception as error:
                recorded.append(isinstance(error, EOFError))
                request.websocket.send("bye")
                request.websocket.close()
                recorded.append("end")

        def sends(request: Any) -> None:
            request.websocket.wait()
            try:
                while True:
                    request.websocket.send("a")
            except Exception as error:
                recorded.append(error)
            finally:
                recorded.append("end")

        finished: list[Any] = []
        self.record_signal(request_finished, finished)
        for view, words in (
            (waits, [None]),
            (cleans_up, [None, True, "end"]),
            (sends, ["end"]),
        ):
            script[0] = view
            for middleware in ([], [WEBSOCKETS]):
                self.serve(*middleware).connect("/scripted/").leave()
                self.assertEqual(recorded, words)
        self.assertEqual(len(finished), 6)

    def test_all_saved(self) -> None:
        """Ten messages and a Close at once: each is saved, the answers do nothing."""

        def view(request: Any) -> None:
            request.websocket.wait()
            request.websocket.send(bytes(100_000), binary=True)  # Until the browser reads it.
            for message in request.websocket:
                if not message:
                    break
                recorded.append(message)
                request.websocket.send(b"ok")
            recorded.append((request.websocket.close_code, request.websocket.close_reason))

        script[0] = view
        browser = self.serve(limits=Limits(compression=False)).connect("/scripted/")
        browser.stall()
        browser.send("go")
        for number in range(10):
            browser.send(str(number))
        browser.close(4001, "bye")
        self.assertEqual(recorded, [*(b"%d" % n for n in range(10)), (4001, "bye")])

    def test_other_view(self) -> None:
        """A view that sends to those who left goes on; the last words of one reach the others."""
        clients.clear()
        self.addCleanup(clients.clear)

        def view(request: Any) -> None:
            clients.append(request.websocket)
            for message in request.websocket:
                if not message:
                    break
                for client in clients:
                    client.send(message)
            for client in clients:
                client.send("gone")
            recorded.append("cleaned up")

        script[0] = view
        daemon = self.serve()
        leaving, staying = daemon.connect("/scripted/"), daemon.connect("/scripted/")
        leaving.close()
        daemon.advance(10)
        for _ in range(20):
            staying.send("hello")
        self.assertFalse(staying.gone)
        self.assertEqual(staying.messages, ["gone"] + ["hello"] * 20)
        self.assertEqual(recorded, ["cleaned up"])
        staying.close()

    def test_ignores_every_exception(self) -> None:
        """A view that catches every Exception in a loop around wait is ended."""

        def view(request: Any) -> None:
            while True:
                try:
                    recorded.append(request.websocket.wait())
                except Exception as error:
                    recorded.append(type(error))

        script[0] = view
        self.serve().connect("/scripted/").leave()
        self.assertEqual(recorded, [None] + [NoMoreMessages] * 99)

    def test_own_eof(self) -> None:
        """An EOFError of the view's own is an error like any other."""

        def view(request: Any) -> None:
            request.websocket.wait()
            raise EOFError("no more of a file")

        script[0] = view
        browser = self.serve().connect("/scripted/")
        browser.send("go")
        self.assertEqual(browser.closing, INTERNAL_ERROR)

    def test_raises(self) -> None:
        """A view that raises closes with 1011, and Django reports it as usual."""
        errors: list[Any] = []
        self.record_signal(got_request_exception, errors)
        browser = self.serve().connect("/numbers/")
        browser.send("no JSON")
        self.assertEqual(browser.closing, INTERNAL_ERROR)
        self.assertEqual(len(errors), 1)

    def test_chat(self) -> None:
        """The chat of dwebsocket's README works: messages reach all clients, until they leave."""
        errors: list[Any] = []
        self.record_signal(got_request_exception, errors)
        daemon = self.serve()
        ann, bob = daemon.connect("/chat/"), daemon.connect("/chat/")
        ann.send("hello")
        self.assertEqual([ann.messages, bob.messages], [["hello"], ["hello"]])
        ann.leave()
        bob.send("alone")
        self.assertEqual(bob.messages, ["hello", "alone"])
        bob.close()
        self.assertEqual((clients, errors), ([], []))

    def test_database(self) -> None:
        """The database connection is closed when a view ends, as after every request."""
        prepare()

        def view(request: Any) -> None:
            # Django's proxy stands for another connection in each thread.
            wrapper = connections["default"]
            wrapper.ensure_connection()
            recorded.append(wrapper)
            recorded.append(wrapper.connection is not None)
            request.websocket.wait()

        script[0] = view
        self.serve().connect("/scripted/").leave()
        self.assertEqual(recorded[1], True)
        self.assertIsNone(recorded[0].connection)

    def test_over(self) -> None:
        """ConversationOver is not an Exception, so a view's ``except`` does not catch it."""
        self.assertFalse(issubclass(ConversationOver, Exception))
