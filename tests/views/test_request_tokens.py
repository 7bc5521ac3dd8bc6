"""Views with tokens: who is it, and who is let in."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.closing import TOKEN_EXPIRED
from pushd.access.tokens import Identity
from pushd.testing.daemon import Answer, Daemon
from pushd.views.request import Request, accept_websocket, heed_tokens, needs_token, require_token
from tests.keyring import secret_keys, token

GOOD = token("ann", exp=100, subscribe=["a"])


def blocking(request: Request) -> str:
    """Say who it is, in a thread."""
    return "nobody" if request.identity is None else request.identity.subject


async def anybody(request: Request) -> str:
    """Say who it is."""
    return blocking(request)


@require_token
async def members(request: Request) -> str:
    """Say who it is, to those who say so first."""
    return blocking(request)


@require_token
@accept_websocket
async def talk(request: Request) -> str | None:
    """Say who it is, and stay."""
    if not request.is_websocket():
        return blocking(request)
    request.websocket.send(blocking(request))
    await request.websocket.wait()
    return None


@accept_websocket
async def open_talk(request: Request) -> None:
    """Say who it is, to all who come, and stay."""
    request.websocket.send(blocking(request))
    await request.websocket.wait()


VIEWS: dict[str, Any] = {
    "/anybody/": anybody,
    "/thread/": blocking,
    "/members/": members,
    "/talk/": talk,
    "/open/": open_talk,
}


class ViewTokenTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Start a daemon that knows tokens."""
        self.daemon = Daemon(VIEWS, token_keys=secret_keys())
        self.addCleanup(lambda: self.assertEqual(self.daemon.pending_calls, []))
        self.addCleanup(self.daemon.stop)

    def ask(self, path: str, given: str | None = None) -> Answer:
        """Ask a view, with a token or without."""
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        answer = self.daemon.get(path, headers)
        assert answer is not None
        return answer

    def test_identity(self) -> None:
        """A view sees who it is; with no token, or with one that is not good, it is nobody."""
        for path in ("/anybody/", "/thread/"):
            self.assertEqual(self.ask(path, GOOD).text, "ann")
            self.assertEqual(self.ask(f"{path}?token={GOOD}").text, "ann")
            # Its own tokens are a view's own matter.
            for other in (None, "x", token(exp=-60 + 1)[:-3]):
                self.assertEqual(self.ask(path, other).text, "nobody")
            self.assertEqual(self.ask(f"{path}?token={GOOD}", GOOD).text, "nobody")

    def test_required(self) -> None:
        """A guarded view is for those only who have a good token."""
        self.assertEqual(self.ask("/members/", GOOD).text, "ann")
        for given, said in ((None, "a token is needed here"), ("x", "the token is malformed")):
            for path in ("/members/", "/talk/"):
                answer = self.ask(path, given)
                self.assertEqual((answer.status, answer.text), (401, f"{said}\n"))
                self.assertIn("Bearer", answer.headers["WWW-Authenticate"])

    def test_required_without_keys(self) -> None:
        """Where there are no keys, nobody gets in."""
        with Daemon(VIEWS) as self.daemon:
            self.assertEqual(self.ask("/members/", GOOD).status, 401)
            self.assertEqual(self.ask("/anybody/", GOOD).text, "nobody")

    def test_websocket(self) -> None:
        """So it is with a WebSocket, which ends when the token does."""
        refused = self.daemon.connect("/talk/").refused
        assert refused is not None
        self.assertEqual(refused.status, 401)
        browser = self.daemon.connect(f"/talk/?token={GOOD}")
        self.assertEqual(browser.messages, ["ann"])
        self.daemon.advance(25, 25, 25, 24.9)
        self.assertIsNone(browser.closing)
        self.daemon.advance(0.1)
        self.assertEqual(browser.closing, TOKEN_EXPIRED)

    def test_open_websocket(self) -> None:
        """Who comes with a token to a view that is for all leaves with it, others stay."""
        browsers = [self.daemon.connect(f"/open/{query}") for query in (f"?token={GOOD}", "")]
        self.assertEqual([browser.messages for browser in browsers], [["ann"], ["nobody"]])
        self.daemon.advance(25, 25, 25, 25)
        self.assertEqual([browser.closing for browser in browsers], [TOKEN_EXPIRED, None])

    def test_not_shown(self) -> None:
        """A request that is shown to somebody does not show its token."""
        seen: list[Request] = []

        async def look(request: Request) -> None:
            seen.append(request)

        with Daemon({"/": look}, token_keys=secret_keys()) as daemon:
            daemon.get(f"/?token={GOOD}", {"Authorization": f"Bearer {GOOD}"})
            daemon.get(f"/?token={GOOD}")
        for request in seen:
            self.assertNotIn(GOOD[-10:], repr(request))
        self.assertIsInstance(seen[1].identity, Identity)


class DecorationTests(SynchronousTestCase):
    """What ``require_token`` may decorate."""

    def test_decorations(self) -> None:
        """Functions, partials of them, methods and objects that are called."""

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
            (require_token(partial(anybody)), True),
            (room, True),
            (room.enter, True),
            (room.leave, False),
            (anybody, False),
        ):
            for asked_for in (True, False):
                self.assertEqual(needs_token(view, has_keys=asked_for), needed, view)

    def test_heeded(self) -> None:
        """``heed_tokens`` asks for one where there is a key."""

        @heed_tokens
        async def room(request: Request) -> None: ...

        for view in (room, partial(room)):
            self.assertTrue(needs_token(view, has_keys=True))
            self.assertFalse(needs_token(view, has_keys=False))

    def test_undecorable(self) -> None:
        """A class is no view."""
        self.assertRaises(TypeError, require_token, Request)
