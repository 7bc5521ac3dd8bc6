"""What a view is asked, what it may answer, and how it is decorated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import partial, wraps
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.protocols.http.response import Page, Response, page
from pushd.testing.daemon import Daemon
from pushd.views.request import (
    AnyView,
    Handshakes,
    HeaderMap,
    Request,
    accept_websocket,
    handshakes_of,
    name_of,
    require_websocket,
)


def make_request(**given: Any) -> Request:
    """Make a request with what a test does not care for."""
    asked: dict[str, Any] = {
        "method": "GET",
        "path": "/",
        "scheme": "http",
        "host": "localhost",
        "peer": "127.0.0.1:50000",
        "clock": Clock(),
    }
    return Request(**asked | given)


class HeaderMapTests(SynchronousTestCase):
    """Headers by name."""

    def setUp(self) -> None:
        """Take some headers, one of them twice."""
        self.headers = HeaderMap(
            Headers({b"Accept": [b"text/html", b"text/plain"], b"X-Name": [b"caf\xe9"]})
        )

    def test_case(self) -> None:
        """A name is found in upper or lower case."""
        for name in ("accept", "Accept", "ACCEPT"):
            self.assertEqual(self.headers[name], "text/html, text/plain")
            self.assertIn(name, self.headers)
            self.assertEqual(self.headers.get(name), "text/html, text/plain")

    def test_bytes(self) -> None:
        """Bytes that are no ASCII are taken for Latin-1, as HTTP has it, and do no harm."""
        self.assertEqual(self.headers["x-name"], "café")

    def test_missing(self) -> None:
        """A header that was not sent is not there."""
        self.assertNotIn("cookie", self.headers)
        self.assertIsNone(self.headers.get("cookie"))
        self.assertRaises(KeyError, lambda: self.headers["cookie"])

    def test_mapping(self) -> None:
        """It is a map of the names in lower case."""
        self.assertEqual(dict(self.headers), {"accept": "text/html, text/plain", "x-name": "café"})
        self.assertEqual(len(self.headers), 2)


class RequestTests(SynchronousTestCase):
    """What a view may know of who asks."""

    def test_read_only(self) -> None:
        """It does not change: no attribute can be set, no parsed value altered."""
        request = make_request(query_string="a=1")
        for name in ("path", "websocket", "nonsense"):
            with self.assertRaises(FrozenInstanceError):
                setattr(request, name, "other")
        query: Any = request.query
        cookies: Any = request.cookies
        for values in (query, cookies):
            with self.assertRaises(TypeError):
                values["a"] = "2"
        headers: Any = request.headers
        with self.assertRaises(TypeError):
            headers["a"] = "2"

    def test_identity(self) -> None:
        """Two requests that ask the same are two."""
        request = make_request()
        self.assertNotEqual(request, replace(request))
        self.assertEqual(len({request, request, replace(request)}), 2)

    def test_keywords(self) -> None:
        """What it is made of has names: nobody knows the order of so many."""
        positional: Any = Request
        self.assertRaises(TypeError, positional, "GET", "/", "http", "a", "b", Clock())

    def test_is_websocket(self) -> None:
        """It is a WebSocket exactly when there is one."""
        self.assertIs(make_request().is_websocket(), False)
        self.assertIs(make_request(websocket=object()).is_websocket(), True)

    def test_query(self) -> None:
        """The query is decoded, keeps repeated and empty fields, and has the first at hand."""
        query = make_request(query_string="room=a&room=b%20c&empty=&n%C3%A9=%C3%A9&plus=1+1").query
        self.assertEqual(query["room"], "a")
        self.assertEqual(query.getlist("room"), ["a", "b c"])
        self.assertEqual(query["empty"], "")
        self.assertEqual(query["né"], "é")
        self.assertEqual(query["plus"], "1 1")
        self.assertIsNone(query.get("other"))

    def test_odd_query(self) -> None:
        """Whatever stands behind the question mark, it is no exception."""
        for text in ("", "&", "=", "%", "%ff=%zz", "a=1;b=2", "&&a", "a=b=c"):
            self.assertEqual(make_request(query_string=text).query_string, text)
            list(make_request(query_string=text).query.items(multi=True))

    def test_cookies(self) -> None:
        """Cookies are found by name, without their quotes, the first of each at hand."""
        headers = Headers({"Cookie": ['a=1; b="two words"; a=3; c=']})
        cookies = make_request(raw_headers=headers).cookies
        self.assertEqual(
            (cookies["a"], cookies.getlist("a"), cookies["b"], cookies["c"]),
            ("1", ["1", "3"], "two words", ""),
        )

    def test_no_cookies(self) -> None:
        """Without the header there are none."""
        self.assertEqual(len(make_request().cookies), 0)

    def test_cookie_headers(self) -> None:
        """Cookies that a proxy has spread over several headers are all there."""
        headers = Headers({"Cookie": ["a=1", "b=2"]})
        self.assertEqual(make_request(raw_headers=headers).cookies.to_dict(), {"a": "1", "b": "2"})

    def test_cookie_bytes(self) -> None:
        """UTF-8 in a cookie is read, and what is none does no harm."""
        headers = Headers({b"Cookie": ["name=café".encode(), b"bad=\xff; good=1"]})
        cookies = make_request(raw_headers=headers).cookies
        self.assertEqual((cookies["name"], cookies["good"]), ("café", "1"))

    def test_parsed_once(self) -> None:
        """What is parsed is parsed once."""
        request = make_request(query_string="a=1")
        self.assertIs(request.query, request.query)
        self.assertIs(request.headers, request.headers)
        self.assertIs(request.cookies, request.cookies)

    def test_replaced(self) -> None:
        """A copy with something else in it stands on its own."""
        request = make_request(query_string="a=1")
        self.assertEqual(request.query["a"], "1")
        self.assertEqual(replace(request, query_string="a=2").query["a"], "2")
        self.assertEqual(request.query["a"], "1")

    def test_log_safe(self) -> None:
        """The headers, which may hold a token, do not show when it is printed."""
        headers = Headers({"Authorization": ["Bearer secret"]})
        self.assertNotIn("secret", repr(make_request(raw_headers=headers)))

    def test_served(self) -> None:
        """In a daemon, a view is told all that was asked."""

        @accept_websocket
        async def tell(request: Request) -> str | None:
            told = (
                f"{request.method} {request.scheme} {request.host} {request.path} "
                f"{request.query['q']} {request.headers['x-one']} {request.cookies['c']} "
                f"{request.body!r} {request.subprotocols} "
                f"{request.clock.seconds() == daemon.clock.seconds()}"
            )
            if request.websocket is None:
                return f"{told} {request.peer}"
            request.websocket.send(told)
            return None

        headers = {"X-One": "1", "Cookie": "c=2"}
        with Daemon({"/t/": tell}) as daemon:
            answer = daemon.request("POST", "/t/?q=%20", headers, b"body")
            assert answer is not None
            self.assertRegex(
                answer.text,
                r"^POST http localhost:8080 /t/   1 2 b'body' \(\) True 127\.0\.0\.1:\d+$",
            )
            browser = daemon.connect("/t/?q=x", headers=headers, subprotocols=["b", "a"])
            self.assertEqual(
                browser.messages,
                ["GET http localhost:8080 /t/ x 1 2 b'' ('b', 'a') True"],
            )


class ResponseTests(SynchronousTestCase):
    """An HTTP answer as a value."""

    def test_plain(self) -> None:
        """Without more it is an empty 200."""
        self.assertEqual(Response(), Response(200, {}, b""))

    def test_status(self) -> None:
        """A status is one that ends a request: 200 to 599."""
        for status in (200, 599):
            self.assertEqual(Response(status).status, status)
        for status in (0, 100, 101, 199, 600, -1):
            error = self.assertRaises(ValueError, Response, status)
            self.assertEqual(str(error), f"status is {status}: 200 to 599")

    def test_frozen(self) -> None:
        """It is a value."""
        with self.assertRaises(FrozenInstanceError):
            Response().status = 404  # type: ignore[misc]

    def test_page(self) -> None:
        """A page is named, and is equal to one of the same name."""
        self.assertEqual(page("test.html"), Page("test.html"))
        self.assertEqual(page("test.html").name, "test.html")
        with self.assertRaises(FrozenInstanceError):
            page("test.html").name = "other.html"  # type: ignore[misc]


def view(request: Request) -> str:
    """Answer."""
    return "view"


def decorated_twice(inner: AnyView) -> Callable[[Request], Any]:
    """Decorate as people do."""

    @wraps(inner)
    def outer(request: Request) -> Any:
        return inner(request)

    return outer


class Counter:
    """A view that is an object."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: Request) -> str:
        self.calls += 1
        return str(self.calls)

    def method(self, request: Request) -> str:
        """Answer."""
        return "method"


