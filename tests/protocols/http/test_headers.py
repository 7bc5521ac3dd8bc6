"""The head of a request, parsed in one go, and its headers, folded and parsed again."""

from __future__ import annotations

import gc
from collections.abc import Callable
from copy import copy, deepcopy
from pickle import dumps, loads
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers, InvalidHeaderName

from pushd.protocols.http.headers import RequestHeaders, read_whole, split_list
from tests.support.hypothesis_settings import NO_DEADLINE
from tests.support.peer import request


class QuestionTests(SynchronousTestCase):
    """What pushd itself asks of headers."""

    def setUp(self) -> None:
        """Make one header with two values, and one with one."""
        self.headers = RequestHeaders({"host": ["a"], "x-twice": ["b", "c\x80"]})

    def test_values(self) -> None:
        """All values of a header are returned in their order, none for an unknown header."""
        self.assertEqual(self.headers.values(b"X-Twice"), [b"b", b"c\xc2\x80"])
        self.assertEqual(list(self.headers.values(b"Origin")), [])

    def test_last(self) -> None:
        """The last value is decoded as Latin-1; an unknown header gives None."""
        self.assertEqual(self.headers.last(b"X-Twice"), "c\xc2\x80")
        self.assertIsNone(self.headers.last(b"Origin"))

    def test_contains(self) -> None:
        """``in`` says whether there is a header."""
        self.assertIn(b"Host", self.headers)
        self.assertNotIn(b"Origin", self.headers)

    def test_holds(self) -> None:
        """A byte is searched in all values."""
        self.assertTrue(self.headers.holds(b"\x80"))
        self.assertFalse(self.headers.holds(b"\x85"))


NAMES = st.sampled_from(["host", "Cookie", "x-ODD", b"ETag", b"Sec-WebSocket-Key", "www-x"])
VALUES = st.one_of(st.text(max_size=9), st.binary(max_size=9))


class InterfaceTests(SynchronousTestCase):
    """What twisted.web and its resources ask of headers."""

    def test_complete(self) -> None:
        """Every method of ``Headers`` is replaced, as none of its own would find a header."""
        inherited = {"__doc__", "__module__", "__slots__", "_rawHeaders", "__dict__", "__weakref__"}
        compared = {f"__{name}__" for name in ("eq", "ne", "lt", "le", "gt", "ge", "hash")}
        lacking = set(vars(Headers)) - set(vars(RequestHeaders)) - inherited - compared
        self.assertEqual({name for name in lacking if callable(getattr(Headers, name))}, set())

    def test_same(self) -> None:
        """Whatever is asked and changed, headers are as those of twisted.web."""

        @NO_DEADLINE
        @given(
            st.lists(
                st.one_of(
                    st.tuples(st.just("addRawHeader"), NAMES, VALUES),
                    st.tuples(st.just("setRawHeaders"), NAMES, st.lists(VALUES, max_size=2)),
                    st.tuples(st.just("removeHeader"), NAMES),
                    st.tuples(st.just("hasHeader"), NAMES),
                    st.tuples(st.just("getRawHeaders"), NAMES),
                    st.tuples(st.just("getRawHeaders"), NAMES, st.just("default")),
                    st.tuples(st.just("copy")),
                ),
                max_size=9,
            )
        )
        def change(steps: list[tuple[Any, ...]]) -> None:
            ours, theirs = RequestHeaders({"host": ["a"]}), Headers({"host": ["a"]})
            for name, *arguments in steps:
                given_by = [self.call(one, name, arguments) for one in (ours, theirs)]
                self.assertEqual(*given_by)
                self.assertEqual(dict(ours.getAllRawHeaders()), dict(theirs.getAllRawHeaders()))
                self.assertEqual(ours, theirs)
                self.assertEqual(theirs, ours)
                self.assertEqual(repr(ours)[len("Request") :], repr(theirs))

        change()

    def call(self, headers: Headers, name: str, arguments: list[Any]) -> object:
        """Call a method; an undecodable value may be an error, which must be the same."""
        try:
            return getattr(headers, name)(*arguments)
        except UnicodeError as error:
            return type(error)

    def test_unequal(self) -> None:
        """Headers are unequal to other headers, and to anything else."""
        headers = RequestHeaders({"host": ["a"]})
        for other in (RequestHeaders(), Headers({"host": ["b"]}), {"host": ["a"]}):
            self.assertNotEqual(headers, other)

    def test_invalid_name(self) -> None:
        """A name that cannot be a header's is an error."""
        self.assertRaises(InvalidHeaderName, RequestHeaders().getRawHeaders, "a b")


