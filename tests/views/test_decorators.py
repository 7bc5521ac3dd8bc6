"""Decorators: which requests a view serves, and which it refuses without a token."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.defer import inlineCallbacks
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import TOKEN_EXPIRED
from pushd.access.tokens import Identity
from pushd.testing import Answer, Daemon
from pushd.views.decorators import (
    Handshakes,
    accept_websocket,
    handshakes_of,
    heed_tokens,
    require_token,
    require_websocket,
    token_of,
)
from pushd.views.request import Request
from tests.support.keyring import secret_keys, token
from tests.views.sample_views import Counter, decorated_twice

GOOD = token("ann", exp=100, subscribe=["a"])


class DecoratedObject:
    """A view that is a callable object whose __call__ is decorated."""

    @accept_websocket
    async def __call__(self, request: Request) -> str | None:
        if request.websocket is None:
            return "page"
        await request.websocket.send("message")
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
        self.assertIs(handshakes_of(DecoratedObject()), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(partial(DecoratedObject())), Handshakes.ACCEPTED)
        self.assertIs(handshakes_of(require_websocket(DecoratedObject())), Handshakes.REQUIRED)

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
                "/object/": DecoratedObject(),
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
        self.assertEqual(self.daemon.connect("/object/").messages, ["message"])
        answer = self.daemon.get("/object/")
        assert answer is not None
        self.assertEqual(answer.text, "page")


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
            (room.leave, None),
            (open_view, None),
        ):
            self.assertIs(token_of(view), needed, view)

    def test_heeded(self) -> None:
        """``heed_tokens`` requires a token only if there are keys."""

        @heed_tokens
        async def room(request: Request) -> None: ...

        for view in (room, partial(room)):
            self.assertIs(token_of(view), False)

    def test_undecorable(self) -> None:
        """Decorating a class raises TypeError."""
        self.assertRaises(TypeError, require_token, Request)
