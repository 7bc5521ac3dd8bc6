"""Traffic: counted on each connection, summed up over all."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from pushd.access.counters import Traffic, TrafficTotals


def numbers(traffic: Traffic) -> tuple[int, int, int, int]:
    """Give what was counted: in, then out."""
    return traffic.messages_in, traffic.bytes_in, traffic.messages_out, traffic.bytes_out


class LedgerTests(SynchronousTestCase):
    def setUp(self) -> None:
        """Open two connections over which something went."""
        self.totals = TrafficTotals()
        self.first, self.second = Traffic(), Traffic()
        self.first.messages_in, self.first.bytes_in = 1, 10
        self.second.messages_out, self.second.bytes_out = 2, 20
        for traffic in (self.first, self.second):
            self.totals.add("websocket", traffic)

    def test_nothing(self) -> None:
        """A transport that nobody uses has no traffic."""
        self.assertEqual(
            (self.totals.count("sse"), numbers(self.totals.total("sse"))), (0, (0,) * 4)
        )

    def test_total(self) -> None:
        """The total is that of all connections, and grows with them."""
        self.assertEqual(numbers(self.totals.total("websocket")), (1, 10, 2, 20))
        self.first.messages_in += 1
        self.first.bytes_in += 5
        self.assertEqual(numbers(self.totals.total("websocket")), (2, 15, 2, 20))

    def test_ended(self) -> None:
        """What a connection counted stays after its end, once however often it ends."""
        for _ in range(2):
            self.totals.remove("websocket", self.first)
            self.assertEqual(numbers(self.totals.total("websocket")), (1, 10, 2, 20))
            self.assertEqual(self.totals.count("websocket"), 1)
        self.totals.remove("websocket", self.second)
        self.assertEqual(numbers(self.totals.total("websocket")), (1, 10, 2, 20))
        self.assertEqual(self.totals.count("websocket"), 0)

    def test_stranger(self) -> None:
        """What was never opened counts for nothing."""
        self.totals.remove("sse", self.first)
        self.assertEqual(numbers(self.totals.total("sse")), (0, 0, 0, 0))