class FoldTests(SynchronousTestCase):
    """Headers that are kept as the bytes that were received."""

    LINES = b"Host: a\r\nX-Odd:  1\r\ncookie: b\r\nCookie: c"

    def test_same(self) -> None:
        """Folded headers give the same answers, and can be folded again."""
        parsed, folded = RequestHeaders.parse(self.LINES), RequestHeaders.parse(self.LINES)
        questions: list[Callable[[RequestHeaders], object]] = [
            lambda headers: headers.raw,
            lambda headers: headers.values(b"Cookie"),
            lambda headers: headers.last(b"Host"),
            lambda headers: headers.holds(b"1"),
            lambda headers: headers.has_host(b"HTTP/1.1"),
            lambda headers: b"X-Odd" in headers,
            lambda headers: headers.hasHeader("cookie"),
            lambda headers: headers.getRawHeaders("x-odd"),
            lambda headers: list(headers.getAllRawHeaders()),
            lambda headers: headers.copy(),
            repr,
        ]
        for ask in questions * 2:
            folded.fold()
            self.assertEqual(ask(folded), ask(parsed))
        folded.fold()
        self.assertEqual(folded, parsed)

    def test_small(self) -> None:
        """While folded, headers hold nothing but the bytes that were received."""
        headers = RequestHeaders.parse(self.LINES)
        self.assertIn(headers.raw, gc.get_referents(headers))
        headers.fold()
        self.assertCountEqual(gc.get_referents(headers), [RequestHeaders, self.LINES, None])

    def test_changed(self) -> None:
        """A change is kept when the headers are folded after it, and before it."""
        changes: list[Callable[[RequestHeaders], object]] = [
            lambda headers: headers.setRawHeaders(b"Host", [b"z"]),
            lambda headers: headers.addRawHeader(b"X-New", b"z"),
            lambda headers: headers.removeHeader(b"Cookie"),
        ]
        for change in changes:
            headers = RequestHeaders.parse(self.LINES)
            headers.fold()
            change(headers)
            changed = dict(headers.raw)
            self.assertNotEqual(changed, RequestHeaders.parse(self.LINES).raw)
            headers.fold()
            self.assertEqual(headers.raw, changed)

    def test_copied(self) -> None:
        """Headers can be copied and pickled, folded or not."""
        for folded in (False, True):
            for make in (copy, deepcopy, lambda one: loads(dumps(one)), RequestHeaders.copy):
                headers = RequestHeaders.parse(self.LINES)
                if folded:
                    headers.fold()
                made = make(headers)
                self.assertEqual((type(made), made.raw), (RequestHeaders, headers.raw))

    def test_made(self) -> None:
        """Headers that were not received as lines cannot be folded and stay as they are."""
        headers = RequestHeaders({"host": ["a"]})
        headers.fold()
        self.assertEqual(headers.raw, {b"Host": [b"a"]})
        self.assertEqual(RequestHeaders().raw, {})