class Listener:
    """A view that is an object, and says by itself that it takes WebSockets."""

    @accept_websocket
    async def __call__(self, request: Request) -> str | None:
        if request.websocket is None:
            return "page"
        await request.websocket.send("listener")
        return None


class DecoratorTests(SynchronousTestCase):
    """accept_websocket and require_websocket."""

    def fresh(self) -> Callable[[Request], str]:
        """Give a view that nobody has decorated."""
        return lambda request: "fresh"

    def test_plain(self) -> None:
        """A view that nobody decorated refuses handshakes."""
        self.assertIs(handshakes_of(self.fresh()), Handshakes.REFUSED)

    def test_same_view(self) -> None:
        """The view itself is given back."""
        for decorate in (accept_websocket, require_websocket):
            view = self.fresh()
            self.assertIs(decorate(view), view)

    def test_decorated(self) -> None:
        """A decorated view says what it takes."""
        self.assertIs(handshakes_of(accept_websocket(self.fresh())), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(self.fresh())), Handshakes.REQUIRED)

    def test_last_wins(self) -> None:
        """The outermost of two decorators counts."""
        view = accept_websocket(require_websocket(self.fresh()))
        self.assertIs(handshakes_of(view), Handshakes.ACCEPTED)

    def test_under_others(self) -> None:
        """It may stand above or below decorators that use functools.wraps."""
        below = decorated_twice(accept_websocket(self.fresh()))
        above = accept_websocket(decorated_twice(self.fresh()))
        self.assertIs(handshakes_of(below), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(above), Handshakes.ACCEPTED)

    def test_inline_callbacks(self) -> None:
        """It may stand above or below inlineCallbacks."""

        @inlineCallbacks
        @accept_websocket
        def below(request: Request) -> Any:
            yield request.websocket.wait()

        @accept_websocket
        @inlineCallbacks
        def above(request: Request) -> Any:
            yield request.websocket.wait()

        self.assertIs(handshakes_of(below), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(above), Handshakes.ACCEPTED)

    def test_partial(self) -> None:
        """A partial takes what its function takes, unless it is decorated itself."""
        inner = accept_websocket(self.fresh())
        self.assertIs(handshakes_of(partial(partial(inner), 1)), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(partial(inner))), Handshakes.REQUIRED)
        self.assertIs(handshakes_of(inner), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(partial(self.fresh())), Handshakes.REFUSED)

    def test_object(self) -> None:
        """An object is decorated itself, or its __call__ is."""
        counter = accept_websocket(Counter())
        self.assertIs(handshakes_of(counter), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(Counter()), Handshakes.REFUSED)
        self.assertIs(handshakes_of(Listener()), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(partial(Listener())), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(Listener())), Handshakes.REQUIRED)

    def test_method(self) -> None:
        """A bound method takes what the method was decorated with."""

        class Room:
            @accept_websocket
            async def chat(self, request: Request) -> None:
                """Chat."""

        self.assertIs(handshakes_of(Room().chat), Handshakes.ACCEPTED)

    def test_foreign_mark(self) -> None:
        """An attribute of that name that is not ours says nothing."""

        class Odd:
            pushd_handshakes = "yes"

            def __call__(self, request: Request) -> None:
                """Answer."""

        self.assertIs(handshakes_of(Odd()), Handshakes.REFUSED)


