"""Random and mutated input for everything that pushd parses, compared with plain references."""

from __future__ import annotations

import contextlib
import json
import re
from codecs import getincrementaldecoder
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.access.proxies import UNKNOWN, Proxies
from pushd.access.tokens import check_pattern, matches
from pushd.errors import InvalidOptions, Unavailable
from pushd.options.command_line import Options
from pushd.options.settings import OPTIONS
from pushd.options.topic_tables import KEYS
from pushd.testing import Daemon, RawConnection
from pushd.topics.history import Retention
from pushd.topics.publication import Id, check_topic
from pushd.topics.redis.address import RedisAddress
from pushd.topics.redis.broker import RedisBroker
from pushd.topics.redis.scripts import RedisNames
from pushd.topics.redis.session import open_session
from pushd.views.decorators import accept_websocket, require_websocket
from pushd.views.request import Request
from tests.support.fuzz_data import (
    CUTS,
    EDITS,
    HANDSHAKE,
    REQUESTS,
    edit,
    frame,
    head,
    packed,
    segments,
)
from tests.support.hypothesis_settings import same_examples
from tests.topics.redis.test_session import SessionTestCase

MAX_MESSAGE = 1000


def edited(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """Apply mutations one after the other."""
    for one in edits:
        data = edit(data, *one)
    return data


# Frames


class FrameReference:
    """A plain reader of a client's frames without extensions (RFC 6455 §5, §7.4, §8.1).

    :param data: the bytes of whole frames; an unfinished one at the end is ignored.
    """

    def __init__(self, data: bytes) -> None:
        self.messages: list[str | bytes] = []
        #: The codes that may end the connection; empty if it goes on.
        self.codes: set[int] = set()
        self._data = data
        # The opcode and the payload of an unfinished message.
        self._opcode = 0
        self._payload = b""
        while self._data and not self.codes and self._read():
            pass

    def _read(self) -> bool:
        """Read one frame; return False if it is not complete."""
        data, start = self._data, 2
        if len(data) < 2:
            return False
        size, masked, opcode = data[1] & 127, data[1] >> 7, data[0] & 15
        extended = {126: 2, 127: 8}.get(size, 0)
        if len(data) < start + extended + 4 * masked:
            return False
        if extended:
            size = int.from_bytes(data[start : start + extended], "big")
            start += extended
        wrong = (
            bool(data[0] & 0x70)
            or not masked
            or opcode not in (0, 1, 2, 8, 9, 10)
            or (opcode >= 8 and (not data[0] & 0x80 or data[1] & 127 > 125))
            or (extended == 2 and size < 126)
            or (extended == 8 and not 1 << 16 <= size < 1 << 63)
            or (opcode in (1, 2) and self._opcode != 0)
            or (opcode == 0 and self._opcode == 0)
        )
        self.codes |= {1002} if wrong else set()
        self.codes |= {1009} if opcode < 8 and len(self._payload) + size > MAX_MESSAGE else set()
        if self.codes:
            return False
        mask, start = data[start : start + 4], start + 4
        if len(data) < start + size:
            return False
        payload = bytes(
            byte ^ mask[place % 4] for place, byte in enumerate(data[start : start + size])
        )
        self._data = data[start + size :]
        if opcode == 8:
            self._close(payload)
        elif opcode < 8:
            self._take(opcode, payload, final=bool(data[0] & 0x80))
        return True

    def _take(self, opcode: int, payload: bytes, *, final: bool) -> None:
        self._opcode = opcode or self._opcode
        self._payload += payload
        if self._opcode == 1:
            try:
                text = getincrementaldecoder("utf-8")().decode(self._payload, final)
            except UnicodeDecodeError:
                self.codes = {1007}
                return
        if final:
            self.messages.append(text if self._opcode == 1 else self._payload)
            self._opcode, self._payload = 0, b""

    def _close(self, payload: bytes) -> None:
        """Take a Close frame, which is answered with its code or with 1000."""
        code = int.from_bytes(payload[:2], "big")
        sendable = code in (*range(1000, 1004), *range(1007, 1015), *range(3000, 5000))
        if len(payload) == 1 or (payload and not sendable):
            self.codes = {1002}
            return
        self.codes = {1000, code or 1005}
        with contextlib.suppress(UnicodeDecodeError):
            payload[2:].decode()
            return
        self.codes = {1007}


def close_code(received: bytes) -> int | None:
    """Return the code of the Close frame among the frames that a server has sent."""
    rest = received.partition(b"\r\n\r\n")[2]
    while rest:
        size, start = rest[1], 2
        if size == 126:
            size, start = int.from_bytes(rest[2:4], "big"), 4
        if rest[0] == 0x88:
            return int.from_bytes(rest[start : start + 2], "big") if size else 1005
        rest = rest[start + size :]
    return None


OPCODES = st.sampled_from([0, 0, 1, 1, 2, 8, 9, 10, *range(16)])
PAYLOADS = st.one_of(
    st.binary(max_size=140),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([b"", b"\x03\xe8", b"\x03\xe8bye", b"\xe2\x82", b"\xac", b"a" * 400]),
    st.integers(0, 5100).map(lambda code: code.to_bytes(2, "big")),
)
CLIENT_FRAMES = st.builds(
    lambda fin, opcode, payload, key: masked_frame(fin | opcode, payload, key),
    st.sampled_from([0x80, 0x80, 0]),
    OPCODES,
    PAYLOADS,
    st.binary(min_size=4, max_size=4),
)
ODD_FRAMES = st.one_of(
    st.builds(frame, st.integers(0, 255), PAYLOADS, mask=st.sampled_from([0x80, 0])),
    st.sampled_from(
        [
            b"\x82\xfe\x00\x05" + bytes(9),
            b"\x82\xff" + bytes(7) + b"\x05" + bytes(9),
            b"\x82\xff\x80" + bytes(20),
            frame(0x82, bytes(MAX_MESSAGE)),
            frame(0x82, bytes(MAX_MESSAGE + 1)),
            frame(0xC1, packed(b"hello")),
        ]
    ),
)


def masked_frame(first: int, payload: bytes, key: bytes) -> bytes:
    """Make a frame that is masked with a key."""
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    made = frame(first, masked)
    return made[: len(made) - len(masked) - 4] + key + masked


class FrameTests(SynchronousTestCase):
    def test_reference(self) -> None:
        """Frames in any segments give the messages and the close code of a plain reader."""
        heard: list[str | bytes] = []

        @require_websocket
        async def record(request: Request) -> None:
            heard.extend([message async for message in request.websocket])

        daemon = Daemon({"/": record}, max_message=MAX_MESSAGE, max_rate=100_000)
        self.addCleanup(daemon.stop)

        @same_examples(max_examples=300)
        @given(
            st.lists(st.one_of(CLIENT_FRAMES, CLIENT_FRAMES, ODD_FRAMES), max_size=8),
            CUTS,
            st.lists(EDITS, max_size=1),
        )
        def read(
            frames: list[bytes], cuts: list[float], edits: list[tuple[str, float, int, bytes]]
        ) -> None:
            heard.clear()
            data = edited(b"".join(frames), edits)
            reference = FrameReference(data)
            connection = daemon.open_connection()
            connection.send(head("GET / HTTP/1.1", *HANDSHAKE))
            for piece in segments(data, cuts):
                connection.send(piece)
            code = close_code(connection.received)
            connection._transport.abortConnection()
            daemon.advance(1, 10)
            self.assertEqual(heard, reference.messages)
            if reference.codes or not reference._data:
                self.assertIn(code, reference.codes or {None})

        read()


# Heads of requests


class HeadTests(SynchronousTestCase):
    def test_two_parsers(self) -> None:
        """A head that is read at once has the same answer as one that twisted.web parses."""

        @accept_websocket
        async def show(request: Request) -> str:
            fields = (request.method, request.path, request.query_string, request.cookies)
            return repr((*fields, sorted(request.headers.items()), len(request.body)))

        daemon = Daemon({"/echo/": show, "/": show}, max_message=MAX_MESSAGE)
        self.addCleanup(daemon.stop)
        site: Any = daemon.clock.tcpServers[0][1]
        connections = site.connections

        def answer(data: bytes, fast: bool) -> tuple[bytes, bool]:
            connections.reads_whole = fast
            connection = daemon.open_connection()
            connection.send(data)
            received = re.sub(rb"Date: [^\r]*", b"", connection.received)
            closed = connection.closed
            connection._transport.abortConnection()
            daemon.advance(1, 10)
            return received, closed

        line = st.builds(
            lambda name, colon, value: name + colon + value,
            st.sampled_from(["Host", "X", "x-y", "Cookie", "Connection", "Accept", "Sec-X", ""]),
            st.sampled_from([":", ": ", ":\t", " :", ""]),
            st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=20),
        )
        target = st.one_of(
            st.sampled_from(["/echo/", "/", "/echo/?a=b", "http://h/echo/?x", "*", "//", "/%41"]),
            st.text(st.characters(max_codepoint=255, exclude_characters="\n"), max_size=12),
        )
        made = st.builds(
            lambda target, lines: head(f"GET {target} HTTP/1.1", *lines),
            target,
            st.lists(line, max_size=4),
        )
        length = st.sampled_from(
            [
                *("Content-Length: 3", "content-length:\t3", "Content-Length: 03"),
                *("Content-Length: +3", "Content-Length: 3, 3", "Content-Length: 0"),
                *("Content-Length: 9999999999", "Content-Length: 4"),
                *("Transfer-Encoding: chunked", "Expect: 100-continue"),
            ]
        )
        posted = st.builds(
            lambda target, lines, body: head(f"POST {target} HTTP/1.1", *lines) + body,
            target,
            st.lists(line | length, max_size=4),
            st.sampled_from([b"abc", b"abc", b"ab", b"", b"abcGET / HTTP/1.1\r\n\r\n", b"x" * 300]),
        )

        @same_examples(max_examples=300)
        @given(st.one_of(made, posted, st.sampled_from(REQUESTS)), st.lists(EDITS, max_size=3))
        def compare(data: bytes, edits: list[tuple[str, float, int, bytes]]) -> None:
            data = edited(data, edits)
            self.assertEqual(answer(data, True), answer(data, False))

        compare()
        self.assertEqual(self.flushLoggedErrors(), [])


