"""The head of a request, read in one go."""

from __future__ import annotations

import gc
from collections.abc import Callable
from copy import copy, deepcopy
from pickle import dumps, loads

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from pushd.protocols.http.headers import RequestHeaders, read_head
from tests.peer import request


class FieldsTests(SynchronousTestCase):
    """Headers that are asked for without ado."""

    def setUp(self) -> None:
        """Have one header twice, and one once."""
        self.fields = RequestHeaders({"host": ["a"], "x-twice": ["b", "c\x80"]})

    def test_values(self) -> None:
        """All values of a header stand in their order; there may be none."""
        self.assertEqual(self.fields.values(b"X-Twice"), [b"b", b"c\xc2\x80"])
        self.assertEqual(list(self.fields.values(b"Origin")), [])

    def test_last(self) -> None:
        """The last value counts where there should be one; its bytes are Latin-1."""
        self.assertEqual(self.fields.last(b"X-Twice"), "c\xc2\x80")
        self.assertIsNone(self.fields.last(b"Origin"))

    def test_contains(self) -> None:
        """A header is there or not."""
        self.assertIn(b"Host", self.fields)
        self.assertNotIn(b"Origin", self.fields)

    def test_holds(self) -> None:
        """A byte is looked for in all values."""
        self.assertTrue(self.fields.holds(b"\x80"))
        self.assertFalse(self.fields.holds(b"\x85"))


class FoldTests(SynchronousTestCase):
    """Headers that are kept as they came."""

    LINES = b"Host: a\r\nX-Odd:  1\r\ncookie: b\r\nCookie: c"

    def read(self) -> RequestHeaders:
        """Read some lines."""
        fields = RequestHeaders.of(self.LINES)
        assert fields is not None
        return fields

    def test_same(self) -> None:
        """They say the same as before, whoever asks in whichever way."""
        whole, folded = self.read(), self.read()
        for _ in range(2):
            folded.fold()
            self.assertEqual(folded.raw, whole.raw)
            folded.fold()
            self.assertEqual(folded.values(b"Cookie"), [b"b", b"c"])
            folded.fold()
            self.assertEqual(folded.last(b"Host"), "a")
            folded.fold()
            self.assertIn(b"X-Odd", folded)
            folded.fold()
            self.assertEqual(folded.getRawHeaders("x-odd"), ["1"])
            folded.fold()
            self.assertEqual(list(folded.getAllRawHeaders()), list(whole.getAllRawHeaders()))

    def test_small(self) -> None:
        """Meanwhile only the lines are here."""
        fields = self.read()
        self.assertIn(fields.raw, gc.get_referents(fields))
        fields.fold()
        self.assertCountEqual(gc.get_referents(fields), [RequestHeaders, self.LINES, None])

    def test_changed(self) -> None:
        """What was changed since they came is not lost by it."""
        changes: list[Callable[[RequestHeaders], object]] = [
            lambda fields: fields.setRawHeaders(b"Host", [b"z"]),
            lambda fields: fields.addRawHeader(b"X-New", b"z"),
            lambda fields: fields.removeHeader(b"Cookie"),
        ]
        for change in changes:
            fields = self.read()
            fields.fold()
            change(fields)
            changed = dict(fields.raw)
            self.assertNotEqual(changed, self.read().raw)
            fields.fold()
            self.assertEqual(fields.raw, changed)

    def test_copied(self) -> None:
        """They can be copied, in whichever way, folded or not."""
        for fields in (self.read(), self.read()):
            for made in (copy(fields), deepcopy(fields), loads(dumps(fields)), fields.copy()):
                self.assertEqual(dict(made.getAllRawHeaders()), fields.raw)
            fields.fold()

    def test_given(self) -> None:
        """Those that did not come as lines stay as they are."""
        fields = RequestHeaders({"host": ["a"]})
        fields.fold()
        self.assertEqual(fields.raw, {b"Host": [b"a"]})
        self.assertEqual(RequestHeaders().raw, {})


class HeadTests(SynchronousTestCase):
    """A head that is here in one piece."""

    def read(self, *lines: str) -> dict[bytes, list[bytes]] | None:
        """The headers of a GET, or None for one that is twisted.web's to read."""
        head = read_head(request("GET /a?b HTTP/1.1", *lines))
        if head is None:
            return None
        self.assertEqual(head[0], b"/a?b")
        return {name: list(values) for name, values in head[1].getAllRawHeaders()}

    def test_spelling(self) -> None:
        """However a name is spelt, it is kept as twisted.web keeps it."""
        for name in ("Sec-WebSocket-Key", "sec-websocket-key", "SEC-websocket-KEY"):
            self.assertEqual(self.read(f"{name}: x"), {b"Sec-Websocket-Key": [b"x"]})
        self.assertEqual(self.read("x-odd: 1"), {b"X-Odd": [b"1"]})
        for name in ("dnt", "TE", "www-authenticate", "x-1a-2B", "ETag"):
            theirs = Headers({name: ["1"]})
            self.assertEqual(self.read(f"{name}: 1"), dict(theirs.getAllRawHeaders()))

    def test_repeated(self) -> None:
        """A header that is there twice has both values, in their order."""
        self.assertEqual(self.read("Cookie: a", "cookie: b"), {b"Cookie": [b"a", b"b"]})

    def test_blanks(self) -> None:
        """Blanks around a value are not of it; those within are."""
        self.assertEqual(self.read("Host: \t a  b \t "), {b"Host": [b"a  b"]})
        self.assertEqual(self.read("Host:"), {b"Host": [b""]})

    def test_none(self) -> None:
        """There may be no headers at all."""
        self.assertEqual(self.read(), {})

    def test_hostile(self) -> None:
        """What does not match in the end is found not to, at once, however long it is.

        Were blanks tried in two places, this would not come to its end.
        """
        for lines in ("A: x\r\n" * 90, f"A:{' ' * 8000}", "A: \t \t" * 1000, "A" * 8000):
            head = f"GET / HTTP/1.1\r\n{lines}\r".encode()
            self.assertIsNone(read_head(head))

    def test_left_to_others(self) -> None:
        """What has a body, or is odd in any way, is not read here."""
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
            self.assertIsNone(read_head(head), head)
