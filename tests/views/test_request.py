"""A view's request, and the names of views."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.protocols.http.response import Page, Response, page
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket
from pushd.views.request import HeaderMap, Request, name_of
from tests.views.sample_views import Counter, decorated_twice, view


def make_request(**given: Any) -> Request:
    """Make a request with defaults for what a test does not care about."""
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
        """Make some headers, one of them repeated."""
        self.headers = HeaderMap(
            Headers({b"Accept": [b"text/html", b"text/plain"], b"X-Name": [b"caf\xe9"]})
        )

    def test_case(self) -> None:
        """A name is found in any case."""
        for name in ("accept", "Accept", "ACCEPT"):
            self.assertEqual(self.headers[name], "text/html, text/plain")
            self.assertIn(name, self.headers)
            self.assertEqual(self.headers.get(name), "text/html, text/plain")

    def test_bytes(self) -> None:
        """Bytes that are not ASCII are decoded as Latin-1, as in HTTP."""
        self.assertEqual(self.headers["x-name"], "café")

    def test_missing(self) -> None:
        """A header that was not sent is missing."""
        self.assertNotIn("cookie", self.headers)
        self.assertIsNone(self.headers.get("cookie"))
        self.assertRaises(KeyError, lambda: self.headers["cookie"])

    def test_mapping(self) -> None:
        """The names are in lower case."""
        self.assertEqual(dict(self.headers), {"accept": "text/html, text/plain", "x-name": "café"})
        self.assertEqual(len(self.headers), 2)


class RequestTests(SynchronousTestCase):
    """The attributes of a request."""

    def test_read_only(self) -> None:
        """A request is immutable: no attribute can be set, no parsed value changed."""
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
        """Two requests with the same content are not equal."""
        request = make_request()
        self.assertNotEqual(request, replace(request))
        self.assertEqual(len({request, request, replace(request)}), 2)

    def test_keywords(self) -> None:
        """Its fields are given by keyword only."""
        positional: Any = Request
        self.assertRaises(TypeError, positional, "GET", "/", "http", "a", "b", Clock())

    def test_is_websocket(self) -> None:
        """It is a WebSocket request if and only if it has a WebSocket."""
        self.assertIs(make_request().is_websocket(), False)
        self.assertIs(make_request(websocket=object()).is_websocket(), True)

    def test_query(self) -> None:
        """The query is decoded, keeps repeated and empty fields, and gives the first value."""
        query = make_request(query_string="room=a&room=b%20c&empty=&n%C3%A9=%C3%A9&plus=1+1").query
        self.assertEqual(query["room"], "a")
        self.assertEqual(query.getlist("room"), ["a", "b c"])
        self.assertEqual(query["empty"], "")
        self.assertEqual(query["né"], "é")
        self.assertEqual(query["plus"], "1 1")
        self.assertIsNone(query.get("other"))

    def test_odd_query(self) -> None:
        """No query string raises an exception."""
        for text in ("", "&", "=", "%", "%ff=%zz", "a=1;b=2", "&&a", "a=b=c"):
            self.assertEqual(make_request(query_string=text).query_string, text)
            list(make_request(query_string=text).query.items(multi=True))

    def test_cookies(self) -> None:
        """Cookies are found by name, without quotes; a lookup gives the first of a name."""
        headers = Headers({"Cookie": ['a=1; b="two words"; a=3; c=']})
        cookies = make_request(raw_headers=headers).cookies
        self.assertEqual(
            (cookies["a"], cookies.getlist("a"), cookies["b"], cookies["c"]),
            ("1", ["1", "3"], "two words", ""),
        )

    def test_no_cookies(self) -> None:
        """Without the header there are no cookies."""
        self.assertEqual(len(make_request().cookies), 0)

    def test_cookie_headers(self) -> None:
        """Cookies that a proxy has spread over several headers are all found."""
        headers = Headers({"Cookie": ["a=1", "b=2"]})
        self.assertEqual(make_request(raw_headers=headers).cookies.to_dict(), {"a": "1", "b": "2"})

    def test_cookie_bytes(self) -> None:
        """Cookies are decoded as UTF-8, and invalid UTF-8 does no harm."""
        headers = Headers({b"Cookie": ["name=café".encode(), b"bad=\xff; good=1"]})
        cookies = make_request(raw_headers=headers).cookies
        self.assertEqual((cookies["name"], cookies["good"]), ("café", "1"))

    def test_parsed_once(self) -> None:
        """Parsed values are parsed once."""
        request = make_request(query_string="a=1")
        self.assertIs(request.query, request.query)
        self.assertIs(request.headers, request.headers)
        self.assertIs(request.cookies, request.cookies)

    def test_replaced(self) -> None:
        """A changed copy has parsed values of its own."""
        request = make_request(query_string="a=1")
        self.assertEqual(request.query["a"], "1")
        self.assertEqual(replace(request, query_string="a=2").query["a"], "2")
        self.assertEqual(request.query["a"], "1")

    def test_log_safe(self) -> None:
        """The headers, which may hold a token, are not part of the repr."""
        headers = Headers({"Authorization": ["Bearer secret"]})
        self.assertNotIn("secret", repr(make_request(raw_headers=headers)))

    def test_served(self) -> None:
        """In a daemon, a view's request has all of its fields."""

        @accept_websocket
        async def tell(request: Request) -> str | None:
            answer_text = (
                f"{request.method} {request.scheme} {request.host} {request.path} "
                f"{request.query['q']} {request.headers['x-one']} {request.cookies['c']} "
                f"{request.body!r} {request.subprotocols} "
                f"{request.clock.seconds() == daemon.clock.seconds()}"
            )
            if request.websocket is None:
                return f"{answer_text} {request.peer}"
            request.websocket.send(answer_text)
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
    """Response and Page as values."""

    def test_plain(self) -> None:
        """The default is an empty 200."""
        self.assertEqual(Response(), Response(200, {}, b""))

    def test_status(self) -> None:
        """A status must be final: 200 to 599."""
        for status in (200, 599):
            self.assertEqual(Response(status).status, status)
        for status in (0, 100, 101, 199, 600, -1):
            error = self.assertRaises(ValueError, Response, status)
            self.assertEqual(str(error), f"status must be 200 to 599; got {status}")

    def test_frozen(self) -> None:
        """A response is immutable."""
        with self.assertRaises(FrozenInstanceError):
            Response().status = 404  # type: ignore[misc]

    def test_page(self) -> None:
        """A page is compared by name and immutable."""
        self.assertEqual(page("test.html"), Page("test.html"))
        self.assertEqual(page("test.html").name, "test.html")
        with self.assertRaises(FrozenInstanceError):
            page("test.html").name = "other.html"  # type: ignore[misc]