# Forwarded


ADDRESSES = st.sampled_from(
    [
        *("10.0.0.1", "10.9.8.7", "192.0.2.1", "192.0.2.1:80", "[2001:db8::1]", "2001:db8::1"),
        *('"[2001:db8::1]:80"', "::ffff:10.0.0.1", "_hidden", "unknown", "", "256.0.0.1", "1.2"),
    ]
)
TRUSTED = ["10.0.0.0/8", "127.0.0.0/8"]


class ForwardedTests(SynchronousTestCase):
    """What a trusted proxy and its clients may write."""

    def is_trusted(self, address: str) -> bool:
        """Whether an address is of a trusted proxy, by the standard library alone."""
        parsed = ip_address(address)
        parsed = getattr(parsed, "ipv4_mapped", None) or parsed
        return any(parsed in ip_network(network) for network in TRUSTED)

    def test_forwarded_for(self) -> None:
        """The client is the last address in X-Forwarded-For that is not a proxy's."""
        proxies = Proxies(TRUSTED)

        @same_examples(max_examples=300)
        @given(st.lists(ADDRESSES, max_size=5), st.text(max_size=10))
        def read(hops: list[str], forged: str) -> None:
            value = ", ".join([quote(forged, safe=" ,;="), *hops])
            client = proxies.client("10.0.0.1", Headers({"X-Forwarded-For": [value]})).address
            expected = "10.0.0.1"
            for hop in reversed(hops):
                if not hop:
                    continue
                bare = hop.strip('"').partition("]")[0].removeprefix("[")
                bare = bare.partition(":")[0] if bare.count(":") == 1 else bare
                try:
                    parsed = ip_address(bare)
                except ValueError:
                    expected = UNKNOWN
                    break
                expected = str(getattr(parsed, "ipv4_mapped", None) or parsed)
                if not self.is_trusted(expected):
                    break
            else:
                return  # What was forged decides; see the other test.
            self.assertEqual(client, expected)

        read()

    def test_any(self) -> None:
        """Whatever the headers hold, the client is an address or unknown, and nothing is raised."""
        proxies = Proxies(TRUSTED)
        pair = st.tuples(
            st.sampled_from(["for", "For", "proto", "by", "host", "for ", ""]),
            st.sampled_from(["=", "==", " = ", ""]),
            st.one_of(ADDRESSES, st.sampled_from(["https", "http", '"a,b"', '"', '"\\""'])),
        ).map("".join)
        element = st.lists(pair, max_size=3).map(";".join)
        value = st.one_of(
            st.lists(element, max_size=4).map(",".join),
            st.lists(ADDRESSES, max_size=4).map(",".join),
            st.binary(max_size=40).map(lambda data: data.replace(b"\n", b"").decode("latin-1")),
        ).map(lambda text: text.encode("latin-1"))
        names = st.sampled_from(["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto"])

        @same_examples(max_examples=300)
        @given(
            st.lists(st.tuples(names, value), max_size=3), st.sampled_from(["10.0.0.1", "8.8.8.8"])
        )
        def read(fields: list[tuple[str, bytes]], peer: str) -> None:
            headers = Headers()
            for name, raw in fields:
                headers.addRawHeader(name, raw)
            client = proxies.client(peer, headers)
            self.assertIn(client.scheme, (None, "http", "https"))
            if peer == "8.8.8.8":
                self.assertEqual(client, (peer, None))
            elif client.address != UNKNOWN:
                ip_address(client.address)

        read()


