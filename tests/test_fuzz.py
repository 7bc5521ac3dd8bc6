"""Random and mutated requests and frames: no exception, no hanging connection, no leak.

The examples are the same in every run, so that failures can be repeated.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from pushd.access.limits import Limits
from pushd.access.proxies import Proxies
from pushd.protocols.http.channel import (
    IDLE_TIMEOUT,
    REFUSAL_TIMEOUT,
    REQUEST_TIMEOUT,
    STALL_TIMEOUT,
)
from pushd.protocols.websocket.protocol import CLOSE_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT
from pushd.testing import Daemon
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.demo import ticker
from pushd.views.request import Request

fuzz = partial(
    settings,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Steps of time, in seconds, after which every connection is closed.
TIMEOUTS = (
    *(REQUEST_TIMEOUT, REFUSAL_TIMEOUT, PING_INTERVAL, PONG_TIMEOUT, CLOSE_TIMEOUT),
    *(IDLE_TIMEOUT, REFUSAL_TIMEOUT, STALL_TIMEOUT, REFUSAL_TIMEOUT) * 2,
)

MAX_MESSAGE = 5000


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


def frame(
    first: int, payload: bytes = b"", *, length: int | None = None, mask: int = 0x80
) -> bytes:
    """Make a frame with any first byte, and with any length, right or wrong."""
    length = len(payload) if length is None else length
    if length < 126:
        head = bytes([first, mask | length])
    elif length < 1 << 16:
        head = bytes([first, mask | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, mask | 127]) + length.to_bytes(8, "big")
    return head + (bytes(4) if mask else b"") + payload


def packed(payload: bytes) -> bytes:
    """Deflate a message (RFC 7692 §7.2.1)."""
    deflater = zlib.compressobj(wbits=-12)
    return (deflater.compress(payload) + deflater.flush(zlib.Z_SYNC_FLUSH))[:-4]


def head(first: str, *lines: str) -> bytes:
    """Make the head of a request."""
    return "\r\n".join([first, "Host: localhost:8080", *lines, "", ""]).encode("latin-1")


HANDSHAKE = (
    "Upgrade: websocket",
    "Connection: keep-alive, Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
)
DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

FRAMES = [
    frame(0x81, b"hello"),
    frame(0x82, bytes(300)),
    frame(0x81, "café".encode() * 40),
    frame(0x01, b"in ") + frame(0x00, b"three ") + frame(0x89, b"ping") + frame(0x80, b"pieces"),
    frame(0x02) + frame(0x00) * 300 + frame(0x80),
    frame(0x89, b"ping"),
    frame(0x8A, b"pong"),
    frame(0xC1, packed(b"hello " * 100)),
    frame(0xC2, packed(bytes(MAX_MESSAGE * 3))),
    frame(0x41, packed(b"in two")[:3]) + frame(0x80, packed(b"in two")[3:]),
    frame(0x88),
    frame(0x88, b"\x03\xe8bye"),
    frame(0x88, b"\x0f\xa0" + b"x" * 123),
    frame(0x82, bytes(MAX_MESSAGE)),
    frame(0x82, bytes(MAX_MESSAGE + 1)),
    frame(0x82, length=1 << 40),
]

OPENINGS = [
    head("GET /echo/ HTTP/1.1", *HANDSHAKE),
    head("GET /echo/ HTTP/1.1", *HANDSHAKE, DEFLATE),
    head("GET /count/ HTTP/1.1", *HANDSHAKE, "Origin: http://localhost:8080", DEFLATE),
    head("GET /test/ HTTP/1.1", *HANDSHAKE, "Sec-WebSocket-Protocol: demo, other"),
]

REQUESTS = [
    head("GET / HTTP/1.1"),
    head("GET /pushd.js HTTP/1.1", "Range: bytes=10-20"),
    head("GET /pushd.js HTTP/1.1", "If-None-Match: *"),
    head("HEAD /test.html HTTP/1.1", "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"),
    head("GET /echo/?a=1&b=%20 HTTP/1.1", "Cookie: a=b; c=d", "Accept: */*"),
    head("GET /%2e%2e/nothing HTTP/1.0"),
    head("POST /echo/ HTTP/1.1", "Content-Length: 11") + b"hello world",
    head("POST /echo/ HTTP/1.1", "Transfer-Encoding: chunked", "Expect: 100-continue")
    + b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX: y\r\n\r\n",
    head("POST /pushd.js HTTP/1.1", "Content-Type: text/plain", "Content-Length: 7") + b"a=1&b=2",
    head("GET /later/ HTTP/1.1", "Connection: close"),
    head("OPTIONS * HTTP/1.1"),
    head("GET /echo/ HTTP/1.1", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    *OPENINGS,
]

TOKENS = [
    b"\r\n", b"\n", b"\r", b"\0", b"\x0b", b"\x85", b"\xff", b":", b" ", b"\t", b",", b";", b"%",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n", b"Upgrade:\r\n",
    b"Range: bytes=-1,0-\r\n", b"Connection: close\r\n", b"GET / HTTP/1.1\r\n", b"0\r\n\r\n",
    b"\x81\xff", b"\x88\x82", b"\xc1", b"\x7f" * 8, b"a" * 20_000, b"999999999999999999999",
]  # fmt: skip

NAMES = [
    "Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version",
    "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "Origin", "Cookie", "Range",
    "If-None-Match", "If-Modified-Since", "Content-Length", "Transfer-Encoding", "Content-Type",
    "Authorization", "X-Forwarded-For", "Forwarded", "Expect",
]  # fmt: skip

# A mutation: its kind, its position, its size, and bytes to insert.
EDITS = st.tuples(
    st.sampled_from(["flip", "drop", "double", "put", "cut", "move"]),
    st.floats(0, 1),
    st.integers(1, 64),
    st.one_of(st.sampled_from(TOKENS), st.binary(min_size=1, max_size=8)),
)

# Positions at which a stream of bytes is cut into segments.
CUTS = st.lists(st.floats(0, 1), max_size=6)


def edit(data: bytes, how: str, where: float, size: int, token: bytes) -> bytes:
    """Apply one mutation."""
    start = int(where * len(data))
    before, part, after = data[:start], data[start : start + size], data[start + size :]
    match how:
        case "flip":
            return before + bytes(byte ^ (1 << size % 8) for byte in part[:1]) + part[1:] + after
        case "drop":
            return before + after
        case "double":
            return before + part + part + after
        case "put":
            return before + token + part + after
        case "move":
            return after + before + part
        case _:
            return before


def segments(data: bytes, cuts: list[float]) -> list[bytes]:
    """Cut bytes into segments."""
    places = [0, *sorted(int(cut * len(data)) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]


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

        @fuzz(max_examples=150)
        @given(st.lists(st.binary(max_size=400), max_size=5), st.booleans())
        def noise(pieces: list[bytes], reads: bool) -> None:
            self.assert_answers(self.play(pieces, reads=reads))

        self.run_fuzz(noise)

    def test_random_tokens(self) -> None:
        """Tokens of HTTP in random order are refused, or answered."""
        words = [b"GET", b"POST", b"/", b"/echo/", b"HTTP/1.1", b"HTTP/1.0", b"Host: a\r\n"]
        lines = [f"{line}\r\n".encode() for line in (*HANDSHAKE, DEFLATE)]
        token = st.one_of(st.sampled_from([*TOKENS, *words, *lines]), st.binary(max_size=3))

        @fuzz(max_examples=200)
        @given(st.lists(token, max_size=30), CUTS)
        def babble(tokens: list[bytes], cuts: list[float]) -> None:
            self.assert_answers(self.play(segments(b"".join(tokens), cuts)))

        self.run_fuzz(babble)

    def test_mutated_requests(self) -> None:
        """Pipelined requests and handshakes with mutations are refused, or answered."""

        @fuzz(max_examples=500)
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

        @fuzz(max_examples=300)
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

        @fuzz(max_examples=200)
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

        @fuzz(max_examples=400)
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

        @fuzz(max_examples=400)
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

        @fuzz(max_examples=100)
        @given(CUTS)
        def cut(cuts: list[float]) -> None:
            self.assertEqual(self.play(segments(OPENINGS[1] + frames, cuts)), whole)

        self.run_fuzz(cut)

    def test_any_segments_of_http(self) -> None:
        """Pipelined requests each get an answer in any segments."""
        get, post, chunked = REQUESTS[4], REQUESTS[6], REQUESTS[7]
        requests = [post, get, chunked, get, get, post]
        data = b"".join(requests)

        @fuzz(max_examples=100)
        @given(CUTS)
        def cut(cuts: list[float]) -> None:
            received = self.play(segments(data, cuts))
            self.assertEqual(received.count(b"HTTP/1.1 200 "), len(requests), received)

        self.run_fuzz(cut)
