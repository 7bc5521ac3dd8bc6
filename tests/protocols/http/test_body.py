"""The body of a request that is answered while it arrives."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.http.body import BodyStream


class BodyStreamTests(SynchronousTestCase):
    """BodyStream; tests/gateways/asgi/test_http.py has it on a connection."""

    def setUp(self) -> None:
        """Make one that records what it does to the connection."""
        self.calls: list[str] = []
        self.body = BodyStream(
            lambda: self.calls.append("pause"), lambda: self.calls.append("resume")
        )

    def test_parts(self) -> None:
        """What has arrived is taken at once, in order; more may follow until the end."""
        self.assertFalse(self.body.has_news)
        self.body.put(b"a")
        self.body.put(b"b")
        self.assertTrue(self.body.has_news)
        self.assertEqual(self.body.take(), (b"ab", True))
        self.assertFalse(self.body.has_news)
        self.body.end()
        self.assertEqual(self.body.take(), (b"", False))
        self.assertEqual((self.body.arrived, self.body.kept), (2, 0))

    def test_full(self) -> None:
        """From 64 KiB on, reading pauses; it goes on when all is taken."""
        self.body.put(bytes((1 << 16) - 1))
        self.assertEqual(self.calls, [])
        self.body.put(b"a")
        self.body.put(b"b")
        self.assertEqual((self.calls, self.body.full), (["pause"], True))
        self.body.take()
        self.assertEqual((self.calls, self.body.full), (["pause", "resume"], False))

    def test_news(self) -> None:
        """What waits is told once, of a part or of the end."""
        self.body.on_news(lambda: self.calls.append("news"))
        self.body.put(b"a")
        self.body.put(b"b")
        self.body.on_news(lambda: self.calls.append("end"))
        self.body.end()
        self.assertEqual(self.calls, ["news", "end"])

    def test_clear(self) -> None:
        """What was not taken can be dropped."""
        self.body.put(bytes(1 << 16))
        self.body.clear()
        self.assertEqual((self.body.kept, self.body.full), (0, False))