# Topics, patterns and ids


class NameTests(SynchronousTestCase):
    """Topics, their patterns, and the ids of publications."""

    def test_patterns(self) -> None:
        """A pattern matches what it matches segment by segment, or is refused."""
        alphabet = st.sampled_from(["a", "b", "*", "**", "/", ".", "-", "é", " ", "\n", "\0", "%"])
        texts = st.lists(alphabet, max_size=9).map("".join)

        def reference(pattern: list[str], topic: list[str]) -> bool:
            if pattern == ["**"]:
                return bool(topic)
            if not pattern or not topic:
                return pattern == topic
            return pattern[0] in ("*", topic[0]) and reference(pattern[1:], topic[1:])

        @same_examples(max_examples=500)
        @given(texts, texts)
        def match(pattern: str, topic: str) -> None:
            segment = r"(\*|[A-Za-z0-9._:-]+)"
            valid = re.fullmatch(rf"({segment}/)*({segment}|\*\*)", pattern) is not None
            valid = valid and not {".", ".."} & {*pattern.split("/")}
            try:
                check_pattern(pattern)
            except ValueError:
                self.assertFalse(valid)
                return
            self.assertTrue(valid)
            with contextlib.suppress(ValueError):
                check_topic(topic)
                expected = reference(pattern.split("/"), topic.split("/"))
                self.assertEqual(matches(pattern, topic), expected)

        match()

    def test_ids(self) -> None:
        """An id is what it was made of, or refused."""
        texts = st.one_of(
            st.text(max_size=12),
            st.from_regex(r"[A-Za-z0-9_-]{1,33}:[0-9]{1,20}", fullmatch=True),
            st.from_regex(r"[a:\r\n]{1,4}:[0-9\n]{1,3}", fullmatch=True),
        )

        @same_examples(max_examples=500)
        @given(texts)
        def parse(text: str) -> None:
            try:
                id = Id.parse(text)
            except ValueError:
                return
            self.assertEqual(str(id), text)
            self.assertRegex(text, r"\A[A-Za-z0-9_-]{1,32}:[0-9]{1,18}\Z")

        parse()

    def test_streams(self) -> None:
        """Whatever Last-Event-ID and ``after`` are, a stream is refused or has only our ids."""
        daemon = Daemon({})
        self.addCleanup(daemon.stop)
        value = st.one_of(
            st.binary(max_size=20),
            st.sampled_from([b"e:1", b"e:1\rid: x", b"e:-1", b"e:1,e:2", b"", b"\xff:1"]),
        ).map(lambda data: data.replace(b"\n", b""))

        @same_examples(max_examples=200)
        @given(value, st.booleans(), st.booleans())
        def ask(after: bytes, in_header: bool, stream: bool) -> None:
            query = "" if in_header else f"?wait=0&after={quote(after)}"
            lines = [f"Last-Event-ID: {after.decode('latin-1')}"] if in_header else []
            lines += ["Accept: text/event-stream"] if stream else []
            connection: RawConnection = daemon.open_connection()
            connection.send(head(f"GET /topics/a{query} HTTP/1.1", *lines))
            received = connection.received
            connection._transport.abortConnection()
            daemon.settle()
            self.assertRegex(received, rb"\A(HTTP/1\.1 [24]\d\d |\Z)")
            for line in re.findall(
                rb"(?:^|[\r\n])id: ?([^\r\n]*)", received.partition(b"\r\n\r\n")[2]
            ):
                Id.parse(line.decode())

        ask()
        self.assertEqual(self.flushLoggedErrors(), [])