class NameTests(SynchronousTestCase):
    """The names of views in the log."""

    def test_names(self) -> None:
        """A function, a method and an object are named by module and qualified name."""
        here = "tests.views.sample_views"
        self.assertEqual(name_of(view), f"{here}.view")
        self.assertEqual(name_of(Counter().method), f"{here}.Counter.method")
        self.assertEqual(name_of(Counter()), f"{here}.Counter")
        self.assertEqual(name_of("".join), "builtins.str.join")

    def test_partial(self) -> None:
        """A partial is named after its function."""
        self.assertEqual(name_of(partial(partial(view), 1)), "tests.views.sample_views.view")
        self.assertEqual(name_of(partial(Counter())), "tests.views.sample_views.Counter")

    def test_wrapped(self) -> None:
        """A decorated view is named after itself."""
        self.assertEqual(name_of(decorated_twice(view)), "tests.views.sample_views.view")


class DeferredViewTests(SynchronousTestCase):
    """Views that return Deferreds."""

    def test_deferred(self) -> None:
        """A view that returns a Deferred answers with its result."""
        asked: list[Deferred[str]] = []

        def later(request: Request) -> Deferred[str]:
            asked.append(Deferred())
            return asked[0]

        with Daemon({"/later/": later}) as daemon:
            connection = daemon.open_connection()
            connection.send(b"GET /later/ HTTP/1.1\r\nHost: localhost:8080\r\n\r\n")
            self.assertIsNone(connection.answer())
            asked[0].callback("now")
            daemon.settle()
            answer = connection.answer()
            assert answer is not None
            self.assertEqual(answer.text, "now")
