"""Whatever clients do, and in whatever order: in the end the daemon holds what it held before.

The examples are the same in every run, so that failures can be repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.admission import Slot
from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.testing import Daemon, RawConnection
from pushd.topics.history import Retention
from pushd.topics.redis import session
from pushd.topics.redis.address import parse_broker
from pushd.views.decorators import accept_websocket, require_token, require_websocket
from pushd.views.request import Request
from tests.support.accounting import account, gauges
from tests.support.fake_redis import FakeRedis
from tests.support.fuzz_data import (
    CUTS,
    DEFLATE,
    FRAMES,
    HANDSHAKE,
    MAX_MESSAGE,
    REQUESTS,
    frame,
    head,
    segments,
)
from tests.support.hypothesis_settings import same_examples
from tests.support.keyring import secret_keys, sign, token

# Seconds that publications are kept, and steps of time after which nothing is left of anything.
TTL = 30
ENDS = (*(1, 5, 10, 25) * 3, Limits().keep_alive, Limits().keep_alive, 300, 300)


@accept_websocket
async def echo(request: Request) -> str | None:
    """Echo every message."""
    if not request.is_websocket():
        return "a page"
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


@require_websocket
def blocking(request: Request) -> None:
    """Echo every message, in a thread, and read no more after the third."""
    for _ in range(3):
        message = request.websocket.wait()
        if message is None:
            return
        request.websocket.send(message, binary=isinstance(message, bytes))


@require_websocket
async def asleep(request: Request) -> None:
    """Read nothing for some seconds."""
    request.websocket.accept()
    await deferLater(request.clock, 3)


@require_websocket
async def failing(request: Request) -> None:
    """Raise, before or after the handshake is answered."""
    if "early" in request.query:
        raise RuntimeError("early")
    await request.websocket.wait()
    raise RuntimeError("late")


@require_websocket
async def follower(request: Request) -> None:
    """Subscribe to two topics, from a subscription's beginning or from an id that is not known."""
    request.websocket.subscribe("a")
    request.websocket.subscribe("b", after="unknown:7")
    async for message in request.websocket:
        request.websocket.send(message)
        request.websocket.unsubscribe("a")