# Configuration


NAMES = [option.name for option in OPTIONS]
# Not what would import a module, or read a file that has no end.
TEXTS = st.one_of(
    st.sampled_from(
        [
            "",
            "0",
            "1",
            "-1",
            "1e9",
            "9" * 30,
            "on",
            "off",
            "none",
            "memory",
            "tcp:0",
            "tcp:",
            "10MB",
        ]
    ),
    st.sampled_from(
        ["redis://h/1", "10.0.0.0/8", "*", "https://a.b", "no such:file", "unix:", "[]"]
    ),
    st.text(st.characters(exclude_characters="/.:\0", exclude_categories=["Cs"]), max_size=8),
)
VALUES = st.one_of(
    TEXTS, st.integers(), st.booleans(), st.floats(), st.lists(TEXTS, max_size=3), st.just({"a": 1})
)


class ConfigurationTests(SynchronousTestCase):
    """A configuration is used or refused with one line for each mistake."""

    def resolve(self, environ: dict[str, str]) -> None:
        """Read all options; whatever they are, only InvalidOptions is raised."""
        options = Options(environ=environ)
        try:
            options.resolve()
        except InvalidOptions as mistakes:
            for line in mistakes.lines:
                self.assertNotIn("\n", line)
                self.assertTrue(line)

    def test_environment(self) -> None:
        """Any variables that begin with PUSHD_."""
        name = st.one_of(
            st.sampled_from(NAMES).map(lambda one: one.replace("-", "_").upper()),
            st.from_regex(r"[A-Z_]{1,12}", fullmatch=True),
        )

        @same_examples(max_examples=200)
        @given(st.dictionaries(name, TEXTS, max_size=5))
        def read(variables: dict[str, str]) -> None:
            self.resolve({f"PUSHD_{one}": value for one, value in variables.items()})

        read()

    def test_file(self) -> None:
        """Any TOML file, valid or not."""
        folder = TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        path = Path(folder.name) / "pushd.toml"
        line = st.builds(
            lambda name, value: f"{name} = {json.dumps(value)}\n",
            st.one_of(st.sampled_from(NAMES), st.sampled_from(['"a b"', "a.b", "[x]", ""])),
            VALUES,
        )
        key = st.builds(
            lambda name, value: f"{name} = {json.dumps(value)}\n",
            st.sampled_from([key.name for key in KEYS]),
            st.one_of(VALUES, st.sampled_from(["**", "a/*", "a/**", "token", "1KiB", True, 100])),
        )
        lines = st.lists(st.one_of(line, key, st.just("[[topic]]\n")), max_size=8)

        @same_examples(max_examples=200)
        @given(lines.map("".join), st.lists(EDITS, max_size=2))
        def read(text: str, edits: list[tuple[str, float, int, bytes]]) -> None:
            path.write_bytes(edited(text.encode(), edits))
            self.resolve({"PUSHD_CONFIG": str(path)})

        read()


