"""The length of a response's body."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.gateways.body_length import BodyLength


class BodyLengthTests(SynchronousTestCase):
    """BodyLength; the tests of WSGI and ASGI have what becomes of a wrong one."""

    def test_unknown(self) -> None:
        """Without a Content-Length, a body of any length is right."""
        length = BodyLength(None)
        self.assertEqual(length.take(b"abc"), b"abc")
        length.check(ended=True)

    def test_right(self) -> None:
        """A body of the length is right, and too short before that."""
        length = BodyLength(3)
        self.assertEqual(length.take(b"ab"), b"ab")
        length.check()
        with self.assertRaisesRegex(ValueError, "Content-Length is 3, but the body has 2 bytes"):
            length.check(ended=True)
        self.assertEqual(length.take(b"c"), b"c")
        length.check(ended=True)

    def test_too_long(self) -> None:
        """No more than the length may be sent."""
        length = BodyLength(1)
        self.assertEqual((length.take(b"ab"), length.take(b"c")), (b"a", b""))
        with self.assertRaisesRegex(ValueError, "has 3 bytes"):
            length.check()