@require_token
async def private(request: Request) -> str:
    """Answer after a second."""
    await deferLater(request.clock, 1)
    return "later"


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    """Send a page in pieces, or fail in the middle of it."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    pieces, size = {"/many": (300, 50), "/large": (3, 100_000)}.get(environ["PATH_INFO"], (1, 5))
    for _ in range(pieces):
        yield b"x" * size
    if environ["QUERY_STRING"] == "fail":
        raise RuntimeError("the application fails")


VIEWS = {
    "/echo/": echo,
    "/blocking/": blocking,
    "/asleep/": asleep,
    "/failing/": failing,
    "/follower/": follower,
    "/private/": private,
}

# Tokens: valid, valid for another 5 s at the start, without rights, malformed in several ways.
LEEWAY = 30
TOKENS = [
    token(subscribe=["**"], publish=["**"]),
    sign({"sub": "ann", "exp": 5 - LEEWAY, "subscribe": ["**"], "publish": ["**"]}),
    token(),
    sign({"sub": "\ud800", "exp": 3600, "subscribe": ["**"], "publish": ["**"]}),
    "nonsense",
]

# What a client asks for: the rest of a request's first line, and further lines.
SHAKES = [
    *("/echo/", "/blocking/", "/asleep/", "/failing/", "/failing/?early", "/follower/"),
    *("/topics/a", "/topics/b?after=unknown:3"),
]
READS = [
    *("/echo/", "/private/", "/pushd.js", "/none", "/many", "/large", "/large?fail"),
    *(
        "/topics/a",
        "/topics/b?wait=2",
        "/topics/a?after=unknown:3",
        "/topics/*",
        "/topics/a?wait=x",
    ),
]
BODIES = [
    (b"", "Content-Length: 0"),
    (b"hello", "Content-Length: 5"),
    (b"\n" * 3000, "Content-Length: 3000"),
    (b"half", "Content-Length: 400"),
    (b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked"),
    (b"5\r\nhel", "Transfer-Encoding: chunked"),
    (b"", f"Content-Length: {MAX_MESSAGE + 1}"),
]
BATCHES = {
    "many": [{"topic": "a", "data": "x" * 900}, {"topic": "b", "data": "y"}] * 20,
    "one wrong": [{"topic": "a", "data": "x"}, {"topic": "*", "data": "y"}],
    "no list": 7,
}
CLIENTS = st.sampled_from([None, "192.0.2.1", "192.0.2.1", "192.0.2.2", "127.0.0.1", "unknown"])
LINES = st.sampled_from([*[()] * 4, ("Connection: close",), ("Expect: 100-continue",)])
TOKEN = st.sampled_from([TOKENS[0], *TOKENS])
KEY = st.sampled_from([(), (), ("Idempotency-Key: k",), ("Idempotency-Key: pushd:{a}:topic",)])
WHICH = st.integers(0, 7)
DATA = {
    "tiny": "x",
    "lines": "\n" * 3000,
    "letters": "\u00e9" * 2000,
    "largest": "x" * MAX_MESSAGE,
}
TIMES = st.sampled_from(["", "", "", "?delay=3", "?every=0.5&count=4", "?every=0.001&count=9"])


def request_of(first: str, client: str | None, token: str | None, *lines: str) -> bytes:
    """Return the head of a request for a client behind the proxy."""
    more = [] if client is None else [f"X-Forwarded-For: {client}"]
    more += [] if token is None else [f"Authorization: Bearer {token}"]
    return head(f"{first} HTTP/1.1", *more, *lines)


# What can happen: the name of a method of Play, and its arguments.
ACT = st.one_of(
    st.tuples(st.just("connect"), st.sampled_from([None, "192.0.2.1", "192.0.2.2"])),
    st.tuples(
        st.just("shake"),
        *(st.sampled_from(SHAKES), CLIENTS, TOKEN, st.booleans(), st.booleans()),
    ),
    st.tuples(
        st.just("ask"),
        *(st.sampled_from(READS), CLIENTS, st.one_of(st.none(), TOKEN), st.booleans(), LINES),
    ),
    st.tuples(
        st.just("post"),
        *(st.sampled_from(["/topics/a", "/many", "/private/"]), CLIENTS, TOKEN),
        *(st.sampled_from(BODIES), KEY),
    ),
    st.tuples(st.just("send"), WHICH, st.sampled_from([*FRAMES, *REQUESTS]), CUTS),
    st.tuples(st.just("send"), WHICH, st.sampled_from(FRAMES[:4]), CUTS),
    st.tuples(st.just("send"), WHICH, st.sampled_from([frame(0x01, b"x"), b"GET", b"\x81"]), CUTS),
    st.tuples(st.sampled_from(["stall", "resume", "leave", "reset", "half_close"]), WHICH),
    st.tuples(st.just("take"), WHICH, st.integers(1, 70_000)),
    st.tuples(st.just("wait"), st.sampled_from([0.3, 1, 4, 6, 20, 26])),
    st.tuples(
        st.just("publish"), st.sampled_from(["a", "a", "b"]), st.sampled_from(list(DATA)), TIMES
    ),
    st.tuples(st.just("publish_all"), st.sampled_from(list(BATCHES))),
    st.tuples(st.just("close"), WHICH),
    st.tuples(st.just("redis"), st.sampled_from(["late", "answer", "refuse", "lose", "silent"])),
)

ACTS = st.lists(ACT, min_size=5, max_size=40)


class Play:
    """A daemon and its clients, which do what they are told."""

    def __init__(self, **settings: Any) -> None:
        self.daemon = Daemon(
            VIEWS,
            wsgi=application,
            proxies=Proxies(["127.0.0.0/8"]),
            token_keys=secret_keys(),
            threads=2,
            view_grace=2,
            retention=Retention(ttl=TTL, size=5, bytes=50_000),
            max_message=MAX_MESSAGE,
            max_buffered=20_000,
            max_rate=50,
            max_connections=6,
            max_per_address=2,
            max_rate_per_address=1,
            **settings,
        )
        #: The server of the daemon's topics; None if it keeps them itself.
        self.redis_server: FakeRedis | None = None
        for call, args, arguments in self.daemon.clock.whenRunningHooks:
            call(*args, **arguments)
        self.daemon.settle()
        self.before = self.account()
        self.clients: list[RawConnection] = []

    def account(self) -> dict[str, object]:
        """Return what the daemon holds, what it says that it holds, and its delayed calls."""
        calls = [str(getattr(call, "func", call)) for call in self.daemon.pending_calls]
        return {**gauges(self.daemon), **account(self.daemon), "calls": calls}

    def act(self, acts: Iterable[tuple[Any, ...]]) -> None:
        """Let everything happen."""
        for name, *args in acts:
            getattr(self, name)(*args)

    def run(self, acts: Iterable[tuple[Any, ...]]) -> None:
        """Let everything happen, and time pass until nothing is left of it."""
        self.act(acts)
        if self.redis_server is not None:
            self.redis_server.refusal, self.redis_server.silent = None, False
            self.redis_server.answer()
        for client in self.clients:
            client.resume()
        self.daemon.advance(*ENDS)
        # Streams and WebSockets that are answered would go on.
        for client in self.clients:
            client._transport.abortConnection()
        self.daemon.advance(*ENDS)
        if self.redis_server is not None:
            self.redis_server.history.stop()  # Its timer is not the daemon's.

    # What can happen

    def connect(self, address: str | None = None) -> None:
        """Open a connection."""
        self.clients.append(self.daemon.open_connection(address=address))

    def shake(
        self, path: str, client: str | None, token: str, compressed: bool, whole: bool
    ) -> None:
        """Ask for a WebSocket, and send a message right behind the handshake."""
        self.connect()
        lines = (*HANDSHAKE, *([DEFLATE] if compressed else ()))
        asked = request_of(f"GET {path}", client, token, *lines)
        if whole:
            self.clients[-1].send(asked)
        self.clients[-1].send(b"" if whole else asked + frame(0x81, b"at once"))

    def ask(
        self,
        path: str,
        client: str | None,
        token: str | None,
        stream: bool,
        lines: tuple[str, ...],
    ) -> None:
        """Ask for a page, a stream or a poll."""
        self.connect()
        accept = ("Accept: text/event-stream",) if stream else ()
        self.clients[-1].send(request_of(f"GET {path}", client, token, *accept, *lines))

    def post(
        self,
        path: str,
        client: str | None,
        token: str,
        body: tuple[bytes, str],
        key: tuple[str, ...],
    ) -> None:
        """Send a body, all of it or a part."""
        self.connect()
        self.clients[-1].send(request_of(f"POST {path}", client, token, body[1], *key) + body[0])

    def send(self, which: int, data: bytes, cuts: list[float]) -> None:
        """Send anything on a connection, in pieces."""
        for client in self.chosen(which):
            for piece in segments(data, cuts):
                client.send(piece)

    def stall(self, which: int) -> None:
        """Stop reading."""
        for client in self.chosen(which):
            client.stall()

    def resume(self, which: int) -> None:
        """Read again."""
        for client in self.chosen(which):
            client.resume()

    def take(self, which: int, count: int) -> None:
        """Read some bytes."""
        for client in self.chosen(which):
            client._transport.other.take(count)
            self.daemon.settle()

    def leave(self, which: int) -> None:
        """Close a connection."""
        for client in self.chosen(which):
            client.leave()

    def reset(self, which: int) -> None:
        """Reset a connection."""
        for client in self.chosen(which):
            client._transport.abortConnection()
            self.daemon.settle()

    def half_close(self, which: int) -> None:
        """Close the client's side of a connection."""
        for client in self.chosen(which):
            client._transport.loseWriteConnection()
            self.daemon.settle()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.daemon.advance(seconds)

    def publish(self, topic: str, data: str, times: str) -> None:
        """Publish, or schedule publications, at the control port."""
        self.control("POST", f"/topics/{topic}{times}", DATA[data].encode())

    def publish_all(self, name: str) -> None:
        """Publish many at once."""
        body = json.dumps({"publications": BATCHES[name]}).encode()
        self.control("POST", "/publish", body)

    def close(self, which: int) -> None:
        """Close a connection at the control port."""
        self.control("DELETE", f"/connections/{which}")

    def redis(self, what: str) -> None:
        """Let Redis, if there is one, answer late, return errors, forget messages or vanish."""
        server = self.redis_server
        if server is None:
            return
        match what:
            case "late":
                server.late = True
            case "answer":
                server.refusal, server.silent = None, False
                server.answer()
            case "refuse":
                server.refusal = "OOM"
            case "silent":
                server.silent = True
            case _:
                server.lose()
        self.daemon.settle()

    def control(self, method: str, path: str, body: bytes = b"") -> None:
        """Send a request to the control port, which may be answered later."""
        self.daemon.request(method, path, {"Connection": "close"}, body, control=True)

    def chosen(self, which: int) -> Iterator[RawConnection]:
        """Yield the connection with this number, counted from the last, if it is open."""
        if which < len(self.clients) and not self.clients[-1 - which].closed:
            yield self.clients[-1 - which]