# Redis


def encode(value: Any) -> bytes:
    """Encode an answer in RESP."""
    if isinstance(value, list):
        return b"*%d\r\n" % len(value) + b"".join(map(encode, value))
    if isinstance(value, int):
        return b":%d\r\n" % value
    if value is None:
        return b"$-1\r\n"
    if isinstance(value, str):
        return b"%b\r\n" % value.encode()
    data: bytes = value
    return b"$%d\r\n%b\r\n" % (len(data), data)


LEAVES = st.one_of(
    st.none(),
    st.integers(-(1 << 63), (1 << 63) - 1),
    st.binary(max_size=12),
    st.sampled_from(
        [b"e:1", b"e:1 t", b"e:1\r\nx", b"e", b"1", b"-1", b"e:1 tx", b"e:1 bx", b"message", b"c"]
    ),
    st.sampled_from(["+OK", "-ERR wrong", "-READONLY no", "-NOSCRIPT no", "-LOADING", "-"]),
)
ANSWERS = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=6), max_leaves=12).map(encode)
MESSAGES = st.builds(
    lambda channel, data: encode([b"message", channel, data]),
    st.sampled_from([b"pushd:0:{a}:channel", b"pushd:{a}:channel", b"c"]),
    st.one_of(
        st.binary(max_size=12), st.sampled_from([b"e:2 tx", b"e:2 b\xff", b"e:9 tx", b"e:2"])
    ),
)
COMMANDS = (b"INFO", b"SELECT", b"SCRIPT", b"EVALSHA", b"EVAL", b"PING", b"SUBSCRIBE", b"SCAN")


