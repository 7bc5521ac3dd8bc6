"""A view's request, and the decorators for views."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from functools import partial, wraps
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.closing import TOKEN_EXPIRED
from pushd.access.tokens import Identity
from pushd.protocols.http.response import Page, Response, page
from pushd.testing import Answer, Daemon
from pushd.views.request import (
    AnyView,
    Handshakes,
    HeaderMap,
    Request,
    accept_websocket,
    handshakes_of,
    heed_tokens,
    name_of,
    needs_token,
    require_token,
    require_websocket,
)
from tests.support.keyring import secret_keys, token

GOOD = token("ann", exp=100, subscribe=["a"])


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


def view(request: Request) -> str:
    """Answer with text."""
    return "view"


def decorated_twice(inner: AnyView) -> Callable[[Request], Any]:
    """Wrap a view with functools.wraps."""

    @wraps(inner)
    def outer(request: Request) -> Any:
        return inner(request)

    return outer


class Counter:
    """A view that is a callable object."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: Request) -> str:
        self.calls += 1
        return str(self.calls)

    def method(self, request: Request) -> str:
        """Answer with text."""
        return "method"


class Listener:
    """A view that is a callable object whose __call__ is decorated."""

    @accept_websocket
    async def __call__(self, request: Request) -> str | None:
        if request.websocket is None:
            return "page"
        await request.websocket.send("listener")
        return None


class DecoratorTests(SynchronousTestCase):
    """accept_websocket and require_websocket."""

    def fresh(self) -> Callable[[Request], str]:
        """Return a view without decorator."""
        return lambda request: "fresh"

    def test_plain(self) -> None:
        """A view without decorator refuses handshakes."""
        self.assertIs(handshakes_of(self.fresh()), Handshakes.REFUSED)

    def test_same_view(self) -> None:
        """A decorator returns the view itself."""
        for decorate in (accept_websocket, require_websocket):
            view = self.fresh()
            self.assertIs(decorate(view), view)

    def test_decorated(self) -> None:
        """Each decorator has its effect."""
        self.assertIs(handshakes_of(accept_websocket(self.fresh())), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(self.fresh())), Handshakes.REQUIRED)

    def test_last_wins(self) -> None:
        """The outermost of two decorators counts."""
        view = accept_websocket(require_websocket(self.fresh()))
        self.assertIs(handshakes_of(view), Handshakes.ACCEPTED)

    def test_under_others(self) -> None:
        """It works above and below decorators that use functools.wraps."""
        below = decorated_twice(accept_websocket(self.fresh()))
        above = accept_websocket(decorated_twice(self.fresh()))
        self.assertIs(handshakes_of(below), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(above), Handshakes.ACCEPTED)

    def test_inline_callbacks(self) -> None:
        """It works above and below inlineCallbacks."""

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
        """A partial counts as its function, unless it is decorated itself."""
        inner = accept_websocket(self.fresh())
        self.assertIs(handshakes_of(partial(partial(inner), 1)), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(partial(inner))), Handshakes.REQUIRED)
        self.assertIs(handshakes_of(inner), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(partial(self.fresh())), Handshakes.REFUSED)

    def test_object(self) -> None:
        """An object can be decorated, or its __call__."""
        counter = accept_websocket(Counter())
        self.assertIs(handshakes_of(counter), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(Counter()), Handshakes.REFUSED)
        self.assertIs(handshakes_of(Listener()), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(partial(Listener())), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(Listener())), Handshakes.REQUIRED)

    def test_method(self) -> None:
        """A bound method counts as its decorated function."""

        class Room:
            @accept_websocket
            async def chat(self, request: Request) -> None:
                """Do nothing."""

        self.assertIs(handshakes_of(Room().chat), Handshakes.ACCEPTED)

    def test_foreign_mark(self) -> None:
        """An attribute with the decorator's name but another kind of value is ignored."""

        class Odd:
            pushd_handshakes = "yes"

            def __call__(self, request: Request) -> None:
                """Answer with text."""

        self.assertIs(handshakes_of(Odd()), Handshakes.REFUSED)


