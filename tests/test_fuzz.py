"""Random and mutated requests and frames: no exception, no hanging connection, no leak.

The examples are the same in every run, so that failures can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.protocols.http.channel import REFUSAL_TIMEOUT, STALL_TIMEOUT
from pushd.protocols.websocket.protocol import CLOSE_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.demo import ticker
from pushd.views.request import Request
from tests.support.fuzz_data import (
    CUTS,
    DEFLATE,
    EDITS,
    FRAMES,
    HANDSHAKE,
    MAX_MESSAGE,
    NAMES,
    OPENINGS,
    REQUESTS,
    TOKENS,
    edit,
    frame,
    head,
    packed,
    segments,
)
from tests.support.hypothesis_settings import same_examples

# Steps of time, in seconds, after which every connection is closed.
TIMEOUTS = (
    *(Limits().request_timeout, REFUSAL_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT, CLOSE_TIMEOUT),
    *(Limits().keep_alive, REFUSAL_TIMEOUT, STALL_TIMEOUT, REFUSAL_TIMEOUT) * 2,
)


@accept_websocket
async def echo(request: Request) -> str | None:
    """Echo every message."""
    if not request.is_websocket():
        return f"{request.path} {request.query} {request.cookies} {len(request.body)}"
    async for message in request.websocket:
        request.websocket.send(message, binary=isinstance(message, bytes))
    return None


@require_websocket
async def count(request: Request) -> None:
    """Push three messages, whatever is received, and close."""
    for number in range(3):
        request.websocket.send(str(number) * 1000)
        await request.websocket.wait() if number == 1 else None
    request.websocket.close(4000, "enough")


async def later(request: Request) -> str:
    """Answer after a second."""
    await deferLater(request.clock, 1)
    return "later"


VIEWS = {"/echo/": echo, "/count/": count, "/later/": later, "/test/": ticker}


class FuzzTests(SynchronousTestCase):
    """One daemon that gets all of it, one connection after the other."""

    def setUp(self) -> None:
        """Start the daemon with limits that are soon reached."""
        limits = Limits(max_message=MAX_MESSAGE, max_buffered=20_000, max_rate=50)
        self.daemon = Daemon(VIEWS, limits=limits, proxies=Proxies(["127.0.0.0/8"]))

    def play(
        self,
        pieces: list[bytes],
        *,
        pause: float = 0,
        reads: bool = True,
        control: bool = False,
    ) -> bytes:
        """Send bytes, let all time-outs pass, and assert that nothing is left."""
        connection = self.daemon.open_connection(control=control)
        if not reads:
            connection._transport.pauseProducing()
        for piece in pieces:
            connection.send(piece)
            if pause:
                self.daemon.advance(pause)
        self.daemon.advance(*TIMEOUTS)
        self.assertTrue(connection.closed, "still connected")
        self.assertEqual(self.daemon.pending_calls, [])
        for server in self.daemon.clock.tcpServers:
            site: Any = server[1]
            self.assertEqual(len(site.policy.admission), 0)
            self.assertEqual(len(site.policy.admission._addresses), 0)
        self.assertEqual(self.flushLoggedErrors(), [])
        return connection.received

    def assert_answers(self, received: bytes) -> None:
        """Assert that the first answer is HTTP, and not a 500."""
        if received:
            self.assertRegex(received, rb"\AHTTP/1\.[01] [1-5]\d\d ")
            self.assertFalse(received.startswith(b"HTTP/1.1 500"), received)

    def run_fuzz(self, test: Callable[[], None]) -> None:
        """Run a test made by ``given``, and assert that the daemon still works."""
        test()
        answer = self.daemon.get("/echo/")
        assert answer is not None
        self.assertEqual(answer.status, 200)
        browser = self.daemon.connect("/echo/")
        browser.send("still there")
        self.assertEqual(browser.messages, ["still there"])

    def test_seeds(self) -> None:
        """The requests that are mutated below are valid by themselves."""
        statuses = set()
        for request in REQUESTS:
            received = self.play([request])
            self.assert_answers(received)
            statuses.add(int(received[9:12]))
        self.assertEqual(statuses, {100, 101, 200, 206, 304, 400, 404, 405})

    def test_random_bytes(self) -> None:
        """Random bytes are refused."""

        @same_examples(max_examples=150)
        @given(st.lists(st.binary(max_size=400), max_size=5), st.booleans())
        def noise(pieces: list[bytes], reads: bool) -> None:
            self.assert_answers(self.play(pieces, reads=reads))

        self.run_fuzz(noise)

    def test_random_tokens(self) -> None:
        """Tokens of HTTP in random order are refused, or answered."""
        words = [b"GET", b"POST", b"/", b"/echo/", b"HTTP/1.1", b"HTTP/1.0", b"Host: a\r\n"]
        lines = [f"{line}\r\n".encode() for line in (*HANDSHAKE, DEFLATE)]
        token = st.one_of(st.sampled_from([*TOKENS, *words, *lines]), st.binary(max_size=3))

        @same_examples(max_examples=200)
        @given(st.lists(token, max_size=30), CUTS)
        def babble(tokens: list[bytes], cuts: list[float]) -> None:
            self.assert_answers(self.play(segments(b"".join(tokens), cuts)))

        self.run_fuzz(babble)

    def test_mutated_requests(self) -> None:
        """Pipelined requests and handshakes with mutations are refused, or answered."""

        @same_examples(max_examples=500)
        @given(
            st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=3),
            st.lists(EDITS, max_size=5),
            CUTS,
            st.sampled_from([0, 0, 0.4, 7]),
            st.booleans(),
        )
        def mutate(
            requests: list[bytes],
            edits: list[tuple[str, float, int, bytes]],
            cuts: list[float],
            pause: float,
            reads: bool,
        ) -> None:
            data = b"".join(requests)
            for one in edits:
                data = edit(data, *one)
            self.assert_answers(self.play(segments(data, cuts), pause=pause, reads=reads))

        self.run_fuzz(mutate)

    def test_mutated_headers(self) -> None:
        """Requests and handshakes with random headers are refused, or answered."""
        value = st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"").decode("latin-1"))
        name = st.sampled_from(NAMES)
        path = st.sampled_from(["/echo/", "/pushd.js", "/test/", "/count/", "/healthz", "/metrics"])

        @same_examples(max_examples=300)
        @given(path, st.lists(st.tuples(name, value), min_size=1, max_size=4), st.booleans())
        def change(path: str, fields: list[tuple[str, str]], shake: bool) -> None:
            control = path in ("/healthz", "/metrics")
            lines = [f"{name}: {value}" for name, value in fields]
            data = head(f"GET {path} HTTP/1.1", *(HANDSHAKE if shake else ()), *lines)
            self.assert_answers(self.play([data], control=control))

        self.run_fuzz(change)

    def test_extensions(self) -> None:
        """Handshakes with random offers of extensions are refused, or answered."""
        parameter = st.tuples(
            st.sampled_from(
                [
                    f"{side}_{what}"
                    for side in ("client", "server", "x")
                    for what in ("max_window_bits", "no_context_takeover")
                ]
            ),
            st.sampled_from(["", "=8", "=9", "=12", "=15", "=16", "=", '="10"', "=x", "=-1"]),
        ).map("".join)
        offer = st.builds(
            lambda name, parameters: "; ".join([name, *parameters]),
            st.sampled_from(["permessage-deflate"] * 4 + ["permessage-bzip2", "x", ""]),
            st.lists(parameter, max_size=4),
        )

        @same_examples(max_examples=200)
        @given(st.lists(offer, min_size=1, max_size=3), st.sampled_from(FRAMES))
        def ask(offers: list[str], message: bytes) -> None:
            line = f"Sec-WebSocket-Extensions: {', '.join(offers)}"
            data = head("GET /echo/ HTTP/1.1", *HANDSHAKE, line)
            self.assert_answers(self.play([data, message]))

        self.run_fuzz(ask)

    def test_random_frames(self) -> None:
        """Random frames close the connection or are answered: opcode, RSV bits, mask, length."""
        made = st.builds(
            lambda first, payload, length, mask: frame(first, payload, length=length, mask=mask),
            st.integers(0, 255),
            st.one_of(st.binary(max_size=150), st.sampled_from([b"a" * 126, packed(b"a" * 9000)])),
            st.one_of(st.none(), st.none(), st.integers(0, 70_000), st.integers(0, 1 << 63)),
            st.sampled_from([0x80, 0x80, 0x80, 0]),
        )

        @same_examples(max_examples=400)
        @given(
            st.sampled_from(OPENINGS),
            st.lists(st.one_of(made, st.sampled_from(FRAMES)), max_size=8),
            CUTS,
            st.booleans(),
        )
        def speak(opening: bytes, frames: list[bytes], cuts: list[float], reads: bool) -> None:
            data = opening + b"".join(frames)
            received = self.play(segments(data, cuts), reads=reads)
            if reads:
                self.assertTrue(received.startswith(b"HTTP/1.1 101 "), received)

        self.run_fuzz(speak)

    def test_mutated_frames(self) -> None:
        """Frames with mutations close the connection or are answered."""

        @same_examples(max_examples=400)
        @given(
            st.sampled_from(OPENINGS),
            st.lists(st.sampled_from(FRAMES), min_size=1, max_size=6),
            st.lists(EDITS, min_size=1, max_size=4),
            CUTS,
            st.sampled_from([0, 0, 0.4, 7]),
        )
        def mutate(
            opening: bytes,
            frames: list[bytes],
            edits: list[tuple[str, float, int, bytes]],
            cuts: list[float],
            pause: float,
        ) -> None:
            data = b"".join(frames)
            for one in edits:
                data = edit(data, *one)
            received = self.play([opening, *segments(data, cuts)], pause=pause)
            self.assertTrue(received.startswith(b"HTTP/1.1 101 "), received)

        self.run_fuzz(mutate)

    def test_any_segments(self) -> None:
        """Frames get the same answers in any segments."""
        frames = b"".join([*FRAMES[:6], FRAMES[7], FRAMES[9], FRAMES[11]])
        whole = self.play([OPENINGS[1], frames])

        @same_examples(max_examples=100)
        @given(CUTS)
        def cut(cuts: list[float]) -> None:
            self.assertEqual(self.play(segments(OPENINGS[1] + frames, cuts)), whole)

        self.run_fuzz(cut)

    def test_any_segments_of_http(self) -> None:
        """Pipelined requests each get an answer in any segments."""
        get, post, chunked = REQUESTS[4], REQUESTS[6], REQUESTS[7]
        requests = [post, get, chunked, get, get, post]
        data = b"".join(requests)

        @same_examples(max_examples=100)
        @given(CUTS)
        def cut(cuts: list[float]) -> None:
            received = self.play(segments(data, cuts))
            self.assertEqual(received.count(b"HTTP/1.1 200 "), len(requests), received)

        self.run_fuzz(cut)
