"""A message that is assembled from fragments."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.protocols.websocket.fragments import FragmentedMessage


class FragmentedMessageTests(SynchronousTestCase):
    def test_payload(self) -> None:
        """What has been received is that of all fragments."""
        message = FragmentedMessage()
        self.assertEqual(message.received, b"")
        for piece in (b"a", b"", b"bc"):
            message.append(piece)
        self.assertEqual(message.received, b"abc")

    def test_tiny_fragments(self) -> None:
        """256 fragments may be of any size; more must have 32 bytes on average."""
        message = FragmentedMessage()
        self.assertTrue(all(message.add_fragment(0) for _ in range(256)))
        self.assertFalse(message.add_fragment(257 * 32 - 1))
        self.assertTrue(message.add_fragment(258 * 32))

    def test_cost(self) -> None:
        """Each 32 fragments and each 64 KiB count as one message more; the latter up to a limit."""
        message = FragmentedMessage()
        self.assertEqual(message.cost(0, limit=9), 1)
        for _ in range(64):
            message.add_fragment(0)
        self.assertEqual(message.cost(0, limit=9), 3)
        size = 5 << 16
        self.assertEqual((message.cost(size, limit=9), message.cost(size, limit=2)), (8, 5))