class NameTests(SynchronousTestCase):
    """What a view is called in the log."""

    def test_names(self) -> None:
        """A function, a method and an object are called by their module and name."""
        here = "tests.views.test_request"
        self.assertEqual(name_of(view), f"{here}.view")
        self.assertEqual(name_of(Counter().method), f"{here}.Counter.method")
        self.assertEqual(name_of(Counter()), f"{here}.Counter")
        self.assertEqual(name_of("".join), "builtins.str.join")

    def test_partial(self) -> None:
        """A partial is called by its function, or two of them could not be told apart."""
        self.assertEqual(name_of(partial(partial(view), 1)), "tests.views.test_request.view")
        self.assertEqual(name_of(partial(Counter())), "tests.views.test_request.Counter")

    def test_wrapped(self) -> None:
        """A decorated view is called by its own name."""
        self.assertEqual(name_of(decorated_twice(view)), "tests.views.test_request.view")


class HandshakeRuleTests(SynchronousTestCase):
    """What the decorators do in a daemon."""

    def setUp(self) -> None:
        """Serve a view of each kind; note each call."""
        self.called: list[str] = []

        def plain(request: Request) -> str:
            self.called.append("plain")
            return "plain"

        @accept_websocket
        async def both(request: Request) -> str | None:
            self.called.append("both")
            if not request.is_websocket():
                return "both"
            request.websocket.send("both")
            return None

        @require_websocket
        async def only(request: Request) -> None:
            self.called.append("only")
            request.websocket.send("only")

        self.daemon = Daemon(
            {
                "/plain/": plain,
                "/both/": both,
                "/only/": only,
                "/partial/": partial(both),
                "/object/": Listener(),
            }
        )
        self.addCleanup(self.daemon.stop)

    def test_accept(self) -> None:
        """accept_websocket serves either."""
        answer = self.daemon.get("/both/")
        assert answer is not None
        self.assertEqual((answer.status, answer.text), (200, "both"))
        self.assertEqual(self.daemon.connect("/both/").messages, ["both"])

    def test_require(self) -> None:
        """require_websocket refuses plain HTTP with 426, says how, and does not call the view."""
        answer = self.daemon.get("/only/")
        assert answer is not None
        self.assertEqual(answer.status, 426)
        self.assertEqual(answer.headers["Upgrade"], "websocket")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.text.count("\n"), 1)
        self.assertEqual(self.called, [])
        self.assertEqual(self.daemon.connect("/only/").messages, ["only"])

    def test_undecorated(self) -> None:
        """An undecorated view is not called for a handshake: that gets 400 and one line."""
        browser = self.daemon.connect("/plain/")
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 400)
        self.assertEqual(browser.refused.text.count("\n"), 1)
        self.assertEqual(self.called, [])
        answer = self.daemon.get("/plain/")
        assert answer is not None
        self.assertEqual(answer.text, "plain")

    def test_partial(self) -> None:
        """A partial of a decorated view is served as the view."""
        self.assertEqual(self.daemon.connect("/partial/").messages, ["both"])

    def test_object(self) -> None:
        """An object whose __call__ is decorated is served as well."""
        self.assertEqual(self.daemon.connect("/object/").messages, ["listener"])
        answer = self.daemon.get("/object/")
        assert answer is not None
        self.assertEqual(answer.text, "page")


class DeferredViewTests(SynchronousTestCase):
    """Views in the older style."""

    def test_deferred(self) -> None:
        """A view that returns a Deferred answers with what it fires with."""
        asked: list[Deferred[str]] = []

        def later(request: Request) -> Deferred[str]:
            asked.append(Deferred())
            return asked[0]

        with Daemon({"/later/": later}) as daemon:
            wire = daemon.open_connection()
            wire.send(b"GET /later/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            self.assertIsNone(wire.answer())
            asked[0].callback("now")
            daemon.settle()
            answer = wire.answer()
            assert answer is not None
            self.assertEqual(answer.text, "now")


class UndecorableTests(SynchronousTestCase):
    """What can't be decorated."""

    def test_class(self) -> None:
        """A class is no view, and who decorates one is told so."""
        for decorator in (accept_websocket, require_websocket):
            for thing in (Request, len):
                with self.assertRaisesRegex(TypeError, "a view must be a function"):
                    decorator(thing)