# What a broker with Redis remembers of its last topics, a thousand at most, and
# closes that were not added to their metric yet, by their code.
_BOUNDED = ("._broker._commands._places", "._closed_lately")


class AccountingTests(SynchronousTestCase):
    """Nothing is left of what clients have done."""

    def assert_same(self, before: dict[str, object], after: dict[str, object]) -> None:
        """Assert that two accounts are equal; else show what differs."""
        changed = {
            one
            for one in {*before, *after}
            if before.get(one) != after.get(one) and not any(name in one for name in _BOUNDED)
        }
        self.assertEqual({one: (before.get(one), after.get(one)) for one in changed}, {})

    def check(self, play: Play, acts: list[tuple[Any, ...]]) -> None:
        """Play, and assert that all is as before, and that nothing is left after the stop."""
        play.run(acts)
        self.assert_same(play.before, play.account())
        # Only the views above raise.
        self.flushLoggedErrors(RuntimeError)
        play.daemon.stop()
        self.assertEqual(play.daemon.pending_calls, [])

    def over_redis(self) -> Play:
        """Make a daemon that keeps its topics in a fake Redis."""
        servers: list[FakeRedis] = []

        def open_session(
            reactor: Any, _: object, on_message: Any, on_lost: Any, write: object
        ) -> Any:
            if not servers:
                servers.append(FakeRedis(reactor))
            return servers[0].open(on_message, on_lost)

        self.patch(session, "open_session", open_session)
        play = Play(broker=parse_broker("redis://redis.test"))
        play.redis_server = servers[0]
        return play

    def test_memory(self) -> None:
        """Topics in memory: nothing is left of connections, views, subscriptions, publications."""

        @same_examples(max_examples=50)
        @given(ACTS)
        def play(acts: list[tuple[Any, ...]]) -> None:
            self.check(Play(), acts)

        play()

    def test_redis(self) -> None:
        """Topics in Redis, which is slow, fails and vanishes: nothing is left, likewise."""

        @same_examples(max_examples=50)
        @given(ACTS)
        def play(acts: list[tuple[Any, ...]]) -> None:
            self.check(self.over_redis(), acts)

        play()

    def test_stop(self) -> None:
        """A stop in the middle leaves no more than that of a daemon without clients."""
        unused = Play()
        unused.daemon.stop()
        before = account(unused.daemon)

        @same_examples(max_examples=30)
        @given(ACTS)
        def play(acts: list[tuple[Any, ...]]) -> None:
            play = Play()
            play.act(acts)
            play.daemon.stop()
            self.assertEqual(play.daemon.pending_calls, [])
            self.assert_same(before, account(play.daemon))
            self.flushLoggedErrors(RuntimeError)

        play()

    def test_leak(self) -> None:
        """A slot that is not given back is found, and so is a timer that is not cancelled."""
        play = Play()
        with mock.patch.object(Slot, "release"):
            play.run([("ask", "/echo/", "192.0.2.1", None, False, ())])
        error = self.assertRaises(AssertionError, self.assert_same, play.before, play.account())
        self.assertIn("admission._connections", str(error))
        self.assertIn("admission._addresses._taken", str(error))
        play = Play()
        play.daemon.clock.callLater(1e6, list)
        self.assertRaises(AssertionError, self.assert_same, play.before, play.account())