class NameTests(SynchronousTestCase):
    """The names of views in the log."""

    def test_names(self) -> None:
        """A function, a method and an object are named by module and qualified name."""
        here = "tests.views.test_request"
        self.assertEqual(name_of(view), f"{here}.view")
        self.assertEqual(name_of(Counter().method), f"{here}.Counter.method")
        self.assertEqual(name_of(Counter()), f"{here}.Counter")
        self.assertEqual(name_of("".join), "builtins.str.join")

    def test_partial(self) -> None:
        """A partial is named after its function."""
        self.assertEqual(name_of(partial(partial(view), 1)), "tests.views.test_request.view")
        self.assertEqual(name_of(partial(Counter())), "tests.views.test_request.Counter")

    def test_wrapped(self) -> None:
        """A decorated view is named after itself."""
        self.assertEqual(name_of(decorated_twice(view)), "tests.views.test_request.view")


class HandshakeRuleTests(SynchronousTestCase):
    """The decorators' effect in a daemon."""

    def setUp(self) -> None:
        """Serve a view of each kind, and record calls."""
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
        """accept_websocket serves both."""
        answer = self.daemon.get("/both/")
        assert answer is not None
        self.assertEqual((answer.status, answer.text), (200, "both"))
        self.assertEqual(self.daemon.connect("/both/").messages, ["both"])

    def test_require(self) -> None:
        """require_websocket refuses plain HTTP with 426 and Upgrade, and does not call the view."""
        answer = self.daemon.get("/only/")
        assert answer is not None
        self.assertEqual(answer.status, 426)
        self.assertEqual(answer.headers["Upgrade"], "websocket")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.text.count("\n"), 1)
        self.assertEqual(self.called, [])
        self.assertEqual(self.daemon.connect("/only/").messages, ["only"])

    def test_undecorated(self) -> None:
        """A handshake for a view without decorator gets 400, and the view is not called."""
        browser = self.daemon.connect("/plain/")
        assert browser.refused is not None
        self.assertEqual(browser.refused.status, 400)
        self.assertEqual(browser.refused.text.count("\n"), 1)
        self.assertEqual(self.called, [])
        answer = self.daemon.get("/plain/")
        assert answer is not None
        self.assertEqual(answer.text, "plain")

    def test_partial(self) -> None:
        """A partial of a decorated view is served like the view."""
        self.assertEqual(self.daemon.connect("/partial/").messages, ["both"])

    def test_object(self) -> None:
        """An object whose __call__ is decorated is served as well."""
        self.assertEqual(self.daemon.connect("/object/").messages, ["listener"])
        answer = self.daemon.get("/object/")
        assert answer is not None
        self.assertEqual(answer.text, "page")


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


class UndecorableTests(SynchronousTestCase):
    """Objects that cannot be decorated."""

    def test_class(self) -> None:
        """Decorating a class or a builtin raises TypeError."""
        for decorator in (accept_websocket, require_websocket):
            for thing in (Request, len):
                with self.assertRaisesRegex(TypeError, "a view must be a function"):
                    decorator(thing)


def tell_identity(request: Request) -> str:
    """Answer with the identity, in a thread."""
    return "anonymous" if request.identity is None else request.identity.subject


async def open_view(request: Request) -> str:
    """Answer with the identity."""
    return tell_identity(request)


@require_token
async def members(request: Request) -> str:
    """Answer with the identity; a token is required."""
    return tell_identity(request)


@require_token
@accept_websocket
async def members_socket(request: Request) -> str | None:
    """Send the identity and wait; a token is required."""
    if not request.is_websocket():
        return tell_identity(request)
    request.websocket.send(tell_identity(request))
    await request.websocket.wait()
    return None


@accept_websocket
async def open_socket(request: Request) -> None:
    """Send the identity and wait; no token is required."""
    request.websocket.send(tell_identity(request))
    await request.websocket.wait()


VIEWS: dict[str, Any] = {
    "/page/": open_view,
    "/thread/": tell_identity,
    "/members/": members,
    "/socket/": members_socket,
    "/open/": open_socket,
}


class ViewTokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon with token keys."""
        self.daemon = Daemon(VIEWS, token_keys=secret_keys())
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)

    def ask(self, path: str, given: str | None = None) -> Answer:
        """Request a view, with or without a token."""
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        answer = self.daemon.get(path, headers)
        assert answer is not None
        return answer

    def test_identity(self) -> None:
        """A view sees the identity of a valid token; without a single valid token it is None."""
        for path in ("/page/", "/thread/"):
            self.assertEqual(self.ask(path, GOOD).text, "ann")
            self.assertEqual(self.ask(f"{path}?token={GOOD}").text, "ann")
            # A view may have tokens of its own, which pushd ignores.
            for other in (None, "x", token(exp=-60 + 1)[:-3]):
                self.assertEqual(self.ask(path, other).text, "anonymous")
            self.assertEqual(self.ask(f"{path}?token={GOOD}", GOOD).text, "anonymous")

    def test_required(self) -> None:
        """A view that requires a token refuses requests without a valid one."""
        self.assertEqual(self.ask("/members/", GOOD).text, "ann")
        for given, said in ((None, "a token is required"), ("x", "token is malformed")):
            for path in ("/members/", "/socket/"):
                answer = self.ask(path, given)
                self.assertEqual((answer.status, answer.text), (401, f"{said}\n"))
                self.assertIn("Bearer", answer.headers["WWW-Authenticate"])

    def test_required_without_keys(self) -> None:
        """Without keys no token is valid."""
        with Daemon(VIEWS) as self.daemon:
            self.assertEqual(self.ask("/members/", GOOD).status, 401)
            self.assertEqual(self.ask("/page/", GOOD).text, "anonymous")

    def test_websocket(self) -> None:
        """A WebSocket that requires a token is closed when the token expires."""
        refused = self.daemon.connect("/socket/").refused
        assert refused is not None
        self.assertEqual(refused.status, 401)
        browser = self.daemon.connect(f"/socket/?token={GOOD}")
        self.assertEqual(browser.messages, ["ann"])
        self.daemon.advance(25, 25, 25, 24.9)
        self.assertIsNone(browser.closing)
        self.daemon.advance(0.1)
        self.assertEqual(browser.closing, TOKEN_EXPIRED)

    def test_open_websocket(self) -> None:
        """A WebSocket with a token is closed when that expires, even if the view requires none."""
        browsers = [self.daemon.connect(f"/open/{query}") for query in (f"?token={GOOD}", "")]
        self.assertEqual([browser.messages for browser in browsers], [["ann"], ["anonymous"]])
        self.daemon.advance(25, 25, 25, 25)
        self.assertEqual([browser.closing for browser in browsers], [TOKEN_EXPIRED, None])

    def test_repr(self) -> None:
        """The repr of a request does not show its token."""
        seen: list[Request] = []

        async def look(request: Request) -> None:
            seen.append(request)

        with Daemon({"/": look}, token_keys=secret_keys()) as daemon:
            daemon.get(f"/?token={GOOD}", {"Authorization": f"Bearer {GOOD}"})
            daemon.get(f"/?token={GOOD}")
        for request in seen:
            self.assertNotIn(GOOD[-10:], repr(request))
        self.assertIsInstance(seen[1].identity, Identity)


class TokenDecoratorTests(SynchronousTestCase):
    """What ``require_token`` can decorate."""

    def test_decorations(self) -> None:
        """Functions, partials of them, methods and callable objects can be decorated."""

        class Room:
            @require_token
            async def __call__(self, request: Request) -> None: ...

            @require_token
            async def enter(self, request: Request) -> None: ...

            async def leave(self, request: Request) -> None: ...

        room = Room()
        for view, needed in (
            (members, True),
            (partial(members), True),
            (require_token(partial(open_view)), True),
            (room, True),
            (room.enter, True),
            (room.leave, False),
            (open_view, False),
        ):
            for has_keys in (True, False):
                self.assertEqual(needs_token(view, has_keys=has_keys), needed, view)

    def test_heeded(self) -> None:
        """``heed_tokens`` requires a token if there are keys."""

        @heed_tokens
        async def room(request: Request) -> None: ...

        for view in (room, partial(room)):
            self.assertTrue(needs_token(view, has_keys=True))
            self.assertFalse(needs_token(view, has_keys=False))

    def test_undecorable(self) -> None:
        """Decorating a class raises TypeError."""
        self.assertRaises(TypeError, require_token, Request)