class HeadTests(SynchronousTestCase):
    """A head that arrived in one piece."""

    def read(self, *lines: str) -> dict[bytes, list[bytes]] | None:
        """Return the headers of a GET, or None if it is left to twisted.web."""
        whole = read_whole(request("GET /a?b HTTP/1.1", *lines))
        if whole is None:
            return None
        self.assertEqual((whole.method, whole.target, whole.body), (b"GET", b"/a?b", b""))
        return {name: list(values) for name, values in whole.headers.getAllRawHeaders()}

    def test_spelling(self) -> None:
        """A name in any spelling is kept in the spelling of twisted.web."""
        for name in ("Sec-WebSocket-Key", "sec-websocket-key", "SEC-websocket-KEY"):
            self.assertEqual(self.read(f"{name}: x"), {b"Sec-Websocket-Key": [b"x"]})
        self.assertEqual(self.read("x-odd: 1"), {b"X-Odd": [b"1"]})
        for name in ("dnt", "TE", "www-authenticate", "x-1a-2B", "ETag"):
            theirs = Headers({name: ["1"]})
            self.assertEqual(self.read(f"{name}: 1"), dict(theirs.getAllRawHeaders()))

    def test_repeated(self) -> None:
        """A header that occurs twice has both values, in their order."""
        self.assertEqual(self.read("Cookie: a", "cookie: b"), {b"Cookie": [b"a", b"b"]})

    def test_blanks(self) -> None:
        """Blanks around a value are dropped, those within are kept."""
        self.assertEqual(self.read("Host: \t a  b \t "), {b"Host": [b"a  b"]})
        self.assertEqual(self.read("Host:"), {b"Host": [b""]})

    def test_none(self) -> None:
        """A head may have no headers at all."""
        self.assertEqual(self.read(), {})

    def test_hostile(self) -> None:
        """A long head that does not match is given up at once.

        If the pattern could match blanks in two ways, this test would not end.
        """
        for lines in ("A: x\r\n" * 90, f"A:{' ' * 8000}", "A: \t \t" * 1000, "A" * 8000):
            head = f"GET / HTTP/1.1\r\n{lines}\r".encode()
            self.assertIsNone(read_whole(head))

    def test_unusual(self) -> None:
        """A GET with a body, and anything unusual, is left to twisted.web."""
        for line in (
            "Content-Length: 0",
            "Transfer-Encoding: chunked",
            "expect: 100-continue",
            "Host : a",
            " Host: a",
            "Host a",
            "Host: a\x0bX-User: b",
            "Host: a\x00",
            "Cookie: " + "a" * 8192,
        ):
            self.assertIsNone(self.read(line), line)
        self.assertIsNone(self.read(*["Cookie: a"] * 101))
        for head in (
            b"POST / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET /\x80 HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\nmore",
        ):
            self.assertIsNone(read_whole(head), head)

    def test_post(self) -> None:
        """A POST that arrived with all of its body, and nothing behind it, is read as well."""
        for body in (b"", b"a\r\n\r\nGET / HTTP/1.1\r\n\r\n", b"x" * 50_000):
            head = f"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
            whole = read_whole(head.encode() + body)
            assert whole is not None
            self.assertEqual((whole.method, whole.target, whole.body), (b"POST", b"/a", body))
            self.assertIsNone(read_whole(head.encode() + body + b"x"))
            self.assertIsNone(read_whole((head.encode() + body)[:-1]))

    def test_lengths(self) -> None:
        """A length in any but the plainest form is left to twisted.web."""
        for lines in (
            ["Content-Length: 3", "Content-Length: 3"],
            ["Content-Length: 3, 3"],
            ["Content-Length: +3"],
            ["Content-Length: 0x3"],
            ["Content-Length: 3_0"],
            ["Content-Length: -1"],
            ["Content-Length:"],
            ["Content-Length: 3", "Transfer-Encoding: chunked"],
            ["Content-Length: 3", "Expect: 100-continue"],
            ["Content-Length: 000003"],
            [],
        ):
            head = request("POST /a HTTP/1.1", "Host: a", *lines)
            self.assertIsNone(read_whole(head + b"abc"), lines)
        self.assertIsNotNone(read_whole(request("POST / HTTP/1.1", "Content-Length: 3") + b"abc"))


class ListTests(SynchronousTestCase):
    def test_empty_elements(self) -> None:
        """Empty elements of a list, and blanks around the others, do not count."""
        for values, elements in (
            ([], []),
            ([b""], []),
            ([b", ,\t"], []),
            ([b"a"], [b"a"]),
            ([b"a, , b", b"", b",c d\t"], [b"a", b"b", b"c d"]),
        ):
            self.assertEqual(split_list(values), elements)
