"""Status and headers of an ASGI application."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.gateways.asgi.headers import check_headers, check_status, read_length


class HeaderTests(SynchronousTestCase):
    """What may be sent; tests/gateways/asgi/test_http.py has what may not."""

    def test_status(self) -> None:
        """A status is a number from 200 to 599, as an enum of http's is."""
        self.assertEqual(check_status(404), 404)

    def test_names(self) -> None:
        """A name is a token (RFC 9110 §5.1); nothing else can be sent."""
        for one in ' \0()<>@,;:[]{}="\\\t\x7f\xb5':
            with self.assertRaisesRegex(ValueError, "is not a header name"):
                check_headers([(f"bad{one}header".encode("latin-1"), b"value")])
        self.assertEqual(check_headers([(b"X-1_a.b", b"value")]), [(b"X-1_a.b", b"value")])

    def test_kept(self) -> None:
        """Headers keep order, case and repetitions; blanks around their values are dropped."""
        headers = [(b"B", b" 1 "), (b"a", b"2"), [b"B", b"3"]]
        self.assertEqual(check_headers(headers), [(b"B", b"1"), (b"a", b"2"), (b"B", b"3")])

    def test_server(self) -> None:
        """Headers about the connection are left out, and those that are named."""
        headers = [(b"Connection", b"close"), (b"Date", b"x"), (b"A", b"b")]
        self.assertEqual(check_headers(headers, frozenset({b"a"})), [(b"Date", b"x")])

    def test_length(self) -> None:
        """The Content-Length is a number, or absent; two are one too many."""
        self.assertIsNone(read_length([(b"a", b"b")]))
        self.assertEqual(read_length([(b"content-length", b"12")]), 12)
        with self.assertRaisesRegex(ValueError, "one number"):
            read_length([(b"Content-Length", b"1"), (b"content-length", b"1")])