class RedisTests(SessionTestCase):
    """A hostile server, through the real session and broker."""

    def test_hostile(self) -> None:
        """Whatever Redis answers, requests fail with Unavailable; in the end nothing is left."""
        usual = dict(self.answers)
        replay = encode([b"e", b"1", 1, b"1", []])
        usual[b"EVALSHA"] = lambda command: replay if command[2] == b"1" else encode([b"e:1"])

        @same_examples(max_examples=200)
        @given(
            st.dictionaries(
                st.sampled_from(COMMANDS), st.one_of(ANSWERS, st.just(b"")), max_size=2
            ),
            st.lists(st.one_of(MESSAGES, ANSWERS), max_size=4),
            st.lists(EDITS, max_size=2),
        )
        def serve(
            answers: dict[bytes, bytes],
            messages: list[bytes],
            edits: list[tuple[str, float, int, bytes]],
        ) -> None:
            self.play(usual, answers, messages, edits)

        serve()

    def play(
        self,
        usual: dict[bytes, Any],
        answers: dict[bytes, bytes],
        messages: list[bytes],
        edits: list[tuple[str, float, int, bytes]],
    ) -> None:
        """Run a broker against a server, from its start to its stop."""
        self.setUp()
        address = RedisAddress(path="/r")

        def open_real(on_message: Any, on_lost: Any) -> Any:
            return open_session(self.clock, address, on_message, on_lost)

        broker = RedisBroker(
            self.clock,
            open_real,
            name="it",
            names=RedisNames(),
            retention=Retention(),
            make_name=lambda: "fresh",
        )
        delivered: list[Any] = []
        broker.start(delivered.append)
        for call, args, arguments in self.clock.whenRunningHooks:
            call(*args, **arguments)
        self.answers = dict(usual)
        self.serve()
        broker.follow("a")
        self.serve()
        self.answers |= {name: self.always(answer) for name, answer in answers.items()}
        results: list[Any] = []
        asking: list[Deferred[Any]] = [
            broker.publish("a", "x"),
            broker.publish("a", b"\xff", "key"),
            broker.replay("a", None, 1000),
            broker.replay("a", Id("e", 1), 1000),
            broker.describe("a"),
            broker.names(),
        ]
        for one in asking:
            one.addBoth(results.append)
        self.serve()
        for place, message in enumerate(messages):
            for peer in self.peers[-2:]:
                if peer.transport.connected:
                    peer.send(edited(message, edits) if place else message)
        for seconds in (0, 1, 5, 30, 70):
            self.clock.advance(seconds)
            self.serve()
        broker.unfollow("a")
        broker.stop()
        self.serve()
        # None waits for ever: each has a result, or fails in the one way that is answered.
        self.assertEqual(len(results), len(asking))
        for result in results:
            if isinstance(result, Failure):
                self.assertIsNotNone(result.check(Unavailable), result)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertFalse([peer for peer in self.peers if peer.transport.connected])
        self.assertEqual(self.flushLoggedErrors(), [])

    def always(self, answer: bytes) -> Any:
        """Return what gives an answer to every command."""
        return lambda command: answer
